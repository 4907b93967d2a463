"""Saved training sets: how they are made, kept under a name, and made again to be compared."""

from __future__ import annotations

import ast
import inspect
import platform
import re
import textwrap
import time as clock
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidemark.errors import NotFound, PlanConflict, RequestInvalid, TidemarkError
from tidemark.model.fingerprint import (
    ENCODING,
    ENGINE_EPOCH,
    meaning,
    on_demand_fingerprints,
)
from tidemark.model.graph import Definitions, Output, Reference, Source
from tidemark.model.records import DatasetRecord
from tidemark.model.window import format_moment
from tidemark.registry import Registry, Snapshot, whoami
from tidemark.store.project import Project

if TYPE_CHECKING:
    from tidemark.engines.dataset import Dataset, Manifest, Pin
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.inventory import SourceState
    from tidemark.engines.result import TrainingSet
    from tidemark.engines.splits import SplitPlan

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LIBRARIES = ("tidemark", "duckdb", "pyarrow", "numpy", "numba")


class ProjectRegistry(Registry):
    """The registry of a project, whose datasets lie in its folder."""

    def __init__(self, url: str, root: Path, administrators: Collection[str] = ()) -> None:
        super().__init__(url, administrators=administrators)
        self._root = root

    def datasets(self, *, as_of: int | str | datetime | None = None) -> list[Dataset]:
        """The datasets that are kept, in the order of their names."""
        return [self._read(record) for record in self.snapshot(as_of).datasets]

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name; raises `NotFound`."""
        return self._read(self.snapshot().records.dataset(name))

    def _read(self, record: DatasetRecord) -> Dataset:
        from tidemark.engines.dataset import read

        return read(record.name, self._root / record.path)


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What came of making a dataset again.

    It is `reproduced` if the rows have the recorded `content_hash`.  `changed` says which inputs
    are not what they were, whether that altered a value or not; `differing` in how many rows each
    column differs.  `error` says why it could not be made at all.
    """

    name: str
    reproduced: bool
    rows: int
    content_hash: str
    rebuilt_hash: str = ""
    changed: tuple[str, ...] = ()
    differing: dict[str, int] = {}
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts

    def __str__(self) -> str:
        if self.reproduced:
            lines = [f"{self.name} is reproduced: {self.rows:,} rows, content {self.content_hash}"]
            lines += [f"  without effect: {line}" for line in self.changed]
            return "\n".join(lines)
        lines = [f"{self.name} is not reproduced."]
        lines += [f"  {line}" for line in self.changed]
        lines += [
            f"  {name} differs in {count:,} of {self.rows:,} rows"
            for name, count in self.differing.items()
        ]
        if self.error:
            lines += [f"  It cannot be made again: {self.error}".replace("\n", "\n  ")]
        elif not self.changed:
            lines.append("  Nothing that was recorded changed.")
        return "\n".join(lines)


class Recipe(msgspec.Struct, frozen=True):
    """What a training set is made of beside its labels."""

    definitions: Definitions
    functions: Mapping[str, Callable[..., Any]]
    outputs: tuple[Output, ...]
    time: str | None
    timezone: str | None
    hindsight: bool

    def make(self, engine: DuckDB, labels: object) -> TrainingSet:
        """The training set for these labels."""
        from tidemark.engines.training import training_set

        return training_set(
            engine,
            self.definitions,
            self.functions,
            self.outputs,
            labels,
            time=self.time,
            timezone=self.timezone,
            hindsight=self.hindsight,
        )

    @property
    def references(self) -> tuple[Reference, ...]:
        """Every feature that values come from."""
        needed = self.definitions.needed(output.reference for output in self.outputs)
        return tuple(each for each in needed if each.kind != "request")

    @property
    def sources(self) -> list[Source]:
        """The sources that are read, in the order of their names."""
        features = [each for each in self.references if each.kind == "feature"]
        names = {self.definitions.locate(each)[0].source for each in features}
        return [self.definitions.source(name) for name in sorted(names)]

    def pins(self) -> tuple[Pin, ...]:
        """What each feature means."""
        from tidemark.engines.dataset import Pin

        found: list[Pin] = []
        for each in self.references:
            if each.kind == "feature":
                view, feature = self.definitions.locate(each)
                means = meaning(view, feature, self.definitions.source(view.source))
                found.append(Pin(str(each), means))
            else:
                item = self.definitions.on_demand_feature(each.name, each.version)
                code = _code(self.functions[str(each)])
                found.append(Pin(str(each), on_demand_fingerprints(item).meaning, code))
        return tuple(found)


class Saving:
    """A training set that is to be kept under a name, which is refused before anything is read."""

    def __init__(
        self,
        registry: Registry,
        root: Path,
        home: Path,
        name: str,
        split: Mapping[str, Any] | None,
    ) -> None:
        self._registry, self._root, self._home, self._name = registry, root, home, name
        self._split = None if split is None else _planned(split)
        if not _NAME.fullmatch(name):
            raise RequestInvalid(
                f"{name!r} cannot be the name of a dataset.",
                remedy="Use letters, digits, dots, hyphens and underscores, such as fraud-2026-11.",
            )
        if any(each.name == name for each in registry.snapshot().datasets):
            raise PlanConflict(
                f"There is a dataset {name!r}.",
                remedy="Datasets never change: choose another name, "
                f"or read it, store.registry.dataset({name!r}).",
            )

    def make(
        self, engine: DuckDB, snapshot: Snapshot, recipe: Recipe, labels: object
    ) -> TrainingSet:
        """Make the training set, write it with its manifest, and enter it into the registry.

        Raises `StaleSource` if a source changed meanwhile, `PlanConflict` if a feature is not
        applied or the name was taken meanwhile.
        """
        from tidemark.engines import dataset, inventory

        _refuse_unapplied(snapshot.definitions, recipe.references)
        before = [inventory.glance(engine, source) for source in recipe.sources]
        training = recipe.make(engine, labels)
        sources = tuple(inventory.examine(engine, source) for source in recipe.sources)
        after = [inventory.glance(engine, source) for source in recipe.sources]
        inventory.refuse_moved(before, after)
        manifest = self._manifest(snapshot, recipe, training, sources)
        saved = dataset.write(manifest, training.table, self._home)
        root = self._root.resolve()
        inside = saved.folder.is_relative_to(root)
        path = saved.folder.relative_to(root) if inside else saved.folder
        self._registry.register_dataset(
            DatasetRecord(
                name=self._name,
                path=str(path),
                revision=snapshot.revision,
                pins=tuple(str(output.reference) for output in recipe.outputs),
                content_hash=saved.content_hash,
                label_hash=saved.label_hash,
                rows=len(saved),
                created=clock.time_ns() // 1_000,
                owner=manifest.owner,
            )
        )
        return training

    def _manifest(
        self,
        snapshot: Snapshot,
        recipe: Recipe,
        training: TrainingSet,
        sources: tuple[SourceState, ...],
    ) -> Manifest:
        from tidemark.engines.dataset import Manifest, content_hash, contents
        from tidemark.engines.result import split_rows

        columns = contents(training.table)
        # A request's value that the labels hold under its own name is a column of theirs.
        added = {
            output.name
            for output in recipe.outputs
            if output.reference.kind != "request" or output.reference.name != output.name
        }
        labels = tuple(each.name for each in columns if each.name not in added)
        parts: dict[str, int] = {}
        if self._split is not None:
            parts = dict(split_rows(training.table, training.spine, self._split).report.rows)
        return Manifest(
            name=self._name,
            created=format_moment(clock.time_ns() // 1_000),
            author=whoami(),
            owner=whoami(),
            revision=snapshot.revision,
            registry=snapshot.digest,
            epoch=ENGINE_EPOCH,
            versions=_versions(),
            outputs=recipe.outputs,
            pins=recipe.pins(),
            sources=sources,
            time=training.spine.time,
            timezone=training.spine.timezone,
            hindsight=recipe.hindsight,
            entities=dict(training.spine.entities),
            labels=labels,
            rows=len(training),
            content_hash=content_hash(columns),
            label_hash=content_hash(tuple(each for each in columns if each.name in set(labels))),
            columns=columns,
            split=self._split,
            parts=parts,
        )


def verify(engine: DuckDB, registry: ProjectRegistry, project: Project, name: str) -> Verification:
    """Make a dataset again as it was defined, from the sources as they are now.

    Raises `NotFound` if there is none of that name, `EngineError` if its files are damaged.
    """
    from tidemark.engines import dataset as datasets

    record = registry.snapshot().records.dataset(name)
    saved = registry.dataset(name)
    manifest = saved.manifest
    changed = [
        f"the stored column {column} is not what was saved" for column in datasets.damage(saved)
    ]
    if record.content_hash != manifest.content_hash:
        changed.append("the manifest is not the one that was saved")
    found = Verification(
        name=name, reproduced=False, rows=len(saved), content_hash=record.content_hash
    )
    if changed:
        return msgspec.structs.replace(found, changed=tuple(changed))
    try:
        recipe = _recipe(registry, project, manifest)
        changed += _redefined(recipe, manifest)
        changed += _moved(engine, recipe, manifest)
        table = recipe.make(engine, saved.labels()).to_arrow()
    except TidemarkError as error:
        return msgspec.structs.replace(found, changed=tuple(changed), error=str(error))
    rebuilt = datasets.content_hash(datasets.contents(table))
    reproduced = rebuilt == record.content_hash
    if not reproduced:
        changed += _other_versions(manifest)
    return msgspec.structs.replace(
        found,
        reproduced=reproduced,
        rebuilt_hash=rebuilt,
        changed=tuple(changed),
        differing=dict(datasets.differences(saved, table)),
    )


def _recipe(registry: Registry, project: Project, manifest: Manifest) -> Recipe:
    definitions = registry.snapshot(as_of=manifest.revision).definitions
    return Recipe(
        definitions,
        project.functions(definitions, manifest.outputs),
        manifest.outputs,
        manifest.time,
        manifest.timezone,
        manifest.hindsight,
    )


def _redefined(recipe: Recipe, manifest: Manifest) -> Iterable[str]:
    """Which meanings are not those that were recorded."""
    if manifest.epoch != ENGINE_EPOCH:
        yield f"the engine epoch was {manifest.epoch} and is {ENGINE_EPOCH}"
    elif manifest.versions.get("fingerprints") == str(ENCODING):
        now = {pin.reference: pin for pin in recipe.pins()}
        for pin in manifest.pins:
            there = now.get(pin.reference)
            if there is None or there.meaning != pin.meaning:
                yield (
                    f"the definition of {pin.reference} at revision {manifest.revision} is not "
                    "the one that was recorded"
                )
            elif there.code != pin.code:
                yield f"the function of {pin.reference} changed"


def _moved(engine: DuckDB, recipe: Recipe, manifest: Manifest) -> Iterable[str]:
    """Which sources are not in the state that was recorded."""
    from tidemark.engines import inventory

    recorded = {state.source: state for state in manifest.sources}
    for source in recipe.sources:
        try:
            state = inventory.examine(engine, source)
        except TidemarkError as error:
            yield f"source {source.name}: {error.what}"
            continue
        for line in inventory.changes(recorded[source.name], state):
            yield f"source {source.name}: {line}"


def _other_versions(manifest: Manifest) -> Iterable[str]:
    for library, now in _versions().items():
        was = manifest.versions.get(library, now)
        if was != now:
            yield f"{library} was {was} and is {now}"


def _refuse_unapplied(applied: Definitions, references: Collection[Reference]) -> None:
    missing: list[str] = []
    for reference in references:
        try:
            applied.type_of(reference)
        except NotFound:
            missing.append(str(reference))
    if missing:
        raise PlanConflict(
            "A dataset can be made again only from what is applied.",
            where=f"not applied: {', '.join(missing)}",
            remedy="Apply it first: store.apply(store.plan(...)).",
        )


def _planned(split: Mapping[str, Any]) -> SplitPlan:
    from tidemark.engines.splits import SplitPlan

    known: Sequence[str] = [*inspect.signature(SplitPlan.of).parameters]
    for name in split:
        if name not in known:
            raise NotFound.named("argument of split", name, known)
    return SplitPlan.of(**split)


def _versions() -> dict[str, str]:
    found = {library: version(library) for library in _LIBRARIES}
    return found | {"python": platform.python_version(), "fingerprints": str(ENCODING)}


def _code(function: Callable[..., Any]) -> str:
    """The hash of what a function does: neither its comments nor its layout count."""
    from tidemark.engines.content import digest

    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return digest([ast.dump(tree)])[:32]
