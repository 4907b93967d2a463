"""How a server waits for Redis: in threads, or in the event loop with `redis.asyncio`.

Tasks of one event loop, 16 and 64, fetch the rows of a vector (10 keys of 500 bytes, one `MGET`)
again and again, from a `redis-server` that is started for it.  Rounds of both ways alternate.
`CPU` is that of the process for one fetch.
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

import redis
import redis.asyncio
from benchmarks import harness
from benchmarks.online import own_redis

KEYS = [f"row:{n}" for n in range(10)]
THREADS = 16
Fetch = Callable[[], Awaitable[Any]]


async def rate(fetch: Fetch, tasks: int, seconds: float) -> tuple[float, float]:
    """Fetches a second, and microseconds of CPU of each."""
    until = time.perf_counter() + seconds
    done = 0

    async def ask() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await fetch()
            done += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask() for _ in range(tasks)))
    return done / (time.perf_counter() - began), (time.process_time() - cpu) / done * 1e6


async def run(url: str, rounds: int, seconds: float) -> None:
    """Both ways in turns."""
    blocking = redis.Redis.from_url(url, max_connections=THREADS)
    blocking.mset(dict.fromkeys(KEYS, b"x" * 500))
    loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(THREADS)
    waiting = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=64)
    client = redis.asyncio.Redis(connection_pool=waiting)
    ways: dict[str, Fetch] = {
        "threads": lambda: loop.run_in_executor(pool, blocking.mget, KEYS),
        "asyncio": lambda: client.mget(KEYS),
    }
    print(f"{'':12}{'tasks':>6}{'fetches/s':>12}{'CPU us':>9}")
    for tasks in (16, 64):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, fetch in ways.items():
                found[name].append(await rate(fetch, tasks, seconds))
        for name, each in found.items():
            rates, cpu = (median(column) for column in zip(*each, strict=True))
            print(f"{name:12}{tasks:>6}{rates:>12,.0f}{cpu:>9.0f}", flush=True)
    await client.aclose()
    pool.shutdown()


if __name__ == "__main__":
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, own_redis(Path(temporary)) as address:
        asyncio.run(run(address, options.rounds, options.seconds))
