"""Compaction: older batches become Parquet files by day, small files of one day become one.

A file is written under a name that no reader looks for (`.parquet.new`), one transaction enters it
and removes the batches, and then it gets its name.  Whatever stops this between two steps, the
database says which of both holds an event, and the next one to come finishes or sweeps.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import mmap
import os
import sqlite3
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidemark.engines.log.batches import (
    POSITION,
    SEEN,
    STORED,
    Reader,
    Schemas,
    aligned,
    declared,
    with_added,
)
from tidemark.engines.log.database import Database, checksum, sync_folder
from tidemark.engines.log.identities import KEEP
from tidemark.engines.log.records import Compacted, State
from tidemark.errors import StoreUnavailable
from tidemark.model.graph import Field

EVENTS = "events"
"""The folder of Parquet files, below that of the source."""

ROWS_AT_ONCE, BYTES_AT_ONCE = 1 << 20, 1 << 28
_GROUP_ROWS = 1 << 17

TOGETHER = 8
"""Small files of one day that become one, so that a row is written again a few times at most."""

SMALL_ROWS, SMALL_BYTES = 1 << 20, 1 << 26
"""A file with fewer of both is small; what is put together has at most twice as many."""

_DAY = 86_400_000_000
_NEW = ".new"
_EPOCH = dt.date(1970, 1, 1)
_ENTER = "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

_whole: dict[str, tuple[int, int]] = {}  # files whose content was checked: size and time of change


@dataclass(frozen=True)
class Snapshot:
    """What a log held of a source when it was at `position`.

    `files` are Parquet and may hold events after `position` too; `batches` are the events that were
    not compacted yet, or a temporary file of them.  No file goes before `close`.
    """

    position: int
    files: tuple[str, ...] = ()
    batches: pa.Table | None = None
    spilled: Path | None = None
    reading: IO[bytes] | None = None

    @property
    def holds_something(self) -> bool:
        """Whether there is an event at all."""
        return bool(self.files) or self.batches is not None or self.spilled is not None

    def close(self) -> None:
        """Let files go; closing twice is fine."""
        if self.reading is not None:
            self.reading.close()
        if self.spilled is not None:
            self.spilled.unlink(missing_ok=True)


def snapshot(
    database: Database,
    connection: sqlite3.Connection,
    state: State,
    reader: Reader,
    until: int | None,
    spill: Path,
    reading: IO[bytes] | None,
) -> Snapshot:
    """The log as it was at a position (None: as it is); large batches are put into a file."""
    position = state.last if until is None else min(until, state.last)
    count = "SELECT coalesce(sum(rows), 0) FROM"
    held = connection.execute(f"SELECT ({count} segments) + ({count} batches)").fetchone()[0]
    if held != state.last - state.dropped:
        raise database.damaged(f"{state.last - state.dropped - held:,} events are missing")
    query = "SELECT path FROM segments WHERE first <= ? ORDER BY path"
    paths = connection.execute(query, (position,)).fetchall()
    files = tuple(str(_found(database, connection, path)) for (path,) in paths)
    writer: Any = None
    for row in connection.execute(f"{STORED} WHERE first <= ? ORDER BY first", (position,)):
        reader.add(row)
        if reader.bytes > BYTES_AT_ONCE // 4:
            table = reader.take()
            writer = writer or pq.ParquetWriter(spill, table.schema)
            writer.write_table(table)
    table = reader.take()
    if writer is not None:
        writer.write_table(table)
        writer.close()
        return Snapshot(position, files, None, spill, reading)
    return Snapshot(position, files, table if table.num_rows else None, None, reading)


def read(
    database: Database, connection: sqlite3.Connection, wanted: pa.Schema, low: int, high: int
) -> pa.Table | None:
    """The events of Parquet files with positions in [low, high), by position; None: none."""
    query = "SELECT path FROM segments WHERE last >= ? AND first < ?"
    paths = connection.execute(query, (low, high)).fetchall()
    if not paths:
        return None
    whole = with_added(wanted)
    tables = [whole.empty_table()]
    for (path,) in paths:
        file = _found(database, connection, path)
        there = pq.read_schema(file).names
        rows = pq.read_table(
            file,
            columns=[name for name in whole.names if name in there],
            filters=[(POSITION, ">=", low), (POSITION, "<", high)],
            partitioning=None,
        )
        tables.append(aligned(rows, whole))
    sorted_: pa.Table = pa.concat_tables(tables).sort_by(POSITION)
    return sorted_


def compact(database: Database, schemas: Schemas, time: str, keep_rows: int) -> Compacted:
    """Turn all batches but those with the newest rows into files by the day of `time`."""
    rows = files = 0
    with _alone(database, "compact.lock") as mine:
        if not mine:
            return Compacted(0, 0)
        sweep(database)
        while True:
            table = _oldest(database, schemas, keep_rows)
            if table is None:
                break
            files += _replaced(database, table, time)
            rows += table.num_rows
        merged = sum(_merged(database, schemas, paths, time) for paths in _small(database))
    return Compacted(rows, files, merged)


def _small(database: Database) -> list[list[str]]:
    """The small files of each day that has many of them, as many as are put together, in order."""
    days: dict[str, list[tuple[str, int, int]]] = {}
    with database.reading() as connection:
        query = "SELECT path, rows, bytes FROM segments WHERE rows < ? AND bytes < ? ORDER BY first"
        for path, rows, size in connection.execute(query, (SMALL_ROWS, SMALL_BYTES)):
            days.setdefault(path.partition("/")[0], []).append((path, rows, size))
    together: list[list[str]] = []
    for files in days.values():
        taken, rows, size = list[str](), 0, 0
        for path, more, bytes_ in files:
            rows, size = rows + more, size + bytes_
            if taken and (rows > 2 * SMALL_ROWS or size > 2 * SMALL_BYTES):
                together += [taken] if len(taken) > 1 else []  # it will not be small any more
                taken, rows, size = [], more, bytes_
            taken.append(path)
        together += [taken] if len(taken) >= TOGETHER else []
    return together


def _merged(database: Database, schemas: Schemas, paths: list[str], time: str) -> int:
    """Put files of one day into one, unless somebody reads them; gives how many are gone."""
    with database.reading() as connection:
        schemas.load(connection)
        fields = [Field(name, type_) for name, type_ in schemas.union().items()]
        whole = with_added(declared(fields))
        tables: list[pa.Table] = []
        for name in paths:
            rows = pq.read_table(_found(database, connection, name), partitioning=None)
            tables.append(cast("pa.Table", aligned(rows, whole)))
    ordered = pa.concat_tables(tables).sort_by(POSITION)
    first, last = (int(ordered.column(POSITION)[place].as_py()) for place in (0, -1))
    ((_, table),) = _by_day(ordered, time)
    day, _, _ = paths[0].partition("/")
    entry = _staged(database, f"{day}/{first:015}-{last:015}.m.parquet", table, time)
    with _alone(database, "reading.lock") as unread:
        if unread:
            with database.writing() as connection:
                named = [(path,) for path in paths]
                connection.executemany("DELETE FROM segments WHERE path = ?", named)
                connection.execute(_ENTER, entry)
        sweep(database)
    return len(paths) if unread else 0


def _oldest(database: Database, schemas: Schemas, keep_rows: int) -> pa.Table | None:
    """The oldest batches that are to be compacted, as many as are done at once."""
    with database.reading() as connection:
        known = schemas.load(connection)
        fields = [Field(name, type_) for name, type_ in schemas.union().items()]
        reader = Reader(database, known, declared(fields))
        last = connection.execute("SELECT coalesce(max(last), 0) FROM state").fetchone()[0]
        for row in connection.execute(
            f"{STORED} WHERE first + rows - 1 <= ? ORDER BY first", (last - keep_rows,)
        ):
            reader.add(row)
            if reader.rows >= ROWS_AT_ONCE or reader.bytes >= BYTES_AT_ONCE:
                break
    return reader.take() if reader.rows else None


def _replaced(database: Database, table: pa.Table, time: str) -> int:
    """Put rows of consecutive positions into files in place of their batches; gives how many."""
    positions = table.column(POSITION).to_numpy()
    first, last = int(positions[0]), int(positions[-1])
    rows: list[tuple[Any, ...]] = []
    for day, part in _by_day(table, time):
        name = f"day={_EPOCH + dt.timedelta(days=day)}/{first:015}-{last:015}.parquet"
        rows.append(_staged(database, name, part, time))
    sync_folder(database.folder / EVENTS)
    with database.writing() as connection:
        connection.executemany(_ENTER, rows)
        connection.execute(KEEP, (first, last))
        connection.execute("DELETE FROM batches WHERE first BETWEEN ? AND ?", (first, last))
    for row in rows:
        _named(database.folder / EVENTS / row[0])
    return len(rows)


def _staged(database: Database, name: str, part: pa.Table, time: str) -> tuple[Any, ...]:
    """Write a file that no reader looks for yet; gives what is to be entered of it."""
    path = database.folder / EVENTS / name
    staged = path.with_name(path.name + _NEW)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            part, staged, compression="zstd", row_group_size=_GROUP_ROWS, write_page_checksum=True
        )
        size, sum_ = _sealed(staged)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the room that it takes is needed
            staged.unlink(missing_ok=True)
        raise _unwritable(database, path, error) from error
    moments = part.column(time).cast(pa.int64()).to_numpy()
    places = part.column(POSITION).to_numpy()
    span = int(moments[0]), int(moments[-1])
    seen = int(pc.max(part.column(SEEN)).as_py())
    return (name, int(places.min()), int(places.max()), part.num_rows, *span, seen, size, sum_)


def _unwritable(database: Database, path: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"A file of the event log of {database.source} cannot be written: {error.strerror}.",
        where=str(path),
        remedy="All events are where they were. Free space or allow writing, then try again.",
    )


def _by_day(table: pa.Table, time: str) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each day, ordered by time and then position."""
    moments: NDArray[np.int64] = table.column(time).cast(pa.int64()).to_numpy()
    order = np.argsort(moments, kind="stable")
    days = moments[order] // _DAY
    ordered = table.take(pa.array(order))
    distinct, starts = np.unique(days, return_index=True)
    for day, begin, end in zip(distinct, starts, [*starts[1:], len(days)], strict=True):
        yield int(day), ordered.slice(begin, end - begin)


def retain(database: Database, since: int) -> int:
    """Delete the files whose events all happened and were seen before a moment."""
    old = "high < ? AND seen < ?"
    with _alone(database, "compact.lock") as mine, _alone(database, "reading.lock") as unread:
        if not (mine and unread):
            return 0
        with database.writing() as connection:
            query = f"SELECT coalesce(sum(rows), 0), max(high) FROM segments WHERE {old}"
            dropped, high = connection.execute(query, (since, since)).fetchone()
            if dropped:
                connection.execute(f"DELETE FROM segments WHERE {old}", (since, since))
                _note_dropped(connection, dropped)
                high = max(high, forgotten(database, connection) or high)
                values = (high, checksum(high))
                connection.execute("INSERT OR REPLACE INTO retained VALUES (1, ?, ?)", values)
        sweep(database)
    return int(dropped)


def forgotten(database: Database, connection: sqlite3.Connection) -> int | None:
    """The time of the newest event that retention deleted; None if it never deleted any."""
    row = connection.execute("SELECT high, checksum FROM retained").fetchone()
    if row is not None and checksum(row[0]) != row[1]:
        raise database.damaged("what retention deleted has changed")
    return None if row is None else int(row[0])


def _note_dropped(connection: sqlite3.Connection, rows: int) -> None:
    query = "SELECT last, seen, content, dropped, indexed FROM state"
    last, seen, content, dropped, indexed = connection.execute(query).fetchone()
    values = (last, seen, content, dropped + rows, indexed)
    connection.execute(
        "UPDATE state SET dropped = ?, checksum = ?", (dropped + rows, checksum(*values))
    )


def sweep(database: Database) -> None:
    """Give files that were entered their names, and delete those that were not or not any more."""
    with database.reading() as connection:
        known = {path for (path,) in connection.execute("SELECT path FROM segments")}
    home = database.folder / EVENTS
    for path in known:
        _named(home / path)
    for path in home.glob("day=*/*.parquet*"):
        if str(path.relative_to(home)) not in known:
            path.unlink(missing_ok=True)


def _named(path: Path) -> None:
    """Give a staged file its name; whoever is later finds it there."""
    staged = path.with_name(path.name + _NEW)
    if staged.exists():
        try:
            staged.rename(path)
        except FileNotFoundError:
            return
        sync_folder(path.parent)


def _found(database: Database, connection: sqlite3.Connection, name: str) -> Path:
    """Where a file lies, checked once; raises `EngineError` if it is not what was written."""
    path = database.folder / EVENTS / name
    if not path.exists():
        try:
            _named(path)
        except OSError:  # nothing may be written here
            path = path.with_name(path.name + _NEW)
    try:
        found = path.stat()
    except OSError as error:
        raise database.damaged(f"{name} is missing") from error
    stamp = (found.st_size, found.st_mtime_ns)
    if _whole.get(str(path)) != stamp:
        query = "SELECT bytes, checksum FROM segments WHERE path = ?"
        size, sum_ = connection.execute(query, (name,)).fetchone()
        if found.st_size != size or _file_sum(path) != sum_:
            raise database.damaged(f"{name} has changed or was cut off")
        _whole[str(path)] = stamp
    return path


def _sealed(path: Path) -> tuple[int, int]:
    """Have a file reach the disk; gives its size and checksum."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size, _file_sum(path)


def _file_sum(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return zlib.crc32(data)


@contextmanager
def _alone(database: Database, name: str) -> Generator[bool]:
    """Hold a file lock, which the system frees if this process dies; False if another holds it."""
    try:
        opened = (database.folder / name).open("a+b")
    except OSError as error:
        raise _unwritable(database, database.folder / name, error) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def kept(database: Database) -> Generator[None]:
    """Keep files from going while the block reads them."""
    with shared(database) as held:
        try:
            yield
        finally:
            if held is not None:
                held.close()


@contextmanager
def shared(database: Database) -> Generator[IO[bytes] | None]:
    """A lock that keeps files from going while they are read; None where none can be held.

    It lasts until the file is closed, which happens here only if the block fails.
    """
    try:
        file = (database.folder / "reading.lock").open("a+b")
    except OSError:
        yield None
        return
    fcntl.flock(file, fcntl.LOCK_SH)
    try:
        yield file
    except BaseException:
        file.close()
        raise
