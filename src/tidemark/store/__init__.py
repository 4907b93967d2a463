"""`connect` and `Store`: the only place where configuration becomes objects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from tidemark.errors import RequestInvalid
from tidemark.online.coverage import unserved
from tidemark.online.protocol import open_store
from tidemark.registry import Applied, Backfill, Plan, Snapshot
from tidemark.store import describe as _describe, reading
from tidemark.store.config import Config, read_config
from tidemark.store.datasets import ProjectRegistry, Recipe, Saving
from tidemark.store.project import Project, identity, listed, name_of
from tidemark.store.verification import Verification, verify

if TYPE_CHECKING:
    from tidemark.apps.http import Limits
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.result import TrainingSet
    from tidemark.ingest.materialize import Materialized
    from tidemark.monitor.agreement import ValueTwin
    from tidemark.serve import Reader, Vector, Vectors

__all__ = ["Config", "Store", "connect"]

REFRESH_SECONDS = 1.0
"""How long a read may go on with a revision after another process has applied the next one."""

READERS = 256
"""Prepared reads that are kept; more than any application names."""


def connect(path: str | Path | None = None) -> Store:
    """Open a project.

    `path` is its directory; None is the nearest `tidemark.toml` from here upward; `":memory:"` is a
    project without files that ends with the store.  Raises `NotFound` if there is no project.
    """
    return Store(read_config(path))


class Store:
    """A project: its registry, its history and its online state.

    Use it as a context or close it.  Methods may be called from several threads.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.registry = ProjectRegistry(config)
        self._project = Project(config)
        self._online = open_store(config.online, config.root)
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._read_at = float("-inf")
        self._writes = 0
        self._readers: dict[object, Reader] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._closed = False

    def plan(self, definitions: object = None, *, restated: Sequence[object] = ()) -> Plan:
        """What applying the definitions would change in the registry.

        None stands for those that `tidemark.toml` names; otherwise a module, objects, or
        `tm.load(...)`.  `restated` are sources whose history was rewritten as it is.  Raises
        `DefinitionError` with every problem found.
        """
        self._check_open()
        lowered = self._project.lower(definitions)
        sources = [name_of(each) for each in restated]
        return self._told(self.registry.plan(lowered.definitions, restated=sources))

    def revert(self, as_of: int | str | datetime) -> Plan:
        """A plan that says again what was said as of a revision or a moment."""
        self._check_open()
        return self._told(self.registry.revert(as_of))

    def apply(
        self,
        plan: Plan,
        *,
        reason: str = "",
        allow_duplicates: Collection[str] = (),
        draft: bool = False,
    ) -> Applied:
        """Put the plan's definitions in force; raises `PlanConflict` if it is stale or refused.

        `allow_duplicates` names features that may mean the same as another one; `reason` says why.
        With `draft`, the features that are added may still change, until they are published.
        """
        self._check_open()
        if not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestInvalid(
                f"{plan!r} is not a plan.", remedy="Plan first: store.apply(store.plan())."
            )
        applied = self.registry.apply(
            plan, reason=reason, allow_duplicates=allow_duplicates, draft=draft
        )
        self._read_at = float("-inf")
        return applied

    def training_set(
        self,
        features: object,
        labels: object,
        *,
        time: str | None = None,
        timezone: str | None = None,
        hindsight: bool = False,
        full_names: bool = False,
        save_as: str | None = None,
        split: Mapping[str, Any] | None = None,
    ) -> TrainingSet:
        """Join each label row with the features as they stood at its time.

        `labels` is any Arrow-capable frame with the entities' keys and a time; `time` names the
        column where there are several, `timezone` the zone of one that carries none.  `hindsight`
        ignores when events became known.  Columns are those of the labels, unchanged and in their
        order, then the features; exactly one row out for each row in.

        `save_as` keeps the rows and what they were made from under a name, for
        `store.registry.dataset(name)`; `split`, arguments of `TrainingSet.split`, goes with them.
        """
        saving: Saving | None = None
        if save_as is not None:
            saving = Saving(self.registry, self.config.root, self._datasets(), save_as, split)
        elif split is not None:
            raise RequestInvalid(
                "A split is kept with a dataset, and none is saved.",
                remedy="Name it, save_as=..., or split what is returned: training.split(...).",
            )
        snapshot = self._applied()
        features = reading.named(features, snapshot.records)
        definitions = self._project.beside(snapshot.definitions, features)
        outputs = reading.outputs(features, definitions, snapshot.records, full_names=full_names)
        functions = self._project.functions(definitions, outputs)
        recipe = Recipe(definitions, functions, outputs, time, timezone, hindsight)
        with self._engine() as engine:
            if saving is not None:
                return saving.make(engine, snapshot, recipe, labels)
            return recipe.make(engine, labels)

    def verify_dataset(self, name: str) -> Verification:
        """Make a saved training set again, as it was defined, from the sources as they are now.

        It has the same content, or the inputs that changed are named, with what they altered.
        """
        with self._engine() as engine:
            return verify(engine, self.registry, self._project, name)

    def materialize(
        self, views: object = None, *, until: str | datetime | None = None
    ) -> Materialized:
        """Write the online state of the views (None: all) from history, known by `until` or now.

        `views` is one view or a list, as classes or names.
        """
        from tidemark.ingest.materialize import materialize

        with self._engine() as engine:
            return materialize(
                engine,
                self._online,
                self._applied().definitions,
                project=self.config.namespace,
                views=None if views is None else [name_of(view) for view in listed(views)],
                until=until,
                retain=self.config.retain or None,
            )

    def online(
        self,
        features: object,
        keys: Mapping[str, object],
        *,
        request: Mapping[str, object] | None = None,
        at: str | datetime | None = None,
    ) -> Vector:
        """The features of one entity at a moment, or now.

        A moment older than the state retains is a `StaleSource` error, never a guess.
        """
        return self.reader(features).online(keys, request=request, at=at)

    def online_many(
        self,
        features: object,
        keys: object,
        *,
        request: object = None,
        at: str | datetime | None = None,
    ) -> Vectors:
        """The features of many entities at one moment, in the order of the keys."""
        return self.reader(features).online_many(keys, request=request, at=at)

    def reader(self, features: object) -> Reader:
        """What reads vectors of these features; made once for each revision.

        For servers; `online` and `online_many` are its two questions.
        """
        snapshot = self._applied()
        key = identity(features)
        reader = self._readers.get(key)
        if reader is None:
            from tidemark.serve import Reader

            definitions = snapshot.definitions
            features = reading.named(features, snapshot.records)
            self._project.beside(definitions, features)  # refuses what means something else
            outputs = reading.outputs(features, definitions, snapshot.records)
            functions = self._project.functions(definitions, outputs)
            if len(self._readers) >= READERS:
                self._readers = {}
            reader = self._readers[key] = Reader(
                self._online, definitions, functions, outputs, project=self.config.namespace
            )
        return reader

    def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 6566,
        workers: int = 1,
        limits: Limits | None = None,
        started: Callable[[str], object] | None = None,
    ) -> None:
        """Answer over HTTP until the process is told to stop; needs the extra `server`.

        `port` 0 is any that is free; `started` is called with the address when it is bound.  Every
        worker is a process with a store of its own, so a store in memory has one.  Raises
        `RequestInvalid` for an address that other machines reach, or that is taken.
        """
        from tidemark.apps import http

        http.serve(self, host=host, port=port, workers=workers, limits=limits, started=started)

    def describe(
        self, ref: object = None, *, as_of: int | str | datetime | None = None
    ) -> _describe.Description:
        """What is in force, or was as of a revision or a moment.

        Everything, or one definition by its object or name; `model:fraud@3` is a model.
        """
        self._check_open()
        snapshot = self._applied() if as_of is None else self.registry.snapshot(as_of)
        if ref is None:
            return _describe.overview(snapshot, self.config.name)
        definitions = self._project.beside(snapshot.definitions, ref)
        return _describe.describe(definitions, name_of(ref), snapshot.records)

    def value_twins(self, *, entities: int = 200, least: float = 0.95) -> tuple[ValueTwin, ...]:
        """Features of different views that give the same values, whatever their definitions say.

        Computed for up to `entities` entities of each kind, the same ones at every call, at three
        moments; pairs that agree on at least `least` of the rows are told.
        """
        from tidemark.monitor.agreement import value_twins

        with self._engine() as engine:
            return value_twins(engine, self._applied().definitions, entities=entities, least=least)

    def close(self) -> None:
        """Close the registry and the online store; closing twice is fine."""
        self._closed = True
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self.registry.close()
        self._online.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Tidemark store {self.config.name or self.config.root}>"

    def _check_open(self) -> None:
        if self._closed:
            raise RequestInvalid(
                "The store is closed.", remedy="Open it again: tidemark.connect(...)."
            )

    def _told(self, plan: Plan) -> Plan:
        """The plan with what only this process can tell: missing rows, and code that is gone."""
        altered = {
            name
            for change in plan.changes
            if change.what in {"added", "meaning"}
            for name in (change.name, *change.affects)
            if ":" in name
        }
        missing: list[Backfill] = []
        if plan.revision and altered:
            namespace = self.config.namespace
            found = unserved(self._online, plan.definitions, altered, project=namespace)
            missing = [Backfill(each.view, each.features, each.rows, each.events) for each in found]
        return replace(plan, backfill=tuple(missing), lost=self._project.lost(plan))

    def _applied(self) -> Snapshot:
        """The revision in force, read again when it may have changed."""
        self._check_open()
        with self._lock:
            now = time.monotonic()
            if now - self._read_at >= REFRESH_SECONDS or self._writes != self.registry.writes:
                self._writes = self.registry.writes
                snapshot = self.registry.snapshot()
                self._read_at = now
                if snapshot.digest != self._snapshot.digest:
                    self._readers = {}
                self._snapshot = snapshot
            return self._snapshot

    def _datasets(self) -> Path:
        """The folder of saved training sets."""
        if self.config.datasets:
            return (self.config.root / self.config.datasets).resolve()
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="tidemark-datasets-")
        return Path(self._folder.name)

    def _engine(self) -> DuckDB:
        from tidemark.engines.duckdb import DuckDB

        self._check_open()
        limits: dict[str, Any] = {}
        if self.config.memory_limit:
            limits["memory_limit"] = self.config.memory_limit
        if self.config.threads:
            limits["threads"] = self.config.threads
        return DuckDB(root=self.config.root, frames=self._project.frames, **limits)
