"""Content hashes of Arrow columns: equal for equal values in equal order, however they are stored.

Neither chunks, buffers, dictionaries, the width of offsets nor the encoding of a file counts.  A
null is a null whatever lies under it, and every NaN is the same one.  Units of time coarser than
microseconds count as microseconds, since Parquet does not keep them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.errors import RequestInvalid

_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_binary_view,
)


class ColumnHash:
    """The hash of a column that comes in pieces; where the pieces are cut does not count."""

    def __init__(self, type_: pa.DataType) -> None:
        self._type = _plain_type(type_)
        self._n = 0
        self._valid, self._values, self._lengths = (_blake() for _ in range(3))
        self._inside = [ColumnHash(inner) for inner in _inner(self._type)]

    def update(self, column: pa.Array) -> None:
        """Take in the next values."""
        column = _plain(column)
        self._n += len(column)
        if not len(column):
            return
        self._valid.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_null(self._type):
            return
        if pa.types.is_struct(self._type):
            for hash_, inner in zip(self._inside, column.flatten(), strict=True):
                hash_.update(inner)
        elif self._inside:
            self._lengths.update(_lengths_of(column).tobytes())
            self._inside[0].update(column.flatten())
        elif pa.types.is_large_binary(self._type):
            lengths, data = _bytes_of(column)
            self._lengths.update(lengths.tobytes())
            self._values.update(data)
        else:
            self._values.update(_fixed(column).tobytes())

    def digest(self) -> str:
        """The hash of all values so far, 64 hexadecimal digits."""
        parts = [hash_.hexdigest() for hash_ in (self._valid, self._values, self._lengths)]
        inside = [hash_.digest() for hash_ in self._inside]
        return digest([_named(self._type), str(self._n), *parts, *inside])


def column_hash(column: pa.ChunkedArray) -> str:
    """The hash of one column."""
    hash_ = ColumnHash(column.type)
    for chunk in column.chunks:
        hash_.update(chunk)
    return hash_.digest()


def column_hashes(table: pa.Table) -> dict[str, str]:
    """The hash of each column by its name."""
    return {
        name: column_hash(column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def batches_hash(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> tuple[int, str]:
    """How many rows there are, and the hash of them all."""
    hashes = [ColumnHash(field.type) for field in schema]
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        for place, hash_ in enumerate(hashes):
            hash_.update(batch.column(place))
    names = [field.name for field in schema]
    return rows, rows_hash(dict(zip(names, (h.digest() for h in hashes), strict=True)))


def rows_hash(columns: dict[str, str]) -> str:
    """The hash of rows from those of their columns, whose names and order count."""
    return digest([part for item in columns.items() for part in item])


def digest(parts: Sequence[str]) -> str:
    """The hash of several texts, which cannot be mistaken for one another."""
    hash_ = _blake()
    for part in parts:
        text = part.encode()
        hash_.update(len(text).to_bytes(8, "little"))
        hash_.update(text)
    return str(hash_.hexdigest())


def differing(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int:
    """In how many rows two columns of equal length hold different values."""
    left, right = (_plain(column.combine_chunks()) for column in (one, other))
    if left.type != right.type:
        return len(left)
    if _inner(left.type):
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return sum(repr(mine) != repr(theirs) for mine, theirs in pairs)
    there = left.is_valid().to_numpy(zero_copy_only=False)
    differs = there != right.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_large_binary(left.type):
        unequal = pc.fill_null(pc.not_equal(left, right), False)
        differs |= unequal.to_numpy(zero_copy_only=False)
    elif len(left) and not pa.types.is_null(left.type):
        differs |= (_fixed(left) != _fixed(right)).any(axis=1)
    return int(differs.sum())


def _plain_type(type_: Any) -> Any:
    """The one type that stands for all that hold the same values."""
    if isinstance(type_, pa.BaseExtensionType):
        return _plain_type(type_.storage_type)
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return _plain_type(type_.value_type)
    if any(test(type_) for test in _TEXT):
        return pa.large_binary()
    if pa.types.is_map(type_):
        return pa.list_(pa.struct([type_.key_field, type_.item_field]))
    if pa.types.is_timestamp(type_) and type_.unit in {"s", "ms"}:
        return pa.timestamp("us", type_.tz)
    if pa.types.is_duration(type_) and type_.unit in {"s", "ms"}:
        return pa.duration("us")
    if pa.types.is_time32(type_):
        return pa.time64("us")
    if pa.types.is_date64(type_):
        return pa.date32()
    if pa.types.is_union(type_):
        raise RequestInvalid(
            f"A column of {type_} cannot be kept.", remedy="Split it into one column for each type."
        )
    return type_


def _plain(column: pa.Array) -> pa.Array:
    """A column as the type that stands for all that hold the same values."""
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        return _plain(column.dictionary_decode())
    if pa.types.is_run_end_encoded(column.type):
        return _plain(pc.run_end_decode(column))
    wanted = _plain_type(column.type)
    if pa.types.is_large_binary(wanted) and pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return column if column.type == wanted else column.cast(wanted)


def _fixed(column: pa.Array) -> NDArray[np.uint8]:
    """The values of a plain column of fixed width, uint8[n, width]; zeros where null."""
    type_ = column.type
    if pa.types.is_boolean(type_):
        values: NDArray[Any] = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
        return values.astype(np.uint8).reshape(-1, 1)
    width = type_.bit_width // 8
    raw = np.frombuffer(column.buffers()[1], np.uint8)
    rows = raw[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)
    if pa.types.is_floating(type_):
        floats = rows.view(f"<f{width}").copy()
        floats[np.isnan(floats)] = np.nan
        rows = floats.view(np.uint8)
    if column.null_count:
        rows = np.where(column.is_valid().to_numpy(zero_copy_only=False)[:, None], rows, 0)
    return np.ascontiguousarray(rows, np.uint8)


def _lengths_of(column: pa.Array) -> NDArray[np.int64]:
    """How many items each list has, int64[n]; 0 where null."""
    lengths: NDArray[Any] = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return lengths.astype(np.int64)


def _named(type_: pa.DataType) -> str:
    if pa.types.is_struct(type_):
        return f"struct of {[field.name for field in type_]}"
    return "list" if pa.types.is_nested(type_) else str(type_)


def _inner(type_: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_struct(type_):
        return [field.type for field in type_]
    if pa.types.is_nested(type_):
        return [type_.value_type]
    return []


def _bytes_of(column: pa.Array) -> tuple[NDArray[np.int64], memoryview]:
    column = pc.fill_null(column, b"") if column.null_count else column
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.diff(ends), memoryview(data or b"")[ends[0] : ends[-1]]


def _blake() -> Any:
    return hashlib.blake2b(digest_size=32)
