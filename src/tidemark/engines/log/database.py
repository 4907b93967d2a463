"""The SQLite file of one source's log: its tables, its connections, and what its errors mean."""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
import threading
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tidemark.errors import EngineError, StoreUnavailable

FORMAT = 1
"""The version of the tables and of what is in them; another one is refused."""

FILE, MARK = "log.db", "mark"

CHECKPOINT_PAGES = 500
"""Pages (4 kB) in the write-ahead file before it is written from its beginning again.

What overwrites a file reaches the disk in half the time of what makes it longer, so it is to stay
short; and a checkpoint, for which one append waits, is to be a small one.
"""

TABLES = """
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER, seen INTEGER, content INTEGER,
    dropped INTEGER, indexed INTEGER, checksum INTEGER);
CREATE TABLE schemas (number INTEGER PRIMARY KEY, columns TEXT NOT NULL);
CREATE TABLE batches (
    first INTEGER PRIMARY KEY, rows INTEGER, seen INTEGER, schema INTEGER, checksum INTEGER,
    corrects BLOB, identities BLOB, identities_checksum INTEGER, payload BLOB);
CREATE TABLE identities (first INTEGER PRIMARY KEY, checksum INTEGER, entries BLOB);
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, tier INTEGER, rows INTEGER, checksum INTEGER);
CREATE TABLE segments (
    path TEXT PRIMARY KEY, first INTEGER, last INTEGER, rows INTEGER, low INTEGER, high INTEGER,
    seen INTEGER, bytes INTEGER, checksum INTEGER);
CREATE TABLE retained (one INTEGER PRIMARY KEY CHECK (one = 1), high INTEGER, checksum INTEGER);
CREATE TABLE offsets (origin TEXT PRIMARY KEY, offset TEXT NOT NULL, checksum INTEGER);
CREATE TABLE keys (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE, first INTEGER, last INTEGER, accepted INTEGER,
    duplicates INTEGER, seen INTEGER, said INTEGER);
CREATE TABLE buried (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER, row TEXT, reasons TEXT, origin TEXT,
    offset TEXT, replayed INTEGER);
CREATE UNIQUE INDEX buried_once ON buried (origin, offset) WHERE origin != '';
"""


def checksum(*parts: object, data: memoryview[int] | bytes = b"") -> int:
    """A checksum of numbers, texts and data, which tells any single flipped bit."""
    return zlib.crc32("".join(map(repr, parts)).encode(), zlib.crc32(data))


def sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Database:
    """The file of one source: one connection that writes, some that read.

    Nothing is created before the first writing.  `wait` is how many seconds a writer waits for
    another process.  What keeps in memory what it wrote is in `forgetting`, and told of a writing
    that was undone before anybody else writes.
    """

    def __init__(self, folder: Path, source: str, wait: float) -> None:
        self.folder, self.source = folder, source
        self.file = folder / FILE
        self._wait = wait
        self._writing = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._mark = -1
        self.forgetting: list[Callable[[], None]] = []

    def exists(self) -> bool:
        """Whether anything was written yet; raises `EngineError` if it was, and is gone."""
        if self._made():
            return True
        # Another process may make the file, and acknowledge, between two looks.
        if self.acknowledged() and not self._made():
            raise self.damaged("its file is gone or empty")
        return self._made()

    def _made(self) -> bool:
        with self._refusing(), suppress(FileNotFoundError, NotADirectoryError):
            return self.file.stat().st_size > 0
        return False

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """One transaction that is on the disk when the block ends, or undone if it fails."""
        if not self._writing.acquire(timeout=self._wait):
            raise self._busy()
        try:
            with self._refusing():
                connection = self._write_connection()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        with suppress(sqlite3.Error):
                            connection.execute("ROLLBACK")
                    for forget in self.forgetting:
                        forget()
                    raise
        finally:
            self._writing.release()

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """One moment of the file, whatever is written meanwhile."""
        with self._refusing():
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._read_connection()
            try:
                connection.execute("BEGIN")
                yield connection
            except BaseException:
                connection.close()
                raise
            connection.execute("COMMIT")
            self._readers.append(connection)

    @contextmanager
    def keeping(self) -> Generator[None]:
        """Change files beside this one; they are on the disk when the block ends."""
        with self._refusing():
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
            sync_folder(self.folder)

    def acknowledge(self, last: int) -> None:
        """Note, beside the file, up to which position it was acknowledged.

        The system keeps it when this process dies.  Where it says more than the file holds, the end
        of the file was cut off, which the file alone would not tell from a write that failed.
        """
        if self._mark < 0:
            self._mark = os.open(self.folder / MARK, os.O_RDWR | os.O_CREAT, 0o644)
        os.pwrite(self._mark, struct.pack("<qI", last, checksum(last)), 0)

    def acknowledged(self) -> int:
        """Up to which position the file was acknowledged at least."""
        try:
            data = (
                (self.folder / MARK).read_bytes() if self._mark < 0 else os.pread(self._mark, 12, 0)
            )
        except OSError:
            return 0
        if len(data) < 12:
            return 0
        last, sum_ = struct.unpack("<qI", data[:12])
        return int(last) if checksum(last) == sum_ else 0

    def damaged(self, why: str) -> EngineError:
        """The error of a file that is not what was written."""
        return EngineError(
            f"The event log of {self.source} is damaged: {why}.",
            where=str(self.folder),
            remedy="Restore the folder from a copy. What it still holds is untouched.",
        )

    def close(self) -> None:
        """Close all connections; closing twice is fine."""
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            while self._readers:
                self._readers.pop().close()
            if self._mark >= 0:
                os.close(self._mark)
                self._mark = -1

    def _write_connection(self) -> sqlite3.Connection:
        if self._writer is None:
            self.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.file.exists():
                self._create()
            connection = self._opened(f"{self.file.absolute().as_uri()}?mode=rw")
            try:
                _tune(connection)
            except BaseException:
                connection.close()
                raise
            self._writer = connection
        return self._writer

    def _create(self) -> None:
        """Make the file whole or not at all: a process may die, and others may read, meanwhile."""
        fresh = self.file.with_name(f"{FILE}-{secrets.token_hex(8)}.new")
        try:
            connection = self._connect(fresh.absolute().as_uri())
            try:
                _tune(connection)
                connection.execute("BEGIN IMMEDIATE")
                for statement in TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("COMMIT")
            finally:
                connection.close()
            with suppress(FileExistsError):  # another process was faster
                os.link(fresh, self.file)
            for folder in (self.folder, self.folder.parent):
                sync_folder(folder)
        finally:
            fresh.unlink(missing_ok=True)

    def _read_connection(self) -> sqlite3.Connection:
        address = f"{self.file.absolute().as_uri()}?mode=ro"
        try:
            return self._opened(address)
        except sqlite3.OperationalError:
            # Without permission to write there can be no index of what is not checkpointed; where
            # all is, the file alone is enough.
            wal = self.file.with_name(FILE + "-wal")
            pending = wal.exists() and wal.stat().st_size > 0
            if pending or os.access(self.folder, os.W_OK):
                raise
            return self._opened(f"{address}&immutable=1")

    def _opened(self, address: str) -> sqlite3.Connection:
        """A connection to the file as it is; raises `EngineError` if it has another format."""
        connection = self._connect(address)
        try:
            self._check_format(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_format(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found != FORMAT:
            raise EngineError(
                f"The event log of {self.source} is of format {found}, and this release of "
                f"Tidemark knows format {FORMAT} only.",
                where=str(self.folder),
                remedy="Use the release that made it. What it holds is untouched.",
            )

    def _connect(self, address: str) -> sqlite3.Connection:
        return sqlite3.connect(
            address,
            uri=True,
            timeout=self._wait,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """Errors of the database and of files, in words that say who can do something about it."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            said = str(error)
            if "locked" in said or "busy" in said:
                raise self._busy() from error
            if isinstance(error, sqlite3.OperationalError) and "malformed" not in said:
                raise self._unavailable(said) from error
            raise self.damaged(said) from error
        except OSError as error:
            raise self._unavailable(str(error)) from error

    def _unavailable(self, said: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"The event log of {self.source} cannot be used: {said}.",
            where=str(self.folder),
            remedy="Nothing of this batch was kept. Free space or allow writing, then try again.",
        )

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"Another process is writing to the event log of {self.source}.",
            where=f"{self.folder}; waited {self._wait:g} s",
            remedy="Nothing of this batch was kept. Try again.",
        )


def _tune(connection: sqlite3.Connection) -> None:
    """Have every commit reach the disk, and readers go on meanwhile."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA cache_size = -32000")
