"""SQL text as an expression: the same nodes that Python spells, where it says the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.expressions import Expression  # pyright: ignore[reportPrivateImportUsage]

from tidemark.define.expressions import flat_call
from tidemark.define.python_types import literal
from tidemark.errors import DefinitionError
from tidemark.model.expr import Call, Cast, Column, Expr, Literal, Sql
from tidemark.model.types import BOOL, Type, parse_type

# DuckDB's names of the types that are spelled otherwise here.
_TYPES = {
    "BIGINT": "int64",
    "INT": "int64",
    "INTEGER": "int64",
    "DOUBLE": "float64",
    "FLOAT": "float64",
    "TEXT": "string",
    "VARCHAR": "string",
    "BOOLEAN": "bool",
    "DATE": "date",
    "TIMESTAMPTZ": "timestamp",
    "BLOB": "bytes",
}

# `DATE '2026-01-31'` is a constant, as `date(2026, 1, 31)` is.
_CONSTANTS: dict[str, Callable[[str], object]] = {
    "DATE": date.fromisoformat,
    "TIMESTAMPTZ": datetime.fromisoformat,
}

# Nodes by sqlglot's `key`, the class name in lower case; not every version has every class.
_BINARY: dict[str, str] = {
    "eq": "eq",
    "neq": "ne",
    "lt": "lt",
    "lte": "le",
    "gt": "gt",
    "gte": "ge",
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "div": "div",
    "intdiv": "floordiv",
    "mod": "mod",
    "and": "and",
    "or": "or",
    "dpipe": "concat",
    "startswith": "starts_with",
    "endswith": "ends_with",
    "contains": "contains",
}

_UNARY: dict[str, str] = {
    "not": "not",
    "neg": "neg",
    "abs": "abs",
    "sqrt": "sqrt",
    "ln": "ln",
    "exp": "exp",
    "lower": "lower",
    "upper": "upper",
    "length": "length",
    "isnan": "is_nan",
    "round": "round",
    "floor": "floor",
    "ceil": "ceil",
    "year": "year",
    "month": "month",
    "day": "day",
    "hour": "hour",
    "minute": "minute",
    "dayofweekiso": "weekday",
    "dayofyear": "day_of_year",
    "trim": "trim",
}

_VARIADIC: dict[str, str] = {
    "coalesce": "coalesce",
    "least": "least",
    "greatest": "greatest",
}

_REFUSED = (exp.Subquery, exp.Select, exp.AggFunc, exp.Window, exp.Star, exp.Command)

# What another reading of the same row would answer otherwise.
_CHANGING = (
    exp.Rand,
    exp.Uuid,
    exp.CurrentDate,
    exp.CurrentTime,
    exp.CurrentTimestamp,
    exp.Localtime,
    exp.Localtimestamp,
)
_CHANGING_NAMES = {
    "now",
    "get_current_timestamp",
    "transaction_timestamp",
    "uuidv4",
    "uuidv7",
    "nextval",
    "currval",
    "setseed",
    "getenv",
    "current_setting",
    "txid_current",
}


class _Untranslated(Exception):
    """Some part has no node of its own."""


def parse_sql(text: str, declared: Type | None = None, *, expected: Type | None = None) -> Expr:
    """Read a fragment of DuckDB's SQL.

    Kept as text where `declared` says its type, or where no node says the same; then its type is
    `expected`, or bool if it is a comparison.  Raises `DefinitionError`.
    """
    tree = _parse(text)
    columns = tuple(sorted({column.name for column in tree.find_all(exp.Column)}))
    if declared is not None:
        return Sql(text.strip(), columns, declared)
    try:
        return _node(tree)
    except _Untranslated:
        pass
    if isinstance(tree, exp.Predicate | exp.And | exp.Or | exp.Not):
        return Sql(text.strip(), columns, BOOL)
    if expected is not None:
        return Sql(text.strip(), columns, expected)
    raise DefinitionError(
        f"The type of the SQL {text.strip()!r} is not known.",
        remedy='Say it: tm.sql("...", type=float).',
    )


def _parse(text: str) -> Expression:
    try:
        statements = sqlglot.parse(f"SELECT {text}", dialect="duckdb")
    except SqlglotError as error:
        # The parser counts columns from a SELECT that the author did not write.
        why = str(error).partition(". Line")[0].partition(" for <class")[0]
        raise DefinitionError(f"The SQL {text.strip()!r} does not read: {why}.") from None
    select = statements[0] if len(statements) == 1 else None
    if (
        not isinstance(select, exp.Select)
        or len(select.expressions) != 1
        or any(value for key, value in select.args.items() if key not in {"expressions", "kind"})
    ):
        raise DefinitionError(
            f"The SQL {text.strip()!r} is not one expression.",
            remedy="Write what could stand after SELECT or WHERE, without either.",
        )
    tree: Expression = select.expressions[0]
    refused = next((node for node in tree.walk() if isinstance(node, _REFUSED)), None)
    qualified = next((node for node in tree.find_all(exp.Column) if node.table), None)
    if refused is not None or qualified is not None or isinstance(tree, exp.Alias):
        found = refused or qualified or tree
        raise DefinitionError(
            f"The SQL {text.strip()!r} is not an expression of one row: {found.sql('duckdb')}.",
            remedy="It reads columns of the source by their names; "
            "aggregates, subqueries and windows belong to the feature.",
        )
    for call in tree.find_all(exp.Func):
        if isinstance(call, _CHANGING) or call.name.lower() in _CHANGING_NAMES:
            raise DefinitionError(
                f"The SQL {text.strip()!r} changes by itself: {call.sql('duckdb')}.",
                remedy="A feature is the same whenever it is computed; "
                "its window already ends at the moment asked for.",
            )
    return tree


def _node(tree: Expression) -> Expr:
    kind = tree.key
    if kind in _BINARY:
        return flat_call(_BINARY[kind], (_node(tree.this), _node(tree.expression)))
    if isinstance(tree, exp.Not) and isinstance(tree.this, exp.Is):
        return Call("is_not_null", _is(tree.this).args)
    if kind in _UNARY and not any(value for key, value in tree.args.items() if key != "this"):
        return _unary(_UNARY[kind], tree.this)
    if kind in _VARIADIC:
        return Call(_VARIADIC[kind], (_node(tree.this), *map(_node, tree.expressions)))
    if kind in _SPECIAL:
        return _SPECIAL[kind](tree)
    raise _Untranslated


def _unary(function: str, argument: Expression) -> Expr:
    if function == "neg" and isinstance(argument, exp.Literal) and not argument.is_string:
        return _number(f"-{argument.this}")
    return Call(function, (_node(argument),))


def _number(text: str) -> Literal:
    return literal(int(text) if text.lstrip("-").isdigit() else float(text))


def _column(tree: Expression) -> Expr:
    return Column(tree.name)


def _literal(tree: Expression) -> Expr:
    return literal(tree.this) if tree.is_string else _number(tree.this)


def _boolean(tree: Expression) -> Expr:
    return literal(bool(tree.this))


def _paren(tree: Expression) -> Expr:
    return _node(tree.this)


def _is(tree: Expression) -> Call:
    if not isinstance(tree.expression, exp.Null):
        raise _Untranslated
    return Call("is_null", (_node(tree.this),))


def _in(tree: Expression) -> Expr:
    values = tree.expressions
    if not values or any(isinstance(value, exp.Null) for value in values):
        raise _Untranslated
    return Call("is_in", (_node(tree.this), *map(_node, values)))


def _between(tree: Expression) -> Expr:
    value = _node(tree.this)
    low, high = _node(tree.args["low"]), _node(tree.args["high"])
    return Call("and", (Call("ge", (value, low)), Call("le", (value, high))))


def _case(tree: Expression) -> Expr:
    otherwise = tree.args.get("default")
    if tree.args.get("this") is not None or otherwise is None:
        raise _Untranslated
    parts: list[Expr] = []
    for branch in tree.args["ifs"]:
        parts += [_node(branch.this), _node(branch.args["true"])]
    return Call("when", (*parts, _node(otherwise)))


def _cast(tree: Expression) -> Expr:
    name = tree.args["to"].sql("duckdb").upper()
    if isinstance(tree.this, exp.Literal) and tree.this.is_string and name in _CONSTANTS:
        try:
            return literal(_CONSTANTS[name](tree.this.this))
        except ValueError:
            raise _Untranslated from None
    if name in _TYPES:
        return Cast(_node(tree.this), parse_type(_TYPES[name]))
    if name.startswith("DECIMAL("):
        return Cast(_node(tree.this), parse_type(name.lower()))
    raise _Untranslated


def _replace(tree: Expression) -> Expr:
    parts = (tree.this, tree.expression, tree.args.get("replacement"))
    return _parts("replace", parts)


def _substring(tree: Expression) -> Expr:
    return _parts("substring", (tree.this, tree.args.get("start"), tree.args.get("length")))


def _parts(function: str, parts: Sequence[Expression | None]) -> Expr:
    if any(part is None for part in parts):
        raise _Untranslated
    return Call(function, tuple(_node(part) for part in parts if part is not None))


_SPECIAL: dict[str, Callable[[Expression], Expr]] = {
    "column": _column,
    "literal": _literal,
    "boolean": _boolean,
    "paren": _paren,
    "is": _is,
    "in": _in,
    "between": _between,
    "case": _case,
    "cast": _cast,
    "replace": _replace,
    "substring": _substring,
}
