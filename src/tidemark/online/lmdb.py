"""The embedded online store: LMDB, a memory-mapped B+ tree that many processes read at once."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar
from urllib.parse import quote

import lmdb

from tidemark.errors import StoreUnavailable
from tidemark.online.protocol import conflict

T = TypeVar("T")

_FIRST_MAP_SIZE = 1 << 28
"""Bytes of address space, not of disk; it doubles whenever a batch does not fit."""

_LONGEST_KEY = 511
"""What every build of LMDB accepts."""

_DELETED_AT_ONCE = 50_000
"""Keys in one transaction of `delete`, so that other writers get their turn."""

_DATA = "data.mdb"
"""The file that LMDB makes in the directory."""

_MAX_READERS = 1_024
"""Threads, over all processes, that can read at the same moment."""


class LmdbStore:
    """An `OnlineStore` in a directory.

    A commit is on disk when `put_many` returns, unless it need not be durable: then its pages are,
    but not the one that says which pages are current, and the next commit brings that to the disk
    before it changes any of them (LMDB's `MDB_NOMETASYNC`).  So a machine that stops leaves the
    state of before or after the last commit, never a mixture, and one fsync less is waited for.

    Readers never wait for the writer.  The directory is created by the first write; before that,
    every key is simply not there.  One that is not writable can be read.
    """

    spread = False

    def __init__(self, path: Path, *, map_size: int = _FIRST_MAP_SIZE) -> None:
        self.path = path.resolve()
        self._map_size = map_size
        self._environment: _Environment | None = None
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        """The address of this store."""
        return f"lmdb://{self.path}"

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, read in one transaction."""
        if self._environment is None and not (self.path / _DATA).exists():
            return [None] * len(keys)
        return self._opened().read(keys)

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
            if durable:
                env.sync(True)

        self._opened().write(work)

    def delete(self, *prefixes: bytes) -> int:
        """Delete every key that starts with one of `prefixes`, some thousands a transaction."""
        if self._environment is None and not (self.path / _DATA).exists():
            return 0
        deleted = 0
        for prefix in prefixes:
            while step := self._opened().write(partial(_delete, prefix)):
                deleted += step
        return deleted

    @contextmanager
    def lock(self, purpose: str) -> Generator[None]:
        """Hold a file lock, which the system frees if this process dies."""
        import fcntl

        _create(self.path)
        file = self.path / f"{quote(purpose, safe=' ')}.lock"
        with _refusing(self.path):
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

    def _opened(self) -> _Environment:
        environment = self._environment
        if environment is None or environment.pid != os.getpid():
            with self._opening:
                environment = self._environment
                if environment is None or environment.pid != os.getpid():
                    environment = self._environment = _Environment.of(self.path, self._map_size)
        return environment


class _Environment:
    """The one LMDB environment of a path in this process, shared by every store that names it.

    LMDB forbids a second one, and a child process must not use its parent's.
    """

    _open: ClassVar[dict[tuple[int, Path], _Environment]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path, map_size: int) -> None:
        self.pid = os.getpid()
        self.path = path
        self.users = 0
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        with _refusing(path):
            # Where nothing can be written, there is no lock file to say who reads: what reads then
            # is safe from writers in other places only while its transactions are short, as here.
            locks = os.access(path, os.W_OK)
            only_read = not locks or not _writable(path / _DATA)
            self.env = lmdb.open(
                str(path),
                map_size=map_size,
                max_readers=_MAX_READERS,
                create=not only_read,
                readonly=only_read,
                lock=locks,
                metasync=False,
            )
            if locks:
                self.env.reader_check()

    @classmethod
    def of(cls, path: Path, map_size: int) -> _Environment:
        """The environment of a path, opened if this process has not."""
        with cls._guard:
            environment = cls._open.get((os.getpid(), path))
            if environment is None:
                _create(path)
                cls._forget_inherited(path)
                environment = cls._open[os.getpid(), path] = cls(path, map_size)
            environment.users += 1
            return environment

    @classmethod
    def _forget_inherited(cls, path: Path) -> None:
        """Close what a parent process had open, which frees this process's copy of it only."""
        for key in [key for key in cls._open if key[1] == path and key[0] != os.getpid()]:
            cls._open.pop(key).env.close()

    def release(self) -> None:
        """Count one user less; without users the environment closes."""
        with self._guard:
            self.users -= 1
            if self.users == 0 and self.pid == os.getpid():
                del self._open[self.pid, self.path]
                self.env.close()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, after taking over the map that another process has grown.

        Threads read one after the other: a map cannot move under a transaction, and threads that
        pass the interpreter's lock around at every get are slower together than in turn.
        """
        try:
            with self._reading:
                while True:
                    try:
                        return _read(self.env, keys)
                    except lmdb.MapResizedError:
                        self.env.set_mapsize(0)
        except lmdb.Error as error:
            raise _unavailable(self.path, error) from error

    def write(self, work: Callable[[lmdb.Environment], T]) -> T:
        """The result of `work`, repeated with a larger map whenever the map is full."""
        with self._writing, _refusing(self.path):
            while True:
                try:
                    return work(self.env)
                except lmdb.MapFullError:
                    size = self.env.info()["map_size"] * 2
                except lmdb.MapResizedError:
                    size = 0
                with self._reading:
                    self.env.set_mapsize(size)


def _read(env: lmdb.Environment, keys: Sequence[bytes]) -> list[bytes | None]:
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


def _writable(file: Path) -> bool:
    return not file.exists() or os.access(file, os.W_OK)


def _create(path: Path) -> None:
    with _refusing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def _refusing(path: Path) -> Generator[None]:
    """Turn what the system or LMDB refuses into `StoreUnavailable`."""
    try:
        yield
    except (OSError, lmdb.Error) as error:
        raise _unavailable(path, error) from error


_REMEDIES = {
    errno.ENOSPC: "Free space on that disk, then try again; nothing was written.",
    errno.EDQUOT: "Free space in that quota, then try again; nothing was written.",
    errno.EFBIG: "Raise the limit on file sizes, then try again; nothing was written.",
    errno.EIO: "That disk is full or failing: free space, then try again; nothing was written.",
    errno.EACCES: "Make the directory writable for this user, or set `online` to another one.",
    errno.EPERM: "Make the directory writable for this user, or set `online` to another one.",
    errno.EROFS: "That file system is read-only: set `online` to a directory elsewhere.",
    errno.ENOTDIR: "A file is in the way: set `online` to a directory.",
    errno.EEXIST: "A file is in the way: set `online` to a directory.",
}


def _unavailable(path: Path, error: Exception) -> StoreUnavailable:
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    text = str(error)
    if code is None:
        code = next((number for number in _REMEDIES if os.strerror(number) in text), None)
    return StoreUnavailable(
        f"The online store refused: {text}.",
        where=str(path),
        remedy=_REMEDIES.get(code or 0, "Try again; `tidemark doctor` tells more."),
    )
