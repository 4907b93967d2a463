"""Reads and pushes of the HTTP service: neither waits for the other, and none for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.spec.http_server import Direct, limits  # skips where the extra is not installed
from tests.spec.test_push_outside import PATH, bought, make_project

import tidemark as tm
from tidemark.apps.http.service import Service

READ, KEYS = "/v1/services/buyer/online", {"keys": {"user_id": "ada"}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("pools"))


@pytest.fixture
def store(project: Path) -> Iterator[tm.Store]:
    with tm.connect(project) as found:
        yield found


def served(store: tm.Store, **said: Any) -> Direct:
    service = Service(store, limits(**said))
    service.access.refresh()
    service._remote = True  # every read asks in another thread
    return Direct(service)


@pytest.fixture
def too_late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, everything is done in time; then nothing is."""
    over = threading.Event()

    async def wait(awaited: Any, **_: Any) -> None:
        while not over.is_set() and not all(each.done() for each in awaited):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    monkeypatch.setattr(asyncio, "wait", wait)
    return over


@contextmanager
def held(target: Any, name: str) -> Iterator[threading.Semaphore]:
    """Calls of a method that wait, until the block ends, before they do anything."""
    method, going_on, begun = getattr(target, name), threading.Event(), threading.Semaphore(0)

    def wait(*arguments: Any, **named: Any) -> Any:
        begun.release()
        assert going_on.wait(300)
        return method(*arguments, **named)

    setattr(target, name, wait)
    try:
        yield begun
    finally:
        going_on.set()
        setattr(target, name, method)


@contextmanager
def asking(direct: Direct, count: int, path: str, body: object) -> Iterator[list[Future[Any]]]:
    with ThreadPoolExecutor(count) as threads:
        yield [threads.submit(direct.ask, "POST", path, body) for _ in range(count)]


@contextmanager
def asking_while_held(
    direct: Direct, target: Any, name: str, path: str, body: object
) -> Iterator[threading.Semaphore]:
    """Twenty requests of which each hangs in the method until the block ends."""
    with ThreadPoolExecutor(20) as threads:
        with held(target, name) as begun:
            asked = [threads.submit(direct.ask, "POST", path, body) for _ in range(20)]
            yield begun
        assert {each.result()[0] for each in asked} == {200}


class TestNeitherWaits:
    def test_reads_while_pushes_hang(self, store: tm.Store) -> None:
        """More of them than there are threads."""
        direct = served(store)
        with asking_while_held(direct, store, "push", PATH, bought("a1", "ada")) as begun:
            assert begun.acquire(timeout=300)
            assert direct.ask("POST", READ, KEYS)[0] == 200

    def test_pushes_while_reads_hang(self, store: tm.Store) -> None:
        """More of them than there are threads."""
        direct = served(store)
        with asking_while_held(direct, store._online, "get_many", READ, KEYS) as begun:
            assert begun.acquire(timeout=300)
            del store._online.get_many
            assert direct.ask("POST", PATH, bought("b1", "bob"))[0] == 200


class TestTooLate:
    def test_a_push_that_goes_on(self, store: tm.Store, too_late: threading.Event) -> None:
        """It may have been taken; pushing the same again with its key takes nothing twice."""
        direct, event = served(store), bought("c1", "cyd")
        before = store._project.log.last("purchase")
        with held(store, "push") as begun, ThreadPoolExecutor(1) as thread:
            asked = thread.submit(direct.ask, "POST", PATH, event, Idempotency_Key="k1")
            assert begun.acquire(timeout=300)
            too_late.set()
            status, headers, answer = asked.result()
            assert (status, headers["retry-after"], answer["retryable"]) == (503, "1", True)
            assert "may have been taken" in answer["detail"]
            assert "safe with the same Idempotency-Key" in answer["remedy"]
        direct.service._pushing._left[0].result()
        assert store._project.log.last("purchase") == before + 1
        too_late.clear()
        status, _, answer = direct.ask("POST", PATH, event, Idempotency_Key="k1")
        assert (status, answer["accepted"], answer["position"]) == (200, 1, before + 1)
        assert store._project.log.last("purchase") == before + 1

    def test_a_push_that_has_not_begun(self, store: tm.Store, too_late: threading.Event) -> None:
        """Nothing of it was taken, and it says so."""
        direct = served(store)
        before = store._project.log.last("purchase")
        queue = direct.service._pushing._threads._work_queue
        with held(store, "push") as begun, asking(direct, 9, PATH, bought("d1", "dan")) as asked:
            for _ in range(8):  # as many as there are threads
                assert begun.acquire(timeout=300)
            while not queue.qsize():
                pass
            too_late.set()
            told = [each.result()[2]["detail"] for each in asked]
        assert sorted("nothing was taken" in each for each in told) == [False] * 8 + [True]
        for each in direct.service._pushing._left:
            each.result()
        assert store._project.log.last("purchase") == before + 1

    def test_a_place_is_kept_by_what_goes_on(
        self, store: tm.Store, too_late: threading.Event
    ) -> None:
        """Work that nobody waits for is bounded too: further pushes are shed before they begin."""
        direct, first = served(store, pushes=1), bought("e1", "eve")
        with held(store, "push") as begun, ThreadPoolExecutor(1) as thread:
            asked = thread.submit(direct.ask, "POST", PATH, first)
            assert begun.acquire(timeout=300)
            too_late.set()
            assert "may have been" in asked.result()[2]["detail"]
            too_late.clear()
            status, headers, answer = direct.ask("POST", PATH, bought("e2", "eve"))
            assert (status, headers["retry-after"]) == (503, "1")
            assert "nothing was done for this one" in answer["detail"]
            assert not begun.acquire(blocking=False)
            assert direct.ask("POST", READ, KEYS)[0] == 200
        direct.service._pushing._left[0].result()
        assert direct.ask("POST", PATH, bought("e2", "eve"))[0] == 200
