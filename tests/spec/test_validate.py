"""What may be pushed into a column of each type, and why the rest may not."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidemark.ingest.validate import Bounds, table_of
from tidemark.model.graph import Field, Source
from tidemark.model.types import parse_type

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def source(type_: str, zone: str = "") -> Source:
    columns = (Field("x", parse_type(type_)), Field("at", parse_type("timestamp")))
    return Source(name="s", columns=columns, time="at", timezone=zone)


def taken(type_: str, value: Any, zone: str = "") -> Any:
    """What a value becomes; the reason, if it is bad."""
    checked = table_of(source(type_, zone), [{"x": value, "at": NOON}])
    return checked.bad[0].reason if checked.bad else checked.table["x"].to_pylist()[0]


@pytest.mark.parametrize(
    ("type_", "given", "held"),
    [
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", np.int32(7), 7),
        ("float64", 1.5, 1.5),
        ("float64", 3, 3.0),
        ("float64", 2**60, float(2**60)),
        ("float64", np.float32(0.5), 0.5),
        ("float64", math.inf, math.inf),
        ("decimal(5,2)", Decimal("1.5"), Decimal("1.50")),
        ("decimal(5,2)", 12, Decimal("12.00")),
        ("bool", True, True),
        ("string", "42", "42"),
        ("bytes", b"\x00", b"\x00"),
        ("date", date(2026, 3, 1), date(2026, 3, 1)),
        ("date", "2026-03-01", date(2026, 3, 1)),
        ("timestamp", NOON.astimezone(timezone(timedelta(hours=5))), NOON),
        ("timestamp", "2026-03-02T12:00:00Z", NOON),
        ("timestamp", "2026-03-02T13:00:00.0000009+01:00", NOON),
        ("list<int64>", [1, None], [1, None]),
        ("vector<2>", [1, 0.5], [1.0, 0.5]),
        ("string", None, None),
    ],
)
def test_values_of_the_type(type_: str, given: Any, held: Any) -> None:
    """Each is held exactly."""
    assert taken(type_, given) == held


@pytest.mark.parametrize(
    ("type_", "given", "why"),
    [
        ("int64", 1.0, "must be int64"),
        ("int64", True, "must be int64"),
        ("int64", "42", "must be int64"),
        ("int64", 2**63, "does not fit into int64"),
        ("float64", "42", "must be float64"),
        ("float64", True, "must be float64"),
        ("float64", 2**53 + 1, "is not held exactly by a float64"),
        ("float64", 10**400, "is not held exactly by a float64"),
        ("decimal(5,2)", 1.5, "must be decimal(5,2), as a Decimal or an int"),
        ("decimal(5,2)", "1.5", "must be decimal(5,2), as a Decimal or an int"),
        ("decimal(5,2)", Decimal("1.505"), "has more digits than decimal(5,2)"),
        ("decimal(5,2)", Decimal(1000), "does not fit into decimal(5,2)"),
        ("decimal(5,2)", Decimal("NaN"), "does not fit into decimal(5,2)"),
        ("bool", 1, "must be bool"),
        ("string", 42, "must be string"),
        ("string", "\ud800", "holds half a character (a lone surrogate)"),
        ("bytes", "AA==", "must be bytes"),
        ("date", NOON, "must be a date"),
        ("date", "yesterday", "must be a date, such as 2026-03-01"),
        ("timestamp", 1_700_000_000, "must be a timestamp"),
        ("timestamp", NOON.replace(tzinfo=None), "carries no time zone, and the source names none"),
        ("timestamp", "2026-03-02T12:00", "carries no time zone, and the source names none"),
        ("timestamp", "noon", "must be a moment, such as 2026-03-01T12:00:00Z"),
        ("timestamp", "0001-01-01T00:00+05:00", "is outside the years 1 to 9999 in UTC"),
        ("list<int64>", [1, "2"], "its item 1 must be int64"),
        ("list<int64>", "12", "must be list<int64>"),
        ("vector<2>", [1.0], "has 1 items and must be vector<2>"),
        ("vector<2>", [1.0, None], "has a null at 1 and must be vector<2>"),
    ],
)
def test_values_that_are_none(type_: str, given: Any, why: str) -> None:
    """Nothing is coerced in silence."""
    assert taken(type_, given) == why


@pytest.mark.parametrize(
    ("type_", "text", "held"),
    [
        ("float64", '"NaN"', "nan"),
        ("float64", '"Infinity"', "inf"),
        ("decimal(5,2)", '"1.50"', "1.50"),
        ("decimal(5,2)", "2", "2.00"),
        ("bytes", '"AAH/"', "b'\\x00\\x01\\xff'"),
        ("date", '"2026-03-01"', "2026-03-01"),
        ("int64", "9223372036854775807", "9223372036854775807"),
        ("list<string>", '["a", null]', "['a', None]"),
    ],
)
def test_values_in_json(type_: str, text: str, held: str) -> None:
    """The forms in which vectors are told are the forms in which events are."""
    line = f'{{"x": {text}, "at": "2026-03-02T12:00:00Z"}}'.encode()
    for body in (line, b"[" + line + b"]", line + b"\n" + line):
        checked = table_of(source(type_), body)
        assert not checked.bad
        assert str(checked.table["x"].to_pylist()[0]) == held


@pytest.mark.parametrize(
    ("type_", "text", "why"),
    [
        ("decimal(5,2)", "1.5", "must be decimal(5,2), as text"),
        ("bytes", '"?"', "must be text in base64"),
        ("int64", "1.0", "must be int64"),
        ("float64", '"nan"', "must be float64"),
    ],
)
def test_json_that_is_none_of_the_type(type_: str, text: str, why: str) -> None:
    """A number may have been rounded on its way; text is not guessed at."""
    body = f'{{"x": {text}, "at": "2026-03-02T12:00:00Z"}}'.encode()
    assert table_of(source(type_), body).bad[0].reason == why


def test_lines_of_which_one_is_not_json() -> None:
    """It is a bad row like any other, and kept as it came."""
    good = b'{"x": 1, "at": "2026-03-02T12:00:00Z"}'
    body = b"\n".join([good, b'{"x": ', b"[]", good])
    checked = table_of(source("int64"), body)
    assert checked.good.tolist() == [0, 3]
    assert [(each.row, each.column) for each in checked.bad] == [(1, "(row)"), (2, "(row)")]
    assert checked.content(1) == '{"x": '


def test_clocks_of_a_zone() -> None:
    """Naive times are those of the source's zone: the earlier of two, moved over a gap."""
    rows = ["2026-03-29T02:30:00", "2026-10-25T02:30:00", "2026-07-01T12:00:00Z"]
    columns = {"x": [1, 2, 3], "at": rows}
    found = table_of(source("int64", "Europe/Paris"), columns).table["at"].to_pylist()
    assert found == [
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 7, 1, 12, tzinfo=UTC),
    ]
    naive = pa.array([datetime(2026, 3, 29, 2, 30), None], pa.timestamp("ns"))
    frame = pa.table({"x": [1, 2], "at": naive})
    checked = table_of(source("int64", "Europe/Paris"), frame)
    assert checked.table["at"].to_pylist() == [found[0]]
    assert checked.bad[0].reason == "an event needs a time"


@pytest.mark.parametrize(
    ("type_", "column", "held"),
    [
        ("int64", pa.array([1, None], pa.uint8()), [1, None]),
        ("float64", pa.array([1, 2**53], pa.int64()), [1.0, float(2**53)]),
        ("float64", pa.array([0.5, None], pa.float32()), [0.5, None]),
        ("decimal(5,2)", pa.array([1, 2], pa.int32()), [Decimal("1.00"), Decimal("2.00")]),
        ("string", pa.array(["a", None]).dictionary_encode(), ["a", None]),
        ("string", pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        ("bool", pa.nulls(2), [None, None]),
        ("date", pa.array([date(2026, 3, 1)] * 2), [date(2026, 3, 1)] * 2),
    ],
)
def test_columns_of_frames(type_: str, column: pa.Array, held: list[Any]) -> None:
    """What widens without loss is taken as it is."""
    frame = pa.table({"x": column, "at": [NOON, NOON]})
    assert table_of(source(type_), frame).table["x"].to_pylist() == held


def test_a_timestamp_beyond_the_calendar() -> None:
    """It is a bad row, though Arrow holds it."""
    frame = pa.table({"at": pa.array([0, 2**62], pa.timestamp("us", "UTC"))})
    checked = table_of(source("int64"), frame)
    assert (checked.good.tolist(), checked.bad[0].value) == ([0], f'"{2**62}"')


def test_a_column_with_one_bad_value() -> None:
    """Only that row is bad."""
    frame = pa.table({"x": pa.array([1, 2**53 + 1]), "at": [NOON, NOON]})
    checked = table_of(source("float64"), frame)
    assert checked.table["x"].to_pylist() == [1.0]
    assert str(checked.bad[0]) == ("row 1: x 9007199254740993 is not held exactly by a float64")


def test_times_within_bounds() -> None:
    """Both ends are allowed; one microsecond beyond is not."""
    now = 1_772_452_800_000_000
    bounds = Bounds(now, now + 300_000_000, now - 86_400_000_000)
    moments = [
        NOON + timedelta(minutes=5),
        NOON + timedelta(minutes=5, microseconds=1),
        NOON - timedelta(days=1),
        NOON - timedelta(days=1, microseconds=1),
        NOON + timedelta(days=26_338, seconds=1),
    ]
    checked = table_of(source("int64"), [{"at": each} for each in moments], bounds=bounds)
    assert checked.good.tolist() == [0, 2]
    assert [each.reason for each in checked.bad] == [
        "is 5m ahead of the clock here; `future` allows 5m",
        "is older than what the online state retains, 2026-03-01T12:00:00Z",
        "is 26338d ahead of the clock here; `future` allows 5m",
    ]


def test_columns_that_are_not_declared_may_be_ignored() -> None:
    """As those of a stream's messages are."""
    rows = [{"x": 1, "y": 2, "at": NOON}]
    assert table_of(source("int64"), rows).bad[0].column == "y"
    assert table_of(source("int64"), rows, unknown="ignore").table["x"].to_pylist() == [1]
    line = b'{"x": 1, "y": 2, "at": "2026-03-02T12:00:00Z"}'
    assert table_of(source("int64"), line, unknown="ignore").table.column_names == ["x", "at"]
