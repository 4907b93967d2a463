"""The shared online store: Redis, for services on several hosts.

Keys and values are the bytes that LMDB holds.  A read is one MGET, which Redis answers from one
moment.  A batch is one MSET, so readers see all of it or nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from tidemark.errors import MissingExtra, StoreUnavailable
from tidemark.online.address import Address
from tidemark.online.keys import encode

try:
    import redis
    from redis import exceptions as refusal
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import Sentinel
except ImportError as error:
    raise MissingExtra("redis", "An online store in Redis") from error

_BATCH = 4 << 20
"""Bytes in one MSET: a few milliseconds in which Redis answers nobody else."""

_SCANNED = 1_000
"""Keys that one step of `delete` looks at."""

_DELETED_AT_ONCE = 5_000
"""Keys in one UNLINK."""

_LEASE = 10.0
"""Seconds after which the lock of a process that died is free; a living one renews it."""

_ATTEMPTS = 20
"""How often a fenced write follows renewals of its own lock."""

_CONNECTIONS = 1_024
"""Threads of one process that can ask at the same moment."""

_RENEW = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""

_FAILURES = (refusal.RedisError, OSError)


class _Held(threading.local):
    """The locks that the current thread holds: token by key."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, bytes] = {}


class RedisStore:
    """An `OnlineStore` in a Redis database, alone or watched over by Sentinels.

    Nothing is asked before the first use.  Batches above 4 MiB are written in several steps, in the
    order of the items.  What is written is as durable as the server's persistence makes it.
    `lease` is how many seconds a lock outlives a holder that died.
    """

    def __init__(self, url: str, *, lease: float = _LEASE) -> None:
        self._address = Address.of(url)
        self._lease = lease
        self._held = _Held()
        self._client: Any = _connected(self._address)

    @property
    def name(self) -> str:
        """The address of this store, without the password."""
        return self._address.name

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, from one command."""
        if not keys:
            return []
        try:
            return cast("list[bytes | None]", self._client.mget(keys))
        except _FAILURES as failure:
            raise self._unavailable(failure) from failure

    def put_many(self, items: Iterable[tuple[bytes, bytes | memoryview]]) -> None:
        """Write all items, in one command for every 4 MiB."""
        pairs = list(items)
        with self._asking():
            batch: list[bytes | memoryview] = []
            size = 0
            for key, value in pairs:
                batch += (key, value)
                size += len(key) + len(value)
                if size >= _BATCH:
                    self._write("MSET", batch)
                    batch, size = [], 0
            if batch:
                self._write("MSET", batch)

    def delete(self, prefix: bytes) -> int:
        """Delete every key that starts with `prefix`, which looks at all keys of the database."""
        deleted = cursor = 0
        doomed: list[bytes] = []
        pattern = _literally(prefix) + b"*"
        with self._asking():
            while True:
                cursor, found = self._client.scan(cursor, match=pattern, count=_SCANNED)
                doomed += found
                if doomed and (cursor == 0 or len(doomed) >= _DELETED_AT_ONCE):
                    deleted += self._write("UNLINK", doomed)
                    doomed = []
                if cursor == 0:
                    return deleted

    @contextmanager
    def lock(self, purpose: str) -> Generator[None]:
        """Hold a key that expires unless this process renews it.

        What the holding thread writes is fenced: once the lock is lost, its writes are refused.
        """
        key = encode("l") + encode(purpose)
        holder = f"Process {os.getpid()} on {socket.gethostname()}"
        token = f"{holder}\0{secrets.token_hex(16)}".encode()
        with self._asking():
            self._check_that_keys_stay()
            self._take(key, token, purpose)
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(key, token, done), daemon=True)
        renewal.start()
        self._held.tokens[key] = token
        try:
            yield
        finally:
            del self._held.tokens[key]
            done.set()
            renewal.join()
            with suppress(*_FAILURES):  # else it is free when the lease ends
                self._client.eval(_RELEASE, 1, key, token)

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        self._client.connection_pool.disconnect()

    def _take(self, key: bytes, token: bytes, purpose: str) -> None:
        if self._client.set(key, token, nx=True, px=self._lease_ms):
            return
        there: bytes | None = self._client.get(key)
        if there == token:  # the answer to a first attempt was lost
            return
        holder = there.partition(b"\0")[0].decode() if there else "Somebody who is just leaving"
        raise StoreUnavailable(
            f"{holder} is busy with: {purpose}.",
            where=self.name,
            remedy="Try again when it is done; "
            f"the lock of a process that died is free after {self._lease:g} s.",
        )

    def _renew(self, key: bytes, token: bytes, done: threading.Event) -> None:
        while not done.wait(self._lease / 3):
            with suppress(*_FAILURES):  # a lock that is lost is noticed by the fence
                self._client.eval(_RENEW, 1, key, token, self._lease_ms)

    @property
    def _lease_ms(self) -> int:
        return int(self._lease * 1_000)

    def _check_that_keys_stay(self) -> None:
        """Refuse a server that drops keys when it is full: an entity would look unknown."""
        try:
            memory = self._client.info("memory")
        except refusal.NoPermissionError:
            return
        policy = str(memory.get("maxmemory_policy", ""))
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            raise StoreUnavailable(
                f"This Redis drops rows when its memory is full (maxmemory-policy {policy}).",
                where=self.name,
                remedy="An entity would be unknown without notice. "
                "Use a server with: maxmemory-policy noeviction.",
            )

    def _write(self, command: str, arguments: Sequence[bytes | memoryview]) -> int:
        """The answer to a command that writes, if this thread still holds the locks it took."""
        held = self._held.tokens
        if not held:
            return cast("int", self._client.execute_command(command, *arguments))
        for _ in range(_ATTEMPTS):
            with self._client.pipeline(transaction=True) as step, suppress(refusal.WatchError):
                step.watch(*held)
                if step.mget(*held) != list(held.values()):
                    raise self._lost()
                step.multi()
                step.execute_command(command, *arguments)
                return cast("int", step.execute()[0])
        raise self._lost()

    def _lost(self) -> StoreUnavailable:
        return StoreUnavailable(
            "This process lost its lock while it wrote: it was stopped for too long, or the server "
            "was restarted.",
            where=self.name,
            remedy="What was serving serves on. Run it again.",
        )

    @contextmanager
    def _asking(self) -> Generator[None]:
        """Turn what the network or Redis refuses into `StoreUnavailable`."""
        try:
            yield
        except _FAILURES as failure:
            raise self._unavailable(failure) from failure

    def _unavailable(self, failure: Exception) -> StoreUnavailable:
        what, remedy = _explained(failure, self._address)
        return StoreUnavailable(what, where=self.name, remedy=remedy)


def _connected(address: Address) -> Any:
    """A client that connects when it is first used; redis-py types it in part only.

    A command is sent a second time if its connection turns out to be closed, as it is after a
    restart of the server; never after a timeout.
    """
    settings: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "socket_connect_timeout": address.connect_timeout,
        "socket_timeout": address.read_timeout,
        "retry": Retry(NoBackoff(), 1, (refusal.ConnectionError,)),
        "max_connections": _CONNECTIONS,
        "protocol": 2,
        **address.tls,
    }
    if not address.service:
        ((host, port),) = address.hosts
        return redis.Redis(host=host, port=port, **settings)
    asking = {
        "socket_connect_timeout": address.connect_timeout,
        "socket_timeout": address.read_timeout,
        "retry": Retry(NoBackoff(), 0, (refusal.ConnectionError,)),
        **address.tls,
    }
    watching: Any = cast("Any", Sentinel)(address.hosts, sentinel_kwargs=asking)
    return watching.master_for(address.service, **settings)


def _literally(prefix: bytes) -> bytes:
    """The pattern that matches these bytes only."""
    special = b"\\*?["
    return b"".join(b"\\" + bytes([byte]) if byte in special else bytes([byte]) for byte in prefix)


def _explained(failure: Exception, address: Address) -> tuple[str, str]:
    """What went wrong, and what to do."""
    said = str(failure).rstrip(".")
    match failure:
        case refusal.TimeoutError() | TimeoutError():
            waited = (
                f"{address.connect_timeout:g} s to connect, {address.read_timeout:g} s to answer"
            )
            return (
                f"Redis took too long: it has {waited}.",
                "Look at its load; `?read_timeout=SECONDS` in the address waits longer.",
            )
        case refusal.AuthenticationError() | refusal.NoPermissionError():
            return (
                f"Redis does not let us in: {said}.",
                "Put user and password into the address: redis://USER:PASSWORD@HOST:PORT/0.",
            )
        case refusal.BusyLoadingError():
            return "Redis is still loading its data.", "Try again when it is done."
        case refusal.ConnectionError() | OSError():
            host, port = address.hosts[0]
            if address.service:
                look = f"redis-cli -h {host} -p {port} sentinel masters"
                remedy = (
                    f"A failover takes some seconds; this shows what the Sentinels know: {look}"
                )
            else:
                remedy = (
                    f"Start it (`redis-server --port {port}`), or set `online` to where it runs."
                )
            return f"Redis does not answer: {said}.", remedy
        case refusal.OutOfMemoryError():
            return (
                "Redis has no memory left; this batch was not written.",
                "Raise its `maxmemory`, or keep less online with `retain`.",
            )
        case _:
            return f"Redis refused: {said}.", "Try again; `tidemark doctor` tells more."
