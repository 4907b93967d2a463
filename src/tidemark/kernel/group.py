"""One group of aggregates over one segment: the function that training and serving both call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import nested
from tidemark.kernel.encoding import (
    ALL,
    COUNT,
    FIRST,
    FUNCTION,
    LAST_N,
    ROW,
    SUM,
    VALUE,
    Events,
    Out,
)
from tidemark.kernel.positions import sweep_positions
from tidemark.kernel.steps import ACTIVE, Steps
from tidemark.kernel.sums import sweep_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]


@nested
def sweep_group(
    events: Events,
    kind: int,
    scale: int,
    steps: Steps,
    group: Words,
    out: Out,
    at: int,
    origin: int,
) -> None:
    """Write the results of all aggregates of `group`, from column `at` of the results on."""
    stop = _after(group, 0, COUNT)
    for f in range(stop):
        row = group[f, ROW]
        for r in range(len(steps.table)):
            out.words[row, at + r] = steps.table[r, ACTIVE]
            out.state[row, at + r] = VALUE
    start, stop = stop, _after(group, stop, ALL)
    if start < stop:
        sweep_sums(events, kind, scale, steps, group[start:stop], out, at)
    start, stop = stop, _after(group, stop, LAST_N)
    if start < stop:
        sweep_positions(events, steps, group[start:stop], out, at, origin)


@nested
def _after(group: Words, f: int, function: int) -> int:
    """The first aggregate from `f` on whose function comes after `function`."""
    while f < len(group) and group[f, FUNCTION] <= function:
        f += 1
    return f
