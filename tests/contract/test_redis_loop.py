"""Redis awaited in an event loop: the contract of online stores, and what only a loop can do wrong.

Whatever goes wrong ends as it does for who reads Redis in a thread.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import redis
import uvloop
from redis.crc import key_slot
from tests.redis_server import PATIENT, RedisCluster, RedisServer, free_port

from tidemark.errors import StoreUnavailable
from tidemark.online.stores.protocol import Remote, Waiting, open_store
from tidemark.online.stores.redis import RedisStore
from tidemark.online.stores.redis_loop import CONNECTIONS
from tidemark.testing import OnlineStoreContract

T = TypeVar("T")

new_loop = asyncio.new_event_loop


@pytest.fixture(autouse=True, params=[asyncio, uvloop])
def _loop(request, monkeypatch):
    """That of Python, and that of the server."""
    monkeypatch.setitem(globals(), "new_loop", request.param.new_event_loop)


class InALoop:
    """A store whose reads are awaited in an event loop of another thread."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._waiting = self._run(self._opened)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._run(lambda: self._waiting.get_many(keys))

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._waiting.close)
            self._run(self._waiting.close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._store.close()

    async def _opened(self) -> Waiting:
        return self._store.waiting()

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def awaited() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()


class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def store(self, redis_url):
        store = InALoop(RedisStore(redis_url))
        yield store
        store.close()


class TestSentinel(OnlineStoreContract):
    """The same through a Sentinel."""

    @pytest.fixture
    def store(self, sentinel_url):
        store = InALoop(RedisStore(sentinel_url))
        yield store
        store.close()


class TestCluster(OnlineStoreContract):
    """The same where keys are spread over three nodes."""

    @pytest.fixture
    def store(self, cluster_url):
        store = InALoop(RedisStore(cluster_url))
        yield store
        store.close()


def in_a_loop(url: str, work: Callable[[RedisStore, Waiting], Awaitable[T]]) -> T:
    """What the work comes to, which may leave nothing in the loop."""

    async def run() -> T:
        store = RedisStore(url)
        waiting = store.waiting()
        try:
            done = await work(store, waiting)
        finally:
            await waiting.close()
            store.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return done

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(run())


async def eventually(waiting: Waiting, keys: list[bytes]) -> list[bytes | None]:
    """The values of the keys, as soon as there are any; until then it says to try again."""
    while True:
        try:
            return await waiting.get_many(keys)
        except StoreUnavailable as error:
            assert error.retryable  # noqa: PT017


@contextmanager
def not_blocking(store: RedisStore) -> Iterator[None]:
    """Whoever reads with the blocking client meanwhile fails."""

    def refuse(keys: Sequence[bytes]) -> None:
        raise AssertionError(keys)

    store._server.read = refuse
    yield
    del store._server.read


KEYS = [str(number).encode() for number in range(50)]


@pytest.mark.parametrize("kind", ["redis_url", "sentinel_url", "cluster_url"])
def test_no_thread_waits(kind, request):
    """Except for the first answer, by which it is known where things are."""

    async def work(store: RedisStore, waiting: Waiting) -> None:
        store.put_many([(key, key) for key in KEYS])
        assert await waiting.get_many(KEYS) == KEYS
        with not_blocking(store):
            assert await waiting.get_many(KEYS) == KEYS
            assert await waiting.get_many([b"7", b"none"]) == [b"7", None]

    in_a_loop(request.getfixturevalue(kind), work)


def test_only_a_store_that_is_waited_for_is_awaited(tmp_path):
    """LMDB and memory answer at once."""
    assert isinstance(open_store("redis://cache"), Remote)
    assert not isinstance(open_store("memory:"), Remote)
    assert not isinstance(open_store("lmdb://online", tmp_path), Remote)


@pytest.mark.parametrize("kind", ["redis_url", "cluster_url"])
def test_many_reads_share_a_bounded_number_of_connections(kind, request):
    """Each gets its own values; who finds all taken waits for a turn."""

    async def work(store: RedisStore, waiting: Waiting) -> None:
        store.put_many([(key, key) for key in KEYS])
        asked = [KEYS[n % 50 :] + KEYS[: n % 50] for n in range(400)]
        assert await asyncio.gather(*map(waiting.get_many, asked)) == asked
        for node in nodes(store):
            with redis.Redis(port=node) as client:
                mine = [each for each in client.client_list() if each["cmd"] == "mget"]
            assert 1 < len(mine) <= CONNECTIONS + 4  # and what the blocking client has

    in_a_loop(request.getfixturevalue(kind), work)


def nodes(store: RedisStore) -> set[int]:
    return {store._server.place(key_slot(key))[1] for key in KEYS}


def test_closing_hangs_up(redis_server):
    """The server knows nobody any more."""
    in_a_loop(redis_server.url, lambda _, waiting: waiting.get_many(KEYS))
    with redis.Redis(port=redis_server.port) as client:
        while len(client.client_list()) > 1:
            pass


def test_a_read_that_is_given_up_leaves_nothing_to_the_next(redis_url):
    """Cancelled at any point, it takes its connection with it."""

    async def work(store: RedisStore, waiting: Waiting) -> None:
        store.put_many([(key, key) for key in KEYS])
        for turns in range(40):
            given_up = asyncio.create_task(waiting.get_many(KEYS[:25]))
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            given_up.cancel()
            assert await waiting.get_many(KEYS[25:]) == KEYS[25:]

    in_a_loop(redis_url, work)


# -------------------------------------------------------------------------------- what goes wrong


async def failing(waiting: Waiting) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        await waiting.get_many([b"a"])
    return caught.value


def alike(error: StoreUnavailable, store: RedisStore) -> None:
    """The same is said to who reads in a thread."""
    with pytest.raises(StoreUnavailable) as caught:
        store.get_many([b"a"])
    assert str(error) == str(caught.value)


@pytest.mark.parametrize("kind", ["redis://", "redis+cluster://", "redis+sentinel://"])
def test_nobody_there_is_said_as_in_a_thread(kind):
    """At once, and without the password."""

    async def work(store: RedisStore, waiting: Waiting) -> None:
        for _ in range(2):
            error = await failing(waiting)
            assert error.retryable
            assert "secret" not in str(error)
            alike(error, store)

    service = "/main" if "sentinel" in kind else ""
    in_a_loop(f"{kind}u:secret@127.0.0.1:{free_port()}{service}{PATIENT}", work)


def test_a_wrong_password_is_said_as_in_a_thread(redis_server):
    """The right one is used."""
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("requirepass", "right")

    async def wrong(store: RedisStore, waiting: Waiting) -> None:
        error = await failing(waiting)
        assert "does not let us in" in error.what
        alike(error, store)

    async def right(store: RedisStore, waiting: Waiting) -> None:
        with not_blocking(store):
            assert await waiting.get_many([b"a"]) == [None]

    in_a_loop(redis_server.url.replace("//", "//:wrong@"), wrong)
    in_a_loop(redis_server.url.replace("//", "//:right@"), right)


def test_a_restart_costs_no_request(redis_server):
    """Connections from before are replaced, and reading goes on in the loop."""

    async def work(store: RedisStore, waiting: Waiting) -> None:
        store.put_many([(b"a", b"1")])
        assert await asyncio.gather(*(waiting.get_many([b"a"]) for _ in range(5))) == [[b"1"]] * 5
        redis_server.kill()
        redis_server.start()
        assert await asyncio.gather(*(waiting.get_many([b"a"]) for _ in range(5))) == [[None]] * 5
        with not_blocking(store):
            assert await waiting.get_many([b"a"]) == [None]

    in_a_loop(redis_server.url, work)


def test_a_connection_that_was_closed_unseen_costs_no_request(redis_url):
    """Whoever is the first to write to it reads elsewhere."""

    async def work(store: RedisStore, waiting: Any) -> None:
        store.put_many([(key, key) for key in KEYS])
        assert await waiting.get_many(KEYS) == KEYS
        ((connection,),) = waiting._idle.values()
        connection._writer.transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        assert await waiting.get_many(KEYS) == KEYS
        with not_blocking(store):
            assert await waiting.get_many(KEYS) == KEYS

    in_a_loop(redis_url, work)


def test_a_server_that_hangs_is_given_up_and_found_again(redis_server):
    """After the time for a reply, as in a thread; what it answers later is nobody's."""

    async def work(store: RedisStore, waiting: Any) -> None:
        with redis.Redis(port=redis_server.port) as client:
            client.mset({key: key for key in KEYS})
        assert await eventually(waiting, KEYS) == KEYS
        redis_server.pause()
        errors = [await failing(waiting), await failing(waiting)]
        for error in errors:
            assert "0.2 s to answer" in error.what
            alike(error, store)
        redis_server.resume()
        assert await eventually(waiting, KEYS[:3]) == KEYS[:3]
        waiting._address = replace(waiting._address, read_timeout=300.0)
        with not_blocking(store):
            assert await waiting.get_many(KEYS[3:]) == KEYS[3:]

    in_a_loop(redis_server.name + "?connect_timeout=300&read_timeout=0.2", work)


def test_a_failover_is_followed(tmp_path):
    """To the server that the Sentinels call the master now; until then it is unavailable."""
    servers = [RedisServer(tmp_path), RedisServer(tmp_path)]
    for each in servers:
        each.start()
    old, new = servers
    with redis.Redis(port=old.port) as master, redis.Redis(port=new.port) as replica:
        master.set(b"a", b"1")
        replica.replicaof("127.0.0.1", old.port)
        while replica.get(b"a") != b"1":
            pass
    file = tmp_path / "sentinel.conf"
    file.write_text(f"sentinel monitor mymaster 127.0.0.1 {old.port} 1\n")
    sentinel = RedisServer(tmp_path, str(file), "--sentinel")
    sentinel.start()

    async def work(store: RedisStore, waiting: Waiting) -> None:
        assert await waiting.get_many([b"a"]) == [b"1"]
        with redis.Redis(port=sentinel.port) as client:
            while not client.execute_command("SENTINEL REPLICAS", "mymaster"):
                pass
        old.kill()
        await failing(waiting)
        with redis.Redis(port=sentinel.port) as client:  # who was long in taking it for dead
            client.execute_command("SENTINEL SET", "mymaster", "down-after-milliseconds", 300)
        assert await eventually(waiting, [b"a"]) == [b"1"]
        with not_blocking(store):
            assert await waiting.get_many([b"a"]) == [b"1"]
        assert store._server.place(0) == ("127.0.0.1", new.port)

    try:
        in_a_loop(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster{PATIENT}", work)
    finally:
        for each in (sentinel, *servers):
            each.kill()


def test_a_slot_that_moves_is_followed(shared_cluster, cluster_url):
    """While its keys are under way, and afterwards; then reading goes on in the loop."""
    slot = key_slot(b"{e}")
    keys = [b"{e}1", b"{e}2"]

    async def work(store: RedisStore, waiting: Waiting) -> None:
        store.put_many([(key, key) for key in [*keys, *KEYS]])
        assert await waiting.get_many([*keys, *KEYS]) == [*keys, *KEYS]
        port = store._server.place(slot)[1]
        there, elsewhere = (
            redis.Redis(port=next(n.port for n in shared_cluster.servers if (n.port == port) is at))
            for at in (True, False)
        )
        with there, elsewhere:
            moving(slot, there, elsewhere)
            for key in keys:
                assert await waiting.get_many([key]) == [key]
                to = elsewhere.connection_pool.connection_kwargs["port"]
                there.execute_command("MIGRATE", "127.0.0.1", to, key, 0, 5_000)
                assert await waiting.get_many([key]) == [key]
            moved(slot, there, elsewhere)
            assert await waiting.get_many([*keys, *KEYS]) == [*keys, *KEYS]
            assert await waiting.get_many([*keys, *KEYS]) == [*keys, *KEYS]
            with not_blocking(store):
                assert await waiting.get_many([*keys, *KEYS]) == [*keys, *KEYS]
            elsewhere.delete(*keys)
            moving(slot, elsewhere, there)
            moved(slot, elsewhere, there)

    in_a_loop(cluster_url, work)
    shared_cluster.wait()


def moving(slot: int, source: redis.Redis, target: redis.Redis) -> None:
    ids = [client.execute_command("CLUSTER MYID").decode() for client in (source, target)]
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])


def moved(slot: int, source: redis.Redis, target: redis.Redis) -> None:
    name = target.execute_command("CLUSTER MYID").decode()
    for client in (target, source):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", name)


def test_a_node_that_is_down_costs_only_what_it_holds(tmp_path):
    """And when it is back, it is read in the loop as the others are."""
    cluster = RedisCluster(tmp_path)
    cluster.start()
    for server in cluster.servers:
        with redis.Redis(port=server.port) as client:
            client.config_set("cluster-require-full-coverage", "no")

    async def work(store: RedisStore, waiting: Waiting) -> None:
        store.put_many([(key, key) for key in KEYS])
        assert await waiting.get_many(KEYS) == KEYS
        down = cluster.servers[1]
        there = [key for key in KEYS if store._server.place(key_slot(key))[1] == down.port]
        others = [key for key in KEYS if key not in there]
        down.kill()
        with pytest.raises(StoreUnavailable):
            await waiting.get_many(there)
        assert await waiting.get_many(others) == others
        down.start()
        cluster.wait()
        assert await waiting.get_many([*others, *there]) == others + [None] * len(there)
        with not_blocking(store):
            assert await waiting.get_many([*others, *there]) == others + [None] * len(there)

    try:
        in_a_loop(cluster.url, work)
    finally:
        cluster.kill()
