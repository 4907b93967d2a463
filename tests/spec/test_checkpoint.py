"""A machine that stops leaves an LMDB store in a state that it had, and never in a mixture."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from tidemark.errors import StoreConflict, StoreUnavailable
from tidemark.online.stores import environment as environments
from tidemark.online.stores.checkpoint import CHECKPOINT, DATA, KNOWN, Checkpoints
from tidemark.online.stores.environment import Environment
from tidemark.online.stores.lmdb import LmdbStore

pytestmark = pytest.mark.skipif(not KNOWN, reason="commits wait for the disk with this LMDB")

PAGE = 4_096

Content = dict[bytes, bytes]


@pytest.fixture(autouse=True)
def _no_checkpoint_by_itself(monkeypatch):
    """Checkpoints come where a test says so."""
    monkeypatch.setattr(environments, "CHECKPOINT_SECONDS", 3_600)


def content(path: Path) -> Content:
    """Everything that a store holds once it was opened."""
    store = LmdbStore(path)
    store.get_many([b"a"])
    store.close()
    with lmdb.open(str(path), readonly=True, map_size=1 << 28) as env, env.begin() as transaction:
        return dict(transaction.cursor())


def some_batch(rng: random.Random) -> tuple[Content, list[bytes]]:
    """Values of some size for some keys, and keys to remove."""
    keys = [b"key %03d" % rng.randrange(300) for _ in range(rng.randrange(1, 40))]
    puts = {key: rng.randbytes(rng.choice((10, 300, 9_000))) for key in keys}
    return puts, [b"key %03d" % rng.randrange(300) for _ in range(rng.randrange(6))]


def changed(before: Mapping[bytes, bytes], puts: Content, deletes: list[bytes]) -> Content:
    return {key: value for key, value in before.items() if key not in deletes} | puts


class Disk:
    """What may be on the disk of a file: of every page, any of its contents since the last sync."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: list[bytes] = []

    def look(self) -> None:
        """Something was written."""
        self._images.append((self._path / DATA).read_bytes())

    def synced(self) -> None:
        """All of it is on the disk."""
        self._images.clear()
        self.look()

    def synced_before(self) -> None:
        """All that was there at the last look is on the disk."""
        del self._images[:-1]

    def stopped(self, rng: random.Random, to: Path) -> Path:
        """What a machine that stops now may leave."""
        to.mkdir()
        shutil.copy(self._path / CHECKPOINT, to)
        size = max(len(image) for image in self._images)
        length = rng.choice([len(image) for image in self._images])
        with (to / DATA).open("wb") as file:
            for place in range(0, size, PAGE):
                held = [image[place : place + PAGE] for image in self._images]
                file.write(rng.choice([page for page in held if page]))
            file.truncate(length)
        return to


@pytest.mark.parametrize("seed", range(25))
def test_any_mixture_of_pages_is_put_back_to_the_last_checkpoint(seed, tmp_path):
    """Whichever pages of later commits got to the disk, while the map grows and processes fork."""
    rng = random.Random(seed)
    path = tmp_path / "online"
    store = LmdbStore(path, map_size=1 << 18)
    disk, held, now = Disk(path), Content(), Content()
    for step in range(60):
        puts, deletes = some_batch(rng)
        durable = step == 0 or rng.random() < 0.15
        checkpoint = kept(path)
        store.put_many(puts.items(), deletes=deletes, durable=durable)
        before, now = now, changed(now, puts, deletes)
        if durable:
            held = now
            disk.synced()
        else:
            if kept(path) != checkpoint:  # without a pin, as after a fork, one comes first
                held = before
                disk.synced_before()
            disk.look()
        if rng.random() < 0.05:
            forked_child_reads(store)
        if rng.random() < 0.05:
            left = disk.stopped(rng, tmp_path / f"stopped-{step}")
            assert content(left) == held
            back = LmdbStore(left)
            back.put_many([(b"goes on", b"")])
            back.close()
            assert content(left) == held | {b"goes on": b""}
    store.close()
    assert content(path) == now


def kept(path: Path) -> bytes:
    """The checkpoints of a store."""
    file = path / CHECKPOINT
    return file.read_bytes() if file.exists() else b""


def forked_child_reads(store: LmdbStore) -> None:
    child = os.fork()
    if child == 0:
        store.get_many([b"key 000"])
        store.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def write_and_die(path: Path, seed: int, batches: int) -> None:
    environments.CHECKPOINT_SECONDS = 3_600
    rng, store = random.Random(seed), LmdbStore(path)
    for number in range(batches):
        puts, deletes = some_batch(rng)
        store.put_many(
            [*puts.items(), (b"batches", b"%d" % number)], deletes=deletes, durable=False
        )
    os.kill(os.getpid(), signal.SIGKILL)


def another(work, *arguments) -> None:
    """Run `work` in a process of its own, to whatever end."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()


def test_a_process_that_dies_alone_leaves_its_last_checkpoint(tmp_path):
    """What it had not brought to the disk is undone, as if the machine had stopped."""
    path = tmp_path / "online"
    store = LmdbStore(path)
    store.put_many([(b"a", b"1")])
    store.close()
    another(write_and_die, path, 1, 30)
    assert store.get_many([b"a", b"batches"]) == [b"1", None]
    store.close()


def test_where_another_process_has_the_store_nothing_is_undone(tmp_path):
    """The memory of the machine still has everything; who reads goes on from there."""
    path = tmp_path / "online"
    store = LmdbStore(path)
    store.put_many([(b"a", b"1")])
    another(write_and_die, path, 1, 30)
    assert store.get_many([b"a", b"batches"]) == [b"1", b"29"]
    store.put_many([(b"b", b"2")])
    store.close()
    assert store.get_many([b"a", b"b", b"batches"]) == [b"1", b"2", b"29"]
    store.close()


@pytest.mark.parametrize("seed", range(5))
def test_writers_in_several_processes_keep_the_tree_of_the_newest_checkpoint(seed, tmp_path):
    """One that dies takes its pin with it; the others' still hold."""
    rng = random.Random(seed)
    path = tmp_path / "online"
    store, disk = LmdbStore(path), Disk(path)
    now = Content()
    for durable in (True, True, False):  # the last one has a pin
        puts, deletes = some_batch(rng)
        store.put_many(puts.items(), deletes=deletes, durable=durable)
        now = changed(now, puts, deletes)
    another(write_and_die, path, seed, 1)  # its first write makes a checkpoint
    disk.synced()
    for _ in range(30):
        puts, deletes = some_batch(rng)
        store.put_many(puts.items(), deletes=deletes, durable=False)
        disk.look()
    left = disk.stopped(rng, tmp_path / "stopped")
    assert content(left) == now
    store.close()


@pytest.mark.parametrize("how", ["durable", "soon", "refused"])
def test_a_store_that_writes_no_more_keeps_nobody_from_using_pages_again(
    how, tmp_path, monkeypatch
):
    """Otherwise the file would grow with all that others write."""
    monkeypatch.setattr(environments, "CHECKPOINT_SECONDS", 0)
    path = tmp_path / "online"
    store = LmdbStore(path)
    expect = {b"a": b"something else"} if how == "refused" else {}
    with suppress(StoreConflict):
        store.put_many([(b"a", b"1")], expect=expect, durable=how == "durable")
    opened = Environment.of(path.resolve(), 1 << 20)
    while "no active readers" not in opened.env.readers():
        os.sched_yield()
    opened.release()
    store.close()


def test_a_store_that_was_closed_is_as_it_was_left(tmp_path):
    """Closing waits for the disk."""
    path = tmp_path / "online"
    store = LmdbStore(path)
    for number in range(10):
        store.put_many([(b"a", b"%d" % number)], durable=False)
    store.close()
    assert store.get_many([b"a"]) == [b"9"]
    store.close()


def test_a_commit_gets_to_the_disk_by_itself(tmp_path, monkeypatch):
    """Soon after, whether or not anything else is written."""
    monkeypatch.setattr(environments, "CHECKPOINT_SECONDS", 0.001)
    path = tmp_path / "online"
    store = LmdbStore(path)
    store.put_many([(b"first", b"")])
    before = kept(path)
    store.put_many([(b"a", b"1")], durable=False)
    while kept(path) == before:
        os.sched_yield()
    left = tmp_path / "left"
    shutil.copytree(path, left)
    assert content(left) == {b"first": b"", b"a": b"1"}
    store.close()


def test_another_file_of_the_same_name_is_not_put_back(tmp_path):
    """Its pages are not those of the checkpoint, and nobody can know what was meant."""
    path, other = tmp_path / "online", tmp_path / "other"
    for place, batches in ((path, 2), (other, 9)):
        store = LmdbStore(place)
        for number in range(batches):
            store.put_many([(b"a", b"%d in %s" % (number, place.name.encode()))])
        store.close()
    shutil.copy(other / DATA, path / DATA)
    with pytest.raises(StoreUnavailable, match="the state of its last checkpoint") as caught:
        content(path)
    assert "delete checkpoint beside it" in caught.value.remedy
    (path / CHECKPOINT).unlink()
    assert content(path) == {b"a": b"8 in other"}


def test_a_store_that_begins_anew_forgets_the_checkpoint_of_the_old_one(tmp_path):
    """Somebody removed the file, or put an older one there."""
    path = tmp_path / "online"
    store = LmdbStore(path)
    for number in range(9):
        store.put_many([(b"a", b"%d" % number)])
    store.close()
    (path / DATA).unlink()
    (path / "lock.mdb").unlink()
    assert store.get_many([b"a"]) == [None]
    store.put_many([(b"b", b"1")])
    store.close()
    assert store.get_many([b"a", b"b"]) == [None, b"1"]
    store.close()


def test_a_disk_that_fails_ends_the_writing(tmp_path, monkeypatch):
    """The system may say the next time that all is well, having forgotten what it did not write.

    What is on the disk is the last checkpoint, to which a new process goes back.
    """
    path = tmp_path / "online"
    store = LmdbStore(path)
    store.put_many([(b"a", b"1")])
    opened = Environment.of(path.resolve(), 1 << 20)
    failing = Failing(opened.env)
    monkeypatch.setattr(opened, "env", failing)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        store.put_many([(b"a", b"2")])
    failing.fails = False
    for durable in (True, False):
        with pytest.raises(StoreUnavailable, match="The disk of the online store has failed"):
            store.put_many([(b"a", b"3")], durable=durable)
    opened.release()
    store.close()
    assert store.get_many([b"a"]) == [b"1"]
    store.close()


class Failing:
    """An environment of which the disk fails."""

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env
        self.fails = True

    def __getattr__(self, name: str):
        return getattr(self._env, name)

    def sync(self, force: bool) -> None:
        if self.fails:
            raise lmdb.Error("mdb_env_sync: Input/output error")
        self._env.sync(force)


def test_a_store_that_closes_waits_for_the_checkpoint_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread would write to files that are closed, or that are others' by then."""
    monkeypatch.setattr(environments, "CHECKPOINT_SECONDS", 0)
    keep, begun, going, ended = Checkpoints.keep, threading.Event(), threading.Event(), []

    def slowly(*args: object) -> None:
        if threading.current_thread().name == "tidemark-checkpoint":
            begun.set()
            going.wait(300)
        keep(*args)  # pyright: ignore[reportArgumentType]
        ended.append("checkpoint")

    monkeypatch.setattr(Checkpoints, "keep", slowly)
    store = LmdbStore(tmp_path)
    store.put_many([(b"a", b"1")], durable=False)
    assert begun.wait(300)

    def close() -> None:
        store.close()
        ended.append("store")

    closing = threading.Thread(target=close)
    closing.start()
    closing.join(0.05)
    going.set()
    closing.join()
    assert ended == ["checkpoint", "checkpoint", "store"]  # the first as it was opened
