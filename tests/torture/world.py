"""What is tortured: a project with two views of one source, and the events that are sent to it.

What an event says follows from its name and version, so whoever finds one knows what it must say.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import parquet

import tidemark as tm
from tidemark.errors import TidemarkError
from tidemark.online.trees import cutting

T = TypeVar("T")

SMALL = cutting.Sizes(split=16, chunk=4, fanout=4)
"""The trees of the runs: a few dozen events of an entity make one of several levels."""

KEPT_ROWS = 32
"""The newest events that a compaction of the runs leaves in batches."""

LEASE = 5.0
"""Seconds after which a lock in Redis is free whose holder was killed."""

PATIENCE = 300.0
"""Seconds within which whatever was killed is made up for."""

USERS = ["ada", "bob", "cyd", "dan", "eve"]
SHOPS = [1, 2]
SPENT_ON = ["food", "books", "music", "games", None]

DEFINITIONS = '''
from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    """Who buys."""

    user_id: tm.Key[str]


class Shop(tm.Entity):
    """Where."""

    shop: tm.Key[int]


class Order(
    tm.Source, history=tm.parquet("orders.parquet"), time="at", unique="order", stream={stream}
):
    """Orders, of which later versions correct earlier ones."""

    order: tm.Col[str]
    version: tm.Col[int]
    user_id: tm.Col[str]
    shop: tm.Col[int]
    amount: tm.Col[float]
    kind: tm.Col[str | None]
    at: tm.Col[datetime]


class OfUser(tm.FeatureView, entity=User, source=Order):
    """What a user buys."""

    orders = tm.count()
    total = tm.sum(Order.amount)
    recent = tm.count(over="1h")
    spent = tm.sum(Order.amount, over="30d")
    mean = tm.mean(Order.amount, over="1h")
    last = tm.last(Order.kind, over="30d")
    kinds = tm.count_distinct(Order.kind, over="1h")
    newest = tm.latest(Order.order)


class OfShop(tm.FeatureView, entity=Shop, source=Order):
    """What a shop sells."""

    orders = tm.count()
    total = tm.sum(Order.amount)
    twice = tm.sum(Order.amount * 2.0, where=Order.kind == "food", over="30d")
    buyers = tm.count_distinct(Order.user_id, over="1h")
    mean = tm.mean(Order.amount, over="30d")
    last = tm.last(Order.kind)
'''

VIEWS: Sequence[tuple[str, str, Sequence[object]]] = (
    ("of_user", "user_id", [*USERS, "nobody"]),
    ("of_shop", "shop", [*SHOPS, 3]),
)
SCHEMA = pa.schema(
    {
        "order": pa.string(),
        "version": pa.int64(),
        "user_id": pa.string(),
        "shop": pa.int64(),
        "amount": pa.float64(),
        "kind": pa.string(),
        "at": pa.timestamp("us", "UTC"),
    }
)
CORRECTED, REPEATED = 60, 20
"""Events of the history: those that are corrected later, and those that are delivered again."""

Name = tuple[str, int]
"""An event: its order and the version."""


def content(name: Name, base: datetime) -> dict[str, Any]:
    """What an event says."""
    order, version = name
    chance = random.Random(f"{order}/{version}")
    ago = chance.choice(
        [
            timedelta(microseconds=chance.randrange(5_000_000)),
            timedelta(seconds=chance.randrange(-2, 8_000)),  # around the window of an hour
            timedelta(hours=1),
            timedelta(days=30, microseconds=chance.choice([-1, 0, 1])),
            timedelta(days=chance.randrange(60)),
        ]
    )
    return {
        "order": order,
        "version": version,
        "user_id": chance.choice([*USERS, USERS[0], USERS[0]]),
        "shop": chance.choice(SHOPS),
        "amount": chance.choice([0.1, 0.2, 12.5, 1e17, -1e17, chance.random()]),
        "kind": chance.choice(SPENT_ON),
        "at": base - ago,
    }


def as_json(names: Iterable[Name], base: datetime) -> list[bytes]:
    """Events as a stream brings them."""
    rows = [content(name, base) for name in names]
    return [json.dumps({**row, "at": row["at"].isoformat()}).encode() for row in rows]


def history() -> list[Name]:
    """What was known before the runs begin."""
    return [(f"c{n}", 0) for n in range(CORRECTED)] + [(f"r{n}", 0) for n in range(REPEATED)]


class Sending:
    """The events that one producer sends: new ones, late ones, repeated and corrected ones.

    A version is repeated only while it is the newest: else it would rightly be one version more.
    """

    def __init__(self, producer: str, number: int) -> None:
        self._name = producer
        self._chance = random.Random(producer)
        self._made = 0
        # Every producer corrects events of the history that no other one does.
        self._sent: dict[str, int] = {f"c{number}": 0} if number < CORRECTED else {}

    def batch(self, most: int, *, several: bool) -> list[Name]:
        """The next events, with `several` versions of one among them or not."""
        corrected: set[str] = set()
        names: list[Name] = []
        for _ in range(self._chance.randint(1, most)):
            names.append(self._one(corrected))
            if not several:
                corrected.add(names[-1][0])
        return names

    def _one(self, corrected: set[str]) -> Name:
        drawn = self._chance.random()
        if drawn < 0.1:
            return f"r{self._chance.randrange(REPEATED)}", 0
        if drawn < 0.3 and self._sent:
            order = self._chance.choice(list(self._sent))
            if drawn > 0.2 and order not in corrected:
                self._sent[order] += 1
            return order, self._sent[order]
        order = f"{self._name}-{self._made}"
        self._made += 1
        self._sent[order] = 0
        return order, 0


def as_runs_need_it() -> None:
    """Make trees, files of the log and leases small and short, in this process."""
    from tidemark.engines.log import EventLog
    from tidemark.online.stores.redis import RedisStore

    cutting.SIZES = SMALL
    EventLog.compact.__kwdefaults__ = {"keep_rows": KEPT_ROWS}
    RedisStore.__init__.__kwdefaults__ = {"lease": LEASE}


def make_project(folder: Path, online: str, stream: str, base: datetime, kafka: str = "") -> Path:
    """A project with history, applied and materialized."""
    told = pa.Table.from_pylist([content(name, base) for name in history()], SCHEMA)
    parquet.write_table(told, folder / "orders.parquet")
    (folder / "features.py").write_text(DEFINITIONS.replace("{stream}", stream), "utf-8")
    settings = ['name = "torture"', 'definitions = "features.py"', f'online = "{online}"']
    if kafka:
        # Not less: a member that joins again before a second is over waits for ever in the mock.
        options = {"bootstrap.servers": kafka, "session.timeout.ms": 2000}
        options |= {"heartbeat.interval.ms": 200, "reconnect.backoff.max.ms": 100}
        # One that waits for ever there all the same asks again after this and three seconds.
        options |= {"max.poll.interval.ms": 10_000}
        pairs = ", ".join(f'"{key}" = {json.dumps(value)}' for key, value in options.items())
        settings.append(f"kafka = {{ {pairs} }}")
    (folder / "tidemark.toml").write_text("\n".join(settings), "utf-8")
    with tm.connect(folder) as store:
        store.apply(store.plan())
        store.materialize()
    return folder


def patiently(
    action: Callable[[], T],
    *,
    within: float = PATIENCE,
    told: Callable[[TidemarkError], object] = str,
) -> T:
    """Do it again while what is in the way passes: the lock of a process that was killed, say."""
    deadline = time.monotonic() + within
    while True:
        try:
            return action()
        except TidemarkError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
            told(error)
            time.sleep(0.03)


def now() -> datetime:
    return datetime.now(UTC)
