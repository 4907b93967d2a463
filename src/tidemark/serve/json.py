"""Types at the boundary to JSON.

| type | JSON |
|---|---|
| int64 | a number without fraction, all 64 bits of it |
| float64 | a number; `"NaN"`, `"Infinity"` and `"-Infinity"` are text |
| decimal | text: `"12.50"` |
| bool, string | themselves |
| bytes | text in base64 |
| timestamp | text in ISO 8601 with a zone; `Z` in what is written |
| date | text: `"2026-03-01"` |
| list, vector | an array of the above; an item may be null |
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, cast

from tidemark.errors import RequestInvalid
from tidemark.model.graph import Field
from tidemark.model.types import FLOAT64, Type
from tidemark.model.window import instant, moment_text, parse_moment
from tidemark.serve.inputs import is_column

Convert = Callable[[Any], Any]

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_DECIMAL = re.compile(r"-?[0-9]{1,60}(\.[0-9]{1,60})?")

_SCHEMAS: dict[str, dict[str, Any]] = {
    "int64": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float64": {"anyOf": [{"type": "number"}, {"enum": list(_NOT_FINITE)}]},
    "decimal": {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"},
    "bool": {"type": "boolean"},
    "string": {"type": "string"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
    "timestamp": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
}


def writer(type_: Type) -> Convert | None:
    """What makes JSON of a value that is not null; None where the value is JSON already."""
    match type_.name:
        case "float64":
            return _float
        case "decimal":
            return lambda value: format(value, "f")
        case "bytes":
            return lambda value: base64.b64encode(value).decode()
        case "timestamp":
            return moment_text
        case "date":
            return date.isoformat
        case "list" | "vector":
            item = writer(type_.item or FLOAT64)
            if item is None:
                return None
            return lambda values: [None if each is None else item(each) for each in values]
        case _:
            return None


def schema(type_: Type) -> dict[str, Any]:
    """The JSON Schema of values of a type that are not null."""
    if type_.scalar:
        return dict(_SCHEMAS[type_.name])
    item = {"anyOf": [schema(type_.item or FLOAT64), {"type": "null"}]}
    found: dict[str, Any] = {"type": "array", "items": item}
    if type_.size:
        found |= {"minItems": type_.size, "maxItems": type_.size}
    return found


class JsonInputs:
    """Reads the JSON of keys or request values; whether they are right is for `Inputs` to say.

    What is not the JSON of its type stays as it is, so that the refusal shows what was sent.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._readers = {
            field.name: (field, reader)
            for field in fields
            if (reader := _reader(field.type)) is not None
        }

    def one(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of one request."""
        if not self._readers:
            return given
        read = dict(given)
        for name, (_, reader) in self._readers.items():
            if name in read:
                read[name] = reader(read[name])
        return read

    def many(self, given: object) -> object:
        """The values of many: a list of objects, or an object of columns or of shared values."""
        if isinstance(given, list):
            rows = cast("list[Mapping[str, Any]]", given)
            return [self.one(row) for row in rows] if self._readers else rows
        read = dict(cast("Mapping[str, Any]", given))
        for name, (field, reader) in self._readers.items():
            value = read.get(name)
            if value is not None:
                column = is_column(field, value)
                read[name] = [reader(each) for each in value] if column else reader(value)
        return read


def _reader(type_: Type) -> Convert | None:
    match type_.name:
        case "float64":
            return lambda value: _NOT_FINITE.get(value, value) if type(value) is str else value
        case "decimal":
            return lambda value: (
                Decimal(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value
            )
        case "bytes":
            return lambda value: _read(value, lambda text: base64.b64decode(text, validate=True))
        case "timestamp":
            return lambda value: _read(value, lambda text: instant(parse_moment(text)))
        case "date":
            return lambda value: _read(value, date.fromisoformat)
        case "list" | "vector":
            item = _reader(type_.item or FLOAT64)
            if item is None:
                return None
            return lambda values: _each(values, item)
        case _:
            return None


def _each(values: Any, reader: Convert) -> Any:
    if not isinstance(values, list):
        return values
    return [reader(each) for each in cast("list[object]", values)]


def _read(value: Any, read: Callable[[str], Any]) -> Any:
    """Text as what it says; anything else, and text that says nothing of the kind, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return read(value)
    except (ValueError, OverflowError, RequestInvalid):
        return value


def _float(value: float) -> float | str:
    if value - value == 0:  # neither NaN nor infinite
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124
