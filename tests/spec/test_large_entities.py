"""Entities with many events: read whole or not at all, forgotten in time, and each row once."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from msgspec import structs
from tests.spec.shop import DAY, HOUR, MICRO, NOON, Purchase, User, bought, history
from tests.spec.test_materialize import LOWERED, lowered_outputs, run

import tidemark as tm
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.state import entities
from tidemark.errors import StoreUnavailable
from tidemark.kernel.layout import Layout
from tidemark.model.window import DAY as DAY_MICROS
from tidemark.online.rows.retention import Retention
from tidemark.online.states import coverage
from tidemark.online.states.keys import key_encoder
from tidemark.online.stores.memory import MemoryStore
from tidemark.online.trees import cutting, directories, tree
from tidemark.online.trees.cutting import Sizes
from tidemark.serve import Reader

FEATURES = ("spending:purchases_1h", "spending:spend_30d", "spending:merchants")
SPENDING = next(view for view in LOWERED.definitions.views if view.name == "spending")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Five events make a tree of two chunks, and ten one with directories."""
    monkeypatch.setattr(cutting, "SIZES", Sizes(split=4, chunk=2, fanout=2))


def month(user: str, days: int = 30) -> list[dict[str, object]]:
    """A purchase a day, the last one half an hour before noon."""
    return [
        bought(
            user, NOON - HOUR / 2 - n * DAY, order_id=f"{user}{n}", merchant="ab"[n % 2], amount=n
        )
        for n in range(days)
    ]


def reader(online: MemoryStore) -> Reader:
    return Reader(online, LOWERED.definitions, {}, lowered_outputs(*FEATURES), project="shop")


def read(online: MemoryStore, user: str = "u1", at: datetime = NOON) -> dict[str, object]:
    return dict(reader(online).online({"user_id": user}, at=at))


def test_a_large_entity_is_read_as_a_small_one():
    """Its windows are exact, to the microsecond."""
    online = MemoryStore()
    run(online, *month("u1"), bought("u2", NOON))
    assert any(directories.is_directory(row) for row in rows_of(online))
    assert read(online) == {
        "purchases_1h": 1,
        "spend_30d": sum(range(30)),
        "merchants": ["a", "b"],
    }
    later = NOON + HOUR / 2
    assert read(online, at=later)["purchases_1h"] == 0
    assert read(online, at=later - MICRO)["purchases_1h"] == 1
    assert read(online, "u2")["purchases_1h"] == 1


class Interfering(MemoryStore):
    """Does something when the first child of a tree is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.once = lambda: None

    def get_many(self, keys):
        if keys and not any(key.startswith(b"\xa1m") for key in keys):
            once, self.once = self.once, lambda: None
            once()
        return super().get_many(keys)


def test_a_tree_that_is_replaced_meanwhile_is_read_again_from_its_root():
    """The new one is answered, whole."""
    online = Interfering()
    run(online, *month("u1"))
    online.once = lambda: run(online, *month("u1", 20))
    assert read(online)["spend_30d"] == sum(range(20))


def test_a_tree_that_stays_broken_is_an_error():
    """Never a value of some of its events."""
    online = MemoryStore()
    run(online, *month("u1"))
    for key, row in list(online._rows.items()):
        if row.startswith(b"TMRW") and not directories.is_directory(row):
            del online._rows[key]
    with pytest.raises(StoreUnavailable, match="kept changing"):
        read(online)


def test_what_is_written_while_trees_are_read_is_seen_whole():
    """Thirty purchases, or twenty of another amount: no reader sees anything else."""
    online = MemoryStore()
    worlds = month("u1"), [each | {"amount": 100.0} for each in month("u1", 20)]
    run(online, *worlds[0])
    mine, seen, done = reader(online), set[object](), threading.Event()

    def follow() -> None:
        while not done.is_set():
            seen.add(mine.online({"user_id": "u1"}, at=NOON)["spend_30d"])

    threads = [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        for rows in worlds[::-1]:
            run(online, *rows)
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= {float(sum(range(30))), 2000.0}


def rows_of(online: MemoryStore) -> list[bytes]:
    return [row for row in online._rows.values() if row.startswith(b"TMRW")]


def partition(*rows: dict[str, object]):
    """The events of these purchases, as materialization reads them."""
    layout = layout_of()
    with DuckDB(frames={"purchase": history(list(rows))}) as engine:
        (only,) = entities(
            engine, LOWERED.definitions, SPENDING, layout, until=int(NOON.timestamp() * 1e6)
        )
    return only


def layout_of() -> Layout:
    return Layout.of(SPENDING, LOWERED.definitions.source("purchase").types)


def grown(retention: Retention | None) -> dict[bytes, bytes]:
    """Sixty days in one tree, and then a purchase at noon merged into it."""
    layout, events = layout_of(), partition(*month("u1", 60))
    keys = key_encoder(LOWERED.definitions.entity("user"))([["u1"]])
    rows = dict(tree.write(layout, keys, events))

    def fetch(wanted):
        return [rows.get(key) for key in wanted]

    new = partition(bought("u1", NOON, order_id="new"))
    merged = tree.merge(layout, keys, fetch(keys), new, fetch, retention)
    assert not len(merged.undecided)
    for key in merged.deletes:
        del rows[key]
    rows.update(merged.puts)
    return rows


def test_chunks_of_events_that_no_window_needs_go_when_events_come():
    """No window of today is longer than thirty days; without retention all stays."""
    floor = int((NOON - DAY).timestamp() * 1e6)
    windowed = tuple(each for each in SPENDING.features if each.aggregate.window.reach)
    view = structs.replace(SPENDING, features=windowed)
    retention = Retention.of(view, floor)
    assert retention is not None
    assert retention.low == floor - 30 * DAY_MICROS - 1
    everything, recent = grown(None), grown(retention)
    held = [
        sum(len_of(row) for row in rows.values() if not directories.is_directory(row))
        for rows in (everything, recent)
    ]
    assert held[0] == 61
    assert 32 <= held[1] <= 36
    keys = key_encoder(LOWERED.definitions.entity("user"))([["u1"]])
    reachable = {
        keys[0],
        *tree.stored_children(keys[0], recent[keys[0]], lambda some: [recent[key] for key in some]),
    }
    assert reachable == set(recent)


def len_of(row: bytes) -> int:
    return int.from_bytes(row[8:16], "little")


def test_an_event_that_ties_with_an_old_one_is_undecided():
    """Bytes do not say which comes first; nor what an identity that comes again replaces."""
    layout = layout_of()
    keys = key_encoder(LOWERED.definitions.entity("user"))([["u1"]])
    for days in (3, 30):
        rows = dict(tree.write(layout, keys, partition(*month("u1", days))))
        old = [rows[keys[0]]]
        tied = bought("u1", NOON - HOUR / 2, order_id="other")
        again = bought("u1", NOON - HOUR / 2 + MICRO, order_id="u10")
        for event in (tied, again):
            fetch = lambda some, rows=rows: [rows.get(key) for key in some]
            merged = tree.merge(layout, keys, old, partition(event), fetch)
            assert (merged.puts, merged.undecided.tolist()) == ([], [0])


class Airport(tm.Entity):
    """Where flights leave."""

    airport: tm.Key[str]


class Flight(tm.Entity):
    """One of them."""

    flight: tm.Key[int]


DEPARTURES = pa.table(
    {
        "airport": ["JFK", "LGA", "JFK", "JFK"],
        "flight": [1, 2, 3, 1],
        "delay": ["late", None, "on time", "late"],
        "minutes": [30.0, 1.5, 0.0, 12.0],
        "at": pa.array([NOON - n * HOUR for n in (4, 3, 2, 1)], pa.timestamp("us", "UTC")),
    }
)


class Departure(tm.Source, history=tm.frame(DEPARTURES), time="at"):
    """When flights left."""

    airport: tm.Col[str]
    flight: tm.Col[int]
    delay: tm.Col[str | None]
    minutes: tm.Col[float]
    at: tm.Col[datetime]


class AtAirport(tm.FeatureView, entity=Airport, source=Departure):
    """How late flights of an airport are."""

    delayed = tm.sum(Departure.minutes, over="1d")
    words = tm.last_n(Departure.delay, n=2, over="1d")


class OfFlight(tm.FeatureView, entity=Flight, source=Departure):
    """How late a flight is."""

    left = tm.count(over="1d")
    word = tm.last(Departure.delay, over="1d")


NAMES = ["at_airport:delayed", "at_airport:words", "of_flight:left", "of_flight:word"]


def test_a_row_that_many_keys_share_gives_each_its_values():
    """Two entities of which one repeats, and some that are not known."""
    asked = [
        {"airport": airport, "flight": flight}
        for airport, flight in [("JFK", 1), ("JFK", 2), ("LGA", 3), ("JFK", 1), ("?", 1), ("?", 9)]
    ]
    with tm.connect(":memory:") as store:
        store.apply(store.plan([AtAirport, OfFlight]))
        store.materialize(until=NOON)
        many = store.online_many(NAMES, asked, at=NOON)
        ones = [store.online(NAMES, keys, at=NOON) for keys in asked]
        one_entity = store.online_many(
            NAMES[:2], [{"airport": each["airport"]} for each in asked], at=NOON
        )
    assert many.to_dicts() == [dict(one) for one in ones]
    assert many.to_dicts()[0] == {
        "delayed": 42.0,
        "words": ["late", "on time"],
        "left": 2,
        "word": "late",
    }
    for name in ("delayed", "words", "left", "word"):
        assert many.statuses(name) == [one.status(name) for one in ones]
        assert many.ages(name) == [one.age(name) for one in ones]
    assert one_entity.values("delayed") == many.values("delayed")


def test_now_is_never_before_what_was_written():
    """A clock that lags behind the writer's does not hide what it wrote."""
    ahead = datetime.now(UTC) + timedelta(hours=2)
    online = MemoryStore()
    run(online, bought("u1", ahead), until=ahead)
    vector = reader(online).online({"user_id": "u1"})
    assert vector["purchases_1h"] == 1
    assert vector.at == ahead
    behind = MemoryStore()
    run(behind, bought("u1", NOON))
    before = time.time_ns()
    assert reader(behind).online({"user_id": "u1"}).at.timestamp() * 1e9 >= before - 1_000


def test_a_plan_says_what_grows_with_a_large_entity(monkeypatch):
    """Of a view whose largest entity is known to have many events, and only of such."""
    monkeypatch.setattr(coverage, "LARGE", 30)

    class Growing(tm.FeatureView, entity=User, source=Purchase, name="habits"):
        visits = tm.count()

    class Grown(tm.FeatureView, entity=User, source=Purchase, name="habits"):
        visits = tm.count()
        merchants = tm.count_distinct(Purchase.merchant)
        typical = tm.quantile(Purchase.amount, 0.5, over="7d")
        recent = tm.quantile(Purchase.amount, 0.5, rows=10)
        about = tm.approx_count_distinct(Purchase.merchant)

    with tm.connect(":memory:") as store:
        store.apply(store.plan([Growing]))
        store.materialize()
        rows = [bought("u1", NOON - n * HOUR, order_id=f"o{n}") for n in range(30)]
        store.push("purchase", [{**row, "seen": row["at"]} for row in rows])
        assert store.plan([Grown]).backfill[0].growing == ()
        store.materialize()
        (found,) = store.plan([Grown]).backfill
    assert found.largest == 30
    assert found.growing == (
        ("habits:merchants@1", "approx_count_distinct"),
        ("habits:typical@1", "approx_quantile"),
    )
