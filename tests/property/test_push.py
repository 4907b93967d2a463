"""State that follows the log is the state that history and log give: byte for byte, always."""

from __future__ import annotations

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.property.pushing import SCHEMA, everything_equal, make_project, moment, views

import tidemark as tm
from tidemark.errors import StoreUnavailable
from tidemark.online.trees import cutting

USERS = ["ada", "bob", "cyd", None]
SHOPS = [1, 2, None]
AMOUNTS = [None, 0.1, 0.2, 1.0, 1e17, -1e17, math.nan, math.inf]
STATUSES = ["paid", "open", None]


def an_event(chance: random.Random, order: str | None) -> dict[str, Any]:
    """Any event: late ones, tied ones, of the last minute before noon or of just now."""
    minutes = chance.choice([0, 1, 60, 60 + 1e-6 / 60, 600, chance.randrange(3_000)])
    at = moment(minutes)
    if chance.random() < 0.3:
        at = datetime.now(UTC) + timedelta(seconds=chance.randrange(-3_600, 60))
    return {
        "order": order,
        "user_id": chance.choice(USERS),
        "shop": chance.choice(SHOPS),
        "amount": chance.choice(AMOUNTS),
        "status": chance.choice(STATUSES),
        "at": at,
    }


def the_events(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Events of which some are delivered again, some corrected, and some have no identity."""
    events: list[dict[str, Any]] = []
    for number in range(count):
        kind = chance.random()
        if events and kind < 0.15:
            events.append(dict(chance.choice(events)))
        elif events and kind < 0.3:
            before = chance.choice(events)
            events.append(an_event(chance, before["order"]))
        else:
            events.append(an_event(chance, None if kind < 0.35 else f"o{number}"))
    return events


class World:
    """A project on disk with some events in its history, and others that are to be pushed."""

    def __init__(self, folder: Path, seed: int, online: str, *, most: int = 80) -> None:
        self.chance = random.Random(seed)
        events = the_events(self.chance, self.chance.randrange(1, most))
        told = events[: self.chance.randrange(len(events))]
        told = [each for each in told if each["at"] <= moment(0)]
        parquet.write_table(pa.Table.from_pylist(told, SCHEMA), folder / "orders.parquet")
        self.folder = make_project(folder, online)
        self.unique = self.chance.random() < 0.7
        # What history holds may be delivered live as well, where its identity tells.
        self.left = [*events[len(told) :], *(told if self.unique else [])]
        self.chance.shuffle(self.left)

    def open(self) -> tm.Store:
        """The project, with its definitions applied."""
        store = tm.connect(self.folder)
        store.apply(store.plan(views("orders.parquet", unique=self.unique)))
        return store

    def batch(self) -> list[dict[str, Any]]:
        """The next events, sometimes with some that came before."""
        size = self.chance.choice([1, 1, 2, 5, 30])
        batch, self.left = self.left[:size], self.left[size:]
        if self.unique and self.chance.random() < 0.2:
            self.left += self.chance.sample(batch, self.chance.randrange(len(batch) + 1))
        return batch


def play(world: World, crash: pytest.MonkeyPatch) -> None:
    """Push everything, with materializations, restarts and crashes in between."""
    store = world.open()
    try:
        store.materialize()
        while world.left:
            chance = world.chance.random()
            if chance < 0.1:
                store.materialize()
            elif chance < 0.2:
                store.close()
                store = world.open()
            elif chance < 0.4:
                with crash.context() as crashing:
                    crashing.setattr(store._online, "put_many", _dies)
                    with pytest.raises(StoreUnavailable, match="in the log"):
                        store.push("order", [*world.batch(), an_event(world.chance, None)])
                if world.chance.random() < 0.5:
                    store.events.catch_up()
            else:
                store.push("order", world.batch())
        store.events.catch_up()
        everything_equal(store)
    finally:
        store.close()


def _dies(*_: object, **__: object) -> None:
    raise StoreUnavailable("The plug was pulled.")


@pytest.mark.parametrize("seed", range(6))
def test_on_lmdb(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any interleaving, delay, duplication, correction, restart and crash before the state."""
    play(World(tmp_path, seed, "lmdb://.tidemark/online"), monkeypatch)


@pytest.mark.parametrize("seed", range(50, 54))
def test_large_entities(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that become trees on the way, as all sizes are small."""
    monkeypatch.setattr(cutting, "SIZES", cutting.Sizes(split=8, chunk=4, fanout=2))
    play(World(tmp_path, seed, "lmdb://.tidemark/online"), monkeypatch)


def test_materializing_while_others_push(tmp_path: Path) -> None:
    """Nothing is lost between generations, and nothing is in one twice."""
    world = World(tmp_path, 7, "lmdb://.tidemark/online")
    stop = threading.Event()
    pushed: list[int] = []

    def keep_pushing(name: str) -> None:
        chance = random.Random(name)
        number = 0
        with tm.connect(tmp_path) as store:
            while not stop.is_set():
                event = an_event(chance, f"{name}-{number}") | {"user_id": "eve"}
                event["at"] = min(event["at"], datetime.now(UTC))  # so that it counts by now
                pushed.append(store.push("order", event).accepted)
                number += 1
                found = store.online(["of_user:orders"], {"user_id": "eve"})["orders"]
                assert found >= number

    with world.open() as store, ThreadPoolExecutor(2) as pool:
        store.materialize()
        pushing = [pool.submit(keep_pushing, name) for name in ("a", "b")]
        for _ in range(4):
            store.materialize()
        stop.set()
        for each in pushing:
            each.result()
        counted = store.online(["of_user:orders"], {"user_id": "eve"}, at=moment(-(10**7)))
        assert counted["orders"] == sum(pushed)
        everything_equal(store)


@pytest.mark.parametrize("seed", range(100, 103))
def test_on_redis(
    seed: int, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, from the same log."""
    play(World(tmp_path, seed, redis_url, most=30), monkeypatch)
