"""The walk through trees of events: what `tidemark.kernel.tree` calls, in compiled code.

A summary stands for its child at a moment t if t is not before the child's `settled` and the window
holds all of the child's times.  Any other child is opened: those at the two ends of a window, and
those of which some events are not known yet, or not yet replaced.  In a chunk, events decide.

Where a window wants sketches, a child that no group of them stands for is opened as well.

Windows that end together are nested, so each adds to the one before it what lies further back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.bounds import bounds_at
from tidemark.kernel.cells import EXTREMES, SKETCHED, SQUARES, SUMS
from tidemark.kernel.compiled import (
    BYTE_ROWS,
    BYTES,
    INTEGER,
    NEW_BYTES,
    NEW_WORDS,
    SLICED_ROWS,
    WORD_ROWS,
    WORDS,
    entry,
    nested,
)
from tidemark.kernel.encoding import (
    ALL,
    COUNT,
    FUNCTION,
    I64_MIN,
    LOW,
    MAX,
    MIN,
    NOTHING,
    ROW,
    ROWS,
    SECOND,
    START,
    STOP,
    VALUE,
    Out,
)
from tidemark.kernel.extremes import extreme, ranked_key
from tidemark.kernel.forest import (
    ADDS,
    CELL,
    CELLS,
    LAST_TIME,
    NEEDS,
    NEWEST_ROWS,
    NODE_AT,
    NODE_CHILDREN,
    OLDEST_ROWS,
    ROOT,
    SETTLED,
    STACK,
    TREE_ENTITY,
    TREE_VIEW,
    WANTED,
    Forest,
    children_of,
    choose_events,
    find_rows,
    is_chunk,
    open_child,
    seek_child,
    seek_end,
    summary_of,
)
from tidemark.kernel.group import after, that_add_up
from tidemark.kernel.partials import merge, widen
from tidemark.kernel.program import KIND, SCALE
from tidemark.kernel.rows import HEADER, read_events
from tidemark.kernel.sketches import (
    SCRATCH,
    SKETCH_MEMORY,
    Sketch,
    add_groups,
    add_to_sketch,
    clear,
    make_sketch,
    write_sketches,
)
from tidemark.kernel.steps import position
from tidemark.kernel.sums import MAX_LIMBS, Total, add_value, finish, make_total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]


SUMS_MEMORY = 4 * MAX_LIMBS + SKETCH_MEMORY


class Sums(NamedTuple):
    """What has been added up: a count and the newest time; two extremes; exact sums; sketches."""

    tally: Words
    extremes: Words
    total: Total
    sketch: Sketch


# --- results that follow from summaries -----------------------------------------------------------


@nested
def add_range(
    forest: Forest, root: int, window: Words, t: int, low: int, high: int, sums: Sums, memory: Words
) -> None:
    """Add the events that count at t and whose times are from `low` to `high`."""
    stack, memory = memory[:STACK], memory[STACK:]
    depth = 0
    node = root
    child, stop = seek_child(forest, node, LAST_TIME, low), seek_end(forest, node, high)
    while True:
        if child >= stop:
            if depth == 0:
                return
            depth -= 3
            node, child, stop = int(stack[depth]), int(stack[depth + 1]), int(stack[depth + 2])
        else:
            end = stop
            if window[WANTED] & SKETCHED:
                end = add_groups(forest, node, child, stop, window, t, low, high, sums.sketch)
            child = add_summaries(forest, node, child, end, window, t, low, high, sums)
            if child == stop:
                continue
            opened = open_child(forest, node, child)
            child += 1
            if opened >= 0 and not is_chunk(forest, opened):
                stack[depth], stack[depth + 1], stack[depth + 2] = node, child, stop
                depth += 3
                node = opened
                child, stop = seek_child(forest, node, LAST_TIME, low), seek_end(forest, node, high)
            elif opened >= 0 and forest.missed[0] == 0:
                # What was opened for its sketch only has a summary all the same.
                summed = add_summaries(forest, node, child - 1, child, window, t, low, high, sums)
                if summed < child:
                    add_chunk(forest, opened, window, t, low, high, sums, memory[SCRATCH:])
                if window[WANTED] & SKETCHED:
                    add_to_sketch(forest, opened, window, t, low, high, sums.sketch, memory)


@nested
def add_summaries(
    forest: Forest,
    node: int,
    child: int,
    stop: int,
    window: Words,
    t: int,
    low: int,
    high: int,
    sums: Sums,
) -> int:
    """Add the summaries of children up to one that has to be opened, which is returned."""
    words, total = forest.words, sums.total
    needs, wanted = window[NEEDS], window[WANTED]
    at: int = forest.nodes[node, NODE_AT]
    children: int = words[at + 1]
    first = at + HEADER
    last, settled = first + LAST_TIME * children, first + SETTLED * children
    summary: int = first + (CELLS + window[CELL]) * children
    while (
        child < stop
        and words[first + child] >= low
        and words[last + child] <= high
        and words[settled + child] <= t
    ):
        if forest.missed[0] == 0:
            merge(
                words, at + words[summary + child], needs, wanted, sums.tally, sums.extremes,
                total.special, total.acc, total.squares, total.base, total.square_base,
            )  # fmt: skip
        child += 1
    return child


@nested
def add_chunk(
    forest: Forest, node: int, window: Words, t: int, low: int, high: int, sums: Sums, order: Words
) -> None:
    """Add the events of a chunk."""
    at: int = forest.nodes[node, NODE_AT]
    events = read_events(forest.words, forest.flags, at, window)
    order, start, stop = choose_events(events, t, low, high, order)
    if start >= stop:
        return
    sums.tally[0] += stop - start
    sums.tally[1] = max(sums.tally[1], events.time[position(order, stop - 1)])
    kind = window[KIND]
    if window[WANTED] & EXTREMES:
        smallest, largest = sums.extremes[0], sums.extremes[1]
        for k in range(start, stop):
            word = events.words[position(order, k)]
            smallest = max(smallest, ranked_key(word, kind, -1))
            largest = max(largest, ranked_key(word, kind, 1))
        sums.extremes[0], sums.extremes[1] = smallest, largest
    if window[WANTED] & SUMS:
        _add_values(sums.total, events.words, events.high, kind, order, start, stop)


@nested
def _add_values(
    total: Total, words: Words, high: Words, kind: int, order: Words, start: int, stop: int
) -> None:
    acc, squares, base, square_base, special = total
    for k in range(start, stop):
        p = position(order, k)
        add_value(acc, squares, base, square_base, special, words, high, kind, p, 1)


@nested
def start_sums(forest: Forest, root: int, window: Words, memory: Words, buckets: Words) -> Sums:
    """Nothing, in a sum that can hold any events of the tree."""
    cover, tally, extremes = memory[:4], memory[4:6], memory[6:8]
    cover[:] = 0
    if window[WANTED] & SUMS:
        for child in range(children_of(forest, root)):
            at = summary_of(forest, root, child, window)
            widen(cover, forest.words, at, window[NEEDS])
    tally[0], tally[1] = 0, I64_MIN
    extremes[:] = I64_MIN
    squares = window[WANTED] & SQUARES != 0
    total = make_total((cover[0], cover[1], cover[2], cover[3]), squares, memory[8:])
    sketch = make_sketch(window[WANTED], memory[4 * MAX_LIMBS :], buckets)
    return Sums(tally, extremes, total, sketch)


@nested
def write_sums(
    sums: Sums, window: Words, table: Words, out: Out, at: int, time: Words, digits: Words
) -> None:
    """Write the results that follow from what was added up."""
    count, kind = sums.tally[0], window[KIND]
    counts, added = after(table, 0, COUNT), after(table, 0, ALL)
    for f in range(counts):
        out.words[table[f, ROW], at], out.state[table[f, ROW], at] = count, VALUE
        time[table[f, ROW]] = sums.tally[1]
    if counts < added:
        scale = window[SCALE]
        group = table[counts:added]
        finish(sums.total, count, kind, scale, group, out, at, digits.view(np.uint64))
        for f in range(counts, added):
            time[table[f, ROW]] = sums.tally[1]
    ranked = after(table, added, MAX)
    for f in range(added, ranked):
        row, sign = table[f, ROW], -1 if table[f, FUNCTION] == MIN else 1
        key = sums.extremes[0 if sign < 0 else 1]
        out.words[row, at] = extreme(key, kind, sign) if count > 0 else 0
        out.state[row, at] = VALUE if count > 0 else NOTHING
        time[row] = sums.tally[1]
    approximate = table[ranked : that_add_up(table, kind, 0)]
    write_sketches(sums.sketch, count, approximate, out, at)
    for f in range(len(approximate)):
        time[approximate[f, ROW]] = sums.tally[1]


# --- all trees ------------------------------------------------------------------------------------


@entry(
    WORDS,
    BYTES,
    WORD_ROWS,
    NEW_WORDS,
    WORD_ROWS,
    INTEGER,
    WORDS,
    WORD_ROWS,
    WORDS,
    WORD_ROWS,
    WORD_ROWS,
    SLICED_ROWS,
    BYTE_ROWS,
    WORD_ROWS,
    NEW_WORDS,
    NEW_BYTES,
    WORD_ROWS,
    NEW_WORDS,
    NEW_WORDS,
)
def fold_trees(
    words: Words,
    flags: Bytes,
    nodes: NDArray[np.int64],
    opened: Words,
    trees: NDArray[np.int64],
    t: int,
    lows: Words,
    windows: NDArray[np.int64],
    starts: Words,
    aggregates: NDArray[np.int64],
    out_words: NDArray[np.int64],
    out_second: NDArray[np.int64],
    out_state: NDArray[np.uint8],
    out_time: NDArray[np.int64],
    out_known: Words,
    needed: Bytes,
    misses: NDArray[np.int64],
    memory: Words,
    buckets: Words,
) -> int:
    """Write the results of each tree into its column; return how many children are missed."""
    missed, memory = memory[:1], memory[1:]
    missed[0] = 0
    forest = Forest(words, flags, nodes, opened, needed, misses, missed)
    out = Out(out_words, out_second, out_state, memory[:0])
    for h in range(len(trees)):
        view, root = trees[h, TREE_VIEW], trees[h, ROOT]
        rows = windows[starts[view] : starts[view + 1]]
        low, high = bounds_at(t, I64_MIN, rows[0], 0)
        known = find_rows(forest, root, rows[0], t, low, high, 1, -1, False, memory)
        out_known[h] = known
        time = out_time[h]
        fold_tree(forest, root, t, lows, rows[1:], aggregates, out, h, time, memory, buckets)
    count: int = missed[0]
    for i in range(count):
        opened[nodes[misses[i, 0], NODE_CHILDREN] + misses[i, 1]] = -1
    return count


@nested
def fold_tree(
    forest: Forest,
    root: int,
    t: int,
    lows: Words,
    windows: NDArray[np.int64],
    aggregates: NDArray[np.int64],
    out: Out,
    at: int,
    time: Words,
    memory: Words,
    buckets: Words,
) -> None:
    """Fold all windows of one tree."""
    sums_memory, memory = memory[:SUMS_MEMORY], memory[SUMS_MEMORY:]
    digits, memory = memory[: 8 * MAX_LIMBS], memory[8 * MAX_LIMBS :]
    last_cell, last_low, last_high = -1, 0, 0
    sums = start_sums(forest, root, windows[0], sums_memory, buckets)
    for w in range(len(windows)):
        window = windows[w]
        period = lows[int(window[LOW])] if window[LOW] >= 0 else I64_MIN
        low, high = bounds_at(t, period, window, 0)
        if window[OLDEST_ROWS] > 0:
            most = window[OLDEST_ROWS]
            find_rows(forest, root, window, t, low, high, most, 1, True, memory)
            newest = find_rows(forest, root, window, t, low, high, 1, -1, False, memory)
            for f in range(window[START], window[STOP]):
                time[aggregates[f, ROW]] = newest
        if window[NEWEST_ROWS] > 0:
            most = window[NEWEST_ROWS]
            find_rows(forest, root, window, t, low, high, most, -1, True, memory)
        if window[ADDS] == 0:
            continue
        stop = high
        if window[CELL] == last_cell and high == last_high and low <= last_low:
            stop = min(high, max(last_low, I64_MIN + 1) - 1)
        else:
            clear(sums.sketch)
            sums = start_sums(forest, root, window, sums_memory, buckets)
        if low <= stop:
            add_range(forest, root, window, t, low, stop, sums, memory)
        last_cell, last_low, last_high = window[CELL], low, high
        if forest.missed[0] == 0:
            table = aggregates[window[START] : window[STOP]]
            write_sums(sums, window, table, out, at, time, digits)
    clear(sums.sketch)


@entry(
    WORD_ROWS, WORD_ROWS, WORDS, WORD_ROWS,
    WORD_ROWS, SLICED_ROWS, BYTE_ROWS, WORD_ROWS, WORDS,
    WORD_ROWS, SLICED_ROWS, BYTE_ROWS, WORD_ROWS, WORD_ROWS,
)  # fmt: skip
def put_trees(
    trees: NDArray[np.int64],
    windows: NDArray[np.int64],
    starts: Words,
    aggregates: NDArray[np.int64],
    words: NDArray[np.int64],
    second: NDArray[np.int64],
    state: NDArray[np.uint8],
    time: NDArray[np.int64],
    known: Words,
    out_words: NDArray[np.int64],
    out_second: NDArray[np.int64],
    out_state: NDArray[np.uint8],
    out_time: NDArray[np.int64],
    out_known: NDArray[np.int64],
) -> None:
    """Put what `fold_trees` wrote for each tree where the results of its entity are."""
    for h in range(len(trees)):
        view, k = trees[h, TREE_VIEW], trees[h, TREE_ENTITY]
        out_known[view, k] = known[h]
        for w in range(starts[view] + 1, starts[view + 1]):
            table = aggregates[windows[w, START] : windows[w, STOP]]
            added = that_add_up(table, windows[w, KIND], windows[w, ROWS])
            for f in range(len(table)):
                row = table[f, ROW]
                if windows[w, OLDEST_ROWS] > 0:
                    out_time[row, k] = time[h, row]
                if f >= added:
                    continue
                out_words[row, k], out_state[row, k] = words[row, h], state[row, h]
                out_time[row, k] = time[h, row]
                if table[f, SECOND] >= 0:
                    out_second[table[f, SECOND], k] = second[table[f, SECOND], h]
