"""Make runs of torture until one of them fails.

One that failed leaves its folder, and is made again from its seed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice

from tests.torture.actors import PROCESSES
from tests.torture.run import Outcome, run

COMMAND = "python -m tests.torture"

TOLD_SECONDS = 10.0
"""How often progress is told where it does not stay on one line."""


def main() -> None:
    """Make the runs; end with 1 if one of them failed, and with 130 if interrupted."""
    told = _arguments()
    seeds = range(told.start, told.start + told.runs)
    progress = Progress(told.store, seeds)
    with ProcessPoolExecutor(told.jobs, mp_context=PROCESSES) as pool:
        runs: dict[Future[Outcome], int] = {}
        left = iter(seeds)
        try:
            while not progress.failed:
                for seed in islice(left, told.jobs - len(runs)):
                    runs[pool.submit(run, seed, told.store)] = seed
                if not runs:
                    break
                for done in wait(runs, return_when=FIRST_COMPLETED).done:
                    progress.take(done.result(), verbose=told.verbose)
                    del runs[done]
        except KeyboardInterrupt:
            first = min(runs.values(), default=told.start)
            again = f"--store {told.store} --start {first} --runs {seeds.stop - first}"
            print(f"\nTo go on: {COMMAND} {again}", flush=True)
            sys.exit(130)
    for each in runs:  # which were under way when one failed
        progress.take(each.result(), verbose=told.verbose)
    progress.end()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--store", choices=["lmdb", "redis"], default="lmdb")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--start", "--seed", type=int, default=0, help="the first run's seed")
    jobs = (os.cpu_count() or 1) + 1  # as some wait
    parser.add_argument("--jobs", type=int, default=jobs, help="runs at once (%(default)s here)")
    parser.add_argument("--verbose", action="store_true", help="a line for every run")
    return parser.parse_args()


class Progress:
    """What is done, how fast, and when the rest will be."""

    def __init__(self, store: str, seeds: range) -> None:
        self._store, self._seeds = store, seeds
        self._began = self._told = time.monotonic()
        self._done = self._kills = self._stops = 0
        self.failed: list[Outcome] = []

    def take(self, outcome: Outcome, *, verbose: bool) -> None:
        """A run has ended."""
        self._done += 1
        self._kills += outcome.kills
        self._stops += outcome.stops
        if outcome.problems:
            self.failed.append(outcome)
        if verbose:
            print(outcome)
        if sys.stdout.isatty():
            print(f"\r{self}", end="", flush=True)
        elif time.monotonic() - self._told >= TOLD_SECONDS or self._done == len(self._seeds):
            self._told = time.monotonic()
            print(self, flush=True)

    def __str__(self) -> str:
        minutes = (time.monotonic() - self._began) / 60
        rate = self._done / minutes
        left = (len(self._seeds) - self._done) / rate
        return (
            f"{self._store}: {self._done:,} of {len(self._seeds):,} runs, {self._kills:,} killed, "
            f"{self._stops:,} stops of the machine; {rate:.1f} runs/min, {left:.0f} min left "
        )

    def end(self) -> None:
        """Say what failed, and how it is made again."""
        if sys.stdout.isatty():
            print()
        for outcome in self.failed:
            print(outcome)
            print(f"    All of it is in {outcome.folder}")
            print(
                f"    Again: {COMMAND} --store {self._store} --start {outcome.plan.seed} --runs 1"
            )
        if self.failed:
            sys.exit(1)
        print(f"{self._store}: {self._done} runs passed")


if __name__ == "__main__":
    main()
