"""Chunks of a tree as one row, for what needs the events of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tidemark.kernel.compiled import INTEGER, NEW_WORDS, WORDS, entry, nested
from tidemark.kernel.encoding import I64_MAX
from tidemark.kernel.rows import HEADER, KNOWN, UNTIL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

HEAP_AT, HEAP = 4, 5
_OPTIONS = 48  # how far the flags of a row are from the beginning of its first word


def join_chunks(words: Words, starts: Sequence[int], columns: Words, flags: Words) -> Words:
    """The row of the events of several rows, which begin at `starts`, one after the other.

    It has the values of these columns of words and of bytes only, and no dictionaries: its codes
    are those of each row.
    """
    first = starts[0]
    count = sum(int(words[start + 1]) for start in starts)
    width = 3 + int(words[first + 2]) + int(words[first + 3]) // 8 + 1
    row = np.empty(HEADER + (count + 8) * width, np.int64)
    size = cast("Any", _join)(words, np.array(starts, np.int64), columns, flags, count, row)
    return row[:size]


def times_of(options: int) -> int:
    """How many words of times each event of a row has, by the flags in its first word."""
    return 1 + (options & KNOWN != 0) + (options & UNTIL != 0)


_times = nested(times_of)


@entry(*(WORDS,) * 4, INTEGER, NEW_WORDS)
def _join(words: Words, starts: Words, columns: Words, flags: Words, count: int, row: Words) -> int:
    """Write the row, and return its length."""
    options = 0
    for c in range(len(starts)):
        each: int = starts[c]
        options |= words[each] >> _OPTIONS
    first: int = starts[0]
    widest, flagged = words[first + 2], words[first + 3]
    values = HEADER + count * _times(options)
    bytes_at, padded = 8 * (values + widest * count), (count + 7) & ~7
    row[:HEADER] = 0
    row[0] = (words[first] & ((1 << _OPTIONS) - 1)) | options << _OPTIONS
    row[1], row[2], row[3] = count, widest, flagged
    row[HEAP_AT] = bytes_at + padded * flagged
    theirs, mine = words.view(np.uint8), row.view(np.uint8)
    done = 0
    for c in range(len(starts)):
        at: int = starts[c]
        size, own = words[at + 1], words[at] >> _OPTIONS
        at += HEADER
        _copy_times(words, at, size, own, row, HEADER + done, count, options)
        at += size * _times(own)
        for column in columns:
            a, b = at + column * size, values + column * count + done
            for i in range(size):
                row[b + i] = words[a + i]
        for flag in flags:
            a = 8 * (at + widest * size) + flag * ((size + 7) & ~7)
            b = bytes_at + flag * padded + done
            for i in range(size):
                mine[b + i] = theirs[a + i]
        done += size
    length: int = row[HEAP_AT] >> 3
    return length


@nested
def _copy_times(
    words: Words, at: int, size: int, own: int, row: Words, to: int, count: int, options: int
) -> None:
    """Copy the times of events; those of a row without `known` are known when they happen."""
    for i in range(size):
        row[to + i] = words[at + i]
    if options & KNOWN:
        known = at + (size if own & KNOWN else 0)
        for i in range(size):
            row[to + count + i] = words[known + i]
    if options & UNTIL:
        to += count * (_times(options) - 1)
        at += size * (_times(own) - 1)
        for i in range(size):
            row[to + i] = words[at + i] if own & UNTIL else I64_MAX
