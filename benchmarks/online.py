"""Reading vectors: 50 windowed features of 5 views, for 1 entity and for 100, and writing rows.

From LMDB, or with `--redis` from a `redis-server` that is started for it.  Each figure stands
beside a floor: fetching the same rows and nothing else, and a PING.  Rounds of all alternate.
`CPU` is what the call itself takes; `p50` and `p99` are on the clock, with whatever else the
machine does.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks import harness

import tidemark as tm
from tidemark.define import lower
from tidemark.model.fingerprint import state_id
from tidemark.model.graph import Definitions, FeatureService, Output, Reference
from tidemark.online.states.keys import generation_prefix, key_encoder
from tidemark.online.stores.protocol import OnlineStore, open_store

ENTITIES, EVENTS_EACH, VIEWS = 5_000, 30, 5
MATERIALIZED, EVENTS_OF_MATERIALIZED = 300_000, 5
AT = datetime(2026, 1, 31, tzinfo=UTC)


class User(tm.Entity):
    """Somebody with events."""

    user_id: tm.Key[int]


def view(number: int, events: Path) -> type[tm.FeatureView]:
    """Ten windowed features over one file."""

    class Event(tm.Source, name=f"event_{number}", history=tm.parquet(str(events)), time="at"):
        user_id: tm.Col[int]
        amount: tm.Col[float]
        size: tm.Col[int]
        settled: tm.Col[bool]
        at: tm.Col[datetime]

    class View(tm.FeatureView, name=f"view_{number}", entity=User, source=Event):
        events = tm.count(over=("1h", "1d", "7d"))
        amount = tm.sum(Event.amount, over=("1h", "1d", "7d"))
        settled = tm.count(where=Event.settled, over="7d")
        largest = tm.max(Event.amount, over="30d")
        typical = tm.mean(Event.amount, over="7d")
        newest = tm.last(Event.size, over="30d")

    return View


def write(path: Path, seed: int, entities: int = ENTITIES, each: int = EVENTS_EACH) -> None:
    """Events of a month, of all entities."""
    random = np.random.default_rng(seed)
    n = entities * each
    month = 30 * 86_400 * 1_000_000
    at = int(AT.timestamp()) * 1_000_000 - random.integers(0, month, n)
    columns = {
        "user_id": random.integers(0, entities, n),
        "amount": random.lognormal(3, 1, n),
        "size": random.integers(0, 100, n),
        "settled": random.random(n) < 0.8,
        "at": pa.array(at, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), path)


def measure(calls: int, work: Callable[[int], object]) -> tuple[float, list[float]]:
    """CPU microseconds of one call, and clock microseconds of each."""
    clock: list[float] = []
    began = time.thread_time_ns()
    for i in range(calls):
        start = time.perf_counter_ns()
        work(i)
        clock.append((time.perf_counter_ns() - start) / 1e3)
    return (time.thread_time_ns() - began) / calls / 1e3, clock


def report(jobs: dict[str, tuple[int, Callable[[int], object]]], rounds: int) -> None:
    """Print one line for each job."""
    results: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in jobs}
    for _, work in jobs.values():
        measure(20, work)
    for _ in range(rounds):
        for name, (calls, work) in jobs.items():
            results[name].append(measure(calls, work))
    print(f"{'':34}{'p50 us':>9}{'p99 us':>9}{'CPU us':>9}")
    for name, of_one in results.items():
        clock = sorted(value for _, values in of_one for value in values)
        cpu = median(value for value, _ in of_one)
        print(f"{name:34}{median(clock):9.1f}{clock[len(clock) * 99 // 100]:9.1f}{cpu:9.1f}")


def row_keys(definitions: Definitions) -> list[list[bytes]]:
    """For each view, the keys of the rows of all entities after the first materialization."""
    entities = key_encoder(definitions.entity("user"))([range(ENTITIES)])
    found: list[list[bytes]] = []
    for each in definitions.views:
        prefix = generation_prefix("bench", each.name, state_of(definitions, each.name), 1)
        found.append([prefix + entity for entity in entities])
    return found


def read(folder: Path, url: str, rounds: int) -> None:
    """Write history, materialize, and read."""
    for number in range(VIEWS):
        write(folder / f"{number}.parquet", number)
    views = [view(number, folder / f"{number}.parquet") for number in range(VIEWS)]
    definitions = lower(views).definitions
    features = [(each, feature) for each in definitions.views for feature in each.features]
    outputs = tuple(
        Output(f"{each.name}_{feature.name}", Reference("feature", feature.name, each.name))
        for each, feature in features
    )
    service = FeatureService(name="everything", outputs=outputs)
    rows = row_keys(definitions)
    hundreds = [
        [(i * 100 + n) * 7919 % ENTITIES for n in range(100)] for i in range(ENTITIES // 100)
    ]
    keys = [[{"user_id": user} for user in users] for users in hundreds]
    with tm.connect(folder) as store, opened(url, folder) as online:
        store.apply(store.plan([*views, service]))
        store.materialize(until=AT)
        jobs: dict[str, tuple[int, Callable[[int], object]]] = {
            f"1 x {len(outputs)}": (
                1_000,
                lambda i: store.online("everything", {"user_id": i % ENTITIES}, at=AT),
            ),
            "  floor: the rows alone": (
                1_000,
                lambda i: online.get_many([of_view[i % ENTITIES] for of_view in rows]),
            ),
            f"100 x {len(outputs)}": (
                50,
                lambda i: store.online_many("everything", keys[i % len(keys)], at=AT),
            ),
            "  floor: the rows alone ": (
                50,
                lambda i: online.get_many(
                    [of_view[user] for of_view in rows for user in hundreds[i % len(keys)]]
                ),
            ),
        }
        if url.startswith("redis:"):
            import redis

            client = redis.Redis.from_url(url, protocol=2)
            jobs["  floor: PING"] = (1_000, lambda _: client.ping())
        report(jobs, rounds)


def materialize(folder: Path, url: str, rounds: int) -> None:
    """Write the rows of many entities from their history, and the same rows without it."""
    write(folder / "many.parquet", VIEWS, MATERIALIZED, EVENTS_OF_MATERIALIZED)
    many = view(VIEWS, folder / "many.parquet")
    definitions = lower([many]).definitions
    with tm.connect(folder) as store, opened(url, folder) as online:
        store.apply(store.plan([many]))
        for number in range(1, rounds + 1):
            done = store.materialize(["view_5"], until=AT).views[0]
            rate = f"{done.rows_per_second:11,.0f} rows/s"
            print(f"materialize {done.entities:,} entities {rate:>20}", flush=True)
            prefix = generation_prefix("bench", "view_5", state_of(definitions, "view_5"), number)
            encode = key_encoder(definitions.entity("user"))
            keys = [prefix + key for key in encode([range(MATERIALIZED)])]
            found = [
                (key, row)
                for start in range(0, len(keys), 50_000)
                for key, row in zip(
                    keys[start : start + 50_000],
                    online.get_many(keys[start : start + 50_000]),
                    strict=True,
                )
                if row is not None
            ]
            started = time.perf_counter()
            for start in range(0, len(found), 50_000):
                online.put_many(found[start : start + 50_000])
            rate = f"{len(found) / (time.perf_counter() - started):11,.0f} rows/s"
            size = sum(len(row) for _, row in found) // len(found)
            print(f"  floor: the rows alone, {size} bytes {rate:>20}", flush=True)


def state_of(definitions: Definitions, name: str) -> str:
    """What names the rows of a view."""
    (only,) = definitions.variants(name)
    return state_id(only, definitions.source(only.source))


@contextmanager
def opened(url: str, folder: Path) -> Iterator[OnlineStore]:
    """The store itself, for the floors."""
    online = open_store(url, folder)
    try:
        yield online
    finally:
        online.close()


@contextmanager
def own_redis(folder: Path) -> Iterator[str]:
    """The address of a Redis that keeps nothing on disk."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--save", "", "--appendonly", "no", "--dir", str(folder), "--bind", "127.0.0.1"]
    with subprocess.Popen(
        ["redis-server", "--port", str(port), *options], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert any("Ready to accept connections" in line for line in server.stdout)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()


def run(folder: Path, url: str, rounds: int) -> None:
    """Everything that is measured, in a project of its own."""
    (folder / "tidemark.toml").write_text(f'name = "bench"\nonline = "{url}"\n')
    read(folder, url, rounds)
    materialize(folder, url, rounds)


if __name__ == "__main__":
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--redis", action="store_true", help="measure Redis, not LMDB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.redis:
            with own_redis(Path(temporary)) as address:
                run(Path(temporary), address, options.rounds)
        else:
            run(Path(temporary), "lmdb://online", options.rounds)
