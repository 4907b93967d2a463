"""Rows as 64-bit hashes: of what identifies an event, and of all that it says.

They are the same on every machine and in every version, so that they can be stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.arrow import decimal_words, words
from tidemark.kernel.hashing import hash_all, hash_bytes, hash_decimals

Words = NDArray[np.int64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def identity_words(columns: Sequence[pa.Array | pa.ChunkedArray]) -> Words:
    """The hash of the columns that identify an event, int64[n]; 0 where one of them is null.

    Equal values have equal hashes: -0.0 is 0.0, and every NaN is the same one.
    """
    whole = [_whole(column) for column in columns]
    n = len(whole[0])
    parts = np.empty((n, len(whole)), np.int64)
    for place, column in enumerate(whole):
        parts[:, place] = _column_words(column, exact=False)
    hashes = _hashed(parts)
    hashes[hashes == 0] = 1
    for column in whole:
        if column.null_count:
            hashes[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def content_words(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> Words:
    """The hash of all that rows say, int64[n].

    Neither the order of the columns counts nor one that is null, so that a row of before a column
    was added is the same row after it.  Every bit of a float counts, but NaN is NaN.
    """
    wholes = {name: _whole(column) for name, column in columns.items()}
    mixed = np.empty((len(wholes), len(next(iter(wholes.values())))), np.uint64)
    for place, (name, column) in enumerate(wholes.items()):
        mixed[place] = _column_words(column, exact=True).view(np.uint64) ^ _named(name)
    mixed = spread(mixed)
    for place, column in enumerate(wholes.values()):
        if column.null_count:
            mixed[place, column.is_null().to_numpy(zero_copy_only=False)] = 0
    total: NDArray[np.uint64] = mixed.sum(axis=0, dtype=np.uint64)
    return total.view(np.int64)


@lru_cache(maxsize=4096)
def _named(name: str) -> np.uint64:
    return np.uint64(hash_bytes(name.encode()) & (2**64 - 1))


def spread(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64, as in `tidemark.kernel.hashing`, over an array."""
    mixed = values + _STEP
    mixed = (mixed ^ (mixed >> _S30)) * _FIRST
    mixed = (mixed ^ (mixed >> _S27)) * _SECOND
    return mixed ^ (mixed >> _S31)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _hashed(parts: NDArray[np.int64]) -> Words:
    """The hash of each row of a matrix of words."""
    n, width = parts.shape
    data = np.ascontiguousarray(parts, "<i8").view(np.uint8).reshape(-1)
    return hash_all(np.arange(n + 1, dtype=np.int64) * (8 * width), data)


def _column_words(column: pa.Array, *, exact: bool) -> Words:
    """One word for each value; any for a null."""
    type_ = column.type
    if pa.types.is_nested(type_):
        return _list_words(column, exact=exact)
    if pa.types.is_decimal(type_):
        return hash_decimals(*decimal_words(column))
    if pa.types.is_string(type_) or pa.types.is_binary(type_):
        _, offsets, data = column.buffers()
        if data is None:
            return _hashed(np.zeros((len(column), 0), np.int64))
        ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        return hash_all(ends.astype(np.int64), np.frombuffer(data, np.uint8))
    values: NDArray[Any] = words(column)
    if values.dtype != np.float64:
        return values.astype(np.int64, copy=False)
    plain = np.where(np.isnan(values), np.nan, values if exact else values + 0.0)
    return plain.view(np.int64)


def _list_words(column: pa.Array, *, exact: bool) -> Words:
    lengths = np.asarray(column.value_lengths().fill_null(0)) if len(column) else np.zeros(0)
    items = column.flatten()
    inside = _column_words(items, exact=exact).copy()
    inside[items.is_null().to_numpy(zero_copy_only=False)] = -1
    ends = np.concatenate(([0], np.cumsum(lengths.astype(np.int64)))) * 8
    return hash_all(ends, np.ascontiguousarray(inside, "<i8").view(np.uint8))
