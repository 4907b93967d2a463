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
from tidemark.engines.histories import LOGGED, SEEN, Relation
from tidemark.model.graph import Source

IDENTITY, UNTIL = "tidemark_identity", "tidemark_until"
_SLICES = 16
_SORTED_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Versions:
    """A relation whose rows are versions of events, each with the moment from which it is replaced.

    A row whose `IDENTITY` is among `replaced` (sorted hashes) is to be left out: the versions of
    its event come later in the relation, with `UNTIL` in microseconds (null: never).  Of
    `disagreeing` events, history and log do not say the same in the end.
    """

    relation: Relation
    replaced: NDArray[np.uint64]
    disagreeing: int = 0

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
    names = {"repeated": pa.table({"identity": repeated}), **relation.tables}
    versions, gathered, disagreeing = _gathered(relation), None, 0
    if relation.logged:  # they are asked about more than once
        gathered = engine.temporary / f"{engine.fresh_name('repeated')}.parquet"
        engine.execute(f"COPY ({versions}) TO {text(str(gathered))} (FORMAT parquet)", names)
        versions, names = f"SELECT * FROM read_parquet({text(str(gathered))})", {}
        disagreeing = _disagreements(relation, versions, known_by)
        versions = _recorded(source, versions)
    file = engine.temporary / f"{engine.fresh_name('versions')}.parquet"
    query = _ordered(relation, versions, hindsight=hindsight, known_by=known_by)
    engine.execute(f"COPY ({query}) TO {text(str(file))} (FORMAT parquet)", names)
    if gathered is not None:
        gathered.unlink()
    base = [
        f"SELECT *, {_identity(source)} AS {IDENTITY}, CAST(NULL AS BIGINT) AS {UNTIL} "
        f"FROM ({part})"
        for part in relation.parts
    ]
    columns = ", ".join(
        f"CAST({identifier(column.name)} AS {sql_type(column.type)}) AS {identifier(column.name)}"
        for column in source.columns
    )
    if relation.logged:
        columns += f", {SEEN}, {LOGGED}"
    resolved = (
        f"SELECT {columns}, CAST(NULL AS UBIGINT) AS {IDENTITY}, {UNTIL} "
        f"FROM read_parquet({text(str(file))})"
    )
    resolution = replace(relation, parts=(*base, resolved), kept=file)
    return Versions(resolution, repeated, disagreeing)


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


def _gathered(relation: Relation) -> str:
    """The versions of repeated events, with when each was seen and whether the log has it."""
    repeated = f"{_identity(relation.source)} IN (SELECT identity FROM repeated)"
    return f"SELECT * FROM {relation.rows_seen} WHERE {repeated}"


def _ordered(relation: Relation, versions: str, *, hindsight: bool, known_by: int | None) -> str:
    """The versions of repeated events that are ever in force, with the end of their span."""
    source = relation.source
    order = ", ".join(f"{name} ASC NULLS FIRST" for name in [SEEN, *_content(source)])
    event = ", ".join(identifier(name) for name in source.unique)
    in_force = "tidemark_next IS NULL"
    if not hindsight:
        in_force += f" OR tidemark_next > {SEEN}"
    until = "CAST(NULL AS BIGINT)" if hindsight else "tidemark_next"
    return (
        f"WITH spans AS (SELECT *, lead({SEEN}) OVER (PARTITION BY {event} ORDER BY {order}) "
        f"AS tidemark_next FROM ({versions}) WHERE {_known(relation, known_by)}) "
        f"SELECT * EXCLUDE (tidemark_next), {until} AS {UNTIL} FROM spans WHERE {in_force}"
    )


def _recorded(source: Source, versions: str) -> str:
    """Versions without those of history whose event the log holds, where history assumes `seen`.

    When an event of the log became known was recorded.
    """
    if source.seen is not None:
        return versions
    event = ", ".join(identifier(name) for name in source.unique)
    return (
        f"SELECT * EXCLUDE (tidemark_recorded) FROM (SELECT *, bool_or({LOGGED}) OVER "
        f"(PARTITION BY {event}) AS tidemark_recorded FROM ({versions})) "
        f"WHERE {LOGGED} OR NOT tidemark_recorded"
    )


def _disagreements(relation: Relation, versions: str, known_by: int | None) -> int:
    """How many events the log and the history both hold, each with other content in the end."""
    columns = ", ".join(identifier(column.name) for column in relation.source.columns)
    event = ", ".join(identifier(name) for name in relation.source.unique)
    newest = f"max(struct_pack(seen := {SEEN}, content := hash({columns})))"
    told, recorded = (f"{newest} FILTER ({which})" for which in (f"NOT {LOGGED}", LOGGED))
    query = (
        f"SELECT count(*) FROM (SELECT {told} AS told, {recorded} AS recorded FROM ({versions}) "
        f"WHERE {_known(relation, known_by)} GROUP BY {event}) WHERE told IS NOT NULL "
        "AND recorded IS NOT NULL AND told.content <> recorded.content"
    )
    return int(relation.engine.rows(query)[0][0])


def _known(relation: Relation, known_by: int | None) -> str:
    if known_by is None or relation.source.time is None:
        return "TRUE"
    return f"{SEEN} <= {known_by}"


def _content(source: Source) -> list[str]:
    """What orders versions that were seen at one moment: their time, then all columns."""
    times = [] if source.time is None else [identifier(source.time)]
    return [*times, *(identifier(column.name) for column in source.columns)]
