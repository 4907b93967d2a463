"""A few rows that are taken one by one are what they are among many: values, hashes and the log."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from tidemark.engines.few import FEW, Few
from tidemark.engines.identity import content_words, identity_words
from tidemark.engines.log import Batch, EventLog, Letter
from tidemark.ingest import validate
from tidemark.ingest.validate import Bounds, as_rows, table_of
from tidemark.model.graph import Field, Source
from tidemark.model.types import BOOL, BYTES, DATE, FLOAT64, INT64, STRING, TIMESTAMP

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOON_MICROS = int(NOON.timestamp()) * 1_000_000
EAST = timezone(timedelta(hours=5, minutes=30))

VISIT = Source(
    name="visit",
    columns=(
        Field("order", STRING),
        Field("shop", INT64),
        Field("x", FLOAT64),
        Field("ok", BOOL),
        Field("raw", BYTES),
        Field("day", DATE),
        Field("then", TIMESTAMP),
        Field("at", TIMESTAMP),
    ),
    time="at",
    timezone="Europe/Berlin",
    unique=("order", "x", "ok"),
)

MOMENTS: list[Any] = [
    "2026-03-02T12:00:00Z",
    "2026-03-02 12:00:00.000001+00:00",
    "2026-03-02T12:00:00.1234567+00:00",
    "2026-03-02T17:30:00+0530",
    "2026-03-29T02:30:00",  # in Berlin this is an hour that there is not
    "2026-10-25T02:30:00",  # and this one is there twice
    "2026-03-02",
    "2026-W10-1T12:00:00Z",
    "20260302T120000Z",
    "2026-03-02T24:00:00Z",
    "2026-03-02x12:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "1969-12-31T23:59:59.999999Z",
    "noon",
    12,
]
DATES: list[Any] = [None, "2026-03-02", "1969-12-31", "20260302", "2026-02-30", 3]
PLAIN: dict[str, list[Any]] = {
    "order": [None, "", "a", "é", "日本", "\ud800", 1],
    "shop": [None, 0, -1, 2**63 - 1, -(2**63), 2**63, 1.0, True, "1"],
    "x": [None, 0.0, -0.0, 1.5, 2, 2**53, 2**53 + 1, 10**400, "NaN", "-Infinity", True, "1.5"],
    "ok": [None, True, False, 1, "true"],
}
JSON = PLAIN | {
    "raw": [None, "", base64.b64encode(b"\0\xff").decode(), "?", 7],
    "day": DATES,
    "then": [None, *MOMENTS],
    "at": ["2026-03-02T12:00:00Z", "2026-03-02T12:00:00.5Z", *MOMENTS],
}
PYTHON = PLAIN | {
    "x": [*PLAIN["x"], math.nan, math.inf, float("-nan")],
    "raw": [None, b"", b"\0\xff", bytearray(b"a"), "a"],
    "day": [*DATES, date(2026, 3, 2), datetime(2026, 3, 2), date.min, date.max],
    "then": [None, *MOMENTS, NOON, NOON.astimezone(EAST), datetime(2026, 3, 29, 2, 30)],
    "at": [NOON, datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")), *MOMENTS],
}


def any_rows(random: Random, values: dict[str, list[Any]], count: int) -> list[dict[str, Any]]:
    """Rows of which most are right: the first values of each column are."""

    def one(column: str) -> Any:
        there = values[column]
        return random.choice(there if random.random() < 0.05 else there[:2])

    return [{name: one(name) for name in values if random.random() < 0.98} for _ in range(count)]


def as_lines(rows: list[dict[str, Any]]) -> object:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_dicts(rows: list[dict[str, Any]]) -> object:
    return rows


@pytest.mark.parametrize(("values", "form"), [(JSON, as_lines), (PYTHON, as_dicts)])
def test_values_and_hashes(
    values: dict[str, list[Any]],
    form: Callable[[list[dict[str, Any]]], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the values: one by one they are what they are in columns, and so are hashes."""
    random, taken = Random(5), 0
    bounds = Bounds(NOON_MICROS, NOON_MICROS + 10**15, -(10**14))
    for _ in range(300):
        rows = form(any_rows(random, values, random.choice([1, 1, 2, 5])))
        found = table_of(VISIT, rows, bounds=bounds)
        with monkeypatch.context() as patched:
            patched.setattr(validate, "FEW", 0)
            whole = table_of(VISIT, rows, bounds=bounds)
        assert not isinstance(whole.rows, Few)
        assert (found.bad, found.good.tolist()) == (whole.bad, whole.good.tolist())
        assert str(as_rows(found.rows).to_pylist()) == str(whole.rows.to_pylist())  # NaN as well
        if isinstance(found.rows, Few):
            taken += 1
            found.rows.batch.validate(full=True)
            columns = dict(zip(whole.rows.column_names, whole.rows.columns, strict=True))
            unique = [columns[name] for name in VISIT.unique]
            contents, identities = found.rows.hashes()
            assert contents == content_words(columns).tolist()
            assert identities == identity_words(unique).tolist()
    assert taken > 100


@pytest.mark.parametrize("values", [JSON, PYTHON])
def test_each_value(values: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value alone in an otherwise right row is refused, or taken, as among many."""
    form = as_lines if values is JSON else as_dicts
    for name, several in values.items():
        for value in several:
            row = {"order": "a", "at": "2026-03-02T12:00:00Z", name: value}
            found = table_of(VISIT, form([row]))
            with monkeypatch.context() as patched:
                patched.setattr(validate, "FEW", 0)
                whole = table_of(VISIT, form([row]))
            assert found.bad == whole.bad
            assert str(found.table.to_pylist()) == str(whole.table.to_pylist())


def orders(random: Random, count: int) -> Few:
    """Events of few identities and contents, so that many repeat or correct one another."""
    rows = [
        {
            "order": random.choice(["a", "b", "c", "d", None]),
            "x": random.choice([0.0, -0.0]),
            "ok": True,
            "shop": random.choice([1, 2]),
            "at": f"2026-03-02T12:00:0{random.randrange(3)}Z",
        }
        for _ in range(count)
    ]
    found = table_of(VISIT, rows).rows
    assert isinstance(found, Few)
    return found


def test_the_log_is_the_same(tmp_path: Path) -> None:
    """What is taken, corrects or repeats, the moments, the sum of all: as in tables."""
    random = Random(11)
    with EventLog(tmp_path / "few") as few, EventLog(tmp_path / "many") as many:
        for seen in range(60):
            batches = [orders(random, random.choice([1, 1, 2, 3])) for _ in range(1 + seen % 2)]
            done = few.append_all(VISIT, [Batch(each) for each in batches], seen=seen)
            tables = [Batch(as_rows(each)) for each in batches]
            assert done == many.append_all(VISIT, tables, seen=seen)
            for each in done:
                assert each.taken is None or len(each.taken) == each.accepted
        assert few.state("visit") == many.state("visit")
        assert few.state("visit", 7) == many.state("visit", 7)
        events = few.read(VISIT, 0, 1000)
        assert events.equals(many.read(VISIT, 0, 1000))
        assert 20 < events.num_rows < 180


def test_what_was_undone_is_not_remembered(tmp_path: Path) -> None:
    """Where a batch fails, neither those before it in one writing nor their schema are known."""
    random = Random(3)
    rows = orders(random, 1)
    torn = Batch(rows, buried=(Letter(row=object(), reasons=()),))  # type: ignore[arg-type]
    with EventLog(tmp_path) as log:
        with pytest.raises(Exception, match=r"object|supported|bind"):
            log.append_all(VISIT, [Batch(rows), Batch(orders(random, 2)), torn], seen=1)
        assert log.last("visit") == 0
        (done,) = log.append_all(VISIT, [Batch(rows)], seen=2)
        assert (done.accepted, done.duplicates) == (1, 0)
    with EventLog(tmp_path) as log:
        assert log.read(VISIT, 0, 10).num_rows == 1


def test_many_rows_stay_in_columns() -> None:
    """What arrays are cheaper for, and what is not plain, is a table."""
    row = {"order": "a", "at": NOON}
    assert isinstance(table_of(VISIT, [row] * FEW).rows, Few)
    assert isinstance(table_of(VISIT, [row] * (FEW + 1)).rows, pa.Table)
    assert isinstance(table_of(VISIT, pa.table({"at": [NOON]})).rows, pa.Table)
