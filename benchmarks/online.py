"""Reading vectors: 50 windowed features of 5 views, for 1 entity and for 100, from LMDB.

Each figure stands beside a floor: fetching the same rows from LMDB and nothing else.  Rounds of
both alternate.  `CPU` is what the call itself takes; `p50` and `p99` are on the clock, with
whatever else the machine does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
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
from tidemark.online.keys import generation_prefix, key_encoder
from tidemark.online.lmdb import LmdbStore

ENTITIES, EVENTS_EACH, VIEWS = 5_000, 30, 5
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


def write(path: Path, seed: int) -> None:
    """Events of a month, of all entities."""
    random = np.random.default_rng(seed)
    n = ENTITIES * EVENTS_EACH
    month = 30 * 86_400 * 1_000_000
    at = int(AT.timestamp()) * 1_000_000 - random.integers(0, month, n)
    columns = {
        "user_id": random.integers(0, ENTITIES, n),
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
        state = state_id(each, definitions.source(each.source))
        prefix = generation_prefix("bench", each.name, state, 1)
        found.append([prefix + entity for entity in entities])
    return found


def run(folder: Path, rounds: int) -> None:
    """Write history, materialize, and read."""
    for number in range(VIEWS):
        write(folder / f"{number}.parquet", number)
    (folder / "tidemark.toml").write_text('name = "bench"\nonline = "lmdb://online"\n')
    views = [view(number, folder / f"{number}.parquet") for number in range(VIEWS)]
    definitions = lower(views).definitions
    features = [(each, feature) for each in definitions.views for feature in each.features]
    outputs = tuple(
        Output(f"{each.name}_{feature.name}", Reference("feature", feature.name, each.name))
        for each, feature in features
    )
    service = FeatureService(name="everything", outputs=outputs)
    with tm.connect(folder) as store:
        store.apply(store.plan([*views, service]))
        print(store.materialize(until=AT))
        rows = row_keys(definitions)
        lmdb = LmdbStore(folder / "online")
        hundreds = [
            [(i * 100 + n) * 7919 % ENTITIES for n in range(100)] for i in range(ENTITIES // 100)
        ]
        keys = [[{"user_id": user} for user in users] for users in hundreds]
        report(
            {
                f"1 x {len(outputs)}": (
                    1_000,
                    lambda i: store.online("everything", {"user_id": i % ENTITIES}, at=AT),
                ),
                "  floor: the rows alone": (
                    1_000,
                    lambda i: lmdb.get_many([of_view[i % ENTITIES] for of_view in rows]),
                ),
                f"100 x {len(outputs)}": (
                    50,
                    lambda i: store.online_many("everything", keys[i % len(keys)], at=AT),
                ),
                "  floor: the rows alone ": (
                    50,
                    lambda i: lmdb.get_many(
                        [of_view[user] for of_view in rows for user in hundreds[i % len(keys)]]
                    ),
                ),
            },
            rounds,
        )
        lmdb.close()


if __name__ == "__main__":
    options = harness.arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(Path(temporary), options.rounds)
