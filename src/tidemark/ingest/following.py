"""How a materialization and the event log go together: where it begins, and how it keeps up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from numpy import int64
from numpy.typing import NDArray

from tidemark.engines.log import SEEN
from tidemark.ingest.apply import Applier, Changes
from tidemark.ingest.serving import Reading
from tidemark.model.graph import Definitions, FeatureView, Source
from tidemark.online.states.keys import State
from tidemark.online.stores.protocol import OnlineStore

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import EventLog

Words = NDArray[int64]


@dataclass
class Following:
    """The log beside the rows of one view that are being made.

    History and log are read together up to `position`, which was seen by `seen`.  What comes later
    is applied to the rows before they become current, unless they are to be as of a moment in the
    past (`pinned`).
    """

    applier: Applier
    log: EventLog
    definitions: Definitions
    view: FeatureView
    position: int
    seen: int
    pinned: bool

    @classmethod
    def of(
        cls,
        log: EventLog,
        online: OnlineStore,
        definitions: Definitions,
        view: FeatureView,
        project: str,
        until: int | None,
    ) -> Following:
        """Begin at the end of the log, or at what was seen by `until` (microseconds)."""
        newest = log.newest(view.source)
        position, seen = newest.position, newest.seen
        if until is not None and seen > until:
            position, seen = position_at(log, definitions.source(view.source), until), until
        applier = Applier(log, online, project)
        return cls(applier, log, definitions, view, position, seen, until is not None)

    def met(self, identities: Words) -> None:
        """Note which events go into the rows, before they do."""
        self.applier.recorded.add(self.view.source, identities)

    def ahead(self, engine: DuckDB, prefix: bytes, made: State) -> Iterator[tuple[State, Changes]]:
        """What the log has by now beyond the new rows; each is to be written before the next."""
        if self.pinned:
            return iter(())
        source = self.definitions.source(self.view.source)
        reading = Reading.of(self.view, source, self.definitions.entity(self.view.entity))
        last = self.log.last(source.name)
        return self.applier.advance(engine, reading, prefix, made, last)

    def finish(self, engine: DuckDB) -> None:
        """Apply what came in while the rows became current, for a view that had none before."""
        if not self.pinned:
            self.applier.catch_up(engine, self.definitions, self.view.source)


def position_at(log: EventLog, source: Source, until: int) -> int:
    """The newest position that was seen by a moment (microseconds); 0 if none was."""
    low, high = 0, log.last(source.name)
    while low < high:
        middle = (low + high + 1) // 2
        event = log.read(source, middle - 1, 1)
        if int(event.column(SEEN)[0].as_py()) <= until:
            low = middle
        else:
            high = middle - 1
    return low
