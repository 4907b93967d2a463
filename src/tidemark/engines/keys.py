"""Entity keys as small integers: one code for each entity that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.engines.duckdb import BATCH_ROWS

_MOST_ROWS = 1 << 20
_DENSE = 1 << 26
"""Integers that span less than this are looked up in a table rather than searched."""


class Keys:
    """The distinct keys of some rows, and the code of every row.

    `codes` int32[n] tells for each row which entity it names; `first` int64[entities] is the first
    row of each entity.  Columns have no nulls.
    """

    codes: NDArray[np.int32]
    first: NDArray[np.int64]

    def __init__(self, columns: Sequence[pa.ChunkedArray]) -> None:
        self._columns = [_Column(column) for column in columns]
        self._pairs: list[_Integers] = []
        codes, size = self._columns[0].codes, self._columns[0].size
        for column in self._columns[1:]:
            pairs = codes.astype(np.int64) * column.size + column.codes
            distinct, codes = np.unique(pairs, return_inverse=True)
            self._pairs.append(_Integers(distinct))
            size = len(distinct)
        self.codes = codes.astype(np.int32)
        self.first = np.full(size, -1, np.int64)
        self.first[self.codes[::-1]] = np.arange(len(self.codes) - 1, -1, -1)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def batch_rows(self) -> int:
        """How many rows to look up at once: Arrow hashes all keys anew for each batch of text."""
        searched = all(column.searched for column in self._columns)
        return BATCH_ROWS if searched else max(BATCH_ROWS, min(8 * len(self), _MOST_ROWS))

    def find(self, columns: Sequence[pa.Array]) -> NDArray[np.int32]:
        """The code of each row of other columns, -1 for a key that is not among these."""
        codes: NDArray[Any] = self._columns[0].find(columns[0])
        for column, values, pairs in zip(self._columns[1:], columns[1:], self._pairs, strict=True):
            more = column.find(values)
            joined = codes.astype(np.int64) * column.size + more
            joined[(codes < 0) | (more < 0)] = -1
            codes = pairs.find(joined)
        return codes.astype(np.int32, copy=False)


class _Column:
    """The distinct values of one key column."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._integers = None
        if pa.types.is_integer(column.type):
            values = column.to_numpy()
            distinct, self.codes = np.unique(values, return_inverse=True)
            self._integers = _Integers(distinct)
            self.size = len(distinct)
            return
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        self.codes = encoded.indices.to_numpy()
        self._dictionary = encoded.dictionary
        self.size = len(self._dictionary)

    @property
    def searched(self) -> bool:
        """Whether values are found without hashing."""
        return self._integers is not None

    def find(self, values: pa.Array) -> NDArray[Any]:
        if self._integers is not None:
            found = self._integers.find(pc.fill_null(values, 0).to_numpy())
        else:
            found = pc.index_in(values, value_set=self._dictionary)
            found = pc.fill_null(found, -1).to_numpy()
        if values.null_count:
            found = np.where(values.is_valid().to_numpy(zero_copy_only=False), found, -1)
        return found


class _Integers:
    """Where an integer stands in a sorted array without repetitions."""

    def __init__(self, distinct: NDArray[np.int64]) -> None:
        self._distinct = distinct
        self._table: NDArray[np.int32] | None = None
        if len(distinct) and int(distinct[-1]) - int(distinct[0]) < _DENSE:
            self._table = np.full(int(distinct[-1]) - int(distinct[0]) + 1, -1, np.int32)
            self._table[distinct - distinct[0]] = np.arange(len(distinct), dtype=np.int32)

    def find(self, values: NDArray[np.int64]) -> NDArray[Any]:
        """The place of each value, -1 for one that is not there."""
        if not len(self._distinct):
            return np.full(len(values), -1, np.int32)
        first, last = self._distinct[0], self._distinct[-1]
        inside = (values >= first) & (values <= last)
        if self._table is not None:
            places = self._table[np.where(inside, values - first, 0)]
            return np.where(inside, places, np.int32(-1))
        near = np.searchsorted(self._distinct, values)
        near[~inside] = 0
        return np.where(self._distinct[near] == values, near, -1)
