"""Reading entities with many events: only the chunks that a moment needs are opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemark.online.rows import codec
from tidemark.online.stores.asking import Asking
from tidemark.online.trees import directories
from tidemark.online.trees.sketches import place_of, sketch_key

if TYPE_CHECKING:
    from tidemark.kernel.tree import Fold, TreeProgram
    from tidemark.online.rows.joining import Join

Words = NDArray[np.int64]

_MORE = 1 << 13  # words for what is read later: a path of directories, and a few chunks
_OPENED = 1 << 10  # children of nodes for which there is room at first
_ABSENT = -3  # no sketch, as `kernel.forest.ABSENT`
_EVENTS, _LEVEL = 1, 3  # words of the number of children, and of what they are


class Replaced(Exception):  # nothing is wrong: a writer was faster, and its root is there
    """A part of a tree is gone, as the tree is another one by now."""


class Unsettled(Exception):  # told to the user with the name of the view
    """A moment needs events of which only a summary is kept; `view` is the number of the view."""

    def __init__(self, view: int) -> None:
        super().__init__(view)
        self.view = view


class _Node(NamedTuple):
    """A node that has been read: where it begins, and where in `opened` what it has follows.

    It has no children if it is a chunk.  The path is the number of its tree, then that of a child
    on every level.
    """

    start: int
    opened: int
    children: int
    path: tuple[int, ...]


class Forest:
    """The trees among the rows of a request: `roots` are (view, entity, key, place in the words).

    Nodes are directories and chunks that have been read, a root for each tree first; `opened` has
    the node of each child of a directory, -1 where it has not been read, and then of each sketch.
    """

    def __init__(self, words: Words, roots: Sequence[tuple[int, int, bytes, int]]) -> None:
        self.words = words
        self._memory = words
        self._roots = roots
        self._nodes: list[_Node] = []
        self._opened = np.full(_OPENED, -1)
        self._size = 0  # of `opened`, as far as it is used
        for number, (_, _, _, start) in enumerate(roots):
            self._add(start, int(words[start + _EVENTS]), (number,))

    def fold(self, program: TreeProgram, t: int) -> Asking[Fold]:
        """Ask for what the moment `t` needs, and compute what summaries can.

        Raises `Replaced` where a writer has replaced what is to be read, and `Unsettled` where
        tiles hold events that came after `t`.
        """
        trees = [(number, view, entity) for number, (view, entity, _, _) in enumerate(self._roots)]
        fold = program.fold(trees, t)
        while True:
            nodes = np.array([node[:2] for node in self._nodes], np.int64)
            misses = fold.misses(self.words, nodes, self._opened)
            if not misses:
                return fold
            yield from self._open(misses)

    def rows(
        self, joins: Sequence[Join], needed: NDArray[np.uint8]
    ) -> Iterator[tuple[int, int, int]]:
        """For each tree its view, its entity, and where one row of its needed chunks is, or -1.

        Several chunks are joined as `joins` says for each view.
        """
        nodes = [node for node, wanted in zip(self._nodes, needed.tolist(), strict=True) if wanted]
        nodes.sort(key=lambda node: node.path)
        starts: list[list[int]] = [[] for _ in self._roots]
        for node in nodes:
            starts[node.path[0]].append(node.start)
        for (view, entity, _, _), mine in zip(self._roots, starts, strict=True):
            if len(mine) > 1:
                row = joins[view].row(self.words, mine)
                yield view, entity, self._append([row])[0]
            else:
                yield view, entity, mine[0] if mine else -1

    def _open(self, misses: Sequence[tuple[int, int]]) -> Asking[None]:
        for number, _ in misses:
            node = self._nodes[number]
            if self.words[node.start + _LEVEL] == directories.TILES:
                raise Unsettled(self._roots[node.path[0]][0])
        found = yield [self._child_key(self._nodes[number], child) for number, child in misses]
        rows = [row for row in found if row is not None]
        starts = iter(self._append([np.frombuffer(row, np.int64) for row in rows]))
        for (number, child), row in zip(misses, found, strict=True):
            node = self._nodes[number]
            if row is None:
                if child < node.children:
                    raise Replaced
                self._opened[node.opened + child] = _ABSENT
                continue
            if not row.startswith(codec.PREAMBLE):
                codec.refuse(row)
            start = next(starts)
            self._opened[node.opened + child] = len(self._nodes)
            children = int(self.words[start + _EVENTS]) if directories.is_directory(row) else 0
            self._add(start, children, (*node.path, child))

    def _add(self, start: int, children: int, path: tuple[int, ...]) -> None:
        opened = self._size if children else -1
        self._nodes.append(_Node(start, opened, children, path))
        self._size += 3 * children
        if self._size > len(self._opened):
            more = np.full(self._size, -1)
            self._opened = np.concatenate([self._opened, more])

    def _append(self, rows: Sequence[Words]) -> list[int]:
        """Put rows behind the words; gives where they begin."""
        starts: list[int] = []
        size = len(self.words)
        for row in rows:
            starts.append(size)
            size += len(row)
        if size > len(self._memory):
            self._memory = np.empty(size + _MORE, np.int64)
            self._memory[: len(self.words)] = self.words
        for start, row in zip(starts, rows, strict=True):
            self._memory[start : start + len(row)] = row
        self.words = self._memory[:size]
        return starts

    def _child_key(self, node: _Node, child: int) -> bytes:
        at = node.start + codec.HEADER + directories.IDS * node.children
        key = self._roots[node.path[0]][2]
        if child < node.children:
            return directories.child_key(key, int(self.words[at + child]))
        first, size = place_of(child - node.children, node.children)
        return sketch_key(key, self.words[at + first : at + first + size])
