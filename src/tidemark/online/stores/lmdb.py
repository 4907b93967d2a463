"""The embedded online store: LMDB, a memory-mapped B+ tree that many processes read at once."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import lmdb

from tidemark.errors import StoreUnavailable
from tidemark.online.stores.checkpoint import DATA
from tidemark.online.stores.environment import Environment, refusing
from tidemark.online.stores.protocol import conflict

_FIRST_MAP_SIZE = 1 << 28
"""Bytes of address space, not of disk; it doubles whenever a batch does not fit."""

_LONGEST_KEY = 511
"""What every build of LMDB accepts."""

_DELETED_AT_ONCE = 50_000
"""Keys in one transaction of `delete`, so that other writers get their turn."""


class LmdbStore:
    """An `OnlineStore` in a directory.

    A commit is on the disk when `put_many` returns, unless it need not be durable: then it is on
    its way there.  A machine that stops leaves the state that there was at some moment, at most
    `CHECKPOINT_SECONDS` and a flush of the disk earlier, never a mixture (see `checkpoint`).  The
    same goes for all processes of a store that die at once.

    Readers never wait for the writer.  The directory is created by the first write; before that,
    every key is simply not there.  One that is not writable can be read.
    """

    spread = False

    def __init__(self, path: Path, *, map_size: int = _FIRST_MAP_SIZE) -> None:
        self.path = path.resolve()
        self._map_size = map_size
        self._environment: Environment | None = None
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        """The address of this store."""
        return f"lmdb://{self.path}"

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, read in one transaction."""
        if self._environment is None and not (self.path / DATA).exists():
            return [None] * len(keys)
        return self._opened().read(partial(_read, keys))

    def put_many(
        self,
        items: Iterable[tuple[bytes, bytes | memoryview]],
        *,
        deletes: Iterable[bytes] = (),
        expect: Mapping[bytes, bytes | None] | None = None,
        durable: bool = True,
    ) -> None:
        """Write and remove in one transaction, in the order of the keys."""
        pairs = [
            (key, value) if len(key) < _LONGEST_KEY else (_short(key), _named(key, value))
            for key, value in items
        ]
        pairs.sort(key=_key)
        doomed = [key if len(key) < _LONGEST_KEY else _short(key) for key in deletes]

        def work(env: lmdb.Environment) -> None:
            with env.begin(write=True) as transaction:
                if expect and _found(transaction, list(expect)) != list(expect.values()):
                    raise conflict(self.name)
                for key in doomed:
                    transaction.delete(key)
                transaction.cursor().putmulti(pairs)

        self._opened().write(work, durable=durable)

    def delete(self, *prefixes: bytes) -> int:
        """Delete every key that starts with one of `prefixes`, some thousands a transaction."""
        if self._environment is None and not (self.path / DATA).exists():
            return 0
        deleted = 0
        for prefix in prefixes:
            while step := self._opened().write(partial(_delete, prefix), durable=False):
                deleted += step
        if deleted:
            self._opened().write(lambda _: None, durable=True)
        return deleted

    @contextmanager
    def lock(self, purpose: str) -> Generator[None]:
        """Hold a file lock, which the system frees if this process dies."""
        import fcntl

        file = self.path / f"{quote(purpose, safe=' ')}.lock"
        with refusing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = file.open("a+", encoding="ascii")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise StoreUnavailable(
                    f"Process {handle.read().strip() or '(unknown)'} is busy with: {purpose}.",
                    where=str(file),
                    remedy="Try again when it is done; the lock goes with that process.",
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def close(self) -> None:
        """Let go of the environment; the last store of this path in this process closes it."""
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.release()

    def _opened(self) -> Environment:
        environment = self._environment
        if environment is None or environment.pid != os.getpid():
            with self._opening:
                environment = self._environment
                if environment is None or environment.pid != os.getpid():
                    environment = self._environment = Environment.of(self.path, self._map_size)
        return environment


def _read(keys: Sequence[bytes], env: lmdb.Environment) -> list[bytes | None]:
    with env.begin() as transaction:
        return _found(transaction, keys)


def _found(transaction: lmdb.Transaction, keys: Sequence[bytes]) -> list[bytes | None]:
    get: Callable[[bytes], bytes | None] = transaction.get  # type: ignore[assignment]
    return [
        get(key) if len(key) < _LONGEST_KEY else _of_named(key, get(_short(key))) for key in keys
    ]


def _delete(prefix: bytes, env: lmdb.Environment) -> int:
    with env.begin(write=True) as transaction:
        cursor = transaction.cursor()
        found = cursor.set_range(prefix)
        deleted = 0
        while found and deleted < _DELETED_AT_ONCE and cursor.key().startswith(prefix):
            found = cursor.delete()
            deleted += 1
        return deleted


def _key(pair: tuple[bytes, object]) -> bytes:
    return pair[0]


def _short(key: bytes) -> bytes:
    """What stands for a key that LMDB finds too long: its head and a digest.

    Only these have exactly the longest length.  The value then starts with the whole key, which is
    compared on reading, so the digest is a place to look and never an identity.
    """
    return key[: _LONGEST_KEY - 32] + hashlib.sha256(key).digest()


def _named(key: bytes, value: bytes | memoryview) -> bytes:
    return len(key).to_bytes(8, "little") + key + value


def _of_named(key: bytes, stored: bytes | None) -> bytes | None:
    head = len(key).to_bytes(8, "little") + key
    return stored[len(head) :] if stored is not None and stored.startswith(head) else None
