"""Batches as they are stored: their rows, and the schema that they were written with.

Rows are one Arrow record batch; a few are MessagePack, an array of values for each column, which
takes a fifth of the room and of the time.  The first byte tells one from the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.arrow import arrow_type
from tidemark.engines.few import Few, batch_of
from tidemark.engines.log.database import Database, checksum
from tidemark.engines.log.records import Taken
from tidemark.errors import SchemaMismatch
from tidemark.model.graph import Field, Source
from tidemark.model.types import Type

SEEN, POSITION, CORRECTS = "tidemark_seen", "tidemark_position", "tidemark_corrects"

STORED = "SELECT first, rows, seen, schema, checksum, corrects, payload FROM batches"
"""What a `Reader` takes."""

_INSERT = (
    "INSERT INTO batches (first, rows, seen, schema, checksum, corrects, identities, "
    "identities_checksum, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ARROW = 0xFF
"""How Arrow's messages begin, and no array of MessagePack does."""

_GATHERED_ROWS = 1 << 14
"""Rows of batches of a few that become one in Arrow."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Any]]).decode

ADDED = pa.schema([(SEEN, pa.int64()), (POSITION, pa.int64()), (CORRECTS, pa.bool_())])
"""What the log knows of an event besides what it says."""


def declared(columns: Sequence[Field]) -> pa.Schema:
    """The columns of a source in Arrow."""
    return pa.schema([(column.name, arrow_type(column.type)) for column in columns])


class Schemas:
    """The columns that a source had over time, each with one type for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[int, tuple[Field, ...]] = {}
        self._number: tuple[tuple[Field, ...], int] = (), 0

    def forget(self) -> None:
        """Read them anew, after a writing that was undone."""
        self._known, self._number = {}, ((), 0)

    def load(self, connection: sqlite3.Connection) -> dict[int, tuple[Field, ...]]:
        """All of them by number."""
        newest = connection.execute("SELECT max(number) FROM schemas").fetchone()[0] or 0
        if newest not in self._known and newest:
            rows = connection.execute("SELECT number, columns FROM schemas").fetchall()
            self._known = {
                number: msgspec.json.decode(columns, type=tuple[Field, ...])
                for number, columns in rows
            }
        return self._known

    def number(self, connection: sqlite3.Connection, source: Source) -> int:
        """The number of a source's columns, which are entered where they are new.

        Raises `SchemaMismatch` where a column had another type.
        """
        if self._number[0] is source.columns:  # what has a number keeps it
            return self._number[1]
        known = self.load(connection)
        wanted = _plain(source)
        for number, columns in reversed(known.items()):
            if columns == wanted:
                self._number = source.columns, number
                return number
        self.check(source.columns)
        number = max(known, default=0) + 1
        text = msgspec.json.encode(wanted).decode()
        connection.execute("INSERT INTO schemas VALUES (?, ?)", (number, text))
        return number

    def check(self, columns: Sequence[Field]) -> None:
        """Raise `SchemaMismatch` where a column had another type in what is stored."""
        types = self.union()
        for column in columns:
            if types.get(column.name, column.type) != column.type:
                raise SchemaMismatch(
                    f"{self._database.source}.{column.name} is {column.type}, and "
                    f"{types[column.name]} in the events that were recorded.",
                    where=f"the event log in {self._database.folder}",
                    remedy="Give the column of the new type another name; the old one stays.",
                )

    def union(self) -> dict[str, Type]:
        """Every column there ever was."""
        return {c.name: c.type for columns in self._known.values() for c in columns}


def _plain(source: Source) -> tuple[Field, ...]:
    return tuple(Field(column.name, column.type) for column in source.columns)


def checked(source: Source, table: pa.Table) -> pa.RecordBatch:
    """Rows in the declared columns and types, as one batch; raises `SchemaMismatch`."""
    wanted = declared(source.columns)
    if table.schema.names != wanted.names:
        missing = [name for name in wanted.names if name not in table.schema.names]
        extra = [name for name in table.schema.names if name not in wanted.names]
        if missing or extra:
            raise SchemaMismatch(
                f"The rows do not have the columns of {source.name}.",
                where=f"missing: {', '.join(missing) or 'none'}; "
                f"not declared: {', '.join(extra) or 'none'}",
            )
        table = table.select(wanted.names)
    for field, column in zip(wanted, table.columns, strict=True):
        if column.type != field.type:
            raise SchemaMismatch(
                f"{source.name}.{field.name} is declared as {field.type} but holds {column.type}."
            )
    if source.time is None:
        raise SchemaMismatch(
            f"{source.name} has no time, so it takes no events.",
            remedy="Declare a time column, or write the facts into its history.",
        )
    if table.column(source.time).null_count:
        raise SchemaMismatch(f"{source.name}.{source.time} is null: an event needs a time.")
    columns = [
        c.chunk(0) if c.num_chunks == 1 else pa.array(c.combine_chunks()) for c in table.columns
    ]
    return _batch(columns, wanted)


def _batch(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    batch: pa.RecordBatch = cast("Any", pa.RecordBatch).from_arrays(columns, schema=schema)
    return batch


def write(
    connection: sqlite3.Connection,
    first: int,
    seen: int,
    schema: int,
    rows: pa.RecordBatch | Few,
    corrects: NDArray[np.bool_] | Sequence[bool],
    identities: bytes | None,
) -> None:
    """Store a batch that was seen at one moment, and what it adds to `Identities`."""
    payload: bytes | memoryview
    if isinstance(rows, Few):
        count, payload = len(rows), _encode(rows.columns)
    else:
        count, payload = rows.num_rows, memoryview(rows.serialize())
    marked = any(corrects) if isinstance(corrects, list) else np.any(corrects)
    marks = np.packbits(corrects).tobytes() if marked else b""
    sum_ = checksum(first, count, seen, schema, marks, data=payload)
    known = None if identities is None else checksum(first, data=identities)
    values = (first, count, seen, schema, sum_, marks, identities, known, payload)
    connection.execute(_INSERT, values)


class Reader:
    """Stored batches as a table in the columns that are wanted, null where they had none."""

    def __init__(
        self, database: Database, schemas: dict[int, tuple[Field, ...]], wanted: pa.Schema
    ) -> None:
        self._database = database
        self._stored = {number: declared(columns) for number, columns in schemas.items()}
        self._wanted = wanted
        self._next: int | None = None
        self._batches: list[pa.RecordBatch] = []
        self._few: tuple[int, list[list[Any]]] = 0, []
        self._first: list[int] = []
        self._rows: list[int] = []
        self._seen: list[int] = []
        self._corrects: list[NDArray[np.bool_]] = []
        self.rows = self.bytes = 0  # added since they were last taken

    def add(self, row: tuple[int, int, int, int, int, bytes, bytes]) -> None:
        """One row of `batches`; raises `EngineError` if it is not what was written."""
        first, rows, seen, number, sum_, marks, payload = row
        if self._next not in {None, first}:
            raise self._database.damaged(f"events before position {first:,} are missing")
        self._next = first + rows
        if checksum(first, rows, seen, number, marks, data=payload) != sum_:
            raise self._database.damaged(f"the batch at position {first:,} has changed")
        if payload[0] == _ARROW:
            self._gather()
            self._add(pa.ipc.read_record_batch(pa.py_buffer(payload), self._stored[number]))
        else:
            self._add_few(number, _decode(payload))
        self._first.append(first)
        self._rows.append(rows)
        self._seen.append(seen)
        flags = np.zeros(rows, np.bool_)
        if marks:
            flags = np.unpackbits(np.frombuffer(marks, np.uint8))[:rows].astype(np.bool_)
        self._corrects.append(flags)
        self.rows += rows
        self.bytes += len(payload)

    def take(self) -> pa.Table:
        """What was added since the last time, with the columns that the log adds."""
        rows = np.asarray(self._rows, np.int64)
        starts = np.cumsum(rows) - rows
        position = np.repeat(np.asarray(self._first, np.int64) - starts, rows)
        position += np.arange(len(position))
        seen = np.repeat(np.asarray(self._seen, np.int64), rows)
        corrects = np.concatenate([np.empty(0, np.bool_), *self._corrects])
        self._gather()
        table = cast("Any", pa.Table).from_batches(self._batches, self._wanted)
        columns = [*table.columns, pa.array(seen), pa.array(position), pa.array(corrects)]
        for taken in (self._batches, self._first, self._rows, self._seen, self._corrects):
            taken.clear()
        self.rows = self.bytes = 0
        whole: pa.Table = pa.table(columns, schema=with_added(self._wanted)).combine_chunks()
        return whole

    def _add_few(self, number: int, columns: list[list[Any]]) -> None:
        """Put a few rows beside those before them."""
        before, gathered = self._few
        if before != number or not gathered or len(gathered[0]) > _GATHERED_ROWS:
            self._gather()
            self._few = number, columns
            return
        for values, more in zip(gathered, columns, strict=True):
            values.extend(more)

    def _gather(self) -> None:
        """Make a batch of the few rows that were added last."""
        number, columns = self._few
        if columns:
            self._few = 0, []
            self._add(batch_of(columns, self._stored[number]))

    def _add(self, batch: pa.RecordBatch) -> None:
        if batch.schema != self._wanted:
            batch = cast("pa.RecordBatch", aligned(batch, self._wanted))
        self._batches.append(batch)


def with_added(schema: pa.Schema) -> pa.Schema:
    """A schema and the columns that the log adds to it."""
    return pa.schema([*schema, *ADDED])


def table_of_taken(taken: Taken) -> pa.Table:
    """Rows with what the log adds to them, as it gives them when it is read."""
    batch = taken.rows.batch if isinstance(taken.rows, Few) else taken.rows
    seen = pa.array(taken.seen, pa.int64())
    positions = pa.array(np.arange(taken.first, taken.first + len(taken), dtype=np.int64))
    columns = [*batch.columns, seen, positions, pa.array(taken.corrects, pa.bool_())]
    table: pa.Table = pa.table(columns, schema=with_added(batch.schema))
    return table


def aligned(rows: pa.RecordBatch | pa.Table, wanted: pa.Schema) -> pa.RecordBatch | pa.Table:
    """The columns that are wanted, null where there are none of that name."""
    columns = [
        rows.column(field.name)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in wanted
    ]
    made: pa.RecordBatch | pa.Table = cast("Any", type(rows)).from_arrays(columns, schema=wanted)
    return made
