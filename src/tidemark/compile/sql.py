"""Expressions as DuckDB's SQL: a table with one entry per function.

What is not SQL's own rule is spelled out in the text, so that no setting of a session changes it:
an arithmetic function of a null is null, also `least` and `greatest`; what has no answer (division
by zero, the root of a negative number, the logarithm of zero) is null; an integer that overflows is
an error.  Timestamps are `TIMESTAMP WITH TIME ZONE`, sessions are in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from tidemark.errors import DefinitionError
from tidemark.model.expr import Call, Cast, Column, Expr, Literal, Sql, type_of
from tidemark.model.types import BYTES, STRING, Type

_NAMES = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
    "bytes": "BLOB",
    "timestamp": "TIMESTAMPTZ",
    "date": "DATE",
}


def sql_type(type_: Type) -> str:
    """The SQL name of a type."""
    match type_.name:
        case "decimal":
            return f"DECIMAL({type_.precision},{type_.scale})"
        case "list":
            return f"{sql_type(type_.item or STRING)}[]"
        case "vector":
            return f"DOUBLE[{type_.size}]"
        case name:
            return _NAMES[name]


def identifier(name: str) -> str:
    """A name, quoted."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string constant."""
    return "'" + value.replace("'", "''") + "'"


def sql(expr: Expr, types: Mapping[str, Type]) -> str:
    """The expression as SQL over columns of the given types; every column is quoted.

    Raises `DefinitionError` for what does not type.
    """
    match expr:
        case Column(name):
            return identifier(name)
        case Literal():
            return _literal(expr)
        case Cast(value, type_):
            return _cast(sql(value, types), type_of(value, types), type_)
        case Sql(fragment, _, type_):
            return f"CAST(({_quoted(fragment)}) AS {sql_type(type_)})"
        case Call(function, args):
            gives = type_of(expr, types)
            texts = [sql(arg, types) for arg in args]
            written = _WRITERS[function](*texts)
            if function in _RETYPED and gives.name == "decimal":
                return f"CAST({written} AS {sql_type(gives)})"
            return written


@cache
def _quoted(fragment: str) -> str:
    """A fragment with its columns quoted: an author may not know which names are reserved."""
    import sqlglot
    from sqlglot import exp

    select = "SELECT "
    tree = sqlglot.parse_one(select + fragment, dialect="duckdb")
    names = [column.this for column in tree.find_all(exp.Column)]
    for name in sorted(names, key=lambda each: each.meta.get("start", -1), reverse=True):
        if not name.args.get("quoted") and "start" in name.meta:
            start, end = (name.meta[edge] - len(select) for edge in ("start", "end"))
            fragment = (
                fragment[:start] + identifier(fragment[start : end + 1]) + fragment[end + 1 :]
            )
    return fragment


def _literal(literal: Literal) -> str:
    value, type_ = literal.value, literal.type
    if value is None:
        return f"CAST(NULL AS {sql_type(type_)})"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if type_ == STRING:
        return text(str(value))
    if type_ == BYTES:
        return f"unhex({text(str(value))})"
    if not type_.scalar:
        raise DefinitionError(f"A constant cannot be a {type_}.")
    return f"CAST({text(str(value))} AS {sql_type(type_)})"


def _cast(value: str, given: Type, wanted: Type) -> str:
    if given == wanted:
        return value
    if (given, wanted) == (STRING, BYTES):
        return f"encode({value})"
    if (given, wanted) == (BYTES, STRING):
        return f"decode({value})"
    return f"CAST({value} AS {sql_type(wanted)})"


def _operator(symbol: str) -> Callable[..., str]:
    def write(*args: str) -> str:
        return "(" + f" {symbol} ".join(args) + ")"

    return write


def _function(name: str) -> Callable[..., str]:
    def write(*args: str) -> str:
        return f"{name}({', '.join(args)})"

    return write


def _of_double(name: str) -> Callable[[str], str]:
    def write(value: str) -> str:
        return f"{name}(CAST({value} AS DOUBLE))"

    return write


def _where_defined(name: str, undefined: str) -> Callable[[str], str]:
    """A function of a double that is null where the double is `undefined`."""

    def write(value: str) -> str:
        double = f"CAST({value} AS DOUBLE)"
        return f"CASE WHEN {double} {undefined} THEN NULL ELSE {name}({double}) END"

    return write


def _strict(name: str) -> Callable[..., str]:
    """A function that is null as soon as one argument is."""

    def write(*args: str) -> str:
        nulls = " OR ".join(f"{arg} IS NULL" for arg in args)
        return f"CASE WHEN {nulls} THEN NULL ELSE {name}({', '.join(args)}) END"

    return write


def _test(question: str) -> Callable[[str], str]:
    def write(value: str) -> str:
        return f"({value} {question})"

    return write


def _divide(left: str, right: str) -> str:
    return f"(CAST({left} AS DOUBLE) / nullif(CAST({right} AS DOUBLE), 0))"


def _divide_integers(symbol: str) -> Callable[[str, str], str]:
    def write(left: str, right: str) -> str:
        return f"({left} {symbol} nullif({right}, 0))"

    return write


def _when(*args: str) -> str:
    *pairs, otherwise = args
    cases = zip(pairs[::2], pairs[1::2], strict=True)
    branches = " ".join(f"WHEN {condition} THEN {value}" for condition, value in cases)
    return f"CASE {branches} ELSE {otherwise} END"


def _is_in(value: str, *others: str) -> str:
    return f"({value} IN ({', '.join(others)}))"


def _part(name: str) -> Callable[..., str]:
    """A part of a date, or of a timestamp as the clocks of a zone show it."""

    def write(value: str, zone: str = "") -> str:
        return f"{name}(timezone({zone}, {value}))" if zone else f"{name}({value})"

    return write


def _seconds_between(earlier: str, later: str) -> str:
    return f"((epoch_us({later}) - epoch_us({earlier})) / CAST(1000000 AS DOUBLE))"


_WRITERS: dict[str, Callable[..., str]] = {
    "eq": _operator("="),
    "ne": _operator("<>"),
    "lt": _operator("<"),
    "le": _operator("<="),
    "gt": _operator(">"),
    "ge": _operator(">="),
    "add": _operator("+"),
    "sub": _operator("-"),
    "mul": _operator("*"),
    "div": _divide,
    "floordiv": _divide_integers("//"),
    "mod": _divide_integers("%"),
    "neg": _function("-"),
    "abs": _function("abs"),
    "round": _of_double("round"),
    "floor": _of_double("floor"),
    "ceil": _of_double("ceil"),
    "sqrt": _where_defined("sqrt", "< 0"),
    "ln": _where_defined("ln", "<= 0"),
    "exp": _of_double("exp"),
    "least": _strict("least"),
    "greatest": _strict("greatest"),
    "and": _operator("AND"),
    "or": _operator("OR"),
    "not": _function("NOT"),
    "is_null": _test("IS NULL"),
    "is_not_null": _test("IS NOT NULL"),
    "is_nan": _function("isnan"),
    "is_in": _is_in,
    "when": _when,
    "coalesce": _function("coalesce"),
    "lower": _function("lower"),
    "upper": _function("upper"),
    "trim": _function("trim"),
    "length": _function("length"),
    "concat": _operator("||"),
    "contains": _function("contains"),
    "starts_with": _function("starts_with"),
    "ends_with": _function("ends_with"),
    "replace": _function("replace"),
    "substring": _function("substring"),
    "year": _part("year"),
    "month": _part("month"),
    "day": _part("day"),
    "hour": _part("hour"),
    "minute": _part("minute"),
    "weekday": _part("isodow"),
    "day_of_year": _part("dayofyear"),
    "seconds_between": _seconds_between,
}

# SQL gives decimals of another precision here than the model does.
_RETYPED = frozenset({"add", "sub", "mul", "least", "greatest", "when", "coalesce", "neg", "abs"})
