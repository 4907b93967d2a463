"""The event log of events that come one by one: what is kept is what batches of many keep."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.spec.log_writers import ORDERS, few, few_numbered, numbered, orders

from tidemark.engines.log import EventLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "log") as opened:
        yield opened


def wal_of(log: EventLog) -> Path:
    return log.folder / "orders" / "log.db-wal"


def test_a_few_are_read_as_many_are(log: EventLog, tmp_path: Path) -> None:
    """In order among batches of many, with what the log knows of them, nulls included."""
    rows = [("a", 1.0, 10), ("b", None, 20), (None, -0.0, 30), ("a", 2.0, 10)]
    with EventLog(tmp_path / "many") as many:
        for seen, row in enumerate(rows):
            log.append_all(ORDERS, [few(row)], seen=seen)
            many.append(ORDERS, orders(row), seen=seen)
            for each in (log, many):
                each.append(ORDERS, orders((f"x{seen}", 9.0, 1)), seen=seen)
        found = log.read(ORDERS, 0, 100)
        assert found.equals(many.read(ORDERS, 0, 100))
        assert log.state("orders") == many.state("orders")
    assert found["id"].to_pylist() == ["a", "x0", "b", "x1", None, "x2", "a", "x3"]
    assert found["tidemark_corrects"].to_pylist() == [False] * 6 + [True, False]


def test_a_few_are_compacted_as_many_are(log: EventLog) -> None:
    """Into one file of a day, from which other engines read them."""
    for number in range(20):
        log.append_all(ORDERS, [few_numbered([number])], seen=number)
    before = log.read(ORDERS, 0, 100)
    assert log.compact(ORDERS, keep_rows=0).rows == 20
    assert log.read(ORDERS, 0, 100).equals(before)
    assert before["id"].to_pylist() == [f"o{number}" for number in range(20)]
    assert len(list(log.folder.glob("orders/events/*/*.parquet"))) == 1


def test_a_column_that_came_later_is_null_before(log: EventLog) -> None:
    """Rows of several schemas, each a few, are read in the columns of now."""
    before = ORDERS.columns[:1] + ORDERS.columns[2:]
    fewer = type(ORDERS)(name="orders", columns=before, time="at", unique=("id",))
    table = orders(("a", 1.0, 10)).drop_columns(["amount"])
    log.append(fewer, table, seen=1)
    log.append_all(ORDERS, [few(("b", 2.0, 20))], seen=2)
    assert log.read(ORDERS, 0, 10)["amount"].to_pylist() == [None, 2.0]
    assert log.read(fewer, 0, 10)["id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("keep_rows", [0, 4, 100])
def test_identities_outlive_their_batches(log: EventLog, keep_rows: int) -> None:
    """What was compacted before its identities became a file is known to whoever comes next."""
    log.append(ORDERS, numbered(range(6)), seen=1)
    for number in range(6, 12):
        log.append_all(ORDERS, [few_numbered([number])], seen=number)
    log.compact(ORDERS, keep_rows=keep_rows)
    with EventLog(log.folder) as other:
        again = [few_numbered([number]) for number in range(12)]
        done = other.append_all(ORDERS, again, seen=20)
        assert [each.duplicates for each in done] == [1] * 12
        assert other.append_all(ORDERS, [few(("o3", 0.5, 0))], seen=21)[0].accepted == 1
    assert log.append(ORDERS, orders(("o3", 0.5, 0)), seen=22).duplicates == 1


def test_the_write_ahead_file_stays_short(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends overwrite it: what makes a file longer takes the disk twice as long."""
    monkeypatch.setattr("tidemark.engines.log.database.CHECKPOINT_PAGES", 20)
    for number in range(100):
        log.append_all(ORDERS, [few_numbered([number])], seen=number)
    assert wal_of(log).stat().st_size < 40 * 4_200
    assert log.read(ORDERS, 0, 1_000).num_rows == 100


def test_an_event_alone_takes_little_room(log: EventLog) -> None:
    """That of its values, and not that of an Arrow message."""
    log.append_all(ORDERS, [few_numbered([1])], seen=1)
    with sqlite3.connect(log.folder / "orders" / "log.db") as database:
        ((size,),) = database.execute("SELECT length(payload) FROM batches").fetchall()
    database.close()
    assert size < 40
