"""Exact sums: added and subtracted in any order, rounded once.

The idea is the superaccumulator of Kulisch, in the "small" form of Radford Neal ("Fast exact
summation using small and large superaccumulators", 2015). A finite double is an integer times a
power of two, so a wide enough fixed-point integer holds any sum of them without error. The integer
is an int64 array `acc` of limbs; limb `i` has the weight 2^(32 * (base + i)). Each value adds less
than 2^32 to each limb that it touches, so carries need no handling until 2^31 values have met:
adding costs a shift and three additions. Subtracting a value undoes exactly what adding it did,
limb by limb, so the headroom is spent by the values that are in the sum, not by those that passed
through: a window slides for ever. Sums of squares are the same with the exact 106-bit square.

Nothing depends on `base` or on the number of limbs, as long as they cover the values: `cover` looks
at a column and returns the smallest window (three limbs for amounts of money, not the seventy of
every double). To keep many accumulators in one flat array, pass `base - offset` to the adding
functions: limb 0 is then at `offset`.

The finishing functions carry the limbs into digits, make one exact rational (for a mean, a
variance) and round it half to even, through subnormals to infinity. NaN and infinities are never
added: the caller counts them (`math.isfinite`). A sum of nothing, or of zeros of either sign, is
0.0. Counts of values go up to 2^31 - 1. Finishing needs a scratch array, see `sums.MAX_LIMBS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.compiled import compiled, compiled_inlined, float_bits, multiply
from tidemark.kernel.digits import (
    MASK,
    U0,
    U1,
    U32,
    U_MASK,
    carry_limbs,
    divide,
    multiply_limbs,
    round_digits,
    round_root,
    significant,
    square_digits,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Limbs = NDArray[np.int64]
    Digits = NDArray[np.uint64]
    Flags = NDArray[np.bool_] | NDArray[np.uint8]

MANTISSA = (1 << 52) - 1
HIDDEN_BIT = 1 << 52
U2, U3, U4 = np.uint64(2), np.uint64(3), np.uint64(4)
TEN_38_HIGH, TEN_38_LOW = np.uint64(10**38 >> 64), np.uint64(10**38 & (2**64 - 1))


class Window(NamedTuple):
    """The limbs that cover a column: for its sum, and for the sum of its squares."""

    base: int
    limbs: int
    square_base: int
    square_limbs: int


INT_WINDOW = Window(0, 2, 0, 4)
DECIMAL_WINDOW = Window(0, 4, 0, 8)


@compiled
def cover(bits: Limbs, valid: Flags) -> tuple[int, int, int, int]:
    """The fields of the smallest window of doubles given by their bits; `valid` may be empty."""
    low, high = exponents(bits, valid)
    if low > high:
        return 0, 3, 0, 5
    return cover_exponents(low, high)


@compiled
def cover_exponents(low: int, high: int) -> tuple[int, int, int, int]:
    """The fields of the smallest window of doubles with these ends, see `exponents`."""
    base, square_base = low >> 5, (2 * low) >> 5
    return base, (high >> 5) - base + 3, square_base, ((2 * high) >> 5) - square_base + 5


# --- adding ---------------------------------------------------------------------------------------


@compiled_inlined
def add_float(acc: Limbs, base: int, x: float, sign: int) -> None:
    """Add a finite double to a sum (`sign` 1), or take it out again (`sign` -1).

    Indices are unsigned here, so that numba does not look for those that count from the end.
    """
    bits = float_bits(x)
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & MANTISSA
    if exponent == 0:
        if mantissa == 0:
            return
        exponent = 1
    else:
        mantissa |= HIDDEN_BIT
    negative = bits >> 63
    signed = (sign ^ negative) - negative
    position = exponent - 1075
    shift = position & 31
    i = np.uint64((position >> 5) - base)
    upper = mantissa >> (32 - shift)
    acc[i] += signed * ((mantissa << shift) & MASK)
    acc[i + U1] += signed * (upper & MASK)
    acc[i + U2] += signed * (upper >> 32)


@compiled
def add_float_square(acc: Limbs, base: int, x: float, sign: int) -> None:
    """Add the square of a finite double to a sum of squares, or take it out again."""
    bits = float_bits(x)
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & MANTISSA
    if exponent == 0:
        if mantissa == 0:
            return
        exponent = 1
    else:
        mantissa |= HIDDEN_BIT
    position = 2 * (exponent - 1075)
    shift = np.uint64(position & 31)
    i = np.uint64((position >> 5) - base)
    low, high = multiply(np.uint64(mantissa), np.uint64(mantissa))
    low_upper = low >> (U32 - shift)
    high_upper = high >> (U32 - shift)
    acc[i] += sign * np.int64((low << shift) & U_MASK)
    acc[i + U1] += sign * np.int64(low_upper & U_MASK)
    acc[i + U2] += sign * np.int64(((low_upper >> U32) | (high << shift)) & U_MASK)
    acc[i + U3] += sign * np.int64(high_upper & U_MASK)
    acc[i + U4] += sign * np.int64(high_upper >> U32)


@compiled_inlined
def add_int(acc: Limbs, base: int, x: int, sign: int) -> None:
    """Add an int64 to a sum, or take it out again; the window is `INT_WINDOW`."""
    acc[-base] += sign * (x & MASK)
    acc[1 - base] += sign * (x >> 32)


@compiled
def add_int_square(acc: Limbs, base: int, x: int, sign: int) -> None:
    """Add the square of an int64 to a sum of squares, or take it out again."""
    magnitude = np.uint64(abs(x))
    low, high = multiply(magnitude, magnitude)
    _add_word(acc, -base, low, sign)
    _add_word(acc, 2 - base, high, sign)


@compiled
def add_decimal(acc: Limbs, base: int, high: int, low: int, sign: int) -> None:
    """Add the integer `high * 2^64 + low` of a decimal; `low` is a uint64 carried in an int64."""
    _add_word(acc, -base, np.uint64(low), sign)
    add_int(acc, base - 2, high, sign)


@compiled
def add_decimal_square(acc: Limbs, base: int, high: int, low: int, sign: int) -> None:
    """Add the square of the integer of a decimal (scale twice as large), or take it out again."""
    a0, a1 = np.uint64(low), np.uint64(high)
    if high < 0:
        a0 = ~a0 + U1
        a1 = ~a1 + (U1 if a0 == U0 else U0)
    word0, low_carry = multiply(a0, a0)
    cross, cross_carry = multiply(a0, a1 << U1)
    top, top_carry = multiply(a1, a1)
    word1 = low_carry + cross
    word2 = top + cross_carry
    word3 = top_carry + (U1 if word2 < top else U0)
    if word1 < cross:
        word2 += U1
        word3 += U1 if word2 == U0 else U0
    _add_word(acc, -base, word0, sign)
    _add_word(acc, 2 - base, word1, sign)
    _add_word(acc, 4 - base, word2, sign)
    _add_word(acc, 6 - base, word3, sign)


@compiled
def _add_word(acc: Limbs, i: int, word: np.uint64, sign: int) -> None:
    acc[i] += sign * np.int64(word & U_MASK)
    acc[i + 1] += sign * np.int64(word >> U32)


@compiled
def exponents(bits: Limbs, valid: Flags) -> tuple[int, int]:
    """The lowest and the highest power of two that ends a mantissa; low > high if there is none."""
    low, high = 4096, 0
    for i in range(len(bits)):
        magnitude = bits[i] & 0x7FFFFFFFFFFFFFFF
        exponent = max(magnitude >> 52, 1)
        counts = magnitude != 0 and exponent != 0x7FF and (len(valid) == 0 or valid[i])
        low = min(low, exponent if counts else 4096)
        high = max(high, exponent if counts else 0)
    return low - 1075, high - 1075


# --- finishing ------------------------------------------------------------------------------------


@compiled
def sum_float(acc: Limbs, base: int, scratch: Digits) -> float:
    """The sum rounded to a double: what `math.fsum` returns, or an infinity where it overflows."""
    negative, size = carry_limbs(acc, scratch)
    return round_digits(scratch[:size], 32 * base, False, negative)


@compiled
def sum_int64(acc: Limbs) -> tuple[int, bool]:
    """The sum of integers, and whether it fits an int64; partial sums may well not have."""
    high, low, ok = _int128(acc)
    return low, ok and high == low >> 63


@compiled
def sum_int128(acc: Limbs) -> tuple[int, int, bool]:
    """The sum of decimals as (high, low, ok); from 10^38 on, decimal128 cannot hold it."""
    high, low, ok = _int128(acc)
    h, l = np.uint64(high), np.uint64(low)
    if high < 0:
        l = ~l + U1
        h = ~h + (U1 if l == U0 else U0)
    fits = bool(h < TEN_38_HIGH or (h == TEN_38_HIGH and l < TEN_38_LOW))
    return high, low, ok and fits


@compiled
def mean(acc: Limbs, base: int, n: int, scale: int, scratch: Digits) -> float:
    """The sum divided by `n * 10^scale`, rounded once; `scale` is 0 except for decimals."""
    negative, size = carry_limbs(acc, scratch)
    if size == 0:
        return 0.0
    digits, exponent, sticky = divide(scratch, 0, size, 3, n, 1, scale)
    return round_digits(digits, exponent + 32 * base - scale, sticky, negative)


@compiled
def variance(
    acc: Limbs,
    squares: Limbs,
    base: int,
    square_base: int,
    n: int,
    ddof: int,
    scale: int,
    scratch: Digits,
) -> float:
    """The exact variance of `n > ddof` values, rounded once; `ddof` is 1 for a sample, else 0."""
    start, size, exponent = _deviation(acc, squares, base, square_base, n, scratch)
    if size == 0:
        return 0.0
    digits, shift, sticky = divide(scratch, start, size, 3, n, n - ddof, 2 * scale)
    return round_digits(digits, exponent + shift - 2 * scale, sticky, False)


@compiled
def stddev(
    acc: Limbs,
    squares: Limbs,
    base: int,
    square_base: int,
    n: int,
    ddof: int,
    scale: int,
    scratch: Digits,
) -> float:
    """The square root of the exact variance, rounded once: not that of the rounded variance."""
    start, size, exponent = _deviation(acc, squares, base, square_base, n, scratch)
    if size == 0:
        return 0.0
    digits, shift, sticky = divide(scratch, start, size, 5, n, n - ddof, 2 * scale)
    return round_root(digits, exponent + shift - 2 * scale, sticky)


@compiled
def _int128(acc: Limbs) -> tuple[int, int, bool]:
    """The limbs (base 0) as the high and low word of an int128, and whether they fit."""
    carry = high = low = 0
    fits = True
    for i in range(max(len(acc), 4)):
        limb = carry + (acc[i] if i < len(acc) else 0)
        carry = limb >> 32
        digit = limb & MASK
        if i < 2:
            low |= digit << (32 * i)
        elif i < 4:
            high |= digit << (32 * i - 64)
        else:
            fits = fits and digit == (high >> 63) & MASK
    return high, low, fits and carry == high >> 63


@compiled
def _deviation(
    acc: Limbs, squares: Limbs, base: int, square_base: int, n: int, scratch: Digits
) -> tuple[int, int, int]:
    """Compute `n * sum(x^2) - sum(x)^2`, never negative: (start, size, exponent) of its digits."""
    _, size = carry_limbs(acc, scratch)
    start = len(acc) + 1
    offset = square_base - 2 * base
    width = max(len(squares) + 2 + max(offset, 0), 2 * len(acc) + 2 + max(-offset, 0))
    x = scratch[start : start + width]
    y = scratch[start + width : start + 2 * width]
    x[:] = U0
    y[:] = U0
    multiply_limbs(squares, np.uint64(n), x[max(offset, 0) :])
    square_digits(scratch[:size], y[max(-offset, 0) :])
    borrow = U0
    for i in range(width):
        digit = x[i] - y[i] - borrow
        x[i] = digit & U_MASK
        borrow = digit >> np.uint64(63)
    return start, significant(x, width), 32 * min(square_base, 2 * base)
