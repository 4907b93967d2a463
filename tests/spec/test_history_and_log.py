"""History and event log as one source: when an event counts, and what was said of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tidemark as tm
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.log import EventLog
from tidemark.engines.sources import open_source
from tidemark.store import Store

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.parquet("data/*.parquet"), time="at", unique=("order",)):
    """What was bought, as a table of every night and as it happens."""

    order: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Click(tm.Source, time="at", unique=("id",)):
    """What was clicked on; there is no table of it."""

    id: tm.Col[str]
    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Spending(tm.FeatureView, entity=User, source=Purchase):
    """What a user has bought."""

    spend = tm.sum(Purchase.amount)


class Clicks(tm.FeatureView, entity=User, source=Click):
    """What a user looked at."""

    clicks = tm.count()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "data").mkdir()
    (tmp_path / "tidemark.toml").write_text('online = "memory:"\n')
    history(tmp_path, ("o1", "ada", 1.0, NOW - 4 * HOUR), ("o2", "ada", 2.0, NOW - 3 * HOUR))
    with tm.connect(tmp_path) as opened:
        opened.apply(opened.plan([Spending, Clicks]))
        yield opened


def history(folder: Path, *rows: tuple[str, str, float, datetime]) -> None:
    """Write the table of the night."""
    names = ("order", "user_id", "amount", "at")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["at"] = pa.array(columns["at"], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table(columns), folder / "data" / "purchases.parquet")


def bought(order: str, amount: float, at: datetime) -> dict[str, Any]:
    return {"order": order, "user_id": "ada", "amount": amount, "at": at}


def asked(*moments: datetime) -> pa.Table:
    return pa.table(
        {"user_id": ["ada"] * len(moments), "t": pa.array(moments, pa.timestamp("us", "UTC"))}
    )


def soon() -> datetime:
    """A moment after everything that has happened."""
    return datetime.fromtimestamp(time.time() + 60, UTC)


def test_an_event_counts_from_when_it_was_seen(store: Store) -> None:
    """A payment that came two hours late is in no row of before, but for hindsight."""
    store.push("purchase", [bought("o3", 4.0, NOW - 2 * HOUR)])
    labels = asked(NOW - HOUR, soon())
    assert store.training_set([Spending.spend], labels).to_arrow()["spend"].to_pylist() == [3, 7]
    known = store.training_set([Spending.spend], labels, hindsight=True).to_arrow()
    assert known["spend"].to_pylist() == [7, 7]


def test_recorded_beats_assumed(store: Store) -> None:
    """The table has the late payment as if it had been known at once; the log knows better."""
    store.push("purchase", [bought("o3", 4.0, NOW - 2 * HOUR)])
    rows = [("o1", "ada", 1.0, NOW - 4 * HOUR), ("o3", "ada", 4.0, NOW - 2 * HOUR)]
    history(store.config.root, *rows)
    training = store.training_set([Spending.spend], asked(NOW - HOUR, soon()))
    assert training.to_arrow()["spend"].to_pylist() == [1, 5]
    assert training.report.disagreeing == {}


def test_a_disagreement_is_reported(store: Store) -> None:
    """The rule of identity decides, the same way everywhere; how many there are is said."""
    store.push("purchase", [bought("o2", 20.0, NOW - 3 * HOUR), bought("o9", 9.0, NOW - HOUR)])
    training = store.training_set([Spending.spend], asked(soon()))
    assert training.to_arrow()["spend"].to_pylist() == [30]
    assert training.report.disagreeing == {"purchase": 1}
    assert "purchase: history and event log disagree about 1 event" in str(training.report)


def test_a_correction_replaces_from_when_it_came(store: Store) -> None:
    """Until then the event was what it had been."""
    store.push("purchase", [bought("o3", 4.0, NOW - 2 * HOUR)])
    between = datetime.now(UTC)
    while datetime.now(UTC) == between:
        pass
    store.push("purchase", [bought("o3", 5.0, NOW - 2 * HOUR)])
    training = store.training_set([Spending.spend], asked(between, soon()))
    assert training.to_arrow()["spend"].to_pylist() == [7, 8]


def test_a_source_may_have_no_history(store: Store) -> None:
    """It is empty at first, and then what was pushed."""

    def clicks() -> list[object]:
        labels = asked(soon())
        return store.training_set([Clicks.clicks], labels).to_arrow()["clicks"].to_pylist()

    assert clicks() == [0]
    store.push("click", [{"id": "c1", "user_id": "ada", "at": NOW}])
    assert clicks() == [1]


def test_a_dataset_is_made_again_after_more_events(store: Store) -> None:
    """The log is only ever added to, so it is read up to where it was."""
    store.push("purchase", [bought("o3", 4.0, NOW - 2 * HOUR)])
    saved = store.training_set([Spending.spend], asked(soon()), save_as="before")
    store.push("purchase", [bought("o4", 8.0, NOW - HOUR), bought("o3", 5.0, NOW - HOUR)])
    found = store.registry.verify_dataset("before")
    assert (found.reproduced, found.changed) == (True, ())
    again = store.training_set([Spending.spend], asked(soon())).to_arrow()
    assert (saved.to_arrow()["spend"].to_pylist(), again["spend"].to_pylist()) == ([7], [16])


def test_a_dataset_of_before_the_log_is_made_again(store: Store) -> None:
    """The first event that is pushed does not change it."""
    store.training_set([Spending.spend], asked(soon()), save_as="before")
    store.push("purchase", [bought("o2", 20.0, NOW - HOUR)])
    found = store.registry.verify_dataset("before")
    assert (found.reproduced, found.changed) == (True, ())


def test_large_batches_are_read_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not compacted yet need not fit into memory."""
    monkeypatch.setattr("tidemark.engines.log.segments.BYTES_AT_ONCE", 4_000)
    with tm.connect(":memory:") as store:
        source = store.plan([Clicks]).definitions.source("click")
    log = EventLog(tmp_path / "log")
    for start in range(0, 100, 10):
        ids = [f"c{i}" for i in range(start, start + 10)]
        times = pa.array(range(start, start + 10), pa.timestamp("us", "UTC"))
        log.append(source, pa.table({"id": ids, "user_id": ids, "at": times}), seen=start)
    with DuckDB(log=log) as engine:
        relation = open_source(engine, source)
        batches = relation.read({"id": "id"})
        found = [value for batch in batches for value in batch.column(0).to_pylist()]
        assert found == [f"c{i}" for i in range(100)]
        assert len(list(engine.temporary.glob("*.parquet"))) == 1
        relation.close()
        assert list(engine.temporary.glob("*.parquet")) == []
    log.close()
