"""How types and values look in Python: annotations, constants, and what a function returns."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Union, cast, get_args, get_origin

from tidemark.errors import DefinitionError, RequestInvalid
from tidemark.model.expr import Literal, Plain
from tidemark.model.types import (
    BOOL,
    BYTES,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    Type,
    decimal,
    list_of,
    parse_type,
)
from tidemark.model.window import format_moment, parse_moment

PYTHON_TYPES: dict[type, Type] = {
    int: INT64,
    float: FLOAT64,
    bool: BOOL,
    str: STRING,
    bytes: BYTES,
    datetime: TIMESTAMP,
    date: DATE,
}

_ANY_DECIMAL = decimal(38, 0)

# An integer beyond is no float64.
_LARGEST = int(sys.float_info.max)

_NAMES = {type_: python.__name__ for python, type_ in PYTHON_TYPES.items()}


class Annotation:
    """What an annotation says: a type (None: anything), and whether null is allowed."""

    def __init__(self, type_: Type | None, optional: bool) -> None:
        self.type = type_
        self.optional = optional

    def __str__(self) -> str:
        inner = python_name(self.type) if self.type else "Any"
        return f"{inner} | None" if self.optional and self.type else inner


def read_annotation(
    annotation: Any, declared: Type | None = None, *, takes: bool = False
) -> Annotation:
    """Read `float`, `float | None`, `list[str]`, `Annotated[Decimal, tm.decimal(18, 2)]`, ...

    `declared` is a type that was said beside the annotation.  What only `takes` values, as the
    parameter of a function does, takes decimals of any digits.  Raises `DefinitionError`.
    """
    if annotation is Any or annotation is object:
        return Annotation(declared, optional=True)
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        said = (_said_type(note) for note in notes)
        known = next((type_ for type_ in said if type_), declared)
        return read_annotation(inner, known, takes=takes)
    if get_origin(annotation) in {Union, types.UnionType}:
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        if len(parts) == 1:
            return Annotation(read_annotation(parts[0], declared, takes=takes).type, optional=True)
    elif declared is not None:
        return Annotation(_agree(annotation, declared), optional=False)
    elif annotation in PYTHON_TYPES:
        return Annotation(PYTHON_TYPES[annotation], optional=False)
    elif get_origin(annotation) is list:
        item = read_annotation(get_args(annotation)[0], takes=takes).type
        return Annotation(list_of(item) if item else None, optional=False)
    elif annotation is Decimal and takes:
        return Annotation(_ANY_DECIMAL, optional=False)
    elif annotation is Decimal:
        raise DefinitionError(
            "A decimal needs its digits.",
            remedy="Write `price: tm.Col[Decimal] = tm.decimal(18, 2)`, or for a function "
            "`Annotated[Decimal, tm.decimal(18, 2)]`.",
        )
    raise DefinitionError(
        f"{spelled(annotation)} is not a type of a value.",
        remedy="Types: int, float, bool, str, bytes, datetime, date, list[...] of these, "
        "`X | None`, tm.decimal(18, 2), tm.vector(128).",
    )


def _said_type(note: object) -> Type | None:
    said = getattr(note, "declared_type", note)
    return said if isinstance(said, Type) else None


def _agree(annotation: Any, declared: Type) -> Type:
    """The declared type, if values of it look in Python as the annotation says."""
    fits = {"decimal": Decimal, "list": list, "vector": list}
    wanted = fits.get(
        declared.name, next((p for p, t in PYTHON_TYPES.items() if t == declared), None)
    )
    if annotation is not wanted and get_origin(annotation) is not wanted:
        raise DefinitionError(f"{declared} does not go with {spelled(annotation)}.")
    return declared


def spelled(annotation: Any) -> str:
    """An annotation as it was written."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def as_texts(said: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names said as one text or as several."""
    if said is None:
        return ()
    return (said,) if isinstance(said, str) else tuple(map(str, said))


def as_type(said: Type | type | str) -> Type:
    """A type said as `float`, as text (`"decimal(18,2)"`), or as a type itself."""
    if isinstance(said, Type):
        return said
    if isinstance(said, str):
        return parse_type(said)
    named = _said_type(said) or read_annotation(said).type
    if named is None:
        raise DefinitionError(f"{spelled(said)} does not say one type.")
    return named


def python_name(type_: Type) -> str:
    """The annotation that a function writes for values of a type."""
    if type_.name == "decimal":
        return "Decimal"
    if type_.name == "vector":
        return "list[float]"
    if type_.item is not None:
        return f"list[{python_name(type_.item)}]"
    return _NAMES[type_]


def accepts(parameter: Annotation, given: Type) -> bool:
    """Whether a parameter of that annotation takes values of a type."""
    wanted = parameter.type
    if wanted is None or wanted == given:
        return True
    if wanted == FLOAT64 and given == INT64:
        return True
    if wanted.name == given.name == "decimal":
        return True
    if wanted.item and given.item and wanted.item.name == given.item.name == "decimal":
        return True
    return wanted == list_of(FLOAT64) and given.name == "vector"


def literal(value: object) -> Literal:
    """A constant of the type that its Python value has; raises `DefinitionError`."""
    match value:
        case bool():
            return Literal(value, BOOL)
        case int():
            if not -(2**63) <= value < 2**63:
                raise DefinitionError(f"{value} does not fit into int64.")
            return Literal(value, INT64)
        case float():
            return Literal(_float_text(value), FLOAT64)
        case str():
            return Literal(value, STRING)
        case bytes():
            return Literal(value.hex(), BYTES)
        case Decimal():
            return _decimal_literal(value)
        case datetime():
            try:
                return Literal(format_moment(parse_moment(value)), TIMESTAMP)
            except RequestInvalid as error:
                raise DefinitionError(error.what, remedy=error.remedy) from None
        case date():
            return Literal(value.isoformat(), DATE)
        case _:
            raise DefinitionError(
                f"{value!r} is not a constant of a known type.",
                remedy="Constants are bool, int, float, str, bytes, Decimal, date, aware datetime.",
            )


def _float_text(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _decimal_literal(value: Decimal) -> Literal:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise DefinitionError(f"{value} is not a decimal number.")
    scale = max(0, -exponent)
    precision = max(len(digits) + max(0, exponent), scale, 1)
    return Literal(f"{value:f}", decimal(precision, scale))


def literal_of(value: object, type_: Type) -> Literal:
    """A constant of exactly that type, where the value is one; raises `DefinitionError`."""
    if type_.name in {"list", "vector"} and isinstance(value, list | tuple):
        return _list_literal(cast("Sequence[object]", value), type_)
    found = literal(value)
    if found.type == type_:
        return found
    if type_ == FLOAT64 and isinstance(value, int) and not isinstance(value, bool):
        return Literal(float(value), FLOAT64)
    if type_.name == "decimal" and isinstance(value, int | Decimal) and not isinstance(value, bool):
        exact = Decimal(value)
        rounded = exact.quantize(Decimal(1).scaleb(-type_.scale))
        if rounded == exact:
            return Literal(f"{rounded:f}", type_)
    raise DefinitionError(f"{value!r} is not {type_}.")


def _list_literal(values: Sequence[object], type_: Type) -> Literal:
    if type_.size not in {0, len(values)}:
        raise DefinitionError(f"{values!r} is not {type_}.")
    item = type_.item or FLOAT64
    parts = [None if each is None else literal_of(each, item).value for each in values]
    return Literal(cast("tuple[Plain, ...]", tuple(parts)), type_)


def is_value(value: object, type_: Type) -> bool:
    """Whether a Python value (not null) is a value of the type; an int is a float64 as well."""
    match type_.name:
        case "int64":
            return (
                isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
            )
        case "float64":
            if isinstance(value, int) and not isinstance(value, bool):
                return abs(value) <= _LARGEST
            return isinstance(value, float)
        case "bool":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "bytes":
            return isinstance(value, bytes)
        case "decimal":
            return isinstance(value, Decimal)
        case "timestamp":
            return isinstance(value, datetime) and value.tzinfo is not None
        case "date":
            return isinstance(value, date) and not isinstance(value, datetime)
        case "list" | "vector":
            item = type_.item or FLOAT64
            return (
                isinstance(value, Sequence)
                and not isinstance(value, str | bytes)
                and type_.size in {0, len(cast("Sequence[object]", value))}
                and all(
                    each is None or is_value(each, item) for each in cast("Sequence[object]", value)
                )
            )


def without_numpy(value: Any) -> Any:
    """A number or an array of numpy as Python has it; anything else as it is."""
    return value.tolist() if type(value).__module__ == "numpy" else value


def stored(value: Any, type_: Type) -> Any:
    """A checked value as the type holds it: floats are floats, timestamps are in UTC.

    A member of an enumeration of texts or numbers is the text or the number.
    """
    if type_ == STRING:
        return value if type(value) is str else str.__str__(value)
    if type_ == INT64:
        return int(value)
    if type_ == FLOAT64:
        return float(value)
    if type_ == TIMESTAMP:
        moment = value.astimezone(UTC)
        if type(moment) is datetime:
            return moment
        return datetime.combine(moment.date(), moment.time(), UTC)  # of pandas, to the microsecond
    if type_.name in {"list", "vector"}:
        item = type_.item or FLOAT64
        return [None if each is None else stored(each, item) for each in value]
    return value
