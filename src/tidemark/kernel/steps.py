"""Which events enter and which leave from one moment to the next.

Of the events of a segment, those with low <= time <= high count at a moment, and both bounds grow
with the moment.  So while every event is known when it happens, the events that count are a range
whose two ends only move forward.  Events that come late or are corrected break the range, but not
the idea: an event enters once and leaves once, at two numbers of moments, and a counting sort by
these numbers gives the order of entering and the order of leaving.  Either way, an aggregate sees
lists of events to drop and to add.

Filters and nulls are resolved here: an event that cannot count is never listed.  `rows=n` lets the
newest n count: it raises the low end of a range, and without a range it lets an older event in
again when a newer one leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.bits import above, below, clear_bit, make_levels, set_bit
from tidemark.kernel.bounds import Bounds
from tidemark.kernel.compiled import apart, inlined, nested
from tidemark.kernel.encoding import I64_MAX, Events

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

NEAR = 16
"""Events that are looked at one by one before the search takes longer steps."""

DROP, DROP_END, ADD, ADD_END, ACTIVE = range(5)
"""Columns of the table of steps."""


class Steps(NamedTuple):
    """For each moment, what to drop and then what to add.

    Row r of `table`: drop `drops[DROP:DROP_END]`, add `adds[ADD:ADD_END]`; then `ACTIVE` events
    count.  Where `adds` is empty, the numbers in the table are positions of events themselves.
    If `range`, the events that count are `adds[ADD_END - ACTIVE:ADD_END]`.  In any case, dropping
    `drops[ADD_END - ACTIVE:ADD_END]` after the last moment leaves nothing.  `free` is the memory
    that remains.
    """

    adds: Words
    drops: Words
    table: NDArray[np.int64]
    range: bool
    free: Words


class Chosen(NamedTuple):
    """The events of a segment that can count, while all are known when they happen.

    `order` are their positions, and `counts[i]` how many of them precede event i.  Both are empty
    where all events can count.
    """

    order: Words
    counts: Words


@nested
def position(order: Words, k: int) -> int:
    """The event at place k of an order."""
    return order[k] if len(order) else k


@nested
def starts_anew(table: NDArray[np.int64], is_range: bool, r: int) -> bool:
    """Whether it is less work to forget everything and add `[ADD_END - ACTIVE, ADD_END)`."""
    added = table[r, ADD_END] - table[r, ADD]
    if table[r, ACTIVE] == added:
        return True
    return is_range and table[r, ACTIVE] < added + table[r, DROP_END] - table[r, DROP]


@inlined
def choose(events: Events, skip_null: bool, memory: Words) -> tuple[Chosen, Words]:
    """The events of a segment that can count, and the memory that remains."""
    general = len(events.known) > 0 or len(events.until) > 0
    if general or not (len(events.where) or (skip_null and len(events.valid))):
        return Chosen(memory[:0], memory[:0]), memory
    size = len(events.time)
    order, counts = memory[: size + 1], memory[size + 1 : 2 * size + 2]
    count = _eligible(events, skip_null, order, counts)
    return Chosen(order[:count], counts), memory[2 * size + 2 :]


@inlined
def make_steps(
    events: Events,
    chosen: Chosen,
    t: Words,
    bounds: Bounds,
    rows: int,
    skip_null: bool,
    memory: Words,
) -> Steps:
    """The steps of a segment through the moments `t` with their bounds; `rows` 0 means all.

    `chosen` is what `choose` gives for the same events and `skip_null`.
    """
    if len(events.known) or len(events.until):
        return _general(events, t, bounds.low, bounds.high, rows, skip_null, memory)
    return _plain(events, chosen, bounds, rows, memory)


@nested
def seek(time: Words, start: int, moment: int) -> int:
    """The first place from `start` on whose time is `moment` or later: near places are cheap."""
    size = len(time)
    near = min(start + NEAR, size)
    while start < near and time[start] < moment:
        start += 1
    if start < near or start == size:
        return start
    stride = NEAR
    while start + stride < size and time[start + stride] < moment:
        start += stride
        stride *= 2
    end = min(start + stride, size)
    while start < end:
        middle = (start + end) >> 1
        if time[middle] < moment:
            start = middle + 1
        else:
            end = middle
    return start


@inlined
def _plain(events: Events, chosen: Chosen, bounds: Bounds, rows: int, memory: Words) -> Steps:
    moments = len(bounds.low)
    table = memory[: 5 * moments].reshape((moments, 5))
    memory = memory[5 * moments :]
    _ranges(events.time, bounds, table)
    if rows > 0:
        _keep_newest(events, rows, memory, table)
    if len(chosen.counts):
        for r in range(moments):
            table[r, ADD] = chosen.counts[table[r, ADD]]
            table[r, ADD_END] = chosen.counts[table[r, ADD_END]]
    last_first = last_stop = 0
    for r in range(moments):
        first, stop = table[r, ADD], table[r, ADD_END]
        table[r, DROP] = last_first
        table[r, DROP_END] = min(last_stop, first)
        table[r, ADD] = max(last_stop, first)
        table[r, ACTIVE] = stop - first
        last_first, last_stop = first, stop
    return Steps(chosen.order, chosen.order, table, True, memory)


@inlined
def _ranges(time: Words, bounds: Bounds, table: NDArray[np.int64]) -> None:
    """Write the range of positions whose times lie within the bounds of each moment."""
    low, high, ends, counted = bounds
    begin = end = 0
    for r in range(len(low)):
        begin = seek(time, begin, low[r])
        if counted:
            end = ends[r]
        else:
            end = seek(time, end, high[r] + 1) if high[r] < I64_MAX else len(time)
            ends[r] = end
        table[r, ADD] = min(begin, end)
        table[r, ADD_END] = end


@nested
def _keep_newest(events: Events, rows: int, memory: Words, table: NDArray[np.int64]) -> None:
    """Raise the beginning of each range to the newest rows that pass the filter."""
    size = len(events.time)
    order, counts = memory[: size + 1], memory[size + 1 : 2 * size + 2]
    filtered = len(events.where) > 0
    if filtered:
        _eligible(events, False, order, counts)
    for r in range(len(table)):
        first, stop = table[r, ADD], table[r, ADD_END]
        if filtered:
            end = counts[stop]
            begin = max(counts[first], end - rows)
            table[r, ADD] = order[begin] if begin < end else stop
        else:
            table[r, ADD] = max(first, stop - rows)


@nested
def _eligible(events: Events, skip_null: bool, order: Words, counts: Words) -> int:
    """List the events that can count, and how many of them precede each event."""
    filtered = len(events.where) > 0
    nullable = skip_null and len(events.valid) > 0
    size = 0
    for i in range(len(events.time)):
        counts[i] = size
        order[size] = i
        if (not filtered or events.where[i] != 0) and (not nullable or events.valid[i] != 0):
            size += 1
    counts[len(events.time)] = size
    return size


# --- events that come late or are corrected -------------------------------------------------------


@apart
def _general(
    events: Events,
    t: Words,
    low: Words,
    high: Words,
    rows: int,
    skip_null: bool,
    memory: Words,
) -> Steps:
    skip_null = skip_null and len(events.valid) > 0
    moments, size = len(t), len(events.time)
    table = memory[: 5 * moments].reshape((moments, 5))
    memory = memory[5 * moments :]
    adds, drops, enter, leave = memory[:size], memory[size:], memory[2 * size :], memory[3 * size :]
    _lifetimes(events, t, low, high, skip_null and rows == 0, enter, leave)
    total = _sort_by(enter, enter, leave, size, moments, table[:, ADD_END], adds)
    _sort_by(leave, enter, leave, size, moments, table[:, DROP_END], drops)
    adds, drops, memory = adds[:total], drops[:total], memory[2 * size :]
    if rows > 0:
        adds, drops, memory = _newest_rows(events, rows, skip_null, adds, drops, table, memory)
    added = dropped = 0
    for r in range(moments):
        table[r, ADD], table[r, DROP] = added, dropped
        added, dropped = table[r, ADD_END], table[r, DROP_END]
        table[r, ACTIVE] = added - dropped
    return Steps(adds, drops, table, False, memory)


@nested
def _lifetimes(
    events: Events, t: Words, low: Words, high: Words, skip_null: bool, enter: Words, leave: Words
) -> None:
    """Write the moments [enter, leave) at which each event counts, by number."""
    size, moments = len(events.time), len(t)
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


@nested
def _sort_by(
    keys: Words, enter: Words, leave: Words, size: int, moments: int, ends: Words, order: Words
) -> int:
    """Sort the events that ever count by a key from 0 to `moments`, stably; return their number.

    `ends` receives how many have a key up to each moment.
    """
    ends[:] = 0
    for i in range(size):
        if enter[i] < leave[i] and keys[i] < moments:
            ends[keys[i]] += 1
    running = 0
    for r in range(moments):
        count = ends[r]
        ends[r] = running
        running += count
    for i in range(size):
        if enter[i] >= leave[i]:
            continue
        if keys[i] < moments:
            order[ends[keys[i]]] = i
            ends[keys[i]] += 1
        else:
            order[running] = i
            running += 1
    return running


@nested
def _newest_rows(
    events: Events,
    rows: int,
    skip_null: bool,
    adds: Words,
    drops: Words,
    table: NDArray[np.int64],
    memory: Words,
) -> tuple[Words, Words, Words]:
    """Rewrite steps so that only the newest `rows` of the events that count remain.

    The kept ones are those from `cut` on.  At each moment the net difference is listed, since an
    event may be let in and pushed out again by the changes of one moment.
    """
    size, total = len(events.time), len(adds)
    new_adds, new_drops = memory[: 2 * total], memory[2 * total : 4 * total]
    rest = memory[4 * total :]
    changed, memory = rest[: 4 * total], rest[4 * total :]
    kept = memory[:size].view(np.uint8)[:size]
    listed = memory[size : 2 * size].view(np.uint8)[:size]
    kept[:] = 0
    listed[:] = 0
    levels, bits = make_levels(size, memory[2 * size :])
    added = dropped = new_added = new_dropped = count = 0
    cut = size
    for r in range(len(table)):
        changes = 0
        for k in range(dropped, table[r, DROP_END]):
            p = drops[k]
            clear_bit(levels, bits, p)
            if kept[p] == 0:
                continue
            older = below(levels, bits, cut)
            changes = _flip(kept, p, changed, changes)
            if older >= 0:
                changes = _flip(kept, older, changed, changes)
                cut = older
            else:
                count -= 1
                cut = cut if p != cut else above(levels, bits, cut, size)
        for k in range(added, table[r, ADD_END]):
            p = adds[k]
            set_bit(levels, bits, p)
            if count == rows and p < cut:
                continue
            changes = _flip(kept, p, changed, changes)
            if count < rows:
                count += 1
                cut = min(cut, p)
            else:
                changes = _flip(kept, cut, changed, changes)
                cut = above(levels, bits, cut, size)
        added, dropped = table[r, ADD_END], table[r, DROP_END]
        for k in range(changes):
            p = changed[k]
            if kept[p] == listed[p] or (skip_null and events.valid[p] == 0):
                continue
            listed[p] = kept[p]
            if kept[p] != 0:
                new_adds[new_added] = p
            else:
                new_drops[new_dropped] = p
            new_added, new_dropped = new_added + kept[p], new_dropped + 1 - kept[p]
        table[r, ADD_END], table[r, DROP_END] = new_added, new_dropped
    for p in range(size):
        if listed[p] != 0:
            new_drops[new_dropped] = p
            new_dropped += 1
    return new_adds[:new_added], new_drops[:new_dropped], rest


@nested
def _flip(kept: Bytes, p: int, changed: Words, changes: int) -> int:
    """Keep an event that was not kept, or the other way round; note it, return how many were."""
    kept[p] = 1 - kept[p]
    changed[changes] = p
    return changes + 1
