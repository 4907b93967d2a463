"""Dead letters: rows that could not be events, kept after they were replayed as well."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from tidemark.engines.log.records import Letter, Settled
from tidemark.errors import StoreConflict


def keep(connection: sqlite3.Connection, letters: Sequence[Letter], at: int) -> None:
    """Keep rows as of a moment (microseconds); a message of a stream that is there stays one."""
    rows = [
        (at, letter.row, json.dumps(letter.reasons), letter.origin, letter.offset)
        for letter in letters
    ]
    connection.executemany("INSERT OR IGNORE INTO buried VALUES (NULL, ?, ?, ?, ?, ?, 0)", rows)


def find(
    connection: sqlite3.Connection, after: int, most: int, *, replayed: bool = False
) -> list[Letter]:
    """Up to `most` rows whose number is greater than `after`: those left, or the replayed ones."""
    query = (
        "SELECT row, reasons, origin, offset, number, at, replayed FROM buried "
        f"WHERE number > ? AND replayed {'>' if replayed else '='} 0 ORDER BY number LIMIT ?"
    )
    rows = connection.execute(query, (after, most)).fetchall()
    return [Letter(row, tuple(json.loads(reasons)), *rest) for row, reasons, *rest in rows]


def count(connection: sqlite3.Connection) -> int:
    """How many rows could not be events, so far."""
    found = connection.execute("SELECT max(number) FROM buried").fetchone()
    return int(found[0] or 0)


def settle(connection: sqlite3.Connection, settled: Settled, at: int) -> None:
    """Note which rows are events now, and why others still are not.

    Raises `StoreConflict` where somebody else has replayed one of them meanwhile.
    """
    changed = 0
    for number in settled.taken:
        changed += connection.execute(
            "UPDATE buried SET replayed = ? WHERE number = ? AND replayed = 0", (at, number)
        ).rowcount
    if changed != len(settled.taken):
        raise StoreConflict(
            "Another process has replayed some of these dead letters meanwhile.",
            remedy="Replay again: nothing of this was kept, and what they did is left out.",
        )
    connection.executemany(
        "UPDATE buried SET reasons = ? WHERE number = ? AND replayed = 0",
        [(json.dumps(reasons), number) for number, reasons in settled.refused],
    )
