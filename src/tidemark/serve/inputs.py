"""What a caller passes, checked against what is declared: keys and request values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import islice
from typing import Any, cast

from tidemark.define.python_types import is_value, stored
from tidemark.engines.histories import as_table
from tidemark.errors import RequestInvalid
from tidemark.model.graph import Field
from tidemark.model.types import FLOAT64, Type
from tidemark.online.rows.values import rescaled

_PLAIN: dict[str, type] = {
    "int64": int,
    "float64": float,
    "bool": bool,
    "string": str,
    "bytes": bytes,
}


class Inputs:
    """The named, typed values that a request needs; `kind` is what messages call one of them.

    `ignored` names may be passed as well and are not looked at.
    """

    def __init__(self, kind: str, fields: Sequence[Field], *, ignored: Sequence[str] = ()) -> None:
        self.kind = kind
        self.fields = tuple(fields)
        self.names = frozenset(field.name for field in fields)
        self._allowed = self.names | set(ignored)
        self._optional = frozenset(field.name for field in fields if field.optional)
        self._plain = tuple(
            (field.name, _PLAIN.get(field.type.name), field.type) for field in fields
        )

    def one(self, given: object) -> list[Any]:
        """The checked values of one request, in the order of the fields."""
        if not isinstance(given, Mapping):
            raise RequestInvalid(
                f"The {self.kind}s are {_shown(given)}, not a dict.", remedy=self._expected()
            )
        named = cast("Mapping[str, Any]", given)
        if len(named) != len(self.names) or not self.names.issuperset(named):
            self._check_names(named)
        values: list[Any] = []
        for name, plain, type_ in self._plain:
            value: Any = named[name]
            if type(value) is not plain or (plain in _SURE and not _SURE[plain](value)):
                value = self._checked(name, type_, value, None)
            values.append(value)
        return values

    def many(self, given: object) -> tuple[list[list[Any]], int]:
        """The checked columns of many requests, in the order of the fields, and their length.

        `given` is a list of dicts, a dict of columns, or anything that gives Arrow.
        """
        if isinstance(given, Mapping):
            return self._columns(cast("Mapping[str, Any]", given))
        if isinstance(given, Sequence) and not isinstance(given, str | bytes):
            return self._dicts(cast("Sequence[object]", given))
        table = as_table(given)
        return self._columns({name: table.column(name).to_pylist() for name in table.column_names})

    def _dicts(self, rows: Sequence[object]) -> tuple[list[list[Any]], int]:
        checked: list[list[Any]] = []
        for position, row in enumerate(rows):
            try:
                checked.append(self.one(row))
            except RequestInvalid as error:
                where = f"row {position}"
                raise RequestInvalid(error.what, where=where, remedy=error.remedy) from None
        return [list(column) for column in zip(*checked, strict=True)] or [
            [] for _ in self.fields
        ], len(rows)

    def _columns(self, columns: Mapping[str, Any]) -> tuple[list[list[Any]], int]:
        self._check_names(columns)
        taken: list[list[Any]] = []
        for name, plain, type_ in self._plain:
            column = columns[name]
            if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
                raise RequestInvalid(
                    f"The column of the {self.kind} {name!r} is {_shown(column)}, not a list.",
                    remedy="Pass one list for each name, all of one length.",
                )
            taken.append(self._column(name, plain, type_, _listed(column)))
        sizes = {len(column) for column in taken}
        if len(sizes) > 1:
            lengths = ", ".join(
                f"{field.name}: {len(column)}"
                for field, column in zip(self.fields, taken, strict=True)
            )
            raise RequestInvalid(f"The {self.kind} columns differ in length.", where=lengths)
        return taken, sizes.pop() if sizes else 0

    def _column(self, name: str, plain: type | None, type_: Type, values: list[Any]) -> list[Any]:
        if (
            set(map(type, values)) == {plain}
            and (plain is not int or (_is_word(min(values)) and _is_word(max(values))))
            and (plain is not str or all(map(_SURE[str], values)))
        ):
            return values
        return [
            self._checked(name, type_, value, position) for position, value in enumerate(values)
        ]

    def _check_names(self, given: Mapping[str, Any]) -> None:
        for field in self.fields:
            if field.name not in given:
                others = islice((name for name in given if name not in self._allowed), 3)
                told = ", ".join(str(name)[:40] for name in others)
                told = f" Given: {told}." if told else ""
                raise RequestInvalid(
                    f"The {self.kind} {field.name!r} is missing.", remedy=self._expected() + told
                )
        for name in given:
            if name not in self._allowed:
                near = get_close_matches(str(name), sorted(self._allowed), n=1)
                hint = f"Did you mean {near[0]!r}? " if near else ""
                raise RequestInvalid(
                    f"There is no {self.kind} {name!r} here.", remedy=hint + self._expected()
                )

    def _checked(self, name: str, type_: Type, value: Any, position: int | None) -> Any:
        where = "" if position is None else f"row {position}"
        given, value = value, _of_python(value)
        if value is None:
            if name in self._optional:
                return None
            raise RequestInvalid(
                f"The {self.kind} {name!r} is null.", where=where, remedy=self._expected()
            )
        known = is_value(value, type_)
        if not known or not _fits(value, type_):
            raise RequestInvalid(
                f"The {self.kind} {name!r} is {_shown(given)}; {_must(value, type_, known)}.",
                where=where,
                remedy=self._expected(),
            )
        return rescaled(value, type_) if type_.name == "decimal" else stored(value, type_)

    def _expected(self) -> str:
        if not self.fields:
            return f"No {self.kind}s are needed."
        wanted = ", ".join(
            f"{field.name}: {field.type}{' or null' if field.optional else ''}"
            for field in self.fields
        )
        return f"Expected: {wanted}."


def is_column(field: Field, value: object) -> bool:
    """Whether a value is many values of the field; a list of lists, where one value is a list."""
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return False
    return field.type.scalar or any(
        hasattr(each, "__len__") and not isinstance(each, str | bytes)
        for each in cast("list[object]", value)
    )


def _of_python(value: Any) -> Any:
    """Scalars and arrays of numpy, also in a list, as what Python has."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_of_python(each) for each in cast("Sequence[object]", value)]
    return value


def _must(value: Any, type_: Type, known: bool) -> str:
    """What a value that is refused should be."""
    if type_.name == "timestamp" and isinstance(value, datetime):
        return "it must be timestamp, with a time zone, of the years 1 to 9999"
    if known and type_.name == "string":
        return "it must be text that UTF-8 can hold"
    return f"it must be {type_}, exactly" if known else f"it must be {type_}"


def _fits(value: Any, type_: Type) -> bool:
    """Whether it is a value of its type without a change.

    Numbers may have to be rounded, text may hold half a surrogate pair, and a moment may be in no
    year of UTC.
    """
    try:
        match type_.name:
            case "float64":
                return not isinstance(value, int) or float(value) == value
            case "string":
                str.encode(value)
            case "timestamp":
                value.astimezone(UTC)
            case "list":
                item = type_.item or FLOAT64
                return all(each is None or _fits(each, item) for each in value)
            case "decimal":
                whole = type_.precision - type_.scale
                fits = value.is_finite() and (not value or value.adjusted() < whole)
                return bool(fits and value == rescaled(value, type_))
            case _:
                pass
    except (OverflowError, UnicodeEncodeError):
        return False
    return True


def _is_word(value: Any) -> bool:
    return bool(-(2**63) <= value < 2**63)


_SURE: dict[type, Callable[[Any], bool]] = {int: _is_word, str: str.isascii}
"""Of plain types that do not hold all their values: what says soon that one is held."""


def _listed(column: Any) -> list[Any]:
    for method in ("to_pylist", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        text = "a very large number"
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
