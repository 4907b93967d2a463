"""How a Redis is read in an event loop, without a thread.

Connections belong to the loop in which they were made.  A read sends what it asks over one
connection to each server that has some of it, and waits; nothing else of it differs from a read
that blocks.  What is not usual is left to that: before anything is known of the servers, and after
one of them has hung up, moved or refused, the read is made by the blocking client in a thread, with
its retries, its knowledge of failovers and slots, and its errors.  Where it was answered again,
reading goes on in the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, cast

import hiredis
from redis import exceptions as refusal
from redis.asyncio.connection import Connection, SSLConnection

from tidemark.errors import StoreUnavailable
from tidemark.online.stores.address import Address
from tidemark.online.stores.asking import Values, awaited
from tidemark.online.stores.redis_servers import Command, Server

CONNECTIONS = 32
"""Reads that are under way at once, and connections of a loop to each server."""

_THREADS = 4
"""Reads at once by the blocking client."""

FAILURES = (refusal.RedisError, refusal.RedisClusterException, OSError)
"""What the client raises."""

_LATE = (refusal.TimeoutError, TimeoutError)

_Place = tuple[str, int]
_packed: Callable[[Command], bytes] = cast("Any", hiredis).pack_command


class LoopReads:
    """Reads a Redis in one event loop; `unavailable` says what failures mean."""

    def __init__(
        self,
        server: Server,
        address: Address,
        unavailable: Callable[[Exception], StoreUnavailable],
    ) -> None:
        self._server, self._address, self._unavailable = server, address, unavailable
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._idle: dict[_Place, list[Any]] = {}
        self._doubted: set[_Place] = set()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tidemark-redis")
        self._encryption: Any = None

    async def get_many(self, keys: Sequence[bytes]) -> Values:
        """The values of the keys: one command, or one for each slot of a cluster."""
        if not keys:
            return []
        async with self._turns:
            try:
                try:
                    return await awaited(self._server.reading(keys), self._ask)
                except _LATE:
                    raise
                except (_Unsure, *FAILURES):
                    return await self._in_thread(keys)
            except FAILURES as failure:
                raise self._unavailable(failure) from failure

    async def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for place in list(self._idle):
            await self._forget(place)

    async def _in_thread(self, keys: Sequence[bytes]) -> Values:
        """What the blocking client reads; whoever answered it is no longer doubted."""
        loop = asyncio.get_running_loop()
        values = await loop.run_in_executor(self._threads, self._server.read, keys)
        self._doubted.clear()
        return values

    async def _ask(self, commands: Mapping[int, Command]) -> list[Any]:
        """The answers to one command for each slot, all sent before any is read."""
        slots_at: dict[_Place, list[int]] = {}
        for slot in commands:
            place = self._server.place(slot)
            if place is None or place in self._doubted:
                raise _Unsure
            slots_at.setdefault(place, []).append(slot)
        if len(slots_at) == 1:
            (place,) = slots_at
            return await self._answers(place, [*commands.values()])
        asked = [
            self._answers(place, [commands[slot] for slot in slots])
            for place, slots in slots_at.items()
        ]
        # All of them end before this does, so that no more connections are used than reads.
        found: dict[int, Any] = {}
        for slots, answers in zip(
            slots_at.values(), await asyncio.gather(*asked, return_exceptions=True), strict=True
        ):
            if isinstance(answers, BaseException):
                raise answers
            found.update(zip(slots, answers, strict=True))
        return [found[slot] for slot in commands]

    async def _answers(self, place: _Place, commands: Sequence[Command]) -> list[Any]:
        """The answers of one server, over a connection that nobody else uses meanwhile."""
        idle = self._idle.get(place)
        sent = [_packed(command) for command in commands]
        try:
            with _hanging_up():
                connection = idle.pop() if idle else await self._connected(place)
                try:
                    async with asyncio.timeout(self._address.read_timeout):
                        await connection.send_packed_command(sent, check_health=False)
                        answers = [await connection.read_response() for _ in commands]
                except BaseException:  # what it may still answer is nobody's
                    await connection.disconnect(nowait=True)
                    raise
        except FAILURES:
            self._doubted.add(place)
            await self._forget(place)
            raise
        self._idle.setdefault(place, []).append(connection)  # the list may be another one by now
        return answers

    async def _connected(self, place: _Place) -> Any:
        """A connection, which has the times of the address to come about."""
        host, port = place
        address, tls = self._address, dict(self._address.tls)
        encrypted = tls.pop("ssl", False)
        kind: Any = SSLConnection if encrypted else Connection
        connection = kind(
            host=host,
            port=port,
            db=address.database,
            username=address.username,
            password=address.password,
            socket_connect_timeout=address.connect_timeout,
            socket_timeout=address.read_timeout,
            protocol=2,
            **tls,
        )
        if encrypted:  # reading certificates takes milliseconds
            self._encryption = self._encryption or connection.ssl_context
            connection.ssl_context = self._encryption
        await connection.connect()
        connection.socket_timeout = None  # from here on there is one time for a whole answer
        return connection

    async def _forget(self, place: _Place) -> None:
        """Close the connections to a server that nobody uses now."""
        idle = self._idle.pop(place, [])
        for connection in idle:
            with suppress(*FAILURES), _hanging_up():  # it may be closed already
                await connection.disconnect()


@contextmanager
def _hanging_up() -> Generator[None]:
    """Make what uvloop says of a connection that was just closed what the client says of it."""
    try:
        yield
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise refusal.ConnectionError(str(error)) from error


class _Unsure(Exception):  # nothing is wrong: the blocking client is asked
    """Where something is is not known, or the server there has just failed."""
