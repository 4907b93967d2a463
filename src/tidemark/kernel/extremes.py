"""Smallest and largest values of a sliding range.

A queue holds the events that can still become the extreme: each is better than all after it, so a
new one pushes out those at the end that it beats, the front is the extreme, and the front goes when
the range has passed it.  Every event is pushed and popped at most once.  Where most of a range is
new, looking at all of it is less work; the queue is then brought up to date when it is next needed.

A NaN is the extreme of whatever it is in, for both functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import nested
from tidemark.kernel.encoding import (
    FLOAT,
    FUNCTION,
    I64_MAX,
    I64_MIN,
    MIN,
    NOTHING,
    ROW,
    VALUE,
    Events,
    Out,
)
from tidemark.kernel.keys import NAN_KEY, key_of, word_of
from tidemark.kernel.steps import ACTIVE, ADD, ADD_END, Steps, position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

FEW = 8  # events that are looked at in the time that it takes to push one


@nested
def sweep_extremes(
    events: Events, kind: int, steps: Steps, group: Words, out: Out, at: int
) -> None:
    """Write the extremes of `group` at each moment, from column `at` of the results on."""
    size = len(events.time)
    for f in range(len(group)):
        _sweep(
            events.words,
            kind,
            steps.adds,
            steps.table,
            -1 if group[f, FUNCTION] == MIN else 1,
            steps.free[:size],
            steps.free[size : 2 * size],
            out.words[group[f, ROW], at:],
            out.state[group[f, ROW], at:],
        )


@nested
def _sweep(
    words: Words,
    kind: int,
    adds: Words,
    table: NDArray[np.int64],
    sign: int,
    keys: Words,
    places: Words,
    out: Words,
    state: NDArray[np.uint8],
) -> None:
    front = end = queued = 0
    for r in range(len(table)):
        stop = table[r, ADD_END]
        begin = stop - table[r, ACTIVE]
        if begin == stop:
            out[r], state[r] = 0, NOTHING
            continue
        if stop - begin <= FEW * (stop - table[r, ADD]):
            best = I64_MIN
            for k in range(begin, stop):
                best = max(best, ranked_key(words[position(adds, k)], kind, sign))
            out[r], state[r] = extreme(best, kind, sign), VALUE
            continue
        if queued < begin:
            front = end = 0
            queued = begin
        for k in range(queued, stop):
            key = ranked_key(words[position(adds, k)], kind, sign)
            while end > front and keys[end - 1] <= key:
                end -= 1
            keys[end], places[end] = key, k
            end += 1
        queued = stop
        while places[front] < begin:
            front += 1
        out[r], state[r] = extreme(keys[front], kind, sign), VALUE


@nested
def ranked_key(word: int, kind: int, sign: int) -> int:
    """A key of which the largest is wanted, for the smallest value if `sign` is -1."""
    key = key_of(word, kind)
    if kind == FLOAT and key == NAN_KEY:
        return I64_MAX
    return key if sign > 0 else ~key


@nested
def extreme(key: int, kind: int, sign: int) -> int:
    """The word of the value whose key `ranked_key` gave."""
    if kind == FLOAT and key == I64_MAX:
        return NAN_KEY
    return word_of(key if sign > 0 else ~key, kind)
