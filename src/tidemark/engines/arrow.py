"""Types at the boundary to Arrow: columns as the kernel's words, words as columns.

Nulls are a validity array of bools beside the words; the word of a null is 0.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.model.expr import Literal
from tidemark.model.graph import Feature
from tidemark.model.types import FLOAT64, STRING, Type
from tidemark.model.window import parse_moment

_SIMPLE: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "timestamp": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
}


def arrow_type(type_: Type) -> pa.DataType:
    """The Arrow type of a type."""
    match type_.name:
        case "decimal":
            return pa.decimal128(type_.precision, type_.scale)
        case "list":
            return pa.list_(arrow_type(type_.item or STRING))
        case "vector":
            return pa.list_(pa.float64(), type_.size)
        case name:
            return _SIMPLE[name]


def valid(column: pa.Array) -> NDArray[np.bool_]:
    """Which values are not null, bool[n]."""
    if column.null_count == 0:
        return np.ones(len(column), np.bool_)
    flags: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return flags


def words(column: pa.Array) -> NDArray[Any]:
    """Numbers, bools, timestamps and dates as float64 or int64[n]; 0 where null."""
    type_ = column.type
    if pa.types.is_date32(type_):
        column = column.view(pa.int32())
    elif pa.types.is_timestamp(type_):
        column = column.view(pa.int64())
    if column.null_count:
        column = pc.fill_null(column, False if pa.types.is_boolean(type_) else 0)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values if values.dtype == np.float64 else values.astype(np.int64, copy=False)


def decimal_words(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decimals as the low and the high word of their integers, int64[n] each; 0 where null."""
    column = pc.fill_null(column, pa.scalar(0, column.type)) if column.null_count else column
    pairs = np.frombuffer(column.buffers()[1], np.int64).reshape(-1, 2)
    pairs = pairs[column.offset : column.offset + len(column)]
    return pairs[:, 0], pairs[:, 1]


def column_of(
    values: NDArray[Any],
    defined: NDArray[np.bool_],
    type_: Type,
    high: NDArray[np.int64] | None = None,
) -> pa.Array:
    """Words as an Arrow column of the type; null where not `defined`."""
    arrow = arrow_type(type_)
    mask = ~defined
    if type_.name == "decimal" and high is not None:
        pairs = np.stack([values.astype(np.int64, copy=False), high], axis=1)
        return pa.Array.from_buffers(arrow, len(values), [_bitmap(defined), pa.py_buffer(pairs)])
    if type_.name == "bool":
        return pa.array(values != 0, mask=mask)
    if type_.name == "date":
        return pa.array(values.astype(np.int32), pa.int32(), mask=mask).view(arrow)
    if type_.name == "timestamp":
        return pa.array(values, pa.int64(), mask=mask).view(arrow)
    numbers = np.ascontiguousarray(values, arrow.to_pandas_dtype())
    return pa.Array.from_buffers(arrow, len(values), [_bitmap(defined), pa.py_buffer(numbers)])


def _bitmap(defined: NDArray[np.bool_]) -> pa.Buffer | None:
    """Which values are not null, as Arrow holds it; None where all are there."""
    return None if defined.all() else pa.py_buffer(np.packbits(defined, bitorder="little"))


def scalar_of(literal: Literal) -> pa.Scalar:
    """A constant as Arrow holds it."""
    value, type_ = literal.value, arrow_type(literal.type)
    match literal.type.name:
        case "list" | "vector" if isinstance(value, tuple):
            item = literal.type.item or FLOAT64
            return pa.scalar([scalar_of(Literal(each, item)).as_py() for each in value], type_)
        case "float64" if isinstance(value, str):
            return pa.scalar(float(value), type_)
        case "decimal" if value is not None:
            return pa.scalar(Decimal(str(value)), type_)
        case "bytes" if isinstance(value, str):
            return pa.scalar(bytes.fromhex(value), type_)
        case "date" if isinstance(value, str):
            return pa.scalar(date.fromisoformat(value), type_)
        case "timestamp" if isinstance(value, str):
            return pa.scalar(parse_moment(value), pa.int64()).cast(type_)
        case _:
            return pa.scalar(value, type_)


def value_of_nothing(feature: Feature) -> Any:
    """The value of a feature that found no event, of Python: 0 of what counts, else its default."""
    default = feature.aggregate.default
    if feature.aggregate.rule.zero:
        return 0
    return None if default is None else scalar_of(default).cast(arrow_type(feature.type)).as_py()
