"""An interrupted materialization is gone on with, and gives what an undisturbed one gives."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import tidemark as tm
from tidemark.define import lower, outputs
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.log import EventLog
from tidemark.engines.progress import progress_text
from tidemark.errors import RequestInvalid
from tidemark.ingest import materialize as module
from tidemark.ingest.materialize import Materialized, materialize
from tidemark.ingest.pace import Pace
from tidemark.model.merge import merged
from tidemark.model.window import parse_moment
from tidemark.online.states.keys import generation_prefix, read_record, record_key
from tidemark.online.stores.memory import MemoryStore
from tidemark.serve import Reader

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICRO = timedelta(microseconds=1)
SCHEMA = pa.schema(
    {
        "order": pa.string(),
        "user_id": pa.string(),
        "amount": pa.float64(),
        "at": pa.timestamp("us", "UTC"),
    }
)
USERS = [f"u{n}" for n in range(12)]


class User(tm.Entity):
    user_id: tm.Key[str]


class Order(tm.Source, history=tm.parquet("orders.parquet"), time="at", unique=("order",)):
    order: tm.Col[str]
    user_id: tm.Col[str | None]
    amount: tm.Col[float | None]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Order, name="spend"):
    total = tm.sum(Order.amount)
    orders = tm.count()


class DoubleSpend(tm.FeatureView, entity=User, source=Order, name="spend"):
    total = tm.sum(Order.amount * 2.0, version=2)
    orders = tm.count()


class Visits(tm.FeatureView, entity=User, source=Order, name="visits"):
    last = tm.latest(Order.order)


BOTH = lower([Spend, Visits]).definitions
SPEND = lower([Spend]).definitions


def ordered(number: int, at: datetime = NOON, **values: object) -> dict[str, object]:
    """Order `o<number>` of one of the users."""
    row: dict[str, object] = {"order": f"o{number}", "user_id": USERS[number % 12], "amount": 1.0}
    return row | {"at": at} | values


def write(folder: Path, rows: Iterable[dict[str, object]]) -> None:
    """Write the history as one file."""
    parquet.write_table(pa.Table.from_pylist(list(rows), SCHEMA), folder / "orders.parquet")


def rows_of(online: MemoryStore) -> dict[bytes, bytes]:
    """The rows of entities, with keys that do not tell their generation."""
    found: dict[bytes, bytes] = {}
    for view in ("spend", "visits"):
        record = read_record(online._rows.get(record_key("shop", view)))
        for state in record.states:
            prefix = generation_prefix("shop", view, state.state, state.generation)
            found |= {
                view.encode() + key[len(prefix) :]: row
                for key, row in online._rows.items()
                if key.startswith(prefix)
            }
    assert len(found) == sum(key.startswith(b"\xa1r") for key in online._rows)
    return found


class Died(Exception):
    """The process is gone."""


class Dying(MemoryStore):
    """A store whose process dies at a write: before it (odd numbers) or after it (even ones)."""

    def __init__(self, dies_at: int = 0) -> None:
        super().__init__()
        self.left = dies_at
        self.put: list[bytes] = []

    @contextmanager
    def _mortal(self) -> Iterator[None]:
        self.left -= 1
        if self.left == 0:
            raise Died
        yield
        self.left -= 1
        if self.left == 0:
            raise Died

    def put_many(
        self,
        items: Iterable[tuple[bytes, bytes | memoryview]],
        *,
        deletes: Iterable[bytes] = (),
        expect: Mapping[bytes, bytes | None] | None = None,
        durable: bool = True,
    ) -> None:
        """Write, unless it dies before."""
        several = list(items)
        with self._mortal():
            super().put_many(several, deletes=deletes, expect=expect, durable=durable)
            self.put += [key for key, _ in several if b"{" in key[:60] and key[:2] == b"\xa1r"]

    def delete(self, *prefixes: bytes) -> int:
        """Delete, unless it dies before."""
        with self._mortal():
            return super().delete(*prefixes)


def run(
    folder: Path, online: MemoryStore, until: datetime | None = NOON, **options: Any
) -> Materialized:
    """Materialize in groups of few entities and transactions of few rows."""
    with DuckDB(root=folder, log=options.get("log")) as engine:
        engine.memory = 2_500
        return materialize(
            engine, online, options.pop("definitions", BOTH), project="shop", until=until, **options
        )


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many transactions, so that there are many instants to die at."""
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty orders of twelve users, and one of nobody."""
    rows = [ordered(n, NOON - n * HOUR) for n in range(60)]
    write(tmp_path, [*rows, ordered(99, NOON - HOUR, user_id=None)])
    return tmp_path


def counts(done: Materialized) -> list[tuple[str, int, int, int]]:
    """What was told of each view, without how long it took."""
    return [(each.view, each.entities, each.events, each.unattributed) for each in done.views]


def test_whenever_it_dies_the_next_run_gives_the_same(folder: Path) -> None:
    """The same bytes and the same counts, though both views and every write were interrupted."""
    undisturbed = MemoryStore()
    told = run(folder, undisturbed)
    assert counts(told) == [("spend", 12, 60, 1), ("visits", 12, 60, 1)]
    dies_at = 1
    while True:
        online = Dying(dies_at)
        try:
            run(folder, online)
        except Died:
            dies_at += 3
        else:
            break
        online.left = 0
        assert counts(run(folder, online)) == counts(told)
        assert rows_of(online) == rows_of(undisturbed)
    assert dies_at > 30


def test_nothing_is_written_twice(folder: Path) -> None:
    """Each row is put once by the two runs together, whenever the first one died."""
    whole = Dying()
    run(folder, whole)
    for number in (20, 30, 40):
        online = Dying(number)
        with pytest.raises(Died):
            run(folder, online)
        done = run(folder, online)
        assert sorted(online.put) == sorted(whole.put)
        assert any(view.resumed for view in done.views)
        assert "gone on with" in repr(done)


def test_it_may_die_again_and_again(folder: Path) -> None:
    """Every run dies at its fifth write, and together they finish."""
    undisturbed, online = MemoryStore(), Dying()
    run(folder, undisturbed)
    for _ in range(100):
        online.left = 9
        try:
            run(folder, online)
        except Died:
            continue
        break
    assert rows_of(online) == rows_of(undisturbed)


def interrupted(folder: Path, number: int = 26) -> Dying:
    """What a run leaves that died at its `number`-th write."""
    online = Dying(number)
    with pytest.raises(Died):
        run(folder, online)
    online.left = 0
    online.put.clear()
    return online


def test_other_history_is_begun_anew(folder: Path) -> None:
    """Its rows are those of the file as it is now, all of them, and the old ones are gone."""
    online = interrupted(folder)
    write(folder, [ordered(n, amount=3.0) for n in range(24)])
    os.utime(folder / "orders.parquet", ns=(1, 1))
    undisturbed = MemoryStore()
    run(folder, undisturbed)
    assert not any(view.resumed for view in run(folder, online).views)
    assert rows_of(online) == rows_of(undisturbed)


@pytest.mark.parametrize("other", [{"until": NOON - HOUR}, {"retain": "1d"}, {"restart": True}])
def test_other_questions_are_begun_anew(folder: Path, other: dict[str, Any]) -> None:
    """As of another moment, reaching back otherwise, or because it was asked for."""
    online = interrupted(folder)
    undisturbed = MemoryStore()
    run(folder, undisturbed, **other)
    assert not any(view.resumed for view in run(folder, online, **other).views)
    assert rows_of(online) == rows_of(undisturbed)


def test_now_is_gone_on_with_while_nothing_became_known(folder: Path) -> None:
    """The state is then as of the later now, and has the rows of the earlier one."""
    online = Dying(26)
    with pytest.raises(Died):
        run(folder, online, until=None)
    done = run(folder, online, until=None)
    assert any(view.resumed for view in done.views)
    reader = Reader(online, BOTH, {}, outputs(["spend:orders"], BOTH), project="shop")
    assert reader.online({"user_id": "u1"})["orders"] == 5


def test_now_is_begun_anew_once_history_tells_of_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that happened between the two runs, though the file had it all the time."""
    write(folder, [ordered(n) for n in range(24)] + [ordered(24, NOON + HOUR)])
    online = Dying(20)
    monkeypatch.setattr(module, "clock", lambda: parse_moment(NOON))
    with pytest.raises(Died):
        run(folder, online, until=None)
    monkeypatch.setattr(module, "clock", lambda: parse_moment(NOON + HOUR))
    assert not any(view.resumed for view in run(folder, online, until=None).views)
    reader = Reader(online, BOTH, {}, outputs(["spend:orders"], BOTH), project="shop")
    assert reader.online({"user_id": "u0"})["orders"] == 3


def test_what_is_pushed_meanwhile_counts_once(folder: Path) -> None:
    """Events come in before, between and after the runs; some correct or repeat history."""
    source = BOTH.source("order")

    def push(log: EventLog, numbers: Iterable[int], **values: object) -> None:
        rows = [ordered(n, NOON - HOUR, **values) for n in numbers]
        log.append(source, pa.Table.from_pylist(rows, SCHEMA), seen=1)

    def history(online: MemoryStore, log: EventLog, dies_at: int) -> bool:
        push(log, range(50, 70))
        died = False
        if isinstance(online, Dying):
            online.left = dies_at
            try:
                run(folder, online, until=None, log=log)
            except Died:
                died = True
            online.left = 0
        push(log, range(65, 75), amount=5.0)
        run(folder, online, until=None, log=log)
        return died

    with EventLog(folder / "undisturbed") as log:
        undisturbed = MemoryStore()
        history(undisturbed, log, 0)
    for number in range(2, 42, 13):
        with EventLog(folder / f"log{number}") as log:
            online = Dying()
            assert history(online, log, number)
            assert rows_of(online) == rows_of(undisturbed)


def test_dying_while_it_follows_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was pushed during the writing is put into the new rows once, whenever that stops."""
    source = BOTH.source("order")
    monkeypatch.setattr("tidemark.ingest.apply.AT_ONCE", 3)

    def attempt(name: str, dies_at: int) -> tuple[MemoryStore, int]:
        online = Dying()
        with EventLog(folder / name) as log:
            begun = module.entities

            def push() -> None:
                rows = [ordered(100 + n, NOON - HOUR) for n in range(20)]
                log.append(source, pa.Table.from_pylist(rows, SCHEMA), seen=1)

            def pushing(*args: Any, **options: Any) -> Iterator[Any]:
                yield from begun(*args, **options)
                push()

            with monkeypatch.context() as patched:
                patched.setattr(module, "entities", pushing)
                online.left = dies_at
                try:
                    run(folder, online, until=None, log=log, definitions=SPEND)
                except Died:
                    online.left = 0
            writes = -online.left
            push()  # of those that died before it
            run(folder, online, until=None, log=log, definitions=SPEND)
        return online, writes

    undisturbed, writes = attempt("undisturbed", 0)
    for number in range(writes - 18, writes + 1, 5):
        online, _ = attempt(f"log{number}", number)
        assert rows_of(online) == rows_of(undisturbed)


def test_both_versions_are_read_while_the_new_one_is_made(folder: Path) -> None:
    """The old one gives its values all the time, the new one none until it gives all of its own."""
    definitions = merged(lower([DoubleSpend]).definitions, SPEND)
    online = MemoryStore()
    run(folder, online, definitions=SPEND)
    keys = {"user_id": USERS}
    old = Reader(online, definitions, {}, outputs(["spend:total@1"], definitions), project="shop")
    before = old.online_many(keys, at=NOON).values("total")
    assert before == [5.0] * 12
    seen: list[list[float | None]] = []
    done = threading.Event()

    def read() -> None:
        ended = False
        while not ended:
            ended = done.is_set()
            seen.append(old.online_many(keys, at=NOON).values("total"))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for dies_at in (12, 20):
            dying = Dying(dies_at)
            dying._rows = online._rows
            with pytest.raises(Died):
                run(folder, dying, definitions=definitions)
        run(folder, online, definitions=definitions)
    finally:
        done.set()
        thread.join()
    assert seen
    assert all(values == before for values in seen)
    new = Reader(online, definitions, {}, outputs(["spend:total@2"], definitions), project="shop")
    assert new.online_many(keys, at=NOON).values("total") == [10.0] * 12
    assert old.online_many(keys, at=NOON).values("total") == before


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.naps.append(seconds)
        self.now += seconds


def test_a_rate_is_kept_in_slices() -> None:
    """A thousand rows a second are a hundred every tenth, and no nap is longer."""
    clock = Clock()
    pace = Pace(1_000, clock=clock, sleep=clock.sleep)
    assert pace.at_once(50_000) == 100
    for _ in range(50):
        pace.wait(100)
    assert clock.now - 100.0 == pytest.approx(4.9)
    assert max(clock.naps) <= 0.1


def test_what_took_long_is_not_made_up_for() -> None:
    """After a pause of the store, rows come no faster than before."""
    clock = Clock()
    pace = Pace(10, clock=clock, sleep=clock.sleep)
    pace.wait(1)
    clock.now += 60
    for _ in range(11):
        pace.wait(1)
    assert clock.now - 160.0 == pytest.approx(1.0)


def test_without_a_rate_nothing_waits() -> None:
    """None and 0 are no limit; less than that is none."""
    for rate in (None, 0):
        clock = Clock()
        pace = Pace(rate, clock=clock, sleep=clock.sleep)
        assert pace.at_once(50_000) == 50_000
        pace.wait(10**9)
        assert clock.naps == []
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(RequestInvalid, match="is not a rate"):
            Pace(wrong)


def test_a_rate_gives_the_same_rows(folder: Path) -> None:
    """It is only about when."""
    slow, fast = MemoryStore(), MemoryStore()
    run(folder, slow, rate=1_000_000)
    run(folder, fast)
    assert slow._rows == fast._rows


def test_progress_says_how_fast_and_how_long() -> None:
    """As soon as there is something to go by."""
    assert progress_text(1_200, 0, 1_200, 3.0) == "1,200 rows"
    assert progress_text(0, 50_000, 0, 0.0) == "0 of 50,000 rows"
    said = progress_text(10_000, 50_000, 10_000, 4.0)
    assert said == "10,000 of 50,000 rows, 2,500 rows/s, 0:16 left"
    said = progress_text(30_000, 50_000, 10_000, 4.0)
    assert said == "30,000 of 50,000 rows, 2,500 rows/s, 0:08 left"
    assert progress_text(10, 100_010, 10, 1.0).endswith(" rows, 10 rows/s, 2:46:40 left")
