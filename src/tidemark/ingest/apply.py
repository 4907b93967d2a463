"""From the event log to online rows: state follows the log, batch by batch, exactly once.

The position that a state has reached is in the record of its view, and is written in one
transaction with the rows that it describes, on condition that nobody has moved it meanwhile.  So
the state is a function of the log: what dies between two steps is made up for by whoever comes
next, and what is done twice is refused the second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.log import CORRECTS, POSITION, SEEN, Newest
from tidemark.engines.micro import partition_of
from tidemark.engines.state import entities
from tidemark.errors import StaleSource, StoreConflict
from tidemark.ingest.alone import alone
from tidemark.ingest.recorded import Recorded, holders
from tidemark.ingest.single import FEW, Arrived, Single
from tidemark.kernel.layout import Layout
from tidemark.model.graph import Definitions, Entity, FeatureView, Source
from tidemark.online import tree
from tidemark.online.codec import Events, unpack_rows
from tidemark.online.keys import (
    Record,
    State,
    generation_prefix,
    held_key,
    key_encoder,
    read_held,
    read_record,
    record_key,
)
from tidemark.online.merging import kept
from tidemark.online.protocol import OnlineStore
from tidemark.online.pulse import delays_key, read_delays
from tidemark.online.retention import Retention

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import EventLog

AT_ONCE = 20_000
"""Events that are applied in one transaction, but for one moment that has more."""

ANY_MOMENT = -(2**63)
"""The floor of a state that keeps everything."""

_ATTEMPTS = 300
"""How often a batch is made again because somebody else has moved the state."""

Pair = tuple[bytes, bytes]
Words = NDArray[np.int64]


@dataclass(frozen=True)
class CaughtUp:
    """How far the states of a source are; `events` were applied by this call.

    `position` is that of the newest event of the log that all of them hold, `seen` when it was.
    """

    position: int
    seen: int
    events: int


@dataclass(frozen=True)
class Reading:
    """How the rows of a state are made: from which columns, and under which keys."""

    view: FeatureView
    definitions: Definitions
    layout: Layout
    encode: Callable[[Sequence[Sequence[object]]], list[bytes]]

    @cached_property
    def source(self) -> Source:
        """The source that the rows were written for."""
        return self.definitions.source(self.view.source)

    @cached_property
    def single(self) -> Single | None:
        """How a few events are taken into rows one by one, where they can be."""
        return Single.of(self.view, self.source, self.layout)

    @property
    def entity(self) -> Entity:
        """What the rows are of."""
        return self.definitions.entity(self.view.entity)

    @classmethod
    def of(cls, view: FeatureView, source: Source, entity: Entity) -> Reading:
        """The reading of rows that a view has over a source."""
        layout = Layout.of(view, source.types)
        return cls(view, Definitions.of([entity, source, view]), layout, key_encoder(entity))

    def keys(self, prefix: bytes, table: pa.Table) -> list[bytes]:
        """The keys of the rows of some entities."""
        return [prefix + key for key in self.encode([each.to_pylist() for each in table.columns])]


@lru_cache(maxsize=1024)
def _reading(held: bytes, entity: Entity) -> Reading:
    found, _ = read_held(held)
    return Reading.of(found.view, found.source, entity)


@dataclass
class Changes:
    """What is to be written: `puts` in their order, and the keys that go."""

    puts: list[Pair] = field(default_factory=list[Pair])
    deletes: list[bytes] = field(default_factory=list[bytes])


class Pin(NamedTuple):
    """What a rebuild may know: history seen by `until`, and the log up to `position`."""

    until: int
    position: int


@dataclass(frozen=True)
class _Serving:
    """The states of one view that read the source: `stored` are the bytes of its record."""

    place: bytes
    stored: bytes
    record: Record
    readings: Mapping[str, Reading]


class Applier:
    """Brings the online states of a project to the end of its event log."""

    def __init__(self, log: EventLog, online: OnlineStore, project: str) -> None:
        self._log = log
        self._online = online
        self._project = project
        self.recorded = Recorded(log.folder)
        self._known: tuple[Definitions, dict[str, dict[str, Entity]]] = (Definitions(), {})

    def catch_up(
        self, engine: DuckDB, definitions: Definitions, name: str, fresh: Arrived | None = None
    ) -> CaughtUp:
        """Apply to every state of a source what the log has beyond it.

        A view that was never materialized has no state: its events wait in the log.  What has just
        been appended may be given (`fresh`): states that hold all before it need not read.  Raises
        `StoreUnavailable` if the online store does not answer; what was applied until then stays.
        """
        # Elsewhere the condition on the records is enough, and nobody waits.
        by_itself = alone(self._log.folder, name) if self._online.spread else nullcontext()
        with by_itself:
            return self._caught_up(engine, definitions, name, fresh)

    def _caught_up(
        self, engine: DuckDB, definitions: Definitions, name: str, fresh: Arrived | None
    ) -> CaughtUp:
        applied, conflicts, wanted = 0, 0, None
        while True:
            serving = self._serving(definitions, name)
            reached = _reached(serving)
            if fresh is not None and fresh.first - 1 != reached:
                fresh = None
            newest = self._log.newest(name) if fresh is None else fresh.newest
            if reached is not None and reached > newest.position:
                raise _beyond(name, reached, newest.position)
            wanted = wanted or newest  # what others append meanwhile is theirs to apply
            try:
                while reached is not None and reached < wanted.position:
                    count, reached, serving = self._step(engine, serving, reached, newest, fresh)
                    applied += count
            except StoreConflict:
                if (conflicts := conflicts + 1) == _ATTEMPTS:
                    raise
                continue
            return CaughtUp(wanted.position, wanted.seen, applied)

    def advance(
        self, engine: DuckDB, reading: Reading, prefix: bytes, state: State, until: int
    ) -> State:
        """Apply to rows that nobody reads yet what the log has beyond them, up to a position."""
        while state.position < until:
            batch = Arrived(reading.source, self._next(reading.source, state.position))
            changes = Changes()
            state = self._apply(engine, reading, prefix, state, batch, changes)
            self._online.put_many(changes.puts, deletes=changes.deletes)
        return state

    def check_log(self, definitions: Definitions, name: str) -> None:
        """Raise `StaleSource` if states hold more than the log: new events would not be applied."""
        reached = _reached(self._serving(definitions, name))
        last = self._log.last(name)
        if reached is not None and reached > last:
            raise _beyond(name, reached, last)

    def oldest(self, definitions: Definitions, name: str) -> int:
        """The time (microseconds) before which no state of a source keeps events."""
        limits: list[int] = []
        for serving in self._serving(definitions, name):
            for state in serving.record.states:
                reading = serving.readings.get(state.state)
                if reading is None:
                    continue
                reach = reading.view.reach
                if state.floor == ANY_MOMENT or reach is None:
                    return ANY_MOMENT
                limits.append(state.floor - reach - 1)
        return min(limits, default=ANY_MOMENT)

    def _serving(self, definitions: Definitions, name: str) -> list[_Serving]:
        views = self._views(definitions, name)
        places = [record_key(self._project, view) for view in views]
        found: list[_Serving] = []
        stored_records = self._online.get_many(places)
        for (view, entity), place, stored in zip(
            views.items(), places, stored_records, strict=True
        ):
            if stored is None:
                continue
            record = read_record(stored)
            held = self._online.get_many(
                [held_key(self._project, view, each.state) for each in record.states]
            )
            readings: dict[str, Reading] = {}
            for state, text in zip(record.states, held, strict=True):
                if text is None:
                    continue
                about, _ = read_held(bytes(text))
                if about.source.name == name:
                    readings[state.state] = _reading(bytes(text), entity)
            if readings:
                found.append(_Serving(place, bytes(stored), record, readings))
        return found

    def _views(self, definitions: Definitions, name: str) -> Mapping[str, Entity]:
        """The views that read a source, or have read it in a version that is kept."""
        known, views = self._known
        if known is not definitions:  # comparing or hashing thousands of definitions takes long
            self._known = definitions, (views := {})
        if name not in views:
            reading = (view for view in definitions.views if view.source == name)
            views[name] = {view.name: definitions.entity(view.entity) for view in reading}
        return views[name]

    def _next(self, source: Source, after: int) -> pa.Table:
        """The next events after a position; all that were seen at one moment stay together."""
        most = AT_ONCE
        while True:
            batch = self._log.read(source, after, most)
            end = batch.num_rows
            if end == most:
                seen = np.asarray(batch.column(SEEN))
                end = int((seen < seen[-1]).sum())
            if end or not batch.num_rows:
                whole: pa.Table = batch.slice(0, end)
                return whole
            most *= 4

    def _step(
        self,
        engine: DuckDB,
        serving: Sequence[_Serving],
        reached: int,
        newest: Newest,
        fresh: Arrived | None,
    ) -> tuple[int, int, list[_Serving]]:
        """One transaction: the next batch in all states, each with its new position.

        Gives the events, the position that all states have reached, and the states.  Where
        retention has removed all events that are left, there is only the position.
        """
        changes, records, after = Changes(), list[Pair](), list[_Serving]()
        batches = [fresh] if fresh is not None and fresh.first - 1 == reached else []
        for each in serving:
            states = list(each.record.states)
            for number, state in enumerate(states):
                reading = each.readings.get(state.state)
                if reading is None:
                    continue
                source = reading.source
                arrived = next((each for each in batches if each.source == source), None)
                if arrived is None:
                    arrived = Arrived(source, self._next(source, reached))
                    batches.append(arrived)
                batch = arrived.table
                if not batch.num_rows:
                    states[number] = msgspec.structs.replace(
                        state, until=max(state.until, newest.seen), position=newest.position
                    )
                done = np.searchsorted(batch.column(POSITION).to_numpy(), state.position, "right")
                if done < batch.num_rows:
                    prefix = self._prefix(reading.view.name, state)
                    rest = arrived.after(int(done))
                    states[number] = self._apply(engine, reading, prefix, state, rest, changes)
            record = msgspec.structs.replace(each.record, states=tuple(states))
            stored = msgspec.msgpack.encode(record)
            records.append((each.place, stored))
            after.append(replace(each, stored=stored, record=record))
        records.append(self._measured(batches[0]))
        expect = {each.place: each.stored for each in serving}
        # What a machine that stops may undo, position and rows alike, is in the log still.
        puts = [*changes.puts, *records]
        self._online.put_many(puts, deletes=changes.deletes, expect=expect, durable=False)
        count = max(each.table.num_rows for each in batches)
        return count, _reached(after) or newest.position, after

    def _measured(self, arrived: Arrived) -> Pair:
        """How long the events of a batch took until now, added to those before it."""
        source, batch = arrived.source, arrived.table
        place = delays_key(self._project, source.name)
        times = np.asarray(batch.column(str(source.time)).cast(pa.int64()))
        seen = np.asarray(batch.column(SEEN))
        delays = read_delays(self._online.get_many([place])[0])
        now = time.time_ns() // 1_000
        return place, msgspec.msgpack.encode(delays.and_these(now, times, seen))

    def _prefix(self, view: str, state: State) -> bytes:
        return generation_prefix(self._project, view, state.state, state.generation)

    def _apply(
        self,
        engine: DuckDB,
        reading: Reading,
        prefix: bytes,
        state: State,
        arrived: Arrived,
        changes: Changes,
    ) -> State:
        """Note what a batch changes in the rows of a state; gives the state after it."""
        batch = arrived.table
        position = int(batch.column(POSITION)[-1].as_py())
        until = max(state.until, int(batch.column(SEEN)[-1].as_py()))
        after = msgspec.structs.replace(state, until=until, position=position)
        odd = self._odd(arrived)
        if batch.num_rows <= FEW and state.floor == ANY_MOMENT and not odd.any():
            rows = self._singly(reading, prefix, arrived)
            if rows is not None:
                changes.puts += rows
                return after
        new = partition_of(engine, reading.definitions, reading.view, reading.layout, batch)
        keys = reading.keys(prefix, new.keys)
        wanted = (
            self._holders(engine, reading, prefix, batch.filter(pa.array(odd))) if odd.any() else {}
        )
        events: Events = new
        if wanted:
            mine = np.fromiter((key not in wanted for key in keys), np.bool_, len(keys))
            events = kept(new, np.repeat(mine, np.diff(new.timeline.starts)))
        old = self._online.get_many(keys)
        retention = None if state.floor == ANY_MOMENT else Retention.of(reading.view, state.floor)
        fetch = self._online.get_many
        # Whatever repeats or corrects an event, of the log or of history, is among the wanted.
        merged = tree.merge(reading.layout, keys, old, events, fetch, retention, told_apart=True)
        changes.puts += merged.puts
        changes.deletes += merged.deletes
        for place in merged.undecided.tolist():
            wanted[keys[place]] = new.keys.slice(place, 1)
        if wanted:
            self._rebuild(engine, reading, prefix, wanted, Pin(until, position), retention, changes)
        return after

    def _singly(self, reading: Reading, prefix: bytes, arrived: Arrived) -> list[Pair] | None:
        """The rows after a few events, put in one by one; None where that cannot be done."""
        single = reading.single
        if single is None:
            return None

        def place(key: Sequence[object]) -> bytes:
            return prefix + reading.encode([[value] for value in key])[0]

        return single.rows(arrived, place, self._online.get_many)

    def _odd(self, arrived: Arrived) -> NDArray[np.bool_]:
        """Which events correct one of the log, or repeat or correct one of history."""
        if arrived.identities is None:
            return np.zeros(arrived.table.num_rows, np.bool_)
        corrects: NDArray[np.bool_] = arrived.table.column(CORRECTS).to_numpy()
        return corrects | self.recorded.among(arrived.source.name, arrived.identities)

    def _holders(
        self, engine: DuckDB, reading: Reading, prefix: bytes, events: pa.Table
    ) -> dict[bytes, pa.Table]:
        """The entities, by the keys of their rows, to which any version of some events belongs."""
        found = holders(engine, reading.source, reading.view, reading.entity, events)
        keys = reading.keys(prefix, found)
        return {key: found.slice(place, 1) for place, key in enumerate(keys)}

    def _rebuild(
        self,
        engine: DuckDB,
        reading: Reading,
        prefix: bytes,
        wanted: Mapping[bytes, pa.Table],
        pin: Pin,
        retention: Retention | None,
        changes: Changes,
    ) -> None:
        """Note what entities are by history and log, whatever their rows hold now."""
        layout, fetch = reading.layout, self._online.get_many
        left = set(wanted)
        for partition in entities(
            engine,
            reading.definitions,
            reading.view,
            layout,
            until=pin.until,
            position=pin.position,
            only=pa.concat_tables(list(wanted.values())),
        ):
            keys = reading.keys(prefix, partition.keys)
            left.difference_update(keys)
            events = partition if retention is None else retention.retained(partition)
            made = tree.replace(layout, keys, fetch(keys), events, fetch)
            changes.puts += made.puts
            changes.deletes += made.deletes
        gone = sorted(left)
        nothing = unpack_rows(layout, [None] * len(gone))
        changes.deletes += tree.replace(layout, gone, fetch(gone), nothing, fetch).deletes


def _beyond(name: str, reached: int, last: int) -> StaleSource:
    return StaleSource(
        f"The online state of {name} holds more than its event log.",
        where=f"the state is at position {reached:,}, the log ends at {last:,}",
        remedy="The log was lost or replaced: set `log` to where it is, or materialize again.",
    )


def _reached(serving: Sequence[_Serving]) -> int | None:
    """The least position of all states; None where there is no state."""
    positions = [
        state.position
        for each in serving
        for state in each.record.states
        if state.state in each.readings
    ]
    return min(positions, default=None)
