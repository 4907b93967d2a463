"""An audit of what was served: values a second, reading the log included, and memory.

python -m benchmarks.audit [--rows 250000 1000000]

For each number of rows a project of its own serves so many, five windowed features each, with its
serving log on; the audit is then made in a fresh process, whose peak of memory is told.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import tidemark as tm

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
USERS, EVENTS, DAYS = 2_000, 200_000, 30


class User(tm.Entity):
    """Somebody who pays."""

    user_id: tm.Key[int]


class Payment(tm.Source, history=tm.parquet("payments.parquet"), time="at"):
    """Payments."""

    user_id: tm.Col[int]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Paying(tm.FeatureView, entity=User, source=Payment):
    """Five features over windows."""

    payments = tm.count(over="12h")
    paid = tm.sum(Payment.amount, over="12h")
    largest = tm.max(Payment.amount, over="7d")
    typical = tm.mean(Payment.amount, over="7d")
    last = tm.last(Payment.amount)


class Paid(tm.FeatureService, features=[Paying]):
    """All of them."""


def serve(folder: Path, rows: int) -> None:
    """Write a project and serve from it, at moments of twenty days."""
    os.environ["TIDEMARK_SERVING_LOG_IN_PROCESS"] = "true"
    (folder / "tidemark.toml").write_text('name = "audit"\n')
    chance = np.random.default_rng(1)
    at = int(BEGIN.timestamp() * 1e6) + chance.integers(0, DAYS * 86_400_000_000, EVENTS)
    columns = {
        "user_id": chance.integers(0, USERS, EVENTS),
        "amount": chance.integers(1, 10_000, EVENTS) / 64,
        "at": pa.array(at, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), folder / "payments.parquet")
    with tm.connect(folder) as store:
        store.apply(store.plan([Paid]))
        store.materialize()
        keys = {"user_id": list(range(USERS))}
        for done in range(0, rows, USERS):
            store.online_many("paid", keys, at=BEGIN + timedelta(days=5 + 20 * done / rows))
            store.log.flush()


def audit(folder: Path) -> None:
    """Audit all that was served, and print a line."""
    with tm.connect(folder) as store:
        began = time.perf_counter()
        found = store.audit(since=None)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    rate = found.compared / seconds
    print(f"{found.rows:>12,}{found.differing:>8,}{seconds:>8.2f}{rate:>14,.0f}{peak:>8,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--audit", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.audit:
        audit(asked.audit)
        raise SystemExit
    print(f"{'rows':>12}{'differ':>8}{'s':>8}{'values/s':>14}{'MB':>8}", flush=True)
    for count in asked.rows:
        with tempfile.TemporaryDirectory() as temporary:
            serve(Path(temporary), count)
            command = [sys.executable, "-m", "benchmarks.audit", "--audit", temporary]
            subprocess.run(command, check=True)
