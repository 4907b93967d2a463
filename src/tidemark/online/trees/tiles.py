"""Tiles: what is kept of an entity with many events, in a view whose windows move in steps.

Every window of such a view begins and ends at multiples of the step.  So what lies between two of
them is never needed event by event, and its summary is all that is kept: a *tile* has the events
between two multiples, or those at one.  The state then grows with the steps of the windows, not
with the traffic.  A directory of tiles has no children under keys of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.cells import Cells
from tidemark.kernel.hashing import hash_all
from tidemark.kernel.layout import Layout
from tidemark.online.rows.codec import NEVER, Unpacked
from tidemark.online.rows.retention import Retention
from tidemark.online.trees import directories
from tidemark.online.trees.directories import (
    DIRECTORIES,
    TILES,
    Children,
    Fetch,
    Groups,
    Item,
    Shelf,
    above,
    child_key,
    edited,
    joined,
    under,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]


def tiles_of(layout: Layout, events: Unpacked) -> tuple[Children, Words]:
    """The tiles of each segment of events, and where those of each segment begin."""
    from tidemark.kernel.partials import summarize  # compiled with the first use

    timeline = events.timeline
    numbers = _numbers(layout.step, timeline.time)
    begins = np.append(True, numbers[1:] != numbers[:-1])
    begins[timeline.starts[:-1]] = True
    starts = np.append(np.flatnonzero(begins), len(numbers))
    pieces = replace(timeline, starts=starts)
    known = summarize(Cells.of(layout), pieces, events.columns, events.filters)
    return Children(known, _ids(numbers[starts[:-1]])), np.searchsorted(starts, timeline.starts)


def written(layout: Layout, fanout: int, keys: Sequence[bytes], events: Unpacked) -> list[Item]:
    """What is to be written for entities, of which each has events."""
    tiles, begins = tiles_of(layout, events)
    items: list[Item] = []
    for key, first, stop in zip(keys, begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        items += _whole(layout, fanout, key, tiles.part(first, stop))
    return items


class Tiles:
    """The tiles of one entity while events are put into them; only what they touch is read.

    `puts` and `deletes` are what the change comes to.
    """

    def __init__(
        self,
        layout: Layout,
        fanout: int,
        key: bytes,
        root: bytes,
        fetch: Fetch,
        told_apart: bool,
    ) -> None:
        self._layout, self._fanout, self._key = layout, fanout, key
        self._told_apart = told_apart
        self._groups = Groups(key, root, Shelf(fetch))
        self.puts: list[Item] = []
        self.deletes: list[bytes] = []

    def insert(self, new: Unpacked, retention: Retention | None) -> bool:
        """Add events that are in no tile yet; False, and nothing else, where tiles do not suffice.

        That is for events that may be versions of others, and for those so old that retention
        decides about them.
        """
        timeline = new.timeline
        if not self._told_apart and new.identities is not None:
            return False
        if timeline.until is not None and (timeline.until != NEVER).any():
            return False
        if retention is not None and int(timeline.time[0]) < retention.low:
            return False
        fresh, _ = tiles_of(self._layout, new)
        changed = self._merged(fresh)
        if not self._groups.deep:
            (tiles,) = changed.values()
            self.puts = _whole(self._layout, self._fanout, self._key, tiles)
            return True
        top = self._groups.top
        edits: list[tuple[int, int, Children | None]] = []
        before: set[bytes] = set()
        for first, stop in self._runs(changed):
            known = joined([changed.get(each) or self._groups[each] for each in range(first, stop)])
            rows, inner = above(self._layout, self._fanout, TILES, known)
            self.puts += under(self._key, inner, rows)
            before |= {child_key(self._key, each) for each in top.ids[first:stop].tolist()}
            edits.append((first, stop, inner))
        kept = {key for key, _ in self.puts}
        self.puts = [item for item in self.puts if item[0] not in before]
        self.deletes = sorted(before - kept)
        self.puts.append((self._key, directories.pack(DIRECTORIES, joined(edited(top, edits)))))
        return True

    def _merged(self, fresh: Children) -> dict[int, Children]:
        """The directories that new tiles fall into, with them."""
        numbers = self._number_of(fresh)
        place = np.zeros(len(fresh), np.int64)
        if self._groups.deep:
            found = np.searchsorted(self._number_of(self._groups.top), numbers, "right")
            place = np.maximum(found - 1, 0)
        self._groups.load(place.tolist())
        merged: dict[int, Children] = {}
        for group in sorted(set(place.tolist())):
            first, stop = np.searchsorted(place, [group, group + 1]).tolist()
            merged[group] = self._added(self._groups[group], fresh.part(first, stop))
        return merged

    def _added(self, old: Children, new: Children) -> Children:
        """The tiles of both; two of the same events' span become one."""
        from tidemark.kernel.partials import combine

        before, after = self._number_of(old), self._number_of(new)
        places = np.searchsorted(before, after, "right").tolist()
        both = joined(edited(old, [(at, at, new.part(i, i + 1)) for i, at in enumerate(places)]))
        numbers = self._number_of(both)
        runs = np.append(np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])), len(numbers))
        known = combine(Cells.of(self._layout), both.known, runs)._replace(
            first=np.minimum.reduceat(both.known.first, runs[:-1]),
            last=np.maximum.reduceat(both.known.last, runs[:-1]),
        )
        return Children(known, both.ids[runs[:-1]])

    def _runs(self, changed: Iterable[int]) -> list[tuple[int, int]]:
        """The directories that are cut anew together: a full one may move where the next begins."""
        runs: list[tuple[int, int]] = []
        for group in sorted(changed):
            if runs and group < runs[-1][1]:
                continue
            stop = group + 1
            while stop < len(self._groups) and len(self._groups[stop - 1]) >= 2 * self._fanout:
                stop += 1
            runs.append((group, stop))
        return runs

    def _number_of(self, children: Children) -> Words:
        return _numbers(self._layout.step, children.known.first)


def _whole(layout: Layout, fanout: int, key: bytes, tiles: Children) -> list[Item]:
    """The directories of all tiles of an entity, the root last."""
    if len(tiles) <= 2 * fanout:
        return [(key, directories.pack(TILES, tiles))]
    rows, inner = above(layout, fanout, TILES, tiles)
    return [*under(key, inner, rows), (key, directories.pack(DIRECTORIES, inner))]


def _numbers(step: int, times: Words) -> Words:
    """The number of the tile of each time: even for multiples of the step, odd between them.

    A window may include its ends or not, so what lies on a multiple is told from what lies behind.
    """
    whole, rest = np.divmod(times, step)
    numbers: Words = 2 * whole + (rest != 0)
    return numbers


def _ids(numbers: Words) -> Words:
    """What says where directories begin: a hash of the tile's number."""
    return hash_all(np.arange(len(numbers) + 1) * 8, numbers.view(np.uint8))
