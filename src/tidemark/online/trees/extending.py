"""Trees of which some chunks only gain events, which is what nearly all new events come to.

No chunk begins or ends elsewhere then.  So chunks are spliced, what their directories say of them
is added to, and nothing is unpacked, of many trees at once.  What may be cut anew is left to
`growing`, and so is what may be forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.cells import Cells
from tidemark.online.rows.codec import HEADER, PREAMBLE, Unpacked, refuse
from tidemark.online.rows.dictionaries import spread
from tidemark.online.rows.merging import pick, recut
from tidemark.online.rows.retention import Retention
from tidemark.online.rows.splicing import splice
from tidemark.online.trees import directories
from tidemark.online.trees.cutting import Cutter
from tidemark.online.trees.directories import (
    COLUMNS,
    DIRECTORIES,
    EVENTS,
    FIRST,
    IDS,
    LAST,
    Children,
    Fetch,
    Item,
    Shelf,
    child_key,
    edited,
    id_of,
    joined,
)
from tidemark.online.trees.sketching import Gaining, gain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.partials import Summaries

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_TOGETHER = 1_024
"""Trees of which a chunk each is in memory at the same time."""

_NONE = -1
"""The place of what is the root itself."""


class Extended(NamedTuple):
    """What is to be written, each root after what is below it, and deleted.

    `left` are the numbers of the trees that are in neither.  `sketched` are the keys of those whose
    sketches are in them, too.
    """

    puts: list[Item]
    deletes: list[bytes]
    left: list[int]
    sketched: set[bytes]


def extend(
    cutter: Cutter,
    keys: Sequence[bytes],
    roots: Sequence[bytes],
    new: Unpacked,
    fetch: Fetch,
    retention: Retention | None,
) -> Extended:
    """Put new events, a segment for each tree, into chunks that stay chunks.

    No new event has the identity of an old one, and the layout is one that can be spliced.
    """
    fit = np.diff(new.timeline.starts) <= cutter.sizes.chunk
    if not fit.any():
        return Extended([], [], list(range(len(keys))), set())
    segments = np.repeat(np.arange(len(keys)), np.diff(new.timeline.starts))
    fit[segments[cutter.beginning(new)]] = False
    mine = np.flatnonzero(fit)
    puts, deletes, sketched = list[Item](), list[bytes](), set[bytes]()
    for first in range(0, len(mine), _TOGETHER):
        some = mine[first : first + _TOGETHER]
        trees: list[int] = some.tolist()
        names, rows = [keys[tree] for tree in trees], [roots[tree] for tree in trees]
        extension = _Extension(cutter, names, rows, pick(new, some), fetch)
        fit[some], more, gone, whole = extension.extended(retention)
        puts += more
        deletes += gone
        sketched |= whole
    return Extended(puts, deletes, np.flatnonzero(~fit).tolist(), sketched)


class _Runs(NamedTuple):
    """New events by the child of a directory into which they fall.

    Those of run r begin at `starts[r]`; its child is number `places[r]` of directory `owners[r]`.
    """

    owners: Words
    places: Words
    starts: Words

    @classmethod
    def of(cls, owners: Words, places: Words) -> _Runs:
        """The runs of events of which each has an owner and a place, both in order."""
        begins = np.append(True, (owners[1:] != owners[:-1]) | (places[1:] != places[:-1]))
        starts = np.flatnonzero(begins)
        return cls(owners[starts], places[starts], np.append(starts, len(owners)))

    def some(self, which: Flags) -> _Runs:
        """Some of the runs; their events are no longer beside each other."""
        return _Runs(self.owners[which], self.places[which], self.starts[:0])


class _Directories:
    """Directories side by side, to be looked into and changed line by line."""

    def __init__(self, rows: Sequence[bytes]) -> None:
        for row in rows:
            if not row.startswith(PREAMBLE) or not directories.is_directory(row):
                refuse(row)
        self.rows: Sequence[bytes] = rows
        self.words = np.frombuffer(b"".join(rows), np.int64)
        self.ends = np.cumsum([len(row) >> 3 for row in rows])
        self.at = np.append(0, self.ends[:-1])
        self.count, self.level = self.words[self.at + 1], self.words[self.at + 3]

    def __getitem__(self, line: tuple[int, Words, Words]) -> Words:
        """A column of some lines: those at places of directories."""
        return self.words[self._where(*line)]

    def places(self, time: Words, starts: Words) -> Words:
        """The last child that begins no later than each event; the first one where none does."""
        words, bounds = self.words, starts.tolist()
        firsts = self.at + HEADER
        found = [
            words[first:stop].searchsorted(time[a:b], "right")
            for first, stop, a, b in zip(
                firsts.tolist(), (firsts + self.count).tolist(), bounds, bounds[1:], strict=False
            )
        ]
        return np.maximum(np.concatenate(found) - 1, 0)

    def with_lines(self, runs: _Runs, lines: Summaries, ids: Words) -> list[bytes]:
        """The directories with other lines in the places of those of runs."""
        cells = (len(lines.starts) - 1) // len(ids)
        begins, sizes = self._cells_of(runs, cells)
        fresh = np.diff(lines.starts)
        columns = (lines.first, lines.last, lines.settled, lines.events, ids)
        words = self.words.copy()
        for column, values in enumerate(columns):
            words[self._where(column, runs.owners, runs.places)] = values
        same = fresh == sizes
        if same.all():
            words[spread(begins, sizes)] = lines.words
        changed = words.tobytes()
        bounds = zip((self.at * 8).tolist(), (self.ends * 8).tolist(), strict=True)
        rows = [changed[a:b] for a, b in bounds]
        if not same.all():
            of_runs = Children(lines, ids)
            several: list[int] = np.unique(runs.owners).tolist()
            for owner in several:
                first, stop = np.searchsorted(runs.owners, [owner, owner + 1]).tolist()
                mine = of_runs.part(first, stop)
                rows[owner] = _relined(self.rows[owner], runs.places[first:stop], mine)
        return rows

    def added(self, cells: Cells, runs: _Runs, fresh: Summaries) -> Summaries:
        """The summaries of lines with those of new events added."""
        from tidemark.kernel.partials import Summaries, combine

        count = len(runs.owners)
        begins, _ = self._cells_of(runs, cells.count)
        starts = np.empty((count, 2, cells.count), np.int64)
        starts[:, 0] = begins.reshape(count, cells.count)
        starts[:, 1] = fresh.starts[:-1].reshape(count, cells.count) + len(self.words)
        pairs = [
            np.stack([self[column, runs.owners, runs.places], values], axis=1).ravel()
            for column, values in enumerate(fresh[2:])
        ]
        words = np.concatenate([self.words, fresh.words])
        both = Summaries(np.append(starts, len(words)), words, *pairs)
        return combine(cells, both, np.arange(0, 2 * count + 1, 2))._replace(
            first=np.minimum(pairs[0][::2], fresh.first), last=np.maximum(pairs[1][::2], fresh.last)
        )

    def _where(self, column: int, owners: Words, places: Words) -> Words:
        where: Words = self.at[owners] + HEADER + column * self.count[owners] + places
        return where

    def _cells_of(self, runs: _Runs, cells: int) -> tuple[Words, Words]:
        """Where the summaries of lines begin, cell after cell, and their sizes."""
        owners, places = runs.owners, runs.places
        begins = np.empty((len(owners), cells + 1), np.int64)
        for cell in range(cells):
            begins[:, cell] = self[COLUMNS + cell, owners, places]
        following = places + 1 < self.count[owners]
        begins[:, cells] = self.ends[owners] - self.at[owners]
        begins[following, cells] = self[COLUMNS, owners[following], places[following] + 1]
        begins += self.at[owners][:, None]
        return begins[:, :-1].ravel(), np.diff(begins, axis=1).ravel()


class _Extension:
    """Trees, each with new events that begin no chunk, and the chunks that these fall into.

    `top` are the roots, `low` the directories of chunks: roots, too, where a tree has no others.
    """

    def __init__(
        self,
        cutter: Cutter,
        keys: Sequence[bytes],
        roots: Sequence[bytes],
        new: Unpacked,
        fetch: Fetch,
    ) -> None:
        self._keys: Sequence[bytes] = keys
        self._fetch = fetch
        shelf = Shelf(fetch)
        self._cutter, self._new = cutter, new
        self._top = top = _Directories(roots)
        time, starts = new.timeline.time, new.timeline.starts
        trees = np.repeat(np.arange(len(keys)), np.diff(starts))
        deep = (top.level == DIRECTORIES)[trees]
        self._upper = _Runs.of(trees, np.where(deep, top.places(time, starts), _NONE))
        self._inner = self._upper.places != _NONE
        below = self._upper.some(self._inner)
        self._inner_keys = self._children(below.owners, top[IDS, below.owners, below.places])
        read = iter(shelf.get(self._inner_keys))
        owners = zip(self._upper.owners.tolist(), self._inner.tolist(), strict=True)
        rows: list[bytes] = [next(read) if inner else roots[tree] for tree, inner in owners]
        self._low = low = _Directories(rows)
        of_events = np.repeat(np.arange(len(rows)), np.diff(self._upper.starts))
        self._runs = runs = _Runs.of(of_events, low.places(time, self._upper.starts))
        self._trees = self._upper.owners[runs.owners]
        self._ids = low[IDS, runs.owners, runs.places]
        self._chunk_keys = self._children(self._trees, self._ids)
        self._chunks = shelf.get(self._chunk_keys)

    def extended(
        self, retention: Retention | None
    ) -> tuple[Flags, list[Item], list[bytes], set[bytes]]:
        """Which trees are as they would be if cut anew; else as `Extended`."""
        fit = np.ones(len(self._keys), np.bool_)
        fit[self._trees[~self._roomy()]] = False
        fit[self._outgrown()] = False
        if retention is not None:
            fit &= ~self._forgetting(retention)
        if not fit.any():
            return fit, [], [], set()
        events = recut(self._new, self._runs.starts)
        done = splice(self._cutter.layout, self._chunks, events)
        fit[self._trees[done.undecided]] = False
        ids = np.fromiter(map(id_of, done.rows), np.int64, len(done.rows))
        fit[self._trees[self._moving(ids)]] = False
        return fit, *self._changes(fit, done.rows, ids)

    def _roomy(self) -> Flags:
        """Which chunks stay whole; one of a single time may be there twice, and is left alone."""
        runs, low = self._runs, self._low
        first, last, events = (
            low[column, runs.owners, runs.places] for column in (FIRST, LAST, EVENTS)
        )
        whole = events + np.diff(runs.starts) <= 2 * self._cutter.sizes.chunk
        return whole & (first < last) & (first < self._new.timeline.time[runs.starts[:-1]])

    def _outgrown(self) -> list[int]:
        """The trees that may need directories between root and chunks, as they have none."""
        top, sizes, found = self._top, self._cutter.sizes, list[int]()
        added = np.diff(self._new.timeline.starts)
        for tree in np.flatnonzero(
            (top.level != DIRECTORIES) & (top.count > sizes.fanout)
        ).tolist():
            places = np.arange(int(top.count[tree]))
            events = top[EVENTS, np.full(len(places), tree), places].sum()
            if events + added[tree] > sizes.deep:
                found.append(tree)
        return found

    def _forgetting(self, retention: Retention) -> Flags:
        """Which trees may have chunks whose events matter no more."""
        trees = np.arange(len(self._keys))
        none = np.zeros(len(trees), np.int64)
        deep = self._top.level == DIRECTORIES
        first, last = self._top[FIRST, trees, none], self._top[LAST, trees, none]
        return np.where(deep, first, last) < retention.low

    def _moving(self, ids: Words) -> Flags:
        """Which chunks may begin or no longer begin a directory, by their new ids."""
        mask = self._cutter.sizes.fanout - 1
        runs, begins = self._runs, ids & mask == 0
        leading = runs.places == 0
        very_first = self._upper.places[runs.owners] <= 0
        lost = leading & ~very_first & (self._ids & mask == 0) & ~begins
        moved: Flags = (self._upper.places[runs.owners] != _NONE) & (lost | (begins & ~leading))
        return moved

    def _changes(
        self, fit: Flags, rows: Sequence[bytes], ids: Words
    ) -> tuple[list[Item], list[bytes], set[bytes]]:
        """What is to be written and deleted for the trees that are fit, and which are sketched."""
        which = fit[self._trees]
        changed = self._lines(self._low, self._runs, which, ids)
        below = self._inner & fit[self._upper.owners]
        inner_rows = [changed[place] for place in np.flatnonzero(below).tolist()]
        inner_ids = np.zeros(len(below), np.int64)
        inner_ids[below] = np.fromiter(map(id_of, inner_rows), np.int64, len(inner_rows))
        tops = self._lines(self._top, self._upper, below, inner_ids)
        keys = [
            *self._children(self._trees[which], ids[which]),
            *self._children(self._upper.owners[below], inner_ids[below]),
        ]
        kept = [row for row, keep in zip(rows, which.tolist(), strict=True) if keep]
        puts = list(zip(keys, [*kept, *inner_rows], strict=True))
        owners: list[int] = self._upper.owners.tolist()
        alone = np.flatnonzero(fit[self._upper.owners] & ~self._inner).tolist()
        deep: list[int] = np.unique(self._upper.owners[below]).tolist()
        puts += [(self._keys[owners[place]], changed[place]) for place in alone]
        puts += [(self._keys[tree], tops[tree]) for tree in deep]
        written = set(keys)
        inner = below[self._inner].tolist()
        before = [key for key, gone in zip(self._chunk_keys, which.tolist(), strict=True) if gone]
        before += [key for key, gone in zip(self._inner_keys, inner, strict=True) if gone]
        deletes = [key for key in before if key not in written]
        if not Cells.of(self._cutter.layout).sketched:
            return puts, deletes, set()
        of_low: list[int] = self._upper.owners.tolist()
        levels = [
            self._gaining(self._low, self._runs, of_low, changed, which),
            self._gaining(self._top, self._upper, range(len(fit)), tops, below),
        ]
        gained = gain(self._cutter.layout, [each for each in levels if each], self._fetch)
        sketched = {self._keys[tree] for tree in np.flatnonzero(fit).tolist()} - gained.lacking
        return gained.puts + puts, gained.deletes + deletes, sketched

    def _gaining(
        self,
        among: _Directories,
        runs: _Runs,
        trees: Sequence[int],
        after: Sequence[bytes],
        which: Flags,
    ) -> Gaining | None:
        """What some runs add to directories, each of a tree; None if there are no such runs."""
        if not which.any():
            return None
        mine, events = runs.some(which), recut(self._new, runs.starts)
        some = events if which.all() else pick(events, np.flatnonzero(which))
        keys = [self._keys[tree] for tree in trees]
        return Gaining(keys, among.rows, after, mine.owners, mine.places, some)

    def _lines(self, among: _Directories, runs: _Runs, which: Flags, ids: Words) -> Sequence[bytes]:
        """Directories with the lines of some runs changed: other ids, and their events added."""
        from tidemark.kernel.partials import summarize  # compiled with the first use

        if not which.any():
            return among.rows
        cells = Cells.of(self._cutter.layout)
        new = recut(self._new, runs.starts)
        some = new if which.all() else pick(new, np.flatnonzero(which))
        fresh = summarize(cells, some.timeline, some.columns, some.filters)
        mine = runs.some(which)
        return among.with_lines(mine, among.added(cells, mine, fresh), ids[which])

    def _children(self, trees: Words, ids: Words) -> list[bytes]:
        """The keys of children of trees."""
        owners: list[int] = trees.tolist()
        return [
            child_key(self._keys[tree], child)
            for tree, child in zip(owners, ids.tolist(), strict=True)
        ]


def _relined(row: bytes, places: Words, lines: Children) -> bytes:
    """A directory with other lines, where their summaries have other sizes."""
    edits = [
        (place, place + 1, lines.part(number, number + 1))
        for number, place in enumerate(places.tolist())
    ]
    children = joined(edited(directories.read(row), edits))
    return directories.pack(directories.level_of(row), children)
