"""Processes that materialize are killed at any instant: the next one goes on, to the same values.

TIDEMARK_TORTURE says how many are killed: `make torture` kills hundreds.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet
from tests.property.materializer import materialize
from tests.property.pushing import NOON, SCHEMA, everything_equal, make_project, views

import tidemark as tm

KILLED = int(os.environ.get("TIDEMARK_TORTURE", "20"))
MATERIALIZER = Path(__file__).with_name("materializer.py")
RATE = 600
"""Rows a second: the 240 of one run take a while, in which it can be killed."""


class Child:
    """A process that materializes a project."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(MATERIALIZER), str(folder), str(RATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_and_die(self, seconds: float) -> bool:
        """Let it write for so long, and kill it; whether it was through before."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        assert self._process.stdout.readline() == "ready\n"
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        killing = threading.Timer(seconds, self._process.kill)
        killing.start()
        said = self._process.stdout.read()
        killing.join()
        self.kill()
        return said == "done\n"

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        with self._process:  # which closes its pipes, and waits
            pass


def prepared(folder: Path, online: str) -> tm.Store:
    """A project with some history of many users, of which nothing is materialized."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"order": f"h{n}", "user_id": f"u{n % 230}", "shop": n % 10, "amount": 0.1 * n,
         "status": "paid" if n % 3 else "open", "at": NOON - timedelta(minutes=n)}
        for n in range(2_000)
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "orders.parquet")
    store = tm.connect(make_project(folder, online))
    store.apply(store.plan(views("orders.parquet", unique=True)))
    return store


def push(store: tm.Store, number: int) -> None:
    """An event of before the run, and a correction of history."""
    row = {"user_id": "u1", "shop": 1, "at": NOON}
    store.push("order", [row | {"order": f"n{number}"}, row | {"order": f"h{number}"}])


def torture(folder: Path, online: str, killed: int) -> None:
    """Kill so many processes or more, with events pushed between them; compare with a calm run."""
    chance = random.Random(1)
    with prepared(folder, online) as store:
        spare, through, number = Child(folder), 0, 0
        while number < killed or through == number:  # whoever kills may have come too late
            child, spare = spare, Child(folder)
            push(store, number)
            through += child.run_and_die(chance.random() * 0.6)
            number += 1
        spare.kill()
        materialize(store)
        with prepared(folder / "calm", "lmdb://.tidemark/online") as calm:
            for again in range(number):
                push(calm, again)
            calm.materialize()
            assert values(store) == values(calm)
        everything_equal(store)


def values(store: tm.Store) -> list[dict[str, object]]:
    """What every user has, which does not tell when the pushes of this run were seen."""
    users = [{"user_id": f"u{n}"} for n in range(231)]
    names = ["of_user:orders", "of_user:paid", "of_user:order", "of_user:last"]
    rows: list[dict[str, object]] = store.online_many(names, users).to_arrow().to_pylist()
    return rows


def test_on_lmdb(tmp_path: Path) -> None:
    """The rows are those of a run that nobody disturbed."""
    torture(tmp_path, "lmdb://.tidemark/online", KILLED // 4)


def test_on_redis(tmp_path: Path, redis_url: str) -> None:
    """The same on a server, where a transaction is a script."""
    torture(tmp_path, redis_url, KILLED // 7)
