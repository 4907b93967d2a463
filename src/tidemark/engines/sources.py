"""Sources as training and serving read them: the history that a user owns, and the event log.

History and log together are a relation in which every row says when it was seen.  What both hold is
told apart by `versions`: recorded beats assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from tidemark.compile import identifier, sql_type, text
from tidemark.engines import schema
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.histories import LOGGED, SEEN, Relation, columns_of, open_history, seen_sql
from tidemark.model.graph import Source

if TYPE_CHECKING:
    from tidemark.engines.log import Snapshot


def open_source(
    engine: DuckDB,
    source: Source,
    progress: Callable[[int], None] | None = None,
    *,
    position: int | None = None,
) -> Relation:
    """The relation of a source's history and of the engine's log of it.

    The log is read up to `position` (None: where `engine.positions` has the source, up to there,
    and else to its end).  Where it holds nothing of the source, this is its history alone.  Raises
    `SchemaMismatch` where either does not have what the source declares and `EngineError` where one
    cannot be read, or where there is no history and no log.
    """
    if engine.log is None or source.time is None:
        return open_history(engine, source, progress)
    until = engine.positions.get(source.name) if position is None else position
    spill = engine.temporary / f"{engine.fresh_name('log')}.parquet"
    held = engine.log.snapshot(source, until, spill)
    try:
        if source.history is not None:
            told = open_history(engine, source, progress)
            if not held.holds_something:
                held.close()
                return told
        else:
            nothing = (_nothing(source),) if not held.holds_something else ()
            told = Relation(engine, source, nothing, progress=progress)
        return _together(told, held)
    except BaseException:
        held.close()
        raise


def _together(told: Relation, held: Snapshot) -> Relation:
    """What history tells and what the log holds, as one relation."""
    engine, source = told.engine, told.source
    seen = seen_sql(source)
    parts = [f"SELECT *, {seen} AS {SEEN}, FALSE AS {LOGGED} FROM ({part})" for part in told.parts]
    tables = dict(told.tables)
    files = [*held.files, *([str(held.spilled)] if held.spilled else [])]
    if files:
        listed = ", ".join(text(name) for name in files)
        origin = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
        parts.append(_logged(engine, source, origin, held.position, {}))
    if held.batches is not None:
        name = engine.fresh_name("log")
        tables[name] = held.batches
        parts.append(_logged(engine, source, name, held.position, {name: held.batches}))
    return replace(told, parts=tuple(parts), tables=tables, logged=True, release=held.close)


def _logged(
    engine: DuckDB, source: Source, origin: str, position: int, tables: dict[str, object]
) -> str:
    """The select of events in the log; a column that they do not have yet is null."""
    observed = columns_of(engine, origin, tables)
    there = tuple(column for column in source.columns if column.name in observed)
    read = schema.select(
        structs.replace(source, columns=there), observed, engine.to_utc, where="the event log"
    )
    items = ", ".join(
        identifier(column.name)
        if column in there
        else f"CAST(NULL AS {sql_type(column.type)}) AS {identifier(column.name)}"
        for column in source.columns
    )
    return (
        f"SELECT {items}, {SEEN}, TRUE AS {LOGGED} FROM (SELECT {read}, {SEEN} FROM {origin} "
        f"WHERE tidemark_position <= {position})"
    )


def _nothing(source: Source) -> str:
    """No row, in the columns that a source declares."""
    items = ", ".join(
        f"CAST(NULL AS {sql_type(column.type)}) AS {identifier(column.name)}"
        for column in source.columns
    )
    return f"SELECT {items} WHERE FALSE"
