"""Pushes into states of several sizes: what an event costs where its entity has many already.

python -m benchmarks.states [--redis] [--size 900] [--view spend] [--batch 100] [--profile]

A line for each size of state (events an entity has before) and each view: `spend` has what adds up,
`reach` what is approximate.  For each batch: microseconds of processor time an event, of the whole
push, and bytes that the online store is handed an event.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.online import own_redis
from benchmarks.push import SHOPS, bodies

import tidemark as tm

ENTITIES = {10: 10_000, 100: 10_000, 900: 1_500, 3_000: 300, 100_000: 20}
"""The events that each entity has, and the entities."""

PUSHES = {1: 300, 100: 20, 10_000: 3}
"""Events in a push, and how many pushes are measured."""

MONTH = 30 * 86_400 * 1_000_000


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


def views(history: Path) -> dict[str, tuple[type[tm.Source], type[tm.FeatureView]]]:
    """The source, and a view of each kind."""

    class Purchase(tm.Source, history=tm.parquet(str(history)), time="at", unique=("order_id",)):
        order_id: tm.Col[str]
        user_id: tm.Col[str]
        shop: tm.Col[str]
        amount: tm.Col[float]
        status: tm.Col[str]
        at: tm.Col[datetime]

    class Spend(tm.FeatureView, entity=User, source=Purchase):
        settled = Purchase.status == "settled"

        purchases = tm.count(where=settled, over="7d")
        spend = tm.sum(Purchase.amount, where=settled, over="30d")
        last_shop = tm.last(Purchase.shop)

    class Reach(tm.FeatureView, entity=User, source=Purchase):
        shops = tm.approx_count_distinct(Purchase.shop, over="30d")
        typical = tm.approx_quantile(Purchase.amount, 0.5, over="30d")

    return {"spend": (Purchase, Spend), "reach": (Purchase, Reach)}


def write(path: Path, entities: int, each: int) -> None:
    """Events of a month, as many of each entity."""
    chance = np.random.default_rng(0)
    n = entities * each
    now = int(datetime.now(UTC).timestamp()) * 1_000_000
    columns = {
        "order_id": [f"h{number}" for number in range(n)],
        "user_id": pa.DictionaryArray.from_arrays(
            pa.array(np.arange(n) % entities), pa.array([f"u{i}" for i in range(entities)])
        ).cast(pa.string()),
        "shop": pa.DictionaryArray.from_arrays(
            pa.array(chance.integers(0, SHOPS, n)), pa.array([f"s{i}" for i in range(SHOPS)])
        ).cast(pa.string()),
        "amount": chance.uniform(1, 100, n).round(2),
        "status": pa.DictionaryArray.from_arrays(
            pa.array(chance.integers(0, 2, n)), pa.array(["settled", "open"])
        ).cast(pa.string()),
        "at": pa.array(now - 60_000_000 - chance.integers(0, MONTH, n), pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), path)


class Cost(NamedTuple):
    """What an event costs: microseconds of processor and clock, and bytes for the online store."""

    processor: float
    wall: float
    written: float


def measure(store: tm.Store, source: type[tm.Source], size: int, entities: int) -> Cost:
    """Push some batches of a size, after one that does not count."""
    online: Any = store._online  # noqa: SLF001
    first, *todo = bodies(PUSHES[size] + 1, size, random.Random(size), users=entities)
    store.push(source, first)
    written, put_many = 0, online.put_many

    def counted(items: Any, **others: Any) -> None:
        nonlocal written
        pairs = list(items)
        written += sum(len(key) + len(value) for key, value in pairs)
        put_many(pairs, **others)

    online.put_many = counted
    worked, began = time.process_time(), time.perf_counter()
    for body in todo:
        store.push(source, body)
    processor, wall = time.process_time() - worked, time.perf_counter() - began
    online.put_many = put_many
    events = size * len(todo)
    return Cost(processor * 1e6 / events, wall * 1e6 / events, written / events)


def run(folder: Path, url: str, name: str, each: int, asked: argparse.Namespace) -> None:
    """Measure one view and one size of state, and print its line."""
    entities = ENTITIES.get(each) or max(1, 1_000_000 // each)
    (folder / "tidemark.toml").write_text(f'name = "states"\nonline = "{url}"\nthreads = 1\n')
    write(folder / "purchases.parquet", entities, each)
    source, view = views(folder / "purchases.parquet")[name]
    line = f"{name:6}{each:>9,}"
    with tm.connect(folder) as store:
        store.apply(store.plan([view]))
        store.materialize()
        for size in asked.batch or PUSHES:
            with cProfile.Profile() if asked.profile else nullcontext() as profile:
                cost = measure(store, source, size, entities)
            if profile is not None:
                pstats.Stats(profile).sort_stats("tottime").print_stats(asked.lines)
            line += f"{cost.processor:>11,.1f}{cost.wall:>10,.1f}{cost.written:>9,.0f}"
    print(line, flush=True)


def main() -> None:
    """Measure all that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="events of an entity")
    parser.add_argument("--view", choices=("spend", "reach"), action="append")
    parser.add_argument("--batch", type=int, choices=tuple(PUSHES), action="append")
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--redis", action="store_true", help="measure Redis, not LMDB")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    sizes = asked.batch or list(PUSHES)
    print(f"{'':15}" + "".join(f"{f'batches of {size:,}':>30}" for size in sizes))
    print(f"{'':15}" + f"{'us CPU':>11}{'us':>10}{'bytes':>9}" * len(sizes), flush=True)
    for name in asked.view or ("spend", "reach"):
        for each in asked.size or ENTITIES:
            with tempfile.TemporaryDirectory() as temporary:
                place = Path(temporary)
                with own_redis(place) if asked.redis else nullcontext("lmdb://online") as url:
                    run(place, url, name, each, asked)


if __name__ == "__main__":
    main()
