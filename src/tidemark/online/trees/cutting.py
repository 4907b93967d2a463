"""Where rows, chunks and directories begin and end.

An entity of up to `Sizes.split` events is one row.  A larger one is a tree: under its own key a
directory, under `child_key` chunks (rows of consecutive events) and, for very many events,
directories between.  Where a chunk begins follows from the events beside the cut alone, and a child
is named by its bytes.  So the same events give the same tree in whatever order they came, and what
a change does not touch stays as it is.  Views with a step have `tiles` in the place of chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.cells import Cells
from tidemark.kernel.hashing import hash_all
from tidemark.kernel.layout import Layout
from tidemark.online.rows import codec
from tidemark.online.rows.codec import Events, Unpacked
from tidemark.online.rows.merging import pick, recut
from tidemark.online.trees import directories, tiles
from tidemark.online.trees.directories import (
    CHUNKS,
    DIRECTORIES,
    Children,
    Item,
    above,
    id_of,
    under,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Sizes:
    """How trees are cut; part of the format, as the same events are to give the same bytes.

    `chunk` events are in a chunk, and `fanout` chunks in a directory, on average; twice as many at
    most.  Both are powers of two.
    """

    split: int = 1024
    chunk: int = 256
    fanout: int = 128

    @property
    def deep(self) -> int:
        """An entity with more events has directories below its root."""
        return 2 * self.chunk * self.fanout


SIZES = Sizes()


class Cutter:
    """Cuts events into rows, chunks and directories."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.sizes = SIZES

    def written(self, keys: Sequence[bytes], events: Events) -> list[Item]:
        """Rows and trees of whole entities; nothing for one without events."""
        counts = np.diff(events.timeline.starts)
        small = np.flatnonzero((counts > 0) & (counts <= self.sizes.split))
        large = np.flatnonzero(counts > self.sizes.split)
        if len(small) == len(counts):
            return list(zip(keys, codec.pack(self.layout, events), strict=True))
        rows = codec.pack(self.layout, pick(events, small))
        items = [(keys[place], row) for place, row in zip(small.tolist(), rows, strict=True)]
        if len(large):
            names, several = [keys[place] for place in large.tolist()], pick(events, large)
            if self.layout.step:
                items += tiles.written(self.layout, self.sizes.fanout, names, several)
            else:
                items += self._trees(names, several)
        return items

    def chunks(self, events: Unpacked) -> tuple[list[bytes], Children, Words]:
        """The chunks of each segment, what is known of them, and where each segment's begin."""
        from tidemark.kernel.partials import summarize  # compiled with the first use

        starts = events.timeline.starts
        fine = self._cut(events)
        pieces = recut(events, fine)
        rows = codec.pack(self.layout, pieces)
        cells = Cells.of(self.layout)
        known = summarize(cells, pieces.timeline, pieces.columns, pieces.filters)
        ids = np.fromiter(map(id_of, rows), np.int64, len(rows))
        return rows, Children(known, ids), np.searchsorted(fine, starts)

    def inner(self, children: Children) -> tuple[list[bytes], Children]:
        """The directories of consecutive chunks, and what is known of them."""
        return above(self.layout, self.sizes.fanout, CHUNKS, children)

    def root(self, key: bytes, children: Children) -> list[Item]:
        """The root over all chunks, after the directories below it."""
        if children.events <= self.sizes.deep:
            return [(key, directories.pack(CHUNKS, children))]
        rows, inner = self.inner(children)
        items = under(key, inner, rows)
        return [*items, (key, directories.pack(DIRECTORIES, inner))]

    def _trees(self, keys: Sequence[bytes], events: Unpacked) -> list[Item]:
        rows, children, begins = self.chunks(events)
        items: list[Item] = []
        bounds = zip(keys, begins[:-1].tolist(), begins[1:].tolist(), strict=True)
        for key, first, stop in bounds:
            mine = children.part(first, stop)
            items += under(key, mine, rows[first:stop])
            items += self.root(key, mine)
        return items

    def beginning(self, events: Unpacked) -> Flags:
        """Which events begin a chunk, unless the event before them says the same."""
        table = self._said(events)
        n, width = table.shape
        starts: Words = np.arange(n + 1, dtype=np.int64) * (8 * width)
        hashes = hash_all(starts, table.reshape(-1).view(np.uint8))
        found: Flags = hashes & (self.sizes.chunk - 1) == 0
        return found

    def _cut(self, events: Unpacked) -> Words:
        """Where chunks begin, and the end: at some events, and wherever a chunk is full.

        An event begins one if a hash of what it says has enough zeros, unless the event before it
        says the same.
        """
        starts, table = events.timeline.starts, self._said(events)
        begins = self.beginning(events)
        begins[1:] &= (table[1:] != table[:-1]).any(axis=1)
        begins[starts[:-1]] = True
        found = np.append(np.flatnonzero(begins), len(table))
        return directories.split_long(found, 2 * self.sizes.chunk)

    def _said(self, events: Unpacked) -> Words:
        """What events say, a row of words for each: without codes and upper words."""
        timeline = events.timeline
        said = [timeline.time, timeline.time if timeline.known is None else timeline.known]
        if events.identities is not None:
            said.append(events.identities)
        for column, each in zip(events.columns, self.layout.columns, strict=True):
            if each.form != "code":
                said.append(np.where(column.valid, column.words, 0))
        return np.stack(said, axis=1)
