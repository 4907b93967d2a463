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
FIRST_BUCKET = -(1 << (63 - BUCKET_BITS))
BUCKETS = 2 * -FIRST_BUCKET + 1


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
def bucket_of(key: int, kind: int) -> int:
    """The bucket of a value, of the key of that value: an integer that sorts as the values do.

    They are those of `bucket_middle`, from `FIRST_BUCKET` on; 0.0 has one for itself, which is 0.
    """
    if kind != FLOAT and kind != DECIMAL:
        key = key_of(float_bits(float(key)), FLOAT)
    bucket: int = key >> BUCKET_BITS
    return bucket + 1 if key > 0 else bucket


@nested
def middle_of(bucket: int) -> float:
    """The value that stands for those in a bucket."""
    if bucket == 0:
        return 0.0
    key = (bucket - 1 if bucket > 0 else bucket) << BUCKET_BITS
    bits = (word_of(key, FLOAT) >> BUCKET_BITS) << BUCKET_BITS
    if bits & I64_MAX == INFINITY_BITS:
        return bits_float(bits)
    return bits_float(bits | (1 << (BUCKET_BITS - 1)))


@nested
def bucket_middle(value: float) -> float:
    """The middle of the logarithmic bucket that holds a value: within 2^-8 of it, relatively."""
    if value == 0.0 or np.isinf(value):
        return value
    bits = float_bits(value)
    return bits_float(((bits >> BUCKET_BITS) << BUCKET_BITS) | (1 << (BUCKET_BITS - 1)))
