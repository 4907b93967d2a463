"""How a server waits for Redis: in threads with the blocking client, or awaited in the event loop.

Tasks of one event loop, 16 and 64, fetch the rows of a vector (10 keys of 500 bytes) and those of a
hundred (500 keys) again and again, from a `redis-server` that is started for it: as large requests
are, by `get_many` of the store in threads, and as all others are, by that of its `waiting`.  Rounds
of both ways alternate.  `CPU` is that of the process for one fetch.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from benchmarks import harness
from benchmarks.online import own_redis

from tidemark.online.stores.redis import RedisStore

KEYS = [f"row:{n}".encode() for n in range(500)]
THREADS = 8
Fetch = Callable[[list[bytes]], Awaitable[Any]]


async def rate(fetch: Fetch, keys: list[bytes], tasks: int, seconds: float) -> tuple[float, float]:
    """Fetches a second, and microseconds of CPU of each."""
    until = time.perf_counter() + seconds
    done = 0

    async def ask() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await fetch(keys)
            done += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask() for _ in range(tasks)))
    return done / (time.perf_counter() - began), (time.process_time() - cpu) / done * 1e6


async def run(url: str, rounds: int, seconds: float) -> None:
    """Both ways in turns."""
    store, loop, pool = RedisStore(url), asyncio.get_running_loop(), ThreadPoolExecutor(THREADS)
    store.put_many((key, b"x" * 500) for key in KEYS)
    waiting = store.waiting()
    ways: dict[str, Fetch] = {
        "threads": lambda keys: loop.run_in_executor(pool, store.get_many, keys),
        "awaited": waiting.get_many,
    }
    print(f"{'':12}{'keys':>6}{'tasks':>6}{'fetches/s':>12}{'CPU us':>9}")
    for count, tasks in ((10, 16), (10, 64), (500, 16)):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, fetch in ways.items():
                found[name].append(await rate(fetch, KEYS[:count], tasks, seconds))
        for name, each in found.items():
            rates, cpu = (median(column) for column in zip(*each, strict=True))
            print(f"{name:12}{count:>6}{tasks:>6}{rates:>12,.0f}{cpu:>9.0f}", flush=True)
    await waiting.close()
    pool.shutdown()
    store.close()


if __name__ == "__main__":
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, own_redis(Path(temporary)) as address:
        uvloop.run(run(address, options.rounds, options.seconds))
