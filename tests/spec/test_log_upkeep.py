"""The upkeep of the event log: few files, the same events, and what is known of those that went."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from msgspec.structs import replace
from tests.spec.log_writers import DAY, ORDERS, numbered, orders

from tidemark.engines.log import EventLog, segments
from tidemark.errors import StoreUnavailable
from tidemark.model.graph import Field
from tidemark.model.types import STRING


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "log", wait=0.2) as opened:
        yield opened


def compacted_often(log: EventLog, times: int) -> pa.Table:
    """A log of three hours a compaction, of two days in turn; gives its events."""
    for number in range(times):
        hours = [number % 20, 24 + number % 20, (number + 7) % 20]
        times = [hour * DAY // 24 for hour in hours]
        rows = orders(*((f"o{number}-{i}", 1.0 * number, at) for i, at in enumerate(times)))
        log.append(ORDERS, rows, seen=number)
        log.compact(ORDERS, keep_rows=0)
    return log.read(ORDERS, 0, 1_000)


def files(log: EventLog) -> list[str]:
    """The files that other engines see."""
    home = log.folder / "orders" / "events"
    return sorted(str(path.relative_to(home)) for path in home.glob("*/*.parquet"))


def test_a_log_that_may_not_be_looked_at_is_unavailable(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its folder has become somebody else's; it is no log with nothing in it."""
    stat = Path.stat

    def refused(path: Path, *, follow_symlinks: bool = True) -> object:
        if path.suffix == ".db":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    log.append(ORDERS, orders(("o1", 1.0, 0)), seen=0)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refused)
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            log.read(ORDERS, 0, 10)
    assert log.read(ORDERS, 0, 10).num_rows == 1


def test_where_a_file_cannot_be_written_the_batches_stay(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, what there is of the file goes, and the next compaction does it."""
    log.append(ORDERS, orders(("o1", 1.0, 0)), seen=0)

    def full(_table: pa.Table, file: Path, **_how: object) -> None:
        file.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(segments.pq, "write_table", full)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            log.compact(ORDERS, keep_rows=0)
    assert list((log.folder / "orders" / "events").glob("*/*")) == []
    assert log.compact(ORDERS, keep_rows=0).rows == 1
    assert files(log) == ["day=1970-01-01/000000000000001-000000000000001.parquet"]


@pytest.mark.parametrize("upkeep", ["compact", "retain"])
def test_where_nothing_may_be_written_upkeep_says_so(log: EventLog, upkeep: str) -> None:
    """It may be tried again."""
    log.append(ORDERS, orders(("o1", 1.0, 0)), seen=0)
    (log.folder / "orders" / "compact.lock").mkdir()  # a file there cannot be opened
    with pytest.raises(StoreUnavailable, match="cannot be written: Is a directory"):
        log.compact(ORDERS) if upkeep == "compact" else log.retain("orders", 1)


def test_small_files_of_a_day_become_one(log: EventLog) -> None:
    """After the eighth compaction of a day there is one file of it, with all its events."""
    compacted_often(log, 7)
    assert len(files(log)) == 14
    log.append(ORDERS, orders(("late", 1.0, DAY // 24)), seen=100)
    before = log.read(ORDERS, 0, 1_000)
    assert log.compact(ORDERS, keep_rows=0).merged == 8
    assert len(files(log)) == 8
    assert files(log)[0] == "day=1970-01-01/000000000000001-000000000000022.m.parquet"
    assert log.read(ORDERS, 0, 1_000).equals(before)
    assert log.read(ORDERS, 9, 5).equals(before.slice(9, 5))


def test_other_engines_see_each_event_once(log: EventLog) -> None:
    """Ordered by time within a file, whatever was put together, however often."""
    rows = compacted_often(log, 30)
    assert len(files(log)) < 16
    glob = str(log.folder / "orders" / "events" / "*" / "*.parquet")
    found = duckdb.sql(f"SELECT id FROM read_parquet('{glob}') ORDER BY tidemark_position")
    assert [row[0] for row in found.fetchall()] == rows["id"].to_pylist()
    for name in files(log):
        file = log.folder / "orders" / "events" / name
        query = f"SELECT epoch_us(told.at), tidemark_position FROM '{file}' AS told"
        times = duckdb.sql(query).fetchall()
        assert times == sorted(times)


def test_files_that_are_read_are_not_put_together(log: EventLog, tmp_path: Path) -> None:
    """Who reads is not disturbed, and nobody waits; the next compaction does it."""
    before = compacted_often(log, 7)
    snapshot = log.snapshot(ORDERS, None, tmp_path / "spill.parquet")
    log.append(ORDERS, numbered([1, 25]), seen=100)
    assert log.compact(ORDERS, keep_rows=0).merged == 0
    named = ", ".join(f"'{name}'" for name in snapshot.files)
    found = duckdb.sql(f"SELECT id FROM read_parquet([{named}]) ORDER BY tidemark_position")
    assert [row[0] for row in found.fetchall()] == before["id"].to_pylist()
    assert log.read(ORDERS, 0, 21).equals(before)
    snapshot.close()
    assert log.compact(ORDERS, keep_rows=0).merged == 16
    assert len(files(log)) == 2
    assert log.read(ORDERS, 0, 21).equals(before)


def test_whoever_dies_leaves_each_event_in_one_place(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the new file is entered as after it; the next one tidies up."""
    compacted_often(log, 7)
    log.append(ORDERS, numbered([1, 25]), seen=100)
    before = log.read(ORDERS, 0, 1_000)
    sweep = segments.sweep
    swept = 0

    def dying(database: object) -> None:
        nonlocal swept
        swept += 1
        if swept > 1:  # the first one is before anything is done
            raise StoreUnavailable("The process is gone.")
        sweep(database)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(segments, "sweep", dying)
        with pytest.raises(StoreUnavailable, match="is gone"):
            log.compact(ORDERS, keep_rows=0)
    assert log.read(ORDERS, 0, 1_000).equals(before)
    log.compact(ORDERS, keep_rows=0)
    assert log.read(ORDERS, 0, 1_000).equals(before)
    assert len(files(log)) == 2


def test_a_column_that_came_later_is_null_before(log: EventLog) -> None:
    """Also in a file of events of before and after."""
    compacted_often(log, 7)
    wider = replace(ORDERS, columns=(*ORDERS.columns, Field("coupon", STRING)))
    rows = orders(("new", 1.0, DAY // 24)).append_column("coupon", pa.array(["x"]))
    log.append(wider, rows, seen=100)
    assert log.compact(wider, keep_rows=0).merged == 8
    found = log.read(wider, 0, 1_000)
    assert found["coupon"].to_pylist() == [None] * 21 + ["x"]


def test_large_files_are_left_alone(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was put together to a million events, here ten, is not written again."""
    monkeypatch.setattr(segments, "SMALL_ROWS", 10)
    before = compacted_often(log, 30)
    days = [name.partition("/") for name in files(log)]
    whole = {name for day, _, name in days if day == "day=1970-01-01" and ".m." in name}
    assert len(whole) > 2
    log.append(ORDERS, orders(*((f"x{n}", 1.0, n) for n in range(12))), seen=900)
    log.compact(ORDERS, keep_rows=0)
    assert whole <= {name.rpartition("/")[2] for name in files(log)}
    assert log.read(ORDERS, 0, len(before)).equals(before)


# -------------------------------------------------------------------- what is known of old events


def test_a_batch_delivered_again_is_not_gone_through_again(log: EventLog) -> None:
    """Its last version of the event is the newest one, so that the first one is no correction."""
    both = orders(("a", 1.0, 10), ("b", 5.0, 10), ("a", 2.0, 10))
    assert log.append(ORDERS, both, seen=1).accepted == 3
    assert log.append(ORDERS, both, seen=2).duplicates == 3
    assert log.read(ORDERS, 0, 10)["amount"].to_pylist() == [1.0, 5.0, 2.0]


def test_a_batch_that_ends_otherwise_is_gone_through(log: EventLog) -> None:
    """All its versions are new ones, as the newest one is not its last."""
    log.append(ORDERS, orders(("a", 1.0, 10), ("a", 2.0, 10)), seen=1)
    done = log.append(ORDERS, orders(("a", 2.0, 10), ("a", 1.0, 10)), seen=5)
    assert (done.accepted, done.duplicates) == (1, 1)
    assert log.append(ORDERS, orders(("a", 3.0, 10), ("a", 1.0, 10)), seen=6).duplicates == 2
    assert log.read(ORDERS, 0, 10)["amount"].to_pylist() == [1.0, 2.0, 1.0]


def test_an_event_that_went_is_known(log: EventLog) -> None:
    """Delivered again it is a duplicate; moved into the present it is a correction of itself."""
    log.append(ORDERS, numbered([1, 2]), seen=DAY)
    log.compact(ORDERS, keep_rows=0)
    assert log.retain("orders", 90 * DAY) == 2
    assert log.append(ORDERS, numbered([1]), seen=91 * DAY).duplicates == 1
    log.append(ORDERS, orders(("o2", 9.0, 91 * DAY)), seen=92 * DAY)
    assert log.read(ORDERS, 0, 10)["tidemark_corrects"].to_pylist() == [True]
