"""Which events enter and which leave from one moment to the next.

Of the events of a segment, those with low <= time <= high count at a moment, and both bounds grow
with the moment.  So while every event is known when it happens, the events that count are a range
whose two ends only move forward.  Events that come late or are corrected break the range, but not
the idea: an event enters once and leaves once, at two numbers of moments, and a counting sort by
these numbers gives the order of entering and the order of leaving.  Either way, an aggregate sees
lists of events to drop and to add.

Filters and nulls are resolved here: an event that cannot count is never listed.  `rows=n` lets the
newest n count: it raises the low end of a range, and without a range it lets an older event in again
when a newer one leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.bits import above, below, clear_bit, make_levels, set_bit
from tidemark.kernel.compiled import nested
from tidemark.kernel.encoding import I64_MAX, Events

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

DROP, DROP_END, ADD, ADD_END, ACTIVE = range(5)
"""Columns of the table of steps."""


class Steps(NamedTuple):
    """For each moment, what to drop and then what to add.

    Row r of `table`: drop `drops[DROP:DROP_END]`, add `adds[ADD:ADD_END]`; then `ACTIVE` events
    count.  Where `adds` is empty, the numbers in the table are positions of events themselves.
    If `range`, the events that count are `adds[ADD_END - ACTIVE:ADD_END]`.  In any case, dropping
    `drops[ADD_END - ACTIVE:ADD_END]` after the last moment leaves nothing.
    """

    adds: Words
    drops: Words
    table: NDArray[np.int64]
    range: bool


class StepsScratch(NamedTuple):
    """Memory for the steps of one segment at a time."""

    table: NDArray[np.int64]
    order: Words
    counts: Words


@nested
def position(order: Words, k: int) -> int:
    """The event at place k of an order."""
    return order[k] if len(order) else k


@nested
def starts_anew(steps: Steps, r: int) -> bool:
    """Whether to forget everything and add `[ADD_END - ACTIVE, ADD_END)`, since that is less work."""
    row = steps.table[r]
    added = row[ADD_END] - row[ADD]
    if row[ACTIVE] == added:
        return True
    return steps.range and row[ACTIVE] < added + row[DROP_END] - row[DROP]


@nested
def make_steps(
    events: Events,
    t: Words,
    low: Words,
    high: Words,
    rows: int,
    skip_null: bool,
    scratch: StepsScratch,
) -> Steps:
    """The steps of a segment through the moments `t` with their bounds; `rows` 0 means all."""
    if len(events.known) or len(events.until):
        return _general(events, t, low, high, rows, skip_null, scratch)
    return _plain(events, low, high, rows, skip_null, scratch)


@nested
def seek(time: Words, start: int, moment: int) -> int:
    """The first place from `start` on whose time is `moment` or later: near places are cheap."""
    size = len(time)
    if start >= size or time[start] >= moment:
        return start
    stride = 1
    while start + stride < size and time[start + stride] < moment:
        start += stride
        stride *= 2
    end = min(start + stride, size)
    start += 1
    while start < end:
        middle = (start + end) >> 1
        if time[middle] < moment:
            start = middle + 1
        else:
            end = middle
    return start


@nested
def _plain(
    events: Events, low: Words, high: Words, rows: int, skip_null: bool, scratch: StepsScratch
) -> Steps:
    table = scratch.table[: len(low)]
    _ranges(events.time, low, high, table)
    if rows > 0:
        _keep_newest(events, rows, scratch, table)
    size = 0
    if len(events.where) or (skip_null and len(events.valid)):
        size = _eligible(events, skip_null, scratch)
        for r in range(len(table)):
            table[r, ADD] = scratch.counts[table[r, ADD]]
            table[r, ADD_END] = scratch.counts[table[r, ADD_END]]
    last_first = last_stop = 0
    for r in range(len(table)):
        first, stop = table[r, ADD], table[r, ADD_END]
        table[r, DROP] = last_first
        table[r, DROP_END] = min(last_stop, first)
        table[r, ADD] = max(last_stop, first)
        table[r, ACTIVE] = stop - first
        last_first, last_stop = first, stop
    return Steps(scratch.order[:size], scratch.order[:size], table, True)


@nested
def _ranges(time: Words, low: Words, high: Words, table: NDArray[np.int64]) -> None:
    """Write the range of positions whose times lie within the bounds of each moment."""
    begin = end = 0
    for r in range(len(low)):
        begin = seek(time, begin, low[r])
        end = seek(time, end, high[r] + 1) if high[r] < I64_MAX else len(time)
        table[r, ADD] = min(begin, end)
        table[r, ADD_END] = end


@nested
def _keep_newest(
    events: Events, rows: int, scratch: StepsScratch, table: NDArray[np.int64]
) -> None:
    """Raise the beginning of each range to the newest rows that pass the filter."""
    filtered = len(events.where) > 0
    if filtered:
        _eligible(events, False, scratch)
    for r in range(len(table)):
        first, stop = table[r, ADD], table[r, ADD_END]
        if filtered:
            end = scratch.counts[stop]
            begin = max(scratch.counts[first], end - rows)
            table[r, ADD] = scratch.order[begin] if begin < end else stop
        else:
            table[r, ADD] = max(first, stop - rows)


@nested
def _eligible(events: Events, skip_null: bool, scratch: StepsScratch) -> int:
    """List the events that can count, and how many of them precede each event."""
    filtered = len(events.where) > 0
    nullable = skip_null and len(events.valid) > 0
    size = 0
    for i in range(len(events.time)):
        scratch.counts[i] = size
        scratch.order[size] = i
        if (not filtered or events.where[i] != 0) and (not nullable or events.valid[i] != 0):
            size += 1
    scratch.counts[len(events.time)] = size
    return size


# --- events that come late or are corrected -------------------------------------------------------


@nested
def _general(
    events: Events,
    t: Words,
    low: Words,
    high: Words,
    rows: int,
    skip_null: bool,
    scratch: StepsScratch,
) -> Steps:
    skip_null = skip_null and len(events.valid) > 0
    enter, leave = _lifetimes(events, t, low, high, skip_null and rows == 0)
    moments = len(t)
    table = scratch.table[:moments]
    adds = _sorted_by(enter, enter, leave, moments, table[:, ADD_END])
    drops = _sorted_by(leave, enter, leave, moments, table[:, DROP_END])
    if rows > 0:
        adds, drops = _newest_rows(events, rows, skip_null, adds, drops, table)
    added = dropped = 0
    for r in range(moments):
        table[r, ADD], table[r, DROP] = added, dropped
        added, dropped = table[r, ADD_END], table[r, DROP_END]
        table[r, ACTIVE] = added - dropped
    return Steps(adds, drops, table, False)


@nested
def _lifetimes(
    events: Events, t: Words, low: Words, high: Words, skip_null: bool
) -> tuple[Words, Words]:
    """The moments [enter, leave) at which each event counts, by number."""
    size, moments = len(events.time), len(t)
    enter, leave = np.empty(size, np.int64), np.empty(size, np.int64)
    first = stop = 0
    for i in range(size):
        time = events.time[i]
        while first < moments and high[first] < time:
            first += 1
        while stop < moments and low[stop] <= time:
            stop += 1
        enter[i], leave[i] = first, stop
        if (len(events.where) and events.where[i] == 0) or (skip_null and events.valid[i] == 0):
            leave[i] = first
        elif first < stop:
            if len(events.known):
                enter[i] = seek(t, first, events.known[i])
            if len(events.until):
                leave[i] = min(stop, seek(t, first, events.until[i]))
    return enter, leave


@nested
def _sorted_by(keys: Words, enter: Words, leave: Words, moments: int, ends: Words) -> Words:
    """Sort the events that ever count by a key below or equal to `moments`, stably.

    `ends` receives how many have a key up to each moment.
    """
    ends[:] = 0
    total = 0
    for i in range(len(keys)):
        if enter[i] < leave[i]:
            total += 1
            if keys[i] < moments:
                ends[keys[i]] += 1
    running = 0
    for r in range(moments):
        running, ends[r] = running + ends[r], running
    order = np.empty(total, np.int64)
    for i in range(len(keys)):
        if enter[i] < leave[i]:
            if keys[i] < moments:
                order[ends[keys[i]]] = i
                ends[keys[i]] += 1
            else:
                order[running] = i
                running += 1
    return order


@nested
def _newest_rows(
    events: Events,
    rows: int,
    skip_null: bool,
    adds: Words,
    drops: Words,
    table: NDArray[np.int64],
) -> tuple[Words, Words]:
    """Rewrite steps so that only the newest `rows` of the events that count remain.

    The kept ones are those from `cut` on.  At each moment the net difference is listed, since an
    event may be let in and pushed out again by the changes of one moment.
    """
    size = len(events.time)
    levels, bits = make_levels(size)
    kept = np.zeros(size, np.bool_)
    listed = np.zeros(size, np.bool_)
    changed = np.empty(4 * len(adds) + 1, np.int64)
    new_adds, new_drops = np.empty(2 * len(adds), np.int64), np.empty(2 * len(adds), np.int64)
    added = dropped = new_added = new_dropped = count = 0
    cut = size
    for r in range(len(table)):
        changes = 0
        for k in range(dropped, table[r, DROP_END]):
            p = drops[k]
            clear_bit(levels, bits, p)
            if not kept[p]:
                continue
            kept[p] = False
            changed[changes] = p
            changes += 1
            older = below(levels, bits, cut)
            if older >= 0:
                kept[older] = True
                changed[changes] = older
                changes += 1
                cut = older
            else:
                count -= 1
                cut = cut if p != cut else above(levels, bits, cut, size)
        for k in range(added, table[r, ADD_END]):
            p = adds[k]
            set_bit(levels, bits, p)
            if count == rows and p < cut:
                continue
            kept[p] = True
            changed[changes] = p
            changes += 1
            if count < rows:
                count += 1
                cut = min(cut, p)
            else:
                kept[cut] = False
                changed[changes] = cut
                changes += 1
                cut = above(levels, bits, cut, size)
        added, dropped = table[r, ADD_END], table[r, DROP_END]
        for k in range(changes):
            p = changed[k]
            if kept[p] == listed[p] or (skip_null and events.valid[p] == 0):
                continue
            listed[p] = kept[p]
            if kept[p]:
                new_adds[new_added] = p
                new_added += 1
            else:
                new_drops[new_dropped] = p
                new_dropped += 1
        table[r, ADD_END], table[r, DROP_END] = new_added, new_dropped
    for p in range(size):
        if listed[p]:
            new_drops[new_dropped] = p
            new_dropped += 1
    return new_adds[:new_added], new_drops[:new_dropped]
