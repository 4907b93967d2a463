"""From history to online rows, in one step that readers see whole or not at all.

Rows of a new generation are written beside those that serve.  Then one transaction makes the
generation current, and the old rows go.  Whatever fails before that leaves the old state serving.
Events that are pushed meanwhile count in the rows that serve, and are put into the new ones before
these become current: on condition that the record has not moved by then, so that none is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from tidemark.engines.progress import Progress
from tidemark.engines.state import entities
from tidemark.errors import StoreConflict
from tidemark.ingest.following import Following
from tidemark.ingest.single import ANY_MOMENT
from tidemark.ingest.tidying import Published, measured, note, tidy
from tidemark.kernel.layout import Layout
from tidemark.model.fingerprint import held_id, state_id
from tidemark.model.graph import Definitions, FeatureView
from tidemark.model.window import parse_duration, parse_moment
from tidemark.online import codec, tree
from tidemark.online.keys import (
    Held,
    Record,
    State,
    generation_prefix,
    held_key,
    is_readable,
    key_encoder,
    read_held,
    read_record,
    record_key,
    view_prefixes,
)
from tidemark.online.protocol import OnlineStore
from tidemark.online.retention import Retention
from tidemark.online.values import instant

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import EventLog

ROWS_AT_ONCE = 50_000
"""Rows in one transaction: large enough to share its cost, small enough to let others write."""

BYTES_AT_ONCE = 1 << 28
"""Bytes in one transaction; rows of chunks of events are larger than others."""

_ATTEMPTS = 1_000
"""How often the change of generations follows pushes that come in between."""


@dataclass(frozen=True)
class MaterializedView:
    """What was written for one view; `unattributed` events were left out, as a key is null."""

    view: str
    entities: int
    events: int
    unattributed: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Entity rows written in a second."""
        return self.entities / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Materialized:
    """What `materialize` wrote, view by view; `until` is the moment up to which it knows.

    `gone` are the views whose rows it deleted, as the registry defines nothing of them any more.
    """

    until: datetime
    views: tuple[MaterializedView, ...]
    gone: tuple[str, ...] = ()

    @property
    def entities(self) -> int:
        """Rows written, over all views."""
        return sum(view.entities for view in self.views)

    @property
    def events(self) -> int:
        """Events held by these rows."""
        return sum(view.events for view in self.views)

    def __repr__(self) -> str:
        width = max((len(view.view) for view in self.views), default=0)
        lines = [f"Materialized until {self.until.isoformat().replace('+00:00', 'Z')}"]
        for view in self.views:
            lines.append(
                f"  {view.view:<{width}}  {view.entities:>11,} entities  {view.events:>13,} events"
                f"  {view.seconds:>7.1f} s  {view.rows_per_second:>9,.0f} rows/s"
            )
            if view.unattributed:
                lines[-1] += f"  {view.unattributed:,} events without a key left out"
        lines += [f"  {view}: rows deleted, as nothing defines it any more" for view in self.gone]
        return "\n".join(lines)


def materialize(
    engine: DuckDB,
    online: OnlineStore,
    definitions: Definitions,
    *,
    project: str,
    views: Sequence[str] | None = None,
    until: datetime | str | None = None,
    retain: str | timedelta | None = None,
    published: Published | None = None,
    log: EventLog | None = None,
) -> Materialized:
    """Write the online rows of views (None: all) from history and log as known at `until`.

    `until` None is now, with every event that is pushed before this returns.  `retain` drops events
    that no window needs at moments of at least `until - retain`, and makes earlier moments an
    error; without it, every moment can be asked for.
    Rows of views that `published` no longer holds are deleted; None deletes nothing.  What takes
    longer than a second shows its progress on a terminal.  Raises `StoreUnavailable` if another
    process materializes the same project into the same store.
    """
    moment = time.time_ns() // 1_000 if until is None else parse_moment(until)
    floor = ANY_MOMENT if retain is None else moment - parse_duration(retain)
    chosen = definitions.views
    if views is not None:
        chosen = tuple(view for name in views for view in definitions.variants(name))
    done: list[MaterializedView] = []
    gone: tuple[str, ...] = ()
    with online.lock(f"materialize {project}"), Progress() as progress:
        if published is not None:
            gone = tidy(online, project, published)
            note(online, project, {view.name for view in chosen}, published)
        for view in chosen:
            work = _Work(engine, online, definitions, view, project, moment, floor, None)
            if log is not None:
                said = None if until is None else moment
                work.following = Following.of(log, online, definitions, view, project, said)
                work.until = max(moment, work.following.seen)
            done.append(work.run(progress))
        if published is not None:
            measured(online, project, _seconds(done), published)
    return Materialized(instant(moment), tuple(done), gone)


def _seconds(done: Sequence[MaterializedView]) -> dict[str, float]:
    """How long each view took, all its variants together."""
    taken: dict[str, float] = {}
    for each in done:
        taken[each.view] = taken.get(each.view, 0.0) + each.seconds
    return taken


def _left(record: Record, leaving: Sequence[tuple[str, int]]) -> Record:
    return msgspec.structs.replace(record, leaving=tuple(leaving))


@dataclass
class _Work:
    """The materialization of one view."""

    engine: DuckDB
    online: OnlineStore
    definitions: Definitions
    view: FeatureView
    project: str
    until: int
    floor: int
    following: Following | None

    def run(self, progress: Progress) -> MaterializedView:
        """Write a generation, make it current, and delete what it replaces."""
        started = time.perf_counter()
        progress.begin(f"materialize {self.view.name}")
        source = self.definitions.source(self.view.source)
        state = state_id(self.view, source)
        place = record_key(self.project, self.view.name)
        self._forget_other_format(place)
        serving = self._tidied(place).state(state)
        generation = serving.generation + 1 if serving else 1
        # Should this run be interrupted, the next one deletes its rows.
        self._change(place, lambda record: _left(record, [*record.leaving, (state, generation)]))
        rows, events, unattributed = self._write(self._prefix(state, generation), progress)
        position = self.following.position if self.following else 0
        made = State(state, generation, self.until, self.floor, rows, events, position)
        held = held_key(self.project, self.view.name, state)
        self.online.put_many([(held, msgspec.msgpack.encode(Held(self.view, source)))])
        self._publish(place, made)
        self._tidied(place)
        seconds = time.perf_counter() - started
        return MaterializedView(self.view.name, rows, events, unattributed, seconds)

    def _forget_other_format(self, place: bytes) -> None:
        """Delete the rows of a release with another format, which this one cannot read."""
        (stored,) = self.online.get_many([place])
        if not is_readable(stored):
            self.online.put_many([], deletes=[place])
            self.online.delete(*view_prefixes(self.project, self.view.name))

    def _publish(self, place: bytes, made: State) -> None:
        """Make a state current, with what has been pushed since its rows were begun."""
        for _ in range(_ATTEMPTS):
            (stored,) = self.online.get_many([place])
            record = read_record(stored)
            if self.following is not None:
                prefix = self._prefix(made.state, made.generation)
                made = self.following.advance(self.engine, prefix, made)
            states = (made, *(each for each in record.states if each.state != made.state))
            kept = self._needed(states)
            leaving = {(each.state, each.generation) for each in record.states if each not in kept}
            fresh = Record(codec.FORMAT, kept, tuple(sorted(leaving)))
            try:
                self._record(place, stored, fresh)
            except StoreConflict:
                continue
            if self.following is not None:
                self.following.finish(self.engine)
            return
        raise StoreConflict(
            f"The online state of {self.view.name} kept changing while it was made.",
            where=self.online.name,
            remedy="Run it again; what was serving serves on.",
        )

    def _prefix(self, state: str, generation: int) -> bytes:
        return generation_prefix(self.project, self.view.name, state, generation)

    def _tidied(self, place: bytes) -> Record:
        """The record of the view, after the rows that do not serve have been deleted."""
        (stored,) = self.online.get_many([place])
        record = read_record(stored)
        if not record.leaving:
            return record
        self.online.delete(*(self._prefix(*each) for each in record.leaving))
        held = [
            held_key(self.project, self.view.name, state)
            for state, _ in record.leaving
            if record.state(state) is None
        ]
        return self._change(place, lambda record: _left(record, ()), deletes=held)

    def _change(
        self, place: bytes, change: Callable[[Record], Record], deletes: Sequence[bytes] = ()
    ) -> Record:
        """Change the record as it is then, though pushes move it at the same time."""
        while True:
            (stored,) = self.online.get_many([place])
            record = change(read_record(stored))
            try:
                self._record(place, stored, record, deletes)
            except StoreConflict:
                continue
            return record

    def _record(
        self, place: bytes, stored: bytes | None, record: Record, deletes: Sequence[bytes] = ()
    ) -> None:
        encoded = msgspec.msgpack.encode(record)
        self.online.put_many([(place, encoded)], deletes=deletes, expect={place: stored})

    def _needed(self, states: Sequence[State]) -> tuple[State, ...]:
        """The states that a view needs: its own, and others for what its own do not hold yet."""
        answers: set[str] = set()
        own: set[str] = set()
        for view in self.definitions.variants(self.view.name):
            source = self.definitions.source(view.source)
            own.add(state_id(view, source))
            answers |= {held_id(view, feature, source) for feature in view.features}
        places = [held_key(self.project, self.view.name, each.state) for each in states]
        holding = [
            read_held(stored)[1].keys() if stored else set[str]()
            for stored in self.online.get_many(places)
        ]
        for state, names in zip(states, holding, strict=True):
            answers -= names if state.state in own else set()
        return tuple(
            state
            for state, names in zip(states, holding, strict=True)
            if state.state in own or answers & names
        )

    def _write(self, prefix: bytes, progress: Progress) -> tuple[int, int, int]:
        """Write all rows; gives how many, the events in them, and those that are nobody's."""
        source = self.definitions.source(self.view.source)
        encode = key_encoder(self.definitions.entity(self.view.entity))
        layout = Layout.of(self.view, source.types)
        retention = None if self.floor == ANY_MOMENT else Retention.of(self.view, self.floor)
        rows = events = unattributed = 0
        for partition in entities(
            self.engine,
            self.definitions,
            self.view,
            layout,
            until=self.until,
            position=self.following.position if self.following else None,
        ):
            unattributed += partition.unattributed
            if not len(partition.keys):
                continue
            kept = partition if retention is None else retention.retained(partition)
            names = encode([column.to_pylist() for column in partition.keys.columns])
            items = tree.write(layout, [prefix + name for name in names], kept)
            for start, stop in _batches(items):
                self.online.put_many(items[start:stop])
                progress.rows(stop - start)
            rows += len(names)
            events += len(kept.timeline.time)
            if self.following is not None and partition.identities is not None:
                self.following.met(partition.identities)
        return rows, events, unattributed


def _batches(items: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[int, int]]:
    """Where transactions begin and end: large enough to share their cost, and no larger."""
    start = 0
    while start < len(items):
        stop = min(start + ROWS_AT_ONCE, len(items))
        while stop - start > 1 and sum(len(row) for _, row in items[start:stop]) > BYTES_AT_ONCE:
            stop = (start + stop) // 2
        yield start, stop
        start = stop
