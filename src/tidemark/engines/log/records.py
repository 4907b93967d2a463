"""What a log is told and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tidemark.engines.few import Few

    Words = NDArray[np.int64] | Sequence[int]
    Flags = NDArray[np.bool_] | Sequence[bool]


@dataclass(frozen=True)
class Batch:
    """Rows that are appended together, under an idempotency key if there is one.

    `rows` have the declared columns; `buried` are those beside them that cannot be events.
    Where the rows were dead letters, `settled` says which.
    """

    rows: pa.Table | Few
    key: str = ""
    buried: tuple[Letter, ...] = ()
    settled: Settled | None = None


@dataclass(frozen=True)
class Settled:
    """The numbers of the dead letters that are events now, and the new reasons of others."""

    taken: tuple[int, ...]
    refused: tuple[tuple[int, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Taken:
    """Rows that were taken, from the position `first` on, and what the log knows of each.

    `identities` are None where the source has no `unique`.  Of few rows all is in lists, and they
    were seen at one moment.
    """

    rows: pa.RecordBatch | Few
    first: int
    seen: Words
    corrects: Flags
    identities: Words | None

    def __len__(self) -> int:
        return len(self.seen)


@dataclass(frozen=True)
class Appended:
    """What became of a batch.

    The rows that were taken have the positions `first` to `last` (`last` is `first - 1` if there
    are none) and were seen by `seen` (UTC microseconds); `duplicates` were there already.
    `replayed` says that the batch's key was known: nothing was done, and this is the answer of the
    first time (`other`: which was to other rows); otherwise `accepts` says of each row whether it
    was taken, and `taken` has those that were.
    """

    first: int
    last: int
    accepted: int
    duplicates: int
    seen: int
    replayed: bool = False
    other: bool = False
    accepts: Flags | None = field(default=None, compare=False, repr=False)
    taken: Taken | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Letter:
    """A row that cannot be an event, as JSON text, and why.

    Of a stream, `origin` and `offset` say which message it was; the same one is kept once.
    `number` and `at` (UTC microseconds) are given by the log, as is `replayed`: when it became an
    event after all (0: it did not).
    """

    row: str
    reasons: tuple[str, ...]
    origin: str = ""
    offset: str = ""
    number: int = 0
    at: int = 0
    replayed: int = 0


@dataclass(frozen=True)
class Newest:
    """The newest position of a log (0: none) and when it was seen, in UTC microseconds."""

    position: int
    seen: int


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: rows that went from batches into so many Parquet files.

    `merged` small files of one day were put together, and are gone.
    """

    rows: int
    files: int
    merged: int = 0


@dataclass(frozen=True)
class State:
    """Where a log stands.

    `content` is a sum over all events ever taken, `dropped` how many of them retention has removed,
    `indexed` the position up to which identities are in files.
    """

    last: int = 0
    seen: int = 0
    content: int = 0
    dropped: int = 0
    indexed: int = 0
