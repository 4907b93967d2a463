"""The event log: what was acknowledged is there, once, whatever happens to process or disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from msgspec.structs import replace
from tests.spec.log_writers import (
    DAY,
    ORDERS,
    PROCESSES,
    UTC,
    append_for_ever,
    append_some,
    few_numbered,
    fill_the_disk,
    numbered,
    orders,
)

from tidemark.engines.log import Batch, Compacted, EventLog, Letter
from tidemark.engines.log.database import Database
from tidemark.errors import (
    EngineError,
    SchemaMismatch,
    StoreConflict,
    StoreUnavailable,
)
from tidemark.model.graph import Field, Source
from tidemark.model.types import INT64, STRING


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "log", wait=0.2) as opened:
        yield opened


def ids(log: EventLog, source: Source = ORDERS) -> list[str]:
    """All orders in the log, by position."""
    found: list[str] = log.read(source, 0, 1_000_000)["id"].to_pylist()
    return found


# ---------------------------------------------------------------------------------- what is taken


def test_rows_are_read_in_the_order_in_which_they_came(log: EventLog) -> None:
    """Each with its position and the moment at which it was taken."""
    log.append(ORDERS, orders(("b", 2.0, 20)), seen=100)
    log.append(ORDERS, orders(("a", 1.0, 10), ("c", None, 5)), seen=200)
    assert log.read(ORDERS, 0, 10).to_pylist() == [
        {**row, "at": row["at"], "tidemark_corrects": False}
        for row in log.read(ORDERS, 0, 10).to_pylist()
    ]
    found = log.read(ORDERS, 1, 10)
    assert found["id"].to_pylist() == ["a", "c"]
    assert found["amount"].to_pylist() == [1.0, None]
    assert found["tidemark_seen"].to_pylist() == [200, 200]
    assert found["tidemark_position"].to_pylist() == [2, 3]


def test_nothing_is_made_before_the_first_event(log: EventLog) -> None:
    """Reading a log that was never written to leaves no trace."""
    assert (log.last("orders"), log.names(), log.offsets("orders")) == (0, [], {})
    assert log.read(ORDERS, 0, 10).num_rows == 0
    assert not log.folder.exists()


def test_an_event_delivered_again_is_a_duplicate(log: EventLog) -> None:
    """It is counted and not kept."""
    log.append(ORDERS, orders(("a", 1.0, 10)), seen=1)
    done = log.append(ORDERS, orders(("a", 1.0, 10), ("b", 2.0, 20)), seen=2)
    assert (done.accepted, done.duplicates, done.first, done.last) == (1, 1, 2, 2)
    assert ids(log) == ["a", "b"]


def test_other_content_is_a_correction(log: EventLog) -> None:
    """So is a return to what an event once said."""
    for amount in (1.0, 2.0, 1.0):
        log.append(ORDERS, orders(("a", amount, 10)), seen=1)
    found = log.read(ORDERS, 0, 10)
    assert found["amount"].to_pylist() == [1.0, 2.0, 1.0]
    assert found["tidemark_corrects"].to_pylist() == [False, True, True]


def test_versions_in_one_batch_are_seen_one_after_the_other(log: EventLog) -> None:
    """So that the later row is the later version, also when it is delivered again."""
    rows = orders(("a", 1.0, 10), ("a", 2.0, 10), ("b", 1.0, 10), ("a", 2.0, 10))
    assert log.append(ORDERS, rows, seen=7).duplicates == 1
    found = log.read(ORDERS, 0, 10)
    assert found["amount"].to_pylist() == [1.0, 2.0, 1.0]
    assert found["tidemark_seen"].to_pylist() == [7, 8, 8]
    assert log.append(ORDERS, orders(("a", 2.0, 10)), seen=9).duplicates == 1


def test_a_row_without_identity_is_an_event_of_its_own(log: EventLog) -> None:
    """Where a unique column is null, and where the source names none."""
    log.append(ORDERS, orders((None, 1.0, 10), (None, 1.0, 10)), seen=1)
    anonymous = replace(ORDERS, name="anonymous", unique=())
    log.append(anonymous, orders(("a", 1.0, 10), ("a", 1.0, 10)), seen=1)
    assert ids(log) == [None, None]
    assert ids(log, anonymous) == ["a", "a"]


def test_a_clock_that_goes_back_does_not_move_what_was_seen(log: EventLog) -> None:
    """Every batch is seen after the one before it."""
    seen = [log.append(ORDERS, orders((f"o{t}", 1.0, 0)), seen=t).seen for t in (50, 20, 51, 90)]
    assert seen == [50, 51, 52, 90]
    assert (log.newest("orders").position, log.newest("orders").seen) == (4, 90)


def test_a_batch_with_a_known_key_is_that_batch(log: EventLog) -> None:
    """Nothing is done, and the first answer is given again."""
    first = log.append(ORDERS, orders(("a", 1.0, 10)), seen=1, key="k")
    again = log.append(ORDERS, orders(("a", 1.0, 10)), seen=2, key="k")
    assert (again.first, again.last, again.replayed) == (first.first, first.last, True)
    other = log.append(ORDERS, orders(("b", 1.0, 10)), seen=2, key="k")
    assert (again.other, other.other) == (False, True)
    assert ids(log) == ["a"]


def test_several_batches_are_kept_together(log: EventLog) -> None:
    """Each has its own answer."""
    batches = [Batch(orders(("a", 1.0, 1))), Batch(orders(("a", 1.0, 1), ("b", 1.0, 1)), key="k")]
    done = log.append_all(ORDERS, [*batches, batches[1]], seen=5)
    assert [(each.accepted, each.duplicates) for each in done] == [(1, 0), (1, 1), (1, 1)]
    assert [each.replayed for each in done] == [False, False, True]
    assert ids(log) == ["a", "b"]


def test_offsets_are_kept_with_the_rows(log: EventLog) -> None:
    """Also of a batch in which nothing was good; of two consumers only one can go on."""
    log.append(ORDERS, numbered([1]), seen=1, offsets={"t/0": "4"}, expected={"t/0": None})
    log.append(ORDERS, orders(), seen=2, offsets={"t/0": "5", "t/1": "1"})
    with pytest.raises(StoreConflict, match="Another consumer"):
        log.append(ORDERS, numbered([2]), seen=3, offsets={"t/0": "5"}, expected={"t/0": "4"})
    assert log.offsets("orders") == {"t/0": "5", "t/1": "1"}
    assert ids(log) == ["o1"]


def test_bad_rows_are_buried_with_their_reasons(log: EventLog) -> None:
    """The same message of a stream once, in the transaction of the good ones."""
    bad = Letter('{"id": 1}', ("id is no text",), "t/0", "7")
    log.append(ORDERS, numbered([1]), seen=5, buried=[bad])
    log.append(ORDERS, orders(), seen=6, buried=[bad, Letter("x", ("no JSON",))])
    first, second = log.buried("orders")
    assert (first.row, first.reasons, first.origin, first.offset, first.at) == (
        '{"id": 1}', ("id is no text",), "t/0", "7", 5,
    )  # fmt: skip
    assert log.buried("orders", after=first.number) == [second]


# ------------------------------------------------------------------------------------- its columns


def test_a_column_that_came_later_is_null_before(log: EventLog) -> None:
    """In batches and after compaction, and an event delivered again is still a duplicate."""
    log.append(ORDERS, orders(("a", 1.0, 10)), seen=1)
    wider = replace(ORDERS, columns=(*ORDERS.columns, Field("shop", STRING)))
    row = orders(("b", 2.0, 20)).append_column("shop", pa.array(["tea"]))
    log.append(wider, row, seen=2)
    assert log.read(wider, 0, 10)["shop"].to_pylist() == [None, "tea"]
    log.compact(wider, keep_rows=0)
    assert log.read(wider, 0, 10)["shop"].to_pylist() == [None, "tea"]
    assert "shop" not in log.read(ORDERS, 0, 10).column_names
    unchanged = orders(("a", 1.0, 10)).append_column("shop", pa.nulls(1, pa.string()))
    assert log.append(wider, unchanged, seen=3).duplicates == 1


def test_a_column_keeps_its_type(log: EventLog) -> None:
    """Another type under the same name is refused when it is written and when it is read."""
    log.append(ORDERS, orders(("a", 1.0, 10)), seen=1)
    columns = (Field("id", INT64), *ORDERS.columns[1:])
    other = replace(ORDERS, columns=columns)
    rows = pa.table({"id": [1], "amount": [1.0], "at": pa.array([10], UTC)})
    with pytest.raises(SchemaMismatch, match=r"orders\.id is int64, and string"):
        log.append(other, rows, seen=2)
    with pytest.raises(SchemaMismatch, match=r"orders\.id is int64, and string"):
        log.read(other, 0, 10)


def test_rows_are_those_that_the_source_declares(log: EventLog) -> None:
    """Other columns, other types, an event without a time and timeless facts are refused."""
    with pytest.raises(SchemaMismatch, match="missing: at"):
        log.append(ORDERS, orders(("a", 1.0, 10)).drop_columns(["at"]), seen=1)
    with pytest.raises(SchemaMismatch, match="amount is declared as double"):
        rows = pa.table({"id": ["a"], "amount": [1], "at": pa.array([10], UTC)})
        log.append(ORDERS, rows, seen=1)
    with pytest.raises(SchemaMismatch, match="an event needs a time"):
        rows = pa.table({"id": ["a"], "amount": [1.0], "at": pa.array([None], UTC)})
        log.append(ORDERS, rows, seen=1)
    with pytest.raises(SchemaMismatch, match="has no time"):
        log.append(replace(ORDERS, time=None), orders(("a", 1.0, 10)), seen=1)


# -------------------------------------------------------------------------------------- compaction


def test_compaction_leaves_the_same_events(log: EventLog) -> None:
    """Those of the newest batches stay where they are."""
    for start in range(0, 100, 10):
        log.append(ORDERS, numbered(range(start, start + 10)), seen=start)
    before = log.read(ORDERS, 0, 1000)
    done = log.compact(ORDERS, keep_rows=25)
    assert (done.rows, done.files) == (70, 3)
    assert log.read(ORDERS, 0, 1000).equals(before)
    assert log.read(ORDERS, 65, 10).equals(before.slice(65, 10))
    assert log.compact(ORDERS, keep_rows=25).rows == 0


def test_a_log_without_events_compacts_to_nothing(log: EventLog) -> None:
    """Its first writer may just have made it, or all that came were rows that are no events."""
    log.append(ORDERS, orders(), seen=1, buried=[Letter('{"id": 1}', ("no time",))])
    assert log.compact(ORDERS) == Compacted(0, 0)
    assert log.retain("orders", 10**15) == 0


def test_a_file_without_tables_is_never_there(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever dies while he makes it leaves no log that cannot be read."""
    from tidemark.engines.log import database

    monkeypatch.setattr(database, "TABLES", "CREATE TABLE state (one INTEGER); nonsense")
    with pytest.raises(StoreUnavailable, match="nonsense"):
        log.append(ORDERS, numbered([1]), seen=1)
    monkeypatch.undo()
    assert log.names() == []
    assert log.last("orders") == 0
    assert log.append(ORDERS, numbered([1]), seen=1).accepted == 1


@pytest.mark.parametrize("format_", [0, 2])
def test_a_log_of_another_format_is_refused(log: EventLog, format_: int) -> None:
    """Whoever reads or writes is told, and nothing is changed."""
    log.append(ORDERS, numbered([1]), seen=1)
    log.close()
    file = log.folder / "orders" / "log.db"
    with sqlite3.connect(file) as other:
        other.execute(f"PRAGMA user_version = {format_}")
    other.close()
    before = file.read_bytes()
    with pytest.raises(
        EngineError, match=f"log of orders is of format {format_}, .* knows format 1"
    ):
        log.append(ORDERS, numbered([2]), seen=2)
    with pytest.raises(EngineError, match="Use the release that made it") as refused:
        ids(log)
    assert str(file.parent) in str(refused.value)
    assert file.read_bytes() == before


def test_other_engines_read_the_files(log: EventLog) -> None:
    """By day, in the order of time, with what the log knows of each event."""
    log.append(ORDERS, numbered([30, 3, 2, 1, 25]), seen=77)
    log.compact(ORDERS, keep_rows=0)
    glob = str(log.folder / "orders" / "events" / "*" / "*.parquet")
    query = f"SELECT day::VARCHAR, id, tidemark_position, tidemark_seen FROM read_parquet('{glob}')"
    assert duckdb.sql(f"{query} ORDER BY ALL").fetchall() == [
        ("1970-01-01", "o1", 4, 77),
        ("1970-01-01", "o2", 3, 77),
        ("1970-01-01", "o3", 2, 77),
        ("1970-01-02", "o25", 5, 77),
        ("1970-01-02", "o30", 1, 77),
    ]
    first_day = pl.read_parquet(glob.replace("*/*", "day=1970-01-01/*"))
    assert first_day["id"].to_list() == ["o1", "o2", "o3"]


def test_retention_removes_whole_files(log: EventLog) -> None:
    """Whose events all happened and were seen before; they are not taken again."""
    log.append(ORDERS, numbered([1, 2, 30]), seen=40 * DAY)
    log.append(ORDERS, numbered([3]), seen=90 * DAY)
    log.compact(ORDERS, keep_rows=1)
    log.compact(ORDERS, keep_rows=0)
    assert log.retain("orders", 20 * DAY) == 0
    assert log.retain("orders", 50 * DAY) == 3
    assert ids(log) == ["o3"]
    assert log.read(ORDERS, 0, 1)["tidemark_position"].to_pylist() == [4]
    assert log.append(ORDERS, numbered([1]), seen=91 * DAY).duplicates == 1


def test_files_that_are_read_stay(log: EventLog, tmp_path: Path) -> None:
    """Retention comes back when nobody reads."""
    log.append(ORDERS, numbered([1]), seen=DAY)
    log.compact(ORDERS, keep_rows=0)
    snapshot = log.snapshot(ORDERS, None, tmp_path / "spill.parquet")
    assert log.retain("orders", 90 * DAY) == 0
    snapshot.close()
    assert log.retain("orders", 90 * DAY) == 1
    assert list((log.folder / "orders" / "events").glob("*/*.parquet")) == []


def test_where_a_log_stood_can_be_told_later(log: EventLog) -> None:
    """Whatever came since, and however it was compacted."""
    log.append(ORDERS, numbered([1, 2]), seen=1)
    then = log.state("orders")
    log.append(ORDERS, numbered([3]), seen=2)
    log.compact(ORDERS, keep_rows=0)
    log.append(ORDERS, numbered([4]), seen=3)
    assert log.state("orders", 2).content == then.content
    assert log.state("orders", 3).content != then.content


# ------------------------------------------------------------------------------- several processes


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Twenty times at any instant of appending or compacting: every event is there, once."""
    random = Random(5)
    acknowledged = 0
    for round_ in range(20):
        mine, theirs = PROCESSES.Pipe(duplex=False)
        arguments = (tmp_path, acknowledged, round_, theirs)
        process = PROCESSES.Process(target=append_for_ever, args=arguments)
        process.start()
        theirs.close()
        for _ in range(random.randrange(1, 12)):
            acknowledged = mine.recv()
        for _ in range(random.randrange(20_000)):  # some while later, at no particular point
            pass
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        try:
            while True:
                acknowledged = mine.recv()
        except EOFError:
            pass
        with EventLog(tmp_path) as log:
            found = ids(log)
        assert len(set(found)) == len(found)
        assert set(found) >= {f"o{i}" for i in range(acknowledged)}
    with EventLog(tmp_path) as log:
        log.compact(ORDERS, keep_rows=0)
        glob = str(tmp_path / "orders" / "events" / "*" / "*.parquet")
        count = duckdb.sql(f"SELECT count(*), count(DISTINCT id) FROM read_parquet('{glob}')")
        assert count.fetchall() == [(len(ids(log)), len(ids(log)))]


def test_processes_take_turns(tmp_path: Path) -> None:
    """None loses an event, and what several deliver is kept once."""
    processes = [
        PROCESSES.Process(target=append_some, args=(tmp_path, start)) for start in (0, 30, 60)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with EventLog(tmp_path) as log:
        found = log.read(ORDERS, 0, 10_000)
    wanted = {f"o{i}" for i in range(120)} | {f"o{1_000 + i // 2}" for i in range(120)}
    assert sorted(found["id"].to_pylist()) == sorted(wanted)
    assert found["tidemark_position"].to_pylist() == list(range(1, len(wanted) + 1))


def test_a_writer_waits_a_bounded_time(log: EventLog) -> None:
    """And says who is in the way; reading goes on meanwhile."""
    log.append(ORDERS, numbered([1]), seen=1)
    other = Database(log.folder / "orders", "orders", 0.2)
    with other.writing(), pytest.raises(StoreUnavailable, match="Another process is writing"):
        log.append(ORDERS, numbered([2]), seen=2)
    other.close()
    assert ids(log) == ["o1"]
    assert log.append(ORDERS, numbered([2]), seen=2).accepted == 1


# ------------------------------------------------------------------------------------------ damage


def filled(folder: Path) -> list[str]:
    """A log with files, batches, batches of a few and a write-ahead log; its orders."""
    opened = EventLog(folder / "open")
    for start in range(0, 60, 6):
        if start % 12:
            opened.append_all(ORDERS, [few_numbered(range(start, start + 6))], seen=start)
        else:
            opened.append(ORDERS, numbered(range(start, start + 6)), seen=start)
        if start == 30:
            opened.compact(ORDERS, keep_rows=10)
    shutil.copytree(folder / "open", folder / "copy")  # as a machine that lost its power leaves it
    opened.close()
    return [f"o{i}" for i in range(60)]


def whole_or_refused(folder: Path, wanted: list[str]) -> bool:
    """Whether a log was read whole; if not, it said so."""
    try:
        with EventLog(folder) as log:
            found = ids(log)
    except (EngineError, StoreUnavailable):
        return False
    assert found == wanted
    return True


@pytest.mark.parametrize("kind", ["log.db", "log.db-wal", "*.parquet", "mark"])
def test_a_file_cut_off_anywhere_is_noticed(kind: str, tmp_path: Path) -> None:
    """The log is read whole, or it is said that events are missing."""
    wanted = filled(tmp_path)
    random = Random(kind)
    (path,) = list((tmp_path / "copy" / "orders").rglob(kind))[:1]
    for size in [0, 1, *(random.randrange(path.stat().st_size) for _ in range(25))]:
        copy = tmp_path / "cut"
        shutil.copytree(tmp_path / "copy", copy)
        with (copy / path.relative_to(tmp_path / "copy")).open("r+b") as file:
            file.truncate(size)
        assert whole_or_refused(copy, wanted) is (kind == "mark") or kind == "log.db"
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", ["log.db", "log.db-wal", "*.parquet", "mark"])
def test_a_flipped_bit_is_noticed_or_does_not_matter(kind: str, tmp_path: Path) -> None:
    """No event changes, and none is missing without a word."""
    wanted = filled(tmp_path)
    random = Random(kind)
    (path,) = list((tmp_path / "copy" / "orders").rglob(kind))[:1]
    for _ in range(40):
        copy = tmp_path / "flipped"
        shutil.copytree(tmp_path / "copy", copy)
        place, bit = random.randrange(path.stat().st_size), 1 << random.randrange(8)
        with (copy / path.relative_to(tmp_path / "copy")).open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ bit]))
        whole_or_refused(copy, wanted)
        shutil.rmtree(copy)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    """What was acknowledged before is there; the batch that did not fit is not."""
    mine, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=fill_the_disk, args=(tmp_path, theirs))
    process.start()
    number, error, retryable = mine.recv()
    process.join()
    assert (error, retryable) == ("StoreUnavailable", True)
    assert number > 0
    with EventLog(tmp_path) as log:
        assert ids(log) == [f"o{i}" for i in range(number)]
        assert log.append(ORDERS, numbered([number]), seen=0).accepted == 1


def test_where_nothing_can_be_written_events_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And read all the same."""
    with EventLog(tmp_path / "log") as log:
        log.append(ORDERS, numbered([1]), seen=1)
    folder = tmp_path / "log" / "orders"
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):  # the superuser may write everywhere
        connect: Any = sqlite3.connect

        def read_only(address: str, **options: Any) -> sqlite3.Connection:
            return connect(address.replace("mode=rw", "mode=ro"), **options)

        monkeypatch.setattr(sqlite3, "connect", read_only)
    with EventLog(tmp_path / "log") as log:
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            log.append(ORDERS, numbered([2]), seen=2)
        assert ids(log) == ["o1"]
    folder.chmod(0o755)


def test_identities_in_files_are_known(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after files were put together, and to another process; the newest version counts."""
    monkeypatch.setattr("tidemark.engines.log.identities.RECENT", 10)
    monkeypatch.setattr("tidemark.engines.log.identities.TOGETHER", 3)
    for start in range(0, 240, 12):
        log.append(ORDERS, numbered(range(start, start + 12)), seen=start)
    log.append(ORDERS, orders(("o5", 55.0, 5)), seen=900)
    assert 1 < len(list(log.folder.glob("orders/identities-*.run"))) < 10
    with EventLog(log.folder) as other:
        done = other.append(ORDERS, numbered(range(200, 230)), seen=901)
        assert (done.accepted, done.duplicates) == (0, 30)
        assert other.append(ORDERS, orders(("o5", 55.0, 5)), seen=902).duplicates == 1
        assert other.append(ORDERS, numbered([5, 240]), seen=903).accepted == 2
