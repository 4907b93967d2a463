"""The HTTP service on Redis: what Redis does to one request, it does to no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import redis_server
from tests.spec.http_server import Direct, serving  # skips where the extra is not installed
from tests.spec.served import make_project

import tidemark as tm
from tidemark.apps.http import Limits
from tidemark.apps.http.service import Service

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


def test_a_slow_read_does_not_delay_another(project: Path) -> None:
    """The event loop asks Redis in other threads."""
    with tm.connect(project) as store:
        service = Service(store, Limits())
        service.access.refresh()
        get_many, quick_one_is_back = store._online.get_many, threading.Event()

        def answer(keys: Any) -> Any:
            found = get_many(keys)
            if any(b"ada" in key for key in keys):
                assert quick_one_is_back.wait(60)
            return found

        store._online.get_many = answer  # type: ignore[method-assign]
        served = Direct(service)
        statuses: list[int] = []
        slow = threading.Thread(target=lambda: statuses.append(ask(served, SLOW)))
        slow.start()
        statuses.append(ask(served, QUICK))
        quick_one_is_back.set()
        slow.join()
        assert statuses == [200, 200]


def ask(served: Direct, body: object) -> int:
    return served.ask("POST", READ, body)[0]


def test_a_redis_that_hangs_is_told_in_bounded_time(
    project: Path, redis: redis_server.RedisServer
) -> None:
    """Reads are 503, readiness is 503, the process lives; when Redis is back, so are the values."""
    with serving(project) as server:
        assert server.post(READ, SLOW)[0] == 200
        redis.pause()
        began = time.monotonic()
        status, headers, body = server.ask("POST", READ, SLOW)
        assert (status, headers["retry-after"], body["retryable"]) == (503, "1", True)
        assert time.monotonic() - began < 10
        assert server.ask("GET", "/readyz")[0] == 503
        assert server.ask("GET", "/healthz")[0] == 200
        redis.kill()
        redis.start()
        assert server.ask("GET", "/readyz")[0] == 200
        assert server.post(READ, SLOW)[0] == 409  # this Redis keeps nothing on disk


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
        told_while_they_waited = len(statuses) < 20
        for each in reads:
            each.join()
        assert statuses == [503] * 20
        assert told_while_they_waited
