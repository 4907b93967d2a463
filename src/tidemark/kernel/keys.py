"""Values as integers that sort as the values do.

A double's key is its bits with those below the sign flipped where it is negative; every NaN has the
same key, above infinity, and -0.0 has that of 0.0.  Any other word is its own key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel import exact
from tidemark.kernel.compiled import bits_float, float_bits, nested
from tidemark.kernel.encoding import DECIMAL, FLOAT, I64_MAX, I64_MIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

NAN_KEY = 0x7FF8000000000000
INFINITY_BITS = 0x7FF0000000000000
BUCKET_BITS = 45  # of the mantissa's 52; the other 7, the exponent and the sign name a bucket


@nested
def key_of(word: int, kind: int) -> int:
    """The key of a word."""
    if kind != FLOAT:
        return word
    if word & I64_MAX > INFINITY_BITS:
        return NAN_KEY
    if word == I64_MIN:
        return 0
    return word ^ ((word >> 63) & I64_MAX)


@nested
def word_of(key: int, kind: int) -> int:
    """The word of a key."""
    return key ^ ((key >> 63) & I64_MAX) if kind == FLOAT else key


@nested
def double_of(key: int, kind: int) -> float:
    """The value of a key as a double; decimals have the keys of doubles."""
    return bits_float(word_of(key, FLOAT)) if kind == FLOAT or kind == DECIMAL else float(key)


@nested
def decimal_key(high: int, low: int, scale: int, memory: Words) -> int:
    """The key of a decimal that is rounded to a double."""
    acc = memory[:4]
    acc[:] = 0
    exact.add_decimal(acc, 0, high, low, 1)
    rounded = exact.mean(acc, 0, 1, scale, memory[4:132].view(np.uint64))
    return key_of(float_bits(rounded), FLOAT)


@nested
def bucket_middle(value: float) -> float:
    """The middle of the logarithmic bucket that holds a value: within 2^-8 of it, relatively."""
    if value == 0.0 or np.isinf(value):
        return value
    bits = float_bits(value)
    return bits_float(((bits >> BUCKET_BITS) << BUCKET_BITS) | (1 << (BUCKET_BITS - 1)))
