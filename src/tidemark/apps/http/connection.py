"""Connections of callers: bounded in number, as heads are in size and time; errors are problems.

uvicorn bounds none of it, so that one caller who never ends a head, or never reads an answer, would
keep a connection, and any amount of memory, for good.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import STARTUP_FAILURE, Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from tidemark.apps.http.problems import MEDIA_TYPE, Header, Refused, problem
from tidemark.errors import RequestInvalid, StoreUnavailable

if TYPE_CHECKING:
    from tidemark.apps.http.service import Service

WHOLE = "tidemark.whole"
"""The extension of ASGI that is the `Exchange` of a request."""

_OK = b"HTTP/1.1 200 OK\r\n"

_LEFT = 32 << 20
"""Bytes of a body that are still read when its request is answered already, as one too large is."""

_log = logging.getLogger("tidemark.http")


class Workers(Multiprocess):
    """The processes that answer: one that died is replaced at the next look, in half a second.

    One that is silent is given the time that compiling takes, and meanwhile the others are looked
    after; uvicorn would wait for it, also if it has died without an answer.  When they are told to
    stop, nobody else is let in: callers would be let into a queue that nobody serves any more,
    until the last request in flight is answered.
    """

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._asked: dict[Process, float] = {}

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that died, and those that have been silent for too long."""
        for place, worker in enumerate(self.processes):
            if worker.process.is_alive() and not self._is_silent(worker):
                continue
            self._asked.pop(worker, None)
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                _log.error("a worker could not start")
                self.should_exit.set()
                return
            _log.warning("worker %s ended with %s; another one starts", worker.pid, worker.exitcode)
            self.processes[place] = Process(self.config, self.sockets)
            self.processes[place].start()

    def _is_silent(self, worker: Process) -> bool:
        """Whether a live worker owes an answer for too long; asks it again if it owes none."""
        now, pipe = time.monotonic(), worker.parent_conn
        try:
            if worker in self._asked and pipe.poll():
                pipe.recv()
                del self._asked[worker]
            if worker not in self._asked:
                pipe.send(b"ping")
                self._asked[worker] = now
        except (OSError, EOFError):
            return True
        return now - self._asked[worker] > self.config.timeout_worker_healthcheck

    def terminate_all(self) -> None:
        """Tell the workers to stop, and give up this process's hold on the port."""
        super().terminate_all()
        for each in self.sockets:
            each.close()


class Exchange:
    """A request and its answer as wholes, where they are: ASGI passes them in parts.

    That is a call of the system and some thirty of Python less for each read of a vector.
    """

    def __init__(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        self._connection, self._cycle = connection, cycle

    @property
    def body(self) -> bytes | None:
        """The body of the request; None if it has not arrived yet, or the caller has gone."""
        cycle = self._cycle
        return None if cycle.more_body or cycle.disconnected else bytes(cycle.body)

    @property
    def gone(self) -> bool:
        """Whether the caller has gone, of which uvicorn may not have been told yet; now it is.

        It would write to a connection that is closed, which uvloop refuses.
        """
        if self._connection.transport.is_closing():
            self._cycle.disconnected = True
        return self._cycle.disconnected

    def answer(self, headers: Sequence[Header], body: bytes) -> bool:
        """Answer with 200; False, and nothing is done, where that has to wait for the caller."""
        connection, cycle = self._connection, self._cycle
        if connection.flow.write_paused:
            return False
        head = [_OK]
        for name, value in (*connection.server_state.default_headers, *headers):
            head += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            head.append(b"connection: close\r\n")
        head += (b"\r\n", body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        connection.transport.write(b"".join(head))
        if not cycle.keep_alive:
            connection.transport.close()
        cycle.on_response()
        return True


class Connection(HttpToolsProtocol):
    """One connection; the limits are those of the service."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head from now on."""
        super().connection_made(transport)
        service = cast("Service", cast("Any", self.config).loaded_app)
        self._limits, self._resting = service.limits, service.resting
        self._head = 0  # bytes of what came while a head was being read, or a little more
        self._chunk = 0
        self._reading = True
        self._late: asyncio.TimerHandle | None = None
        self._left = 0
        self._leaving: asyncio.TimerHandle | None = None
        self._unread = 0
        self._stalled: asyncio.TimerHandle | None = None
        self._resting[self] = None
        self._expect()
        if len(self.connections) > self._limits.connections:
            self._make_room()

    def _make_room(self) -> None:
        """End the connection that has been without a request for longest, or else this one."""
        longest = cast("Connection", next(iter(self._resting)))
        del self._resting[longest]
        if longest is not self:
            longest.transport.close()
            return
        busy = StoreUnavailable("Too many callers are connected.", remedy="Try again in a moment.")
        self._refuse(Refused(503, busy))

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect no more."""
        self._reading = False
        self._expect()
        self._leave()
        self._resting.pop(self, None)
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head has become too large."""
        self._chunk = len(data)
        if self._reading:
            self._head += self._chunk
        super().data_received(data)
        if self._reading and self._head > self._limits.head:
            self.send_400_response("")
        self._expect()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        if not self._reading:  # else it is the first one, of which some came already
            self._head, self._reading = self._chunk, True

    def on_headers_complete(self) -> None:
        """A head is there; it may have come at once, and be too large nevertheless."""
        if self._head > self._limits.head:  # unless that was the body
            self._head = len(self.url) + sum(len(k) + len(v) for k, v in self.headers)
            if self._head > self._limits.head:
                raise _HeadTooLarge
        self._reading = False
        self._resting.pop(self, None)
        super().on_headers_complete()
        self.scope["extensions"] = {WHOLE: cast("Any", Exchange(self, self.cycle))}

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; if the answer has been given, only to throw it away.

        A caller who sends all before reading would else find the connection reset, and no answer.
        """
        super().on_body(body)
        if self.cycle.response_complete:
            self._left += len(body)
            if self._leaving is None:
                self._leaving = self.loop.call_later(self._limits.seconds, self.transport.close)
            if self._left > _LEFT:
                self.transport.close()

    def on_message_complete(self) -> None:
        """A request is there; after one that was answered before, a head is expected."""
        super().on_message_complete()
        if self._leaving is not None:
            self._leave()
            self._head, self._reading = 0, True

    def on_response_complete(self) -> None:
        """Rest until the next request, unless that is there already."""
        self._rest()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Hang up on who takes nothing of an answer for too long; it would stay in memory."""
        super().pause_writing()
        self._resting.pop(self, None)
        self._unread = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self._limits.seconds, self._is_stalled)

    def resume_writing(self) -> None:
        """Nearly all of the answer has left."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self.cycle.response_complete:
            self._rest()

    def _rest(self) -> None:
        """Be one of those that may have to make room, unless there is something to do."""
        if not self.pipeline and self._stalled is None and not self.transport.is_closing():
            self._resting[self] = None

    def _is_stalled(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= self._unread:
            self.transport.abort()
            return
        self._unread = left
        self._stalled = self.loop.call_later(self._limits.seconds, self._is_stalled)

    def _leave(self) -> None:
        """Throw nothing away any more."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._left, self._leaving = 0, None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Tell what is wrong with the head as every other problem, and hang up."""
        if self.transport.is_closing():
            return
        what = Refused(400, RequestInvalid("This is no HTTP."))
        if self._head > self._limits.head:
            what = Refused(
                431, RequestInvalid(f"The head is larger than {self._limits.head:,} bytes.")
            )
        self._refuse(what)

    def _expect(self) -> None:
        """Have a timer run exactly while a head is being read."""
        if self._reading and self._late is None:
            self._late = self.loop.call_later(self._limits.seconds, self._hang_up)
        elif not self._reading and self._late is not None:
            self._late.cancel()
            self._late = None

    def _hang_up(self) -> None:
        if not self._head:  # a connection that was kept in reserve
            self.transport.close()
        elif not self.transport.is_closing():
            late = RequestInvalid(f"The head did not arrive within {self._limits.seconds:g} s.")
            self._refuse(Refused(408, late))

    def _refuse(self, error: Refused) -> None:
        request_id = os.urandom(12).hex()
        status, body, headers = problem(error, request_id)
        lines = [
            f"HTTP/1.1 {status} {_PHRASES[status]}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "connection: close",
            *(f"{name.decode()}: {value.decode()}" for name, value in headers),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class _HeadTooLarge(Exception):  # the parser stops at it
    """The head of a request is larger than it may be."""
