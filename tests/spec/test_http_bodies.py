"""Bodies that are refused, answers without one, and in which form an answer comes."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.spec.http_server import Server, again, limits, serving  # skips without the extra
from tests.spec.served import make_project

import tidemark as tm
from tidemark.apps.http.connection import WHOLE, Exchange
from tidemark.apps.http.service import Service

READ = "/v1/services/everything/online"
TOO_LARGE = json.dumps({"keys": {"user_id": "a" * 10_000_000}}).encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose service nobody needs a key for."""
    return make_project(tmp_path_factory.mktemp("open"))


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    """A server with the sizes that it takes if nothing is said."""
    with serving(project) as running:
        yield running


def told(connection: socket.socket) -> int:
    """The status of an answer that is read whole."""
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        response.read()
        return response.status


def refused(server: Server, *more: str) -> socket.socket:
    """A connection over which a body of 100 MB has been announced, and refused."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=300)
    head = [f"POST {READ} HTTP/1.1", "Host: localhost", "Content-Length: 100000000", *more, "", ""]
    connection.sendall("\r\n".join(head).encode())
    assert told(connection) == 413
    return connection


class TestTooLarge:
    def test_who_sends_all_before_reading_finds_the_answer(self, server: Server) -> None:
        """As most clients do; and may go on with the same connection."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        for _ in range(2):
            connection.request("POST", READ, TOO_LARGE)
            assert json.load(connection.getresponse())["detail"] == (
                "The body is larger than 1,000,000 bytes."
            )
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        connection.close()

    def test_a_rest_that_is_larger_still_is_not_read(self, server: Server) -> None:
        """After 32 MiB the caller is hung up on."""
        with refused(server) as connection, pytest.raises(ConnectionError):
            for _ in range(100):
                connection.sendall(b" " * 1_000_000)

    def test_a_rest_that_does_not_come_is_not_waited_for(self, project: Path) -> None:
        """No longer than for any other body."""
        with (
            serving(project, seconds=0.25) as hasty,
            again(lambda: refused(hasty)) as connection,
        ):
            connection.sendall(b" ")
            assert connection.recv(1) == b""

    def test_who_waits_to_be_asked_for_the_body_is_not(self, server: Server) -> None:
        """The connection ends, since what comes next over it could be either."""
        with refused(server, "Expect: 100-continue") as connection:
            assert connection.recv(1) == b""


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/services", "/v1/nothing"])
def test_head_is_get_without_a_body(server: Server, path: str) -> None:
    """So that whatever watches the service may ask either way."""
    status, headers, body = server.ask("HEAD", path)
    asked, alike, _ = server.ask("GET", path)
    assert (status, headers["content-type"]) == (asked, alike["content-type"])
    assert body == b""


@pytest.mark.parametrize("path", [READ, "/v1/features/online", "/healthz", "/v1/nothing"])
def test_who_has_gone_is_not_answered(project: Path, path: str) -> None:
    """Nothing is written to a connection that has ended, of which nobody was told yet."""
    cycle = SimpleNamespace(disconnected=False, more_body=False, body=b"{")
    ended = SimpleNamespace(transport=SimpleNamespace(is_closing=lambda: True))
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    with tm.connect(project) as store:
        scope = {
            "type": "http", "method": "POST" if "online" in path else "GET", "path": path,
            "query_string": b"", "headers": [(b"host", b"127.0.0.1")],
            "extensions": {WHOLE: Exchange(cast("Any", ended), cast("Any", cycle))},
        }  # fmt: skip
        service = Service(store, limits())
        service.access.refresh()
        asyncio.run(service(scope, receive, send))
    assert sent == []
    assert cycle.disconnected


def test_a_connection_is_kept_after_an_answer(project: Path) -> None:
    """As long as the server says, and no longer."""
    with (
        serving(project, idle=0.25) as hasty,
        socket.create_connection(("127.0.0.1", hasty.port), timeout=300) as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert told(connection) == 200
        assert connection.recv(1) == b""


ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        (ARROW, ARROW),
        (f"{ARROW}, */*", ARROW),
        (f"{JSON};q=0.5, {ARROW}", ARROW),
        (f"{JSON}, {ARROW}; q=0.9", JSON),
        (f"{ARROW};q=0", JSON),
        (f"{ARROW};q=0.0, text/html", JSON),
        (f"{ARROW};v=1", ARROW),
        ("*/*", JSON),
        ("text/html", JSON),
        ("", JSON),
    ],
)
def test_what_is_liked_best_is_given(server: Server, accept: str, given: str) -> None:
    """JSON, unless an Arrow stream is named and JSON not liked better."""
    status, headers, _ = server.ask("POST", READ, {"keys": {"user_id": "ada"}}, accept=accept)
    assert (status, headers["content-type"]) == (200, given)
