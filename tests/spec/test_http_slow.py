"""Callers who send or read slowly, and callers in great number, block nobody else."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.spec.http_server import (  # skips where the extra is not installed
    Direct,
    Server,
    again,
    limits,
    serving,
)
from tests.spec.served import make_project

import tidemark as tm
from tidemark.apps.http import Limits, arriving
from tidemark.apps.http.arriving import Arriving
from tidemark.apps.http.problems import Refused
from tidemark.apps.http.service import Service

READ, KEYS = "/v1/services/everything/online", {"keys": {"user_id": "ada"}}
PUSH, EVENT = "/v1/sources/purchase/events", [{"user_id": "ada", "amount": 1.0}]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is served."""
    return make_project(tmp_path_factory.mktemp("slow"))


@contextmanager
def stalling(server: Server, path: str) -> Iterator[socket.socket]:
    """A connection over which the beginning of a body has been sent, after it was asked for."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection:
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"[")
        yield connection


@pytest.fixture(autouse=True)
def _nobody_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is held up in a test counts as slow only where the test says so."""
    monkeypatch.setattr(arriving, "SLOW_SECONDS", float("inf"))


class TestBodies:
    def test_slow_ones_take_no_place_from_others(self, project: Path) -> None:
        """More of them than may wait, of reads and of pushes; the others are answered at once."""
        with ExitStack() as stack:
            server = stack.enter_context(serving(project, waiting=2, pushes=2))
            for path in [READ, PUSH] * 4:
                stack.enter_context(stalling(server, path))
            assert server.post(READ, KEYS)[0] == 200
            assert server.post(PUSH, EVENT)[0] != 503

    def test_one_that_is_there_needs_a_place(self, project: Path) -> None:
        """If others have taken all meanwhile, it is told to come again."""
        with tm.connect(project) as store:
            service = Service(store, limits(waiting=1))
            service.access.refresh()

            async def meanwhile() -> dict[str, Any]:
                taken.enter_context(service._reading.place())
                return {"type": "http.request", "body": json.dumps(KEYS).encode()}

            with ExitStack() as taken:
                status, headers, told = asyncio.run(asked(service, meanwhile))
            assert (status, headers["retry-after"]) == (503, "1")
            assert "nothing was done for this one" in told["detail"]
            assert Direct(service).ask("POST", READ, KEYS)[0] == 200

    def test_the_slowest_makes_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If too many are on their way, who has been sending for longest is told to come again."""
        monkeypatch.setattr(arriving, "SLOW_SECONDS", 0.0)
        bodies = Bodies(limits(arriving=2))
        assert asyncio.run(bodies.outcomes([b"1"], [b"2"], [b"3"])) == [503, b"2", b"3"]

    def test_who_comes_new_does_if_nobody_is_slow(self) -> None:
        """Those who have just begun are let finish."""
        bodies = Bodies(limits(arriving=2))
        assert asyncio.run(bodies.outcomes([b"1"], [b"2"], [b"3"])) == [b"1", b"2", 503]

    def test_their_bytes_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By what the pushes that may wait would hold."""
        bounds = limits(pushes=1, events=10)
        whole = [b"123456"], [b"123456"]
        assert asyncio.run(Bodies(bounds).outcomes(*whole)) == [b"123456", 503]
        monkeypatch.setattr(arriving, "SLOW_SECONDS", 0.0)
        assert asyncio.run(Bodies(bounds).outcomes(*whole)) == [503, b"123456"]

    def test_what_has_left_counts_no_more(self) -> None:
        """Whether it was whole, refused or given up."""
        bodies = Bodies(limits(arriving=1, pushes=2, events=3))
        for _ in range(3):
            assert asyncio.run(bodies.outcomes([b"123"], [b"4"])) == [b"123", 503]
            assert asyncio.run(bodies.outcomes([b"1234"])) == [413]


class Bodies:
    """Bodies that begin to arrive one after the other, and go on when all have begun."""

    def __init__(self, limits: Limits) -> None:
        self.arriving, self.limits = Arriving(limits), limits

    async def outcomes(self, *bodies: list[bytes]) -> list[bytes | int]:
        """Each body as it arrived, or the status that it was refused with."""
        going_on = asyncio.Event()

        async def one(parts: list[bytes]) -> bytes | int:
            left = [*parts, b""]

            async def receive() -> dict[str, Any]:
                if len(left) == 1:
                    await going_on.wait()
                part = left.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(left)}

            try:
                return await self.arriving.whole(receive, {}, self.limits.events)
            except Refused as refused:
                return refused.status

        tasks = [asyncio.create_task(one(parts)) for parts in bodies]
        for _ in range(20):
            await asyncio.sleep(0)
        going_on.set()
        return await asyncio.gather(*tasks)


async def asked(service: Service, receive: Any) -> tuple[int, dict[str, str], Any]:
    """What a read is answered whose body comes from `receive`."""
    direct = Direct(service)

    async def called(scope: Any, _receive: Any, send: Any) -> None:
        await service(scope, receive, send)

    direct.service = called
    return await direct.asked("POST", READ)


def status_of(server: Server) -> int:
    """What a new connection is answered; 503 also where it is ended before that can be read."""
    try:
        return server.ask("GET", "/healthz")[0]
    except ConnectionError:
        return 503


class TestConnections:
    def test_one_without_a_request_makes_room(self, project: Path) -> None:
        """The one that has been without for longest; where all have one, nobody is let in."""
        with serving(project, connections=2) as server, ExitStack() as stack:
            address = ("127.0.0.1", server.port)
            first, second = (
                stack.enter_context(socket.create_connection(address, timeout=300))
                for _ in range(2)
            )
            for connection in (first, second, first):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with http.client.HTTPResponse(connection) as response:
                    response.begin()
                    assert response.read() == b'{"status":"ok"}'
            assert server.post(READ, KEYS)[0] == 200
            assert second.recv(1) == b""

            for _ in range(2):
                stack.enter_context(stalling(server, READ))
            with socket.create_connection(address, timeout=300) as third:
                told = b"".join(iter(lambda: third.recv(65_536), b""))
            assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nretry-after: 1\r\n" in told
            assert json.loads(told.partition(b"\r\n\r\n")[2])["retryable"]

    def test_who_takes_nothing_of_an_answer_is_hung_up_on(self, project: Path) -> None:
        """It would stay in memory, and its connection as well."""
        body = json.dumps({"keys": {"user_id": ["ada"] * 40_000}}).encode()
        head = f"POST {READ} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"

        def stalling_reader() -> socket.socket:
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            reader.connect(("127.0.0.1", server.port))
            reader.sendall(head.encode() + body)  # the answer is more than the system holds
            if reader.recv(12) != b"HTTP/1.1 200":  # this process was held up before
                reader.close()
                raise ConnectionResetError
            return reader

        bounds = {"connections": 1, "seconds": 0.5, "keys": 40_000}
        with serving(project, **bounds) as server, again(stalling_reader):
            statuses = [status_of(server)]
            while statuses[-1] == 503:
                statuses.append(status_of(server))
            assert statuses[-1] == 200
