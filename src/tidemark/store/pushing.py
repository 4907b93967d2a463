"""What a store does with live events: takes them, counts them online, keeps the bad ones."""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tidemark.model.graph import Source
from tidemark.model.window import clock, parse_duration
from tidemark.online.states.pulse import Delays, delays_key, read_delays
from tidemark.online.stores.protocol import OnlineStore
from tidemark.store.project import Project, name_of
from tidemark.store.reading import Readers

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import Letter
    from tidemark.ingest.apply import Applier, CaughtUp
    from tidemark.ingest.push import OnError, Pushed, Pusher
    from tidemark.ingest.replay import Replayed
    from tidemark.ingest.validate import Bounds


class LogStanding(NamedTuple):
    """The log of a source: its newest position, its dead letters, and the delays of its events."""

    source: str
    position: int
    dead_letters: int
    delays: Delays


class Pushing:
    """The live events of a project; what it opens is opened by the first event."""

    def __init__(self, project: Project, online: OnlineStore, readers: Readers) -> None:
        self._project, self._online, self._readers = project, online, readers
        self._making = threading.Lock()
        self._computing = threading.Lock()
        self._engine: DuckDB | None = None
        self._applier: Applier | None = None
        self._pusher: Pusher | None = None

    def push(self, source: str, rows: object, *, on_error: OnError, key: str) -> Pushed:
        """Take events; see `Store.push`."""
        definitions = self._readers.snapshot().definitions
        pusher = self._pusher or self._made()
        return pusher.push(definitions, source, rows, on_error=on_error, key=key)

    def prepare(self) -> None:
        """Load what takes events in, so that the first push does not wait for it."""
        from tidemark.kernel.compiled import FOR_PUSHES, ready

        if any(each.time is not None for each in self._readers.snapshot().definitions.sources):
            ready(FOR_PUSHES)

    def catch_up(self, source: object = None) -> dict[str, CaughtUp]:
        """Count online what the event log holds of a source (None: of all) and state does not yet.

        A push does this itself; it is for what a crash or an online store that was away left over.
        """
        self._project.check_open()
        definitions = self._readers.snapshot().definitions
        there = {each.name for each in definitions.sources}
        names = [name for name in self._project.log.names() if name in there]
        if source is not None:
            names = [definitions.source(name_of(source)).name]
        if not names:
            return {}
        applier = self.applier
        with self.engine() as engine:
            return {name: applier.catch_up(engine, definitions, name) for name in names}

    def dead_letters(
        self, source: object, *, after: int = 0, most: int = 1_000, replayed: bool = False
    ) -> list[Letter]:
        """The rows of a source that could not be events, with the reasons, oldest first.

        Up to `most` of those whose number is greater than `after`; with `replayed` those that have
        become events since.
        """
        self._project.check_open()
        name = self._readers.snapshot().definitions.source(name_of(source)).name
        return self._project.log.buried(name, after, most, replayed=replayed)

    def replay(self, source: object, numbers: Collection[int] | None = None) -> Replayed:
        """Look at dead letters of a source (None: at all) again, and push those that are good now.

        After the declaration, or a clock, was put right.  Each leaves the table in one step with
        becoming an event, so that whatever dies meanwhile, replaying again counts none twice.  The
        others stay, with the reasons that they have now.
        """
        from tidemark.ingest.replay import replay

        self._project.check_open()
        found = self._readers.snapshot().definitions.source(name_of(source))
        self.applier.left(self._readers.snapshot().definitions, found.name)
        with self._readers.under_way.accepting(found.name):
            done = replay(self._project.log, found, self.bounds(found), numbers)
            self.catch_up(found.name)
        return done

    def bounds(self, source: Source) -> Bounds:
        """The times that events of a source may have now."""
        from tidemark.ingest.validate import Bounds

        now = clock()
        oldest = self.applier.oldest(self._readers.snapshot().definitions, source.name)
        return Bounds(now, now + parse_duration(self._project.config.future), oldest)

    def standing(self) -> list[LogStanding]:
        """How the log of each source of events stands."""
        log, namespace = self._project.log, self._project.config.namespace
        sources = self._readers.snapshot().definitions.sources
        names = sorted(each.name for each in sources if each.time is not None)
        stored = self._online.get_many([delays_key(namespace, name) for name in names])
        return [
            LogStanding(name, log.last(name), log.count_buried(name), read_delays(delays))
            for name, delays in zip(names, stored, strict=True)
        ]

    def compact(self, source: str | None = None) -> int:
        """Turn old batches of the log into Parquet; gives how many events moved."""
        snapshot = self._readers.snapshot().definitions
        there = {each.name: each for each in snapshot.sources}
        names = self._project.log.names() if source is None else [snapshot.source(source).name]
        return sum(self._project.log.compact(there[name]).rows for name in names if name in there)

    def retain(self) -> int:
        """Delete the events that the setting `log_retention` lets go; gives how many went."""
        kept = self._project.config.log_retention
        if not kept:
            return 0
        since = clock() - parse_duration(kept)
        return sum(self._project.log.retain(name, since) for name in self._project.log.names())

    @property
    def applier(self) -> Applier:
        """What brings online state to the end of the log."""
        with self._making:
            if self._applier is None:
                from tidemark.ingest.apply import Applier

                namespace = self._project.config.namespace
                self._applier = Applier(self._project.log, self._online, namespace)
            return self._applier

    @contextmanager
    def engine(self) -> Generator[DuckDB]:
        """The one engine that live events are computed with, kept from push to push."""
        with self._computing:
            if self._engine is None:
                self._engine = self._project.engine()
            self._engine.frames.update(self._project.frames)
            yield self._engine

    def _made(self) -> Pusher:
        from tidemark.ingest.push import Pusher

        applier = self.applier
        future = parse_duration(self._project.config.future)
        with self._making:
            if self._pusher is None:
                self._pusher = Pusher(
                    self._project.log,
                    applier,
                    self.engine,
                    self._readers.under_way,
                    future=future,
                    forgets=bool(self._project.config.retain),
                )
            return self._pusher

    def close(self) -> None:
        """Let go of the engine."""
        with self._computing:
            if self._engine is not None:
                self._engine.close()
                self._engine = None
