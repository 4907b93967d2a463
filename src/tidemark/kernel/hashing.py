"""64-bit hashes of values: the same on every machine and in every version.

A word is mixed by the finalizer of SplitMix64, a bijection.  Bytes are absorbed eight at a time,
little endian, the last ones padded with zeros, after their length.  `approx_count_distinct` mixes
once more what it is given, so the hash of text is a word like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tidemark.kernel.compiled import BYTES, NEW_WORDS, WORDS, entry, nested, ready

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def hash_bytes(value: bytes) -> int:
    """The hash of bytes; of text in UTF-8; of a decimal as the bytes that `hash_decimals` names."""
    data = np.frombuffer(value, np.uint8)
    return int(hash_all(np.array([0, len(value)], np.int64), data)[0])


def hash_all(offsets: Words, data: NDArray[np.uint8]) -> Words:
    """The hashes of many values; value i is `data[offsets[i]:offsets[i + 1]]`."""
    ready()
    out = np.empty(max(len(offsets) - 1, 0), np.int64)
    cast("Any", _hash_all)(np.ascontiguousarray(offsets, np.int64), data, out)
    return out


def hash_decimals(low: Words, high: Words) -> Words:
    """The hashes of decimals of one scale, as of the 16 little-endian bytes of their integers."""
    words = np.empty(2 * len(low), "<i8")
    words[0::2], words[1::2] = low, high
    return hash_all(np.arange(0, 16 * len(low) + 1, 16), words.view(np.uint8))


@nested
def mix(word: np.uint64) -> np.uint64:
    """Spread every bit of a word over all of them."""
    word += _STEP
    word = (word ^ (word >> _S30)) * _FIRST
    word = (word ^ (word >> _S27)) * _SECOND
    return word ^ (word >> _S31)


@entry(WORDS, BYTES, NEW_WORDS)
def _hash_all(offsets: Words, data: NDArray[np.uint8], out: Words) -> None:
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        state = mix(np.uint64(stop - start))
        while start < stop:
            word = np.uint64(0)
            for k in range(min(8, stop - start)):
                word |= np.uint64(data[start + k]) << np.uint64(8 * k)
            state = mix(state ^ word)
            start += 8
        out[i] = np.int64(state)
