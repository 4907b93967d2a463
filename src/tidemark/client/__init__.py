"""Reads vectors over HTTP, from `tidemark serve`; needs nothing but the standard library.

    with Client("http://127.0.0.1:6566") as client:
        vector = client.online("fraud", {"user_id": "u1"}, request={"amount": 42.0})

Values are those that `store.online` gives, of the same Python types.  Errors are those of
`tidemark.errors`; what may succeed later was tried again before it is raised.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

from tidemark.client.events import OnError, Pushed, body_of
from tidemark.client.vectors import Vector, Vectors, columns_of, to_json
from tidemark.errors import (
    BadValue,
    EngineError,
    EventsRefused,
    NotFound,
    NotPermitted,
    PlanConflict,
    RequestInvalid,
    SchemaMismatch,
    StaleSource,
    StoreConflict,
    StoreUnavailable,
    TidemarkError,
)

__all__ = ["AsyncClient", "Client", "Pushed", "Vector", "Vectors"]

_T = TypeVar("_T")

_ERRORS: dict[str, type[TidemarkError]] = {
    each.slug: each
    for each in (
        EngineError, NotFound, NotPermitted, PlanConflict, RequestInvalid, SchemaMismatch,
        StaleSource, StoreConflict, StoreUnavailable,
    )
}  # fmt: skip

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_RETRIED = {429, 502, 503, 504}


class Client:
    """Asks one server, over connections that are kept; may be used from several threads.

    `key` is what `tidemark key create` told; if left out, that of `TIDEMARK_KEY`, if there is one.
    `timeout` is seconds for one attempt.  What failed for a reason that may pass (no connection,
    429, 503) is tried `retries` times more, after pauses that grow and are random, so that many
    clients do not come back at once.  `headers` go with every request.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 5.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise RequestInvalid(
                f"{url!r} is not the address of a server.", remedy="Write http://127.0.0.1:6566."
            )
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._retries = retries
        self._headers = {"Content-Type": "application/json"}
        key = os.environ.get("TIDEMARK_KEY") if key is None else key
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._headers |= headers or {}
        self._connect: Callable[[], http.client.HTTPConnection] = partial(
            http.client.HTTPConnection, parts.hostname, parts.port, timeout=timeout
        )
        if parts.scheme == "https":
            self._connect = partial(
                http.client.HTTPSConnection,
                parts.hostname,
                parts.port,
                timeout=timeout,
                context=ssl_context or ssl.create_default_context(),
            )
        self._idle: list[http.client.HTTPConnection] = []

    def online(
        self,
        features: str | Sequence[str],
        keys: Mapping[str, object],
        *,
        request: Mapping[str, object] | None = None,
        at: datetime | str | None = None,
    ) -> Vector:
        """The features of one entity at a moment, or now; a service by its name, or a list."""
        return Vector(self._asked(features, keys, request, at))

    def online_many(
        self,
        features: str | Sequence[str],
        keys: object,
        *,
        request: object = None,
        at: datetime | str | None = None,
    ) -> Vectors:
        """The features of many entities at one moment, in the order of the keys.

        `keys` are a list of dicts, a dict of columns, or a frame that gives Arrow; so is `request`,
        or it is one dict of values that holds for all.
        """
        rows = columns_of(keys)
        count = len(rows)
        if isinstance(rows, dict):
            count = max(map(len, rows.values()), default=0)
        if not isinstance(request, Mapping | None):
            return Vectors(self._asked(features, rows, columns_of(request), at), count)
        return Vectors(self._asked(features, rows, cast("object", request), at), count)

    def push(
        self, source: str, rows: object, *, on_error: OnError = "refuse", key: str = ""
    ) -> Pushed:
        """Take events of a source: durable on return, and counted by the next read.

        `rows` are dicts, a dict of columns, bytes of JSON lines, or a frame that gives Arrow.  A
        push with the `key` of an earlier one is that push; without one a new key is made, so that
        what is tried again is not taken twice.  Raises `EventsRefused` with every bad row, unless
        `on_error="quarantine"` lets the good ones in.
        """
        body, media = body_of(rows)
        path = f"/v1/sources/{quote(source, safe='')}/events?on_error={quote(on_error)}"
        headers = {"Content-Type": media, "Idempotency-Key": key or uuid.uuid4().hex}
        return Pushed.of(self._sent("POST", path, body, headers))

    def services(self) -> list[dict[str, Any]]:
        """The services that are in force: name, description, owner, number of features."""
        return list(self._call("GET", "/v1/services")["services"])

    def service(self, name: str) -> dict[str, Any]:
        """The contract of a service: keys, request, features, and the JSON Schema of a body."""
        return self._call("GET", f"/v1/services/{quote(name, safe='')}")

    def feature(self, ref: str) -> dict[str, Any]:
        """What a feature means: `user_spend:spend_7d`, or one version of it, `...@2`."""
        return self._call("GET", f"/v1/features/{quote(ref, safe='')}")

    def search(self, text: str, **filters: str | int) -> list[dict[str, Any]]:
        """What fits the words best; filters are `entity`, `owner`, `tag`, `kind` and `limit`."""
        return list(self._call("GET", f"/v1/search?{urlencode({'q': text, **filters})}")["hits"])

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _asked(
        self,
        features: str | Sequence[str],
        keys: object,
        request: object,
        at: datetime | str | None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"keys": to_json(keys)}
        if request is not None:
            body["request"] = to_json(request)
        if at is not None:
            body["at"] = to_json(at)
        if isinstance(features, str) and ":" not in features:
            return self._call("POST", f"/v1/services/{quote(features, safe='')}/online", body)
        body["features"] = [features] if isinstance(features, str) else list(features)
        return self._call("POST", "/v1/features/online", body)

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        text = None if body is None else json.dumps(body, allow_nan=False).encode()
        return self._sent(method, path, text, {})

    def _sent(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        failure: TidemarkError = StoreUnavailable(f"{self.url} was not asked.")
        told = 0.0  # how long the server says that the key has to wait
        for attempt in range(self._retries + 1):
            if attempt:
                # All pauses up to the bound are equally likely: clients that failed together part.
                bound = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
                time.sleep(told + random.uniform(0, bound))  # noqa: S311
            try:
                status, answer, told = self._exchange(
                    method, self._prefix + path, body, {**self._headers, **headers}
                )
            except (OSError, http.client.HTTPException) as error:
                failure = StoreUnavailable(
                    f"{self.url} did not answer: {str(error) or type(error).__name__}.",
                    remedy="Look whether `tidemark serve` runs there.",
                )
                continue
            if status == http.client.OK:
                return cast("dict[str, Any]", json.loads(answer))
            failure = _error(status, answer, self.url)
            if status not in _RETRIED:
                break
        raise failure

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, float]:
        """Send a request and read its answer, over a connection that is there or a new one."""
        while True:
            try:
                connection, fresh = self._idle.pop(), False
            except IndexError:
                connection, fresh = self._connect(), True
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                answer = response.read()
            except BaseException as error:
                connection.close()
                # A server may have closed a connection while nobody used it.
                if not fresh and isinstance(error, ConnectionError):
                    continue
                raise
            if not response.will_close:
                self._idle.append(connection)
            return response.status, answer, _wait(response)


class AsyncClient:
    """A `Client` whose methods are awaited: each call takes one of `connections` threads."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 5.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connections: int = 16,
    ) -> None:
        self._client = Client(
            url,
            key=key,
            timeout=timeout,
            retries=retries,
            headers=headers,
            ssl_context=ssl_context,
        )
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="tidemark-client")

    async def online(
        self,
        features: str | Sequence[str],
        keys: Mapping[str, object],
        *,
        request: Mapping[str, object] | None = None,
        at: datetime | str | None = None,
    ) -> Vector:
        """As `Client.online`."""
        return await self._run(partial(self._client.online, features, keys, request=request, at=at))

    async def online_many(
        self,
        features: str | Sequence[str],
        keys: object,
        *,
        request: object = None,
        at: datetime | str | None = None,
    ) -> Vectors:
        """As `Client.online_many`."""
        work = partial(self._client.online_many, features, keys, request=request, at=at)
        return await self._run(work)

    async def push(
        self, source: str, rows: object, *, on_error: OnError = "refuse", key: str = ""
    ) -> Pushed:
        """As `Client.push`."""
        return await self._run(partial(self._client.push, source, rows, on_error=on_error, key=key))

    async def services(self) -> list[dict[str, Any]]:
        """As `Client.services`."""
        return await self._run(self._client.services)

    async def service(self, name: str) -> dict[str, Any]:
        """As `Client.service`."""
        return await self._run(partial(self._client.service, name))

    async def feature(self, ref: str) -> dict[str, Any]:
        """As `Client.feature`."""
        return await self._run(partial(self._client.feature, ref))

    async def search(self, text: str, **filters: str | int) -> list[dict[str, Any]]:
        """As `Client.search`."""
        return await self._run(partial(self._client.search, text, **filters))

    async def close(self) -> None:
        """Wait for the calls that run, and close the connections."""
        await asyncio.to_thread(self._threads.shutdown)
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _wait(response: http.client.HTTPResponse) -> float:
    """How long a key that asked too often is to wait; a server that is busy is tried sooner."""
    told = response.headers.get("Retry-After", "")
    if response.status != http.client.TOO_MANY_REQUESTS or not told.isdigit():
        return 0.0
    return min(float(told), _LONGEST_PAUSE)


def _error(status: int, answer: bytes, url: str) -> TidemarkError:
    """The error that a problem tells; whatever else answers is no server of Tidemark."""
    try:
        facts: dict[str, Any] = json.loads(answer)
        kind = _ERRORS.get(facts["slug"], TidemarkError)
        told = {"where": facts.get("where", ""), "remedy": facts.get("remedy", "")}
        if facts["slug"] == EventsRefused.slug:
            bad = [BadValue(**each) for each in facts.get("bad", [])]
            return EventsRefused(facts["detail"], bad=bad, bad_rows=facts["bad_rows"], **told)
        return kind(facts["detail"], **told)
    except (ValueError, KeyError, TypeError):
        kind = StoreUnavailable if status in _RETRIED else TidemarkError
        return kind(f"{url} answered {status}, and not as Tidemark does.")
