"""Expressions over columns: what users write, in Python and in SQL, and what it becomes."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

import tidemark as tm
from tidemark.errors import DefinitionError
from tidemark.model.expr import FUNCTIONS, Call, Cast, Column, Expr, Literal, Sql, type_of
from tidemark.model.types import (
    BOOL,
    BYTES,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    decimal,
)


class Row(tm.Source, time="at"):
    f: tm.Col[float]
    i: tm.Col[int]
    s: tm.Col[str]
    b: tm.Col[bool]
    d: tm.Col[date]
    at: tm.Col[datetime]
    known: tm.Col[datetime]
    p: tm.Col[Decimal] = tm.decimal(18, 2)


F, I, S, B, D, AT = (Column(name) for name in ("f", "i", "s", "b", "d", "at"))
TYPES = {name: column.type for name, column in Row.__columns__.items() if column.type}


def text(value: str) -> Literal:
    return Literal(value, STRING)


def whole(value: int) -> Literal:
    return Literal(value, INT64)


SIZE = tm.when(Row.b, 1).when(Row.i > 3, 2).otherwise(3)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

EVERY_FUNCTION: list[tuple[tm.Expression[object], str, tuple[Expr, ...]]] = [
    (Row.s == "x", "eq", (S, text("x"))),
    (Row.s != "x", "ne", (S, text("x"))),
    (Row.i < 3, "lt", (I, whole(3))),
    (Row.i <= 3, "le", (I, whole(3))),
    (Row.i > 3, "gt", (I, whole(3))),
    (Row.i >= 3, "ge", (I, whole(3))),
    (Row.i + 1, "add", (I, whole(1))),
    (1 + Row.i, "add", (whole(1), I)),
    (Row.i - 1, "sub", (I, whole(1))),
    (1 - Row.i, "sub", (whole(1), I)),
    (Row.i * 2, "mul", (I, whole(2))),
    (Row.i / 2, "div", (I, whole(2))),
    (Row.i // 2, "floordiv", (I, whole(2))),
    (Row.i % 2, "mod", (I, whole(2))),
    (-Row.i, "neg", (I,)),
    (abs(Row.f), "abs", (F,)),
    (Row.f.round(), "round", (F,)),
    (Row.f.floor(), "floor", (F,)),
    (Row.f.ceil(), "ceil", (F,)),
    (Row.f.sqrt(), "sqrt", (F,)),
    (Row.f.ln(), "ln", (F,)),
    (Row.f.exp(), "exp", (F,)),
    (tm.least(Row.f, Row.i, 3), "least", (F, I, whole(3))),
    (tm.greatest(Row.f, Row.i), "greatest", (F, I)),
    (Row.b & (Row.i > 3), "and", (B, Call("gt", (I, whole(3))))),
    (Row.b | Row.b, "or", (B, B)),
    (~Row.b, "not", (B,)),
    (Row.s.is_null(), "is_null", (S,)),
    (Row.s.is_not_null(), "is_not_null", (S,)),
    (Row.f.is_nan(), "is_nan", (F,)),
    (Row.s.is_in(["x", "y"]), "is_in", (S, text("x"), text("y"))),
    (SIZE, "when", (B, whole(1), Call("gt", (I, whole(3))), whole(2), whole(3))),
    (tm.when(Row.b, Row.i).otherwise(None), "when", (B, I, Literal(None, INT64))),
    (tm.coalesce(Row.i, Row.f, 0), "coalesce", (I, F, whole(0))),
    (Row.s.fill_null("-"), "coalesce", (S, text("-"))),
    (Row.s.lower(), "lower", (S,)),
    (Row.s.upper(), "upper", (S,)),
    (Row.s.trim(), "trim", (S,)),
    (Row.s.length(), "length", (S,)),
    (Row.s + "!", "concat", (S, text("!"))),
    ("!" + Row.s, "concat", (text("!"), S)),
    (Row.s.contains("x"), "contains", (S, text("x"))),
    (Row.s.starts_with("x"), "starts_with", (S, text("x"))),
    (Row.s.ends_with("x"), "ends_with", (S, text("x"))),
    (Row.s.replace("x", "y"), "replace", (S, text("x"), text("y"))),
    (Row.s.substring(1, 2), "substring", (S, whole(1), whole(2))),
    (Row.d.year(), "year", (D,)),
    (Row.at.month("Asia/Tokyo"), "month", (AT, text("Asia/Tokyo"))),
    (Row.at.day(), "day", (AT,)),
    (Row.at.hour("UTC"), "hour", (AT, text("UTC"))),
    (Row.at.minute(), "minute", (AT,)),
    (Row.d.weekday(), "weekday", (D,)),
    (Row.d.day_of_year(), "day_of_year", (D,)),
    (Row.known.seconds_since(Row.at), "seconds_between", (AT, Column("known"))),
]  # fmt: skip


@pytest.mark.parametrize(("written", "function", "args"), EVERY_FUNCTION)
def test_an_expression_is_one_node(
    written: tm.Expression[object], function: str, args: tuple[Expr, ...]
) -> None:
    """Operators and methods become calls of the functions that the model knows."""
    assert written.node == Call(function, args)
    assert type_of(written.node, TYPES)


def test_every_function_of_the_model_can_be_written() -> None:
    """Nothing that engines compute is out of reach."""
    assert {function for _, function, _ in EVERY_FUNCTION} == set(FUNCTIONS)


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (True, Literal(True, BOOL)),
        (3, Literal(3, INT64)),
        (2.5, Literal(2.5, FLOAT64)),
        (float("nan"), Literal("NaN", FLOAT64)),
        (float("-inf"), Literal("-Infinity", FLOAT64)),
        ("x", Literal("x", STRING)),
        (b"\x01\xff", Literal("01ff", BYTES)),
        (Decimal("1.50"), Literal("1.50", decimal(3, 2))),
        (Decimal("1E+2"), Literal("100", decimal(3, 0))),
        (Decimal("0.001"), Literal("0.001", decimal(3, 3))),
        (date(2026, 1, 31), Literal("2026-01-31", DATE)),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), Literal("2026-01-31T12:00:00Z", TIMESTAMP)),
    ],
)
def test_constants_keep_their_type(value: object, literal: Literal) -> None:
    """A constant is what JSON can hold, beside its type."""
    assert tm.lit(value).node == literal


def test_chains_of_and_are_flat() -> None:
    """`a & b & c` is one condition of three parts, however it was spelled."""
    assert (Row.b & Row.b & Row.b).node == Call("and", (B, B, B))
    assert tm.sql("b AND b AND b").node == Call("and", (B, B, B))


def test_casts_take_a_python_type_or_its_text() -> None:
    """A decimal needs its digits, which text or `tm.decimal` say."""
    assert Row.s.cast(float).node == Cast(S, FLOAT64)
    assert Row.s.cast("decimal(18,2)").node == Cast(S, decimal(18, 2))
    assert Row.s.cast(tm.decimal(18, 2)).node == Cast(S, decimal(18, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Row.b and Row.b,
        lambda: Row.b or Row.b,
        lambda: not Row.b,
        lambda: Row.s in ["x", "y"],
        lambda: 1 < Row.i < 3,
    ],
)
def test_python_s_own_logic_is_refused_with_the_remedy(wrong: Callable[[], object]) -> None:
    """`and`, `or`, `not`, `in` and chains ask for one truth, which a column does not have."""
    with pytest.raises(DefinitionError, match=r"Write & for and, \| for or, ~ for not"):
        wrong()


def test_nothing_equals_null() -> None:
    """SQL's `= NULL` is never true; the error says what is meant."""
    with pytest.raises(DefinitionError, match=r"\.is_null\(\)"):
        assert Row.s == None  # type: ignore[operator]  # noqa: E711


def test_a_naive_moment_is_refused() -> None:
    """A moment without a zone could be any of 26."""
    with pytest.raises(DefinitionError, match="has no time zone"):
        assert Row.at > datetime(2026, 1, 1)


@pytest.mark.parametrize(
    ("sql", "written"),
    [
        ("s = 'x'", Row.s == "x"),
        ("s <> 'x'", Row.s != "x"),
        ("i >= 3 and f < 2.5", (Row.i >= 3) & (Row.f < 2.5)),
        ("not b or i = -3", ~Row.b | (Row.i == -3)),
        ("s is null", Row.s.is_null()),
        ("s is not null", Row.s.is_not_null()),
        ("s in ('x', 'y')", Row.s.is_in(["x", "y"])),
        ("i between 1 and 3", (Row.i >= 1) & (Row.i <= 3)),
        ("(i + 1) * 2 - i / 2", (Row.i + 1) * 2 - Row.i / 2),
        ("i % 2", Row.i % 2),
        ("i // 2", Row.i // 2),
        ("-i", -Row.i),
        ("coalesce(s, 'none')", Row.s.fill_null("none")),
        ("case when b then 1 when i > 3 then 2 else 3 end", SIZE),
        ("lower(trim(s)) || '!'", Row.s.trim().lower() + "!"),
        ("upper(s)", Row.s.upper()),
        ("length(s)", Row.s.length()),
        ("starts_with(s, 'x')", Row.s.starts_with("x")),
        ("cast(s as double)", Row.s.cast(float)),
        ("s::bigint", Row.s.cast(int)),
        ("s::decimal(18,2)", Row.s.cast("decimal(18,2)")),
        ("abs(f)", abs(Row.f)),
        ("round(f)", Row.f.round()),
        ("floor(f)", Row.f.floor()),
        ("ceil(f)", Row.f.ceil()),
        ("isnan(f)", Row.f.is_nan()),
        ("replace(s, 'x', 'y')", Row.s.replace("x", "y")),
        ("contains(s, 'x')", Row.s.contains("x")),
        ("ends_with(s, 'x')", Row.s.ends_with("x")),
        ("substring(s, 1, 2)", Row.s.substring(1, 2)),
        ("year(d)", Row.d.year()),
        ("month(d)", Row.d.month()),
        ("day(d)", Row.d.day()),
        ("hour(at)", Row.at.hour()),
        ("minute(at)", Row.at.minute()),
        ("isodow(d)", Row.d.weekday()),
        ("dayofyear(d)", Row.d.day_of_year()),
        ("d >= date '2026-01-31'", Row.d >= date(2026, 1, 31)),
        ("at < timestamptz '2026-01-31 12:00:00+00'", Row.at < NOON),
        ("sqrt(f)", Row.f.sqrt()),
        ("ln(f)", Row.f.ln()),
        ("exp(f)", Row.f.exp()),
        ("least(f, 3)", tm.least(Row.f, 3)),
        ("greatest(f, 3)", tm.greatest(Row.f, 3)),
        ("b = true", Row.b == True),  # noqa: E712
    ],
)  # fmt: skip
def test_sql_that_says_the_same_is_the_same(sql: str, written: tm.Expression[object]) -> None:
    """YAML filters are SQL; they mean, and are, what Python spells."""
    assert tm.sql(sql).node == written.node


def test_other_sql_is_kept_with_its_columns() -> None:
    """A comparison is a bool; anything else says its type."""
    assert tm.sql("s LIKE '%x%'").node == Sql("s LIKE '%x%'", ("s",), BOOL)
    assert tm.sql("f * sin(i)", type=float).node == Sql("f * sin(i)", ("f", "i"), FLOAT64)
    with pytest.raises(DefinitionError, match="type of the SQL"):
        tm.sql("sin(f)")


def test_sql_with_a_declared_type_is_kept_as_it_is() -> None:
    """Who declares a type vouches for the text."""
    assert tm.sql("i + 1", type="int64").node == Sql("i + 1", ("i",), INT64)


@pytest.mark.parametrize(
    "sql",
    [
        "s = ",
        "s; drop table x",
        "s from t",
        "sum(f)",
        "(select 1)",
        "s, f",
        "t.s = 'x'",
        "*",
        "f as g",
    ],
)
def test_sql_that_is_not_one_value_of_one_row_is_refused(sql: str) -> None:
    """Aggregates, subqueries and several statements do not belong into a column."""
    with pytest.raises(DefinitionError):
        tm.sql(sql, type=float)
