"""Which events a log holds: by the hash of an identity, the position and content of its newest one.

New ones are entries beside their batch, kept in memory by whoever writes; when there are many they
become a run, a file of sorted arrays that is searched where it lies, and many runs of one size
become a larger one.  So a batch costs the same whatever the log holds, where a tree of hashes
would touch a page of the disk for every event.
"""

from __future__ import annotations

import os
import sqlite3
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemark.engines.log.database import Database, checksum, sync_folder
from tidemark.engines.log.records import State

Words = NDArray[np.int64]

RECENT = 1 << 15
"""Identities in memory before they become a run."""

TOGETHER = 16
"""Runs of one tier that become one of the next."""

_CHECKED_BYTES = 1 << 26

_SINCE = (
    "SELECT first, checksum, entries FROM identities WHERE first > ?1 UNION ALL "
    "SELECT first, identities_checksum, identities FROM batches "
    "WHERE first > ?1 AND identities IS NOT NULL ORDER BY first"
)

KEEP = (
    "INSERT INTO identities SELECT first, identities_checksum, identities FROM batches "
    "WHERE first BETWEEN ? AND ? AND identities IS NOT NULL "
    "AND first > (SELECT indexed FROM state)"
)
"""Keeps the entries of batches that go and are in no run yet."""


class Found(NamedTuple):
    """Of each identity: its newest position, 0 where there is none, and the hash of its content."""

    positions: Words
    contents: Words


class Told(NamedTuple):
    """Which rows are taken, which of them correct an event, and at which a new moment begins."""

    accepted: NDArray[np.bool_]
    corrects: NDArray[np.bool_]
    cuts: list[int]


@dataclass(frozen=True)
class Run:
    """Identities in ascending order, each once; arrays of one length that lie in a file."""

    number: int
    tier: int
    hashes: Words
    positions: Words
    contents: Words


def entries(hashes: Words | Sequence[int], contents: Words | Sequence[int]) -> bytes:
    """The identities and contents of the rows of a batch, as they are stored beside it."""
    if isinstance(hashes, np.ndarray):
        return np.concatenate((hashes, contents)).tobytes()
    return array("q", [*hashes, *contents]).tobytes()


class Identities:
    """The index of one log, as the writer of the moment sees it; only used within a writing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: dict[int, tuple[int, int]] = {}
        self._read = 0  # recent ones are known up to this position
        self._indexed = 0
        self._runs: dict[int, Run] = {}

    def refresh(self, connection: sqlite3.Connection, state: State) -> None:
        """Take in what other processes have written meanwhile."""
        if self._read == state.last and self._indexed == state.indexed:
            return
        if self._indexed != state.indexed or self._read > state.last:
            self._recent.clear()
            self._read = self._indexed = state.indexed
            self._load_runs(connection)
        for first, sum_, entries in connection.execute(_SINCE, (self._read,)):
            if checksum(first, data=entries) != sum_:
                raise self._database.damaged(f"identities at position {first:,} have changed")
            hashes, contents = np.frombuffer(entries, np.int64).reshape(2, -1)
            self._remember(first, hashes.tolist(), contents.tolist())
        self._read = state.last

    def forget(self) -> None:
        """Read everything anew, after a writing that was undone."""
        self._read = self._indexed = -1

    def find(self, hashes: Words) -> Found:
        """What is known of some identities."""
        positions, contents = np.zeros(len(hashes), np.int64), np.zeros(len(hashes), np.int64)
        order = np.argsort(hashes)  # looked up in order, they are near to one another in memory
        ordered = hashes[order]
        for run in self._runs.values():  # from the oldest on, so that the newest one stays
            places = np.minimum(np.searchsorted(run.hashes, ordered), len(run.hashes) - 1)
            there = run.hashes[places] == ordered
            if there.any():
                positions[order[there]] = run.positions[places[there]]
                contents[order[there]] = run.contents[places[there]]
        if self._recent:
            recent = map(self._recent.get, hashes.tolist())
            for i, newest in enumerate(recent):
                if newest is not None:
                    positions[i], contents[i] = newest
        return Found(positions, contents)

    def content_of(self, hash_: int) -> int | None:
        """The hash of the newest content of one identity; None where it is new."""
        newest = self._recent.get(hash_)
        if newest is not None:
            return newest[1]
        for run in reversed(self._runs.values()):
            place = int(run.hashes.searchsorted(hash_))
            if place < len(run.hashes) and run.hashes[place] == hash_:
                return int(run.contents[place])
        return None

    def add(self, first: int, hashes: Sequence[int], contents: Sequence[int]) -> None:
        """Know rows from a position on, which are stored by now; a hash of 0 is no identity."""
        self._remember(first, hashes, contents)
        self._read = first + len(hashes) - 1

    def settle(self, connection: sqlite3.Connection) -> int | None:
        """Write recent identities into a run if there are many; gives the position up to which."""
        if len(self._recent) < RECENT:
            return None
        self._sweep()  # the runs are those of the last commit, and nobody else makes one now
        hashes = np.fromiter(self._recent, np.int64, len(self._recent))
        pairs = chain.from_iterable(self._recent.values())
        values = np.fromiter(pairs, np.int64, 2 * len(hashes)).reshape(-1, 2)
        order = np.argsort(hashes)
        arrays = hashes[order], values[order, 0], values[order, 1]
        tier = 0
        while True:
            alike = [run for run in self._runs.values() if run.tier == tier]
            if len(alike) < TOGETHER - 1:
                break
            arrays = _merged([*((r.hashes, r.positions, r.contents) for r in alike), arrays])
            connection.executemany(
                "DELETE FROM runs WHERE number = ?", [(run.number,) for run in alike]
            )
            for run in alike:
                del self._runs[run.number]
            tier += 1
        self._write(connection, tier, arrays)
        connection.execute("DELETE FROM identities")
        self._recent.clear()
        self._indexed = self._read
        return self._read

    def _sweep(self) -> None:
        """Remove files that are no run, or none any more; whoever has one open keeps it."""
        known = {_name(number) for number in self._runs}
        for path in self._database.folder.glob("identities-*.run*"):
            if path.name not in known:
                path.unlink(missing_ok=True)

    def _remember(self, first: int, hashes: Sequence[int], contents: Sequence[int]) -> None:
        positions = range(first, first + len(hashes))
        pairs = zip(positions, contents, strict=True)
        self._recent.update(zip(hashes, pairs, strict=True))
        self._recent.pop(0, None)

    def _load_runs(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT number, tier, rows, checksum FROM runs ORDER BY number")
        there = self._runs
        self._runs = {
            number: there.get(number) or self._open(number, tier, n, sum_)
            for number, tier, n, sum_ in rows.fetchall()
        }

    def _open(self, number: int, tier: int, rows: int, sum_: int) -> Run:
        path = self._database.folder / _name(number)
        if not path.exists() or path.stat().st_size != rows * 24:
            raise self._database.damaged(f"{path.name} is missing or cut off")
        words = np.memmap(path, np.int64, "r", shape=(3, rows))
        if rows * 24 <= _CHECKED_BYTES and checksum(data=words.data) != sum_:
            raise self._database.damaged(f"{path.name} has changed")
        return Run(number, tier, words[0], words[1], words[2])

    def _write(
        self, connection: sqlite3.Connection, tier: int, arrays: tuple[Words, Words, Words]
    ) -> None:
        number = 1 + (connection.execute("SELECT max(number) FROM runs").fetchone()[0] or 0)
        number = max(number, 1 + max(self._runs, default=0))
        data = np.ascontiguousarray(np.stack(arrays))
        path = self._database.folder / _name(number)
        write_durably(path, data.tobytes())
        sum_ = checksum(data=data.data)
        values = (number, tier, data.shape[1], sum_)
        connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", values)
        self._runs[number] = self._open(*values)


def told_apart(found: Found, identities: Words, contents: Words) -> Told:
    """Tell events that are new, corrected and only delivered again, by what is known of them."""
    there = found.positions > 0
    accepted = ~(there & (found.contents == contents))
    corrects = there & accepted
    if len(identities) == 1:
        return Told(accepted, corrects, [0])
    ordered = np.sort(identities[identities != 0])
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return Told(accepted, corrects, [0])
    # Of what occurs several times, each row is compared with the one before it, and two
    # versions of one event are not seen at one moment.
    again = np.flatnonzero(np.isin(identities, repeated)).tolist()
    newest: dict[int, int] = {}
    taken_at: dict[int, int] = {}
    cuts = [0]
    # If the last version that a batch has of an event is the newest one already, this is the
    # batch delivered again: what led to it then is not to be gone through once more.
    last = {int(identities[i]): i for i in again}
    through = {identity for identity, i in last.items() if there[i] and not corrects[i]}
    for i in again:
        identity, content = int(identities[i]), int(contents[i])
        if identity in through:
            accepted[i] = corrects[i] = False
            continue
        if identity not in newest and there[i]:
            newest[identity] = int(found.contents[i])
        corrects[i] = identity in newest and newest[identity] != content
        accepted[i] = identity not in newest or bool(corrects[i])
        if accepted[i]:
            if taken_at.get(identity, -1) >= cuts[-1]:
                cuts.append(i)
            newest[identity], taken_at[identity] = content, i
    before = np.cumsum(accepted) - accepted  # how many rows are taken before each one
    return Told(accepted, corrects, [int(before[cut]) for cut in cuts])


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is whole, on the disk and under its name when this returns."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(path.parent)


def _name(number: int) -> str:
    return f"identities-{number:06}.run"


def _merged(parts: list[tuple[Words, Words, Words]]) -> tuple[Words, Words, Words]:
    """Sorted arrays as one, of which a later one wins."""
    hashes, positions, contents = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    chosen = order[last]
    return hashes[chosen], positions[chosen], contents[chosen]
