"""Several rows as one, for a read that needs events of several chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.layout import Layout
from tidemark.online.codec import HAS_KNOWN, HAS_UNTIL, HEADER, NEVER, PREAMBLE
from tidemark.online.dictionaries import NIL, array_head, array_of, read_heaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

_MAGIC = int.from_bytes(PREAMBLE, "little")


def join(layout: Layout, words: Words, starts: Sequence[int], columns: Mapping[int, bool]) -> bytes:
    """The row of the events of several rows, which begin at `starts`, one after the other.

    Only these columns of the layout have values in it, and what else a row may hold is left out.
    Where it says True, codes are ranks of distinct values; else only what they stand for counts.
    """
    joint = _Joint(layout, words, starts)
    for place, ranked in columns.items():
        joint.copy_column(place, ranked=ranked)
    for place in range(len(layout.filters)):
        joint.copy_flags(len(layout.columns) + place)
    return joint.row()


class _Joint:
    """A row that is being put together."""

    def __init__(self, layout: Layout, words: Words, starts: Sequence[int]) -> None:
        self._layout, self._words, self._starts = layout, words, starts
        self._bytes = words.view(np.uint8)
        self._sizes: list[int] = [int(words[start + 1]) for start in starts]
        options = [int(words[start]) >> 48 for start in starts]
        known, until = ([bool(each & flag) for each in options] for flag in (HAS_KNOWN, HAS_UNTIL))
        self._from = [start + HEADER for start in starts]
        widths = [2 if column.form == "decimal" else 1 for column in layout.columns]
        self._first = [sum(widths[:place]) for place in range(len(widths))]
        self._wide = [width == 2 for width in widths]
        self._n = n = sum(self._sizes)
        self._flags = len(widths) + len(layout.filters)
        self._at = HEADER + n * (1 + any(known) + any(until))
        self._flags_at = 8 * (self._at + n * sum(widths))
        self._padded = (n + 7) // 8 * 8
        self._heap_at = self._flags_at + self._padded * self._flags
        self._heaps: list[bytes] = []
        self._dictionaries: dict[int, bytes] = {}
        self._out = np.zeros(self._heap_at // 8, np.int64)
        kinds = any(known) * HAS_KNOWN | any(until) * HAS_UNTIL
        self._out[:5] = _MAGIC | kinds << 48, n, sum(widths), self._flags, self._heap_at
        times = self._pieces(0)
        self._put(HEADER, times)
        if any(known):
            late = self._pieces(1)
            self._put(
                HEADER + n, [b if k else a for k, a, b in zip(known, times, late, strict=True)]
            )
        if any(until):
            never = [np.full(size, NEVER) for size in self._sizes]
            ends = [
                words[at + (1 + k) * size : at + (2 + k) * size] if ended else other
                for at, size, k, ended, other in zip(
                    self._from, self._sizes, known, until, never, strict=True
                )
            ]
            self._put(self._at - n, ends)
        self._from = [
            at + size * (1 + k + u)
            for at, size, k, u in zip(self._from, self._sizes, known, until, strict=True)
        ]

    def copy_column(self, place: int, *, ranked: bool) -> None:
        """Take over the values of a column of the layout, and which there are."""
        first = self._first[place]
        self.copy_flags(place)
        if self._layout.columns[place].form == "code":
            codes = self._ranked(place) if ranked else self._shifted(place)
            self._put(self._at + first * self._n, [codes])
            return
        for word in range(first, first + 1 + self._wide[place]):
            self._put(self._at + word * self._n, self._pieces(word))

    def copy_flags(self, place: int) -> None:
        """Take over a column of bytes."""
        at = self._flags_at + place * self._padded
        out = self._out.view(np.uint8)[at : at + self._n]
        np.concatenate([self._flags_of(start, place) for start in self._starts], out=out)

    def row(self) -> bytes:
        """The row, with the dictionaries of its columns of codes."""
        held, heap = self._dictionaries, b""
        if held:
            count = len(self._layout.columns)
            heap = array_head(count) + b"".join(held.get(place, NIL) for place in range(count))
        self._out[5] = len(heap)
        return self._out.tobytes() + heap + bytes(-len(heap) % 8)

    def _pieces(self, word: int) -> list[Words]:
        """A column of words, row by row."""
        return [
            self._words[at + word * size : at + (word + 1) * size]
            for at, size in zip(self._from, self._sizes, strict=True)
        ]

    def _put(self, at: int, pieces: Sequence[Words]) -> None:
        np.concatenate(pieces, out=self._out[at : at + self._n])

    def _flags_of(self, start: int, place: int) -> NDArray[np.uint8]:
        n, count = int(self._words[start + 1]), int(self._words[start + 3])
        padded = (n + 7) // 8 * 8
        at = start * 8 + int(self._words[start + 4]) - padded * (count - place)
        return self._bytes[at : at + n]

    def _ranked(self, place: int) -> Words:
        """The codes of a column over one dictionary for all rows."""
        types = [each.type if i == place else None for i, each in enumerate(self._layout.columns)]
        held = read_heaps(types, self._read_heaps())[place]
        assert held is not None  # noqa: S101 - its type was given
        dictionary, begins, places = held
        self._dictionaries[place] = array_head(len(dictionary)) + b"".join(dictionary.items)
        valid = np.concatenate([self._flags_of(start, place) for start in self._starts]) != 0
        codes = np.concatenate(self._pieces(self._first[place])) + np.repeat(begins, self._sizes)
        out = np.zeros(self._n, np.int64)
        out[valid] = places[codes[valid]]
        return out

    def _shifted(self, place: int) -> Words:
        """The codes of a column over the dictionaries of all rows, one after the other."""
        held = [array_of(heap, place) for heap in self._read_heaps()]
        sizes = np.array([size for size, _ in held])
        items = b"".join(each for _, each in held)
        self._dictionaries[place] = array_head(int(sizes.sum())) + items
        shifts = np.repeat(np.cumsum(sizes) - sizes, self._sizes)
        codes: Words = np.concatenate(self._pieces(self._first[place])) + shifts
        return codes

    def _read_heaps(self) -> list[bytes]:
        """The heaps of the rows."""
        if not self._heaps:
            for start in self._starts:
                first = start * 8 + int(self._words[start + 4])
                heap = self._bytes[first : first + int(self._words[start + 5])]
                self._heaps.append(heap.tobytes())
        return self._heaps
