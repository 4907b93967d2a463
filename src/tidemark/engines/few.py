"""A few rows in plain Python: arrays pay for many rows, and are nearly all of the work for one.

New events take one of two paths to the bytes of their rows: a few go row by row (here, then
`ingest.few` and `online.trees.few`), all others as a micro-batch in columns (`engines.micro`, then
`online.rows.merging`).  Both give the same values, hashes and bytes: tests/property/test_few.py and
tests/property/test_few_into_rows.py hold them to it.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain, compress
from typing import Any, cast

import numpy as np
import pyarrow as pa

from tidemark.engines.arrow import arrow_type
from tidemark.kernel.hashing import hash_all
from tidemark.model.graph import Source
from tidemark.model.types import TIMESTAMP

Row = Mapping[str, Any]
"""A row by column: moments in microseconds, dates in days, all else as Python has it."""

COUNTED = frozenset({"timestamp", "date"})
PLAIN = COUNTED | {"string", "bytes", "int64", "float64", "bool"}
"""The types whose values can be had one by one."""

FEW = 32
"""Rows that are cheaper one by one."""

_ALL = 2**64 - 1
_MINUS_ZERO = -(2**63)
_of_float = struct.Struct("<d").pack
_to_word = struct.Struct("<q").unpack


@dataclass(frozen=True)
class Plain:
    """How rows of a source are laid out and hashed one by one.

    `named` has the hash of each column's name, `forms` its type; `unique` says which columns
    identify an event.
    """

    source: Source
    schema: pa.Schema
    names: tuple[str, ...]
    named: tuple[int, ...]
    forms: tuple[str, ...]
    unique: tuple[int, ...]


@lru_cache(maxsize=256)
def plain(source: Source) -> Plain | None:
    """The layout of a source's rows; None where a column needs more than plain values."""
    if any(each.type.name not in PLAIN for each in source.columns):
        return None
    names = tuple(each.name for each in source.columns)
    types = [(each.name, arrow_type(each.type)) for each in source.columns]
    forms = tuple(each.type.name for each in source.columns)
    named = tuple(_hashes([name.encode() for name in names]))
    unique = tuple(names.index(name) for name in source.unique)
    return Plain(source, pa.schema(types), names, named, forms, unique)


@dataclass(frozen=True)
class Few:
    """A few rows of a source; `columns` has the values of each column, as `Row` has them."""

    plain: Plain
    columns: Sequence[list[Any]]

    def __len__(self) -> int:
        return len(self.columns[0])

    def only(self, keep: Sequence[bool]) -> Few:
        """Those of the rows that are to stay."""
        return Few(self.plain, [list(compress(column, keep)) for column in self.columns])

    @property
    def times(self) -> list[Any]:
        """When the rows happened, in microseconds."""
        return self.columns[self.plain.names.index(str(self.plain.source.time))]

    @cached_property
    def batch(self) -> pa.RecordBatch:
        """The rows as Arrow has them."""
        return batch_of(self.columns, self.plain.schema)

    def hashes(self) -> tuple[list[int], list[int] | None]:
        """What rows say (`content_words`), and what identifies them (`identity_words`).

        An identity is 0 where there is none; they are None where the source has no `unique`.
        """
        words = self._words()
        totals = [0] * len(self)
        for named, column in zip(self.plain.named, words, strict=True):
            for row, word in enumerate(column):
                if word is not None:
                    totals[row] += spread_one(word ^ named)
        contents = [signed(total) for total in totals]
        unique = self.plain.unique
        return contents, self._identities([words[place] for place in unique]) if unique else None

    def _identities(self, words: Sequence[list[int | None]]) -> list[int]:
        # Equal values are to have equal words: of those of floats, 0.0 and -0.0 have two.
        forms = [self.plain.forms[place] for place in self.plain.unique]
        alike = [
            [0 if word == _MINUS_ZERO else word for word in column] if form == "float64" else column
            for form, column in zip(forms, words, strict=True)
        ]
        rows = list(zip(*alike, strict=True))
        pack = struct.Struct(f"<{len(alike)}q").pack
        hashed = iter(_hashes([pack(*row) for row in rows if None not in row]))
        return [0 if None in row else next(hashed) or 1 for row in rows]

    def _words(self) -> list[list[int | None]]:
        """One word for each value, column by column, every bit of it; None for null."""
        there = list(zip(self.plain.forms, self.columns, strict=True))
        texts = [_bytes(form, column) for form, column in there if form in _TEXTS]
        hashed = iter(_hashes(list(chain.from_iterable(texts))))
        words: list[list[int | None]] = []
        for form, column in there:
            if form in _TEXTS:
                words.append([None if value is None else next(hashed) for value in column])
            elif form == "float64":
                words.append([None if value is None else _bits(value) for value in column])
            else:
                words.append(column)
        return words


def batch_of(columns: Sequence[list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Plain values as Arrow has them; the columns are those of the schema."""
    arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    batch: pa.RecordBatch = cast("Any", pa.RecordBatch).from_arrays(arrays, schema=schema)
    return batch


def spread_one(word: int) -> int:
    """`identity.spread` of one word, signed or not; the result is not."""
    mixed = (word + 0x9E3779B97F4A7C15) & _ALL
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _ALL
    return mixed ^ (mixed >> 31)


def signed(total: int) -> int:
    """The low 64 bits of a number as the word that they are in an array of int64."""
    return ((total + 2**63) & _ALL) - 2**63


_TEXTS = frozenset({"string", "bytes"})

_FORMS = {
    pa.string(): "text",
    pa.float64(): "d",
    pa.int64(): "q",
    arrow_type(TIMESTAMP): "q",
}
"""How values lie in memory: as `array` has them, or as text."""


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    """Values in Arrow, by their bytes where these are soon made."""
    form = _FORMS.get(type_, "")
    if not form or None in values:
        return pa.array(values, type_)
    if form != "text":
        data = [None, pa.py_buffer(array(form, values))]
        return pa.Array.from_buffers(type_, len(values), data)
    encoded = [value.encode() for value in values]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    data = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(type_, len(values), data)


def _bytes(form: str, column: Sequence[Any]) -> Iterable[bytes]:
    """The values of a column of text or bytes that are not null, as bytes."""
    there = [value for value in column if value is not None]
    return map(str.encode, there) if form == "string" else there


def _hashes(values: Sequence[bytes]) -> list[int]:
    """`hash_bytes` of each of some values, which takes about as long as that of one."""
    ends = array("q", accumulate(map(len, values), initial=0))
    found = hash_all(np.frombuffer(ends, np.int64), np.frombuffer(b"".join(values), np.uint8))
    hashed: list[int] = found.tolist()
    return hashed


def _bits(value: float) -> int:
    word: int = _to_word(_of_float(math.nan if math.isnan(value) else value))[0]
    return word
