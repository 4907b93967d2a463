"""From the event log to online rows: state follows the log, batch by batch, exactly once.

The position that a state has reached is in the record of its view, and is written in one
transaction with the rows that it describes, on condition that nobody has moved it meanwhile.  So
the state is a function of the log: what dies between two steps is made up for by whoever comes
next, and what is done twice is refused the second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.few import FEW
from tidemark.engines.log import POSITION, SEEN, Newest
from tidemark.engines.micro import partition_of
from tidemark.engines.state import entities
from tidemark.errors import StaleSource, StoreConflict
from tidemark.ingest.alone import alone
from tidemark.ingest.apply_few import FewApplier
from tidemark.ingest.arrived import Arrived
from tidemark.ingest.recorded import Recorded, holders
from tidemark.ingest.serving import Finder, Followers, Pair, Reading, Serving
from tidemark.model.graph import Definitions, Source
from tidemark.model.window import clock
from tidemark.online.rows.codec import Events, unpack_rows
from tidemark.online.rows.merging import kept
from tidemark.online.rows.retention import Retention
from tidemark.online.states.keys import ANY_MOMENT, State
from tidemark.online.states.pulse import delays_key, read_delays
from tidemark.online.stores.protocol import OnlineStore
from tidemark.online.trees import tree

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import EventLog

AT_ONCE = 20_000
"""Events that are applied in one transaction, but for one moment that has more."""

_ATTEMPTS = 300
"""How often a batch is made again because somebody else has moved the state."""


@dataclass(frozen=True)
class CaughtUp:
    """How far the states of a source are; `events` were applied by this call.

    `position` is that of the newest event of the log that all of them hold, `seen` when it was.
    """

    position: int
    seen: int
    events: int


@dataclass
class Changes:
    """What is to be written: `puts` in their order, and the keys that go."""

    puts: list[Pair] = field(default_factory=list[Pair])
    deletes: list[bytes] = field(default_factory=list[bytes])


class Pin(NamedTuple):
    """What a rebuild may know: history seen by `until`, and the log up to `position`."""

    until: int
    position: int


class Applier:
    """Brings the online states of a project to the end of its event log."""

    def __init__(self, log: EventLog, online: OnlineStore, project: str) -> None:
        self._log = log
        self._online = online
        self._project = project
        self.recorded = Recorded(log.folder)
        self._finder = Finder(online, project)
        self._few = FewApplier(online, project)

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
        if fresh is not None and fresh.few is not None and not self._any_odd(fresh):
            newest = self._few.count(definitions, fresh)
            if newest is not None:
                return CaughtUp(newest.position, newest.seen, len(fresh))
        applied, conflicts, wanted = 0, 0, None
        while True:
            followers = self._finder.of(definitions, name)
            reached = followers.reached
            if fresh is not None and fresh.first - 1 != reached:
                fresh = None
            newest = self._log.newest(name) if fresh is None else fresh.newest
            if reached is not None and reached > newest.position:
                raise _beyond(name, reached, newest.position)
            wanted = wanted or newest  # what others append meanwhile is theirs to apply
            try:
                while reached is not None and reached < wanted.position:
                    count, followers = self._step(engine, followers, reached, newest, fresh)
                    reached = followers.reached
                    applied += count
            except StoreConflict:
                if (conflicts := conflicts + 1) == _ATTEMPTS:
                    raise
                continue
            self._few.leave(definitions, definitions.source(name), followers)
            return CaughtUp(wanted.position, wanted.seen, applied)

    def advance(
        self, engine: DuckDB, reading: Reading, prefix: bytes, state: State, until: int
    ) -> Iterator[tuple[State, Changes]]:
        """What the log has beyond rows that nobody reads yet: each is written before the next."""
        while state.position < until:
            batch = Arrived(reading.source, self._next(reading.source, state.position))
            changes = Changes()
            state = self._apply(engine, reading, prefix, state, batch, changes)
            yield state, changes

    def left(self, definitions: Definitions, name: str) -> int | None:
        """The position after which events of the log are not counted yet; None if there are none.

        Raises `StaleSource` if states hold more than the log: new events would not be applied.
        """
        reached = self._finder.of(definitions, name).reached
        last = self._log.last(name)
        if reached is not None and reached > last:
            raise _beyond(name, reached, last)
        return None if reached == last else reached

    def lacks(self, definitions: Definitions, name: str) -> bool:
        """Whether states lack events that the log has acknowledged, whatever is left of it."""
        reached = self._finder.of(definitions, name).reached
        return reached is not None and reached < self._log.acknowledged(name)

    def oldest(self, definitions: Definitions, name: str) -> int:
        """The time (microseconds) before which no state of a source keeps events."""
        limits: list[int] = []
        for serving in self._finder.of(definitions, name).serving:
            for state in serving.record.states:
                reading = serving.readings.get(state.state)
                if reading is None:
                    continue
                reach = reading.view.reach
                if state.floor == ANY_MOMENT or reach is None:
                    return ANY_MOMENT
                limits.append(state.floor - reach - 1)
        return min(limits, default=ANY_MOMENT)

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
        followers: Followers,
        reached: int,
        newest: Newest,
        fresh: Arrived | None,
    ) -> tuple[int, Followers]:
        """One transaction: the next batch in all states, each with its new position.

        Gives the events and the states.  Where retention has removed all events that are left,
        there is only the position.
        """
        changes, records, after = Changes(), list[Pair](), list[Serving]()
        batches = [fresh] if fresh is not None and fresh.first - 1 == reached else []
        for each in followers.serving:
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
                if not len(arrived):
                    states[number] = msgspec.structs.replace(
                        state, until=max(state.until, newest.seen), position=newest.position
                    )
                elif state.position < arrived.newest.position:
                    rest = arrived.after(_until(arrived, state.position))
                    prefix = each.prefix(self._project, state)
                    states[number] = self._apply(engine, reading, prefix, state, rest, changes)
            record = msgspec.structs.replace(each.record, states=tuple(states))
            stored = msgspec.msgpack.encode(record)
            records.append((each.place, stored))
            after.append(replace(each, stored=stored, record=record))
        records.append(self._measured(batches[0]))
        expect = {each.place: each.stored for each in followers.serving}
        # What a machine that stops may undo, position and rows alike, is in the log still.
        puts = [*changes.puts, *records]
        self._online.put_many(puts, deletes=changes.deletes, expect=expect, durable=False)
        return max(map(len, batches)), Followers(after, followers.others)

    def _measured(self, arrived: Arrived) -> Pair:
        """How long the events of a batch took until now, added to those before it."""
        place = delays_key(self._project, arrived.source.name)
        delays = read_delays(self._online.get_many([place])[0])
        now = clock()
        return place, msgspec.msgpack.encode(delays.and_these(now, arrived.times, arrived.seen))

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
        position, seen = arrived.newest.position, arrived.newest.seen
        until = max(state.until, seen)
        after = msgspec.structs.replace(state, until=until, position=position)
        odd = self._odd(arrived)
        if len(arrived) <= FEW and state.floor == ANY_MOMENT and not odd.any():
            merged = self._merged_few(reading, prefix, arrived)
            if merged is not None:
                changes.puts += merged.puts
                changes.deletes += merged.deletes
                return after
        batch, identities = arrived.table, arrived.identities
        layout, defined = reading.layout, reading.definitions
        new = partition_of(engine, defined, reading.view, layout, batch, identities)
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
        merged = tree.merge(layout, keys, old, events, fetch, retention, told_apart=True)
        changes.puts += merged.puts
        changes.deletes += merged.deletes
        for place in merged.undecided.tolist():
            wanted[keys[place]] = new.keys.slice(place, 1)
        if wanted:
            self._rebuild(engine, reading, prefix, wanted, Pin(until, position), retention, changes)
        return after

    def _merged_few(self, reading: Reading, prefix: bytes, arrived: Arrived) -> tree.Merged | None:
        """What a few events come to, put in one by one; None where that cannot be done."""
        inserter = reading.inserter
        if inserter is None:
            return None
        events = inserter.events(arrived, lambda key: reading.key(prefix, key))
        places = list(dict.fromkeys(place for place, _ in events))
        old = dict(zip(places, self._online.get_many(places), strict=True))
        return inserter.merged(events, old, self._online.get_many)

    def _odd(self, arrived: Arrived) -> NDArray[np.bool_]:
        """Which events correct one of the log, or repeat or correct one of history."""
        if arrived.identities is None:
            return np.zeros(len(arrived), np.bool_)
        return arrived.corrects | self.recorded.among(arrived.source.name, arrived.identities)

    def _any_odd(self, few: Arrived) -> bool:
        """Whether there are such events among a few that were just taken."""
        taken = few.taken
        if taken is None or any(taken.corrects):
            return True
        identities = taken.identities
        return identities is not None and self.recorded.any_of(few.source.name, identities)

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


def _until(arrived: Arrived, position: int) -> int:
    """How many of some events are up to a position."""
    if position < arrived.first:
        return 0
    return int(np.searchsorted(arrived.table.column(POSITION).to_numpy(), position, "right"))
