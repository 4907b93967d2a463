"""Where a window lies: two inclusive bounds of time for each moment.

With u = t - offset, an event counts if low <= time <= high:

    sliding   u - length + 1 .. u        before: u - length .. u - 1
    all       -infinity .. u             before: -infinity .. u - 1
    to_date   period_start(u) .. u       before: period_start(u) .. u - 1

`max_age` raises low to t - max_age, so that a value of exactly that age still counts.  Both bounds
never fall as t grows.  What leaves the range of int64 stays at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.calendar import period_start
from tidemark.kernel.compiled import nested
from tidemark.kernel.encoding import I64_MIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.model.window import Bound, Window

    Words = NDArray[np.int64]


@nested
def earlier(moment: int, duration: int) -> int:
    """The moment less a duration that is not negative; never before the beginning of int64."""
    return moment - duration if moment >= I64_MIN + duration else I64_MIN


def shift(moments: Words, duration: int) -> Words:
    """`earlier` for each of many moments."""
    return np.maximum(moments, I64_MIN + duration) - duration


def window_bounds(window: Window, bound: Bound, max_age: int, t: Words) -> tuple[Words, Words]:
    """The bounds of the window at each moment; `max_age` 0 means none."""
    before = 1 if bound == "before" else 0
    high = shift(t, window.offset + before)
    if window.kind == "all":
        low = np.full(len(t), I64_MIN, np.int64)
    elif window.unit is not None:
        low = period_start(shift(t, window.offset), window.unit, window.zone)
    else:
        low = shift(high, window.length - 1)
    if max_age:
        low = np.maximum(low, shift(t, max_age))
    return low, high
