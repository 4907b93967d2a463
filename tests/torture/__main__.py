"""`python -m tests.torture --runs 300 --store lmdb`: runs, and which of them failed."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.torture.actors import PROCESSES
from tests.torture.run import run


def main() -> None:
    """Make the runs; end with 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["lmdb", "redis"], default="lmdb")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="that of the first run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    told = parser.parse_args()
    failed: list[int] = []
    end = told.seed + told.runs
    with ProcessPoolExecutor(told.jobs, mp_context=PROCESSES) as pool:
        seeds = {pool.submit(run, seed, told.store): seed for seed in range(told.seed, end)}
        for done in as_completed(seeds):
            print(done.result(), flush=True)
            if done.result().problems:
                failed.append(seeds[done])
    print(f"{told.store}: {told.runs - len(failed)} of {told.runs} runs passed", flush=True)
    if failed:
        print(f"failed seeds: {sorted(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
