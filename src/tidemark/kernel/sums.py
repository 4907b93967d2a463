"""Aggregates that add up: sum, mean, variance, stddev, any, all.

One exact accumulator of the values, and one of their squares where something needs it, slide over
the steps: what enters is added, what leaves is subtracted, and no residue remains.  NaN and
infinities are counted beside it.  All functions of a column share the sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel import exact
from tidemark.kernel.compiled import apart, bits_float, float_bits, inlined, nested
from tidemark.kernel.encoding import (
    ALL,
    ANY,
    DDOF,
    DECIMAL,
    FLOAT,
    FUNCTION,
    MEAN,
    NOTHING,
    OVERFLOW,
    ROW,
    SECOND,
    STDDEV,
    SUM,
    VALUE,
    VARIANCE,
    Events,
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
    starts_anew,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

MAX_LIMBS = 72  # the largest window of doubles, see `exact.cover`
INFINITY_BITS = 0x7FF0000000000000
NAN, POSITIVE, NEGATIVE = range(3)


class Total(NamedTuple):
    """A sum, a sum of squares (or no limbs), and how many values are NaN, inf and -inf."""

    acc: Words
    squares: Words
    base: int
    square_base: int
    special: Words


@inlined
def cover(events: Events, kind: int, group: Words) -> tuple[int, int, int, int]:
    """The fields of the `exact.Window` that holds the sums of these events; zeros if none is."""
    for f in range(len(group)):
        if group[f, FUNCTION] >= SUM and group[f, FUNCTION] <= ALL:
            if kind == FLOAT:
                return exact.cover(events.words, events.valid)
            return (0, 4, 0, 8) if kind == DECIMAL else (0, 2, 0, 4)
    return 0, 0, 0, 0


@nested
def sweep_sums(
    events: Events,
    kind: int,
    scale: int,
    window: tuple[int, int, int, int],
    steps: Steps,
    group: Words,
    out: Out,
    at: int,
) -> None:
    """Write the sums of `group` at each moment, from column `at` of the results on.

    `window` is what `cover` gives for these events, or for more than these.
    """
    squares = False
    for f in range(len(group)):
        squares = squares or group[f, FUNCTION] == VARIANCE or group[f, FUNCTION] == STDDEV
    total = make_total(window, squares, steps.free)
    acc, square_acc, base, square_base, special = total
    words, high, adds, drops, table = (
        events.words,
        events.high,
        steps.adds,
        steps.drops,
        steps.table,
    )
    digits = steps.free[4 * MAX_LIMBS : 12 * MAX_LIMBS].view(np.uint64)
    for r in range(len(table)):
        if r > 0 and table[r, DROP] == table[r, DROP_END] and table[r, ADD] == table[r, ADD_END]:
            _repeat(group, kind, out, at + r)
            continue
        added = table[r, ADD]
        if starts_anew(table, steps.range, r):
            acc[:] = 0
            square_acc[:] = 0
            special[:] = 0
            added = table[r, ADD_END] - table[r, ACTIVE]
        else:
            for k in range(table[r, DROP], table[r, DROP_END]):
                p = position(drops, k)
                add_value(acc, square_acc, base, square_base, special, words, high, kind, p, -1)
        for k in range(added, table[r, ADD_END]):
            p = position(adds, k)
            add_value(acc, square_acc, base, square_base, special, words, high, kind, p, 1)
        finish(total, table[r, ACTIVE], kind, scale, group, out, at + r, digits)


@inlined
def make_total(window: tuple[int, int, int, int], squares: bool, memory: Words) -> Total:
    """An empty total of values within a window (see `cover`), in memory that is handed down."""
    base, limbs, square_base, square_limbs = window
    stop = limbs + (square_limbs if squares else 0)
    memory = memory[: stop + 3]
    memory[:] = 0
    return Total(memory[:limbs], memory[limbs:stop], base, square_base, memory[stop:])


@inlined
def add_value(
    acc: Words,
    squares: Words,
    base: int,
    square_base: int,
    special: Words,
    words: Words,
    high: Words,
    kind: int,
    p: int,
    sign: int,
) -> None:
    """Add the value of event p to the parts of a total (`sign` 1), or take it out again (-1)."""
    word = words[p]
    if kind == FLOAT:
        if word & INFINITY_BITS == INFINITY_BITS:
            if word & 0xFFFFFFFFFFFFF != 0:
                special[NAN] += sign
            else:
                special[NEGATIVE if word < 0 else POSITIVE] += sign
            return
        x = bits_float(word)
        exact.add_float(acc, base, x, sign)
        if len(squares):
            exact.add_float_square(squares, square_base, x, sign)
    elif kind == DECIMAL:
        exact.add_decimal(acc, 0, high[p], word, sign)
        if len(squares):
            exact.add_decimal_square(squares, 0, high[p], word, sign)
    else:
        exact.add_int(acc, 0, word, sign)
        if len(squares):
            exact.add_int_square(squares, 0, word, sign)


@nested
def finish(
    total: Total,
    count: int,
    kind: int,
    scale: int,
    group: Words,
    out: Out,
    at: int,
    digits: NDArray[np.uint64],
) -> None:
    """Write what the aggregates of `group` are of the `count` values of a total."""
    special = total.special
    odd = special[NAN] + special[POSITIVE] + special[NEGATIVE] > 0
    for f in range(len(group)):
        function, row, ddof = group[f, FUNCTION], group[f, ROW], group[f, DDOF]
        deviation = function == VARIANCE or function == STDDEV
        state, word = VALUE, 0
        if count == 0 or (deviation and count <= ddof and not special[NAN]):
            state = NOTHING
        elif function == ANY or function == ALL:
            true = exact.sum_int64(total.acc)[0]
            word = 1 if true == count or (function == ANY and true > 0) else 0
        elif function == SUM and kind == DECIMAL:
            high, word, fits = exact.sum_int128(total.acc)
            out.second[group[f, SECOND], at] = high
            state = VALUE if fits else OVERFLOW
        elif function == SUM and kind != FLOAT:
            word, fits = exact.sum_int64(total.acc)
            state = VALUE if fits else OVERFLOW
        elif odd:
            word = float_bits(np.nan if deviation else _odd_sum(special))
        elif function == SUM:
            word = float_bits(exact.sum_float(total.acc, total.base, digits))
        elif function == MEAN:
            word = float_bits(exact.mean(total.acc, total.base, count, scale, digits))
        else:
            word = float_bits(_deviation(total, function, count, ddof, scale, digits))
        out.words[row, at] = word
        out.state[row, at] = state


@apart
def _deviation(
    total: Total, function: int, count: int, ddof: int, scale: int, digits: NDArray[np.uint64]
) -> float:
    acc, squares, base, square_base, _ = total
    if function == VARIANCE:
        return exact.variance(acc, squares, base, square_base, count, ddof, scale, digits)
    return exact.stddev(acc, squares, base, square_base, count, ddof, scale, digits)


@nested
def _odd_sum(special: Words) -> float:
    """The sum of values among which are NaN or infinities."""
    if special[NAN] > 0 or (special[POSITIVE] > 0 and special[NEGATIVE] > 0):
        return np.nan
    return np.inf if special[POSITIVE] > 0 else -np.inf


@nested
def _repeat(group: Words, kind: int, out: Out, at: int) -> None:
    """Write the results of the moment before once more."""
    for f in range(len(group)):
        row = group[f, ROW]
        out.words[row, at] = out.words[row, at - 1]
        out.state[row, at] = out.state[row, at - 1]
        if kind == DECIMAL and group[f, FUNCTION] == SUM:
            second = group[f, SECOND]
            out.second[second, at] = out.second[second, at - 1]
