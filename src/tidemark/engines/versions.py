"""Corrections: rows that agree on a source's `unique` columns are versions of one event.

Versions are resolved over the whole source before anything is left out, since a correction may
move an event to another entity or time.  Sources hold few corrections, so the identities that occur
twice are found by their hashes first, and only their rows are ordered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.compile import identifier, sql_type, text
from tidemark.engines.histories import Relation
from tidemark.model.graph import Source

IDENTITY, UNTIL = "tidemark_identity", "tidemark_until"
_SLICES = 16
_SORTED_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Versions:
    """A relation whose rows are versions of events, each with the moment from which it is replaced.

    A row whose `IDENTITY` is among `replaced` (sorted hashes) is to be left out: the versions of
    its event come later in the relation, with `UNTIL` in microseconds (null: never).
    """

    relation: Relation
    replaced: NDArray[np.uint64]

    def close(self) -> None:
        """Remove what was kept for the reading."""
        self.relation.close()


def resolve(relation: Relation, *, hindsight: bool, known_by: int | None) -> Versions | None:
    """The versions of a relation's events; None where every row is an event of its own.

    With `hindsight` only the last version of each event is left, for ever.  Versions seen after
    `known_by` (microseconds) do not exist yet.
    """
    source = relation.source
    if not source.unique:
        return None
    repeated = _repeated(relation)
    if not len(repeated):
        return None
    engine = relation.engine
    file = engine.temporary / f"{engine.fresh_name('versions')}.parquet"
    names = {"repeated": pa.table({"identity": repeated}), **relation.tables}
    query = _ordered(relation, hindsight=hindsight, known_by=known_by)
    engine.execute(f"COPY ({query}) TO {text(str(file))} (FORMAT parquet)", names)
    base = [
        f"SELECT *, {_identity(source)} AS {IDENTITY}, CAST(NULL AS BIGINT) AS {UNTIL} "
        f"FROM ({part})"
        for part in relation.parts
    ]
    columns = ", ".join(
        f"CAST({identifier(column.name)} AS {sql_type(column.type)}) AS {identifier(column.name)}"
        for column in source.columns
    )
    resolved = (
        f"SELECT {columns}, CAST(NULL AS UBIGINT) AS {IDENTITY}, {UNTIL} "
        f"FROM read_parquet({text(str(file))})"
    )
    return Versions(replace(relation, parts=(*base, resolved), kept=file), repeated)


def _identity(source: Source) -> str:
    """A hash of what identifies an event; null for a row that is an event of its own."""
    columns = [identifier(name) for name in source.unique]
    nulls = " OR ".join(f"{name} IS NULL" for name in columns)
    return f"CASE WHEN {nulls} THEN NULL ELSE hash({', '.join(columns)}) END"


def _repeated(relation: Relation) -> NDArray[np.uint64]:
    """The hashes that occur more than once, sorted."""
    batches = relation.read({"identity": _identity(relation.source)})
    hashes = [batch.column(0).drop_null().to_numpy() for batch in batches]
    joined: NDArray[np.uint64] = np.concatenate([np.empty(0, np.uint64), *hashes])
    hashes.clear()
    if len(joined) <= _SORTED_AT_ONCE:
        return _twice(joined)
    tops = (joined >> np.uint64(60)).astype(np.uint8)
    return np.concatenate([_twice(joined[tops == top]) for top in range(_SLICES)])


def _twice(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def seen_sql(source: Source) -> str:
    """The moment at which an event became known, in microseconds."""
    if source.seen is not None:
        return f"epoch_us({identifier(source.seen)})"
    if source.time is None:
        return "CAST(0 AS BIGINT)"
    return f"epoch_us({identifier(source.time)}) + {source.delay}"


def _ordered(relation: Relation, *, hindsight: bool, known_by: int | None) -> str:
    """The versions of repeated events that are ever in force, with the end of their span."""
    source = relation.source
    rows = " UNION ALL ".join(f"SELECT * FROM ({part})" for part in relation.parts)
    visible = "TRUE"
    if known_by is not None and source.time is not None:
        visible = f"tidemark_seen <= {known_by}"
    times = [] if source.time is None else [identifier(source.time)]
    content = [*times, *(identifier(column.name) for column in source.columns)]
    order = ", ".join(f"{name} ASC NULLS FIRST" for name in ["tidemark_seen", *content])
    event = ", ".join(identifier(name) for name in source.unique)
    in_force = "tidemark_next IS NULL"
    if not hindsight:
        in_force += " OR tidemark_next > tidemark_seen"
    until = "CAST(NULL AS BIGINT)" if hindsight else "tidemark_next"
    return (
        f"WITH versions AS (SELECT *, {seen_sql(source)} AS tidemark_seen FROM ({rows}) "
        f"WHERE {_identity(source)} IN (SELECT identity FROM repeated)), "
        f"spans AS (SELECT *, lead(tidemark_seen) OVER (PARTITION BY {event} ORDER BY {order}) "
        f"AS tidemark_next FROM versions WHERE {visible}) "
        f"SELECT * EXCLUDE (tidemark_seen, tidemark_next), {until} AS {UNTIL} "
        f"FROM spans WHERE {in_force}"
    )
