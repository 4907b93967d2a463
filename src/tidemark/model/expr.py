"""Expressions over the columns of one source: four nodes and one table of functions.

An expression means what SQL says it means: null in, null out, except where the table says
otherwise; `where=` keeps rows whose expression is true.  `tidemark.compile` writes the SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from tidemark.errors import DefinitionError
from tidemark.model.types import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    Type,
    decimal,
)


class Column(msgspec.Struct, frozen=True, gc=False, tag_field="node", tag="column"):
    """A column of the source."""

    name: str


Plain = bool | int | float | str | None


class Literal(msgspec.Struct, frozen=True, gc=False, tag_field="node", tag="literal"):
    """A constant.

    `value` is what JSON can hold: decimals, dates (ISO), timestamps (ISO with zone) and bytes
    (base16) are text; a null has the value None.  Floats that JSON cannot hold are the text
    "NaN", "Infinity", "-Infinity".  A list is a tuple of such values.
    """

    value: Plain | tuple[Plain, ...]
    type: Type


class Call(msgspec.Struct, frozen=True, gc=False, tag_field="node", tag="call"):
    """A function of the table below; `when` alternates conditions and values, then the rest."""

    function: str
    args: tuple[Column | Literal | Call | Cast | Sql, ...]


class Cast(msgspec.Struct, frozen=True, gc=False, tag_field="node", tag="cast"):
    """A value as another type; text that does not read as the type is an error, not null."""

    value: Column | Literal | Call | Cast | Sql
    type: Type


class Sql(msgspec.Struct, frozen=True, gc=False, tag_field="node", tag="sql"):
    """A fragment of DuckDB's SQL that was parsed for its columns and declared to give `type`."""

    text: str
    columns: tuple[str, ...]
    type: Type


Expr = Column | Literal | Call | Cast | Sql


def _numbers(*types: Type) -> bool:
    return all(type_.numeric for type_ in types)


def _same(*types: Type) -> bool:
    return len({type_.name for type_ in types}) == 1 or _numbers(*types)


def common_type(*types: Type) -> Type:
    """The type that holds values of all given types without loss; raises `DefinitionError`."""
    distinct = set(types)
    if len(distinct) == 1:
        return types[0]
    if not _numbers(*types):
        raise DefinitionError(f"{' and '.join(sorted(map(str, distinct)))} do not go together.")
    if FLOAT64 in distinct:
        return FLOAT64
    scale = max(type_.scale for type_ in types)
    whole = max(19 if type_ == INT64 else type_.precision - type_.scale for type_ in types)
    return decimal(min(38, whole + scale), scale)


def _compare(*types: Type) -> Type | None:
    left, right = types
    return BOOL if _same(left, right) and left.ordered else None


def _equal(*types: Type) -> Type | None:
    left, right = types
    return BOOL if _same(left, right) else None


def _arithmetic(*types: Type) -> Type | None:
    return common_type(*types) if _numbers(*types) else None


def _divide(*types: Type) -> Type | None:
    return FLOAT64 if _numbers(*types) else None


def _number(*types: Type) -> Type | None:
    return types[0] if _numbers(*types) else None


def _float(*types: Type) -> Type | None:
    return FLOAT64 if _numbers(*types) else None


def _when(*types: Type) -> Type | None:
    conditions, values = types[:-1:2], (*types[1::2], types[-1])
    return common_type(*values) if all(type_ == BOOL for type_ in conditions) else None


def _is_in(*types: Type) -> Type | None:
    return BOOL if all(_same(types[0], other) for other in types[1:]) else None


def _all_of(expected: Type, gives: Type) -> Callable[..., Type | None]:
    def rule(*types: Type) -> Type | None:
        return gives if all(type_ == expected for type_ in types) else None

    return rule


def _first_of(expected: tuple[Type, ...], gives: Type, *rest: Type) -> Callable[..., Type | None]:
    def rule(*types: Type) -> Type | None:
        return gives if types[0] in expected and types[1:] == rest else None

    return rule


def _part(*types: Type) -> Type | None:
    """A calendar part of a date, or of a timestamp in a zone (a string literal, UTC if absent)."""
    if types == (DATE,) or types in {(TIMESTAMP,), (TIMESTAMP, STRING)}:
        return INT64
    return None


class Function(msgspec.Struct, frozen=True, gc=False):
    """How many arguments a function takes and which type it gives (None: not these types)."""

    least: int
    most: int
    gives: Callable[..., Type | None]
    takes: str


# Functions that users write as signs, and see so in messages.
_SIGNS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%",
    "and": "&", "or": "|", "not": "~",
}  # fmt: skip

FUNCTIONS: dict[str, Function] = {
    "eq": Function(2, 2, _equal, "two values of one type"),
    "ne": Function(2, 2, _equal, "two values of one type"),
    "lt": Function(2, 2, _compare, "two values of one ordered type"),
    "le": Function(2, 2, _compare, "two values of one ordered type"),
    "gt": Function(2, 2, _compare, "two values of one ordered type"),
    "ge": Function(2, 2, _compare, "two values of one ordered type"),
    "add": Function(2, 2, _arithmetic, "two numbers"),
    "sub": Function(2, 2, _arithmetic, "two numbers"),
    "mul": Function(2, 2, _arithmetic, "two numbers"),
    "div": Function(2, 2, _divide, "two numbers"),
    "floordiv": Function(2, 2, _all_of(INT64, INT64), "two int64"),
    "mod": Function(2, 2, _all_of(INT64, INT64), "two int64"),
    "neg": Function(1, 1, _number, "a number"),
    "abs": Function(1, 1, _number, "a number"),
    "round": Function(1, 1, _float, "a number"),
    "floor": Function(1, 1, _float, "a number"),
    "ceil": Function(1, 1, _float, "a number"),
    "sqrt": Function(1, 1, _float, "a number"),
    "ln": Function(1, 1, _float, "a number"),
    "exp": Function(1, 1, _float, "a number"),
    "least": Function(2, 99, _arithmetic, "numbers"),
    "greatest": Function(2, 99, _arithmetic, "numbers"),
    "and": Function(2, 99, _all_of(BOOL, BOOL), "bools"),
    "or": Function(2, 99, _all_of(BOOL, BOOL), "bools"),
    "not": Function(1, 1, _all_of(BOOL, BOOL), "a bool"),
    "is_null": Function(1, 1, lambda *_: BOOL, "any value"),
    "is_not_null": Function(1, 1, lambda *_: BOOL, "any value"),
    "is_nan": Function(1, 1, _all_of(FLOAT64, BOOL), "a float64"),
    "is_in": Function(2, 10_000, _is_in, "a value and constants of its type"),
    "when": Function(3, 999, _when, "conditions, each with a value, then the value otherwise"),
    "coalesce": Function(2, 99, common_type, "values of one type"),
    "lower": Function(1, 1, _all_of(STRING, STRING), "a string"),
    "upper": Function(1, 1, _all_of(STRING, STRING), "a string"),
    "trim": Function(1, 1, _all_of(STRING, STRING), "a string"),
    "length": Function(1, 1, _all_of(STRING, INT64), "a string"),
    "concat": Function(2, 99, _all_of(STRING, STRING), "strings"),
    "contains": Function(2, 2, _all_of(STRING, BOOL), "two strings"),
    "starts_with": Function(2, 2, _all_of(STRING, BOOL), "two strings"),
    "ends_with": Function(2, 2, _all_of(STRING, BOOL), "two strings"),
    "replace": Function(3, 3, _all_of(STRING, STRING), "three strings"),
    "substring": Function(
        3, 3, _first_of((STRING,), STRING, INT64, INT64), "a string, a first place from 1, a length"
    ),
    "year": Function(1, 2, _part, "a date, or a timestamp and a zone"),
    "month": Function(1, 2, _part, "a date, or a timestamp and a zone"),
    "day": Function(1, 2, _part, "a date, or a timestamp and a zone"),
    "hour": Function(1, 2, _part, "a timestamp and a zone"),
    "minute": Function(1, 2, _part, "a timestamp and a zone"),
    "weekday": Function(1, 2, _part, "a date, or a timestamp and a zone; Monday is 1"),
    "day_of_year": Function(1, 2, _part, "a date, or a timestamp and a zone"),
    "seconds_between": Function(
        2, 2, _all_of(TIMESTAMP, FLOAT64), "two timestamps, the earlier first"
    ),
}  # fmt: skip


def type_of(expr: Expr, columns: Mapping[str, Type]) -> Type:
    """The type of an expression over columns of the given types.

    Raises `DefinitionError` for an unknown column or function, or for arguments that do not fit.
    """
    match expr:
        case Column(name):
            if name not in columns:
                raise DefinitionError(
                    f"There is no column {name!r}.", remedy=f"Columns: {', '.join(columns)}."
                )
            return columns[name]
        case Literal(_, type_):
            return type_
        case Cast(value, type_):
            type_of(value, columns)
            return type_
        case Sql(text, names, type_):
            for name in names:
                if name not in columns:
                    raise DefinitionError(
                        f"SQL {text!r} reads the column {name!r}, which is not there.",
                        remedy=f"Columns: {', '.join(columns)}.",
                    )
            return type_
        case Call(function, args):
            return _type_of_call(function, [type_of(arg, columns) for arg in args])


def _type_of_call(name: str, types: list[Type]) -> Type:
    function = FUNCTIONS.get(name)
    if function is None:
        raise DefinitionError(
            f"There is no function {name!r}.", remedy=f"Functions: {', '.join(FUNCTIONS)}."
        )
    fits = function.least <= len(types) <= function.most
    gives = function.gives(*types) if fits else None
    if gives is None:
        got = " and ".join(map(str, types)) or "nothing"
        raise DefinitionError(
            f"{_SIGNS.get(name, name)} takes {function.takes}, not {got}.",
            remedy="Write a constant of the column's type, or convert one side: .cast(...)."
            if name in _SIGNS
            else "",
        )
    return gives


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything below it, parents first."""
    yield expr
    match expr:
        case Call(_, args):
            for arg in args:
                yield from walk(arg)
        case Cast(value, _):
            yield from walk(value)
        case _:
            pass


def columns_of(expr: Expr) -> frozenset[str]:
    """The names of the columns that an expression reads."""
    names: set[str] = set()
    for node in walk(expr):
        match node:
            case Column(name):
                names.add(name)
            case Sql(_, columns, _):
                names.update(columns)
            case _:
                pass
    return frozenset(names)
