"""From words to values: what the kernel and the on-demand functions gave."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemark.define.on_demand import evaluate
from tidemark.engines.arrow import arrow_type, column_of
from tidemark.errors import EngineError
from tidemark.model.graph import Reference
from tidemark.model.types import FLOAT64
from tidemark.model.window import format_moment, instant
from tidemark.online.rows.values import decimal_of
from tidemark.online.states.keys import State
from tidemark.serve.evaluation import Found
from tidemark.serve.program import ALWAYS, EXPIRED, NO_EVENT, NULL, OVERFLOW, VALUE, Program
from tidemark.serve.rows import Stored
from tidemark.serve.vector import CODES, Status

if TYPE_CHECKING:
    import pyarrow as pa

Functions = Mapping[str, Callable[..., Any]]
"""On-demand functions, by reference."""

_NAMES = [*map(str, Status)]
_STATUSES = np.array(_NAMES, object)
_PRESENT, _NULL, _MISSING = CODES[Status.PRESENT], CODES[Status.NULL], CODES[Status.MISSING]
_NONE: Mapping[Reference, Sequence[Any]] = {}


def new_request_id() -> str:
    """A name for a request that nobody named."""
    return os.urandom(12).hex()


class Logged(NamedTuple):
    """What the serving log keeps of an answer: neither the rows that were read, nor much else.

    Many of these wait at a time, and the collector looks at every object that holds others; bytes
    it does not.  `words`, `state` and `time` are [F, rows], `known` is [V, rows], as in `Found`.
    `values` are those that are not numbers, from `program.numbers` on, one feature after the other;
    `others` are as `Answer` holds them; `states` are those of the program's views.
    """

    program: Program
    words: bytes
    state: bytes
    time: bytes
    known: bytes
    values: Sequence[Any]
    others: Mapping[Reference, Sequence[Any]]
    keys: Sequence[Sequence[Any]]
    rows: int
    at: int
    states: Sequence[State]


class Told(NamedTuple):
    """What is said of values besides them.

    `statuses` and `ages` (seconds; NaN: none) have a column for each output; of many sets of keys,
    outputs that have the same may share the list that says so.  `counts` [outputs, statuses] is how
    often each status is told, by its code.
    """

    statuses: list[list[str]]
    ages: list[list[float]]
    counts: NDArray[np.int64]


class Answer:
    """The values of a program for some sets of keys at one moment.

    `request_id` is what the serving log knows it by; empty where nothing is logged.  `seconds` are
    those of reading the store, of the kernel, and of on-demand functions.
    """

    request_id = ""
    seconds = (0.0, 0.0, 0.0)

    def __init__(
        self,
        program: Program,
        functions: Functions,
        found: Found,
        stored: Stored,
        request: Mapping[Reference, Sequence[Any]],
        at: int,
    ) -> None:
        self.program = program
        self.names = program.names
        self.rows = stored.entities
        self.at = at
        self._found = found
        self._stored = stored
        self._heaps: dict[int, list[list[Any]]] = {}
        self._values = self._decoded()
        self.decoded = perf_counter()
        self._others: dict[Reference, Sequence[Any]] = dict(request)
        if program.on_demand:
            inputs = {each: self._column(each) for each in program.place} | self._others
            self._others |= evaluate(
                program.definitions, functions, program.on_demand, inputs, self.rows
            )

    @property
    def moment(self) -> datetime:
        """The moment that was answered."""
        return instant(self.at)

    @property
    def logged(self) -> Logged:
        """What the serving log keeps."""
        stored, found, program = self._stored, self._found, self.program
        numbers = program.numbers
        return Logged(
            program,
            found.words.tobytes(),
            self._states,
            found.time.tobytes(),
            found.known.tobytes(),
            () if numbers == len(program.features) else self._values[numbers * self.rows :],
            self._others or _NONE,
            stored.keys,
            self.rows,
            self.at,
            stored.states,
        )

    def values(self, name: str) -> list[Any]:
        """The values of an output, one for each set of keys."""
        return list(self._column(self.program.reference[name]))

    def columns(self) -> list[Sequence[Any]]:
        """The values of all outputs, a column for each, to be looked at only."""
        return [self._column(each) for each in self.program.reference.values()]

    def first(self) -> dict[str, Any]:
        """The values of all outputs for the first set of keys."""
        if self.rows == 1 and not self._others:
            return dict(zip(self.names, self.program.pick(self._values), strict=True))
        columns = ((name, self._column(each)) for name, each in self.program.reference.items())
        return {name: column[0] for name, column in columns}

    def statuses(self, name: str) -> list[Status]:
        """What the values of an output say."""
        reference = self.program.reference[name]
        values = self._column(reference)
        place = self.program.place.get(reference)
        if place is None:
            return [Status.NULL if value is None else Status.PRESENT for value in values]
        known = self._found.known[self.program.view_of[place]].tolist()
        states = self._found.state[place].tolist()
        return [
            _status(newest, state, value)
            for newest, state, value in zip(known, states, values, strict=True)
        ]

    def ages(self, name: str) -> list[timedelta | None]:
        """How long before the moment the newest event of each value happened."""
        place = self.program.place.get(self.program.reference[name])
        if place is None:
            return [None] * self.rows
        return [
            None if time <= ALWAYS else timedelta(microseconds=self.at - time)
            for time in self._found.time[place].tolist()
        ]

    @property
    def newest(self) -> NDArray[np.int64]:
        """When the newest visible event of each view and each set of keys happened, [V, rows]."""
        return self._found.known

    @property
    def outcome(self) -> bytes:
        """What the outputs of one set of keys say: the code of each status."""
        program = self.program
        known: list[int] = self._found.known[:, 0].tolist()
        of_place = [of[state] for of, state in zip(program.codes, self._states, strict=True)]
        if NO_EVENT in known:
            for place, view in enumerate(program.view_of):
                if known[view] == NO_EVENT:
                    of_place[place] = _MISSING
        if not self._others:
            return bytes(program.pick(of_place))
        return bytes(
            self._of_value(name, 0) if place == -1 else of_place[place]
            for name, place in zip(self.names, program.places, strict=True)
        )

    def first_ages(self) -> list[float]:
        """The ages of all outputs of the first set of keys, as `Told.ages`."""
        at = self.at
        times: list[int] = self._found.time[:, 0].tolist()
        seconds = [math.nan if time <= ALWAYS else (at - time) / 1e6 for time in times]
        seconds.append(math.nan)
        return [seconds[place] for place in self.program.places]

    def told(self) -> Told:
        """The statuses and the ages of all outputs."""
        found, program, rows = self._found, self.program, self.rows
        codes = program.statuses(found.state, found.known)
        times, status_at, age_at = found.time, program.places, program.places
        if rows > 1 and program.features:
            # Those of one window have the same ages, and mostly the same statuses.
            codes, status_at = _distinct(codes, program.places)
            times, age_at = _distinct(times, program.places)
        seconds = (self.at - times) / 1e6
        seconds[times <= ALWAYS] = np.nan
        kinds, distinct = len(_STATUSES), len(codes)
        numbered = codes + np.arange(0, distinct * kinds, kinds).reshape(-1, 1)
        counts = np.bincount(numbered.ravel(), minlength=distinct * kinds).reshape(-1, kinds)
        # Those that come from no events share one column at the end, and are told apart after.
        statuses: list[list[str]] = [*_STATUSES[codes].tolist(), []]
        ages: list[list[float]] = [*seconds.tolist(), [math.nan] * rows]
        counts = np.vstack([counts, np.zeros(kinds, np.int64)])[status_at]
        told = [statuses[place] for place in status_at]
        for i, (name, place) in enumerate(zip(self.names, program.places, strict=True)):
            if place == -1:
                of_value = [self._of_value(name, row) for row in range(rows)]
                told[i] = [_NAMES[code] for code in of_value]
                counts[i] = np.bincount(of_value, minlength=kinds)
        return Told(told, [ages[place] for place in age_at], counts)

    @property
    def finite(self) -> bool:
        """Whether no double that the kernel gave is NaN or infinite; False if that is not sure."""
        if self.rows == 1:
            return math.isfinite(sum(self._doubles))  # what is not finite stays so in a sum
        return bool(np.isfinite(self._found.words[: self.program.doubles].view(np.float64)).all())

    def to_arrow(self) -> pa.Table:
        """All outputs as a table."""
        import pyarrow as pa

        return pa.table({name: self._arrow(each) for name, each in self.program.reference.items()})

    def _of_value(self, name: str, row: int) -> int:
        """The code of the status of an output that is no feature of a view."""
        return _NULL if self._others[self.program.reference[name]][row] is None else _PRESENT

    def _arrow(self, reference: Reference) -> pa.Array:
        import pyarrow as pa

        place = self.program.place.get(reference)
        if place is not None:
            feature = self.program.features[place]
            if feature.plain and feature.nothing is None:
                words = self._found.words[place]
                words = words.view(np.float64) if feature.type == FLOAT64 else words
                return column_of(words, self._found.state[place] == VALUE, feature.type)
        type_ = arrow_type(self.program.definitions.type_of(reference))
        return pa.array(self._column(reference), type_)

    def _column(self, reference: Reference) -> Sequence[Any]:
        place = self.program.place.get(reference)
        if place is None:
            return self._others[reference]
        return self._values[place * self.rows : (place + 1) * self.rows]

    def _decoded(self) -> list[Any]:
        """The values of all features, one feature after the other, each for all sets of keys.

        The program has the features with doubles first, then the other numbers; what needs more
        than a conversion of the whole comes last.
        """
        found, program, rows = self._found, self.program, self.rows
        doubles = found.words[: program.doubles].view(np.float64).ravel()
        self._doubles: list[float] = doubles.tolist()
        values: list[Any] = self._doubles + found.words[program.doubles :].ravel().tolist()
        states = self._states = found.state.tobytes()
        for place in range(program.numbers, len(program.features)):
            part = slice(place * rows, (place + 1) * rows)
            values[part] = self._converted(place, values[part], states[part])
        if states.count(VALUE) != len(states):
            others = [i for i, state in enumerate(states) if state != VALUE] if rows == 1 else None
            for i in others or np.flatnonzero(found.state != VALUE).tolist():
                if states[i] == OVERFLOW:
                    raise self._overflow(*divmod(i, rows))
                values[i] = None if states[i] == NULL else program.features[i // rows].nothing
        for place in program.lists_of_nothing:  # each caller may change its own
            for i in range(place * rows, (place + 1) * rows):
                values[i] = copy(values[i])
        return values

    def _converted(self, place: int, words: list[int], states: bytes) -> list[Any]:
        """The values of a feature whose words are not the values; None where there is none."""
        feature = self.program.features[place]
        convert = feature.convert
        highs = [] if feature.plain or feature.coded or feature.several else self._highs(place)
        values: list[Any] = []
        for row, (word, state) in enumerate(zip(words, states, strict=True)):
            if state != VALUE:
                values.append(None)
            elif feature.several:
                items = self._found.list(place, row).tolist()
                if feature.coded:
                    heap = self._heap(place, row)
                    items = [heap[item] for item in items]
                values.append(items if convert is None else [convert(item) for item in items])
            elif feature.coded:
                value = self._heap(place, row)[word]
                values.append(value if convert is None else convert(value))
            elif feature.type.name == "decimal":
                values.append(decimal_of(word, highs[row], feature.type.scale))
            else:
                values.append(word if convert is None else convert(word))
        return values

    def _highs(self, place: int) -> list[int]:
        """The high words of a feature of decimals."""
        highs: list[int] = self._found.high(place).tolist()
        return highs

    def _heap(self, place: int, row: int) -> list[Any]:
        """The dictionary of a feature's column in the row of a set of keys."""
        start = self._stored.start(self.program.view_of[place], row)
        heap = self._heaps.get(start)
        if heap is None:
            heap = self._heaps[start] = self._stored.heap(start)
        return heap[self.program.features[place].feature.column]

    def _overflow(self, place: int, row: int) -> EngineError:
        feature = self.program.features[place]
        keys = ", ".join(
            f"{field.name}={column[row]!r}"
            for field, column in zip(self.program.keys.fields, self._stored.keys, strict=True)
        )
        return EngineError(
            f"The sum {feature.reference} does not fit into {feature.type}.",
            where=f"{keys} at {format_moment(self.at)}",
            remedy="Sum a cast to float64 or to a decimal, or correct the data.",
        )


def _distinct(rows: NDArray[Any], places: Sequence[int]) -> tuple[NDArray[Any], list[int]]:
    """The rows that differ, and which of them each place means; -1 stays what it is."""
    text, width = rows.tobytes(), rows.shape[1] * rows.itemsize
    numbers: dict[bytes, int] = {}
    of_row = [
        numbers.setdefault(text[start : start + width], len(numbers))
        for start in range(0, len(text), width)
    ]
    kept = np.frombuffer(b"".join(numbers), rows.dtype).reshape(len(numbers), rows.shape[1])
    return kept, [-1 if place == -1 else of_row[place] for place in places]


def _status(newest: int, state: int, value: object) -> Status:
    if newest == NO_EVENT:
        return Status.MISSING
    if state == EXPIRED:
        return Status.EXPIRED
    return Status.NULL if value is None else Status.PRESENT
