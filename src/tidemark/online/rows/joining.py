"""Several rows as one, for a read that needs events of several chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.chunks import HEAP, HEAP_AT, join_chunks, times_of
from tidemark.kernel.layout import Layout
from tidemark.online.rows.codec import HEADER
from tidemark.online.rows.dictionaries import NIL, array_head, array_of, read_heaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]


class Join:
    """How rows of a view become one, with some columns of the layout and all filters.

    `columns` says of each column whether the order of its values counts: then its codes are ranks
    of distinct values, and else only what they stand for counts.
    """

    def __init__(self, layout: Layout, columns: Mapping[int, bool]) -> None:
        widths = [2 if column.form == "decimal" else 1 for column in layout.columns]
        self._layout = layout
        self._first = [sum(widths[:place]) for place in range(len(widths))]
        self._ranked = {
            place: ranked
            for place, ranked in columns.items()
            if layout.columns[place].form == "code"
        }
        words = [self._first[place] + word for place in columns for word in range(widths[place])]
        flags = [*columns, *range(len(widths), len(widths) + len(layout.filters))]
        self._words, self._flags = np.array(words, np.int64), np.array(flags, np.int64)

    def row(self, words: Words, starts: Sequence[int]) -> Words:
        """The row of the events of the rows that begin at `starts`, one after the other."""
        row = join_chunks(words, starts, self._words, self._flags)
        if not self._ranked:
            return row
        sizes = [int(words[start + 1]) for start in starts]
        heaps = [_heap_of(words, start) for start in starts]
        held: dict[int, bytes] = {}
        for place, ranked in self._ranked.items():
            recode = self._rank if ranked else self._shift
            held[place] = recode(row, place, sizes, heaps)
        count = len(self._layout.columns)
        heap = array_head(count) + b"".join(held.get(place, NIL) for place in range(count))
        row[HEAP] = len(heap)
        return np.concatenate([row, np.frombuffer(heap + bytes(-len(heap) % 8), np.int64)])

    def _rank(self, row: Words, place: int, sizes: Sequence[int], heaps: Sequence[bytes]) -> bytes:
        """Make codes those of one dictionary for all rows, which is returned."""
        types = [each.type if i == place else None for i, each in enumerate(self._layout.columns)]
        held = read_heaps(types, heaps)[place]
        assert held is not None  # noqa: S101 - its type was given
        dictionary, begins, places = held
        codes, valid = self._codes(row, place), _flags_of(row, place) != 0
        codes += np.repeat(begins, sizes)
        codes[~valid] = 0
        codes[valid] = places[codes[valid]]
        return array_head(len(dictionary)) + b"".join(dictionary.items)

    def _shift(self, row: Words, place: int, sizes: Sequence[int], heaps: Sequence[bytes]) -> bytes:
        """Make codes those of the dictionaries of all rows, one after the other."""
        held = [array_of(heap, place) for heap in heaps]
        values = np.array([size for size, _ in held])
        codes = self._codes(row, place)
        codes += np.repeat(np.cumsum(values) - values, sizes)
        return array_head(int(values.sum())) + b"".join(each for _, each in held)

    def _codes(self, row: Words, place: int) -> Words:
        """The codes of a column."""
        count = int(row[1])
        at = HEADER + count * (times_of(int(row[0]) >> 48) + self._first[place])
        return row[at : at + count]


def _flags_of(row: Words, place: int) -> NDArray[np.uint8]:
    """A column of bytes."""
    count, columns = int(row[1]), int(row[3])
    at = int(row[HEAP_AT]) - (count + 7) // 8 * 8 * (columns - place)
    return row.view(np.uint8)[at : at + count]


def _heap_of(words: Words, start: int) -> bytes:
    """The dictionaries of a row."""
    first = start * 8 + int(words[start + HEAP_AT])
    return words.view(np.uint8)[first : first + int(words[start + HEAP])].tobytes()
