"""Every online store keeps the contract; what only LMDB can do wrong is said below it."""

import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tidemark.errors import NotFound, StoreUnavailable
from tidemark.online.stores.lmdb import LmdbStore
from tidemark.online.stores.memory import MemoryStore
from tidemark.online.stores.protocol import open_store
from tidemark.testing import OnlineStoreContract


class TestMemory(OnlineStoreContract):
    @pytest.fixture
    def store(self):
        store = MemoryStore()
        yield store
        store.close()


class TestLmdb(OnlineStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        store = LmdbStore(tmp_path / "online")
        yield store
        store.close()


class TestLmdbWithTinyMap(OnlineStoreContract):
    """The same when nearly every batch has to grow the map."""

    @pytest.fixture
    def store(self, tmp_path):
        store = LmdbStore(tmp_path / "online", map_size=32_768)
        yield store
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "online"


def in_process(work, *arguments):
    """What `work` gives in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def read(path: Path, keys: list[bytes]) -> list[bytes | None]:
    return LmdbStore(path, map_size=32_768).get_many(keys)


def test_a_url_names_a_store(tmp_path):
    """`lmdb://` is relative to the project; `memory:` lives in the process."""
    assert open_store("lmdb://online", tmp_path).name == f"lmdb://{tmp_path}/online"
    assert open_store("lmdb:///abs/path", tmp_path).name == "lmdb:///abs/path"
    assert open_store(":memory:").name == "memory:"


def test_an_unknown_kind_of_store_is_named():
    """The kinds that exist are suggested."""
    with pytest.raises(NotFound, match="no kind of online store 'lmbd'") as caught:
        open_store("lmbd://online")
    assert caught.value.remedy == "Did you mean 'lmdb'?"


def test_opening_and_reading_create_nothing(path):
    """A wrong path does not leave an empty store behind."""
    store = LmdbStore(path)
    assert store.get_many([b"a"]) == [None]
    assert store.delete(b"a") == 0
    assert not path.exists()


def test_what_was_written_is_there_in_another_process(path):
    """A reader in another process sees what this one wrote, even past its own map size."""
    store = LmdbStore(path)
    store.put_many([(str(i).encode(), bytes(1_000)) for i in range(500)] + [(b"a", b"1")])
    assert in_process(read, path, [b"a", b"499"]) == [b"1", bytes(1_000)]
    store.close()


def test_a_reader_follows_a_map_that_another_process_grew(path):
    """The file outgrows what the reader mapped; it reads on."""
    store = LmdbStore(path, map_size=65_536)
    store.put_many([(b"a", b"1")])
    in_process(write, path, 500)
    assert store.get_many([b"a", b"499"]) == [b"1", bytes(1_000)]
    store.close()


def write(path: Path, rows: int) -> None:
    LmdbStore(path).put_many([(str(i).encode(), bytes(1_000)) for i in range(rows)])


def test_readers_go_on_while_the_map_grows(path):
    """Growing the map ends the transactions of other threads; their reads start again."""
    store = LmdbStore(path, map_size=65_536)
    store.put_many([(b"a", b"1")])
    answers: set[tuple[bytes | None, ...]] = set()
    done = threading.Event()

    def reading() -> None:
        ended = False
        while not ended:
            ended = done.is_set()
            answers.add(tuple(store.get_many([b"a"] * 50)))

    threads = [threading.Thread(target=reading) for _ in range(3)]
    for thread in threads:
        thread.start()
    for batch in range(60):
        store.put_many([(f"{batch}-{i}".encode(), bytes(2_000)) for i in range(50)])
    done.set()
    for thread in threads:
        thread.join()
    assert answers == {(b"1",) * 50}
    store.close()


def test_two_stores_of_one_path_share_an_environment(path):
    """LMDB allows one environment for each path and process; closing one leaves the other."""
    one, two = LmdbStore(path), LmdbStore(path)
    one.put_many([(b"a", b"1")])
    assert two.get_many([b"a"]) == [b"1"]
    one.close()
    assert two.get_many([b"a"]) == [b"1"]
    two.close()


def test_a_closed_store_opens_again_when_used(path):
    """A store is an address; what is open behind it comes and goes."""
    store = LmdbStore(path)
    store.put_many([(b"a", b"1")])
    store.close()
    assert store.get_many([b"a"]) == [b"1"]
    store.close()


def test_a_forked_child_reads_through_its_own_environment(path):
    """Servers fork their workers after the first read."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from tidemark.online.stores.lmdb import LmdbStore\n"
        "store = LmdbStore(Path(sys.argv[1])); store.put_many([(b'a', b'1')])\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(store.get_many([b'a']) != [b'1'])\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == 0


def test_a_lock_that_another_process_holds_names_it(path):
    """The second process is told which process to wait for."""
    store = LmdbStore(path)
    with store.lock("materialize"):
        message = in_process(try_lock, path)
    assert f"Process {os.getpid()} is busy with: materialize." in message
    assert in_process(try_lock, path) == "free"


def try_lock(path: Path) -> str:
    try:
        with LmdbStore(path).lock("materialize"):
            return "free"
    except StoreUnavailable as error:
        return str(error)


def test_a_file_in_the_way_is_said(path):
    """A path that is a file cannot be a store."""
    path.write_text("not a directory")
    with pytest.raises(StoreUnavailable, match="A file is in the way") as caught:
        LmdbStore(path).put_many([(b"a", b"1")])
    assert caught.value.where == str(path)
    assert path.read_text() == "not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_directory_that_is_not_writable_is_said(tmp_path):
    """The remedy is a permission or another directory."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreUnavailable, match="Make the directory writable"):
        LmdbStore(tmp_path / "online").put_many([(b"a", b"1")])


def fill(path: Path, limit: int) -> tuple[str, list[bytes | None]]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    store = LmdbStore(path)
    store.put_many([(b"a", b"1")])
    try:
        store.put_many([(str(i).encode(), bytes(4_000)) for i in range(1_000)])
    except StoreUnavailable as error:
        return str(error), store.get_many([b"a", b"1"])
    return "written", []


def test_a_disk_that_is_full_loses_nothing(path):
    """The batch is refused as a whole, what was there stays, and reading goes on."""
    message, rows = in_process(fill, path, 1_000_000)
    assert "nothing was written" in message
    assert rows == [b"1", None]


def test_a_damaged_file_is_refused(path):
    """Something else under the store's name is not read as if it were empty."""
    path.mkdir()
    (path / "data.mdb").write_bytes(b"nonsense" * 4_096)
    with pytest.raises(StoreUnavailable, match="The online store refused"):
        LmdbStore(path).get_many([b"a"])
