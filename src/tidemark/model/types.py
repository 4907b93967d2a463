"""The closed set of value types, each with one text form.

`int64  float64  decimal(18,2)  bool  string  bytes  timestamp  date  list<string>  vector<128>`

A timestamp is an instant: UTC, integer microseconds.  A vector is a list of float64 of fixed size.
How a type looks in Arrow, SQL, bytes, Python or JSON is said once, beside each of those boundaries.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from tidemark.errors import DefinitionError

TypeName = Literal[
    "int64",
    "float64",
    "decimal",
    "bool",
    "string",
    "bytes",
    "timestamp",
    "date",
    "list",
    "vector",
]


class Type(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The type of a column, an expression or a feature.

    `precision` and `scale` belong to decimals, `item` to lists, `size` to vectors.
    """

    name: TypeName
    precision: int = 0
    scale: int = 0
    item: Type | None = None
    size: int = 0

    def __str__(self) -> str:
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.name == "list":
            return f"list<{self.item}>"
        if self.name == "vector":
            return f"vector<{self.size}>"
        return self.name

    @property
    def numeric(self) -> bool:
        """Whether values can be added."""
        return self.name in {"int64", "float64", "decimal"}

    @property
    def ordered(self) -> bool:
        """Whether values have an order that `min`, `max` and `<` can use."""
        return self.numeric or self.name in {"bool", "string", "bytes", "timestamp", "date"}

    @property
    def scalar(self) -> bool:
        """Whether a value is one value, not a list or a vector."""
        return self.name not in {"list", "vector"}


INT64 = Type("int64")
FLOAT64 = Type("float64")
BOOL = Type("bool")
STRING = Type("string")
BYTES = Type("bytes")
TIMESTAMP = Type("timestamp")
DATE = Type("date")

_SIMPLE = {str(type_): type_ for type_ in (INT64, FLOAT64, BOOL, STRING, BYTES, TIMESTAMP, DATE)}


def decimal(precision: int, scale: int) -> Type:
    """A decimal of `precision` digits (1 to 38), `scale` of them after the point."""
    if not 1 <= precision <= 38 or not 0 <= scale <= precision:
        raise DefinitionError(
            f"decimal({precision},{scale}) is not a type.",
            remedy="Precision is 1 to 38, scale is 0 to the precision.",
        )
    return Type("decimal", precision=precision, scale=scale)


def list_of(item: Type) -> Type:
    """A list of any number of values of one scalar type."""
    if not item.scalar:
        raise DefinitionError(
            f"list<{item}> is not a type.", remedy="A list holds scalars; it does not nest."
        )
    return Type("list", item=item)


def vector(size: int) -> Type:
    """An embedding: `size` float64 values."""
    if size < 1:
        raise DefinitionError(f"vector<{size}> is not a type.", remedy="The size is at least 1.")
    return Type("vector", size=size)


def parse_type(text: str) -> Type:
    """Read a type from its text form; raises `DefinitionError` for anything else."""
    text = text.strip()
    if text in _SIMPLE:
        return _SIMPLE[text]
    if found := re.fullmatch(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)", text):
        return decimal(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"vector<\s*(\d+)\s*>", text):
        return vector(int(found[1]))
    if found := re.fullmatch(r"list<(.+)>", text):
        return list_of(parse_type(found[1]))
    raise DefinitionError(
        f"{text!r} is not a type.",
        remedy=f"Types: {', '.join(_SIMPLE)}, decimal(18,2), list<string>, vector<128>.",
    )
