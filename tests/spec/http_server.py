"""A server of the HTTP service for its specs: in a process of its own, or called directly."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
    if os.environ.get("CI") == "true":
        pytest.fail("The server's libraries are not installed.", pytrace=False)
    pytest.skip("the extra `server` is not installed", allow_module_level=True)

from tests.spec import patient

from tidemark.apps.http import Limits

T = TypeVar("T")


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address
        self.port = int(address.rpartition(":")[2])

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """The status, the headers and the JSON (or bytes) of an answer; `body` is bytes or JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, sent, named)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        told = {name.lower(): value for name, value in response.getheaders()}
        kind = told.get("content-type", "")
        return response.status, told, json.loads(content) if content and "json" in kind else content

    def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        status, _, content = self.ask("POST", path, body, **headers)
        return status, content


@contextmanager
def serving(project: Path, *options: str, **limits: float) -> Iterator[Server]:
    """A server of the project on a free port, patient except for the limits that are said."""
    command = ["serve", "--project", str(project), "--port", "0", "--json", *options]
    process = subprocess.Popen(
        [sys.executable, patient.__file__, json.dumps(limits), *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        text = ""
        while "}" not in text:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
        yield Server(process, json.loads(text)["address"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=300)
        process.stdout.close()
        process.stderr.close()


def again(attempt: Callable[[], T]) -> T:
    """What it gives, at last: a server that waits for nobody may hang up on who was held up."""
    for _ in range(100):
        with suppress(ConnectionError):
            return attempt()
    raise AssertionError("the server hangs up on everybody")


def limits(**said: Any) -> Limits:
    """Limits of a service in this process, patient except for those that are said."""
    return Limits(**(patient.LIMITS | said))


class Direct:
    """The service of a store, called as a server calls it, with nothing in between."""

    def __init__(self, service: Any) -> None:
        self.service = service

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """As `Server.ask`."""
        return asyncio.run(self.asked(method, path, body, **headers))

    async def asked(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """As `ask`, awaited."""
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body)
        told: dict[str, Any] = {"body": b""}
        named = {"host": "127.0.0.1", **headers}
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(),
            "headers": [
                (name.lower().replace("_", "-").encode(), value.encode())
                for name, value in named.items()
            ],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            text = sent if isinstance(sent, bytes) else sent.encode()
            return {"type": "http.request", "body": text, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                told["headers"] = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                told["body"] += message.get("body", b"")

        await self.service(scope, receive, send)
        kind = told["headers"].get("content-type", "")
        content = json.loads(told["body"]) if "json" in kind else told["body"]
        return told["status"], told["headers"], content


@asynccontextmanager
async def living(service: Any) -> AsyncIterator[Direct]:
    """The service from its start to its end, in this event loop."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    life = asyncio.create_task(service({"type": "lifespan"}, told.get, said.put))
    await told.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    try:
        yield Direct(service)
    finally:
        await told.put({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await life
