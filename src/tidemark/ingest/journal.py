"""How far a materialization is: kept beside the rows that it writes, and in the same transactions.

So one that was interrupted is gone on with, if it would read the same again.  What cannot be told
apart without reading it (a query, a frame, a table of no file) is read anew.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tidemark.engines.histories import open_history
from tidemark.engines.inventory import SourceState, glance
from tidemark.model.graph import Frame, Query, Source, Table
from tidemark.online.rows import codec
from tidemark.online.states.keys import State, journal_key
from tidemark.online.stores.protocol import OnlineStore

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB


class Journal(msgspec.Struct, frozen=True):
    """How far the rows of a state are.

    `inputs` says what they are made from, with the event log up to `position`; they are `made` as
    of its `until`, and hold the log up to its `position`.  The groups before number `group` are
    written, and of that one so many `items`; `made.rows`, `made.events` and `unattributed` count
    what is in those groups.  It is `complete` when all are.
    """

    inputs: str
    position: int
    made: State
    group: int = 0
    items: int = 0
    unattributed: int = 0
    complete: bool = False


@dataclass(frozen=True)
class Asked:
    """What was asked for: state as of a moment in the past (None: of now), reaching back so far.

    Both in microseconds; `retain` 0 keeps everything.
    """

    until: int | None
    retain: int


class Journals:
    """The journals of one view's states."""

    def __init__(self, online: OnlineStore, project: str, view: str) -> None:
        self._online, self._project, self._view = online, project, view

    def key(self, state: str) -> bytes:
        """Where the journal of a state is."""
        return journal_key(self._project, self._view, state)

    def read(self, state: str) -> Journal | None:
        """The journal of a state; None if its rows are not being written."""
        (stored,) = self._online.get_many([self.key(state)])
        return None if stored is None else _decode(stored)

    def item(self, journal: Journal) -> tuple[bytes, bytes]:
        """A journal as it is put beside rows."""
        return self.key(journal.made.state), msgspec.msgpack.encode(journal)

    def discard(self, state: str) -> None:
        """Forget a journal, so that what it tells of is begun anew."""
        self._online.put_many([], deletes=[self.key(state)])


_decode = msgspec.msgpack.Decoder(Journal).decode


def fingerprint(
    engine: DuckDB, source: Source, state: str, position: int, asked: Asked
) -> str | None:
    """What rows of a state are made from; None where that cannot be told without reading it."""
    import duckdb

    import tidemark

    told = _told(engine, source)
    if told is None:
        return None
    logged = None
    if engine.log is not None and source.time is not None and position:
        log = engine.log.state(source.name, position)
        logged = log.last, log.content, log.dropped
    # Groups are dealt by a hash of the database, as many as the memory asks for.
    dealt = duckdb.__version__, engine.memory
    made = tidemark.__version__, codec.FORMAT, state, asked.until, asked.retain
    return hashlib.blake2b(
        msgspec.msgpack.encode((made, dealt, told, logged)), digest_size=16
    ).hexdigest()


def _told(engine: DuckDB, source: Source) -> tuple[SourceState, list[tuple[int, int]]] | None:
    """The state of a history, and of the database that holds it; None if nothing tells."""
    stamps: list[tuple[int, int]] = []
    match source.history:
        case Frame() | Query() | Table(connection=""):
            return None
        case Table(connection=connection):
            database = engine.root / connection
            for file in (database, Path(f"{database}.wal")):
                if file.exists():
                    found = file.stat()
                    stamps.append((found.st_size, found.st_mtime_ns))
        case _:
            pass
    return msgspec.structs.replace(glance(engine, source), log=None), stamps


def became_known(engine: DuckDB, source: Source, after: int, until: int) -> bool:
    """Whether a history tells of anything that became known in (after, until], in microseconds."""
    if source.time is None or source.history is None or after >= until:
        return False
    with closing(open_history(engine, source)) as relation:
        return relation.count(f"{relation.seen} > {after} AND {relation.seen} <= {until}") > 0
