"""Make runs of torture until one of them fails.

One that failed leaves its folder, and is made again from its seed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

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
    pool = ProcessPoolExecutor(told.jobs, mp_context=PROCESSES)
    runs: dict[Future[Outcome], int] = {pool.submit(run, seed, told.store): seed for seed in seeds}
    try:
        for done in as_completed(runs):
            progress.take(done.result(), verbose=told.verbose)
            if progress.failed:
                break
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        left = min(seed for each, seed in runs.items() if not each.done() or each.cancelled())
        runs_left = seeds.stop - left
        print(f"\nTo go on: {COMMAND} --store {told.store} --start {left} --runs {runs_left}")
        sys.exit(130)
    pool.shutdown(cancel_futures=True)
    progress.end(each.result() for each in runs if each.done() and not each.cancelled())


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
        self.failed = False

    def take(self, outcome: Outcome, *, verbose: bool) -> None:
        """A run has ended."""
        self._done += 1
        self._kills += outcome.kills
        self._stops += outcome.stops
        self.failed = bool(outcome.problems)
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

    def end(self, outcomes: Iterable[Outcome]) -> None:
        """Say what failed, and how it is made again."""
        if sys.stdout.isatty():
            print()
        failed = [outcome for outcome in outcomes if outcome.problems]
        for outcome in failed:
            print(outcome)
            print(f"    All of it is in {outcome.folder}")
            print(
                f"    Again: {COMMAND} --store {self._store} --start {outcome.plan.seed} --runs 1"
            )
        if failed:
            sys.exit(1)
        print(f"{self._store}: {self._done} runs passed")


if __name__ == "__main__":
    main()
