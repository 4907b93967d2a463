"""The state of a source: which files, rows and events there were when something was made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from tidemark.compile import text
from tidemark.engines import content
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.histories import as_table, delta_of, files_of, open_history
from tidemark.errors import StaleSource
from tidemark.model.graph import Csv, Delta, Frame, Parquet, Query, Source, Table
from tidemark.model.window import format_moment

HASHED_BYTES = 1 << 30
"""Files of a source are told apart by their content up to this size in all, above it by size and
time of change: reading more only to hash it would cost more than the training set."""


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file: bytes, the time of its last change in microseconds, and its hash if it was read."""

    path: str
    size: int
    changed: int
    hash: str = ""


class LogState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the event log was read; `content` is a sum over its events if they were looked at.

    `dropped` events were gone already, by retention.
    """

    position: int
    content: str = ""
    dropped: int = 0


class SourceState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a source held.

    `history` says where.  Files have `files`; frames, tables and queries `rows` and `hash`, those
    of a table or query regardless of their order; a Delta table its `version`.  `log` is there if
    the event log held something of the source.
    """

    source: str
    history: str
    files: tuple[File, ...] = ()
    rows: int = 0
    hash: str = ""
    version: int = -1
    log: LogState | None = None


def pin(engine: DuckDB, sources: Iterable[Source]) -> None:
    """From now on, read the log of these sources up to where it is now."""
    for source in sources:
        if engine.log is not None:
            engine.positions[source.name] = engine.log.last(source.name)


def pin_as(engine: DuckDB, states: Iterable[SourceState]) -> None:
    """From now on, read the log up to where it was in these states."""
    for state in states:
        engine.positions[state.source] = 0 if state.log is None else state.log.position


def glance(engine: DuckDB, source: Source) -> SourceState:
    """What can be told of a source without reading it; raises `EngineError` if it is gone."""
    return msgspec.structs.replace(_of_history(engine, source), log=_of_log(engine, source))


def _of_log(engine: DuckDB, source: Source, *, read: bool = False) -> LogState | None:
    if engine.log is None or source.time is None:
        return None
    until = engine.positions.get(source.name)
    state = engine.log.state(source.name, until if read else None)
    position = state.last if until is None else min(until, state.last)
    content_ = f"{state.content & (2**64 - 1):016x}" if read else ""
    return LogState(position, content_, state.dropped) if position else None


def _of_history(engine: DuckDB, source: Source) -> SourceState:
    match source.history:
        case Parquet(path) | Csv(path):
            files = tuple(_files(engine, source, path))
            return SourceState(source.name, f"files {path}", files)
        case Delta(path):
            version, _ = delta_of(engine, source, path)
            return SourceState(source.name, f"delta table {path}", version=version)
        case Table(name):
            return SourceState(source.name, f"table {name}")
        case Query(sql):
            return SourceState(source.name, f"query {sql}")
        case Frame(name):
            return SourceState(source.name, f"frame {name}")
        case None:
            return SourceState(source.name, "none")


def examine(engine: DuckDB, source: Source) -> SourceState:
    """The state of a source, which may read it; raises what reading it raises."""
    state = _of_history(engine, source)
    state = msgspec.structs.replace(state, log=_of_log(engine, source, read=True))
    match source.history:
        case Parquet() | Csv():
            local = "://" not in state.history
            if not local or sum(file.size for file in state.files) > HASHED_BYTES:
                return state
            hashed = tuple(
                msgspec.structs.replace(file, hash=_file_hash(engine.root / file.path))
                for file in state.files
            )
            return msgspec.structs.replace(state, files=hashed)
        case Table() | Query():
            rows, hash_ = _rows(engine, source)
        case Frame(name):
            open_history(engine, source).close()  # says so if the frame is gone
            table = as_table(engine.frames[name])
            rows, hash_ = table.num_rows, content.rows_hash(content.column_hashes(table))
        case _:
            return state
    return msgspec.structs.replace(state, rows=rows, hash=hash_)


def refuse_moved(before: Sequence[SourceState], after: Sequence[SourceState]) -> None:
    """Raise `StaleSource` if a history changed between two glances."""
    for one, other in zip(before, after, strict=True):
        moved = changes(one, other)
        if moved:
            raise StaleSource(
                f"{one.source} changed while it was read.",
                where="\n".join(moved),
                remedy="Try again when nothing writes to it.",
            )


def changes(before: SourceState, now: SourceState) -> list[str]:
    """What differs between two states of a source, in words; empty if nothing does."""
    if before.history != now.history:
        return [f"it was {before.history} and is {now.history}"]
    found = [*_file_changes(before, now), *_log_changes(before.log, now.log)]
    if before.version != now.version:
        found.append(f"it was at version {before.version} and is at {now.version}")
    if before.rows != now.rows:
        found.append(f"it had {before.rows:,} rows and has {now.rows:,}")
    elif before.hash != now.hash:
        found.append(f"values among its {now.rows:,} rows changed")
    return found


def _log_changes(before: LogState | None, now: LogState | None) -> Iterator[str]:
    was, is_ = before or LogState(0), now or LogState(0)
    if was.position != is_.position:
        yield f"its event log was at position {was.position:,} and is at {is_.position:,}"
    elif was.content and is_.content and was.content != is_.content:
        yield "events of its event log changed"
    if was.dropped < is_.dropped:
        yield f"retention removed {is_.dropped - was.dropped:,} events of its event log"


def _file_changes(before: SourceState, now: SourceState) -> Iterator[str]:
    known = {file.path: file for file in before.files}
    there = {file.path: file for file in now.files}
    for path in sorted(known.keys() - there.keys()):
        yield f"{path} was removed"
    for path in sorted(there.keys() - known.keys()):
        yield f"{path} was added"
    for path in sorted(known.keys() & there.keys()):
        was, is_ = known[path], there[path]
        if was.size != is_.size:
            yield f"{path} changed: it had {was.size:,} bytes and has {is_.size:,}"
        elif was.hash and is_.hash:
            if was.hash != is_.hash:
                yield f"{path} changed: other content of the same size"
        elif was.changed != is_.changed:
            yield f"{path} was written again at {format_moment(is_.changed)}"


def _files(engine: DuckDB, source: Source, path: str) -> Iterator[File]:
    for name in files_of(engine, source, path):
        if "://" in name:
            query = f"SELECT size, epoch_us(last_modified) FROM read_blob({text(name)})"
            size, changed = engine.rows(query)[0]
            yield File(name, int(size), int(changed or 0))
        else:
            found = Path(name).stat()
            root = engine.root.resolve()
            absolute = Path(name).resolve()
            shown = absolute.relative_to(root) if absolute.is_relative_to(root) else absolute
            yield File(str(shown), found.st_size, found.st_mtime_ns // 1_000)


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _rows(engine: DuckDB, source: Source) -> tuple[int, str]:
    """The declared columns of a table or query, put in order: a database may give any."""
    with closing(open_history(engine, source)) as relation:
        query = f"SELECT * FROM {relation.rows} ORDER BY ALL"
        schema = engine.table(f"SELECT * FROM {relation.rows} LIMIT 0", relation.tables).schema
        return content.batches_hash(schema, engine.batches(query, relation.tables))
