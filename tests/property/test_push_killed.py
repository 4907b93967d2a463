"""Processes that push are killed at any instant: what they were told is kept is counted, once.

TIDEMARK_TORTURE says how many are killed in each test: `make torture` kills hundreds.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.property.pushing import SCHEMA, everything_equal, make_project, views
from tests.redis_server import RedisServer

import tidemark as tm
from tidemark.engines.log import EventLog
from tidemark.errors import StaleSource

KILLED = int(os.environ.get("TIDEMARK_TORTURE", "20"))
PUSHER = Path(__file__).with_name("pusher.py")


class Child:
    """A process that pushes; what it acknowledged is read as it comes."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self.acknowledged: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(PUSHER), str(folder), name, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def run_and_die(self, seconds: float) -> None:
        """Let it push for a while after its first acknowledgement, and kill it."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._take(self._process.stdout.readline())
        killing = threading.Timer(seconds, self._process.kill)
        killing.start()
        for line in self._process.stdout:
            self._take(line)
        killing.join()
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        with self._process:  # which closes its pipes, and waits
            pass

    def _take(self, line: str) -> None:
        if line.endswith("\n"):  # else it died while it wrote
            self.acknowledged += line.split()


@contextmanager
def project(folder: Path, online: str) -> Iterator[tm.Store]:
    """A project with some history, whose views are materialized."""
    told = [
        {"order": f"h{n}", "user_id": "ada", "shop": 1, "amount": 0.1, "status": "paid",
         "at": pa.scalar(n, SCHEMA.field("at").type).as_py()}
        for n in range(3)
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(told, SCHEMA), folder / "orders.parquet")
    with tm.connect(make_project(folder, online)) as store:
        store.apply(store.plan(views("orders.parquet", unique=True)))
        store.materialize()
        yield store


def check(store: tm.Store, acknowledged: list[str]) -> None:
    """Every acknowledged event is in the log and counted, once, with whatever else is there."""
    store.events.catch_up()
    source = store.readers.snapshot().definitions.source("order")
    with EventLog(store.config.root / store.config.log) as log:
        logged = log.read(source, 0, 10**9).column("order").to_pylist()
    assert len(logged) == len(set(logged))
    assert set(acknowledged) <= set(logged)
    users = [{"user_id": user} for user in ("ada", "bob", "cyd")]
    counts = store.online_many(["of_user:orders"], users).to_arrow().column("orders")
    assert sum(counts.to_pylist()) == len(logged) + 3


def torture(store: tm.Store, killed: int, *, at_once: int = 2) -> None:
    """Kill so many processes, some at a time, while spare ones start up."""
    chance = random.Random(0)
    folder, acknowledged = store.config.root, list[str]()
    spare = [Child(folder, f"p0-{n}", n) for n in range(at_once)]
    for turn in range(1, killed // at_once + 1):
        children = spare
        for child in children:
            child.wait_until_ready()
        spare = [Child(folder, f"p{turn}-{n}", turn * 10 + n) for n in range(at_once)]
        threads = [
            threading.Thread(target=child.run_and_die, args=(chance.random() * 0.3,))
            for child in children
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        acknowledged += [order for child in children for order in child.acknowledged]
        check(store, acknowledged)
    for child in spare:
        child.kill()
    assert len(acknowledged) >= killed // at_once * at_once
    everything_equal(store)


def test_on_lmdb(tmp_path: Path) -> None:
    """Two processes that push to the same entities; both are killed."""
    with project(tmp_path, "lmdb://.tidemark/online") as store:
        torture(store, KILLED)


def test_on_redis(tmp_path: Path, redis_url: str) -> None:
    """Two processes that write the rows of the same entities, fenced by the record."""
    with project(tmp_path, redis_url) as store:
        torture(store, KILLED // 3)


KILLED_BETWEEN = """
import os, signal, sys
import tidemark as tm
from tidemark.ingest.apply import Applier

Applier.catch_up = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
event = {"order": "o1", "user_id": "ada", "at": "2026-03-01T12:00:00Z"}
tm.connect(sys.argv[1]).push("order", event)
"""


def test_what_a_process_leaves_that_dies_before_it_counts_is_counted_by_who_reads(
    tmp_path: Path,
) -> None:
    """The event is in the log; nobody pushes any more, and one process reads."""
    with project(tmp_path, "lmdb://.tidemark/online"):
        command = [sys.executable, "-c", KILLED_BETWEEN, str(tmp_path)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        with tm.connect(tmp_path) as reader:
            assert reader.online(["of_user:orders"], {"user_id": "ada"})["orders"] == 4
            everything_equal(reader)


def test_a_store_that_lost_its_data_says_so(
    tmp_path: Path, shared_redis: RedisServer, redis_url: str
) -> None:
    """The events are in the log; the state is asked for, and comes back as it was."""
    import redis

    with project(tmp_path, redis_url) as store:
        event = {"order": "o1", "user_id": "ada", "at": "2026-03-01T12:00:00Z"}
        store.push("order", event)
        with redis.Redis(port=shared_redis.port) as client:
            client.flushall()
        assert store.push("order", {**event, "order": "o2"}).accepted == 1
        with pytest.raises(StaleSource, match="no online state yet"):
            store.online(["of_user:orders"], {"user_id": "ada"})
        store.materialize()
        assert store.online(["of_user:orders"], {"user_id": "ada"})["orders"] == 5
        everything_equal(store)


def test_a_lost_log_is_no_new_beginning(tmp_path: Path) -> None:
    """State that holds more than the log is refused rather than counted twice."""
    with project(tmp_path, "lmdb://.tidemark/online") as store:
        store.push("order", {"order": "o1", "user_id": "ada", "at": "2026-03-01T12:00:00Z"})
    (tmp_path / ".tidemark/log").rename(tmp_path / "elsewhere")
    with tm.connect(tmp_path) as store, pytest.raises(StaleSource, match="more than its event log"):
        store.push("order", {"order": "o2", "user_id": "ada", "at": "2026-03-01T12:00:00Z"})
