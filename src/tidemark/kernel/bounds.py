"""Where a window lies: two inclusive bounds of time for each moment.

With u = t - offset, an event counts if low <= time <= high:

    sliding   u - length + 1 .. u        before: u - length .. u - 1
    all       -infinity .. u             before: -infinity .. u - 1
    to_date   period_start(u) .. u       before: period_start(u) .. u - 1

A window that moves in steps ends where it would at the last multiple of the step: u is that of t
rounded down.

`max_age` raises low to t - max_age, so that a value of exactly that age still counts.  Both bounds
never fall as t grows.  What leaves the range of int64 stays at its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.calendar import period_start
from tidemark.kernel.compiled import nested
from tidemark.kernel.encoding import BEFORE, I64_MIN, LENGTH, LOW, OFFSET, STEP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.model.window import Unit

    Words = NDArray[np.int64]


class Bounds(NamedTuple):
    """The bounds of a window at each moment of a segment.

    `ends` has, for each moment, the number of events up to `high`.  It is written by who needs it
    first; `counted` says that it has been, for the same `high`.
    """

    low: Words
    high: Words
    ends: Words
    counted: bool


@nested
def earlier(moment: int, duration: int) -> int:
    """The moment less a duration that is not negative; never before the beginning of int64."""
    return moment - duration if moment >= I64_MIN + duration else I64_MIN


@nested
def step_of(t: int, group: Words) -> int:
    """The moment at which a group's window ends, but for its offset."""
    return t if group[STEP] == 0 else earlier(t, t % group[STEP])


@nested
def bounds_at(t: int, period: int, group: Words, max_age: int) -> tuple[int, int]:
    """The bounds of a group's window at a moment; `period` is where a calendar window begins."""
    high = earlier(step_of(t, group), group[OFFSET] + group[BEFORE])
    low = period if group[LOW] >= 0 else I64_MIN
    if group[LENGTH] > 0:
        low = earlier(high, group[LENGTH] - 1)
    if max_age > 0:
        low = max(low, earlier(t, max_age))
    return low, high


def period_starts(t: Words, periods: Iterable[tuple[Unit, str, int]]) -> NDArray[np.int64]:
    """Where the calendar windows of moments begin: a row for each unit, zone and offset."""
    rows = [
        period_start(np.maximum(t, I64_MIN + offset) - offset, unit, zone)
        for unit, zone, offset in periods
    ]
    return np.array(rows, np.int64).reshape(len(rows), len(t))
