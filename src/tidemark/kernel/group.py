"""One group of aggregates over one segment: the function that training and serving both call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import inlined, nested
from tidemark.kernel.distinct import sweep_distinct
from tidemark.kernel.encoding import (
    ALL,
    APPROX_COUNT_DISTINCT,
    APPROX_QUANTILE,
    CODE,
    COUNT,
    FUNCTION,
    LAST_N,
    MAX,
    ROW,
    VALUE,
    Events,
    Out,
)
from tidemark.kernel.extremes import sweep_extremes
from tidemark.kernel.positions import sweep_positions
from tidemark.kernel.ranks import sweep_ranks
from tidemark.kernel.steps import ACTIVE, Steps
from tidemark.kernel.sums import sweep_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]


@inlined
def sweep_group(
    events: Events,
    kind: int,
    scale: int,
    ranks: Words,
    values: Words,
    window: tuple[int, int, int, int],
    steps: Steps,
    group: Words,
    out: Out,
    at: int,
    origin: int,
    zeros: NDArray[np.int32],
) -> None:
    """Write the results of all aggregates of `group`, from column `at` of the results on.

    Positions in results count from `origin`. `ranks` and `values` are those of `rank_segment`, or
    empty where no function needs them; `window` is what `sums.cover` gives, `zeros` is for
    `sweep_distinct`.
    """
    stop = after(group, 0, COUNT)
    for f in range(stop):
        row = group[f, ROW]
        for r in range(len(steps.table)):
            out.words[row, at + r] = steps.table[r, ACTIVE]
            out.state[row, at + r] = VALUE
    start, stop = stop, after(group, stop, ALL)
    if start < stop:
        sweep_sums(events, kind, scale, window, steps, group[start:stop], out, at)
    start, stop = stop, after(group, stop, MAX)
    if start < stop:
        if steps.range or len(steps.table) == 1:
            sweep_extremes(events, kind, steps, group[start:stop], out, at)
        else:
            sweep_ranks(kind, ranks, values, steps, group[start:stop], out, at)
    start, stop = stop, after(group, stop, APPROX_QUANTILE)
    if start < stop:
        sweep_ranks(kind, ranks, values, steps, group[start:stop], out, at)
    start, stop = stop, after(group, stop, APPROX_COUNT_DISTINCT)
    if start < stop:
        sweep_distinct(events, kind, steps, group[start:stop], out, at, zeros)
    start, stop = stop, after(group, stop, LAST_N)
    if start < stop:
        sweep_positions(events, steps, group[start:stop], out, at, origin)
    if stop < len(group):
        sweep_ranks(kind, ranks, values, steps, group[stop:], out, at)


@nested
def that_add_up(group: Words, kind: int, rows: int) -> int:
    """How many aggregates follow from summaries of events: they are the first of the group."""
    if rows > 0:
        return 0
    return after(group, 0, ALL if kind == CODE else APPROX_COUNT_DISTINCT)


@nested
def after(group: Words, f: int, function: int) -> int:
    """The first aggregate from `f` on whose function comes after `function`."""
    while f < len(group) and group[f, FUNCTION] <= function:
        f += 1
    return f
