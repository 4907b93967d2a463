"""A few events that come while nothing else happens: one read and one write count them.

What follows the log is kept as this process left it.  The read that fetches the rows fetches the
records, too; where they are not what was left, the general way (`apply`) begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import msgspec

from tidemark.engines.log import Newest
from tidemark.errors import StoreConflict
from tidemark.ingest.serving import Followers, Pair, Reading, Serving
from tidemark.ingest.single import ANY_MOMENT, Arrived, Single
from tidemark.model.graph import Definitions, Source
from tidemark.online.keys import Record
from tidemark.online.protocol import OnlineStore
from tidemark.online.pulse import delays_key, read_delays
from tidemark.online.single import Event


class _Rows(NamedTuple):
    """The rows of a state: what they take of an event, and where they are."""

    single: Single
    reading: Reading
    prefix: bytes


@dataclass(frozen=True)
class _Left:
    """What follows a source as it was left: all states hold the log up to `position`."""

    project: str
    definitions: Definitions
    source: Source
    followers: Followers
    position: int | None

    @cached_property
    def rows(self) -> list[_Rows] | None:
        """The rows of all states; None where not all take events one by one."""
        found: list[_Rows] = []
        for each in self.followers.serving:
            for state in each.record.states:
                reading = each.readings.get(state.state)
                if reading is None:
                    continue
                alike = state.position == self.position and reading.source == self.source
                if reading.single is None or state.floor != ANY_MOMENT or not alike:
                    return None
                found.append(_Rows(reading.single, reading, each.prefix(self.project, state)))
        return found

    @cached_property
    def records(self) -> list[tuple[bytes, bytes | None]]:
        """The records of all views of the source, and what they hold."""
        serving = [(each.place, each.stored) for each in self.followers.serving]
        return [*serving, *self.followers.others]

    def moved(self, newest: Newest) -> _Left:
        """What follows once all states hold the log up to its newest event."""
        position, seen = newest.position, newest.seen
        serving: list[Serving] = []
        for each in self.followers.serving:
            states = tuple(
                msgspec.structs.replace(state, until=max(state.until, seen), position=position)
                if state.state in each.readings
                else state
                for state in each.record.states
            )
            record = Record(each.record.format, states, each.record.leaving)
            stored = msgspec.msgpack.encode(record)
            serving.append(Serving(each.place, stored, record, each.readings))
        followers = Followers(serving, self.followers.others)
        after = replace(self, followers=followers, position=position)
        after.__dict__["rows"] = self.rows  # the same ones, which take long to find
        return after


class Quick:
    """Counts a few events of a source whose states are as this process left them."""

    def __init__(self, online: OnlineStore, project: str) -> None:
        self._online, self._project = online, project
        self._left: dict[str, _Left] = {}

    def leave(self, definitions: Definitions, source: Source, followers: Followers) -> None:
        """Keep what follows a source, as it was just read or written."""
        left = _Left(self._project, definitions, source, followers, followers.reached)
        self._left[source.name] = left

    def count(self, definitions: Definitions, arrived: Arrived) -> bool:
        """Count new events in all states, if that is possible; nothing is done otherwise.

        None of them repeats or corrects what history or the log has.
        """
        name = arrived.source.name
        left = self._left.get(name)
        if left is None or left.definitions is not definitions or left.rows is None:
            return False
        if left.position != arrived.first - 1 or left.source != arrived.source:
            return False
        events = [self._events(rows, arrived) for rows in left.rows]
        records = left.records
        delays = delays_key(self._project, name)
        places = list(dict.fromkeys(place for some in events for place, _ in some))
        stored = self._online.get_many([*(place for place, _ in records), delays, *places])
        if any(held != was for held, (_, was) in zip(stored, records, strict=False)):
            return False
        before, *old = stored[len(records) :]
        held = dict(zip(places, old, strict=True))
        puts: list[Pair] = []
        for rows, some in zip(left.rows, events, strict=True):
            taken = rows.single.taken(some, held)
            if taken is None:
                return False
            puts += taken.items()
        after = left.moved(arrived.newest)
        puts += [(each.place, each.stored) for each in after.followers.serving]
        now = time.time_ns() // 1_000
        counted = read_delays(before).and_these(now, arrived.times, arrived.seen)
        puts.append((delays, msgspec.msgpack.encode(counted)))
        expect = {each.place: each.stored for each in left.followers.serving}
        try:
            self._online.put_many(puts, expect=expect, durable=False)
        except StoreConflict:
            return False
        self._left[name] = after
        return True

    def _events(self, rows: _Rows, arrived: Arrived) -> Sequence[tuple[bytes, Event]]:
        return rows.single.events(arrived, lambda key: rows.reading.key(rows.prefix, key))
