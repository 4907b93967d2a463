"""Nodes of trees that are at hand, and what they say of their children and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.compiled import nested
from tidemark.kernel.encoding import I64_MAX, Events
from tidemark.kernel.program import RANKS_NEEDED
from tidemark.kernel.rows import HEADER
from tidemark.kernel.steps import seek

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
MISSED = -2
STACK = 48  # words, of which a walk takes up to three for each level of a tree


class Forest(NamedTuple):
    """The nodes at hand, see `tree.fold`, and what is found out about them."""

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
