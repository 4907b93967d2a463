"""One moment of stored rows: what serving calls.

A row holds the events of one entity in one view (`tidemark.online.rows.codec` writes it).
`evaluate_rows` is one call of compiled code for a whole request; for each row and each group of the
program it does what training does for a segment, with a single moment.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.bounds import Bounds, bounds_at, step_of
from tidemark.kernel.calendar import period_start_one
from tidemark.kernel.compiled import (
    BYTE_ROWS,
    BYTES,
    INTEGER,
    NEW_INTS,
    NEW_WORDS,
    SLICED_ROWS,
    WORD_ROWS,
    WORDS,
    entry,
    inlined,
    nested,
)
from tidemark.kernel.encoding import (
    BEFORE,
    EXPIRED,
    FIRST,
    FUNCTION,
    I64_MIN,
    LAST_N,
    LATEST,
    LOW,
    MAX_AGE,
    ROW,
    ROWS,
    SECOND,
    SKIP_NULL,
    START,
    STOP,
    VALUE,
    Events,
    Out,
    memory_size,
)
from tidemark.kernel.group import sweep_group, that_add_up
from tidemark.kernel.program import (
    HIGH,
    KIND,
    RANKS_NEEDED,
    SCALE,
    VALID,
    VIEW,
    WHERE,
    WORD,
    Program,
)
from tidemark.kernel.ranks import rank_segment
from tidemark.kernel.steps import ACTIVE, ADD_END, Steps, choose, make_steps, position, seek
from tidemark.kernel.sums import cover

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

HEADER = 8  # words before the times of a row
KNOWN, UNTIL = 1, 2  # flags in the upper 16 bits of the first word

__all__ = ["Answers", "Program", "beside", "evaluate_rows"]


@dataclass(frozen=True)
class Answers:
    """What `evaluate_rows` found for F outputs of V views, for K entities.

    `words`  [F, K] the value: bits of a double, integer, code, low word, or the length of a list
    `state`  [F, K] 0 nothing (0 of a count is a value), 1 a value, 2 a null that was stored,
             3 overflow of a sum, 4 nothing, but there is something older than `max_age`
    `time`   [F, K] time of the newest event that counted, or would but for `max_age`; else -2^63
    `known`  [V, K] time of the newest visible event; -2^63 where none is
    `second` [., K] what did not fit, see `Program`
    """

    words: NDArray[np.int64]
    state: NDArray[np.uint8]
    time: NDArray[np.int64]
    known: NDArray[np.int64]
    second: NDArray[np.int64]
    _items: Words
    _program: Program

    @property
    def high(self) -> NDArray[np.int64]:
        """[F, K] the high word, of a sum of decimals."""
        return self.second[list(self._program.second)]

    def list(self, output: int, entity: int) -> Words:
        """The words or codes of a list."""
        start = int(self.second[self._program.second[output], entity])
        return self._items[start : start + int(self.words[output, entity])]


def evaluate_rows(words: Words, row_at: NDArray[np.int64], t: int, program: Program) -> Answers:
    """Compute the outputs of a program at moment `t` from rows that lie in one buffer.

    `row_at[v, k]` is where in `words` the row of view v and entity k begins, or -1 if it has none.
    Of a row that goes with a tree, it is what `beside` gives.
    """
    entities = row_at.shape[1]
    shape = program.outputs, entities
    out_words, out_time = np.empty(shape, np.int64), np.empty(shape, np.int64)
    out_state, known = np.empty(shape, np.uint8), np.empty(row_at.shape, np.int64)
    second = np.empty((max(program.second, default=-1) + 1, entities), np.int64)
    size = 0
    for output, most in program.lists:
        second[program.second[output]] = np.arange(size, size + entities * most, most)
        size += entities * most
    items = np.empty(size, np.int64)
    _call(
        words,
        words.view(np.uint8),
        row_at,
        t,
        period_lows(t, program),
        program.groups,
        program.aggregates,
        out_words,
        second,
        out_state,
        items,
        out_time,
        known,
        thread_memory(memory_size(2 * _most_events(words, row_at), 1)),
        _NO_ZEROS,
    )
    return Answers(out_words, out_state, out_time, known, second, items, program)


def period_lows(t: int, program: Program) -> Words:
    """Where the calendar windows of a program begin."""
    if not program.periods:
        return _NO_WORDS
    lows = [period_start_one(t - offset, unit, zone) for unit, zone, offset in program.periods]
    return np.array(lows, np.int64)


def thread_memory(size: int) -> Words:
    """At least so many words that are this thread's own until it asks again."""
    memory: Words | None = getattr(_local, "memory", None)
    if memory is None or len(memory) < size:
        memory = _local.memory = np.empty(size, np.int64)
    return memory


_local = threading.local()
_NO_ZEROS = np.empty(0, np.int32)
_NO_WORDS = np.empty(0, np.int64)


def beside(row_at: int) -> int:
    """Where a row is, so marked that what follows from the summaries of a tree is left out.

    Doing it twice takes the mark off.
    """
    if row_at == -1:
        return I64_MIN
    return -1 if row_at == I64_MIN else -2 - row_at


@entry(WORDS, WORD_ROWS)
def _most_events(words: Words, row_at: NDArray[np.int64]) -> int:
    """The number of events of the largest row."""
    most = 0
    for v in range(row_at.shape[0]):
        for k in range(row_at.shape[1]):
            at, _ = _place(row_at[v, k])
            if at >= 0:
                most = max(most, words[at + 1])
    return most


@nested
def _place(row_at: int) -> tuple[int, bool]:
    """Where a row is (-1: nowhere), and whether it goes with a tree."""
    if row_at >= -1:
        return row_at, False
    return -1 if row_at == I64_MIN else -2 - row_at, True


@entry(
    WORDS,
    BYTES,
    WORD_ROWS,
    INTEGER,
    WORDS,
    *(WORD_ROWS,) * 3,
    SLICED_ROWS,
    BYTE_ROWS,
    NEW_WORDS,
    *(WORD_ROWS,) * 2,
    NEW_WORDS,
    NEW_INTS,
)
def _call(
    words: Words,
    flags: Bytes,
    row_at: NDArray[np.int64],
    t: int,
    lows: Words,
    groups: NDArray[np.int64],
    aggregates: NDArray[np.int64],
    out_words: NDArray[np.int64],
    out_second: NDArray[np.int64],
    out_state: NDArray[np.uint8],
    items: Words,
    out_time: NDArray[np.int64],
    out_known: NDArray[np.int64],
    memory: Words,
    zeros: NDArray[np.int32],
) -> None:
    out = Out(out_words, out_second, out_state, items)
    moment, memory = memory[:4], memory[4:]
    for k in range(row_at.shape[1]):
        for v in range(row_at.shape[0]):
            out_known[v, k] = I64_MIN
        first = 0
        while first < len(groups):
            view = groups[first, VIEW]
            at, beside = _place(row_at[view, k])
            row = read_row(words, at)
            end = step_of(t, groups[first]) - groups[first, BEFORE]
            out_known[view, k] = _newest_visible(row, t, end)
            stop = first + 1
            while stop < len(groups) and groups[stop, VIEW] == view:
                stop += 1
            for g in range(first, stop):
                group = groups[g]
                table = aggregates[group[START] : group[STOP]]
                if beside:
                    table = table[that_add_up(table, group[KIND], group[ROWS]) :]
                    if len(table) == 0:
                        continue
                period = lows[int(group[LOW])] if group[LOW] >= 0 else I64_MIN
                _evaluate(words, flags, row, t, period, group, table, out, k, out_time,
                          moment, memory, zeros)  # fmt: skip
            first = stop


@inlined
def _evaluate(
    words: Words,
    flags: Bytes,
    row: Row,
    t: int,
    period: int,
    group: Words,
    table: NDArray[np.int64],
    out: Out,
    k: int,
    out_time: NDArray[np.int64],
    moment: Words,
    memory: Words,
    zeros: NDArray[np.int32],
) -> None:
    """Write what the aggregates of a table are of a row."""
    low, high = bounds_at(t, period, group, 0)
    events = events_of(words, flags, row, group, *_window(row.time, low, high))
    size = len(events.time)
    ranks, values, rest = memory[:size], memory[size : 2 * size], memory[2 * size :]
    if group[RANKS_NEEDED]:
        rank_segment(events.words, events.high, group[KIND], group[SCALE], ranks, values, rest)
    # Where nothing is young enough, a second look says whether something is too old.
    for look in range(2):
        if look == 0 and group[MAX_AGE] > 0:
            moment[1], _ = bounds_at(t, period, group, group[MAX_AGE])
        else:
            moment[1] = low
        moment[0], moment[2], moment[3] = t, high, size
        steps = _steps(events, group, moment, rest)
        active = steps.table[0, ACTIVE] > 0
        newest = I64_MIN
        if active:
            newest = events.time[position(steps.adds, steps.table[0, ADD_END] - 1)]
        if look == 0:
            window = cover(events, group[KIND], table)
            sweep_group(
                events, group[KIND], group[SCALE], ranks, values, window, steps, table,
                out, k, 0, zeros,
            )  # fmt: skip
            _read_positions(events, table, out, k)
        for f in range(len(table)):
            out_time[table[f, ROW], k] = newest
            if look == 1 and active:
                out.state[table[f, ROW], k] = EXPIRED
        if active or group[MAX_AGE] == 0:
            break


@nested
def _window(time: Words, low: int, high: int) -> tuple[int, int]:
    """Which events of a row are in a window: its cost is not that of all history."""
    size = len(time)
    start = seek(time, 0, low)
    if size == 0 or time[size - 1] <= high:
        return start, size
    return start, seek(time, start, high + 1)


@inlined
def _steps(events: Events, group: Words, moment: Words, memory: Words) -> Steps:
    """The steps of a group through its only moment: `t`, low, high and the number of events."""
    skip_null = group[SKIP_NULL] != 0
    chosen, memory = choose(events, skip_null, memory)
    return make_steps(
        events,
        chosen,
        moment[0:1],
        Bounds(moment[1:2], moment[2:3], moment[3:4], True),
        group[ROWS],
        skip_null,
        memory,
    )


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
            place = out.second[table[f, SECOND], k]
            for i in range(out.words[row, k]):
                out.items[place + i] = events.words[out.items[place + i]]


class Row(NamedTuple):
    """The times of the events of a row, and where its columns of words and of bytes begin."""

    time: Words
    known: Words
    until: Words
    words_at: int
    bytes_at: int


@inlined
def read_row(words: Words, at: int) -> Row:
    """The row at a place of the words; one without events if there is none."""
    size = words[at + 1] if at >= 0 else 0
    options = words[at] >> 48 if at >= 0 else 0
    width = words[at + 2] if at >= 0 else 0
    start = at + HEADER
    time = words[start : start + size]
    start += size
    known = words[start : start + (size if options & KNOWN else 0)]
    start += len(known)
    until = words[start : start + (size if options & UNTIL else 0)]
    start += len(until)
    return Row(time, known, until, start, 8 * (start + width * size))


@inlined
def events_of(words: Words, flags: Bytes, row: Row, group: Words, first: int, stop: int) -> Events:
    """The events of a row from `first` up to `stop`, as a group sees them."""
    size = len(row.time)
    values, high, valid, where = words[:0], words[:0], flags[:0], flags[:0]
    if group[WORD] >= 0:
        at = row.words_at + group[WORD] * size
        values = words[at + first : at + stop]
    if group[HIGH] >= 0:
        at = row.words_at + group[HIGH] * size
        high = words[at + first : at + stop]
    padded = (size + 7) & ~7
    if group[VALID] >= 0:
        at = row.bytes_at + group[VALID] * padded
        valid = flags[at + first : at + stop]
    if group[WHERE] >= 0:
        at = row.bytes_at + group[WHERE] * padded
        where = flags[at + first : at + stop]
    return Events(
        row.time[first:stop],
        row.known[first:stop],
        row.until[first:stop],
        values,
        high,
        valid,
        where,
    )


@inlined
def read_events(words: Words, flags: Bytes, at: int, group: Words) -> Events:
    """The events of a row as a group sees them."""
    row = read_row(words, at)
    return events_of(words, flags, row, group, 0, len(row.time))


@nested
def _newest_visible(row: Row, t: int, high: int) -> int:
    """The time of the newest event up to `high` that is visible at t."""
    p = len(row.time) - 1
    if p >= 0 and row.time[p] > high:
        p = seek(row.time, 0, high + 1) - 1
    for i in range(p, -1, -1):
        if len(row.known) and row.known[i] > t:
            continue
        if len(row.until) and row.until[i] <= t:
            continue
        newest: int = row.time[i]
        return newest
    return I64_MIN
