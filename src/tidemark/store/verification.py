"""Saved training sets made again: the same rows, or the inputs that changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from tidemark.errors import TidemarkError
from tidemark.model.fingerprint import ENCODING, ENGINE_EPOCH
from tidemark.registry import Registry
from tidemark.store.datasets import Recipe, versions
from tidemark.store.project import Project

if TYPE_CHECKING:
    from tidemark.engines.dataset import Manifest
    from tidemark.engines.duckdb import DuckDB
    from tidemark.store.registry import ProjectRegistry


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


def verify(engine: DuckDB, registry: ProjectRegistry, project: Project, name: str) -> Verification:
    """Make a dataset again as it was defined, from the sources as they are now.

    Raises `NotFound` if there is none of that name, `EngineError` if its files are damaged.
    """
    from tidemark.engines import dataset as datasets, inventory

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
        inventory.pin_as(engine, manifest.sources)
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
    for library, now in versions().items():
        was = manifest.versions.get(library, now)
        if was != now:
            yield f"{library} was {was} and is {now}"
