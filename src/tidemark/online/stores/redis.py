"""The shared online store: Redis, for services on several hosts.

Keys and values are the bytes that LMDB holds.  Here is what every form of it shares: locks, deletes
and errors.  `redis_servers.py` reads and writes, of one server and of a cluster; `redis_loop.py`
reads them in an event loop.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec

from tidemark.errors import LockLost, MissingExtra, StoreUnavailable
from tidemark.online.stores.address import Address
from tidemark.online.stores.protocol import conflict

try:
    from redis import exceptions as refusal

    from tidemark.online.stores.redis_loop import FAILURES, LoopReads
    from tidemark.online.stores.redis_servers import Batch, Changed, server_at
except ImportError as error:
    raise MissingExtra("redis", "An online store in Redis") from error

_encode = msgspec.msgpack.Encoder().encode

_BATCH = 4 << 20
"""Bytes written in one step: a few milliseconds in which Redis answers nobody else."""

_SCANNED = 1_000
"""Keys that one step of `delete` looks at."""

_DELETED_AT_ONCE = 5_000
"""Keys in one UNLINK."""

_LEASE = 10.0
"""Seconds after which the lock of a process that died is free; a living one renews it."""

_RENEW = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class _Held(threading.local):
    """The locks that the current thread holds: token by key."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, bytes] = {}


class RedisStore:
    """An `OnlineStore` in a Redis database: alone, watched over by Sentinels, or a cluster.

    Nothing is asked before the first use.  Batches above 4 MiB are written in several steps, in the
    order of the items, unless they remove or expect something.  What is written is as durable as
    the server's persistence makes it.  `lease` is how many seconds a lock outlives a holder that
    died.
    """

    def __init__(self, url: str, *, lease: float = _LEASE) -> None:
        self._address = Address.of(url)
        self._lease = lease
        self._held = _Held()
        self._server = server_at(self._address)

    @property
    def name(self) -> str:
        """The address of this store, without the password."""
        return self._address.name

    @property
    def spread(self) -> bool:
        """Whether it is a cluster."""
        return self._address.cluster

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys: one command, or one for each slot of a cluster."""
        if not keys:
            return []
        try:
            return self._server.read(keys)
        except FAILURES as failure:
            raise self._unavailable(failure) from failure

    def waiting(self) -> LoopReads:
        """What reads it in the running event loop; nothing is asked before the first read."""
        return LoopReads(self._server, self._address, self._unavailable)

    def put_many(
        self,
        items: Iterable[tuple[bytes, bytes | memoryview]],
        *,
        deletes: Iterable[bytes] = (),
        expect: Mapping[bytes, bytes | None] | None = None,
        durable: bool = True,  # noqa: ARG002 - says nothing here
    ) -> None:
        """Write and remove in one transaction, or, if nothing else is asked, 4 MiB at a time."""
        pairs = list(items)
        written = {key for key, _ in pairs}
        doomed = [key for key in dict.fromkeys(deletes) if key not in written]
        if doomed or expect:
            self._write(Batch(pairs, doomed, expect or {}))
            return
        batch: list[tuple[bytes, bytes | memoryview]] = []
        size = 0
        for key, value in pairs:
            batch.append((key, value))
            size += len(key) + len(value)
            if size >= _BATCH:
                self._write(Batch(batch))
                batch, size = [], 0
        if batch:
            self._write(Batch(batch))

    def delete(self, *prefixes: bytes) -> int:
        """Delete every key that starts with one of them; looks once at all keys of the database."""
        if not prefixes:
            return 0
        deleted = 0
        doomed: list[bytes] = []
        pattern = _literally(_common(prefixes)) + b"*"
        with self._asking():
            for found in self._server.scan(pattern, _SCANNED):
                doomed += [key for key in found if key.startswith(prefixes)]
                if len(doomed) >= _DELETED_AT_ONCE:
                    deleted += self._write(Batch(deletes=doomed))
                    doomed = []
            return deleted + (self._write(Batch(deletes=doomed)) if doomed else 0)

    @contextmanager
    def lock(self, purpose: str) -> Generator[None]:
        """Hold a key that expires unless this process renews it.

        What the holding thread writes is fenced: once the lock is lost, its writes are refused.
        """
        key = _encode("l") + _encode(purpose)  # no key of `states` begins so
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
            with suppress(*FAILURES):  # else it is free when the lease ends
                self._server.client.eval(_RELEASE, 1, key, token)

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        self._server.close()

    def _take(self, key: bytes, token: bytes, purpose: str) -> None:
        if self._server.client.set(key, token, nx=True, px=self._lease_ms):
            return
        there: bytes | None = self._server.client.get(key)
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
            with suppress(*FAILURES):  # a lock that is lost is noticed by the fence
                self._server.client.eval(_RENEW, 1, key, token, self._lease_ms)

    @property
    def _lease_ms(self) -> int:
        return int(self._lease * 1_000)

    def _check_that_keys_stay(self) -> None:
        """Refuse a server that drops keys when it is full: an entity would look unknown."""
        try:
            memories = self._server.memory()
        except refusal.NoPermissionError:
            return
        for memory in memories:
            policy = str(memory.get("maxmemory_policy", ""))
            if memory.get("maxmemory") and policy.startswith("allkeys"):
                raise StoreUnavailable(
                    f"This Redis drops rows when its memory is full (maxmemory-policy {policy}).",
                    where=self.name,
                    remedy="An entity would be unknown without notice. "
                    "Use a server with: maxmemory-policy noeviction.",
                )

    def _write(self, batch: Batch) -> int:
        """How many keys went, if this thread still holds the locks it took."""
        held = self._held.tokens
        with self._asking():
            try:
                return self._server.write(batch, held)
            except Changed as changed:
                raise (self._lost() if changed.key in held else conflict(self.name)) from None

    def _lost(self) -> LockLost:
        return LockLost(
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
        except FAILURES as failure:
            raise self._unavailable(failure) from failure

    def _unavailable(self, failure: Exception) -> StoreUnavailable:
        what, remedy = _explained(failure, self._address)
        return StoreUnavailable(what, where=self.name, remedy=remedy)


def _common(prefixes: Sequence[bytes]) -> bytes:
    """What all of them start with."""
    low, high = min(prefixes), max(prefixes)
    differ = (place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(differ, len(low))]


def _literally(prefix: bytes) -> bytes:
    """The pattern that matches these bytes only."""
    special = b"\\*?["
    return b"".join(b"\\" + bytes([byte]) if byte in special else bytes([byte]) for byte in prefix)


def _explained(failure: Exception, address: Address) -> tuple[str, str]:
    """What went wrong, and what to do."""
    # The client repeats the command before, with the keys and values of somebody's rows.
    said = str(failure).rpartition(" of pipeline caused error: ")[2].rstrip(".")
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
        case refusal.ConnectionError() | refusal.RedisClusterException() | OSError():
            host, port = address.hosts[0]
            if address.cluster:
                remedy = (
                    "A failover takes some seconds; this shows what the nodes know: "
                    f"redis-cli -h {host} -p {port} cluster nodes"
                )
            elif address.service:
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
