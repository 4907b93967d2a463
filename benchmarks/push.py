"""Events from JSON bytes to durable and visible: batches of several sizes, and one at a time.

python -m benchmarks.push [--redis] [--beside] [--batch 10000] [--events 100000] [--profile]

With `--redis` the state is in a `redis-server` that is started for it; with `--beside` the registry
holds 5,000 other features.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
from benchmarks.online import own_redis
from benchmarks.registry import registry

import tidemark as tm
from tidemark.define import lower
from tidemark.model.graph import Definitions

USERS, SHOPS = 20_000, 500
STEPS = [(10_000, 1), (100, 1), (1, 1), (1, 32)]
"""Events in a push, and the threads that push."""


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Shop(tm.Entity):
    """Where people buy."""

    shop: tm.Key[str]


class Purchase(tm.Source, time="at", unique=("order_id",)):
    """What was bought."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    shop: tm.Col[str]
    amount: tm.Col[float]
    status: tm.Col[str]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase):
    """Of a user."""

    settled = Purchase.status == "settled"
    purchases = tm.count(where=settled, over="7d")
    spend = tm.sum(Purchase.amount, where=settled, over="30d")
    last_shop = tm.last(Purchase.shop)


class Sales(tm.FeatureView, entity=Shop, source=Purchase):
    """Of a shop."""

    sales = tm.count(over="1h")
    revenue = tm.sum(Purchase.amount, over="1d")


def bodies(
    count: int, size: int, chance: random.Random, shops: int = SHOPS, users: int = USERS
) -> list[bytes]:
    """Batches of events as lines of JSON."""
    now = datetime.now(UTC)
    made: list[bytes] = []
    for _ in range(count):
        events = [
            {
                "order_id": f"o{chance.getrandbits(60)}",
                "user_id": f"u{chance.randrange(users)}",
                "shop": f"s{chance.randrange(shops)}",
                "amount": round(chance.uniform(1, 100), 2),
                "status": chance.choice(["settled", "open"]),
                "at": (now - timedelta(milliseconds=chance.randrange(60_000))).isoformat(),
            }
            for _ in range(size)
        ]
        made.append(b"\n".join(map(msgspec.json.encode, events)))
    return made


class Rates(NamedTuple):
    """Events a second: by the clock, as in the median push, and by the processor's time."""

    wall: float
    median: float
    processor: float


def measure(store: tm.Store, todo: list[bytes], batch: int, threads: int) -> Rates:
    """Push all bodies; one thread is this one, which a profile sees."""
    taken: list[float] = []

    def push(body: bytes) -> None:
        started = time.perf_counter()
        store.push(Purchase, body)
        taken.append(time.perf_counter() - started)

    began, worked = time.perf_counter(), time.process_time()
    if threads == 1:
        for body in todo:
            push(body)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(push, todo):
                pass
    pushed, seconds = batch * len(todo), time.perf_counter() - began
    processor = time.process_time() - worked
    return Rates(pushed / seconds, threads * batch / median(taken), pushed / processor)


def defined(*, beside: bool) -> Definitions:
    """What is measured, alone or beside 5,000 other features."""
    mine = lower(Spend, Sales).definitions
    if not beside:
        return mine
    others = registry()
    entities = {each.name: each for each in (*others.entities, *mine.entities)}
    return Definitions.of(
        [*entities.values(), *others.sources, *others.views, *mine.sources, *mine.views]
    )


def main() -> None:
    """Measure, and say where the time went if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--batch", type=int, action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--redis", action="store_true", help="measure Redis, not LMDB")
    parser.add_argument("--beside", action="store_true", help="5,000 other features as well")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    for batch, threads in [(each, asked.threads) for each in asked.batch] or STEPS:
        with (
            tempfile.TemporaryDirectory() as folder,
            own_redis(Path(folder)) if asked.redis else nullcontext("lmdb://online") as online,
        ):
            settings = f'name = "push"\nonline = "{online}"\nthreads = 1\n'
            (Path(folder) / "tidemark.toml").write_text(settings, "utf-8")
            with tm.connect(folder) as store:
                store.apply(store.plan(defined(beside=asked.beside)))
                store.materialize([Spend, Sales])
                chance = random.Random(batch)
                store.push(Purchase, bodies(1, batch, chance)[0])
                todo = bodies(
                    max(3, asked.events // batch if batch > 1 else 2_000 * threads), batch, chance
                )
                with cProfile.Profile() if asked.profile else nullcontext() as profile:
                    rates = measure(store, todo, batch, threads)
                if profile is not None:
                    pstats.Stats(profile).sort_stats("tottime").print_stats(asked.lines)
        print(
            f"batches of {batch:>6,}, {threads:>2} threads: {rates.wall:>9,.0f} events/s, "
            f"median {rates.median:>9,.0f}, {rates.processor:>9,.0f} a second of processor"
        )


if __name__ == "__main__":
    main()
