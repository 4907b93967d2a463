"""Saved training sets: how they are made and kept under a name."""

from __future__ import annotations

import inspect
import platform
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model.fingerprint import ENCODING, ENGINE_EPOCH, meaning_of
from tidemark.model.graph import Definitions, Output, Reference, Source
from tidemark.model.records import DatasetRecord
from tidemark.model.window import clock, format_moment, parse_moment
from tidemark.registry import Registry, Snapshot, whoami
from tidemark.store.project import Project

if TYPE_CHECKING:
    from tidemark.engines.dataset import Manifest, Pin
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.inventory import SourceState
    from tidemark.engines.result import TrainingSet
    from tidemark.engines.splits import SplitPlan

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LIBRARIES = ("tidemark", "duckdb", "pyarrow", "numpy", "numba")


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

        return tuple(Pin(str(each), meaning_of(self.definitions, each)) for each in self.references)


class Saving:
    """A training set that is to be kept under a name, which is refused before anything is read."""

    def __init__(
        self,
        registry: Registry,
        project: Project,
        name: str,
        split: Mapping[str, Any] | None,
    ) -> None:
        self._registry, self._project, self._name = registry, project, name
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
        inventory.pin(engine, recipe.sources)  # what is pushed meanwhile does not count
        before = [inventory.glance(engine, source) for source in recipe.sources]
        training = recipe.make(engine, labels)
        sources = tuple(inventory.examine(engine, source) for source in recipe.sources)
        after = [inventory.glance(engine, source) for source in recipe.sources]
        inventory.refuse_moved(before, after)
        manifest = self._manifest(snapshot, recipe, training, sources)
        saved = dataset.write(manifest, training.table, self._project.datasets)
        root = self._project.config.root.resolve()
        inside = saved.folder.is_relative_to(root)
        path = saved.folder.relative_to(root) if inside else saved.folder
        self._registry.register_dataset(
            DatasetRecord(
                name=self._name,
                path=str(path),
                revision=saved.revision,
                pins=tuple(str(output.reference) for output in saved.manifest.outputs),
                content_hash=saved.content_hash,
                label_hash=saved.label_hash,
                rows=len(saved),
                created=parse_moment(saved.manifest.created),
                owner=saved.manifest.owner,
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
            created=format_moment(clock()),
            author=whoami(),
            owner=whoami(),
            revision=snapshot.revision,
            registry=snapshot.digest,
            epoch=ENGINE_EPOCH,
            versions=versions(),
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


def versions() -> dict[str, str]:
    """The versions of all that computes, and of the encoding of fingerprints."""
    from importlib.metadata import version

    found = {library: version(library) for library in _LIBRARIES}
    return found | {"python": platform.python_version(), "fingerprints": str(ENCODING)}
