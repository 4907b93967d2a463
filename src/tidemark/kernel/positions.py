"""Aggregates that are events themselves: first, last, latest, first_n, last_n.

Where the events that count are a range, they are its ends.  Otherwise a set of bits holds them and
finds its ends.  Results are positions in the segment plus `origin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.bits import above, below, clear_bit, largest, make_levels, set_bit, smallest
from tidemark.kernel.compiled import apart, nested
from tidemark.kernel.encoding import (
    FIRST,
    FIRST_N,
    FUNCTION,
    LAST_N,
    NOTHING,
    NULL,
    ROW,
    SECOND,
    VALUE,
    Events,
    N,
    Out,
)
from tidemark.kernel.steps import (
    ACTIVE,
    ADD,
    ADD_END,
    DROP,
    DROP_END,
    Steps,
    position,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]


@nested
def sweep_positions(
    events: Events, steps: Steps, group: Words, out: Out, at: int, origin: int
) -> None:
    """Write the positions of `group` at each moment, from column `at` of the results on."""
    if steps.range or len(steps.table) == 1:
        for r in range(len(steps.table)):
            _from_range(events, steps, r, group, out, at + r, origin)
    else:
        _from_bits(events, steps, group, out, at, origin)


@nested
def _from_range(
    events: Events, steps: Steps, r: int, group: Words, out: Out, at: int, origin: int
) -> None:
    count = steps.table[r, ACTIVE]
    stop = steps.table[r, ADD_END]
    begin = stop - count
    for f in range(len(group)):
        function, row = group[f, FUNCTION], group[f, ROW]
        if count == 0:
            _write_nothing(out, row, at)
        elif function == FIRST_N or function == LAST_N:
            length = min(count, group[f, N])
            place = out.second[group[f, SECOND], at]
            for i in range(length):
                k = begin + i if function == FIRST_N else stop - 1 - i
                out.items[place + i] = position(steps.adds, k) + origin
            out.words[row, at] = length
            out.state[row, at] = VALUE
        else:
            p = position(steps.adds, begin if function == FIRST else stop - 1)
            _write(events, out, row, at, p, origin)


@apart
def _from_bits(events: Events, steps: Steps, group: Words, out: Out, at: int, origin: int) -> None:
    size = len(events.time)
    levels, bits = make_levels(size, steps.free)
    for r in range(len(steps.table)):
        row = steps.table[r]
        for k in range(row[DROP], row[DROP_END]):
            clear_bit(levels, bits, steps.drops[k])
        for k in range(row[ADD], row[ADD_END]):
            set_bit(levels, bits, steps.adds[k])
        count = row[ACTIVE]
        for f in range(len(group)):
            function, where_to = group[f, FUNCTION], group[f, ROW]
            if count == 0:
                _write_nothing(out, where_to, at + r)
                continue
            oldest_first = function == FIRST or function == FIRST_N
            p = smallest(levels, bits) if oldest_first else largest(levels, bits)
            if function == FIRST_N or function == LAST_N:
                length = min(count, group[f, N])
                place = out.second[group[f, SECOND], at + r]
                for i in range(length):
                    out.items[place + i] = p + origin
                    if i + 1 < length:
                        p = above(levels, bits, p, -1) if oldest_first else below(levels, bits, p)
                out.words[where_to, at + r] = length
                out.state[where_to, at + r] = VALUE
            else:
                _write(events, out, where_to, at + r, p, origin)


@nested
def _write(events: Events, out: Out, row: int, at: int, p: int, origin: int) -> None:
    out.words[row, at] = p + origin
    out.state[row, at] = NULL if len(events.valid) and events.valid[p] == 0 else VALUE


@nested
def _write_nothing(out: Out, row: int, at: int) -> None:
    out.words[row, at] = 0
    out.state[row, at] = NOTHING
