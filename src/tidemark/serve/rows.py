"""The rows of a request, from one round trip to the store; how it is made, others decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemark.errors import StaleSource, StoreUnavailable
from tidemark.kernel.rows import beside
from tidemark.model.graph import Reference
from tidemark.model.window import clock, format_moment
from tidemark.online.rows import codec
from tidemark.online.states.keys import (
    State,
    generation_prefix,
    held_key,
    read_held,
    read_record,
    record_key,
)
from tidemark.online.states.underway import Known, Look, UnderWay
from tidemark.online.stores.asking import Asking
from tidemark.online.trees.directories import is_directory
from tidemark.serve.evaluation import Part, Rows
from tidemark.serve.program import Available, Program, View
from tidemark.serve.trees import Forest, Replaced, Unsettled

_ATTEMPTS = 20
"""How often a read follows materializations that finish while it reads."""

_decode = msgspec.msgpack.Decoder(list[Any]).decode


class Stored(NamedTuple):
    """What was read for K sets of keys at the moment `at`: rows in one buffer.

    `entities` is K.  `parts` say where in `words` the rows of each part of the program begin.
    `keys` has one column for each key; `states` are those of the program's views.
    """

    entities: int
    keys: Sequence[Sequence[Any]]
    at: int
    words: NDArray[np.int64]
    parts: Sequence[Rows]
    states: Sequence[State] = ()

    def start(self, view: int, row: int) -> int:
        """Where the row of a view begins for a set of keys."""
        of_view = next(each for each in self.parts if view in each.part.views)
        entity = row if of_view.entity_of is None else int(of_view.entity_of[row])
        at = int(of_view.at[of_view.part.views.index(view), entity])
        return at if at >= -1 else beside(at)

    def heap(self, start: int) -> list[Any]:
        """The dictionaries of the columns of the row that begins there."""
        first = start * 8 + int(self.words[start + 4])
        return _decode(self.words.view(np.uint8)[first : first + int(self.words[start + 5])].data)


class _Asked(NamedTuple):
    """What a part reads: the bytes that name its distinct entities, for each of its views."""

    part: Part
    names: Sequence[Sequence[bytes]]
    entity_of: NDArray[np.int64] | None


class _Current(NamedTuple):
    """What serves a program, as its `records` say.

    `states` are those of the program's views, `prefixes` what the keys of their rows begin with.
    They answer for moments of at least `floor`, and have the events up to those that are `known`.
    """

    program: Program
    records: Sequence[bytes | None]
    states: Sequence[State]
    prefixes: Sequence[bytes]
    floor: int
    known: Known


_NOTHING_KNOWN = Known(0, 0, {})


class OtherStates(Exception):  # nothing is wrong: the program is to be made anew
    """Other states serve than those that the program was made for."""


class RowReader:
    """Reads rows of the current generation of each state, from what it is sent for its keys.

    `store` is what messages call the place.  `look` says what is under way: events
    that the rows that are read after it may not count.
    """

    def __init__(self, store: str, project: str, look: Callable[[], Look] | None = None) -> None:
        self.store = store
        self.project = project
        self._look = look or UnderWay().look
        self._current: _Current | None = None

    def available(self, views: Iterable[str]) -> Asking[dict[str, list[Available]]]:
        """The states that serve for each view, newest first."""
        found: dict[str, list[Available]] = {}
        for view in views:
            (stored,) = yield [record_key(self.project, view)]
            states = [each.state for each in read_record(stored).states]
            places = [held_key(self.project, view, state) for state in states]
            found[view] = []
            for state, text in zip(states, (yield places), strict=True):
                if text is not None:  # else it has just been replaced
                    held, names = read_held(bytes(text))
                    found[view].append(Available(state, held.view, held.source, names))
        return found

    def read(
        self, program: Program, keys: Sequence[Sequence[Any]], count: int, at: int | None
    ) -> Asking[Stored]:
        """The rows of all views for these columns of keys, all of one moment of the store.

        `at` None is now, or before what is just being accepted: a moment for which training has the
        same events (see `Known.moment`).  Raises `StaleSource` for a feature that is not
        materialized, or not for the moment `at`, and `OtherStates` if the program is to be made
        anew.
        """
        if count == 0 or not program.views:
            none = np.full((len(program.views), count), -1)
            moment = clock() if at is None else at
            return Stored(count, keys, moment, _NO_WORDS, [Rows(program.whole, none, None, None)])
        asked = _asked(program, program.key_bytes(keys), count)
        # What others learn meanwhile must not mix with what this read goes by.
        current = self._current
        if current is None or current.program is not program:
            current = _Current(program, (), (), [b""] * len(program.views), 0, _NOTHING_KNOWN)
        records = len(program.records)
        whole = False
        for _ in range(_ATTEMPTS):
            look = self._look()
            places = [_places(current, each) for each in asked]
            wanted = places[0] if len(places) == 1 else [key for each in places for key in each]
            found = yield program.records + wanted
            if found[:records] != current.records:
                read = self._read(program, found[:records])
                changed = read.prefixes != current.prefixes
                self._current = current = read
                if changed:
                    continue
            moment = current.known.moment(look) if at is None else at
            if whole:
                moment = current.known.most
            if moment < current.floor:
                raise _forgotten(current, moment)
            try:
                words, parts = yield from _parts(asked, places, found[records:], moment)
            except Replaced:
                continue
            except Unsettled as unsettled:
                if at is None and moment < current.known.most:
                    whole = True  # tiles are not taken apart: it is of what they hold
                    continue
                raise _came_later(program.views[unsettled.view], moment) from None
            return Stored(count, keys, moment, words, parts, current.states)
        raise restless(self.store)

    def _read(self, program: Program, records: Sequence[bytes | None]) -> _Current:
        """What serves a program by these records."""
        serving = [{each.state: each for each in read_record(stored).states} for stored in records]
        if [tuple(states) for states in serving] != program.states:
            raise OtherStates
        if program.absent:
            raise _absent(program.absent)
        states = [serving[view.record][view.state] for view in program.views]
        prefixes = [
            generation_prefix(
                self.project, program.owners[view.record], view.state, state.generation
            )
            for view, state in zip(program.views, states, strict=True)
        ]
        floor = max(each.floor for each in states)
        sources = [view.view.source for view in program.views]
        known = Known.of(list(zip(sources, (each.until for each in states), strict=True)))
        return _Current(program, records, states, prefixes, floor, known)


def _places(current: _Current, asked: _Asked) -> list[bytes]:
    """The keys of the rows of a part, by the states that are known."""
    places: list[bytes] = []
    for number, names in zip(asked.part.views, asked.names, strict=True):
        prefix = current.prefixes[number]
        places += [prefix + name for name in names]
    return places


def _asked(program: Program, of_entity: Sequence[Sequence[bytes]], count: int) -> list[_Asked]:
    """What to read of each part, so that a row that occurs often (an airline's) is used once."""
    distinct = of_entity if count == 1 else [list(dict.fromkeys(names)) for names in of_entity]
    if count == 1 or all(len(names) == count for names in distinct):
        return [_Asked(program.whole, [of_entity[view.entity] for view in program.views], None)]
    asked: list[_Asked] = []
    parts = program.by_entity if len(distinct) > 1 else [program.whole]
    for part, mine, every in zip(parts, distinct, of_entity, strict=True):
        places = {name: place for place, name in enumerate(mine)}
        entity_of = np.array([places[name] for name in every], np.int64)
        asked.append(_Asked(part, [mine] * len(part.views), entity_of))
    return asked


def _parts(
    asked: Sequence[_Asked],
    places: Sequence[Sequence[bytes]],
    found: Sequence[bytes | None],
    at: int,
) -> Asking[tuple[NDArray[np.int64], list[Rows]]]:
    """All rows in one buffer, those of large entities made of what `at` needs of them."""
    words, starts, large = _joined(found)
    if not large and len(asked) == 1:
        rows = starts.reshape(len(asked[0].names), -1)
        return words, [Rows(asked[0].part, rows, asked[0].entity_of, None)]
    parts: list[Rows] = []
    first = 0
    for each, mine in zip(asked, places, strict=True):
        size = len(each.names[0])
        rows = starts[first : first + len(mine)].reshape(len(each.names), size)
        roots = [
            (*divmod(place - first, size), mine[place - first], int(starts[place]))
            for place in large
            if first <= place < first + len(mine)
        ]
        fold = None
        if roots:
            forest = Forest(words, roots)
            part = each.part
            try:
                fold = yield from forest.fold(part.trees, at)
            except Unsettled as unsettled:
                raise Unsettled(part.views[unsettled.view]) from None
            for view, entity, start in forest.rows(part.joins, fold.needed):
                rows[view, entity] = beside(start)
            words = forest.words
        parts.append(Rows(each.part, rows, each.entity_of, fold))
        first += len(mine)
    return words, parts


_NO_WORDS = np.zeros(codec.HEADER, np.int64)


def _joined(
    rows: Sequence[bytes | None],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Rows as one buffer of words, where in it each begins (-1: none), and which are roots."""
    present = [row for row in rows if row is not None]
    if not present:
        return _NO_WORDS, np.full(len(rows), -1), []
    heads = {row[: len(codec.PREAMBLE) + 2] for row in present}  # nearly always one
    for head in heads:
        if not head.startswith(codec.PREAMBLE):
            codec.refuse(head)
    large: list[int] = []
    if any(map(is_directory, heads)):
        large = [place for place, row in enumerate(rows) if row is not None and is_directory(row)]
    begins = accumulate(map(len, present[:-1]), initial=0)
    starts = np.array([begin >> 3 for begin in begins], np.int64)
    if len(present) < len(rows):
        of_present, starts = starts, np.full(len(rows), -1)
        starts[[row is not None for row in rows]] = of_present
    return np.frombuffer(b"".join(present), np.int64), starts, large


def _absent(absent: Sequence[Reference]) -> StaleSource:
    views = list(dict.fromkeys(each.owner for each in absent))
    names = ", ".join(map(str, absent))
    return StaleSource(
        f"There is no online state yet of {names}.",
        remedy=f"Write it: store.materialize({views!r}), "
        f"or `tidemark materialize {' '.join(views)}`.",
    )


def restless(store: str) -> StoreUnavailable:
    """The error of a read that followed changes of the online state as often as it may."""
    return StoreUnavailable(
        "The online state kept changing while it was read.", where=store, remedy="Try again."
    )


def _came_later(view: View, at: int) -> StaleSource:
    return StaleSource(
        f"The online state of {view.view.name!r} cannot answer {format_moment(at)}: of an entity "
        "with many events it keeps sums of whole steps, and some of these events came later.",
        remedy="Ask for a later moment, or for a row of it: store.training_set(...).",
    )


def _forgotten(current: _Current, at: int) -> StaleSource:
    of_views = zip(current.program.views, current.states, strict=True)
    view, floor = next((view, state.floor) for view, state in of_views if at < state.floor)
    return StaleSource(
        f"The online state of {view.view.name!r} does not reach back to {format_moment(at)}.",
        where=f"It answers moments from {format_moment(floor)} on.",
        remedy="Ask for a later moment, or materialize with a longer `retain`.",
    )
