"""Reading entities with many events: only the chunks that a moment needs are opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tidemark.kernel.layout import Layout
from tidemark.online import codec, directories
from tidemark.online.joining import join

if TYPE_CHECKING:
    from tidemark.kernel.tree import Folded, TreeProgram

Words = NDArray[np.int64]
Fetch = Callable[[Sequence[bytes]], list[bytes | None]]

_EVENTS, _ID = 1, 4  # the word of the number of children, the column of their ids


class Replaced(Exception):  # nothing is wrong: a writer was faster, and its root is there
    """A part of a tree is gone, as the tree is another one by now."""


class Forest:
    """The trees among the rows of a request: `roots` are (view, entity, key, place in the words).

    Nodes are directories and chunks that have been read, a root for each tree first; `opened` has
    the node of each child of a directory, -1 where it has not been read.
    """

    def __init__(self, words: Words, roots: Sequence[tuple[int, int, bytes, int]]) -> None:
        self.words = words
        self._roots = roots
        self._nodes: list[tuple[int, int]] = []
        self._keys: list[bytes] = []
        self._opened: list[int] = []
        for _, _, key, start in roots:
            self._add(key, start, inner=True)

    def fold(self, program: TreeProgram, t: int, fetch: Fetch) -> Folded:
        """Read what the moment `t` needs, and compute what summaries can.

        Raises `Replaced` where a writer has replaced what is to be read.
        """
        from tidemark.kernel.tree import fold

        trees = np.array([(n, v, k) for n, (v, k, _, _) in enumerate(self._roots)], np.int64)
        while True:
            nodes, opened = np.array(self._nodes, np.int64), np.array(self._opened, np.int64)
            folded = fold(self.words, nodes, opened, trees, t, program)
            if not len(folded.misses):
                return folded
            self._open(folded.misses.tolist(), fetch)

    def rows(
        self, layouts: Sequence[Layout], columns: Sequence[Collection[int]], needed: NDArray[Any]
    ) -> Iterator[tuple[int, int, int]]:
        """For each tree its view, its entity, and where one row of its needed chunks is, or -1.

        That row has the values of some columns only, given for each view.
        """
        for root, (view, entity, _, _) in enumerate(self._roots):
            starts = [self._nodes[node][0] for node in self._chunks(root) if needed[node]]
            if len(starts) > 1:
                row = join(layouts[view], self.words, starts, columns[view])
                starts = [self._append([row])[0]]
            yield view, entity, starts[0] if starts else -1

    def _open(self, misses: Sequence[tuple[int, int]], fetch: Fetch) -> None:
        keys = [self._child_key(node, child) for node, child in misses]
        found = [row for row in fetch(keys) if row is not None]
        if len(found) < len(keys):
            raise Replaced
        starts = self._append(found)
        for (node, child), row, start in zip(misses, found, starts, strict=True):
            if not row.startswith(codec.PREAMBLE):
                codec.refuse(row)
            self._opened[self._nodes[node][1] + child] = len(self._nodes)
            self._add(self._keys[node], start, inner=directories.is_directory(row))

    def _add(self, key: bytes, start: int, *, inner: bool) -> None:
        self._nodes.append((start, len(self._opened) if inner else -1))
        self._keys.append(key)
        if inner:
            self._opened += [-1] * int(self.words[start + _EVENTS])

    def _append(self, rows: Sequence[bytes]) -> list[int]:
        """Put rows behind the words; gives where they begin."""
        sizes = np.array([len(row) >> 3 for row in rows])
        starts: list[int] = (len(self.words) + np.cumsum(sizes) - sizes).tolist()
        more = np.frombuffer(b"".join(rows), np.int64)
        self.words = np.concatenate([self.words, more])
        return starts

    def _child_key(self, node: int, child: int) -> bytes:
        start = self._nodes[node][0]
        count = int(self.words[start + _EVENTS])
        at = start + codec.HEADER + _ID * count + child
        return directories.child_key(self._keys[node], int(self.words[at]))

    def _chunks(self, node: int) -> Iterator[int]:
        """The chunks below a node that have been read, in their order."""
        start, first = self._nodes[node]
        if first < 0:
            yield node
            return
        for child in self._opened[first : first + int(self.words[start + _EVENTS])]:
            if child >= 0:
                yield from self._chunks(child)
