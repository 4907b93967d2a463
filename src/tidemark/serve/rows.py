"""The rows of a request, from one round trip to the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemark.errors import StaleSource, StoreUnavailable
from tidemark.model.graph import Reference
from tidemark.model.window import format_moment
from tidemark.online import codec
from tidemark.online.keys import (
    generation_prefix,
    held_key,
    read_held,
    read_record,
    record_key,
)
from tidemark.online.protocol import OnlineStore
from tidemark.serve.program import Available, Program, View

_ATTEMPTS = 20
"""How often a read follows materializations that finish while it reads."""

_decode = msgspec.msgpack.Decoder(list[Any]).decode


class Stored(NamedTuple):
    """The rows of V views and K sets of keys in one buffer.

    `entities` is K.  `at[v, k]` is where in `words` a row begins, -1 where there is none.  `keys`
    has one column for each key.
    """

    entities: int
    keys: Sequence[Sequence[Any]]
    words: NDArray[np.int64]
    at: NDArray[np.int64]

    def heap(self, view: int, row: int) -> list[Any]:
        """The dictionaries of the columns of a row."""
        start = int(self.at[view, row])
        first = start * 8 + int(self.words[start + 4])
        return _decode(self.words.view(np.uint8)[first : first + int(self.words[start + 5])].data)


class _Current(NamedTuple):
    """The states of a view that serve.

    `stored` is their record.  For each state `floors` has the earliest moment that it answers,
    `prefixes` what the keys of its rows begin with.
    """

    stored: bytes | None
    states: tuple[str, ...]
    floors: Mapping[str, int]
    prefixes: Mapping[str, bytes]


_UNKNOWN = _Current(b"", (), {}, {})


class OtherStates(Exception):  # nothing is wrong: the program is to be made anew
    """Other states serve than those that the program was made for."""


class RowReader:
    """Reads rows of the current generation of each state."""

    def __init__(self, online: OnlineStore, project: str) -> None:
        self.online = online
        self.project = project
        self._current: dict[bytes, _Current] = {}

    def available(self, views: Iterable[str]) -> dict[str, list[Available]]:
        """The states that serve for each view, newest first."""
        found: dict[str, list[Available]] = {}
        for view in views:
            (stored,) = self.online.get_many([record_key(self.project, view)])
            states = [each.state for each in read_record(stored).states]
            places = [held_key(self.project, view, state) for state in states]
            found[view] = []
            for state, text in zip(states, self.online.get_many(places), strict=True):
                if text is not None:  # else it has just been replaced
                    held, names = read_held(bytes(text))
                    found[view].append(Available(state, held.view, held.source, names))
        return found

    def read(self, program: Program, keys: Sequence[Sequence[Any]], count: int, at: int) -> Stored:
        """The rows of all views for these columns of keys, all of one moment of the store.

        Raises `StaleSource` for a feature that is not materialized, or not for the moment `at`, and
        `OtherStates` if the program is to be made anew.
        """
        views = len(program.views)
        if count == 0 or not views:
            return Stored(count, keys, _NO_WORDS, np.full((views, count), -1))
        of_entity = program.key_bytes(keys)
        for _ in range(_ATTEMPTS):
            rows = self._try(program, of_entity)
            if rows is not None:
                for view in program.views:
                    floor = self._current[program.records[view.record]].floors[view.state]
                    if at < floor:
                        raise _forgotten(view, at, floor)
                words, starts = _joined(rows)
                return Stored(count, keys, words, starts.reshape(views, count))
        raise _restless(self.online)

    def _try(self, program: Program, of_entity: list[list[bytes]]) -> list[bytes | None] | None:
        """The rows of the generations that are known here; None if others are current by now."""
        known = [self._current.get(record, _UNKNOWN) for record in program.records]
        wanted = list(program.records)
        for view in program.views:
            prefix = known[view.record].prefixes.get(view.state, b"")
            wanted += [prefix + key for key in of_entity[view.entity]]
        found = self.online.get_many(wanted) if len(of_entity[0]) == 1 else self._shared(wanted)
        rows = found[len(known) :]
        changed = False
        for place, (current, stored) in enumerate(zip(known, found, strict=False)):
            if current.stored != stored:
                changed = True
                current = self._read(program.owners[place], stored)  # noqa: PLW2901
                self._current[program.records[place]] = current
            if current.states != program.states[place]:
                raise OtherStates
        if program.absent:
            raise _absent(program.absent)
        return None if changed else rows

    def _shared(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of keys; one that occurs often (all flights of an airline) is read once."""
        distinct = list(dict.fromkeys(keys))
        values = dict(zip(distinct, self.online.get_many(distinct), strict=True))
        return [values[key] for key in keys]

    def _read(self, view: str, stored: bytes | None) -> _Current:
        states = read_record(stored).states
        prefixes = {
            each.state: generation_prefix(self.project, view, each.state, each.generation)
            for each in states
        }
        floors = {each.state: each.floor for each in states}
        return _Current(stored, tuple(prefixes), floors, prefixes)


_NO_WORDS = np.zeros(codec.HEADER, np.int64)


def _joined(rows: list[bytes | None]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows as one buffer of words, each once, and where in it each begins (-1: there is none)."""
    present: list[bytes] = []
    starts: list[int] = []
    known: dict[int, int] = {}
    size = 0
    for row in rows:
        if row is None:
            starts.append(-1)
            continue
        if id(row) in known:
            starts.append(known[id(row)])
            continue
        known[id(row)] = size
        if not row.startswith(codec.PREAMBLE):
            codec.refuse(row)
        present.append(row)
        starts.append(size)
        size += len(row) >> 3
    words = np.frombuffer(b"".join(present), np.int64) if present else _NO_WORDS
    return words, np.array(starts, np.int64)


def _absent(absent: Sequence[Reference]) -> StaleSource:
    views = list(dict.fromkeys(each.owner for each in absent))
    names = ", ".join(map(str, absent))
    return StaleSource(
        f"There is no online state yet of {names}.",
        remedy=f"Write it: store.materialize({views!r}), "
        f"or `tidemark materialize {' '.join(views)}`.",
    )


def _restless(online: OnlineStore) -> StoreUnavailable:
    return StoreUnavailable(
        "The online state kept changing while it was read.", where=online.name, remedy="Try again."
    )


def _forgotten(view: View, at: int, floor: int) -> StaleSource:
    return StaleSource(
        f"The online state of {view.view.name!r} does not reach back to {format_moment(at)}.",
        where=f"It answers moments from {format_moment(floor)} on.",
        remedy="Ask for a later moment, or materialize with a longer `retain`.",
    )
