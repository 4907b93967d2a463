"""`connect` and `Store`: the only place where configuration becomes objects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tidemark.errors import RequestInvalid
from tidemark.model.window import clock
from tidemark.online.stores.protocol import open_store
from tidemark.registry import Applied, Plan
from tidemark.store import describe as _describe, reading
from tidemark.store.config import Config, read_config
from tidemark.store.datasets import Recipe, Saving
from tidemark.store.observing import Observing
from tidemark.store.project import Project, listed, name_of
from tidemark.store.pushing import Pushing
from tidemark.store.recovery import Recovery
from tidemark.store.registry import ProjectRegistry
from tidemark.store.streaming import Streams

if TYPE_CHECKING:
    from tidemark.apps.http import TLS, Limits
    from tidemark.engines.result import TrainingSet
    from tidemark.ingest.materialize import Materialized
    from tidemark.ingest.push import OnError, Pushed
    from tidemark.monitor.audit import Audit
    from tidemark.monitor.freshness import Freshness
    from tidemark.registry.snapshots import Snapshot
    from tidemark.serve import Reader, Vector, Vectors
    from tidemark.serve.log import ServingLog
    from tidemark.store.schedule import Schedule

__all__ = ["Config", "Store", "connect"]


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
        self._project = Project(config)
        self._online = open_store(config.online, config.root)
        self.registry = ProjectRegistry(self._project, self._online)
        self._readers = reading.Readers(self.registry, self._online, self._project)
        self._pushing = Pushing(self._project, self._online, self._readers)
        self._observing = Observing(self._project, self.registry, self._readers)
        self.events = self._pushing
        self.recovery = Recovery(self._project, self._readers, self._pushing)
        self.streams = Streams(self._project, self._online, self._readers, self._pushing)

    def plan(
        self,
        definitions: object = None,
        *,
        restated: Sequence[object] = (),
        values: bool = False,
    ) -> Plan:
        """What applying the definitions would change in the registry.

        None stands for those that `tidemark.toml` names; otherwise a module, objects, or
        `tm.load(...)`.  `restated` are sources whose history was rewritten as it is.  With
        `values`, what is added is also compared by value with what there is, on a sample of
        entities, which reads history.  Raises `DefinitionError` with every problem found.
        """
        lowered = self._project.lower(definitions, self._in_force().definitions)
        return self.registry.plan(
            lowered.definitions, restated=[name_of(each) for each in restated], values=values
        )

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
        self._project.check_open()
        if not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestInvalid(
                f"{plan!r} is not a plan.", remedy="Plan first: store.apply(store.plan())."
            )
        applied = self.registry.apply(
            plan, reason=reason, allow_duplicates=allow_duplicates, draft=draft
        )
        self._readers.expire()
        return applied

    def training_set(
        self,
        features: object,
        labels: object,
        *,
        time: str | None = None,
        timezone: str | tzinfo | None = None,
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
            saving = Saving(self.registry, self._project, save_as, split)
        elif split is not None:
            raise RequestInvalid(
                "A split is kept with a dataset, and none is saved.",
                remedy="Name it, save_as=..., or split what is returned: training.split(...).",
            )
        snapshot = self._in_force()
        features = reading.named(features, snapshot.records)
        definitions = self._project.beside(snapshot.definitions, features)
        outputs = reading.outputs(features, definitions, snapshot.records, full_names=full_names)
        functions = self._project.functions(definitions, outputs)
        zone = None if timezone is None else str(timezone)
        recipe = Recipe(definitions, functions, outputs, time, zone, hindsight)
        with self._project.engine() as engine:
            if saving is not None:
                return saving.make(engine, snapshot, recipe, labels)
            return recipe.make(engine, labels)

    def materialize(
        self,
        views: object = None,
        *,
        until: str | datetime | None = None,
        rate: float | None = None,
        restart: bool = False,
    ) -> Materialized:
        """Write the online state of the views (None: all) from history, known by `until` or now.

        `views` is one view or a list, as classes or names.  What serves goes on serving until the
        new state is whole.  What an interrupted call has written is gone on with, unless it would
        be written otherwise by now, or `restart`.  `rate` bounds the rows written in a second.
        """
        from tidemark.ingest.materialize import materialize

        definitions = self._in_force().definitions
        self.recovery.counted_here(each.name for each in definitions.sources)
        with self._project.engine() as engine:
            return materialize(
                engine,
                self._online,
                definitions,
                project=self.config.namespace,
                views=None if views is None else [name_of(view) for view in listed(views)],
                until=until,
                retain=self.config.retain or None,
                published=self.registry.published(),
                log=self._project.log,
                rate=rate,
                restart=restart,
            )

    def push(
        self, source: object, rows: object, *, on_error: OnError = "refuse", key: str = ""
    ) -> Pushed:
        """Take events of a source: they are durable on return, and the next read counts them.

        `rows` are a dict, dicts, a dict of columns, any Arrow-capable frame, or bytes of JSON (an
        array, or an object on each line).  Where one is not as the source declares, all are
        refused, or with `on_error="quarantine"` the good ones are taken and the others are among
        `events.dead_letters`.  A push with the `key` of an earlier one is that push, and takes
        nothing again (other rows under it are refused); so is an event that repeats `unique`
        columns and says the same.  Raises `EventsRefused`, `RequestInvalid`, `StoreUnavailable`.
        """
        self._project.check_open()
        name = name_of(source)
        pushed = self._pushing.push(name, rows, on_error=on_error, key=key)
        self.recovery.counted_here((name,))
        return pushed

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

    def freshness(self) -> Freshness:
        """How old what is served is, view by view, against what was promised.

        And how long live events took until reads counted them.
        """
        from tidemark.monitor.freshness import freshness

        self._project.check_open()
        return freshness(
            self._online,
            self._readers.snapshot().definitions,
            self._project.log,
            project=self.config.namespace,
            now=clock(),
            next_runs=self.schedule.next_runs(),
        )

    def reader(self, features: object) -> Reader:
        """What reads vectors of these features; made once for each revision.

        For servers; `online` and `online_many` are its two questions.
        """
        return self._readers.reader(features)

    def audit(
        self,
        *,
        since: str | datetime | None = "24h",
        until: str | datetime | None = None,
        service: str | None = None,
        sample: float = 1.0,
        probe: int = 0,
    ) -> Audit:
        """Compute again what was served, as training computes it, and compare value by value.

        `since` and `until` are moments or how long ago; `sample` is a share of the requests.
        Without a serving log, `probe` entities of each view are read online now instead.
        """
        return self._observing.audit(
            since=since, until=until, service=service, sample=sample, probe=probe
        )

    def audits(self) -> list[dict[str, Any]]:
        """The audits that were made, oldest first."""
        return self._observing.audits()

    @property
    def log(self) -> ServingLog:
        """What was served: `read`, `explain`; raises `NotFound` where no serving log is kept."""
        return self._observing.log

    @property
    def schedule(self) -> Schedule:
        """The jobs that recur: `run` does them, `standing` says how each stands."""
        from tidemark.store.schedule import Schedule

        return Schedule(self)

    @property
    def readers(self) -> reading.Readers:
        """The revision in force and what was prepared from it, for servers that watch over both."""
        return self._readers

    def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 6566,
        workers: int = 1,
        limits: Limits | None = None,
        tls: TLS | None = None,
        behind_proxy: bool = False,
        started: Callable[[str], object] | None = None,
    ) -> None:
        """Answer over HTTP until the process is told to stop; needs the extra `server`.

        `port` 0 is any that is free; `started` is called with the address when it is bound.  Every
        worker is a process with a store of its own, so a store in memory has one.  Other machines
        are answered if there are keys, over `tls` or `behind_proxy` (one that speaks it).  Raises
        `RequestInvalid` for an address that others would reach otherwise, or that is taken.
        """
        from tidemark.apps import http

        http.serve(
            self,
            host=host,
            port=port,
            workers=workers,
            limits=limits,
            tls=tls,
            behind_proxy=behind_proxy,
            started=started,
        )

    def describe(
        self, ref: object = None, *, as_of: int | str | datetime | None = None
    ) -> _describe.Description:
        """What is in force, or was as of a revision or a moment.

        Everything, or one definition by its object or name; `model:fraud@3` is a model.
        """
        self._project.check_open()
        snapshot = self._in_force() if as_of is None else self.registry.snapshot(as_of)
        if ref is None:
            return _describe.overview(snapshot, self.config.name)
        definitions = self._project.beside(snapshot.definitions, ref)
        return _describe.describe(definitions, name_of(ref), snapshot.records)

    def _in_force(self) -> Snapshot:
        """The revision in force as of now; reads of vectors ask less often whether there is one."""
        self._project.check_open()
        return self.registry.snapshot()

    def close(self) -> None:
        """Close the registry and the online store; closing twice is fine."""
        self._observing.close()
        self._pushing.close()
        self._readers.under_way.close()
        self._project.close()
        self.registry.close()
        self._online.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Tidemark store {self.config.name or self.config.root}>"
