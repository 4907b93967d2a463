"""One moment of stored rows: what serving calls.

A row holds the events of one entity in one view (`tidemark.online.codec` writes it).  A `Program`
is what a request wants, encoded once: groups of aggregates, and where in the rows their columns
are.  `evaluate_rows` is one call of compiled code for a whole request; for each row and group it
does what training does for a segment, with a single moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tidemark.kernel.bounds import earlier
from tidemark.kernel.calendar import period_start_one
from tidemark.kernel.compiled import (
    BYTE_ROWS,
    BYTES,
    INTEGER,
    NEW_WORDS,
    WORD_ROWS,
    WORDS,
    entry,
    nested,
    ready,
)
from tidemark.kernel.encoding import (
    CODE,
    DECIMAL,
    EXPIRED,
    FIRST,
    FIRST_N,
    FLOAT,
    FUNCTION,
    FUNCTIONS,
    HASH,
    I64_MIN,
    INT,
    LAST_N,
    LATEST,
    NONE,
    NOTHING,
    ROW,
    VALUE,
    Events,
    Out,
    encode,
    skips_null,
    takes_two_rows,
)
from tidemark.kernel.group import sweep_group
from tidemark.kernel.steps import ACTIVE, ADD_END, StepsScratch, make_steps, position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.layout import InputColumn, Layout
    from tidemark.model.graph import FeatureView
    from tidemark.model.window import Unit

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

HEADER = 8  # words before the times of a row
KNOWN, UNTIL = 1, 2  # flags in the upper 16 bits of the first word

(VIEW, KIND, SCALE, WORD, HIGH, VALID, WHERE, ROWS, SKIP_NULL, BEFORE, LENGTH, OFFSET, MAX_AGE,
 LOW, START, STOP) = range(16)  # fmt: skip
"""Columns of the table of groups.

`WORD` and `HIGH` are word columns of the row, `VALID` and `WHERE` byte columns, -1 where there is
none; `LENGTH` 0 is a window without length; `LOW` is an index into the bounds that are passed in, or
-1; the aggregates are `[START, STOP)`.
"""


@dataclass(frozen=True)
class Program:
    """What a request wants of its views, encoded once and used by any number of threads.

    `row_of[f]` is the row of the results of output f; `list_rows` the rows that hold lists, with the
    largest number of items.
    """

    views: tuple[FeatureView, ...]
    groups: NDArray[np.int64]
    aggregates: NDArray[np.int64]
    periods: tuple[tuple[Unit, str, int], ...]
    row_of: NDArray[np.int64]
    high_of: NDArray[np.int64]
    rows: int
    lists: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, features: Sequence[tuple[FeatureView, Layout, str]]) -> Program:
        """The program that computes these features of views, in this order."""
        ready()
        return _Builder(features).program()


@dataclass(frozen=True)
class Answers:
    """What `evaluate_rows` found for F outputs of V views, for K entities.

    `words`  [F, K] the value: bits of a double, integer, code, low word, or the length of a list
    `high`   [F, K] the high word, of a sum of decimals
    `state`  [F, K] 0 nothing (0 of a count is a value), 1 a value, 2 a null that was stored,
             3 overflow of a sum, 4 nothing, but there is something older than `max_age`
    `time`   [F, K] time of the newest event that counted; -2^63 where none did
    `known`  [V, K] time of the newest visible event; -2^63 where none is
    """

    words: NDArray[np.int64]
    high: NDArray[np.int64]
    state: NDArray[np.uint8]
    time: NDArray[np.int64]
    known: NDArray[np.int64]
    items: Words
    places: NDArray[np.int64]

    def list(self, output: int, entity: int) -> Words:
        """The words or codes of a list."""
        start = int(self.places[output, entity])
        return self.items[start : start + int(self.words[output, entity])]


def evaluate_rows(words: Words, row_at: NDArray[np.int64], t: int, program: Program) -> Answers:
    """Compute the outputs of a program at moment `t` from rows that lie in one buffer.

    `row_at[v, k]` is where in `words` the row of view v and entity k begins, or -1 if it has none.
    """
    entities = row_at.shape[1]
    out_words = np.zeros((program.rows, entities), np.int64)
    out_state = np.empty((program.rows, entities), np.uint8)
    out_time = np.empty((program.rows, entities), np.int64)
    known = np.empty(row_at.shape, np.int64)
    size = 0
    for row, most in program.lists:
        out_words[row + 1] = np.arange(size, size + entities * most, most)
        size += entities * most
    items = np.empty(size, np.int64)
    lows = [period_start_one(t - offset, unit, zone) for unit, zone, offset in program.periods]
    cast("Any", _rows)(
        words,
        words.view(np.uint8),
        row_at,
        t,
        np.array(lows, np.int64),
        program.groups,
        program.aggregates,
        out_words,
        out_state,
        out_time,
        known,
        items,
    )
    row_of = program.row_of
    second = out_words[program.high_of]
    return Answers(
        out_words[row_of], second, out_state[row_of], out_time[row_of], known, items, second
    )


@entry(
    WORDS,
    BYTES,
    WORD_ROWS,
    INTEGER,
    WORDS,
    WORD_ROWS,
    WORD_ROWS,
    WORD_ROWS,
    BYTE_ROWS,
    WORD_ROWS,
    WORD_ROWS,
    NEW_WORDS,
)
def _rows(
    words: Words,
    flags: Bytes,
    row_at: NDArray[np.int64],
    t: int,
    lows: Words,
    groups: NDArray[np.int64],
    aggregates: NDArray[np.int64],
    out_words: NDArray[np.int64],
    out_state: NDArray[np.uint8],
    out_time: NDArray[np.int64],
    out_known: NDArray[np.int64],
    items: Words,
) -> None:
    out = Out(out_words, out_state, items)
    most = 0
    for v in range(row_at.shape[0]):
        for k in range(row_at.shape[1]):
            if row_at[v, k] >= 0:
                most = max(most, words[row_at[v, k] + 1])
    memory = np.empty(5 + 2 * (most + 1) + 3, np.int64)
    scratch = StepsScratch(
        memory[:5].reshape(1, 5), memory[5 : 6 + most], memory[6 + most : 7 + 2 * most]
    )
    moment = memory[7 + 2 * most :]
    for k in range(row_at.shape[1]):
        for v in range(row_at.shape[0]):
            out_known[v, k] = I64_MIN
        for g in range(len(groups)):
            group = groups[g]
            view = group[VIEW]
            events = _events(words, flags, row_at[view, k], group)
            if out_known[view, k] == I64_MIN:
                out_known[view, k] = _newest_visible(events, t, group[BEFORE])
            _bounds(t, lows, group, group[MAX_AGE], moment)
            table = aggregates[group[START] : group[STOP]]
            steps = make_steps(
                events,
                moment[0:1],
                moment[1:2],
                moment[2:3],
                group[ROWS],
                group[SKIP_NULL] != 0,
                scratch,
            )
            newest = I64_MIN
            if steps.table[0, ACTIVE] > 0:
                newest = events.time[position(steps.adds, steps.table[0, ADD_END] - 1)]
            sweep_group(events, group[KIND], group[SCALE], steps, table, out, k, 0)
            _read_positions(events, table, out, k)
            for f in range(len(table)):
                out_time[table[f, ROW], k] = newest
            if group[MAX_AGE] > 0 and newest == I64_MIN:
                _bounds(t, lows, group, 0, moment)
                steps = make_steps(
                    events,
                    moment[0:1],
                    moment[1:2],
                    moment[2:3],
                    group[ROWS],
                    group[SKIP_NULL] != 0,
                    scratch,
                )
                if steps.table[0, ACTIVE] > 0:
                    for f in range(len(table)):
                        out_state[table[f, ROW], k] = EXPIRED


@nested
def _events(words: Words, flags: Bytes, at: int, group: Words) -> Events:
    """The events of a row as a group sees them; none where there is no row."""
    if at < 0:
        return Events(
            words[:0], words[:0], words[:0], words[:0], words[:0], flags[:0], flags[:0]
        )
    size = words[at + 1]
    options = words[at] >> 48
    start = at + HEADER
    time = words[start : start + size]
    start += size
    known = words[start : start + (size if options & KNOWN else 0)]
    start += len(known)
    until = words[start : start + (size if options & UNTIL else 0)]
    start += len(until)
    values, high = words[:0], words[:0]
    if group[WORD] >= 0:
        values = words[start + group[WORD] * size : start + (group[WORD] + 1) * size]
    if group[HIGH] >= 0:
        high = words[start + group[HIGH] * size : start + (group[HIGH] + 1) * size]
    start = 8 * (start + words[at + 2] * size)
    padded = (size + 7) & ~7
    valid, where = flags[:0], flags[:0]
    if group[VALID] >= 0:
        valid = flags[start + group[VALID] * padded : start + group[VALID] * padded + size]
    if group[WHERE] >= 0:
        where = flags[start + group[WHERE] * padded : start + group[WHERE] * padded + size]
    return Events(time, known, until, values, high, valid, where)


@nested
def _bounds(t: int, lows: Words, group: Words, max_age: int, moment: Words) -> None:
    """Write the moment, and the bounds of a window as `bounds.window_bounds` gives them."""
    high = earlier(t, group[OFFSET] + group[BEFORE])
    low = I64_MIN
    if group[LOW] >= 0:
        low = lows[group[LOW]]
    elif group[LENGTH] > 0:
        low = earlier(high, group[LENGTH] - 1)
    if max_age > 0:
        low = max(low, earlier(t, max_age))
    moment[0], moment[1], moment[2] = t, low, high


@nested
def _newest_visible(events: Events, t: int, before: int) -> int:
    """The time of the newest event that is visible at all."""
    for p in range(len(events.time) - 1, -1, -1):
        if events.time[p] > t - before:
            continue
        if len(events.known) and events.known[p] > t:
            continue
        if len(events.until) and events.until[p] <= t:
            continue
        return events.time[p]
    return I64_MIN


@nested
def _read_positions(events: Events, table: NDArray[np.int64], out: Out, k: int) -> None:
    """Replace positions of events by their values."""
    for f in range(len(table)):
        function, row = table[f, FUNCTION], table[f, ROW]
        if function < FIRST or function > LAST_N or out.state[row, k] != VALUE:
            continue
        if function <= LATEST:
            out.words[row, k] = events.words[out.words[row, k]]
        else:
            place = out.words[row + 1, k]
            for i in range(out.words[row, k]):
                out.items[place + i] = events.words[out.items[place + i]]


class _Builder:
    """Encodes the wanted features: numbers views and results, and puts features into groups."""

    def __init__(self, features: Sequence[tuple[FeatureView, Layout, str]]) -> None:
        self.views = list(dict.fromkeys(view for view, _, _ in features))
        self.periods: dict[tuple[Unit, str, int], int] = {}
        self.rows = 0
        self.row_of: list[int] = []
        self.high_of: list[int] = []
        self.lists: list[tuple[int, int]] = []
        self.groups: dict[tuple[int, ...], list[tuple[Any, int]]] = {}
        for view, layout, name in features:
            self._add(view, layout, name)

    def program(self) -> Program:
        groups: list[tuple[int, ...]] = []
        tables = [np.empty((0, 5), np.int64)]
        start = 0
        for key in sorted(self.groups):
            members = self.groups[key]
            tables.append(encode([a for a, _ in members], [row for _, row in members]))
            groups.append((*key, start, start + len(members)))
            start += len(members)
        return Program(
            tuple(self.views),
            np.array(groups, np.int64).reshape(-1, STOP + 1),
            np.concatenate(tables),
            tuple(self.periods),
            np.array(self.row_of, np.int64),
            np.array(self.high_of, np.int64),
            self.rows,
            tuple(self.lists),
        )

    def _add(self, view: FeatureView, layout: Layout, name: str) -> None:
        feature = layout.feature(name)
        aggregate, window = feature.aggregate, feature.aggregate.window
        column = layout.columns[feature.column] if feature.column >= 0 else None
        kind = kind_of(column)
        self.groups.setdefault(
            (
                self.views.index(view),
                kind,
                column.type.scale if column is not None and kind == DECIMAL else 0,
                *_word_columns(layout, feature.column),
                feature.column,
                len(layout.columns) + feature.filter if feature.filter >= 0 else -1,
                window.rows,
                int(skips_null(aggregate)),
                int(view.bound == "before"),
                window.length if window.kind == "sliding" else 0,
                window.offset,
                view.max_age if aggregate.rule.stored else 0,
                -1 if window.unit is None else self._period(window.unit, window.zone, window.offset),
            ),
            [],
        ).append((aggregate, self.rows))
        self.row_of.append(self.rows)
        two = takes_two_rows(FUNCTIONS.index(aggregate.function), kind)
        if FUNCTIONS.index(aggregate.function) >= FIRST_N and two:
            self.lists.append((self.rows, aggregate.n))
        self.high_of.append(self.rows + (1 if two else 0))
        self.rows += 2 if two else 1

    def _period(self, unit: Unit, zone: str, offset: int) -> int:
        return self.periods.setdefault((unit, zone, offset), len(self.periods))


def kind_of(column: InputColumn | None) -> int:
    """The kind of the words of a column."""
    if column is None:
        return NONE
    if column.form == "word":
        return FLOAT if column.type.name == "float64" else INT
    return {"decimal": DECIMAL, "code": CODE, "hash": HASH}[column.form]


def _word_columns(layout: Layout, index: int) -> tuple[int, int]:
    """The word column of a row that holds an input column, and that of its high words."""
    if index < 0:
        return -1, -1
    sizes = [2 if column.form == "decimal" else 1 for column in layout.columns]
    first = sum(sizes[:index])
    return first, (first + 1 if sizes[index] == 2 else -1)
