"""Sketches: what approximate results need of many events, at a size that does not grow with them.

A sketch has the registers of `distinct`, one byte for each, and how many values are in each bucket
of `keys.bucket_of`.  Merging is a maximum and a sum, so a window is the merger of the sketches of
the groups of children inside it and of the events at its edges, exactly as if from all events.

A node of a tree has sketches of groups of its children: of two, four, eight ... that follow each
other, from each multiple of that number on.  So any run of children is a few groups.  A sketch is a
node of its own in the words at hand: a header, then for each cell of the view where its part
begins.  A part has the registers, if the cell needs them, then the number of its buckets and a word
for each in order: the bucket times 2^43 plus its count.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tidemark.kernel.cells import (
    CELL_COLUMN,
    CELL_NEEDS,
    DISTINCT,
    QUANTILES,
    Cells,
)
from tidemark.kernel.compiled import (
    BYTE_ROWS,
    BYTES,
    FOR_TREES,
    INTEGER,
    NEW_WORDS,
    WORDS,
    bits_float,
    entry,
    float_bits,
    nested,
    ready,
)
from tidemark.kernel.distinct import RANKS, REGISTERS, estimate_of, place_of
from tidemark.kernel.encoding import (
    APPROX_QUANTILE,
    DECIMAL,
    FLOAT,
    FUNCTION,
    I64_MAX,
    NOTHING,
    ROW,
    VALUE,
    Out,
    Q,
)
from tidemark.kernel.forest import (
    ABSENT,
    CELL,
    GROUPED,
    NEEDS,
    NODE_AT,
    Forest,
    choose_events,
    open_sketch,
    settled_within,
)
from tidemark.kernel.keys import (
    BUCKETS,
    FIRST_BUCKET,
    NAN_KEY,
    bucket_of,
    decimal_key,
    key_of,
    middle_of,
)
from tidemark.kernel.partials import input_of, words_of
from tidemark.kernel.program import KIND, SCALE
from tidemark.kernel.rows import HEADER, read_events
from tidemark.kernel.steps import position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel import Timeline
    from tidemark.kernel.layout import Layout
    from tidemark.kernel.partials import Values

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]
    Flags = NDArray[np.bool_]

COUNT_BITS = 43
BLOCK_BITS = 9  # buckets are also counted in blocks of two to the power of this
BLOCKS = (BUCKETS >> BLOCK_BITS) + 1
SCRATCH = 136  # words for the key of a decimal
SKETCH_MEMORY = REGISTERS // 8 + RANKS
_LEVEL = 3  # the word of a node that is 1 if its children are chunks


class Part(NamedTuple):
    """The part of a sketch for one cell; each is empty if the cell does not need it."""

    registers: Bytes
    buckets: Words


def sketch(
    layout: Layout, timeline: Timeline, columns: Sequence[Values], filters: Sequence[Flags]
) -> list[list[Part]]:
    """The sketch of each segment of the timeline: a part for each cell that is sketched."""
    ready(FOR_TREES)
    cells = Cells.of(layout)
    starts, until = words_of(timeline.starts), words_of(timeline.until)
    count = len(starts) - 1
    found: list[list[Part]] = [[] for _ in range(count)]
    for cell in cells.sketched:
        _, _, kind, needs = map(int, cells.table[cell])
        scale = layout.columns[int(cells.table[cell, CELL_COLUMN])].type.scale
        registers = np.zeros((count if needs & DISTINCT else 0, REGISTERS), np.uint8)
        buckets = np.empty(int(starts[-1]) if needs & QUANTILES else 0, np.int64)
        memory = np.empty(SCRATCH, np.int64)
        cast("Any", _sketch_cell)(
            starts, until, *input_of(cells, cell, columns, filters), kind,
            scale if kind == DECIMAL else 0, registers, buckets, memory,
        )  # fmt: skip
        counted, counts = np.unique(buckets[buckets >= 0], return_counts=True)
        cuts = np.searchsorted(counted, np.arange(count + 1) * BUCKETS)
        packed = ((counted % BUCKETS + FIRST_BUCKET) << COUNT_BITS) + counts
        for s in range(count):
            mine = registers[s] if needs & DISTINCT else registers.reshape(-1)
            found[s].append(Part(mine, packed[cuts[s] : cuts[s + 1]]))
    return found


def merged(sketches: Sequence[Sequence[Part]]) -> list[Part]:
    """The sketch of the events of several."""
    found: list[Part] = []
    for parts in zip(*sketches, strict=True):
        registers = np.maximum.reduce([part.registers for part in parts])
        words = np.sort(np.concatenate([part.buckets for part in parts]))
        buckets, counts = words >> COUNT_BITS, words & ((1 << COUNT_BITS) - 1)
        begins = np.flatnonzero(np.append(True, buckets[1:] != buckets[:-1])[: len(words)])
        if len(begins):
            words = (buckets[begins] << COUNT_BITS) + np.add.reduceat(counts, begins)
        found.append(Part(registers, words))
    return found


def write_parts(layout: Layout, parts: Sequence[Part]) -> Words:
    """The words of a sketch after its header."""
    cells = Cells.of(layout)
    pieces: list[Words] = []
    at, size = np.zeros(cells.count, np.int64), HEADER + cells.count
    for cell, part in zip(cells.sketched, parts, strict=True):
        at[cell] = size
        needs = int(cells.table[cell, CELL_NEEDS])
        mine = [part.registers.view(np.int64)] if needs & DISTINCT else []
        mine += [np.array([len(part.buckets)]), part.buckets] if needs & QUANTILES else []
        pieces += mine
        size += sum(map(len, mine))
    return np.concatenate([at, *pieces])


def read_parts(layout: Layout, words: Words) -> list[Part]:
    """The parts of a sketch."""
    cells = Cells.of(layout)
    parts: list[Part] = []
    for cell in cells.sketched:
        at, needs = int(words[HEADER + cell]), int(cells.table[cell, CELL_NEEDS])
        registers, buckets = words[:0].view(np.uint8), words[:0]
        if needs & DISTINCT:
            registers = words[at : at + REGISTERS // 8].view(np.uint8)
            at += REGISTERS // 8
        if needs & QUANTILES:
            buckets = words[at + 1 : at + 1 + int(words[at])]
        parts.append(Part(registers, buckets))
    return parts


def bucket_memory(*, needed: bool) -> Words:
    """Counts of zero of every bucket and of every block of them, this thread's own."""
    if not needed:
        return _NONE
    memory: Words | None = getattr(_local, "memory", None)
    if memory is None:
        memory = _local.memory = np.zeros(BUCKETS + BLOCKS, np.int64)
    return memory


_local = threading.local()
_NONE = np.empty(0, np.int64)


@entry(*(WORDS,) * 4, BYTES, *(INTEGER,) * 2, BYTE_ROWS, *(NEW_WORDS,) * 2)
def _sketch_cell(
    starts: Words,
    until: Words,
    words: Words,
    high: Words,
    counts: Bytes,
    kind: int,
    scale: int,
    registers: NDArray[np.uint8],
    buckets: Words,
    memory: Words,
) -> None:
    """Write the registers of each chunk, and of each event its bucket, counted on over chunks."""
    for s in range(len(starts) - 1):
        for p in range(starts[s], starts[s + 1]):
            if (len(counts) and counts[p] == 0) or (len(until) and until[p] != I64_MAX):
                if len(buckets):
                    buckets[p] = -1
                continue
            if len(registers):
                register, rank = place_of(key_of(words[p], kind))
                registers[s, register] = max(registers[s, register], np.uint8(rank))
            if len(buckets):
                bucket = _bucket(words, high, kind, scale, p, memory)
                buckets[p] = s * BUCKETS + bucket - FIRST_BUCKET


@nested
def _bucket(words: Words, high: Words, kind: int, scale: int, p: int, memory: Words) -> int:
    """The bucket of the value of an event."""
    if kind == DECIMAL:
        return bucket_of(decimal_key(high[p], words[p], scale, memory), kind)
    return bucket_of(key_of(words[p], kind), kind)


# --- in a walk ------------------------------------------------------------------------------------


class Sketch(NamedTuple):
    """A sketch that is being added up; what is not wanted is empty.

    Counts are at hand for every bucket, and for blocks of them; they are zero where nothing was
    added, which `clear` sees to.
    """

    registers: Bytes
    histogram: Words
    counts: Words
    blocks: Words


@nested
def make_sketch(wanted: int, memory: Words, buckets: Words) -> Sketch:
    """An empty sketch in memory that is handed down."""
    registers = memory[: REGISTERS // 8 if wanted & DISTINCT else 0]
    registers[:] = 0
    histogram = memory[len(registers) : len(registers) + RANKS]
    counts = buckets[: BUCKETS if wanted & QUANTILES else 0]
    return Sketch(registers.view(np.uint8), histogram, counts, buckets[len(counts) :])


@nested
def clear(sketch: Sketch) -> None:
    """Count nothing in all buckets again."""
    if len(sketch.counts) == 0:
        return
    for block in range(BLOCKS):
        if sketch.blocks[block] > 0:
            sketch.blocks[block] = 0
            sketch.counts[block << BLOCK_BITS : (block + 1) << BLOCK_BITS] = 0


@nested
def add_groups(
    forest: Forest,
    node: int,
    child: int,
    stop: int,
    window: Words,
    t: int,
    low: int,
    high: int,
    sketch: Sketch,
) -> int:
    """Add the sketches of children up to one that has to be opened, which is returned."""
    end = child
    while end < stop and settled_within(forest, node, end, t, low, high):
        end += 1
    lowest = GROUPED if forest.words[forest.nodes[node, NODE_AT] + _LEVEL] == 1 else 0
    while child < end:
        level, group = 0, ABSENT
        while child >> (level + 1) << (level + 1) == child and child + (2 << level) <= end:
            level += 1
        while group == ABSENT:
            if level < lowest:
                return child
            group = open_sketch(forest, node, level, child >> level)
            level -= 1
        if group >= 0 and forest.missed[0] == 0:
            _add_group(forest, group, window, sketch)
        child += 1 << (level + 1)
    return child


@nested
def _add_group(forest: Forest, group: int, window: Words, sketch: Sketch) -> None:
    """Add a sketch."""
    words, start = forest.words, forest.nodes[group, NODE_AT]
    at = start + words[start + HEADER + window[CELL]]
    if len(sketch.registers):
        theirs = forest.flags[8 * at : 8 * at + REGISTERS]
        mine = sketch.registers[:REGISTERS]
        for i in range(REGISTERS):
            mine[i] = max(mine[i], theirs[i])
    if window[NEEDS] & DISTINCT:
        at += REGISTERS // 8
    if len(sketch.counts):
        for i in range(at + 1, at + 1 + words[at]):
            bucket = (words[i] >> COUNT_BITS) - FIRST_BUCKET
            count = words[i] & ((1 << COUNT_BITS) - 1)
            sketch.counts[bucket] += count
            sketch.blocks[bucket >> BLOCK_BITS] += count


@nested
def add_to_sketch(
    forest: Forest,
    node: int,
    window: Words,
    t: int,
    low: int,
    high: int,
    sketch: Sketch,
    memory: Words,
) -> None:
    """Add the events of a chunk."""
    scratch, order = memory[:SCRATCH], memory[SCRATCH:]
    kind, scale = window[KIND], window[SCALE]
    events = read_events(forest.words, forest.flags, forest.nodes[node, NODE_AT], window)
    order, start, stop = choose_events(events, t, low, high, order)
    for k in range(start, stop):
        p = position(order, k)
        if len(sketch.registers):
            register, rank = place_of(key_of(events.words[p], kind))
            sketch.registers[register] = max(sketch.registers[register], np.uint8(rank))
        if len(sketch.counts):
            bucket = _bucket(events.words, events.high, kind, scale, p, scratch) - FIRST_BUCKET
            sketch.counts[bucket] += 1
            sketch.blocks[bucket >> BLOCK_BITS] += 1


@nested
def write_sketches(sketch: Sketch, count: int, group: Words, out: Out, at: int) -> None:
    """Write the results of approximate aggregates of `count` values."""
    for f in range(len(group)):
        row = group[f, ROW]
        if group[f, FUNCTION] == APPROX_QUANTILE:
            word = _quantile(sketch, count, bits_float(group[f, Q])) if count else 0
            out.words[row, at], out.state[row, at] = word, VALUE if count else NOTHING
        else:
            out.words[row, at] = _estimate(sketch) if count else 0
            out.state[row, at] = VALUE


@nested
def _quantile(sketch: Sketch, count: int, q: float) -> int:
    """The middle of the bucket that holds a quantile, as `ranks` finds it."""
    if sketch.counts[bucket_of(NAN_KEY, FLOAT) - FIRST_BUCKET] > 0:
        return NAN_KEY
    left = int(np.floor(q * (count - 1)))
    block = 0
    while sketch.blocks[block] <= left:
        left -= sketch.blocks[block]
        block += 1
    bucket = block << BLOCK_BITS
    while sketch.counts[bucket] <= left:
        left -= sketch.counts[bucket]
        bucket += 1
    return float_bits(middle_of(bucket + FIRST_BUCKET))


@nested
def _estimate(sketch: Sketch) -> np.int64:
    """How many different values there are, about."""
    sketch.histogram[:] = 0
    for i in range(REGISTERS):
        sketch.histogram[sketch.registers[i]] += 1
    return estimate_of(sketch.histogram)
