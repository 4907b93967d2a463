"""The event log: the durable truth of events that were pushed or came from a stream.

Each source has a folder of its own.  What is appended is a batch in a SQLite file, on the disk when
the call returns; compaction turns older batches into Parquet by day, which any engine reads.
`docs/reference/event-log.md` shows the files.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

import pyarrow as pa

from tidemark.engines.log.batches import CORRECTS, POSITION, SEEN
from tidemark.engines.log.database import FILE, MARK
from tidemark.engines.log.records import (
    Appended,
    Batch,
    Compacted,
    Letter,
    Newest,
    Settled,
    State,
    Taken,
)
from tidemark.engines.log.segments import Snapshot
from tidemark.engines.log.source_log import SourceLog
from tidemark.model.graph import Source

__all__ = [
    "CORRECTS",
    "POSITION",
    "SEEN",
    "Appended",
    "Batch",
    "Compacted",
    "EventLog",
    "Letter",
    "Newest",
    "Settled",
    "Snapshot",
    "State",
    "Taken",
]

HOT_ROWS = 50_000
"""The newest rows that compaction leaves in batches unless told otherwise."""


class EventLog:
    """The logs of a project's sources, in a folder that is made by the first append.

    Several processes may use it at once: one appends to a source at a time, the others wait up to
    `wait` seconds, and reading waits for nobody.  Methods may be called from several threads.
    All raise `StoreUnavailable` where the disk refuses, and `EngineError` where what was written is
    not what is there.
    """

    def __init__(self, folder: str | Path, *, wait: float = 10.0) -> None:
        self.folder = Path(folder)
        self._wait = wait
        self._opened: dict[str, SourceLog] = {}
        self._opening = threading.Lock()

    def append(
        self,
        source: Source,
        table: pa.Table,
        *,
        seen: int,
        key: str = "",
        offsets: Mapping[str, str] | None = None,
        expected: Mapping[str, str | None] | None = None,
        buried: Sequence[Letter] = (),
    ) -> Appended:
        """Keep rows for good: they are on the disk when this returns.

        `table` has exactly the declared columns, with a time in every row.  `seen` (UTC
        microseconds) is raised where a batch before it was seen later.  A row of an event that is
        there already counts as a duplicate if it says the same as the newest one, and else is taken
        as a correction; two versions in one table are seen one after the other, in its order.

        A batch with the `key` of an earlier one is that batch: nothing is done.  `offsets` are kept
        in the same transaction, as are the `buried` rows; where those stored are not the
        `expected` ones (None: none), `StoreConflict` is raised and nothing is kept.
        """
        batch = Batch(table, key, tuple(buried))
        log = self._log(source.name)
        (done,) = log.append(source, [batch], seen, offsets or {}, expected or {})
        return done

    def append_all(self, source: Source, batches: Sequence[Batch], *, seen: int) -> list[Appended]:
        """Keep several batches, in their order, at the cost of writing to the disk once."""
        return self._log(source.name).append(source, batches, seen, {}, {})

    def read(self, source: Source, after: int, most: int) -> pa.Table:
        """Up to `most` events after a position, in their order.

        The declared columns are followed by `tidemark_seen` (UTC microseconds), `tidemark_position`
        and `tidemark_corrects`, which is true where the log held the event already with other
        content.
        """
        return self._log(source.name).read(source, after, most)

    def snapshot(self, source: Source, until: int | None, spill: Path) -> Snapshot:
        """What the log holds of a source now (None), or held at a position; close it afterwards.

        What is large and not compacted is written to the file `spill`.
        """
        return self._log(source.name).snapshot(source, until, spill)

    def last(self, name: str) -> int:
        """The newest position of a source; 0 if there is none."""
        return self.newest(name).position

    def newest(self, name: str) -> Newest:
        """The newest position of a source and when it was seen."""
        state = self._log(name).state()
        return Newest(state.last, state.seen)

    def acknowledged(self, name: str) -> int:
        """Up to which position the log of a source was acknowledged, also where it is damaged."""
        return self._log(name).acknowledged()

    def state(self, name: str, until: int | None = None) -> State:
        """Where the log of a source stands, or stood at a position: that reads what came since."""
        return self._log(name).state(until)

    def offsets(self, name: str) -> dict[str, str]:
        """How far each partition of a source's stream is in the log."""
        return self._log(name).offsets()

    def rewind(self, name: str) -> None:
        """Forget how far a source's stream is, so that it is read again from where readers begin.

        What comes again is told apart by the source's `unique`.
        """
        self._log(name).rewind()

    def pause(self, name: str) -> None:
        """Have nobody read the stream of a source until `resume`."""
        self._log(name).pause(pausing=True)

    def resume(self, name: str) -> None:
        """Let the stream of a source be read again."""
        self._log(name).pause(pausing=False)

    def paused(self, name: str) -> bool:
        """Whether the stream of a source is not to be read."""
        return self._log(name).paused()

    def buried(
        self, name: str, after: int = 0, most: int = 1000, *, replayed: bool = False
    ) -> list[Letter]:
        """Up to `most` such rows whose number is greater than `after`: those left, or replayed."""
        return self._log(name).buried(after, most, replayed=replayed)

    def count_buried(self, name: str) -> int:
        """How many such rows there were so far."""
        return self._log(name).count_buried()

    def names(self) -> list[str]:
        """The sources of which something was written, also where it is gone by now."""
        files = [path for name in (FILE, MARK) for path in self.folder.glob(f"*/{name}")]
        return sorted({unquote(path.parent.name) for path in files})

    def compact(self, source: Source, *, keep_rows: int = HOT_ROWS) -> Compacted:
        """Turn batches into Parquet by day, but for those with the newest rows.

        Other processes may append and read meanwhile; where one compacts already, nothing is done.
        """
        return self._log(source.name).compact(source, keep_rows)

    def retain(self, name: str, since: int) -> int:
        """Delete the Parquet files whose events all happened and were seen before a moment.

        Gives how many events went.  While somebody reads the files nothing is done.  Identities
        stay known, so that an event that went is not taken again.
        """
        return self._log(name).retain(since)

    def forgotten(self, name: str) -> int | None:
        """The time (microseconds) of the newest event that `retain` has deleted; None: of none."""
        return self._log(name).forgotten()

    def close(self) -> None:
        """Close all files; closing twice is fine."""
        with self._opening:
            for log in self._opened.values():
                log.close()
            self._opened.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _log(self, name: str) -> SourceLog:
        with self._opening:
            if name not in self._opened:
                folder = self.folder / quote(name, safe=" ")
                self._opened[name] = SourceLog(folder, name, self._wait)
            return self._opened[name]
