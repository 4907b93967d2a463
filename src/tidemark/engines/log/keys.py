"""Idempotency keys: a batch that comes again under its key is answered as it was the first time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tidemark.engines.identity import spread
from tidemark.engines.log.records import Appended, Batch

KEPT = 100_000
"""How many keys of a source are remembered: those of its newest batches."""


def said(batch: Batch, contents: NDArray[np.int64] | Sequence[int]) -> int | None:
    """What the rows of a batch with a key say, in whatever order, from the hashes of each.

    None where there are dead letters: when it comes again, a clock may have made events of them.
    """
    if not batch.key or batch.buried:
        return None
    words = np.asarray(contents, np.int64).view(np.uint64)
    return int(spread(words).sum(dtype=np.uint64).view(np.int64))


def find(connection: sqlite3.Connection, key: str, says: int | None) -> Appended | None:
    """The answer of the first time, if a batch had this key."""
    query = "SELECT first, last, accepted, duplicates, seen, said FROM keys WHERE key = ?"
    row = connection.execute(query, (key,)).fetchone() if key else None
    if row is None:
        return None
    *answer, before = row
    other = says is not None and before is not None and says != before
    return replace(Appended(*answer), replayed=True, other=other)


def keep(connection: sqlite3.Connection, key: str, says: int | None, done: Appended) -> None:
    """Keep what was answered to a batch that has a key, and what its rows said."""
    values = (key, done.first, done.last, done.accepted, done.duplicates, done.seen, says)
    added = connection.execute("INSERT INTO keys VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values)
    number = added.lastrowid or 0
    connection.execute("DELETE FROM keys WHERE number <= ?", (number - KEPT,))
