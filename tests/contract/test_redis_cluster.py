"""A Redis Cluster keeps the contract of online stores, slot by slot."""

import threading
from itertools import pairwise

import pytest
from tests.redis_server import PATIENT, RedisCluster, free_port

from tidemark.errors import StoreUnavailable
from tidemark.online.stores.redis import RedisStore
from tidemark.testing import OnlineStoreContract


class TestCluster(OnlineStoreContract):
    """The same where keys are spread over three nodes."""

    @pytest.fixture
    def store(self, cluster_url):
        store = RedisStore(cluster_url)
        yield store
        store.close()


class TestClusterWhileALockIsHeld(OnlineStoreContract):
    """The same when every write is fenced."""

    @pytest.fixture
    def store(self, cluster_url):
        store = RedisStore(cluster_url)
        with store.lock("contract"):
            yield store
        store.close()


def test_a_cluster_that_is_down_is_said_at_once():
    """With the command that asks its nodes."""
    port = free_port()
    store = RedisStore(f"redis+cluster://u:secret@127.0.0.1:{port}{PATIENT}")
    with pytest.raises(StoreUnavailable) as caught:
        store.get_many([b"a"])
    error = caught.value
    assert error.retryable
    assert f"redis-cli -h 127.0.0.1 -p {port} cluster nodes" in error.remedy
    assert "secret" not in str(error)


def test_a_restart_of_one_node_costs_only_what_it_held(tmp_path):
    """Its connections are replaced, what the others hold is there, and nothing hangs."""
    cluster = RedisCluster(tmp_path)
    cluster.start()
    store = RedisStore(cluster.url)
    keys = [str(number).encode() for number in range(100)]
    store.put_many([(key, key) for key in keys])
    cluster.servers[1].kill()
    with pytest.raises(StoreUnavailable, match=r"does not answer|refused"):
        store.get_many(keys)
    cluster.servers[1].start()
    cluster.wait()
    found = store.get_many(keys)
    assert 50 < sum(value == key for key, value in zip(keys, found, strict=True)) < 100
    store.put_many([(key, key) for key in keys])
    assert store.get_many(keys) == keys
    store.close()
    cluster.kill()


def test_what_a_cluster_cannot_write_in_one_step_ends_with_what_decides(cluster_url):
    """Whoever knows the last item, and finds it unchanged as the first key, has all others."""
    store, other = RedisStore(cluster_url), RedisStore(cluster_url)
    rows = [(str(number).encode(), b"new") for number in range(200)]
    seen: list[list[bytes | None]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(other.get_many([b"record", *(key for key, _ in rows)]))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        store.put_many([*rows, (b"record", b"%d" % number)])
        store.put_many([(b"record", b"gone")])
        store.put_many([], deletes=[key for key, _ in rows])
    done.set()
    reader.join()
    unchanged = [now for before, now in pairwise(seen) if before[0] == now[0]]
    assert [each for each in unchanged if each[0] not in {None, b"gone"} and None in each] == []
    store.close()
    other.close()
