"""Runs of segments, one after another: what `tidemark.kernel.sweep` calls, in compiled code.

A segment's results are computed side by side in memory that is in the cache, then put where its
moments were asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.bounds import Bounds, bounds_at
from tidemark.kernel.compiled import (
    BYTE_ROWS,
    BYTES,
    INTEGER,
    NEW_INTS,
    NEW_WORDS,
    WORD_ROWS,
    WORDS,
    entry,
    nested,
)
from tidemark.kernel.encoding import (
    BEFORE,
    I64_MIN,
    LOW,
    MAX_AGE,
    OFFSET,
    ROW,
    ROWS,
    SKIP_NULL,
    START,
    STOP,
    Events,
    Out,
)
from tidemark.kernel.group import sweep_group
from tidemark.kernel.ranks import rank_segment
from tidemark.kernel.steps import choose, make_steps
from tidemark.kernel.sums import cover

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]


@entry(*(WORDS,) * 4, *(INTEGER,) * 4, *(NEW_WORDS,) * 3)
def rank_segments(
    starts: Words,
    words: Words,
    high_words: Words,
    moment_starts: Words,
    first: int,
    stop: int,
    kind: int,
    scale: int,
    ranks: Words,
    values: Words,
    memory: Words,
) -> None:
    """Rank the values of each segment that has moments; see `ranks.rank_segment`."""
    for s in range(first, stop):
        a, b = starts[s], starts[s + 1]
        if moment_starts[s] < moment_starts[s + 1]:
            high = high_words[a:b]
            rank_segment(words[a:b], high, kind, scale, ranks[a:b], values[a:b], memory)


@entry(
    *(WORDS,) * 6,
    *(BYTES,) * 2,
    WORDS,
    NEW_WORDS,
    WORDS,
    WORD_ROWS,
    *(NEW_WORDS,) * 2,
    *(INTEGER,) * 4,
    *(WORD_ROWS,) * 4,
    BYTE_ROWS,
    *(NEW_WORDS,) * 2,
    NEW_INTS,
)
def sweep_segments(
    starts: Words,
    time: Words,
    known: Words,
    until: Words,
    words: Words,
    high_words: Words,
    valid: Bytes,
    where: Bytes,
    moment_starts: Words,
    moments: Words,
    places: Words,
    lows: NDArray[np.int64],
    ranks: Words,
    values: Words,
    first: int,
    stop: int,
    kind: int,
    scale: int,
    groups: NDArray[np.int64],
    aggregates: NDArray[np.int64],
    out_words: NDArray[np.int64],
    out_second: NDArray[np.int64],
    out_state: NDArray[np.uint8],
    items: Words,
    memory: Words,
    zeros: NDArray[np.int32],
) -> None:
    """Compute all groups of aggregates at all moments of each segment that has some."""
    for s in range(first, stop):
        a, b = starts[s], starts[s + 1]
        i, j = moment_starts[s], moment_starts[s + 1]
        if i == j:
            continue
        events = Events(
            time[a:b],
            known[a:b],
            until[a:b],
            words[a:b],
            high_words[a:b],
            valid[a:b],
            where[a:b],
        )
        out, (low, high, ends), rest = _block(
            out_second[:, i:j], items, len(out_words), j - i, memory
        )
        window = cover(events, kind, aggregates)
        skip_null = groups[0, SKIP_NULL] != 0
        chosen, free = choose(events, skip_null, rest)
        for g in range(len(groups)):
            group = groups[g]
            if skip_null != (group[SKIP_NULL] != 0):
                skip_null = not skip_null
                chosen, free = choose(events, skip_null, rest)
            counted = (
                g > 0
                and group[OFFSET] == groups[g - 1, OFFSET]
                and group[BEFORE] == groups[g - 1, BEFORE]
            )
            bounds = Bounds(low, high, ends, counted)
            for r in range(i, j):
                period = lows[group[LOW], r] if group[LOW] >= 0 else I64_MIN
                low[r - i], high[r - i] = bounds_at(moments[r], period, group, group[MAX_AGE])
            steps = make_steps(events, chosen, moments[i:j], bounds, group[ROWS], skip_null, free)
            members = aggregates[group[START] : group[STOP]]
            sweep_group(
                events, kind, scale, ranks[a:b], values[a:b], window, steps, members,
                out, 0, a, zeros,
            )  # fmt: skip
        _place(out, aggregates, places, i, j, out_words, out_state)


@nested
def _place(
    out: Out,
    aggregates: NDArray[np.int64],
    places: Words,
    first: int,
    stop: int,
    words: NDArray[np.int64],
    state: NDArray[np.uint8],
) -> None:
    """Put the results of a segment where its moments were asked for."""
    for f in range(len(aggregates)):
        row = aggregates[f, ROW]
        for r in range(first, stop):
            place = places[r] if len(places) else r
            words[row, place] = out.words[row, r - first]
            state[row, place] = out.state[row, r - first]


@nested
def _block(
    second: NDArray[np.int64], items: Words, rows: int, moments: int, memory: Words
) -> tuple[Out, tuple[Words, Words, Words], Words]:
    """Memory for the results of a segment and for its bounds, and what remains of it."""
    size = rows * moments
    words = memory[:size].reshape((rows, moments))
    state = memory[size : 2 * size].view(np.uint8)[:size].reshape((rows, moments))
    memory = memory[2 * size :]
    bounds = memory[:moments], memory[moments : 2 * moments], memory[2 * moments : 3 * moments]
    return Out(words, second, state, items), bounds, memory[3 * moments :]
