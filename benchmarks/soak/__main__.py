"""`python -m benchmarks.soak --minutes 30`: mixed load while parts fail, on LMDB and on Redis.

Two workers of `tidemark serve` on each store are asked for vectors, batches and nonsense.  Every
minute a worker is killed and a registry revision applied; Redis is killed and started twice.  Every
value of every answer is compared with the training set by `==`.  Ends with an error if anything was
wrong, unforeseen or silent, if a service did not come back, or if memory grows.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median

from benchmarks.soak.load import Load
from benchmarks.soak.target import Redis, Target, memory

SETTLING = 0.25
"""The share of the run after which memory is looked at: by then caches are filled."""

ALLOWED_GROWTH = 24.0
"""Megabytes that a worker may gain from then on, which is what allocators waver by."""

FORBIDDEN = ("wrong", "unforeseen", "silent")

LONG = 5
"""Minutes from which a slope means anything."""

UNEXCUSED = 0.001
"""The share of errors without a reason that a busy machine may cause."""

RECOVERY = 5.0
"""Seconds after which the service must answer again."""


@dataclass
class Run:
    """A target under load, and what was seen of it."""

    target: Target
    load: Load
    threads: list[threading.Thread]
    witness: int
    killed: int = 0
    ended: float = 0.0
    whole: float = 0.0
    alone: float = 0.0
    delays: list[float] = field(default_factory=list[float])
    sizes: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def look(self, now: float) -> None:
        """Note the memory of the oldest worker, and for how long it was alone."""
        size = memory(self.witness)
        if size is not None:
            self.sizes.append((now, size))
        if len(self.target.workers()) > 1:
            self.whole = now
        self.alone = max(self.alone, now - self.whole)

    def problems(self) -> list[str]:
        """What must not have been."""
        outcomes = self.load.outcomes
        found = [f"{outcomes[kind]} requests were {kind}" for kind in FORBIDDEN if outcomes[kind]]
        unexcused = sum(outcomes[kind] for kind in outcomes if kind.startswith("unexcused"))
        if unexcused > outcomes["right"] * UNEXCUSED:
            found.append(f"{unexcused} errors had no reason")
        if self.load.newest_right < self.ended:
            found.append("the service did not come back")
        if self.growth > ALLOWED_GROWTH:
            found.append(f"a worker grew by {self.growth:.1f} MB")
        if self.killed == 0:
            found.append("no worker was killed")
        return [f"{self.target.name}: {each}" for each in found] + self.load.examples

    @property
    def settled(self) -> list[tuple[float, float]]:
        """Seconds and megabytes of the oldest worker, without the time of filling caches."""
        return self.sizes[int(len(self.sizes) * SETTLING) :]

    @property
    def growth(self) -> float:
        """Megabytes gained from the first to the last third of that time."""
        sizes = [size for _, size in self.settled]
        third = max(len(sizes) // 3, 1)
        return median(sizes[-third:]) - median(sizes[:third])

    def told(self) -> str:
        """What is printed of it."""
        slope, _ = linear_regression(*zip(*self.settled, strict=True))
        minutes = (self.settled[-1][0] - self.settled[0][0]) / 60
        trend = f", slope {slope * 3_600:+.1f} MB/h" if minutes > LONG else ""
        outcomes = ", ".join(f"{count:,} {kind}" for kind, count in self.load.outcomes.items())
        return (
            f"{self.target.name}: {outcomes}; {self.load.compared:,} values compared\n"
            f"  {self.killed} workers killed, replaced within {self.alone:.1f} s; "
            f"{len(self.delays)} revisions, each served within "
            f"{max(self.delays, default=0):.1f} s; memory of the worker that was spared "
            f"{median(size for _, size in self.settled):.0f} MB, {self.growth:+.1f} MB{trend}"
        )


def soak(
    folder: Path, minutes: float, every: float, stores: list[str], recovery: float = RECOVERY
) -> list[str]:
    """Run it; gives what went wrong.

    `recovery` says after how many seconds a service must answer again; errors until then
    are excused.
    """
    with ExitStack() as stack:
        redis = Redis(folder, _free_port())
        if "redis" in stores:
            redis.start()
            stack.callback(redis.kill)
        runs = [_begun(stack, folder, name, redis) for name in stores]
        began = time.monotonic()
        outages = [minutes * 20, minutes * 40] if "redis" in stores else []
        due, chances = every / 2, 0
        while (now := time.monotonic() - began) < minutes * 60:
            for run in runs:
                run.look(now)
            if now >= due:
                due, chances = due + every / 2, chances + 1
                for run in runs:
                    if chances % 2:
                        run.load.excuse(recovery)
                        run.killed += run.target.kill_worker()
                    else:
                        run.delays.append(_revised(run.target))
            if outages and now >= outages[0]:
                outages.pop(0)
                away = min(every / 6, 5)
                for run in runs:
                    if run.target.name == "redis":
                        run.load.excuse(away + recovery)
                redis.restart(away)
            time.sleep(0.2)
        for run in runs:
            run.ended = time.monotonic()
        for run in runs:
            while run.load.newest_right < run.ended > time.monotonic() - recovery:
                time.sleep(0.05)
            run.load.done.set()
        for run in runs:
            for thread in run.threads:
                thread.join()
            print(run.told(), flush=True)
        return [problem for run in runs for problem in run.problems()]


def _begun(stack: ExitStack, folder: Path, name: str, redis: Redis) -> Run:
    target = Target(name, folder / name, redis.url if name == "redis" else "lmdb://online")
    stack.callback(target.close)
    expected = target.prepare()
    stack.enter_context(target.served(workers=2))
    load = Load(target.address, expected)
    while not _answers(target.address, "/readyz") or len(target.workers()) < 2:
        time.sleep(0.1)
    load.newest_right = time.monotonic()
    threads = load.start(readers=2)
    stack.callback(load.done.set)
    return Run(target, load, threads, witness=target.workers()[0])


def _revised(target: Target) -> float:
    """Seconds from a revision to the first answer that knows it."""
    name = target.revise()
    began = time.monotonic()
    while not _answers(target.address, f"/v1/services/{name}"):
        if time.monotonic() - began > 10:
            break
        time.sleep(0.05)
    return time.monotonic() - began


def _answers(address: str, path: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two kills")
    parser.add_argument("--stores", nargs="*", choices=["lmdb", "redis"], default=["lmdb", "redis"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        problems = soak(Path(temporary), options.minutes, options.every, options.stores)
    if problems:
        raise SystemExit("\n".join(problems))
    print("Nothing wrong, nothing lost, memory flat.")
