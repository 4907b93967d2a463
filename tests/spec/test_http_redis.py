"""The HTTP service on Redis: what Redis does to one request, it does to no other."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client
from tests import redis_server
from tests.spec.http_server import Direct, limits, living, serving  # skips without the extra
from tests.spec.served import make_project

import tidemark as tm
from tidemark.apps.http.service import Service

ARROW = "application/vnd.apache.arrow.stream"
READ = "/v1/services/everything/online"
SLOW, QUICK = {"keys": {"user_id": "ada"}}, {"keys": {"user_id": "nan"}}


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis_server.RedisServer]:
    redis_server.required()
    server = redis_server.RedisServer(tmp_path)
    server.start()
    monkeypatch.setenv("TIDEMARK_ONLINE", server.url)
    yield server
    server.kill()


@pytest.fixture
def project(redis: redis_server.RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("redis"))


def live(project: Path, work: Callable[[Direct], Awaitable[None]], **said: Any) -> None:
    """Do the work with a service of the project, which leaves nothing in the event loop."""

    async def run() -> None:
        with tm.connect(project) as store:
            service = Service(store, limits(**said))
            async with living(service) as served:
                await work(served)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


async def status(served: Direct, body: object) -> int:
    return (await served.asked("POST", READ, body))[0]


@contextmanager
def read_in_a_thread(store: tm.Store) -> Iterator[list[Any]]:
    """The keys that are read with the blocking client meanwhile."""
    asked: list[Any] = []
    get_many = store._online.get_many

    def noted(keys: Any) -> Any:
        asked.append(keys)
        return get_many(keys)

    store._online.get_many = noted  # type: ignore[method-assign]
    yield asked
    del store._online.get_many


NAMES = ["activity:events", "activity:amounts", "recent:items"]
FEATURES, TOLD = "/v1/features/online", "/v1/services/asked/online"
REQUEST = {"amount": 1.5, "price": "2.50", "count": 3, "day": None, "moment": None, "blob": None}


MOMENT = "2026-03-03T00:00:00Z"
SEVERAL = [
    (READ, {"keys": {"user_id": "ada"}, "at": MOMENT}),
    (READ, {"keys": {"user_id": "nobody"}, "at": MOMENT}),
    (READ, {"keys": [{"user_id": "ada"}, {"user_id": "nan"}, {"user_id": "ada"}], "at": MOMENT}),
    (READ, {"keys": {"user_id": [f"u{n}" for n in range(99)] + ["ada"]}, "at": MOMENT}),
    (READ, {"keys": {"user_id": [f"u{n}" for n in range(5_000)]}, "at": MOMENT}),
    (READ, {"keys": {"user_id": []}, "at": MOMENT}),
    (TOLD, {"keys": {"user_id": "ada"}, "request": REQUEST, "at": MOMENT}),
    (FEATURES, {"features": NAMES, "keys": {"user_id": "ada"}, "at": MOMENT}),
    (FEATURES, {"features": ["activity:nothing"], "keys": {"user_id": "ada"}}),
    (READ, {"keys": {"user_id": 7}}),
    (READ, {"keys": {"user_id": "ada"}, "at": "yesterday"}),
    (READ, b"{"),
    ("/v1/services/nothing/online", {"keys": {}}),
]


@pytest.mark.parametrize("accept", ["application/json", ARROW])
def test_what_is_awaited_is_answered_as_in_a_thread(project: Path, accept: str) -> None:
    """The same bytes, for one and many, here and there, and for what cannot be answered."""
    headers = {"x-request-id": "r1", "accept": accept}
    with tm.connect(project) as store:
        service = Service(store, limits())
        service.access.refresh()
        in_threads = [Direct(service).ask("POST", *each, **headers) for each in SEVERAL]
    assert [code for code, _, _ in in_threads] == [200] * 8 + [404, 422, 422, 400, 404]

    async def work(served: Direct) -> None:
        for _ in range(2):
            assert [await served.asked("POST", *each, **headers) for each in SEVERAL] == in_threads

    live(project, work)


def test_no_thread_waits_for_redis(project: Path) -> None:
    """Once it is known where it is, and how what is asked for is read; unless it is very much."""
    named = {"features": NAMES, "keys": {"user_id": "ada"}}
    many = {"keys": {"user_id": [f"u{n}" for n in range(500)]}}

    async def work(served: Direct) -> None:
        for body in (SLOW, many):
            assert await status(served, body) == 200
        assert (await served.asked("POST", FEATURES, named))[0] == 200
        with read_in_a_thread(served.service.store) as asked:
            for body in (SLOW, QUICK):
                assert await status(served, body) == 200
            assert (await served.asked("POST", FEATURES, named))[0] == 200
            of_users = [key for keys in asked for key in keys if b"ada" in key or b"nan" in key]
            assert of_users == []
            assert await status(served, many) == 200
            assert [len(keys) for keys in asked if len(keys) > 100] == [1_002]

    live(project, work)


def test_a_slow_read_does_not_delay_another(project: Path) -> None:
    """Each waits for its own values."""

    async def work(served: Direct) -> None:
        waiting, quick_one_is_back = served.service._waiting, asyncio.Event()
        get_many = waiting.get_many

        async def answer(keys: Any) -> Any:
            found = await get_many(keys)
            if any(b"ada" in key for key in keys):
                await quick_one_is_back.wait()
            return found

        waiting.get_many = answer
        slow = asyncio.create_task(status(served, SLOW))
        assert await status(served, QUICK) == 200
        assert not slow.done()
        quick_one_is_back.set()
        assert await slow == 200

    live(project, work)


def test_a_read_that_takes_too_long_is_ended(project: Path) -> None:
    """Its caller may come again, and nothing of it goes on."""

    async def work(served: Direct) -> None:
        ended = asyncio.Event()

        async def answer(_keys: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        assert await status(served, SLOW) == 200
        waiting, served.service._reading._seconds = served.service._waiting, 0.1
        get_many, waiting.get_many = waiting.get_many, answer
        code, headers, body = await served.asked("POST", READ, SLOW)
        assert (code, headers["retry-after"], body["retryable"]) == (503, "1", True)
        assert ended.is_set()
        waiting.get_many = get_many

    live(project, work)


def test_whoever_comes_when_too_many_wait_is_told_at_once(project: Path) -> None:
    """Nothing is asked for it, and the others are answered."""

    async def work(served: Direct) -> None:
        waiting, going_on = served.service._waiting, asyncio.Event()
        get_many, asked = waiting.get_many, asyncio.Semaphore(0)

        async def answer(keys: Any) -> Any:
            asked.release()
            await going_on.wait()
            return await get_many(keys)

        assert await status(served, SLOW) == 200
        waiting.get_many = answer
        waits = [asyncio.create_task(status(served, QUICK)) for _ in range(5)]
        for _ in waits:
            await asked.acquire()
        assert await status(served, QUICK) == 503
        assert asked.locked()
        going_on.set()
        assert await asyncio.gather(*waits) == [200] * 5

    live(project, work, waiting=5)


def test_reads_under_way_when_redis_dies_are_told(
    project: Path, redis: redis_server.RedisServer
) -> None:
    """Each is 503 and may be asked again; the next one is answered as soon as Redis is back."""

    async def work(served: Direct) -> None:
        assert await asyncio.gather(*(status(served, QUICK) for _ in range(20))) == [200] * 20
        redis.pause()
        waits = [asyncio.create_task(served.asked("POST", READ, SLOW)) for _ in range(20)]
        for _ in range(20):
            await asyncio.sleep(0)
        redis.kill()
        told = [(code, body["retryable"]) for code, _, body in await asyncio.gather(*waits)]
        assert told == [(503, True)] * 20
        redis.start()
        assert await status(served, SLOW) == 409  # this Redis keeps nothing on disk
        served.service.store.materialize()
        assert await status(served, SLOW) == 200

    live(project, work)


def test_nothing_is_left_when_it_ends(
    project: Path, redis: redis_server.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection stays, and the process says nothing."""
    monkeypatch.setenv("PYTHONWARNINGS", "always::ResourceWarning")
    with serving(project) as server:
        assert server.post(READ, SLOW)[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=300) == 0
        said = server.process.stderr.read()
    assert "Warning" not in said
    assert "Error" not in said
    with Client(port=redis.port) as client:
        while len(client.client_list()) > 1:
            pass


def told(ask: Callable[[], int]) -> int:
    """A status, once it is another one than 503, which says to come again."""
    while (status := ask()) == 503:
        pass
    return status


def test_a_redis_that_hangs_is_told_while_it_does(
    project: Path, redis: redis_server.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads are 503, readiness is 503, the process lives; when Redis is back, so are the values."""
    monkeypatch.setenv("TIDEMARK_ONLINE", redis.name)
    with serving(project) as server:
        assert told(lambda: server.post(READ, SLOW)[0]) == 200
        redis.pause()
        status, headers, body = server.ask("POST", READ, SLOW)
        assert (status, headers["retry-after"], body["retryable"]) == (503, "1", True)
        assert server.ask("GET", "/readyz")[0] == 503
        assert server.ask("GET", "/healthz")[0] == 200
        redis.kill()
        redis.start()
        assert told(lambda: server.ask("GET", "/readyz")[0]) == 200
        assert told(lambda: server.post(READ, SLOW)[0]) == 409  # this Redis keeps nothing on disk


def test_the_health_of_others_is_told_while_redis_hangs(
    project: Path, redis: redis_server.RedisServer
) -> None:
    """Nobody waits behind a read that gets no answer."""
    with serving(project) as server:
        assert server.post(READ, SLOW)[0] == 200
        redis.pause()
        statuses: list[int] = []
        reads = [
            threading.Thread(target=lambda: statuses.append(server.post(READ, SLOW)[0]))
            for _ in range(20)
        ]
        for each in reads:
            each.start()
        assert server.ask("GET", "/healthz")[0] == 200
        assert statuses == []
        redis.kill()
        for each in reads:
            each.join()
        assert statuses == [503] * 20
