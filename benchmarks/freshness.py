"""From push to visible, at a fixed rate of events and under reads at the same time.

python -m benchmarks.freshness [--redis] [--rate 20000] [--batch 1000] [--seconds 20] [--reads 500]

One process pushes batches when they are due; a second one asks for a marker that ends each batch
until it is counted; a third reads vectors at a fixed rate.  Both clocks are open loops: they start
when an event, or a read, was due, so whoever is late is slow.  An event is due within the time
that its batch gathers.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import msgspec
from benchmarks.online import own_redis
from benchmarks.push import SHOPS, USERS, Purchase, Sales, Spend, bodies

import tidemark as tm

FEATURES = ["spend:purchases", "spend:spend", "spend:last_shop", "sales:sales", "sales:revenue"]
MARKER = {"user_id": "marker", "shop": "marker"}
PUSHING = 4
"""Threads that push: the next batch does not wait for the disk of the one before it."""


def marked(body: bytes, number: int) -> bytes:
    """A batch whose last event is one of the marker."""
    last = msgspec.json.decode(body.rpartition(b"\n")[2])
    event = {**last, **MARKER, "order_id": f"marker{number}", "status": "settled"}
    return body.rpartition(b"\n")[0] + b"\n" + msgspec.json.encode(event)


def visible(folder: Path, count: int, until: float) -> list[float]:
    """The moments at which reads count each marker, as far as they do."""
    seen: list[float] = []
    with tm.connect(folder) as store:
        while len(seen) < count and time.monotonic() < until:
            vector = store.online(["spend:purchases", "sales:sales"], MARKER)
            there = min(vector["purchases"], vector["sales"])
            seen += [time.monotonic()] * (there - len(seen))
            time.sleep(0.001)
    return seen


def read(folder: Path, rate: int, began: float, until: float) -> list[float]:
    """Microseconds of reads from when they were due."""
    chance, taken = random.Random(2), list[float]()
    with tm.connect(folder) as store:
        store.online(FEATURES, {"user_id": "u0", "shop": "s0"})  # loads the kernel
        due = max(began, time.monotonic())
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            keys = {
                "user_id": f"u{chance.randrange(USERS)}",
                "shop": f"s{chance.randrange(SHOPS)}",
            }
            store.online(FEATURES, keys)
            taken.append((time.monotonic() - due) * 1e6)
            due += 1 / rate
    return taken


def push(store: tm.Store, todo: list[bytes], began: float, every: float) -> None:
    """Push each batch when its last event is due."""

    def one(number: int) -> None:
        store.push(Purchase, todo[number])

    with ThreadPoolExecutor(PUSHING) as pool:
        futures = []
        for number in range(len(todo)):
            time.sleep(max(0.0, began + (number + 1) * every - time.monotonic()))
            futures.append(pool.submit(one, number))
        for future in futures:
            future.result()


def helper(role: str, folder: str, *numbers: float) -> subprocess.Popen[str]:
    """A process that watches or reads, and prints what it found."""
    command = [sys.executable, "-m", "benchmarks.freshness", "--run", role, folder]
    return subprocess.Popen([*command, *map(str, numbers)], stdout=subprocess.PIPE, text=True)


def at(values: list[float], share: float) -> float:
    """A quantile."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def run(folder: Path, url: str, asked: argparse.Namespace) -> None:
    """Push, watch and read, and print one line for each."""
    every, count = asked.batch / asked.rate, int(asked.seconds * asked.rate / asked.batch)
    (folder / "tidemark.toml").write_text(f'name = "fresh"\nonline = "{url}"\nthreads = 1\n')
    with tm.connect(folder) as store:
        store.apply(store.plan([Spend, Sales]))
        store.materialize()
        chance = random.Random(1)
        store.push(Purchase, bodies(1, asked.batch, chance, asked.shops)[0])
        made = bodies(count, asked.batch, chance, asked.shops)
        todo = [marked(body, number) for number, body in enumerate(made)]
        gc.collect()
        gc.freeze()  # as `tidemark serve` does once it is up
        began = time.monotonic() + asked.wait  # the others load the kernel until then
        until = began + count * every
        watching = helper("watch", str(folder), count, until + 30)
        reading = helper("read", str(folder), asked.reads, began, until)
        push(store, todo, began, every)
        gc.unfreeze()
    seen, taken = (json.loads(each.communicate()[0]) for each in (watching, reading))
    delays = [
        (moment - began - number * every - place / asked.rate) * 1e3
        for number, moment in enumerate(seen)
        for place in range(1, asked.batch + 1)
    ]
    print(f"{'':44}{'p50':>10}{'p99':>10}{'most':>10}")
    name = f"push to visible, ms; {len(seen):,} of {count:,} batches"
    print(f"{name:44}{at(delays, 0.5):10.1f}{at(delays, 0.99):10.1f}{max(delays):10.1f}")
    name = f"reads, us; {len(taken):,}"
    print(f"{name:44}{at(taken, 0.5):10.0f}{at(taken, 0.99):10.0f}{max(taken):10.0f}")


def main() -> None:
    """Measure, or do what one of its processes does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", action="store_true", help="measure Redis, not LMDB")
    parser.add_argument("--rate", type=int, default=20_000, help="events a second")
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--reads", type=int, default=500, help="reads a second")
    parser.add_argument("--shops", type=int, default=20_000, help="as many as there are users")
    parser.add_argument("--wait", type=float, default=8, help="seconds for others to start")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        role, folder, *numbers = asked.run
        first, *rest = map(float, numbers)
        work = visible if role == "watch" else read
        print(json.dumps(work(Path(folder), int(first), *rest)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with own_redis(place) if asked.redis else nullcontext("lmdb://online") as url:
            run(place, url, asked)


if __name__ == "__main__":
    main()
