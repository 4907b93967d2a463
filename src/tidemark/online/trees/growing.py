"""The tree of one entity while events are put into it (`cutting` says what a tree is)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.online.rows import codec
from tidemark.online.rows.merging import recut
from tidemark.online.rows.retention import Retention
from tidemark.online.trees import directories
from tidemark.online.trees.cutting import Cutter
from tidemark.online.trees.directories import (
    DIRECTORIES,
    Children,
    Groups,
    Item,
    Shelf,
    child_key,
    edited,
    joined,
    under,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_GROUP = 32
"""The bits of a place above which the number of its directory stands."""


class Cut(NamedTuple):
    """Chunks in the place of the consecutive ones that `run` numbers, and their bytes."""

    run: list[int]
    children: Children
    rows: list[bytes]


class Tree:
    """A tree while events are put into it; only what they touch is read.

    A place is the number of a directory and that of a chunk in it, in one word.  `puts` and
    `deletes` are what the change comes to.
    """

    def __init__(self, cutter: Cutter, key: bytes, root: bytes, shelf: Shelf) -> None:
        self._cutter, self._key, self._shelf = cutter, key, shelf
        self._groups = Groups(key, root, shelf)
        self._top = self._groups.top
        self._gone: dict[int, tuple[int, int]] = {}
        self._alive: set[int] = set()
        self.puts: list[Item] = []
        self.deletes: list[bytes] = []

    def above(self, time: Words) -> list[bytes]:
        """The keys of the directories into which events of these times fall."""
        if not self._groups.deep:
            return []
        return [self._child(self._top, group) for group in set(self._groups_of(time).tolist())]

    def below(self, time: Words) -> list[bytes]:
        """The keys of the chunks that events of these times change, unless some are tied."""
        return [self.chunk_key(place) for run in self.runs(self._about(time)[0]) for place in run]

    def chunk_key(self, place: int) -> bytes:
        """Where a chunk is."""
        return self._child(self._groups[place >> _GROUP], _chunk(place))

    def located(self, time: Words, known: Words) -> Words:
        """The chunk that each new event falls into: the last one that begins no later."""
        places, tied = self._about(time)
        for i in np.flatnonzero(tied).tolist():
            # Of several that begin at the same time, one may begin with an event known later.
            moment, place = (int(time[i]), int(known[i])), int(places[i])
            while self._first(place) > moment and (before := self._before(place)) is not None:
                place = before
            places[i] = place
        return places

    def runs(self, places: Words) -> list[list[int]]:
        """The chunks that are cut anew together: a full one may move where the next begins."""
        full = 2 * self._cutter.sizes.chunk
        runs: list[list[int]] = []
        for place in dict.fromkeys(places.tolist()):
            if runs and place <= runs[-1][-1]:
                continue
            runs.append([place])
            last: int | None = place
            while last is not None and self._events_of(last) >= full:
                last = self._after(last)
                if last is not None:
                    runs[-1].append(last)
        return runs

    def replace(self, cuts: Sequence[Cut], retention: Retention | None) -> None:
        """Put new chunks in the place of old ones."""
        for cut in cuts:
            self.puts += under(self._key, cut.children, cut.rows)
        self._splice(cuts, retention)
        # What is written again as it was is neither written nor deleted.
        before = {child_key(self._key, each) for each in self._gone}
        gone = [child_key(self._key, each) for each in self._gone if self._deletable(each)]
        written = {key for key, _ in self.puts}
        self.puts = [item for item in self.puts if item[0] not in before]
        self.deletes = [key for key in gone if key not in written]

    def _groups_of(self, time: Words) -> Words:
        firsts = self._top.known.first
        return np.maximum(np.searchsorted(firsts, time, "right") - 1, 0)

    def _about(self, time: Words) -> tuple[Words, Flags]:
        """The last chunk that begins at or before each time, and whether it begins just then."""
        if not self._groups.deep:
            return _last_before(self._top.known.first, time)
        groups = self._groups_of(time)
        places, tied = np.zeros(len(time), np.int64), np.zeros(len(time), np.bool_)
        for group in np.unique(groups).tolist():
            mine = groups == group
            at, same = _last_before(self._groups[group].known.first, time[mine])
            places[mine], tied[mine] = at + (group << _GROUP), same
        return places, tied

    def _first(self, place: int) -> tuple[int, int]:
        """The time of the first event of a chunk, and the moment at which it became known."""
        (chunk,) = self._shelf.get([self.chunk_key(place)])
        words: Words = np.frombuffer(chunk, np.int64)
        time = int(words[codec.HEADER])
        late = int(words[0]) >> 48 & codec.HAS_KNOWN
        return time, int(words[codec.HEADER + int(words[1])]) if late else time

    def _events_of(self, place: int) -> int:
        return int(self._groups[place >> _GROUP].known.events[_chunk(place)])

    def _child(self, children: Children, place: int) -> bytes:
        return child_key(self._key, int(children.ids[place]))

    def _deletable(self, child: int) -> bool:
        """Whether a child that was replaced is nowhere else in the tree.

        Only one whose events all have the same time can be there twice, with the same bytes.
        """
        first, last = self._gone[child]
        known = self._top.known
        for group in range(len(self._groups)) if first == last else ():
            if group not in self._groups and known.first[group] <= first <= known.last[group]:
                self._alive.update(self._groups[group].ids.tolist())
        return child not in self._alive

    def _splice(self, cuts: Sequence[Cut], retention: Retention | None) -> None:
        """Put the new chunks in the place of the old ones, and write all directories above."""
        edits: dict[int, list[tuple[int, int, Children | None]]] = {}
        for cut in cuts:
            fresh: Children | None = cut.children
            for group in dict.fromkeys(place >> _GROUP for place in cut.run):
                mine = [_chunk(place) for place in cut.run if place >> _GROUP == group]
                self._forget(self._groups[group], mine)
                edits.setdefault(group, []).append((mine[0], mine[-1] + 1, fresh))
                fresh = None
        changed = {group: edited(self._groups[group], each) for group, each in edits.items()}
        if retention is not None:
            self._expire(changed, retention)
        events = sum(
            sum(part.events for part in changed[group])
            if group in changed
            else int(self._top.known.events[group])
            for group in range(len(self._groups))
        )
        if self._groups.deep and events > self._cutter.sizes.deep:
            self._write_inner(changed)
            return
        if self._groups.deep:
            self._forget(self._top, range(len(self._top)))
            self._groups.load(range(len(self._groups)))
        children = joined(
            [
                part
                for group in range(len(self._groups))
                for part in changed.get(group, [self._groups[group]])
            ]
        )
        if events > self._cutter.sizes.split:
            self._alive.update(children.ids.tolist())
            self.puts += self._cutter.root(self._key, children)
        else:
            self._write_row(children)

    def _write_inner(self, changed: dict[int, list[Children]]) -> None:
        """Write the directories that change, and the root above them."""
        edits: list[tuple[int, int, Children | None]] = []
        for first, stop in self._group_runs(changed):
            self._forget(self._top, range(first, stop))
            self._groups.load(range(first, stop))
            parts = [
                part
                for group in range(first, stop)
                for part in changed.get(group, [self._groups[group]])
            ]
            fresh = None
            if parts:
                rows, fresh = self._cutter.inner(joined(parts))
                self.puts += under(self._key, fresh, rows)
            edits.append((first, stop, fresh))
        top = joined(edited(self._top, edits))
        self._alive.update(top.ids.tolist())
        for group in range(len(self._groups)):
            as_it_was = [self._groups[group]] if group in self._groups else []
            for each in changed.get(group, as_it_was):
                self._alive.update(each.ids.tolist())
        self.puts.append((self._key, directories.pack(DIRECTORIES, top)))

    def _group_runs(self, changed: dict[int, list[Children]]) -> list[tuple[int, int]]:
        """The directories that are cut anew together, as those of `_runs` for chunks.

        One whose first chunk is another now may no longer begin there.
        """
        sizes = self._cutter.sizes
        runs: list[tuple[int, int]] = []
        for group in sorted(changed):
            first, stop = group, group + 1
            while first and first in changed and not _begins(changed[first], sizes.fanout):
                first -= 1
            while stop < len(self._groups) and len(self._groups[stop - 1]) >= 2 * sizes.fanout:
                stop += 1
            while runs and runs[-1][1] >= first:
                before = runs.pop()
                first, stop = min(first, before[0]), max(stop, before[1])
            runs.append((first, stop))
        return runs

    def _write_row(self, children: Children) -> None:
        """Write the events that are left as one row."""
        written = dict(self.puts)
        keys = [child_key(self._key, each) for each in children.ids.tolist()]
        rows = [written.get(key) or self._shelf.get([key])[0] for key in keys]
        layout = self._cutter.layout
        events = codec.unpack_rows(layout, rows)
        whole = recut(events, events.timeline.starts[[0, -1]])
        self.puts = [(self._key, codec.pack(layout, whole)[0])]
        self._forget(children, range(len(children)))

    def _expire(self, changed: dict[int, list[Children]], retention: Retention) -> None:
        """Leave out the chunks at the beginning whose events matter no more."""
        top = self._top.known
        for group in range(len(self._groups)):
            if self._groups.deep and int(top.first[group]) >= retention.low:
                return
            parts = changed.get(group, [self._groups[group]])
            if not parts:
                continue
            mine = joined(parts)
            old = mine.known.last < retention.low
            lasting = _lasting(mine, retention)
            later = self._groups.deep and _lasting(self._top, retention)[group + 1 :].any()
            count = int(np.argmin(np.append(old, False)))
            while count and not (later or lasting[count:].any()):
                count -= 1
            if not count:
                return
            self._forget(mine, range(count))
            changed[group] = [mine.part(count, len(mine))] if count < len(mine) else []
            if count < len(mine):
                return

    def _forget(self, children: Children, places: Iterable[int]) -> None:
        """Note that children of a directory are replaced."""
        known = children.known
        for place in places:
            bounds = int(known.first[place]), int(known.last[place])
            self._gone[int(children.ids[place])] = bounds

    def _before(self, place: int) -> int | None:
        if _chunk(place):
            return place - 1
        group = (place >> _GROUP) - 1
        return (group << _GROUP) + len(self._groups[group]) - 1 if group >= 0 else None

    def _after(self, place: int) -> int | None:
        group = place >> _GROUP
        if _chunk(place) + 1 < len(self._groups[group]):
            return place + 1
        return group + 1 << _GROUP if group + 1 < len(self._groups) else None


def _chunk(place: int) -> int:
    """The number of a chunk in its directory."""
    return place & (1 << _GROUP) - 1


def _last_before(firsts: Words, time: Words) -> tuple[Words, Flags]:
    """The last child that begins no later, the first one where none does; and if it begins then."""
    places: Words = np.maximum(np.searchsorted(firsts, time, "right") - 1, 0)
    return places, firsts[places] == time


def _begins(parts: Sequence[Children], fanout: int) -> bool:
    """Whether a directory begins with the first of these children."""
    return bool(parts) and int(parts[0].ids[0]) & (fanout - 1) == 0


def _lasting(children: Children, retention: Retention) -> Flags:
    """Which children hold an event that is visible from the earliest moment on, for ever."""
    known = children.known
    cells = (len(known.starts) - 1) // len(children)
    counts = known.words[known.starts[:-1:cells]]
    return (known.settled <= retention.floor) & (counts > 0)
