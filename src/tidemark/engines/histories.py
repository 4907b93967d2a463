"""Histories: files, tables, queries and frames, each as a relation that can be read many times."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from tidemark.compile import identifier, sql_type, text
from tidemark.engines import schema
from tidemark.engines.duckdb import BATCH_ROWS, DuckDB
from tidemark.errors import EngineError, MissingExtra, RequestInvalid, SchemaMismatch, StaleSource
from tidemark.model.graph import Csv, Delta, Frame, Parquet, Query, Source, Table
from tidemark.model.types import Type

SEEN, LOGGED = "tidemark_seen", "tidemark_logged"

# What the database, or a query of ours, says of values in files that are whole.
_OF_VALUES = ("Conversion Error", "Out of Range Error", "Out of Memory Error", schema.INEXACT)

# What is handed over in the place of a frame, and how it becomes one.
_MAKE_A_TABLE: dict[type, str] = {
    dict: "Make it one: pyarrow.table(columns).",
    list: "Make it one: pyarrow.Table.from_pylist(rows).",
    str: "Read the file first: pyarrow.parquet.read_table(path), or pandas.read_csv(path). "
    "JSON is pushed as bytes.",
}


@dataclass(frozen=True)
class Relation:
    """The rows of a source in its declared columns and types, in the same order at every reading.

    `parts` are selects that are read one after another; `tables` are the Arrow objects they name;
    `kept` is a temporary file behind them, which `close` removes, and `release` lets go of what
    else they read.  `progress` is told how many rows have come with each batch.  `files` are the
    user's Parquet files, for messages.  Where `logged`, the event log is read as well, and two more
    columns say when each row was seen (`SEEN`) and whether the log has it (`LOGGED`).
    """

    engine: DuckDB
    source: Source
    parts: tuple[str, ...]
    tables: Mapping[str, object] = field(default_factory=dict[str, object])
    kept: Path | None = None
    progress: Callable[[int], None] | None = None
    files: tuple[str, ...] = ()
    logged: bool = False
    release: Callable[[], None] | None = None

    @property
    def seen(self) -> str:
        """SQL for the moment at which an event became known, in microseconds."""
        return SEEN if self.logged else seen_sql(self.source)

    @property
    def rows(self) -> str:
        """All rows, as SQL that can stand after FROM."""
        return f"({' UNION ALL '.join(f'SELECT * FROM ({part})' for part in self.parts)})"

    @property
    def rows_seen(self) -> str:
        """The same with `SEEN` and `LOGGED`, also where the event log is not read."""
        if self.logged:
            return self.rows
        return f"(SELECT *, {self.seen} AS {SEEN}, FALSE AS {LOGGED} FROM {self.rows})"

    def read(
        self, columns: Mapping[str, str], where: str = "", rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Stream expressions (name to SQL) of the rows for which `where` is true."""
        items = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in columns.items())
        condition = f" WHERE {where}" if where else ""
        for part in self.parts:
            query = f"SELECT {items} FROM ({part}){condition}"
            with self._telling():
                for batch in self.engine.batches(query, self.tables, rows):
                    if self.progress is not None:
                        self.progress(batch.num_rows)
                    yield batch

    def count(self, where: str = "") -> int:
        """How many rows there are for which `where` is true."""
        condition = f" WHERE {where}" if where else ""
        return sum(
            self.engine.rows(f"SELECT count(*) FROM ({part}){condition}", self.tables)[0][0]
            for part in self.parts
        )

    def table(self, query: str, tables: Mapping[str, object] | None = None) -> pa.Table:
        """The whole result of a query over the parts, and over `tables` where it names them."""
        with self._telling():
            return self.engine.table(query, {**self.tables, **(tables or {})})

    @contextmanager
    def _telling(self) -> Generator[None]:
        """Say which file it was, where an error does not say a place; or else whose history."""
        with _telling(self.source):
            try:
                yield
            except EngineError as error:
                damaged = "" if error.where else _damaged(self.engine, self.files, error)
                if not damaged:
                    raise
                raise EngineError(
                    f"A file of {self.source.name} is damaged.",
                    sql=error.sql,
                    where=f"{damaged}\n{error.what}",
                    remedy="Write it again; a file appears whole when it is renamed into place.",
                ) from error

    def close(self) -> None:
        """Remove what was kept for the reading."""
        if self.kept is not None:
            self.kept.unlink(missing_ok=True)
        if self.release is not None:
            self.release()


def seen_sql(source: Source) -> str:
    """The moment at which an event became known, in microseconds, as a source declares it."""
    if source.seen is not None:
        return f"epoch_us({identifier(source.seen)})"
    if source.time is None:
        return "CAST(0 AS BIGINT)"
    return f"epoch_us({identifier(source.time)}) + {source.delay}"


def open_history(
    engine: DuckDB, source: Source, progress: Callable[[int], None] | None = None
) -> Relation:
    """The relation of a source's history alone; `progress` is told of the rows that are read.

    Raises `SchemaMismatch` where it does not have what the source declares and `EngineError` where
    it cannot be read.
    """
    with _telling(source):
        return replace(_opened(engine, source), progress=progress)


@contextmanager
def _telling(source: Source) -> Generator[None]:
    """Say whose history it was, where an error does not say a place."""
    try:
        yield
    except EngineError as error:
        if error.where:
            raise
        where = f"the history of {source.name}"
        raise EngineError(error.what, sql=error.sql, where=where, remedy=error.remedy) from error


def _opened(engine: DuckDB, source: Source) -> Relation:
    match source.history:
        case Parquet(path):
            return _parquet(engine, source, files_of(engine, source, path))
        case Csv(path):
            return _csv(engine, source, files_of(engine, source, path))
        case Table(name, connection):
            return _table(engine, source, name, connection)
        case Query(query, connection):
            return _query(engine, source, query, connection)
        case Delta(path):
            return _delta(engine, source, path)
        case Frame(name):
            return _frame(engine, source, name)
        case None:
            raise EngineError(
                f"{source.name} has no history to read.",
                remedy="Declare it on the source, such as history=tm.parquet(...).",
            )


def as_table(frame: object) -> pa.Table:
    """Any Arrow-capable object as an Arrow table; raises `RequestInvalid` for anything else."""
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if hasattr(frame, "__arrow_c_stream__"):
        try:
            table = pa.RecordBatchReader.from_stream(frame).read_all()
        except (ValueError, TypeError) as error:  # pyarrow's own errors are some of these
            raise RequestInvalid(
                f"The {type(frame).__name__} does not convert to Arrow: {error}",
                remedy="Give each column one name and values of one type.",
            ) from error
        # The numbers of rows that a pandas frame has been filtered down to are not a column.
        index = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
        return table.drop_columns(index).replace_schema_metadata(None)
    raise RequestInvalid(
        f"{'None' if frame is None else type(frame).__name__} is not a table.",
        remedy=_MAKE_A_TABLE.get(type(frame))
        or "Pass a frame of pandas, Polars, pyarrow, DuckDB or anything else that gives Arrow; "
        "collect a lazy one first.",
    )


def files_of(engine: DuckDB, source: Source, path: str) -> list[str]:
    """The files that a path or glob names, in the order of their names; raises `EngineError`."""
    if "://" in path:
        names = [
            row[0] for row in engine.rows(f"SELECT file FROM glob({text(path)}) ORDER BY file")
        ]
    else:
        names = sorted(glob(str(engine.root / path), recursive=True))  # noqa: PTH207 - absolute too
    if not names:
        raise EngineError(
            f"No file matches {path!r}, the history of {source.name}.",
            where="" if "://" in path else f"looked in {engine.root.resolve()}",
        )
    return names


def _listed(files: list[str]) -> str:
    return "[" + ", ".join(text(name) for name in files) + "]"


def columns_of(
    engine: DuckDB, origin: str, tables: Mapping[str, object] | None = None, database: str = ""
) -> dict[str, str]:
    """The columns of what can stand after FROM, and their SQL types."""
    rows = engine.rows(f"DESCRIBE SELECT * FROM {origin}", tables, database)
    return {row[0]: row[1] for row in rows}


def _part(
    engine: DuckDB,
    source: Source,
    origin: str,
    where: str,
    tables: Mapping[str, object] | None = None,
    database: str = "",
) -> str:
    """The select that reads an origin (what can stand after FROM) as the source declares."""
    observed = columns_of(engine, origin, tables, database)
    return f"SELECT {schema.select(source, observed, engine.to_utc, where=where)} FROM {origin}"


def _parquet(engine: DuckDB, source: Source, files: list[str]) -> Relation:
    """One part for each run of files that have the same types, so that each is widened alone."""
    try:
        columns = engine.rows(
            "SELECT file_name, name, coalesce(duckdb_type, '') FROM parquet_schema("
            f"{_listed(files)}) WHERE column_id > 0"
        )
    except EngineError as error:
        raise _unreadable(engine, source, files, error) from error
    schemas: dict[str, list[tuple[str, str]]] = {}
    for name, column, type_ in columns:
        schemas.setdefault(name, []).append((column, type_))
    runs: list[list[str]] = []
    for name in files:
        if not runs or schemas.get(runs[-1][0]) != schemas.get(name):
            runs.append([])
        runs[-1].append(name)
    parts: list[str] = []
    for run in runs:
        origin = f"read_parquet({_listed(run)})"
        try:
            parts.append(_part(engine, source, origin, run[0]))
        except SchemaMismatch as error:
            if not parts:
                raise
            raise SchemaMismatch(
                error.what,
                where=f"{run[0]}\nits columns differ from those of {runs[0][0]}",
                remedy=error.remedy,
            ) from None
    return Relation(engine, source, tuple(parts), files=tuple(files))


def _damaged(engine: DuckDB, files: tuple[str, ...], error: EngineError) -> str:
    """The Parquet file that cannot be read to its end; empty if values are what is wrong."""
    if any(kind in error.what for kind in _OF_VALUES):
        return ""
    for name in files:
        try:
            for _ in engine.batches(f"SELECT * FROM read_parquet({text(name)})"):
                pass
        except EngineError:
            return name
    return ""


def _unreadable(
    engine: DuckDB, source: Source, files: list[str], error: EngineError
) -> EngineError:
    """The error of the first file that is not Parquet, rather than one about all files."""
    for name in files:
        try:
            engine.rows(f"SELECT count(*) FROM parquet_schema({text(name)})")
        except EngineError as guilty:
            reason = guilty.what.split(": ", 1)[-1]
            return EngineError(
                f"A file of {source.name} is not complete Parquet: {reason}",
                sql=guilty.sql,
                where=name,
                remedy="Write it again; a file appears whole when it is renamed into place.",
            )
    return error


def _csv(engine: DuckDB, source: Source, files: list[str]) -> Relation:
    """Text is parsed once, as the declared types; a timestamp itself says whether it has a zone.

    A field with nothing in it is null; one that is quoted, `""`, is the empty text.
    """
    parts: list[str] = []
    for name in files:
        header = columns_of(engine, f"read_csv({text(name)}, header = true)")
        empty = f"SELECT count(*) FROM read_csv({text(name)}, header = true, all_varchar = true)"
        sniffed = "" if engine.rows(empty)[0][0] == 0 else "timestamp"
        read = [c for c in source.columns if c.name in header and c.type.name != sniffed]
        exact = [c for c in read if c.type.name in {"int64", "decimal"}]
        types = ", ".join(
            f"{text(c.name)}: {text('VARCHAR' if c in exact else sql_type(c.type))}" for c in read
        )
        options = f"header = true, allow_quoted_nulls = false, types = {{{types}}}"
        origin = f"read_csv({text(name)}, {options})"
        if exact:
            numbers = ", ".join(_exact(c.name, c.type) for c in exact)
            origin = f"(SELECT * REPLACE ({numbers}) FROM {origin})"
        parts.append(_part(engine, source, origin, name))
    try:
        return _kept(engine, source, " UNION ALL ".join(parts))
    except EngineError as error:
        raise SchemaMismatch(
            f"A value of {source.name} does not read as its declared type.",
            where=error.what.split("\n\n")[0],
            remedy="Declare the column as a string, or correct the file.",
        ) from error


def _exact(column: str, type_: Type) -> str:
    """Text as a whole number or a decimal; the database itself would round what has more digits."""
    given = f"nullif(trim({identifier(column)}), '')"
    digits = "[0-9]+" if type_.name == "int64" else rf"[0-9]*\.?[0-9]{{0,{type_.scale}}}0*"
    fits = f"regexp_full_match({given}, '[+-]?{digits}')"
    if type_.name == "decimal":
        # 1.5E-3 has as many places as its digits after the point, less the exponent.
        power = rf"try_cast(regexp_extract({given}, '[eE]([+-]?[0-9]+)$', 1) AS INTEGER)"
        places = rf"length(regexp_extract({given}, '\.([0-9]*)[eE]', 1)) - {power}"
        fits += f" OR ({power} IS NOT NULL AND {places} <= {type_.scale})"
    wrong = f"error(format('\"{{}}\" of {{}} is no {type_}', {given}, {text(column)}))"
    return (
        f"CAST(CASE WHEN {given} IS NULL OR {fits} "
        f"THEN {given} ELSE {wrong} END AS {sql_type(type_)}) AS {identifier(column)}"
    )


def _table(engine: DuckDB, source: Source, name: str, connection: str) -> Relation:
    database = engine.attach(engine.root / connection) if connection else "memory"
    origin = ".".join(identifier(part) for part in [database, *_qualified(name)])
    named = database if connection else ""  # a view there names tables of its own database
    part = _part(engine, source, origin, f"table {name}", database=named)
    table = _qualified(name)[-1]
    is_table = engine.rows(
        f"SELECT count(*) FROM duckdb_tables() WHERE database_name = {text(database)} "
        f"AND table_name = {text(table)}"
    )[0][0]
    return Relation(engine, source, (part,)) if is_table else _kept(engine, source, part, named)


def _qualified(name: str) -> list[str]:
    schema_name, _, table = name.rpartition(".")
    return [schema_name or "main", table]


def _query(engine: DuckDB, source: Source, query: str, connection: str) -> Relation:
    """A query may give its rows in another order each time, so it is asked once."""
    database = engine.attach(engine.root / connection) if connection else ""
    origin = f"({query.strip().rstrip(';')}\n)"  # the line end closes a comment
    part = _part(engine, source, origin, f"query of {source.name}", database=database)
    return _kept(engine, source, part, database)


def delta_of(engine: DuckDB, source: Source, path: str) -> tuple[int, object]:
    """The version of a Delta table, and its rows; raises `EngineError`, `MissingExtra`."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise MissingExtra("delta", "Reading a Delta Lake table") from None
    address = path if "://" in path else str(engine.root / path)
    try:
        table = cast("Any", DeltaTable(address))
        return int(table.version()), table.to_pyarrow_dataset()
    except (DeltaError, OSError) as error:
        raise EngineError(f"The Delta table of {source.name} cannot be read: {error}") from error


def _delta(engine: DuckDB, source: Source, path: str) -> Relation:
    _, dataset = delta_of(engine, source, path)
    return _arrow(engine, source, dataset, f"delta table {path}")


def _frame(engine: DuckDB, source: Source, name: str) -> Relation:
    if name not in engine.frames:
        raise StaleSource(
            f"The history of {source.name} was a frame of another process.",
            remedy="Define it again in this one, or store it: history=tm.parquet(...).",
        )
    return _arrow(engine, source, _widened(as_table(engine.frames[name])), f"frame {name}")


def _widened(table: pa.Table) -> pa.Table:
    """The table with single floats for half ones, which the database does not read from Arrow."""
    fields = [field.with_type(_wider(field.type)) for field in table.schema]
    return table if fields == list(table.schema) else table.cast(pa.schema(fields))


def _wider(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_wider(type_.value_type), type_.list_size)
    if pa.types.is_list(type_):
        return pa.list_(_wider(type_.value_type))
    return pa.float32() if pa.types.is_float16(type_) else type_


def _arrow(engine: DuckDB, source: Source, rows: object, where: str) -> Relation:
    name = engine.fresh_name("arrow")
    tables = {name: rows}
    return Relation(engine, source, (_part(engine, source, name, where, tables),), tables)


def _kept(engine: DuckDB, source: Source, select: str, database: str = "") -> Relation:
    """The rows of a select that is expensive or unordered, kept in a temporary file."""
    file = engine.temporary / f"{engine.fresh_name(source.name)}.parquet"
    copy = f"COPY ({select}) TO {text(str(file))} (FORMAT parquet)"
    engine.execute(copy, database=database)
    return replace(_parquet(engine, source, [str(file)]), kept=file, files=())
