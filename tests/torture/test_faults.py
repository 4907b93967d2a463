"""Disks, brokers and servers that fail: refused or recovered, loudly, and nothing is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from tests.redis_server import RedisServer

pytest.importorskip("confluent_kafka")

from tests.kafka_broker import FETCH, FIND_COORDINATOR, HEARTBEAT, JOIN_GROUP, FaultyBroker
from tests.torture import actors, world
from tests.torture.check import check
from tests.torture.world import Name, content

import tidemark as tm
from tidemark.errors import TidemarkError

LMDB = "lmdb://.tidemark/online"
DAMAGES = 4
"""Copies of the log that are damaged, of each kind of file."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees and files as in the runs, for this process alone."""
    from tidemark.engines.log import EventLog
    from tidemark.online.trees import cutting

    monkeypatch.setattr(cutting, "SIZES", world.SMALL)
    monkeypatch.setitem(EventLog.compact.__kwdefaults__, "keep_rows", world.KEPT_ROWS)


# ---------------------------------------------------------------------------------------- the log


def _pushed(folder: Path, base: datetime) -> set[Name]:
    """Push to a project, and leave some of it in files, some in batches, as a crash leaves it."""
    names = [(f"o{n}", 0) for n in range(100)]
    with tm.connect(folder) as store:
        for start in range(0, 100, 10):
            store.push("order", [content(name, base) for name in names[start : start + 10]])
            if start == 60:
                store.events.compact()
        shutil.copytree(folder, folder.with_name("copy"))
    return set(names)


def _whole_or_refused(folder: Path, base: datetime, names: set[Name]) -> bool:
    """Whether what is left of a project answers everything, in full; else it says what is wrong."""
    count = world.CORRECTED + world.REPEATED + len(names)
    users = [*world.USERS]
    late = [world.now()] * len(users)
    labels = pa.table({"user_id": users, "t": pa.array(late, pa.timestamp("us", "UTC"))})
    again = content(("r1", 0), base)  # which history has as well
    refused = 0
    with tm.connect(folder) as store:
        try:
            trained = store.training_set(["of_user:orders"], labels).to_arrow()
            assert sum(trained.column("orders").to_pylist()) == count
        except TidemarkError:
            refused += 1
        try:
            store.push("order", again)
        except TidemarkError:
            refused += 1
        try:
            served = store.online_many(["of_user:orders"], {"user_id": users}).to_dicts()
            assert sum(each["orders"] for each in served) == count
        except TidemarkError:
            refused += 1
    return not refused


def _cut(path: Path, chance: Random) -> None:
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size))


def _flip(path: Path, chance: Random) -> None:
    place = chance.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


@pytest.mark.parametrize("damage", [_cut, _flip])
def test_a_project_with_a_damaged_log_is_right_or_says_so(
    damage: Callable[[Path, Random], None], tmp_path: Path
) -> None:
    """Whatever file of the log it is: no answer counts less or other than was acknowledged."""
    base = world.now()
    home = tmp_path / "project"
    home.mkdir()
    names = _pushed(world.make_project(home, LMDB, "None", base), base)
    log = tmp_path / "copy/.tidemark/log"
    kinds = {path.suffix: path for path in sorted(log.rglob("*")) if path.is_file()}
    chance = Random(0)
    refused = 0
    for path in kinds.values():
        if not path.stat().st_size:
            continue
        for _ in range(DAMAGES):
            hurt = tmp_path / "hurt"
            shutil.copytree(tmp_path / "copy", hurt)
            damage(hurt / path.relative_to(tmp_path / "copy"), chance)
            refused += not _whole_or_refused(hurt, base, names)
            shutil.rmtree(hurt)
    assert refused > 0


def _fill(folder: Path, base: datetime, limit: int, said: Any) -> None:
    """Push until the disk is full; then tell what was acknowledged, and the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    world.as_runs_need_it()
    done: list[Name] = []
    with tm.connect(folder) as store:
        store.push("order", content(("first", 0), base))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            for turn in range(10_000):
                names = [(f"f{turn}-{n}", 0) for n in range(50)]
                store.push("order", [content(name, base) for name in names])
                done += names
        except TidemarkError as error:
            said.send((done, type(error).__name__, error.retryable))


@pytest.mark.parametrize("room", [150_000, 400_000, 1_500_000])
def test_a_full_disk_refuses_and_what_was_acknowledged_counts(room: int, tmp_path: Path) -> None:
    """Log and online store share the disk; once there is room again all goes on."""
    base = world.now()
    world.as_runs_need_it()
    folder = world.make_project(tmp_path, LMDB, "None", base)
    mine, theirs = actors.PROCESSES.Pipe(duplex=False)
    process = actors.PROCESSES.Process(target=_fill, args=(folder, base, room, theirs))
    process.start()
    theirs.close()
    done, error, retryable = mine.recv()
    process.join()
    assert (error, retryable) == ("StoreUnavailable", True)
    with tm.connect(folder) as store:
        assert store.push("order", content(("last", 0), base)).accepted == 1
    check(folder, base, {*done, ("first", 0), ("last", 0)}, set(), may_be_buried=False)


# ---------------------------------------------------------------------------- brokers and servers


class Reading:
    """A consumer in a thread; `errors` is what it told, or ended with."""

    def __init__(self, store: tm.Store) -> None:
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._store = store
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        def told(_consumed: object, error: Exception | None) -> None:
            self.errors += [] if error is None else [error]

        try:
            self._store.streams.run("order", told=told, stop=self._stop, batch=10)
        except Exception as error:
            self.errors.append(error)

    def wait_for(self, position: int) -> None:
        """Wait until so many events are in the log."""
        until = time.monotonic() + world.PATIENCE
        while self._store._project.log.last("order") < position:
            assert self._thread.is_alive(), self.errors
            assert time.monotonic() < until, self.errors
            time.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_a_broker_that_answers_with_errors_holds_up_and_loses_nothing(tmp_path: Path) -> None:
    """Every request that a consumer makes is refused for a while; then brokers are away."""
    base = world.now()
    broker = FaultyBroker()
    topic = broker.topic(f"faulty-{os.getpid()}")
    declared = f'tm.kafka("{topic}")'
    folder = world.make_project(tmp_path, LMDB, declared, base, broker.address)
    names = [(f"k{n}", 0) for n in range(120)]
    sent = iter(world.as_json(names, base))

    def send() -> None:
        broker.send(topic, [next(sent) for _ in range(20)], partitions=range(4))

    not_leader, not_coordinator, unknown_member, rebalancing, timed_out = 6, 16, 25, 27, 7
    faults = {
        FETCH: (not_leader, timed_out, not_leader),
        FIND_COORDINATOR: (15, timed_out),
        HEARTBEAT: (rebalancing, unknown_member, not_coordinator),
        JOIN_GROUP: (not_coordinator, 14),
    }
    broker.refuse(FIND_COORDINATOR, 15, timed_out)
    broker.refuse(JOIN_GROUP, not_coordinator, 14)
    with tm.connect(folder) as store:
        reading = Reading(store)
        for turn, (request, errors) in enumerate(faults.items(), 1):
            broker.refuse(request, *errors)
            send()
            reading.wait_for(20 * turn)
        broker.down(is_down=True)
        time.sleep(0.5)
        broker.down(is_down=False)
        send()
        send()
        reading.wait_for(120)
        reading.stop()
    check(folder, base, set(), set(names), may_be_buried=False)
    broker.close()


def test_a_reader_whose_lock_is_gone_takes_it_anew(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """It stood still for too long, or Redis was restarted without its data."""
    import redis

    base = world.now()
    folder = world.make_project(tmp_path, redis_server.url, 'tm.redis_stream("orders")', base)
    names = [(f"k{n}", 0) for n in range(40)]
    sent = world.as_json(names, base)
    with redis.Redis(port=redis_server.port) as client, tm.connect(folder) as store:
        for message in sent[:20]:
            client.xadd("orders", {"data": message})
        reading = Reading(store)
        reading.wait_for(20)
        locks = [key for key in client.scan_iter(_type="string") if b"stream torture" in key]
        assert len(locks) == 1
        client.delete(*locks)
        for message in sent[20:]:
            client.xadd("orders", {"data": message})
        reading.wait_for(40)
        until = time.monotonic() + world.PATIENCE
        while not reading.errors or not client.exists(locks[0]):
            assert time.monotonic() < until
            time.sleep(0.02)
        reading.stop()
    assert {type(error).__name__ for error in reading.errors} == {"LockLost"}
    check(folder, base, set(), set(names), may_be_buried=False)
