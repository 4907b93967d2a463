"""Reading entities with many events: only the chunks that a moment needs are opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tidemark.kernel.layout import Layout
from tidemark.online import codec, directories
from tidemark.online.joining import join
from tidemark.online.sketches import place_of, sketch_key

if TYPE_CHECKING:
    from tidemark.kernel.tree import Folded, TreeProgram

Words = NDArray[np.int64]
Fetch = Callable[[Sequence[bytes]], list[bytes | None]]

_MORE = 1 << 15  # words for what is read later: a path of directories, and a few chunks
_ABSENT = -3  # no sketch, as `kernel.forest.ABSENT`
_EVENTS, _LEVEL = 1, 3  # words of the number of children, and of what they are
_ID = 4  # the column of their ids


class Replaced(Exception):  # nothing is wrong: a writer was faster, and its root is there
    """A part of a tree is gone, as the tree is another one by now."""


class Unsettled(Exception):  # told to the user with the name of the view
    """A moment needs events of which only a summary is kept; `view` is the number of the view."""

    def __init__(self, view: int) -> None:
        super().__init__(view)
        self.view = view


class Forest:
    """The trees among the rows of a request: `roots` are (view, entity, key, place in the words).

    Nodes are directories and chunks that have been read, a root for each tree first; `opened` has
    the node of each child of a directory, -1 where it has not been read, and then of each sketch.
    The path of a node is the number of its tree, then that of a child on every level.
    """

    def __init__(self, words: Words, roots: Sequence[tuple[int, int, bytes, int]]) -> None:
        self.words = words
        self._memory = words
        self._roots = roots
        self._nodes: list[tuple[int, int]] = []
        self._paths: list[tuple[int, ...]] = []
        self._opened = np.empty(0, np.int64)
        for number, (_, _, _, start) in enumerate(roots):
            self._add((number,), start, int(words[start + _EVENTS]))

    def fold(self, program: TreeProgram, t: int, fetch: Fetch) -> Folded:
        """Read what the moment `t` needs, and compute what summaries can.

        Raises `Replaced` where a writer has replaced what is to be read, and `Unsettled` where
        tiles hold events that came after `t`.
        """
        from tidemark.kernel.tree import fold

        trees = np.array([(n, v, k) for n, (v, k, _, _) in enumerate(self._roots)], np.int64)
        while True:
            nodes = np.array(self._nodes, np.int64)
            folded = fold(self.words, nodes, self._opened, trees, t, program)
            if not len(folded.misses):
                return folded
            self._open(folded.misses.tolist(), fetch)

    def rows(
        self, layouts: Sequence[Layout], columns: Sequence[Mapping[int, bool]], needed: NDArray[Any]
    ) -> Iterator[tuple[int, int, int]]:
        """For each tree its view, its entity, and where one row of its needed chunks is, or -1.

        That row has the values of some columns only, given for each view; see `join`.
        """
        starts: list[list[int]] = [[] for _ in self._roots]
        for node in sorted(np.flatnonzero(needed).tolist(), key=self._paths.__getitem__):
            starts[self._paths[node][0]].append(self._nodes[node][0])
        for (view, entity, _, _), mine in zip(self._roots, starts, strict=True):
            if len(mine) > 1:
                row = join(layouts[view], self.words, mine, columns[view])
                mine = self._append([row])  # noqa: PLW2901
            yield view, entity, mine[0] if mine else -1

    def _open(self, misses: Sequence[tuple[int, int]], fetch: Fetch) -> None:
        for node, _ in misses:
            if self.words[self._nodes[node][0] + _LEVEL] == directories.TILES:
                raise Unsettled(self._roots[self._paths[node][0]][0])
        found = fetch([self._child_key(node, child) for node, child in misses])
        rows = [row for row in found if row is not None]
        starts = iter(self._append(rows))
        for (node, child), row in zip(misses, found, strict=True):
            if row is None:
                if child < self._children(node):
                    raise Replaced
                self._opened[self._nodes[node][1] + child] = _ABSENT
                continue
            start = next(starts)
            if not row.startswith(codec.PREAMBLE):
                codec.refuse(row)
            self._opened[self._nodes[node][1] + child] = len(self._nodes)
            children = int(self.words[start + _EVENTS]) if directories.is_directory(row) else 0
            self._add((*self._paths[node], child), start, children)

    def _add(self, path: tuple[int, ...], start: int, children: int) -> None:
        self._nodes.append((start, len(self._opened) if children else -1))
        self._paths.append(path)
        if children:
            self._opened = np.concatenate([self._opened, np.full(3 * children, -1)])

    def _append(self, rows: Sequence[bytes]) -> list[int]:
        """Put rows behind the words; gives where they begin."""
        starts: list[int] = []
        size = len(self.words)
        for row in rows:
            starts.append(size)
            size += len(row) >> 3
        if size > len(self._memory):
            self._memory = np.empty(size + _MORE, np.int64)
            self._memory[: len(self.words)] = self.words
        for start, row in zip(starts, rows, strict=True):
            self._memory[start : start + (len(row) >> 3)] = np.frombuffer(row, np.int64)
        self.words = self._memory[:size]
        return starts

    def _child_key(self, node: int, child: int) -> bytes:
        start, children = self._nodes[node][0], self._children(node)
        at = start + codec.HEADER + _ID * children
        key = self._roots[self._paths[node][0]][2]
        if child < children:
            return directories.child_key(key, int(self.words[at + child]))
        first, size = place_of(child - children, children)
        return sketch_key(key, self.words[at + first : at + first + size])

    def _children(self, node: int) -> int:
        return int(self.words[self._nodes[node][0] + _EVENTS])
