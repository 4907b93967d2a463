"""Trees of the events of one entity, made and read the slow way, for tests of `kernel.tree`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from tidemark.kernel import Layout, Timeline, sketches
from tidemark.kernel.cells import Cells
from tidemark.kernel.forest import ABSENT, GROUPED
from tidemark.kernel.partials import Summaries, combine, summarize
from tidemark.kernel.rows import Answers, Program, beside, evaluate_rows
from tidemark.kernel.tree import Fold, TreeProgram
from tidemark.online.rows.codec import Unpacked, pack

VALUE, NULL = 1, 2
CODED = {"first", "last", "latest", "first_n", "last_n", "min", "max", "mode", "top_n"}
"""Functions whose results are codes where the column has codes."""

HEADER = 8


@dataclass(frozen=True)
class Values:
    """One column of events."""

    words: Any
    valid: Any
    high: Any = None
    dictionary: Any = None

    def take(self, chosen: Any) -> Values:
        high = None if self.high is None else self.high[chosen]
        return replace(self, words=self.words[chosen], valid=self.valid[chosen], high=high)


@dataclass(frozen=True)
class History:
    """The events of one entity in total order, as `pack` takes them."""

    time: Any
    known: Any
    until: Any
    columns: tuple[Values, ...]
    filters: tuple[Any, ...]

    def take(self, chosen: Any) -> History:
        return History(
            self.time[chosen],
            self.known[chosen],
            self.until[chosen],
            tuple(column.take(chosen) for column in self.columns),
            tuple(each[chosen] for each in self.filters),
        )

    def timeline(self, starts: Sequence[int]) -> Timeline:
        return Timeline(np.array(starts, np.int64), self.time, self.known, self.until)

    def rows(self, layout: Layout, starts: Sequence[int]) -> list[bytes]:
        return pack(layout, Unpacked(self.timeline(starts), self.columns, self.filters, None))


def directory(
    cells: Cells, children: Summaries, first: int, stop: int, ids: list[int], level: int
) -> bytes:
    """A node with the children [first, stop)."""
    m, c = stop - first, cells.count
    starts = children.starts[first * c : stop * c + 1]
    heap = children.words[starts[0] : starts[-1]]
    heap_at = HEADER + (5 + c) * m
    at = (starts[:-1] - starts[0] + heap_at).reshape(m, c).T
    head = [0, m, c, level, heap_at, len(heap), 0, 0]
    columns = [children.first, children.last, children.settled, children.events]
    parts = [np.array(head), *(column[first:stop] for column in columns), np.array(ids)]
    return np.concatenate([*parts, at.ravel(), heap]).astype(np.int64).tobytes()


@dataclass(frozen=True)
class Tree:
    """Nodes by id; chunks have negative ids, -1 - i for chunk i."""

    history: History
    layout: Layout
    starts: list[int]
    nodes: dict[int, bytes]
    root: int

    @classmethod
    def of(
        cls, layout: Layout, history: History, starts: list[int], levels: list[list[int]]
    ) -> Tree:
        """A tree of the chunks that begin at `starts`; each level says where its nodes begin."""
        cells = Cells.of(layout)
        chunks = history.rows(layout, starts)
        nodes = {-1 - i: chunk for i, chunk in enumerate(chunks)}
        ids = list(nodes)
        summaries = summarize(cells, history.timeline(starts), history.columns, history.filters)
        fresh = 1
        for level, runs in enumerate(levels):
            made = []
            for a, b in pairwise(runs):
                nodes[fresh] = directory(cells, summaries, a, b, ids[a:b], level + 1)
                made.append(fresh)
                fresh += 1
            summaries, ids = combine(cells, summaries, np.array(runs)), made
        assert len(ids) == 1
        return cls(history, layout, starts, nodes, ids[0])

    def chunks(self, name: int) -> list[int]:
        """The numbers of the chunks below a node."""
        if name < 0:
            return [-1 - name]
        words = np.frombuffer(self.nodes[name], np.int64)
        ids = words[HEADER + 4 * words[1] : HEADER + 5 * words[1]]
        return [chunk for each in ids.tolist() for chunk in self.chunks(each)]


@dataclass
class Hand:
    """The nodes that a reader has at hand."""

    trees: list[Tree]

    def __post_init__(self) -> None:
        self.names: list[tuple[int, int]] = []
        self.buffer = b""
        self.nodes: list[list[int]] = []
        self.opened: list[int] = []
        for h, tree in enumerate(self.trees):
            self.fetch(h, tree.root)

    def fetch(self, h: int, name: int) -> int:
        data = self.trees[h].nodes[name]
        first = len(self.opened) if name > 0 else -1
        self.nodes.append([len(self.buffer) // 8, first])
        self.buffer += data
        self.names.append((h, name))
        if name > 0:
            self.opened += [-1] * (3 * int(np.frombuffer(data, np.int64)[1]))
        return len(self.nodes) - 1

    def read(self, t: int, each: TreeProgram, pairs: list[tuple[int, int]]) -> Any:
        """Fold until nothing is missed; `pairs` are the view and entity of each tree."""
        fold = each.fold([(h, *pair) for h, pair in enumerate(pairs)], t)
        while True:
            words = np.frombuffer(self.buffer, np.int64)
            opened = np.array(self.opened, np.int64)
            misses = fold.misses(words, np.array(self.nodes), opened)
            assert opened.tolist() == self.opened
            if not misses:
                return fold
            for node, child in misses:
                h, name = self.names[node]
                at, first = self.nodes[node]
                children = int(words[at + 1])
                if child >= children:
                    self.opened[first + child] = self.sketch(h, name, child - children)
                    continue
                name = int(words[at + HEADER + 4 * int(words[at + 1]) + child])
                assert self.opened[first + child] == -1
                self.opened[first + child] = self.fetch(h, name)

    def sketch(self, h: int, name: int, slot: int) -> int:
        """The node of a sketch of a directory, but now and then there is none."""
        tree, level = self.trees[h], 0
        ids = np.frombuffer(tree.nodes[name], np.int64)
        count = int(ids[1])
        while slot >= count >> level:
            slot -= count >> level
            level += 1
        assert level >= GROUPED or ids[3] > 1
        at = HEADER + 4 * count + (slot << level)
        chunks = [chunk for child in ids[at : at + (1 << level)] for chunk in tree.chunks(child)]
        if (slot + level + len(chunks)) % 5 == 0:
            return ABSENT
        assert chunks == list(range(chunks[0], chunks[-1] + 1))
        events = tree.history.take(slice(tree.starts[chunks[0]], tree.starts[chunks[-1] + 1]))
        timeline = events.timeline([0, len(events.time)])
        (parts,) = sketches.sketch(tree.layout, timeline, events.columns, events.filters)
        words = sketches.write_parts(tree.layout, parts)
        self.nodes.append([len(self.buffer) // 8, -1])
        self.buffer += bytes(8 * HEADER) + words.tobytes()
        self.names.append((h, 0))
        return len(self.nodes) - 1

    def joined(self, h: int, needed: Any) -> bytes | None:
        """The events of the chunks of a tree that are needed, as one row."""
        tree = self.trees[h]
        names = [self.names[node] for node in np.flatnonzero(needed)]
        chunks = [-1 - name for tree, name in names if tree == h]
        if not chunks:
            return None
        ranges = [np.arange(tree.starts[i], tree.starts[i + 1]) for i in sorted(chunks)]
        history = tree.history.take(np.concatenate(ranges))
        return history.rows(tree.layout, [0, len(history.time)])[0]


def answer_rows(
    rows: list[bytes | None], t: int, program: Program, fold: Fold | None = None
) -> Answers:
    """The answers from one row for each view of one entity, on their own or beside its tree."""
    at, buffer = [], b""
    for row in rows:
        at.append([len(buffer) // 8 if row is not None else -1])
        buffer += row or b""
    places = at if fold is None else [[beside(place) for place in places] for places in at]
    answers = evaluate_rows(np.frombuffer(buffer, np.int64), np.array(places), t, program)
    if fold is not None:
        fold.put(answers)
    return answers


def plain(
    answers: Answers,
    program: Program,
    layouts: list[Layout],
    names: list[tuple[int, str]],
    rows: list[bytes | None],
) -> list[Any]:
    """What was answered, in terms that do not depend on the rows."""
    lists = {output for output, _ in program.lists}
    found: list[Any] = []
    for f, (view, name) in enumerate(names):
        state = int(answers.state[f, 0])
        value: Any = None
        if state in (VALUE, NULL):
            feature = layouts[view].feature(name)
            value = answers.list(f, 0).tolist() if f in lists else [int(answers.words[f, 0])]
            if state == NULL:
                value = None
            elif feature.column >= 0 and feature.aggregate.function in CODED:
                words = heap(rows[view]).get(feature.column)
                value = value if words is None else [words[code] for code in value]
            if program.second[f] >= 0 and f not in lists:
                value = [*value, int(answers.second[program.second[f], 0])]
        found.append((name, state, value, int(answers.time[f, 0])))
    return [*found, answers.known.tolist()]


def heap(row: bytes | None) -> dict[int, list[Any]]:
    """The dictionaries of a row, by column."""
    words = np.frombuffer(row or bytes(8 * HEADER), np.int64)
    at, size = int(words[4]), int(words[5])
    values = msgspec.msgpack.decode(row[at : at + size]) if row and size else []
    return {i: each for i, each in enumerate(values) if each is not None}
