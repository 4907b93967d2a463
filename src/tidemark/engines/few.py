"""A few rows in plain Python: arrays pay for many rows, and are nearly all of the work for one.

What is made of them is what `engines.identity` and Arrow make of the same rows in columns.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, cast

import pyarrow as pa

from tidemark.engines.arrow import arrow_type
from tidemark.kernel.hashing import hash_bytes
from tidemark.model.graph import Source

Row = Mapping[str, Any]
"""The columns of a row: moments in microseconds, dates in days, all else as Python has it."""

COUNTED = frozenset({"timestamp", "date"})
PLAIN = COUNTED | {"string", "bytes", "int64", "float64", "bool"}
"""The types whose values can be had one by one."""

FEW = 32
"""Rows that are cheaper one by one."""

_ALL = 2**64 - 1
_word = struct.Struct("<q").pack
_of_float = struct.Struct("<d").pack
_to_word = struct.Struct("<q").unpack


@dataclass(frozen=True)
class Plain:
    """How rows of a source are laid out and hashed one by one."""

    source: Source
    schema: pa.Schema
    _types: tuple[tuple[str, pa.DataType, str], ...]
    _exact: tuple[tuple[str, int, Callable[[Any], int]], ...]
    _alike: tuple[tuple[str, Callable[[Any], int]], ...]

    def batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """The rows as Arrow has them."""
        columns = [
            _array([row[name] for row in rows], type_, form) for name, type_, form in self._types
        ]
        batch: pa.RecordBatch = cast("Any", pa.RecordBatch).from_arrays(columns, schema=self.schema)
        return batch

    def identity(self, row: Row) -> int:
        """The hash of what identifies an event (`identity_words`); 0 where nothing does."""
        found = [(word, row[name]) for name, word in self._alike]
        if any(value is None for _, value in found):
            return 0
        return hash_bytes(b"".join([_word(word(value)) for word, value in found])) or 1

    def content(self, row: Row) -> int:
        """The hash of all that a row says (`content_words`)."""
        total = 0
        for name, named, word in self._exact:
            value = row[name]
            if value is not None:
                total += spread_one(word(value) ^ named)
        return signed(total)


@lru_cache(maxsize=256)
def plain(source: Source) -> Plain | None:
    """The layout of a source's rows; None where a column needs more than plain values."""
    if any(each.type.name not in PLAIN for each in source.columns):
        return None
    schema = pa.schema([(each.name, arrow_type(each.type)) for each in source.columns])
    exact = tuple(
        (each.name, hash_bytes(each.name.encode()), _words(each.type.name, exact=True))
        for each in source.columns
    )
    unique = ((name, source.types[name].name) for name in source.unique)
    alike = tuple((name, _words(type_, exact=False)) for name, type_ in unique)
    types = tuple(
        (each.name, arrow_type(each.type), _FORMS.get(each.type.name, ""))
        for each in source.columns
    )
    return Plain(source, schema, types, exact, alike)


@dataclass(frozen=True)
class Few:
    """A few rows of a source, and what is made of them once."""

    plain: Plain
    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, keep: Sequence[bool]) -> Few:
        """Those of the rows that are to stay."""
        return Few(self.plain, [row for row, stays in zip(self.rows, keep, strict=True) if stays])

    @cached_property
    def batch(self) -> pa.RecordBatch:
        """The rows as Arrow has them."""
        return self.plain.batch(self.rows)

    @cached_property
    def identities(self) -> list[int] | None:
        """What identifies them, 0 where nothing does; None where the source has no `unique`."""
        if not self.plain.source.unique:
            return None
        return [self.plain.identity(row) for row in self.rows]

    @cached_property
    def contents(self) -> list[int]:
        """The hashes of all that they say."""
        return [self.plain.content(row) for row in self.rows]


def spread_one(word: int) -> int:
    """`identity.spread` of one word, signed or not; the result is not."""
    mixed = (word + 0x9E3779B97F4A7C15) & _ALL
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _ALL
    return mixed ^ (mixed >> 31)


def signed(total: int) -> int:
    """The low 64 bits of a number as the word that they are in an array of int64."""
    return ((total + 2**63) & _ALL) - 2**63


_FORMS = {"string": "text", "float64": "d", "int64": "q", "timestamp": "q"}
"""How values lie in memory: as `array` has them, or as text."""


def _array(values: list[Any], type_: pa.DataType, form: str) -> pa.Array:
    """Values in Arrow, by their bytes where these are soon made."""
    if not form or None in values:
        return pa.array(values, type_)
    if form != "text":
        data = [None, pa.py_buffer(array(form, values))]
        return pa.Array.from_buffers(type_, len(values), data)
    encoded = [value.encode() for value in values]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    data = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(type_, len(values), data)


def _words(type_: str, *, exact: bool) -> Callable[[Any], int]:
    """The function to the word of a value, as `identity` has it over columns."""
    match type_:
        case "string":
            return lambda value: hash_bytes(value.encode())
        case "bytes":
            return hash_bytes
        case "float64":
            return _bits if exact else lambda value: _bits(value + 0.0)
        case _:
            return int


def _bits(value: float) -> int:
    word: int = _to_word(_of_float(math.nan if math.isnan(value) else value))[0]
    return word
