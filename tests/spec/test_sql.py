"""What expressions mean as SQL: the corners where databases, or settings of one, differ."""

from __future__ import annotations

from typing import Any

import pytest

from tidemark.compile import sql
from tidemark.engines.duckdb import DuckDB
from tidemark.errors import EngineError
from tidemark.model.expr import Call, Cast, Expr, Literal
from tidemark.model.types import BOOL, BYTES, FLOAT64, INT64, STRING, TIMESTAMP, decimal


def call(function: str, *args: Expr) -> Call:
    """A function of constants."""
    return Call(function, args)


def whole(value: int | None) -> Literal:
    """An int64."""
    return Literal(value, INT64)


def real(value: float | str | None) -> Literal:
    """A float64."""
    return Literal(value, FLOAT64)


def words(value: str) -> Literal:
    """A string."""
    return Literal(value, STRING)


def value_of(expr: Expr) -> Any:
    """What DuckDB makes of an expression without columns."""
    with DuckDB(threads=1) as engine:
        return engine.rows(f"SELECT {sql(expr, {})} AS value")[0][0]


NOON = Literal("2024-07-01T12:00:00Z", TIMESTAMP)


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        (call("div", whole(1), whole(0)), None),
        (call("div", whole(1), whole(4)), 0.25),
        (call("mod", whole(5), whole(0)), None),
        (call("floordiv", whole(7), whole(2)), 3),
        (call("sqrt", real(-1.0)), None),
        (call("ln", real(0.0)), None),
        (call("least", whole(1), whole(None)), None),
        (call("greatest", real(1.0), real(2.0)), 2.0),
        (call("coalesce", whole(None), whole(3)), 3),
        (call("eq", real("NaN"), real("NaN")), True),
        (call("gt", real("NaN"), real("Infinity")), True),
        (call("and", Literal(None, BOOL), Literal(False, BOOL)), False),
        (call("concat", words("it's"), words(' "so"')), 'it\'s "so"'),
        (call("length", words("héllo")), 5),
        (call("substring", words("héllo"), whole(2), whole(3)), "éll"),
        (call("hour", NOON), 12),
        (call("hour", NOON, words("America/New_York")), 8),
        (call("weekday", NOON), 1),
        (call("seconds_between", NOON, Literal("2024-07-01T12:00:00.5Z", TIMESTAMP)), 0.5),
        (Cast(words("é"), BYTES), "é".encode()),
        (Cast(Literal("c3a9", BYTES), STRING), "é"),
        (call("when", call("is_null", whole(None)), words("none"), words("some")), "none"),
    ],
)
def test_an_expression_gives(expr: Expr, value: object) -> None:
    assert value_of(expr) == value


def test_an_integer_that_overflows_is_an_error() -> None:
    with pytest.raises(EngineError, match="Overflow"):
        value_of(call("add", whole(2**63 - 1), whole(1)))


def test_text_that_is_no_number_is_an_error_not_a_null() -> None:
    with pytest.raises(EngineError, match="many"):
        value_of(Cast(words("many"), INT64))


def test_a_sum_of_decimals_has_the_type_that_the_model_says() -> None:
    cents = Literal("1.10", decimal(9, 2))
    with DuckDB(threads=1) as engine:
        text = sql(call("add", cents, Literal("0.005", decimal(9, 3))), {})
        assert engine.rows(f"SELECT typeof({text}), {text}")[0][0] == "DECIMAL(10,3)"
