"""Redis keeps the contract of online stores; what only a server can do wrong is said below it."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis
from tests.redis_server import PATIENT, free_port

from tidemark.apps.cli.doctor import examine
from tidemark.errors import DefinitionError, MissingExtra, NotFound, StoreUnavailable
from tidemark.online.states.keys import encode
from tidemark.online.stores.protocol import open_store
from tidemark.online.stores.redis import RedisStore
from tidemark.testing import OnlineStoreContract

LOCK = encode("l") + encode("materialize")


class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def store(self, redis_url):
        store = RedisStore(redis_url)
        yield store
        store.close()


class TestRedisWhileALockIsHeld(OnlineStoreContract):
    """The same when every write is fenced."""

    @pytest.fixture
    def store(self, redis_url):
        store = RedisStore(redis_url)
        with store.lock("contract"):
            yield store
        store.close()


class TestSentinel(OnlineStoreContract):
    """The same through a Sentinel that is asked where the server is."""

    @pytest.fixture
    def store(self, sentinel_url):
        store = RedisStore(sentinel_url)
        yield store
        store.close()


@pytest.fixture
def store(redis_url):
    store = RedisStore(redis_url)
    yield store
    store.close()


@pytest.fixture
def client(shared_redis, redis_url):
    with redis.Redis(port=shared_redis.port) as client:
        yield client


def unavailable(url: str) -> StoreUnavailable:
    """How a read from that address fails."""
    store = RedisStore(url)
    with pytest.raises(StoreUnavailable) as caught:
        store.get_many([b"a"])
    store.close()
    return caught.value


# ------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://cache:7000/3", "redis://cache:7000/3"),
        ("rediss://u:p%40ss@cache?read_timeout=.5", "rediss://cache:6379/0"),
        ("redis://[::1]:7000", "redis://[::1]:7000/0"),
        ("redis+sentinel://:pw@a,b:7/main/2", "redis+sentinel://a:26379,b:7/main/2"),
        ("redis+cluster://u:pw@a,[::1]:7000/", "redis+cluster://a:6379,[::1]:7000"),
    ],
)
def test_a_url_names_a_server_and_nothing_is_asked(url, name):
    """Neither user nor password are in the name."""
    assert open_store(url).name == name


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://u:secret/1@cache",
        "redis://u:se@cret@cache",
        "redis://u:secret#1@cache",
        "redis://:secret",
        "redis://cache:6379/words",
        "redis://a,b/0",
        "redis+sentinel://a,b",
        "redis+cluster://a,b/1",
        "redis+cluster://u:se/cret@a",
        "redis://cache?read_timeout=never",
        "redis://cache?read_timeout=0",
    ],
)
def test_an_address_that_cannot_be_read_is_not_repeated(url):
    """What stands in the wrong place may be a password."""
    with pytest.raises(DefinitionError) as caught:
        open_store(url)
    assert "cret" not in str(caught.value)
    assert "redis://[USER:PASSWORD@]HOST" in caught.value.remedy


def test_an_unknown_setting_in_an_address_is_named():
    """With the one that was meant."""
    with pytest.raises(NotFound) as caught:
        open_store("redis://cache?read_timeot=1")
    assert caught.value.remedy == "Did you mean 'read_timeout'?"


def test_an_unknown_kind_does_not_show_its_password():
    """Slips happen in the scheme, too."""
    with pytest.raises(NotFound, match="Did you mean 'redis'") as caught:
        open_store("reddis://u:secret@cache/0")
    assert "secret" not in str(caught.value)


def test_without_the_client_the_extra_is_named(monkeypatch):
    """And nothing but Redis needs it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "tidemark.online.stores.redis")
    with pytest.raises(MissingExtra, match=r"pip install 'tidemark\[redis\]'"):
        open_store("redis://cache")
    assert open_store("memory:").get_many([b"a"]) == [None]


def test_other_stores_do_not_load_the_client():
    """It costs a tenth of a second to import."""
    script = (
        "import sys, pathlib; from tidemark.online.stores.protocol import open_store\n"
        "open_store('lmdb://nowhere').get_many([b'a']); sys.exit('redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# -------------------------------------------------------------------------------- what goes wrong


def test_a_server_that_is_down_is_said_at_once():
    """With the command that starts it; trying again may help."""
    port = free_port()
    error = unavailable(f"redis://u:secret@127.0.0.1:{port}/0{PATIENT}")
    assert error.retryable
    assert error.where == f"redis://127.0.0.1:{port}/0"
    assert f"redis-server --port {port}" in error.remedy
    assert "secret" not in str(error)


def test_sentinels_that_are_down_are_said_at_once():
    """With the command that asks them."""
    port = free_port()
    error = unavailable(f"redis+sentinel://u:secret@127.0.0.1:{port}/main/0{PATIENT}")
    assert f"redis-cli -h 127.0.0.1 -p {port} sentinel masters" in error.remedy
    assert "secret" not in str(error)


def test_a_server_that_hangs_is_given_up(redis_server):
    """After the time for a reply, and once."""
    redis_server.pause()
    error = unavailable(redis_server.name + "?connect_timeout=300&read_timeout=0.05")
    assert "0.05 s" in error.what
    assert "read_timeout" in error.remedy


def test_a_write_to_a_server_that_is_down_is_refused():
    """So are deletes and locks."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}{PATIENT}")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.put_many([(b"a", b"1")])
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.delete(b"a")
    with pytest.raises(StoreUnavailable, match="does not answer"), store.lock("materialize"):
        pass


def test_a_restart_costs_no_request(redis_server):
    """The connection from before is replaced by a new one."""
    store = RedisStore(redis_server.url)
    store.put_many([(b"a", b"1")])
    redis_server.kill()
    redis_server.start()
    assert store.get_many([b"a"]) == [None]
    store.close()


def test_a_wrong_password_is_said_without_it(redis_server):
    """The remedy is the form of the address."""
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("requirepass", "right")
    error = unavailable(redis_server.url.replace("//", "//:wrong@"))
    assert "does not let us in" in error.what
    assert "wrong@" not in str(error)
    assert "USER:PASSWORD@" in error.remedy
    store = RedisStore(redis_server.url.replace("//", "//:right@"))
    assert store.get_many([b"a"]) == [None]
    store.close()


def test_a_full_server_loses_nothing(redis_server):
    """The batch is refused as a whole, what was there stays, and reading goes on."""
    store = RedisStore(redis_server.url)
    store.put_many([(b"a", b"1")])
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("maxmemory", "1mb")
    with pytest.raises(StoreUnavailable, match="no memory left"):
        store.put_many([(b"b", bytes(2_000_000)), (b"a", b"2")])
    assert store.get_many([b"a", b"b"]) == [b"1", None]
    store.close()


def test_what_is_refused_in_a_transaction_does_not_tell_the_rows(redis_server):
    """The client repeats the command; whoever pushes after it need not know of whom it was."""
    store = RedisStore(redis_server.url)
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("min-replicas-to-write", "1")
    with pytest.raises(StoreUnavailable, match="Not enough good replicas") as caught:
        store.put_many([(b"somebody", b"1")], expect={b"other": None})
    assert "somebody" not in str(caught.value)
    store.close()


def test_a_server_that_drops_keys_is_refused(redis_server):
    """An entity whose row was dropped would look like one that was never seen."""
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    store = RedisStore(redis_server.url)
    with pytest.raises(StoreUnavailable, match="allkeys-lru") as caught, store.lock("materialize"):
        pass
    assert "noeviction" in caught.value.remedy
    store.close()


def test_doctor_says_whether_it_can_be_reached(redis_server, tmp_path):
    """With the remedy when it cannot, and never with the password."""
    address = redis_server.url.replace("//", "//default:secret@")
    (tmp_path / "tidemark.toml").write_text(f'online = "{address}"\n')
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("requirepass", "secret")
    well, found = online_check(tmp_path)
    assert well
    assert found == redis_server.url.replace("//", "//...@")
    redis_server.kill()
    well, found = online_check(tmp_path)
    assert well is False
    assert f"redis-server --port {redis_server.port}" in found
    assert "secret" not in found


def online_check(project: Path) -> tuple[bool | None, str]:
    (check,) = [each for each in examine(str(project)).checks if each.name == "online store"]
    return check.well, check.found


# ------------------------------------------------------------------------------ bytes and batches


def test_a_prefix_is_bytes_and_not_a_pattern(store):
    """What Redis takes for wildcards is deleted as it is written."""
    near = [b"a*b", b"a?b", b"a[x]b", b"a\\b", b"a^b-", b"axb", b"a\xff\x00b", b"a\n"]
    for prefix in near:
        store.put_many([(key + b"1", b"") for key in near])
        assert store.delete(prefix) == 1
        assert [key for key in near if store.get_many([key + b"1"]) == [None]] == [prefix]


def test_a_large_batch_is_written_in_the_order_of_its_items(store, client):
    """Whoever sees the last item can rely on the others: what decides is put last."""
    seen: list[list[bytes | None]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(store.get_many([b"last", b"0", b"9"]))

    reader = threading.Thread(target=read)
    reader.start()
    rows = [(str(i).encode(), bytes(2_000_000)) for i in range(10)]
    store.put_many([*rows, (b"last", b"")])
    done.set()
    reader.join()
    assert client.dbsize() == 11
    assert [found for found in seen if found[0] is not None and None in found] == []


def test_many_threads_read_at_once(store):
    """Each has a connection of its own."""
    store.put_many([(str(i).encode(), bytes([i])) for i in range(16)])
    wrong: list[object] = []

    def read(i: int) -> None:
        for _ in range(100):
            if store.get_many([str(i).encode()]) != [bytes([i])]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_reader_reads_too(redis_url):
    """Servers fork their workers after the first read."""
    script = (
        "import os, sys; from tidemark.online.stores.redis import RedisStore\n"
        "store = RedisStore(sys.argv[1]); store.put_many([(b'a', b'1')])\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(store.get_many([b'a']) != [b'1'])\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "sys.exit(code or store.get_many([b'a']) != [b'1'])"
    )
    assert subprocess.run([sys.executable, "-c", script, redis_url], check=False).returncode == 0


# ----------------------------------------------------------------------------------------- locks


def test_a_lock_that_is_held_names_its_holder(store, redis_url):
    """The process and the host; afterwards it is free."""
    other = RedisStore(redis_url)
    with (
        store.lock("materialize"),
        pytest.raises(StoreUnavailable) as caught,
        other.lock("materialize"),
    ):
        pass
    holder = f"Process {os.getpid()} on {socket.gethostname()}"
    assert caught.value.what == f"{holder} is busy with: materialize."
    with other.lock("materialize"):
        pass
    other.close()


def test_the_lock_of_a_process_that_died_ends_by_itself(redis_url, client):
    """It is a key that expires."""
    store = RedisStore(redis_url, lease=300.0)
    with store.lock("materialize"):
        assert 0 < client.pttl(LOCK) <= 300_000
    assert client.get(LOCK) is None
    store.close()


def test_a_lock_is_renewed_while_it_is_held(redis_url, client):
    """A minute that somebody gave it becomes the lease again."""
    store = RedisStore(redis_url, lease=0.3)
    with store.lock("materialize"):
        client.pexpire(LOCK, 60_000)
        while client.pttl(LOCK) > 300:
            pass
    store.close()


def test_a_renewal_in_the_middle_of_a_write_costs_nothing(store, client, monkeypatch):
    """It touches what the write watches; the write is sent again."""
    multi = redis.client.Pipeline.multi
    touched: list[int] = []

    def renewed(pipeline: redis.client.Pipeline) -> None:
        if len(touched) < 3:
            touched.append(client.pexpire(LOCK, 10_000))
        multi(pipeline)

    monkeypatch.setattr(redis.client.Pipeline, "multi", renewed)
    with store.lock("materialize"):
        store.put_many([(b"a", b"1")])
    assert touched == [True] * 3
    assert store.get_many([b"a"]) == [b"1"]


def test_whoever_lost_a_lock_cannot_write(store, client):
    """Somebody else may be writing by now."""
    with store.lock("materialize"):
        store.put_many([(b"a", b"1")])
        client.set(LOCK, b"Process 1 on elsewhere\x00token")
        with pytest.raises(StoreUnavailable, match="lost its lock"):
            store.put_many([(b"a", b"2")])
        with pytest.raises(StoreUnavailable, match="lost its lock"):
            store.delete(b"a")
    assert store.get_many([b"a"]) == [b"1"]


def test_letting_go_leaves_the_lock_of_another(store, client):
    """Only its own token is deleted."""
    with store.lock("materialize"):
        client.set(LOCK, b"another")
    assert client.get(LOCK) == b"another"


def test_a_lock_whose_server_goes_away_does_not_hide_the_error(redis_server):
    """What is raised inside comes out."""
    store = RedisStore(redis_server.url)
    with pytest.raises(RuntimeError, match="the holder's own"), store.lock("materialize"):
        redis_server.kill()
        raise RuntimeError("the holder's own")
    store.close()


def test_the_documented_permissions_suffice(redis_server):
    """A user who may do nothing else can read, write, delete and lock."""
    page = (Path(__file__).parents[2] / "docs/how-to/redis.md").read_text("utf-8")
    commands = page.split("| Permissions | `")[1].split("`")[0].lower().split()
    with redis.Redis(port=redis_server.port) as client:
        rules = ["~*", "-@all", *(f"+{command}" for command in commands)]
        client.execute_command("ACL", "SETUSER", "tidemark", "on", ">secret", *rules)
    store = RedisStore(redis_server.url.replace("//", "//tidemark:secret@"))
    store.put_many([(b"a", b"1")])
    with store.lock("materialize"):
        store.put_many([(b"b", b"2")])
        assert store.delete(b"a") == 1
    with store.lock("materialize"):
        assert store.get_many([b"a", b"b"]) == [None, b"2"]
    store.close()
