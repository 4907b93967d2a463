"""From the log to online rows where a few events come alone: one read and one write count them.

What follows the log is kept as this process left it.  The read that fetches the rows fetches the
records, too; where they are not what was left, the general way (`apply`) begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from tidemark.engines.log import Newest
from tidemark.errors import StoreConflict
from tidemark.ingest.arrived import Arrived
from tidemark.ingest.few import Inserter
from tidemark.ingest.serving import Followers, Pair, Reading, Serving
from tidemark.model.graph import Definitions, Source
from tidemark.model.window import clock
from tidemark.online.states.keys import ANY_MOMENT, Record
from tidemark.online.states.pulse import delays_key, read_delays
from tidemark.online.stores.protocol import OnlineStore

_encode = msgspec.msgpack.Encoder().encode


class _Rows(NamedTuple):
    """The rows of a state: what they take of an event, and where they are."""

    inserter: Inserter
    reading: Reading
    prefix: bytes

    def place(self, key: Sequence[object]) -> bytes:
        """The key of the row of one entity."""
        return self.reading.key(self.prefix, key)


@dataclass(frozen=True)
class _Left:
    """What follows a source as it was left: all states hold the log up to `position`.

    `rows` are those of all states; None where not all take events one by one.
    """

    source: Source
    definitions: Definitions
    followers: Followers
    position: int | None
    rows: Sequence[_Rows] | None

    @property
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
            serving.append(Serving(each.place, _encode(record), record, each.readings))
        followers = Followers(serving, self.followers.others)
        return _Left(self.source, self.definitions, followers, position, self.rows)


class FewApplier:
    """Counts a few events of a source whose states are as this process left them."""

    def __init__(self, online: OnlineStore, project: str) -> None:
        self._online, self._project = online, project
        self._left: dict[str, _Left] = {}

    def leave(self, definitions: Definitions, source: Source, followers: Followers) -> None:
        """Keep what follows a source, as it was just read or written."""
        position = followers.reached
        rows = self._rows(source, followers, position)
        self._left[source.name] = _Left(source, definitions, followers, position, rows)

    def count(self, definitions: Definitions, arrived: Arrived) -> Newest | None:
        """Count new events in all states; None, and nothing is done, where that is not possible.

        None of them repeats or corrects what history or the log has.
        """
        name = arrived.source.name
        left = self._left.get(name)
        if left is None or left.definitions is not definitions or left.rows is None:
            return None
        if left.position != arrived.first - 1 or left.source != arrived.source:
            return None
        taken = [rows.inserter.events(arrived, rows.place) for rows in left.rows]
        records = left.records
        delays = delays_key(self._project, name)
        places = list(dict.fromkeys(place for events in taken for place, _ in events))
        stored = self._online.get_many([*(place for place, _ in records), delays, *places])
        if any(held != was for held, (_, was) in zip(stored, records, strict=False)):
            return None
        before, *old = stored[len(records) :]
        held = dict(zip(places, old, strict=True))
        puts, deletes = list[Pair](), list[bytes]()
        for rows, events in zip(left.rows, taken, strict=True):
            try:
                merged = rows.inserter.merged(events, held, self._online.get_many)
            except StoreConflict:
                return None
            if merged is None:
                return None
            puts += merged.puts
            deletes += merged.deletes
        newest = arrived.newest
        after = left.moved(newest)
        puts += [(each.place, each.stored) for each in after.followers.serving]
        now = clock()
        counted = read_delays(before).and_these(now, arrived.times, arrived.seen)
        puts.append((delays, _encode(counted)))
        expect = {each.place: each.stored for each in left.followers.serving}
        try:
            self._online.put_many(puts, deletes=deletes, expect=expect, durable=False)
        except StoreConflict:
            return None
        self._left[name] = after
        return newest

    def _rows(
        self, source: Source, followers: Followers, position: int | None
    ) -> list[_Rows] | None:
        found: list[_Rows] = []
        for each in followers.serving:
            for state in each.record.states:
                reading = each.readings.get(state.state)
                if reading is None:
                    continue
                alike = state.position == position and reading.source == source
                if reading.inserter is None or state.floor != ANY_MOMENT or not alike:
                    return None
                found.append(_Rows(reading.inserter, reading, each.prefix(self._project, state)))
        return found
