"""Bodies of requests that are on their way: for so long, so many and so much at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tidemark.apps.http.problems import Refused
from tidemark.errors import RequestInvalid, StoreUnavailable

if TYPE_CHECKING:
    from tidemark.apps.http import Limits

Receive = Callable[[], Any]

SLOW_SECONDS = 1.0
"""After so long a body leaves where there is no room for others, which would be there by then."""

_CLOSE = (b"connection", b"close")


class Gone(Exception):  # there is nobody to be told of it
    """The caller hung up."""


class Arriving:
    """The bodies that are on their way to one worker.

    Callers who send slowly take no place from those whose requests are there: there are so many of
    them at most, and so many bytes.  Where that is too little, whoever has been sending for longest
    is told to come again; who comes new is, only if the others have just begun.
    """

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.seconds
        self._most, self._most_bytes = limits.arriving, limits.pushes * limits.events
        self._bodies: dict[_Body, None] = {}  # in the order in which they began
        self._bytes = 0

    async def whole(self, receive: Receive, headers: Mapping[bytes, bytes], most: int) -> bytes:
        """The body of a request, once all of it is there.

        Raises `Refused`: 413 for more than `most` bytes, 408 for one that is too slow, 503 for one
        that has to make room; and `Gone`.
        """
        parts: list[bytes] = []
        body: _Body | None = None
        try:
            async with asyncio.timeout(self._seconds) as until:
                body = _Body(until, asyncio.get_running_loop().time())
                self._bodies[body] = None
                self._make_room(body)
                while True:
                    message: Mapping[str, Any] = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    parts.append(message.get("body", b""))
                    self._grow(body, len(parts[-1]))
                    if body.size > most:
                        raise too_large(most, headers)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            if body is not None and body.left:
                raise _crowded() from None
            late = RequestInvalid(
                f"The body did not arrive within {self._seconds:g} s; nothing was done.",
                remedy="Send it at once, or in several requests.",
            )
            raise Refused(408, late, (_CLOSE,)) from None
        finally:
            if body is not None:
                self._leave(body)

    def _grow(self, body: _Body, size: int) -> None:
        body.size += size
        if not body.left:
            self._bytes += size
            self._make_room(body)

    def _make_room(self, newest: _Body) -> None:
        """Tell slow bodies to leave until the others fit; raises `Refused` if this one has to."""
        now = asyncio.get_running_loop().time()
        while len(self._bodies) > self._most or self._bytes > self._most_bytes:
            slowest = next(iter(self._bodies))
            if slowest is newest or now - slowest.began < SLOW_SECONDS:
                raise _crowded()
            self._leave(slowest)
            if not slowest.until.expired():
                slowest.until.reschedule(now)

    def _leave(self, body: _Body) -> None:
        if not body.left:
            body.left = True
            del self._bodies[body]
            self._bytes -= body.size


class _Body:
    """One body: when it `began`, until when it may come, and how much of it is there."""

    def __init__(self, until: asyncio.Timeout, began: float) -> None:
        self.until, self.began = until, began
        self.size = 0
        self.left = False


def too_large(most: int, headers: Mapping[bytes, bytes]) -> Refused:
    """The error of a body that is larger than it may be."""
    error = RequestInvalid(
        f"The body is larger than {most:,} bytes.", remedy="Send several requests."
    )
    # Who waits to be asked for the body may not send it now, and what comes next would be taken
    # for it.
    return Refused(413, error, (_CLOSE,) if b"expect" in headers else ())


def _crowded() -> Refused:
    error = StoreUnavailable(
        "Too many bodies are on their way; nothing was done for this one.",
        remedy="Try again in a moment, and send the body at once.",
    )
    return Refused(503, error)
