"""Aggregates that add up: sum, mean, variance, stddev, any, all.

One exact accumulator of the values, and one of their squares where something needs it, slide over
the steps: what enters is added, what leaves is subtracted, and no residue remains.  NaN and
infinities are counted beside it.  All functions of a column share the sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel import exact
from tidemark.kernel.compiled import bits_float, float_bits, nested
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

MAX_LIMBS = 72  # the largest window of doubles, see `exact.float_window`
INFINITY_BITS = 0x7FF0000000000000
NAN, POSITIVE, NEGATIVE = range(3)


class Total(NamedTuple):
    """A sum, a sum of squares (or no limbs), and how many values are NaN, inf and -inf."""

    acc: Words
    squares: Words
    base: int
    square_base: int
    special: Words


@nested
def sweep_sums(
    events: Events, kind: int, scale: int, steps: Steps, group: Words, out: Out, at: int
) -> None:
    """Write the sums of `group` at each moment, from column `at` of the results on."""
    squares = False
    for f in range(len(group)):
        squares = squares or group[f, FUNCTION] == VARIANCE or group[f, FUNCTION] == STDDEV
    total = _make_total(events, kind, squares)
    digits = np.empty(8 * MAX_LIMBS, np.uint64)
    for r in range(len(steps.table)):
        row = steps.table[r]
        if r > 0 and row[DROP] == row[DROP_END] and row[ADD] == row[ADD_END]:
            _repeat(group, kind, out, at + r)
            continue
        added = row[ADD]
        if starts_anew(steps, r):
            total.acc[:] = 0
            total.squares[:] = 0
            total.special[:] = 0
            added = row[ADD_END] - row[ACTIVE]
        else:
            for k in range(row[DROP], row[DROP_END]):
                _add(total, events, kind, position(steps.drops, k), -1)
        for k in range(added, row[ADD_END]):
            _add(total, events, kind, position(steps.adds, k), 1)
        _finish(total, row[ACTIVE], kind, scale, group, out, at + r, digits)


@nested
def _make_total(events: Events, kind: int, squares: bool) -> Total:
    base = square_base = 0
    limbs, square_limbs = 2, 4
    if kind == FLOAT:
        base, limbs, square_base, square_limbs = exact.cover(events.words, events.valid)
    elif kind == DECIMAL:
        limbs, square_limbs = 4, 8
    memory = np.zeros(limbs + square_limbs + 3, np.int64)
    stop = limbs + (square_limbs if squares else 0)
    return Total(memory[:limbs], memory[limbs:stop], base, square_base, memory[stop : stop + 3])


@nested
def _add(total: Total, events: Events, kind: int, p: int, sign: int) -> None:
    word = events.words[p]
    if kind == FLOAT:
        if word & INFINITY_BITS == INFINITY_BITS:
            if word & 0xFFFFFFFFFFFFF != 0:
                total.special[NAN] += sign
            else:
                total.special[NEGATIVE if word < 0 else POSITIVE] += sign
            return
        x = bits_float(word)
        exact.add_float(total.acc, total.base, x, sign)
        if len(total.squares):
            exact.add_float_square(total.squares, total.square_base, x, sign)
    elif kind == DECIMAL:
        exact.add_decimal(total.acc, 0, events.high[p], word, sign)
        if len(total.squares):
            exact.add_decimal_square(total.squares, 0, events.high[p], word, sign)
    else:
        exact.add_int(total.acc, 0, word, sign)
        if len(total.squares):
            exact.add_int_square(total.squares, 0, word, sign)


@nested
def _finish(
    total: Total,
    count: int,
    kind: int,
    scale: int,
    group: Words,
    out: Out,
    at: int,
    digits: NDArray[np.uint64],
) -> None:
    special = total.special
    odd = special[NAN] + special[POSITIVE] + special[NEGATIVE] > 0
    for f in range(len(group)):
        function, row, ddof = group[f, FUNCTION], group[f, ROW], group[f, DDOF]
        deviation = function == VARIANCE or function == STDDEV
        state, word = VALUE, 0
        if count == 0 or (deviation and count <= ddof):
            state = NOTHING
        elif function == ANY or function == ALL:
            true = exact.sum_int64(total.acc)[0]
            word = 1 if true == count or (function == ANY and true > 0) else 0
        elif function == SUM and kind == DECIMAL:
            high, word, fits = exact.sum_int128(total.acc)
            out.words[row + 1, at] = high
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


@nested
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
            out.words[row + 1, at] = out.words[row + 1, at - 1]
