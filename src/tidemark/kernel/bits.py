"""A set of small integers that finds neighbours fast: bits, and above them bits of words in use.

Level 0 has one bit for each possible member, level 1 one for each word of level 0 that is not zero,
and so on up to a single word: four levels for sixteen million.  Every operation is a few
instructions a level, and an empty set of any size costs nothing to keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import leading_zeros, nested
from tidemark.kernel.digits import U0, U1

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Levels = NDArray[np.int64]
    Bits = NDArray[np.uint64]


MOST_LEVELS = 8


@nested
def make_levels(size: int, memory: Words) -> tuple[Levels, Bits]:
    """Where each level begins, and an empty set of integers below `size`."""
    count = total = 0
    while count == 0 or size > 1:
        size = max((size + 63) >> 6, 1)
        memory[count] = total
        total += size
        count += 1
    bits = memory[MOST_LEVELS : MOST_LEVELS + total].view(np.uint64)
    bits[:] = U0
    return memory[:count], bits


@nested
def set_bit(levels: Levels, bits: Bits, i: int) -> None:
    """Put a member in."""
    for level in range(len(levels)):
        word = levels[level] + (i >> 6)
        before = bits[word]
        bits[word] = before | (U1 << np.uint64(i & 63))
        if before != U0:
            return
        i >>= 6


@nested
def clear_bit(levels: Levels, bits: Bits, i: int) -> None:
    """Take a member out."""
    for level in range(len(levels)):
        word = levels[level] + (i >> 6)
        bits[word] &= ~(U1 << np.uint64(i & 63))
        if bits[word] != U0:
            return
        i >>= 6


@nested
def below(levels: Levels, bits: Bits, i: int) -> int:
    """The largest member smaller than `i`, or -1."""
    for level in range(len(levels)):
        if i & 63:
            at: int = levels[level] + (i >> 6)
            word = bits[at] & ((U1 << np.uint64(i & 63)) - U1)
            if word != U0:
                return _largest_under(levels, bits, level, ((i >> 6) << 6) + _highest(word))
        i >>= 6
    return -1


@nested
def above(levels: Levels, bits: Bits, i: int, otherwise: int) -> int:
    """The smallest member larger than `i`, or `otherwise`."""
    for level in range(len(levels)):
        if i & 63 != 63:
            at: int = levels[level] + (i >> 6)
            word = bits[at] >> np.uint64((i & 63) + 1)
            if word != U0:
                return _smallest_under(levels, bits, level, i + 1 + _lowest(word))
        i >>= 6
    return otherwise


@nested
def smallest(levels: Levels, bits: Bits) -> int:
    """The smallest member of a set that is not empty."""
    top = len(levels) - 1
    at: int = levels[top]
    return _smallest_under(levels, bits, top, _lowest(bits[at]))


@nested
def largest(levels: Levels, bits: Bits) -> int:
    """The largest member of a set that is not empty."""
    top = len(levels) - 1
    at: int = levels[top]
    return _largest_under(levels, bits, top, _highest(bits[at]))


@nested
def _smallest_under(levels: Levels, bits: Bits, level: int, i: int) -> int:
    while level > 0:
        level -= 1
        at: int = levels[level] + i
        i = (i << 6) + _lowest(bits[at])
    return i


@nested
def _largest_under(levels: Levels, bits: Bits, level: int, i: int) -> int:
    while level > 0:
        level -= 1
        at: int = levels[level] + i
        i = (i << 6) + _highest(bits[at])
    return i


@nested
def _highest(word: np.uint64) -> int:
    return 63 - leading_zeros(word)


@nested
def _lowest(word: np.uint64) -> int:
    return 63 - leading_zeros(word & (~word + U1))
