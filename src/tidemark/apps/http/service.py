"""The ASGI application: reads of vectors are answered here, the rest by the management routes."""

from __future__ import annotations

import asyncio
import gc
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from tidemark.apps.http import standing
from tidemark.apps.http.access import OPEN, Access, Caller, Keyless, action_of
from tidemark.apps.http.arriving import Arriving, Gone, too_large
from tidemark.apps.http.connection import WHOLE, Exchange
from tidemark.apps.http.contract import FEATURES, SERVICES
from tidemark.apps.http.events import EVENTS, Events, late, source_of
from tidemark.apps.http.following import Following
from tidemark.apps.http.management import management
from tidemark.apps.http.metrics import Metrics
from tidemark.apps.http.pools import Place, Pool
from tidemark.apps.http.problems import MEDIA_TYPE, Header, Refused, failing, problem
from tidemark.apps.http.standing import Standing
from tidemark.apps.http.tracing import Tracing
from tidemark.apps.http.vectors import Done, Unprepared, Vectors
from tidemark.errors import RequestInvalid, TidemarkError
from tidemark.online.stores.asking import Asking, Keys, answered, awaited
from tidemark.online.stores.protocol import Remote, Waiting

if TYPE_CHECKING:
    from tidemark.apps.http import Limits
    from tidemark.store import Store

Scope = Any
Headers = Mapping[bytes, bytes]
Receive = Callable[[], Any]
Send = Callable[[Any], Any]

ARROW = b"application/vnd.apache.arrow.stream"

_LARGE = 20_000, 500
"""Bytes and commas of a body above which it is answered in another thread: some hundred keys, or
values of a request; milliseconds, in which nobody else would be answered."""

_MANY = 100
"""Keys of the online store above which they are read and evaluated in another thread.

To await them in the loop and evaluate them in a thread takes the interpreter more often: with 16
callers, half as many batches a second were answered.
"""

_READING = 8
"""Reads in threads that are under way at once, in one worker."""

_PUSHING = 8
"""Pushes under way at once; those to one source share a write, so more of them is more in each."""

_MANAGING = 4
"""Requests under way at once that are neither; one that waits for the registry waits for long."""

SETTLE_SECONDS = 1.0
"""How long counts of values are held back."""

_PREFIX, _SUFFIX = "/v1/services/", "/online"
_LIKED = re.compile(rb"q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?:;|$)")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")


class _Answered(NamedTuple):
    status: int
    body: bytes
    media: bytes
    headers: list[Header]


class Service:
    """Answers requests of one store; `stopped` is called when the last one is answered.

    `keyless` is who is answered as long as there is no key; see `Access`.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        *,
        keyless: Keyless = "here",
        stopped: Callable[[], None] | None = None,
    ) -> None:
        self.store = store
        self.limits = limits
        self.access = Access(store.registry.keys, limits, keyless=keyless)
        self._standing = Standing(store)
        self.metrics = Metrics(store.log if store.config.serving_log else None, self._standing)
        self._tracing = Tracing()
        self._stopped = stopped
        self._managing = Pool("requests", _MANAGING, most=limits.waiting, seconds=limits.answer)
        self._behind = management(store, self.metrics, self._managing)
        self._vectors = Vectors(store, limits)
        self._events = Events(store)
        self._arriving = Arriving(limits)
        self.resting: dict[object, None] = {}  # connections without a request, by how long
        self._online = online = store.readers.online
        self._remote = isinstance(online, Remote)
        self._waiting: Waiting | None = None
        self._reading = Pool("reads", _READING, most=limits.waiting, seconds=limits.answer)
        self._pushing = Pool("pushes", _PUSHING, most=limits.pushes, seconds=limits.push, late=late)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI 3."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        began = perf_counter()
        path: str = scope["path"]
        headers: Headers = dict(scope["headers"])
        request_id = _request_id(headers)
        service, source = None, source_of(path)
        if path == FEATURES:
            route = FEATURES
        elif source is not None:
            route = EVENTS
        elif path.startswith(_PREFIX) and path.endswith(_SUFFIX) and len(path) > 20:
            route, service = SERVICES, path[len(_PREFIX) : -len(_SUFFIX)]
        else:
            route, status = await self._manage(scope, headers, receive, send, request_id)
            self.metrics.request(route, status, perf_counter() - began)
            return
        try:
            with (self._reading if source is None else self._pushing).place() as place:
                # Let every request that has arrived be counted before any of them is worked on.
                await asyncio.sleep(0)
                if source is not None:
                    answered = await self._push(scope, headers, receive, source, place, request_id)
                else:
                    answered = await self._read(scope, headers, receive, service, place, request_id)
        except Gone:
            return
        except Exception as error:  # noqa: BLE001  # a request must not end the service
            self.metrics.error(error)
            answered = _refused(error, request_id)
        self.metrics.request(route, answered.status, perf_counter() - began)
        await _reply(scope, send, answered, request_id)

    async def _read(
        self,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        service: str | None,
        place: Place,
        request_id: str,
    ) -> _Answered:
        caller = self.access.admit(headers)
        caller.require("read")
        if scope["method"] != "POST":
            what = RequestInvalid("Vectors are read with POST.", remedy="See /openapi.json.")
            raise Refused(405, what, ((b"allow", b"POST"),))
        body = await self._body(scope, headers, receive, self.limits.body, place)
        arrow = _is_arrow(headers.get(b"accept", b""))
        ask = partial(self._vectors.read, caller, service, body, request_id, arrow=arrow)
        large = len(body) > _LARGE[0] or body.count(b",") > _LARGE[1]
        done = await self._done(ask, large=large)
        self.metrics.read(done)
        self._tracing.read(done, headers, request_id, service)
        return _Answered(200, done.text, ARROW if arrow else b"application/json", [])

    async def _done(self, ask: Callable[..., Asking[Done]], *, large: bool) -> Done:
        """What is asked, read and evaluated here unless that takes long.

        A store on the network is awaited.  Large requests are left to threads; so are batches from
        such a store, and what is read from it for the first time.
        """
        get_many = self._online.get_many
        if not large and not self._remote:
            return answered(ask(), get_many)
        if not large and self._waiting is not None:
            with suppress(Unprepared):
                asking = ask(prepared=True)

                def in_thread(keys: Keys) -> Coroutine[Any, Any, Done] | None:
                    if len(keys) <= _MANY:
                        return None
                    return self._reading.run(lambda: answered(asking, get_many, get_many(keys)))

                read = awaited(asking, self._waiting.get_many, in_thread)
                return await self._reading.within(read)
        return await self._reading.run(lambda: answered(ask(), get_many))

    async def _push(
        self,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        source: str,
        place: Place,
        request_id: str,
    ) -> _Answered:
        caller = self.access.admit(headers)
        caller.require("push")
        if scope["method"] != "POST":
            what = RequestInvalid("Events are pushed with POST.", remedy="See /openapi.json.")
            raise Refused(405, what, ((b"allow", b"POST"),))
        body = await self._body(scope, headers, receive, self.limits.events, place)
        query = scope["query_string"]
        take = partial(self._events.push, caller, source, body, headers, query, request_id)
        return _Answered(200, await self._pushing.run(take), b"application/json", [])

    async def _body(
        self, scope: Scope, headers: Headers, receive: Receive, most: int, place: Place
    ) -> bytes:
        """The body of a request, which has its place again when it is there; or `Refused`."""
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            raise too_large(most, headers)
        if (whole := _exchange(scope)) is not None and (body := whole.body) is not None:
            if len(body) > most:
                raise too_large(most, headers)
            return body
        with place.left():
            return await self._arriving.whole(receive, headers, most)

    async def _manage(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send, request_id: str
    ) -> tuple[str, int]:
        """Let the management routes answer; gives the route and the status."""
        status = 500
        whole = _exchange(scope)
        caller: Caller | None = None
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        if scope["path"] not in OPEN:
            try:
                caller = self.access.admit(headers)
                caller.require(action_of(scope["method"], scope["path"]))
            except (Refused, TidemarkError) as error:
                answered = _refused(error, request_id)
                await _reply(scope, send, answered, request_id)
                return "other", answered.status

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            if whole is None or not whole.gone:
                await send(message)

        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "caller": caller}
        with suppress(Exception):  # it was answered and logged as a problem
            await self._behind(scope, receive, told)
        route = scope.get("route")
        return getattr(route, "path", "other"), status

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and stop: counts are settled regularly, and the kernel is loaded first."""
        await receive()
        if isinstance(self._online, Remote):
            self._waiting = self._online.waiting()
        for refresh in (self.store.readers.refresh, self.access.refresh):
            with suppress(TidemarkError):  # until keys can be read, nobody is answered
                refresh()
        # Each has a thread: keys are believed for seconds only, and to prepare a revision may take
        # longer, as when the online store is silent or something has to be compiled.
        following = [
            Following(self.access.refresh),
            Following(self.store.readers.refresh),
            Following(self._standing.refresh, every=standing.REFRESH_SECONDS),
            Following(self.store.recovery.watch),
        ]
        for each in following:
            each.start()
        with suppress(TidemarkError):  # the next push says what is in the way
            await asyncio.to_thread(self.store.events.prepare)
            await asyncio.to_thread(self.store.events.catch_up)
            await asyncio.to_thread(self._standing.refresh)
        gc.collect()
        gc.freeze()  # what is loaded by now stays; it is not to be looked through at every request
        settling = asyncio.create_task(self._settle())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        settling.cancel()
        for each in following:
            each.stop()
        self.store.readers.expire()
        if self._waiting is not None:
            await self._waiting.close()
        self._reading.close()
        self._pushing.close()
        self._managing.close()
        gc.unfreeze()
        self.metrics.settle()
        if self._stopped is not None:
            self._stopped()
        await send({"type": "lifespan.shutdown.complete"})

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            self.metrics.settle()
            failing.settle()


def _request_id(headers: Headers) -> str:
    """The caller's own number of the request, if it can be repeated as it is, or a new one."""
    given = headers.get(b"x-request-id")
    return given.decode() if given and _REQUEST_ID.fullmatch(given) else os.urandom(12).hex()


def _is_arrow(accept: bytes) -> bool:
    """Whether an Arrow stream is asked for, and JSON not rather."""
    if accept == ARROW or ARROW not in accept:
        return accept == ARROW
    liked: dict[bytes, float] = {}
    for each in accept.lower().split(b","):
        media, _, parameters = each.partition(b";")
        said = _LIKED.search(parameters)
        liked[media.strip()] = float(said[1]) if said else 1.0
    return liked.get(ARROW, 0.0) > 0 and liked[ARROW] >= liked.get(b"application/json", 0.0)


def _refused(error: Exception, request_id: str) -> _Answered:
    status, body, headers = problem(error, request_id)
    return _Answered(status, body, MEDIA_TYPE.encode(), headers)


def _exchange(scope: Scope) -> Exchange | None:
    """The request and its answer as wholes, if the server gives them."""
    extensions: Mapping[str, Exchange] = scope.get("extensions", {})
    return extensions.get(WHOLE)


async def _reply(scope: Scope, send: Send, answered: _Answered, request_id: str) -> None:
    headers = [
        (b"content-type", answered.media),
        (b"content-length", str(len(answered.body)).encode()),
        (b"x-request-id", request_id.encode()),
        *answered.headers,
    ]
    if (whole := _exchange(scope)) is not None and (
        whole.gone or (answered.status == 200 and whole.answer(headers, answered.body))
    ):
        return
    await send({"type": "http.response.start", "status": answered.status, "headers": headers})
    await send({"type": "http.response.body", "body": answered.body})
