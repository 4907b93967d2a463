"""Nodes of trees that are at hand, and what they say of their children and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.compiled import nested
from tidemark.kernel.encoding import I64_MAX, I64_MIN, Events
from tidemark.kernel.program import RANKS_NEEDED
from tidemark.kernel.rows import HEADER, read_events
from tidemark.kernel.steps import position, seek

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

(CELL, NEEDS, WANTED, ADDS, NEWEST_ROWS, OLDEST_ROWS) = range(RANKS_NEEDED + 1, RANKS_NEEDED + 7)
"""Columns of the table of windows after those of a group of the program.

`CELL` is the cell of the view, `NEEDS` what its summaries have and `WANTED` what is read of them.
`ADDS` is 1 if results follow from summaries.  For the others, the events of so many of the newest
and of the oldest rows must be at hand.
"""

WINDOW_COLUMNS = OLDEST_ROWS + 1
FIRST_TIME, LAST_TIME, SETTLED, EVENTS, ID, CELLS = range(6)
"""Columns of a node that is not a chunk, each with a word for every child."""

NODE_AT, NODE_CHILDREN = range(2)
ROOT, TREE_VIEW, TREE_ENTITY = range(3)
MISSED, ABSENT = -2, -3
GROUPED = 3
"""Chunks have sketches in groups of two to the power of this, at least."""
NEWEST = 1  # the place in a summary
STACK = 48  # words, of which a walk takes up to three for each level of a tree


class Forest(NamedTuple):
    """The nodes at hand, see `tree.Fold.misses`, and what is found out about them."""

    words: Words
    flags: Bytes
    nodes: NDArray[np.int64]
    opened: Words
    needed: Bytes
    misses: NDArray[np.int64]
    missed: Words


@nested
def children_of(forest: Forest, node: int) -> int:
    """How many children a node has."""
    at: int = forest.nodes[node, NODE_AT]
    children: int = forest.words[at + 1]
    return children


@nested
def seek_child(forest: Forest, node: int, column: int, moment: int) -> int:
    """The first child whose first or last time is `moment` or later."""
    at: int = forest.nodes[node, NODE_AT]
    children: int = forest.words[at + 1]
    at += HEADER + column * children
    return seek(forest.words[at : at + children], 0, moment)


@nested
def seek_end(forest: Forest, node: int, high: int) -> int:
    """The first child whose events are all later than `high`."""
    if high == I64_MAX:
        return children_of(forest, node)
    return seek_child(forest, node, FIRST_TIME, high + 1)


@nested
def open_child(forest: Forest, node: int, child: int) -> int:
    """The node that a child is; -1 if it is not at hand, which is noted once."""
    place: int = forest.nodes[node, NODE_CHILDREN] + child
    opened: int = forest.opened[place]
    if opened == -1:
        forest.opened[place] = MISSED
        missed = forest.missed[0]
        forest.misses[missed, 0], forest.misses[missed, 1] = node, child
        forest.missed[0] = missed + 1
    return max(opened, -1)


@nested
def open_sketch(forest: Forest, node: int, level: int, place: int) -> int:
    """The node that has the sketches of a group of children.

    `ABSENT` if there is none, -1 if it is not at hand, which is noted once.  A group of level k has
    the 2^k children from `place` 2^k on; its place among what a node opens is after all children,
    and all groups of lower levels.
    """
    children = children_of(forest, node)
    slot = children
    for lower in range(level):
        slot += children >> lower
    at: int = forest.nodes[node, NODE_CHILDREN] + slot + place
    if forest.opened[at] == ABSENT:
        return ABSENT
    return open_child(forest, node, slot + place)


@nested
def is_chunk(forest: Forest, node: int) -> bool:
    """Whether the children of a node are events."""
    return bool(forest.nodes[node, NODE_CHILDREN] < 0)


@nested
def choose_events(
    events: Events, t: int, low: int, high: int, order: Words
) -> tuple[Words, int, int]:
    """The events of a chunk that count at t, as (order, start, stop): see `steps.position`."""
    a = seek(events.time, 0, low)
    b = seek(events.time, a, high + 1) if high < I64_MAX else len(events.time)
    if len(events.known) + len(events.until) + len(events.valid) + len(events.where) == 0:
        return order[:0], a, b
    size = 0
    for p in range(a, b):
        order[size] = p
        size += (
            (len(events.known) == 0 or events.known[p] <= t)
            and (len(events.until) == 0 or events.until[p] > t)
            and (len(events.valid) == 0 or events.valid[p] != 0)
            and (len(events.where) == 0 or events.where[p] != 0)
        )
    return order[: max(size, 1)], 0, size


@nested
def settled_within(forest: Forest, node: int, child: int, t: int, low: int, high: int) -> bool:
    """Whether the summaries of a child say what a window has of it."""
    at: int = forest.nodes[node, NODE_AT]
    children: int = forest.words[at + 1]
    at += HEADER + child
    first, last = forest.words[at], forest.words[at + children]
    settled = forest.words[at + SETTLED * children]
    return bool(low <= first and last <= high and settled <= t)


@nested
def touches(forest: Forest, node: int, child: int, low: int, high: int) -> bool:
    """Whether there is such a child, and its events may lie in a window."""
    children = children_of(forest, node)
    if child < 0 or child >= children:
        return False
    at: int = forest.nodes[node, NODE_AT]
    at += HEADER + child
    return bool(forest.words[at] <= high and forest.words[at + children] >= low)


@nested
def summary_of(forest: Forest, node: int, child: int, window: Words) -> int:
    """Where the summary of a child begins, for the cell of a window."""
    at: int = forest.nodes[node, NODE_AT]
    place: int = at + HEADER + (CELLS + window[CELL]) * children_of(forest, node) + child
    summary: int = at + forest.words[place]
    return summary


@nested
def find_rows(
    forest: Forest,
    root: int,
    window: Words,
    t: int,
    low: int,
    high: int,
    most: int,
    step: int,
    keep: bool,
    memory: Words,
) -> int:
    """Have chunks at hand that hold the newest (`step` -1) or oldest (1) rows that count at t.

    If `keep`, they are marked as needed, and else summaries will do.  Returns the time of the first
    row found, if it was the newest that was looked for; -2^63 if there is none.
    """
    stack, order = memory[:STACK], memory[STACK:]
    stack[0], stack[1] = root, _start(forest, root, low, high, step)
    depth, found = 1, I64_MIN
    while depth > 0 and most > 0:
        node, child = stack[2 * depth - 2], stack[2 * depth - 1]
        if not touches(forest, node, child, low, high):
            depth -= 1
            continue
        stack[2 * depth - 1] = child + step
        sure = settled_within(forest, node, child, t, low, high)
        count = 0
        if sure:
            summary = summary_of(forest, node, child, window)
            count = forest.words[summary]
            if count == 0:
                continue
            if not keep:
                newest: int = forest.words[summary + NEWEST]
                return max(found, newest)
        opened = open_child(forest, node, child)
        if opened < 0:
            most -= count
        elif is_chunk(forest, opened):
            row: int = forest.nodes[opened, NODE_AT]
            events = read_events(forest.words, forest.flags, row, window)
            chosen, start, stop = choose_events(events, t, low, high, order)
            if start < stop:
                most -= stop - start
                time: int = events.time[position(chosen, stop - 1)]
                found = max(found, time)
                forest.needed[opened] |= keep
        else:
            stack[2 * depth] = opened
            stack[2 * depth + 1] = _start(forest, opened, low, high, step)
            depth += 1
    return found


@nested
def _start(forest: Forest, node: int, low: int, high: int, step: int) -> int:
    """The newest or the oldest child that a window may have events of."""
    if step > 0:
        return seek_child(forest, node, LAST_TIME, low)
    return seek_end(forest, node, high) - 1
