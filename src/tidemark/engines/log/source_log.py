"""The log of one source: what is taken, what is a duplicate, and how it is read."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.few import Few, signed, spread_one
from tidemark.engines.identity import content_words, identity_words, spread
from tidemark.engines.log import batches, keys, letters, segments
from tidemark.engines.log.batches import ADDED, POSITION, SEEN, STORED, Schemas
from tidemark.engines.log.database import Database, checksum
from tidemark.engines.log.identities import Identities, entries, told_apart
from tidemark.engines.log.records import Appended, Batch, Compacted, Letter, State, Taken
from tidemark.errors import StoreConflict
from tidemark.model.graph import Field, Source

Words = NDArray[np.int64]

_READ_ROWS = 1 << 16


class _Rows(NamedTuple):
    """Rows that came in one batch, and their hashes; `identities` is None without `unique`."""

    batch: pa.RecordBatch
    contents: Words
    identities: Words | None


class _FewRows(NamedTuple):
    """A few rows that came in one batch, and their hashes."""

    rows: Few
    contents: Sequence[int]
    identities: Sequence[int] | None


class SourceLog:
    """The log of one source in a folder of its own; `EventLog` says what the methods do."""

    def __init__(self, folder: Path, name: str, wait: float) -> None:
        self._database = Database(folder, name, wait)
        self._paused = folder / "paused"
        self._schemas = Schemas(self._database)
        self._identities = Identities(self._database)
        self._database.forgetting += [self._schemas.forget, self._identities.forget]

    def append(
        self,
        source: Source,
        given: Sequence[Batch],
        seen: int,
        offsets: Mapping[str, str],
        expected: Mapping[str, str | None],
    ) -> list[Appended]:
        """Keep batches in one transaction."""
        ready = [_prepared(source, each.rows) for each in given]
        with self._database.writing() as connection:
            before = state = self._state(connection, self._database.acknowledged())
            self._refuse_moved(connection, expected)
            answers: list[Appended] = []
            for batch, rows in zip(given, ready, strict=True):
                said = keys.said(batch, rows.contents)
                done = keys.find(connection, batch.key, said)
                if done is None:
                    state, done = self._take(connection, state, source, rows, seen)
                    if batch.key:
                        keys.keep(connection, batch.key, said, done)
                    if batch.buried:
                        letters.keep(connection, batch.buried, max(seen, done.seen))
                    if batch.settled is not None:
                        letters.settle(connection, batch.settled, max(seen, done.seen))
                answers.append(done)
            if state.last > before.last:
                settled = self._identities.settle(connection) if source.unique else None
                if settled is not None:
                    state = replace(state, indexed=settled)
                _store(connection, state)
            if offsets:
                _keep_offsets(connection, offsets)
        if state.last > before.last:
            self._database.acknowledge(state.last)
        return answers

    def _take(
        self,
        connection: sqlite3.Connection,
        state: State,
        source: Source,
        rows: _Rows | _FewRows,
        seen: int,
    ) -> tuple[State, Appended]:
        """Store the rows that are new; gives where the log stands then."""
        if isinstance(rows, _FewRows):
            known = [each for each in rows.identities or () if each]
            if len(set(known)) == len(known):
                return self._take_few(connection, state, rows, seen)
            rows = _hashed(source, rows.rows.batch)
        batch, contents, identities = rows
        n = batch.num_rows
        accepted, corrects, cuts = np.ones(n, np.bool_), np.zeros(n, np.bool_), [0]
        if identities is not None:
            self._identities.refresh(connection, state)
            accepted, corrects, cuts = told_apart(
                self._identities.find(identities), identities, contents
            )
            if not accepted.all():
                batch = batch.filter(pa.array(accepted))
                contents, corrects = contents[accepted], corrects[accepted]
                identities = identities[accepted]
        first, taken = state.last + 1, batch.num_rows
        if not taken:
            return state, Appended(first, state.last, 0, n, state.seen, accepts=accepted)
        schema = self._schemas.number(connection, source)
        moments = np.zeros(taken, np.int64)
        moment = max(seen, state.seen + 1)
        for moment, (begin, end) in enumerate(itertools.pairwise([*cuts, taken]), moment):  # noqa: B020
            moments[begin:end] = moment
            part = slice(begin, end)
            added = None if identities is None else entries(identities[part], contents[part])
            rows_ = batch.slice(begin, end - begin)
            batches.write(connection, first + begin, moment, schema, rows_, corrects[part], added)
        if identities is not None:
            self._identities.add(first, identities.tolist(), contents.tolist())
        positions = np.arange(first, first + taken, dtype=np.int64)
        content = _summed(state.content, _content(contents, positions, moments))
        now = replace(state, last=state.last + taken, seen=moment, content=content)
        kept = Taken(batch, first, moments, corrects, identities)
        return now, Appended(
            first, now.last, taken, n - taken, moment, accepts=accepted, taken=kept
        )

    def _take_few(
        self,
        connection: sqlite3.Connection,
        state: State,
        given: _FewRows,
        seen: int,
    ) -> tuple[State, Appended]:
        """`_take` of rows of which no two are versions of one event, without arrays."""
        rows, contents, identities = given
        n, accepts, corrects = len(rows), [True] * len(rows), [False] * len(rows)
        if identities is not None:
            self._identities.refresh(connection, state)
            for i, (identity, content) in enumerate(zip(identities, contents, strict=True)):
                newest = self._identities.content_of(identity) if identity else None
                corrects[i] = newest is not None and newest != content
                accepts[i] = newest != content
            if not all(accepts):
                rows, corrects = rows.only(accepts), list(compress(corrects, accepts))
                contents = list(compress(contents, accepts))
                identities = list(compress(identities, accepts))
        first, taken = state.last + 1, len(rows)
        if not taken:
            return state, Appended(first, state.last, 0, n, state.seen, accepts=accepts)
        moment = max(seen, state.seen + 1)
        schema = self._schemas.number(connection, rows.plain.source)
        added = None if identities is None else entries(identities, contents)
        batches.write(connection, first, moment, schema, rows, corrects, added)
        if identities is not None:
            self._identities.add(first, identities, contents)
        content = state.content
        for position, each in enumerate(contents, first):
            content += spread_one(each ^ (spread_one(position) + moment))
        last = state.last + taken
        now = State(last, moment, signed(content), state.dropped, state.indexed)
        kept = Taken(rows, first, [moment] * taken, corrects, identities)
        return now, Appended(first, last, taken, n - taken, moment, accepts=accepts, taken=kept)

    def read(self, source: Source, after: int, most: int) -> pa.Table:
        """Events after a position."""
        return self._read(source.columns, after, most)

    def _read(self, columns: Sequence[Field], after: int, most: int) -> pa.Table:
        wanted = batches.declared(columns)
        if not self._database.exists():
            nothing: pa.Table = batches.with_added(wanted).empty_table()
            return nothing
        with segments.kept(self._database), self._reading() as (connection, state):
            schemas = self._schemas.load(connection)
            self._schemas.check(columns)
            low = _next_position(connection, after + 1)
            high = low + most
            cold = segments.read(self._database, connection, wanted, low, high)
            reader = batches.Reader(self._database, schemas, wanted)
            begin = connection.execute("SELECT max(first) FROM batches WHERE first <= ?", (low,))
            for row in connection.execute(
                f"{STORED} WHERE first >= ? AND first < ? ORDER BY first",
                (begin.fetchone()[0] or 0, high),
            ):
                reader.add(row)
        table = reader.take()
        if cold is not None:
            table = pa.concat_tables([cold, table])
        first, end = np.searchsorted(table.column(POSITION).to_numpy(), [low, high])
        if state.dropped == 0 and end - first != max(0, min(high, state.last + 1) - low):
            raise self._database.damaged(f"events after position {after:,} are missing")
        rows: pa.Table = table.slice(first, end - first)
        return rows

    def snapshot(self, source: Source, until: int | None, spill: Path) -> segments.Snapshot:
        """All that there is, or was at a position."""
        if not self._database.exists():
            return segments.Snapshot(0)
        with segments.shared(self._database) as shared, self._reading() as (connection, state):
            schemas = self._schemas.load(connection)
            self._schemas.check(source.columns)
            wanted = batches.declared(source.columns)
            reader = batches.Reader(self._database, schemas, wanted)
            return segments.snapshot(
                self._database, connection, state, reader, until, spill, shared
            )

    def state(self, until: int | None = None) -> State:
        """Where the log stands, or stood at a position."""
        if not self._database.exists():
            return State()
        with self._reading() as (connection, state):
            self._schemas.load(connection)
        if until is None or until >= state.last:
            return state
        fields = [Field(name, type_) for name, type_ in self._schemas.union().items()]
        total, after = 0, until
        while after < state.last:
            rows = self._read(fields, after, _READ_ROWS)
            values = {name: rows.column(name) for name in rows.column_names[: -len(ADDED)]}
            positions, seen = (rows.column(name).to_numpy() for name in (POSITION, SEEN))
            total += _content(content_words(values), positions, seen)
            after = int(positions[-1])
        return replace(state, last=until, content=_summed(state.content, -total))

    def acknowledged(self) -> int:
        """Up to which position this was acknowledged."""
        return self._database.acknowledged()

    def offsets(self) -> dict[str, str]:
        """How far each partition of the stream is."""
        if not self._database.exists():
            return {}
        with self._reading() as (connection, _):
            return self._offsets(connection)

    def rewind(self) -> None:
        """Forget the offsets."""
        if self._database.exists():
            with self._database.writing() as connection:
                connection.execute("DELETE FROM offsets")

    def pause(self, *, pausing: bool) -> None:
        """Have the stream not be read, or be read again."""
        with self._database.keeping():
            if pausing:
                self._paused.touch()
            else:
                self._paused.unlink(missing_ok=True)

    def paused(self) -> bool:
        """Whether the stream is not to be read."""
        return self._paused.exists()

    def buried(self, after: int, most: int, *, replayed: bool) -> list[Letter]:
        """Rows that could not be events."""
        if not self._database.exists():
            return []
        with self._reading() as (connection, _):
            return letters.find(connection, after, most, replayed=replayed)

    def count_buried(self) -> int:
        """How many rows could not be events, so far."""
        if not self._database.exists():
            return 0
        with self._reading() as (connection, _):
            return letters.count(connection)

    def compact(self, source: Source, keep_rows: int) -> Compacted:
        """Turn older batches into Parquet."""
        if source.time is None or not self._database.exists():
            return Compacted(0, 0)
        return segments.compact(self._database, self._schemas, source.time, keep_rows)

    def retain(self, since: int) -> int:
        """Delete what is older."""
        if not self._database.exists():
            return 0
        with self._reading():
            pass
        return segments.retain(self._database, since)

    def forgotten(self) -> int | None:
        """The time of the newest event that retention deleted."""
        if not self._database.exists():
            return None
        with self._reading() as (connection, _):
            return segments.forgotten(self._database, connection)

    def close(self) -> None:
        """Close all files."""
        self._database.close()

    @contextmanager
    def _reading(self) -> Generator[tuple[sqlite3.Connection, State]]:
        """One moment of the log, and where it stands; what was acknowledged before is in it."""
        acknowledged = self._database.acknowledged()
        with self._database.reading() as connection:
            yield connection, self._state(connection, acknowledged)

    def _state(self, connection: sqlite3.Connection, acknowledged: int) -> State:
        """Where the log stands; raises `EngineError` if it is not what was acknowledged."""
        query = "SELECT last, seen, content, dropped, indexed, checksum FROM state"
        row = connection.execute(query).fetchone()
        if row is not None and checksum(*row[:-1]) != row[-1]:
            raise self._database.damaged("its state has changed")
        state = State() if row is None else State(*row[:-1])
        if acknowledged > state.last:
            raise self._database.damaged(
                f"{acknowledged - state.last:,} events that were acknowledged are missing"
            )
        return state

    def _offsets(self, connection: sqlite3.Connection) -> dict[str, str]:
        found: dict[str, str] = {}
        for origin, offset, sum_ in connection.execute("SELECT * FROM offsets"):
            if checksum(origin, offset) != sum_:
                raise self._database.damaged(f"the offset of {origin!r} has changed")
            found[origin] = offset
        return found

    def _refuse_moved(
        self, connection: sqlite3.Connection, expected: Mapping[str, str | None]
    ) -> None:
        stored = self._offsets(connection) if expected else {}
        for origin, offset in expected.items():
            if stored.get(origin) != offset:
                raise StoreConflict(
                    f"Another consumer has read {origin} of {self._database.source} meanwhile.",
                    where=f"expected offset {offset}, stored {stored.get(origin)}",
                    remedy="Go on from the offsets that are stored; nothing of this was kept.",
                )


def _prepared(source: Source, rows: pa.Table | Few) -> _Rows | _FewRows:
    """Rows as they are stored, once they are seen to be the source's."""
    if not isinstance(rows, Few):
        return _hashed(source, batches.checked(source, rows))
    if rows.plain.source.columns == source.columns and rows.plain.source.unique == source.unique:
        return _FewRows(rows, *rows.hashes())
    table = cast("Any", pa.Table).from_batches([rows.batch])
    return _hashed(source, batches.checked(source, table))


def _hashed(source: Source, batch: pa.RecordBatch) -> _Rows:
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    unique = [columns[name] for name in source.unique]
    return _Rows(batch, content_words(columns), identity_words(unique) if unique else None)


def _next_position(connection: sqlite3.Connection, low: int) -> int:
    """The first position from `low` on that there still is; retention leaves holes."""
    query = "SELECT count(*) FROM batches WHERE first <= ?1 AND first + rows > ?1"
    held = "first = (SELECT max(first) FROM batches WHERE first <= ?1)"
    if connection.execute(f"{query} AND {held}", (low,)).fetchone()[0]:
        return low
    found = connection.execute(
        "SELECT min(max(first, ?1)) FROM segments WHERE last >= ?1", (low,)
    ).fetchone()[0]
    if found is None:
        found = connection.execute(
            "SELECT min(first) FROM batches WHERE first > ?", (low,)
        ).fetchone()[0]
    return low if found is None else int(found)


def _content(contents: Words, positions: Words, moments: Words) -> int:
    """What rows add to the sum over all events."""
    placed = spread(positions.view(np.uint64)) + moments.view(np.uint64)
    return int(spread(contents.view(np.uint64) ^ placed).sum(dtype=np.uint64))


def _summed(total: int, more: int) -> int:
    """A sum that wraps around as 64-bit words do."""
    return (total + more + 2**63) % 2**64 - 2**63


def _store(connection: sqlite3.Connection, state: State) -> None:
    values = (state.last, state.seen, state.content, state.dropped, state.indexed)
    connection.execute(
        "INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?)", (*values, checksum(*values))
    )


def _keep_offsets(connection: sqlite3.Connection, offsets: Mapping[str, str]) -> None:
    rows = [(origin, offset, checksum(origin, offset)) for origin, offset in offsets.items()]
    connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", rows)
