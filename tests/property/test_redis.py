"""What holds of the embedded store holds on Redis: same bytes, same values, and no half states."""

import threading
from dataclasses import replace

import pytest
from msgspec import structs
from tests.oracle import bits
from tests.property import worlds
from tests.property.test_online import TREES, compare, forced
from tests.property.worlds import moment, store_of
from tests.spec.shop import NOON, bought
from tests.spec.test_materialize import LOWERED, count, lowered_outputs, run

from tidemark.errors import StaleSource, StoreUnavailable
from tidemark.model.window import HOUR
from tidemark.online.stores.memory import MemoryStore
from tidemark.online.stores.redis import RedisStore
from tidemark.serve import Reader

USERS = [f"u{n}" for n in range(50)]


@pytest.fixture
def online(redis_url):
    online = RedisStore(redis_url)
    yield online
    online.close()


@pytest.fixture
def mortal(redis_server):
    """A store whose server the test may kill."""
    online = RedisStore(redis_server.url)
    yield online
    online.close()


@pytest.mark.parametrize("where", ["redis_url", "cluster_url"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_vector_is_the_training_row(seed, large, where, request, tmp_path, monkeypatch):
    """Asked as of every moment of the labels, by `==`; with rows, and with trees."""
    address = request.getfixturevalue(where)
    world = worlds.make(seed)
    if large:
        forced(monkeypatch, TREES[seed], seed)
    with store_of(world, project=tmp_path, name="world", online=address) as store:
        compare(world, store)


@pytest.mark.parametrize("seed", range(2))
def test_statuses_and_ages_are_those_of_the_embedded_store(seed, redis_url, tmp_path):
    """Entity by entity and feature by feature; the oracle checks the embedded one."""
    world = worlds.make(seed, asked=40)
    world = replace(world, view=structs.replace(world.view, max_age=HOUR))
    last = moment(max(t for _, t in world.asked))
    with (
        store_of(world) as embedded,
        store_of(world, project=tmp_path, name="world", online=redis_url) as shared,
    ):
        embedded.materialize(until=last)
        shared.materialize(until=last)
        for key, t in world.asked:
            keys = dict(zip(world.view.keys, key, strict=True))
            one, two = (s.online(world.names, keys, at=moment(t)) for s in (embedded, shared))
            for name in (feature.name for feature in world.view.features):
                assert bits(one[name]) == bits(two[name])
                assert one.status(name) == two.status(name)
                assert one.age(name) == two.age(name)


def test_the_same_history_gives_the_same_bytes_under_the_same_keys(online):
    """A dump of one store could be loaded into the other."""
    embedded = MemoryStore()
    rows = [bought(user, NOON) for user in USERS]
    run(embedded, *rows)
    run(online, *rows)
    assert len(embedded._rows) == 2 * len(USERS) + 4
    assert online.get_many(list(embedded._rows)) == list(embedded._rows.values())
    assert online._server.client.dbsize() == len(embedded._rows)


def test_materializing_again_replaces(online):
    """Only one generation is kept."""
    run(online, bought("u1", NOON), bought("u2", NOON))
    before = online._server.client.dbsize()
    run(online, bought("u2", NOON), bought("u2", NOON), bought("u3", NOON))
    assert (count(online, "u1"), count(online, "u2")) == (0, 2)
    assert online._server.client.dbsize() == before


class Dying:
    """A store that ends its server after some writes, and passes everything else on."""

    def __init__(self, online, server, writes):
        self.online, self.server, self.writes = online, server, writes

    def __getattr__(self, name):
        return getattr(self.online, name)

    def put_many(self, items, **conditions):
        if self.writes == 0:
            self.server()
        self.writes -= 1
        self.online.put_many(items, **conditions)


@pytest.mark.parametrize("writes", range(8))
def test_a_server_killed_in_the_middle_is_said(writes, mortal, redis_server):
    """Whichever write it happens at: the error is clear, and nothing hangs."""
    reader = seen_once(mortal)
    with pytest.raises(StoreUnavailable, match="Redis does not answer"):
        run(Dying(mortal, redis_server.kill, writes), *(bought(user, NOON) for user in USERS * 2))
    with pytest.raises(StoreUnavailable, match="redis-server --port"):
        reader.online_many({"user_id": USERS}, at=NOON)


@pytest.mark.parametrize("writes", range(8))
def test_a_server_that_comes_back_with_its_data_serves_one_state(writes, mortal):
    """Its connections break at any write: readers have the old state or the new one, whole."""
    reader = seen_once(mortal)

    def broken():
        raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable, match="gone"):
        run(Dying(mortal, broken, writes), *(bought(user, NOON) for user in USERS * 2))
    visits = set(reader.online_many({"user_id": USERS}, at=NOON).values("visits"))
    assert visits == ({1} if writes <= 4 else {2})
    run(mortal, *(bought(user, NOON) for user in USERS * 2))
    assert set(reader.online_many({"user_id": USERS}, at=NOON).values("visits")) == {2}


def test_a_server_that_comes_back_empty_is_an_error(mortal, redis_server):
    """Not entities that nobody knows: the features are not materialized, until they are again."""
    reader = seen_once(mortal)
    redis_server.kill()
    redis_server.start()
    with pytest.raises(StaleSource, match="no online state yet of habits:visits@1") as caught:
        reader.online({"user_id": "u1"}, at=NOON)
    assert "tidemark materialize habits" in caught.value.remedy
    run(mortal, bought("u1", NOON), bought("u1", NOON))
    assert reader.online({"user_id": "u1"}, at=NOON)["visits"] == 2


def test_a_server_that_loses_its_data_in_the_middle_gets_no_half_state(mortal, redis_server):
    """The lock went with the data, so the rest is refused."""
    run(mortal, bought("u1", NOON))

    def restart():
        redis_server.kill()
        redis_server.start()

    with pytest.raises(StoreUnavailable, match="lost its lock"):
        run(Dying(mortal, restart, 1), *(bought(user, NOON) for user in USERS))
    with pytest.raises(StaleSource):
        count(mortal, "u1")


def test_readers_see_one_generation_whatever_happens(mortal, redis_server):
    """While states are written and the server is lost twice: one state, whole, or an error."""
    reader = seen_once(mortal)
    seen: set[object] = set()
    done = threading.Event()

    def read() -> None:
        ended = False
        while not ended:
            ended = done.is_set()  # what is there in the end is read in any case
            try:
                vectors = reader.online_many({"user_id": USERS}, at=NOON)
                seen.add(frozenset(vectors.values("visits")))
            except (StoreUnavailable, StaleSource) as error:
                seen.add(type(error))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        for times in (2, 3, 1):
            run(mortal, *(bought(user, NOON) for user in USERS * times))
        redis_server.kill()
        redis_server.start()
    run(mortal, *(bought(user, NOON) for user in USERS))
    done.set()
    for thread in threads:
        thread.join()
    states = {frozenset({times}) for times in (1, 2, 3)}
    assert seen <= states | {StoreUnavailable, StaleSource}
    assert seen & states


def test_readers_of_a_cluster_see_one_generation(cluster_url):
    """Rows of all nodes are of the generation that the record names, while others are written."""
    online, reading = RedisStore(cluster_url), RedisStore(cluster_url)
    seen_once(online)
    reader = Reader(
        reading, LOWERED.definitions, {}, lowered_outputs("habits:visits"), project="shop"
    )
    seen: set[frozenset[object]] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            vectors = reader.online_many({"user_id": USERS}, at=NOON)
            seen.add(frozenset(vectors.values("visits")))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for times in (2, 3, 1) * 3:
        run(online, *(bought(user, NOON) for user in USERS * times))
    done.set()
    for thread in threads:
        thread.join()
    assert seen <= {frozenset({times}) for times in (1, 2, 3)}
    online.close()
    reading.close()


def seen_once(online):
    """A reader of a state in which every user came once."""
    run(online, *(bought(user, NOON) for user in USERS))
    asked = lowered_outputs("habits:visits")
    reader = Reader(online, LOWERED.definitions, {}, asked, project="shop")
    assert set(reader.online_many({"user_id": USERS}, at=NOON).values("visits")) == {1}
    return reader
