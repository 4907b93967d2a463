"""The ASGI application: reads of vectors are answered here, the rest by the management routes."""

from __future__ import annotations

import asyncio
import gc
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from tidemark.apps.http.access import OPEN, Access, Caller, action_of, forbidden
from tidemark.apps.http.contract import FEATURES, SERVICES
from tidemark.apps.http.management import management
from tidemark.apps.http.metrics import Metrics
from tidemark.apps.http.problems import MEDIA_TYPE, Header, Refused, problem
from tidemark.errors import RequestInvalid, StoreUnavailable, TidemarkError
from tidemark.serve.response import Encoder

if TYPE_CHECKING:
    from tidemark.apps.http import Limits
    from tidemark.serve import Reader
    from tidemark.serve.program import Program
    from tidemark.store import Store

Scope = Any
Headers = Mapping[bytes, bytes]
Message = Mapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Any], Any]

ARROW = "application/vnd.apache.arrow.stream"

SETTLE_SECONDS = 1.0
"""How long counts of values are held back."""

_PREFIX, _SUFFIX = "/v1/services/", "/online"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_KNOWN = 256
"""Lists of features whose encoders are kept."""

Columns = dict[str, Any] | list[dict[str, Any]]


class Read(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked of a service."""

    keys: Columns
    request: Columns | None = None
    at: str | None = None


class ReadFeatures(Read, forbid_unknown_fields=True, kw_only=True):
    """What is asked of features that are named one by one."""

    features: list[str]


_decode = msgspec.json.Decoder(Read).decode
_decode_features = msgspec.json.Decoder(ReadFeatures).decode


class _Answered(NamedTuple):
    status: int
    body: bytes
    media: bytes
    headers: list[Header]


class _Gone(Exception):  # there is nobody to be told of it
    """The caller hung up."""


class Service:
    """Answers requests of one store; `stopped` is called when the last one is answered.

    `near` says that only this machine can reach it: without keys, others are not answered.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        *,
        near: bool = True,
        stopped: Callable[[], None] | None = None,
    ) -> None:
        self.store = store
        self.limits = limits
        self.access = Access(store.registry.keys, limits, near=near)
        self.metrics = Metrics()
        self._stopped = stopped
        self._behind = management(store, self.metrics)
        self._encoders: dict[object, tuple[Reader, Encoder]] = {}
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI 3."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        began = perf_counter()
        path: str = scope["path"]
        headers: Headers = dict(scope["headers"])
        request_id = _request_id(headers)
        if path == FEATURES:
            route, service = FEATURES, None
        elif path.startswith(_PREFIX) and path.endswith(_SUFFIX) and len(path) > 20:
            route, service = SERVICES, path[len(_PREFIX) : -len(_SUFFIX)]
        else:
            route, status = await self._manage(scope, headers, receive, send, request_id)
            self.metrics.request(route, status, perf_counter() - began)
            return
        if self._waiting >= self.limits.waiting:
            answered = _refused(Refused(503, _busy()), request_id)
        else:
            self._waiting += 1
            try:
                # Let every request that has arrived be counted before any of them is worked on.
                await asyncio.sleep(0)
                answered = await self._read(scope, headers, receive, service, request_id)
            except _Gone:
                return
            except Exception as error:  # noqa: BLE001  # a request must not end the service
                answered = _refused(error, request_id)
            finally:
                self._waiting -= 1
        self.metrics.request(route, answered.status, perf_counter() - began)
        await _reply(send, answered, request_id)

    async def _read(
        self,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        service: str | None,
        request_id: str,
    ) -> _Answered:
        caller = self.access.admit(headers)
        caller.require("read")
        if scope["method"] != "POST":
            what = RequestInvalid("Vectors are read with POST.", remedy="See /openapi.json.")
            raise Refused(405, what, ((b"allow", b"POST"),))
        body = await self._body(headers, receive)
        began = perf_counter()
        asked = _parsed(_decode if service is not None else _decode_features, body)
        head: dict[str, Any] = {"request_id": request_id}
        if service is not None:
            head["service"] = service
        reader, encoder = self._allowed(caller, service, asked)
        one, count = _shape(asked.keys, encoder.program)
        if count > self.limits.keys:
            raise Refused(413, _too_many("sets of keys", count, self.limits.keys))
        if one:
            if not isinstance(asked.request, dict | None):
                raise RequestInvalid(
                    "There is one set of keys and a list of request values.",
                    remedy="Send one object of values, or a list of keys.",
                )
            keys: object = encoder.keys.one(asked.keys)  # type: ignore[arg-type]
            request: object = None if asked.request is None else encoder.request.one(asked.request)
        else:
            keys = encoder.keys.many(asked.keys)
            request = None if asked.request is None else encoder.request.many(asked.request)
        decoded = perf_counter()
        ask = reader.answer if one else reader.answer_many
        answer = ask(keys, request=request, at=asked.at)
        if answer.program is not encoder.program:
            encoder = self._remember(service, asked, reader, answer.program)
        read = perf_counter()
        arrow = ARROW.encode() in headers.get(b"accept", b"")
        write = encoder.arrow if arrow else encoder.one if one else encoder.many
        text, statuses = write(answer, head)
        self.metrics.stages(decoded - began, read - decoded, perf_counter() - read)
        self.metrics.values(encoder.read, statuses, answer.rows)
        return _Answered(200, text, ARROW.encode() if arrow else b"application/json", [])

    def _allowed(self, caller: Caller, service: str | None, asked: Read) -> tuple[Reader, Encoder]:
        """What reads and writes these features, if the caller may read them."""
        if not caller.limited:
            return self._prepared(service, asked)
        with caller.told_nothing_else():
            reader, encoder = self._prepared(service, asked)
        program = encoder.program
        references = program.reference.values()
        if not caller.may_read(_key(service, asked), references, program.definitions):
            raise forbidden()
        return reader, encoder

    def _prepared(self, service: str | None, asked: Read) -> tuple[Reader, Encoder]:
        """What reads and writes these features, in the revision that is in force."""
        if isinstance(asked, ReadFeatures) and len(asked.features) > self.limits.features:
            raise Refused(413, _too_many("features", len(asked.features), self.limits.features))
        key = _key(service, asked)
        known = self._encoders.get(key)
        if known is None and service is not None:
            self.store.registry.snapshot().definitions.service(service)  # it, and nothing else
        if isinstance(asked, ReadFeatures):
            if not asked.features:
                raise RequestInvalid("No feature is asked for.", remedy="Name one or several.")
            reader = self.store.reader(asked.features)
        else:
            reader = self.store.reader(service)
        if known is not None and known[0] is reader:
            return known
        return reader, self._remember(service, asked, reader, reader.program)

    def _remember(
        self, service: str | None, asked: Read, reader: Reader, program: Program
    ) -> Encoder:
        if len(self._encoders) >= _KNOWN:
            self._encoders.clear()
        encoder = Encoder(program)
        self._encoders[_key(service, asked)] = reader, encoder
        return encoder

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The body of a request; raises `Refused` for one too large or too slow."""
        most = self.limits.body
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message: Message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            late = RequestInvalid(f"The body did not arrive within {self.limits.seconds} s.")
            raise Refused(408, late, ((b"connection", b"close"),)) from None

    async def _manage(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send, request_id: str
    ) -> tuple[str, int]:
        """Let the management routes answer; gives the route and the status."""
        status = 500
        caller: Caller | None = None
        if scope["path"] not in OPEN:
            try:
                caller = self.access.admit(headers)
                caller.require(action_of(scope["method"], scope["path"]))
            except (Refused, TidemarkError) as error:
                answered = _refused(error, request_id)
                await _reply(send, answered, request_id)
                return "other", answered.status

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "caller": caller}
        with suppress(Exception):  # it was answered and logged as a problem
            await self._behind(scope, receive, told)
        route = scope.get("route")
        return getattr(route, "path", "other"), status

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and stop: counts are settled regularly, and the kernel is loaded first."""
        await receive()
        with suppress(TidemarkError):  # until it can be read, nobody is answered
            self.access.refresh()
        self.access.follow()
        self._warm()
        gc.collect()
        gc.freeze()  # what is loaded by now stays; it is not to be looked through at every request
        settling = asyncio.create_task(self._settle())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        settling.cancel()
        self.access.stop()
        gc.unfreeze()
        self.metrics.settle()
        if self._stopped is not None:
            self._stopped()
        await send({"type": "lifespan.shutdown.complete"})

    def _warm(self) -> None:
        """Answer each service for nobody, so that the first caller does not wait for compilers."""
        try:
            for service in self.store.registry.snapshot().definitions.services:
                self.store.reader(service.name).answer_many([])
        except TidemarkError:
            return  # whoever asks is told

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            self.metrics.settle()


def _key(service: str | None, asked: Read) -> object:
    return tuple(asked.features) if isinstance(asked, ReadFeatures) else service


def _parsed(decode: Callable[[bytes], Read], body: bytes) -> Read:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise RequestInvalid(f"The body does not fit: {error}.", remedy=_FORM) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(
            400, RequestInvalid(f"The body is not JSON: {error}.", remedy=_FORM)
        ) from None
    except RecursionError:
        raise Refused(400, RequestInvalid("The body is nested too deeply.", remedy=_FORM)) from None


_FORM = 'Send {"keys": {"user_id": "u1"}, "request": {...}}; /openapi.json has the whole form.'


def _shape(keys: Columns, program: Program) -> tuple[bool, int]:
    """Whether one set of keys is asked for, and how many there are."""
    if isinstance(keys, list):
        return False, len(keys)
    columns = [cast("list[object]", each) for each in keys.values() if isinstance(each, list)]
    if not columns or not program.keys.fields:
        return True, 1
    return False, max(map(len, columns))


def _request_id(headers: Headers) -> str:
    """The caller's own number of the request, if it can be repeated as it is, or a new one."""
    given = headers.get(b"x-request-id")
    return given.decode() if given and _REQUEST_ID.fullmatch(given) else os.urandom(12).hex()


def _busy() -> StoreUnavailable:
    return StoreUnavailable("Too many requests are waiting.", remedy="Try again in a moment.")


def _too_many(what: str, count: int, most: int) -> RequestInvalid:
    return RequestInvalid(
        f"There are {count:,} {what}; a request may have {most:,}.", remedy="Send several requests."
    )


def _too_large(most: int) -> Refused:
    error = RequestInvalid(
        f"The body is larger than {most:,} bytes.", remedy="Send several requests."
    )
    return Refused(413, error, ((b"connection", b"close"),))


def _refused(error: Exception, request_id: str) -> _Answered:
    status, body, headers = problem(error, request_id)
    return _Answered(status, body, MEDIA_TYPE.encode(), headers)


async def _reply(send: Send, answered: _Answered, request_id: str) -> None:
    headers = [
        (b"content-type", answered.media),
        (b"content-length", str(len(answered.body)).encode()),
        (b"x-request-id", request_id.encode()),
        *answered.headers,
    ]
    await send({"type": "http.response.start", "status": answered.status, "headers": headers})
    await send({"type": "http.response.body", "body": answered.body})
