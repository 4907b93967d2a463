"""Partials: what is kept of many events, so that a window need not look at each of them.

The events of an entity that has very many lie in a tree (`tidemark.kernel.tree`).  A *child* of a
node is a chunk of events or a node of such.  For every *cell*, which is a column and a filter that
features of the view need, the parent keeps a *summary* of each child.  A summary counts the events
that are never replaced by a later version, so it holds at any moment from which on it is settled
which events those are.

A summary is a run of words; later parts are there if the cell needs them:

    count, newest                 how many events count, and the time of the newest (-2^63: none)
    smallest, largest             keys of `extremes.ranked_key`, of which the larger one wins
    nan, inf, -inf, base, n, ...  how many values are none, and n limbs of the exact sum of the rest
    base, n, ...                  n limbs of the exact sum of squares

Limbs are carried, and cover what was replaced as well, so that equal events give equal words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from tidemark.kernel import exact
from tidemark.kernel.cells import CELL_NEEDS, EXTREMES, SQUARES, SUMS, Cells
from tidemark.kernel.compiled import (
    BYTES,
    FOR_TREES,
    INTEGER,
    NEW_WORDS,
    WORD_ROWS,
    WORDS,
    entry,
    inlined,
    nested,
    ready,
)
from tidemark.kernel.digits import MASK
from tidemark.kernel.encoding import DECIMAL, FLOAT, I64_MAX, I64_MIN
from tidemark.kernel.extremes import ranked_key
from tidemark.kernel.sums import add_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel import Timeline

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]
    Flags = NDArray[np.bool_]

NEWEST, SPECIAL, BASE = 1, 0, 3
"""Places in a summary, and in its part about sums."""


class Values(Protocol):
    """The values of one input column (see `Layout`), for the events of a timeline."""

    @property
    def words(self) -> Words:
        """One word for each event, int64[N]."""
        ...

    @property
    def high(self) -> Words | None:
        """The upper words of decimals."""
        ...

    @property
    def valid(self) -> Flags:
        """False where the value is null, bool[N]."""
        ...


class Summaries(NamedTuple):
    """The summaries of S children for C cells, and what else their parent keeps of them.

    That of child s and cell c is `words[starts[s * C + c]:starts[s * C + c + 1]]`.  `first` and
    `last` are the times of a child's events, `events` their number; at any moment from `settled` on
    all of them are known and those that are ever replaced have been.
    """

    starts: Words
    words: Words
    first: Words
    last: Words
    settled: Words
    events: Words


def summarize(
    cells: Cells, timeline: Timeline, columns: Sequence[Values], filters: Sequence[Flags]
) -> Summaries:
    """The summaries of chunks: each segment of the timeline is one, and none is empty.

    `columns` and `filters` follow the layout.
    """
    ready(FOR_TREES)
    starts, time = words_of(timeline.starts), words_of(timeline.time)
    until = words_of(timeline.until)
    children = len(starts) - 1
    covers = np.zeros((children * cells.count, 4), np.int64)
    inputs: list[tuple[Words, Words, Bytes]] = []
    for c in range(cells.count):
        _, _, kind, needs = map(int, cells.table[c])
        words, high, counts = input_of(cells, c, columns, filters)
        inputs.append((words, high, counts))
        if needs & SUMS:
            covers[c :: cells.count] = _covers(starts, words, counts, kind)
    ends = _ends(np.tile(cells.table[:, CELL_NEEDS], children), covers)
    out = np.zeros(int(ends[-1]), np.int64)
    for c, (_, _, kind, needs) in enumerate(cells.table.tolist()):
        at = np.ascontiguousarray(ends[c : -1 : cells.count])
        cover = np.ascontiguousarray(covers[c :: cells.count])
        cast("Any", _summarize_cell)(
            starts, time, until, *inputs[c], kind, needs, cover, at, out
        )  # fmt: skip
    known = time if timeline.known is None else timeline.known
    settled = np.maximum.reduceat(known, starts[:-1])
    if len(until):
        replaced = np.where(until == I64_MAX, I64_MIN, until)
        settled = np.maximum(settled, np.maximum.reduceat(replaced, starts[:-1]))
    return Summaries(
        ends, out, time[starts[:-1]], time[starts[1:] - 1], settled, np.diff(starts)
    )  # fmt: skip


def combine(cells: Cells, children: Summaries, runs: Words) -> Summaries:
    """The summaries of nodes: node r has the children `[runs[r], runs[r + 1])`, never none."""
    ready(FOR_TREES)
    runs = words_of(runs)
    nodes = len(runs) - 1
    needs = np.ascontiguousarray(cells.table[:, CELL_NEEDS])
    covers = np.zeros((nodes * cells.count, 4), np.int64)
    cast("Any", _combined_covers)(children.starts, children.words, needs, runs, covers)
    ends = _ends(np.tile(needs, nodes), covers)
    out = np.zeros(int(ends[-1]), np.int64)
    cast("Any", _combine)(children.starts, children.words, needs, runs, covers, ends, out)
    return Summaries(
        ends,
        out,
        children.first[runs[:-1]],
        children.last[runs[1:] - 1],
        np.maximum.reduceat(children.settled, runs[:-1]),
        np.add.reduceat(children.events, runs[:-1]),
    )


def input_of(
    cells: Cells, cell: int, columns: Sequence[Values], filters: Sequence[Flags]
) -> tuple[Words, Words, Bytes]:
    """The words and the upper words of a cell, and which events count; empty if not needed."""
    column, filter_, _, needs = map(int, cells.table[cell])
    flags = [columns[column].valid] if column >= 0 else []
    flags += [filters[filter_]] if filter_ >= 0 else []
    counts = np.logical_and.reduce(flags).view(np.uint8) if flags else np.empty(0, np.uint8)
    read = column >= 0 and needs
    return (
        words_of(columns[column].words if read else None),
        words_of(columns[column].high if read else None),
        counts,
    )


def words_of(values: NDArray[Any] | None) -> Words:
    """Values as compiled code takes them; none where they are absent."""
    if values is None:
        return np.empty(0, np.int64)
    values = np.ascontiguousarray(values)
    if values.dtype == np.float64:
        return values.view(np.int64)
    return values.astype(np.int64, copy=False)


def _ends(needs: Words, covers: NDArray[np.int64]) -> Words:
    """Where each summary begins, and where the last one ends."""
    size = 2 + 2 * (needs & EXTREMES)
    size += np.where(needs & SUMS, 5 + covers[:, 1], 0) + np.where(
        needs & SQUARES, 2 + covers[:, 3], 0
    )
    return np.concatenate(([0], np.cumsum(size)))


def _covers(starts: Words, words: Words, counts: Bytes, kind: int) -> NDArray[np.int64]:
    """The limbs of the sums of each chunk, as the fields of an `exact.Window`; 0 if it has none."""
    covers = np.empty((len(starts) - 1, 4), np.int64)
    if kind == FLOAT:
        cast("Any", _float_covers)(starts, words, counts, covers)
    else:
        covers[:] = exact.DECIMAL_WINDOW if kind == DECIMAL else exact.INT_WINDOW
    return covers


@entry(WORDS, WORDS, BYTES, WORD_ROWS)
def _float_covers(starts: Words, words: Words, counts: Bytes, covers: NDArray[np.int64]) -> None:
    for s in range(len(starts) - 1):
        a, b = starts[s], starts[s + 1]
        low, high = exact.exponents(words[a:b], counts[a:b])
        base = limbs = square_base = square_limbs = 0
        if low <= high:
            base, limbs, square_base, square_limbs = exact.cover_exponents(low, high)
        covers[s, 0], covers[s, 1] = base, limbs
        covers[s, 2], covers[s, 3] = square_base, square_limbs


@entry(*(WORDS,) * 5, BYTES, *(INTEGER,) * 2, WORD_ROWS, WORDS, NEW_WORDS)
def _summarize_cell(
    starts: Words,
    time: Words,
    until: Words,
    words: Words,
    high: Words,
    counts: Bytes,
    kind: int,
    needs: int,
    covers: NDArray[np.int64],
    ends: Words,
    out: Words,
) -> None:
    """Write the summaries of one cell, of all chunks."""
    for s in range(len(starts) - 1):
        at = ends[s]
        extremes, special, acc, squares = start_summary(out, at, needs, covers[s])
        count, newest = 0, I64_MIN
        for p in range(starts[s], starts[s + 1]):
            if (len(counts) and counts[p] == 0) or (len(until) and until[p] != I64_MAX):
                continue
            count += 1
            newest = time[p]
            if needs & EXTREMES:
                extremes[0] = max(extremes[0], ranked_key(words[p], kind, -1))
                extremes[1] = max(extremes[1], ranked_key(words[p], kind, 1))
            if needs & SUMS:
                base, square_base = covers[s, 0], covers[s, 2]
                add_value(acc, squares, base, square_base, special, words, high, kind, p, 1)
        out[at], out[at + NEWEST] = count, newest
        carry(acc)
        carry(squares)


@nested
def start_summary(
    out: Words, at: int, needs: int, cover: Words
) -> tuple[Words, Words, Words, Words]:
    """Write the parts of an empty summary at a place of zeros.

    Returns its extremes, its special values, its limbs and those of squares, each empty if absent.
    """
    at += 2
    extremes = out[at : at + (2 if needs & EXTREMES else 0)]
    extremes[:] = I64_MIN
    at += len(extremes)
    if needs & SUMS == 0:
        return extremes, out[:0], out[:0], out[:0]
    special = out[at : at + BASE]
    out[at + BASE], out[at + BASE + 1] = cover[0], cover[1]
    at += BASE + 2
    acc = out[at : at + cover[1]]
    at += len(acc)
    if needs & SQUARES == 0:
        return extremes, special, acc, out[:0]
    out[at], out[at + 1] = cover[2], cover[3]
    return extremes, special, acc, out[at + 2 : at + 2 + cover[3]]


@nested
def carry(limbs: Words) -> None:
    """Bring all limbs but the highest into [0, 2^32), which leaves one form of each sum."""
    for i in range(len(limbs) - 1):
        limbs[i + 1] += limbs[i] >> 32
        limbs[i] &= MASK


@nested
def add_limbs(acc: Words, base: int, words: Words, at: int) -> int:
    """Add limbs that lie at a place of words, after their base and number; return what follows."""
    limbs = words[at + 1]
    place = np.uint64(words[at] - base)
    for i in range(limbs):
        acc[place + np.uint64(i)] += words[at + 2 + i]
    end: int = at + 2 + limbs
    return end


@nested
def widen(cover: Words, words: Words, at: int, needs: int) -> None:
    """Let the limbs of a sum, and of squares, cover those of a summary too."""
    at += 2 + 2 * (needs & EXTREMES) + BASE
    for i in range(0, 4 if needs & SQUARES else 2, 2):
        base, limbs = words[at], words[at + 1]
        if limbs > 0 and cover[i + 1] == 0:
            cover[i], cover[i + 1] = base, limbs
        elif limbs > 0:
            stop = max(cover[i] + cover[i + 1], base + limbs)
            cover[i] = min(cover[i], base)
            cover[i + 1] = stop - cover[i]
        at += 2 + limbs


@entry(*(WORDS,) * 4, WORD_ROWS)
def _combined_covers(
    starts: Words, words: Words, needs: Words, runs: Words, covers: NDArray[np.int64]
) -> None:
    cells = len(needs)
    for r in range(len(runs) - 1):
        for s in range(runs[r], runs[r + 1]):
            for c in range(cells):
                if needs[c] & SUMS:
                    widen(covers[r * cells + c], words, starts[s * cells + c], needs[c])


@entry(*(WORDS,) * 4, WORD_ROWS, WORDS, NEW_WORDS)
def _combine(
    starts: Words,
    words: Words,
    needs: Words,
    runs: Words,
    covers: NDArray[np.int64],
    ends: Words,
    out: Words,
) -> None:
    cells = len(needs)
    for r in range(len(runs) - 1):
        for c in range(cells):
            at, cover = ends[r * cells + c], covers[r * cells + c]
            extremes, special, acc, squares = start_summary(out, at, needs[c], cover)
            out[at + NEWEST] = I64_MIN
            for s in range(runs[r], runs[r + 1]):
                child = starts[s * cells + c]
                merge(
                    words, child, needs[c], needs[c], out[at : at + 2], extremes, special,
                    acc, squares, cover[0], cover[2],
                )  # fmt: skip
            carry(acc)
            carry(squares)


@inlined
def merge(
    words: Words,
    at: int,
    needs: int,
    wanted: int,
    tally: Words,
    extremes: Words,
    special: Words,
    acc: Words,
    squares: Words,
    base: int,
    square_base: int,
) -> None:
    """Add the wanted parts of a summary; `tally` is a count and the time of the newest event."""
    tally[0] += words[at]
    tally[1] = max(tally[1], words[at + NEWEST])
    at += 2
    if wanted & EXTREMES:
        extremes[0] = max(extremes[0], words[at])
        extremes[1] = max(extremes[1], words[at + 1])
    if wanted & SUMS:
        at += 2 * (needs & EXTREMES)
        for i in range(BASE):
            special[i] += words[at + i]
        at = add_limbs(acc, base, words, at + BASE)
        if wanted & SQUARES:
            add_limbs(squares, square_base, words, at)
