"""New events in stored rows: what stays is copied, nothing is unpacked.

`docs/reference/row-format.md` shows the layout of a row.  The bytes are those that packing all
events at once gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tidemark.kernel.chunks import times_of
from tidemark.kernel.compiled import (
    BYTE_ROWS,
    BYTES,
    FOR_PUSHES,
    INTEGER,
    NEW_WORDS,
    WORD_ROWS,
    WORDS,
    apart,
    entry,
    nested,
    ready,
)
from tidemark.kernel.encoding import I64_MAX
from tidemark.kernel.heaps import write_heap
from tidemark.kernel.rows import HEADER, KNOWN, UNTIL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

HEAP_AT, HEAP = 4, 5
_OPTIONS = 48  # how far the flags of a row are from the beginning of its first word
_END, _UNDECIDED, _FIRST = range(3)


_times = nested(times_of)


class Items(NamedTuple):
    """The values of columns of codes among new events, as rows hold them in their heaps.

    Item i is `data[at[i]:at[i + 1]]`.  Segment s has the items `used[q][starts[q][s]:...]` of the
    code column q, each once and in their order; the codes of its events are places in these.
    """

    data: Bytes
    at: Words
    used: Sequence[Words]
    starts: Sequence[Words]


class New(NamedTuple):
    """New events, sorted, a segment for each row: `known` is no earlier than `time`.

    `values` int64[W, N] are the words of rows, `flags` uint8[B, N] their bytes; a null is 0.
    `columns` int64[C, 2] says of each input column at which of `values` it begins, and which column
    of codes it is (-1: none).  `head` is the first word of a row without other flags than its own.
    """

    starts: Words
    time: Words
    known: Words
    until: Words
    values: NDArray[np.int64]
    flags: NDArray[np.uint8]
    columns: NDArray[np.int64]
    items: Items
    head: int


class Spliced(NamedTuple):
    """Row r is `words[ends[r - 1]:ends[r]]`; it is empty where it is undecided.

    A row is undecided if a new event has the time and the moment of being known of an old one.
    `first` is how many old events come before the first new one.
    """

    words: Words
    ends: Words
    undecided: NDArray[np.bool_]
    first: Words


def splice(words: Words, begins: Words, new: New) -> Spliced:
    """The rows with the new events in them.

    Row r is `words[begins[r]:begins[r + 1]]`, or not there yet if that is nothing.  The values of
    all columns of codes are text or bytes.
    """
    ready(FOR_PUSHES)
    there = begins[:-1] < begins[1:]
    old = np.zeros(len(there), np.int64)
    old[there] = words[begins[:-1][there] + 1]
    added = np.diff(new.starts)
    width, flags = len(new.values), len(new.flags)
    most = np.diff(begins) + HEADER + added * (3 + width) + old * 2 + (added // 8 + 2) * flags
    items = new.items
    used = np.concatenate([np.zeros(0, np.int64), *items.used])
    offsets = np.cumsum([0, *map(len, items.used)])
    starts = np.zeros((len(items.used), len(added) + 1), np.int64)
    for q, each in enumerate(items.starts):
        starts[q] = each + offsets[q]
        held = np.concatenate(([0], np.cumsum(np.diff(items.at)[items.used[q]])))
        most += np.diff(held[each]) // 8 + 2
    told = np.zeros((len(added), 3), np.int64)
    out = np.empty(int(most.sum()), np.int64)
    scratch = np.empty(int((old + added).max(initial=0)) * 2 + len(new.time), np.int64)
    cast("Any", _splice)(
        words, begins, new.starts, new.time, new.known, new.until, new.values, new.flags,
        new.columns, used, starts, items.data, items.at, new.head, scratch, out, told,
    )  # fmt: skip
    return Spliced(out, told[:, _END], told[:, _UNDECIDED] != 0, told[:, _FIRST])


@entry(
    *(WORDS,) * 6, WORD_ROWS, BYTE_ROWS, WORD_ROWS, WORDS, WORD_ROWS, BYTES, WORDS, INTEGER,
    NEW_WORDS, NEW_WORDS, WORD_ROWS,
)  # fmt: skip
def _splice(
    words: Words,
    begins: Words,
    starts: Words,
    time: Words,
    known: Words,
    until: Words,
    values: NDArray[np.int64],
    flags: NDArray[np.uint8],
    columns: NDArray[np.int64],
    used: Words,
    used_starts: NDArray[np.int64],
    items: Bytes,
    item_at: Words,
    head: int,
    scratch: Words,
    out: Words,
    told: NDArray[np.int64],
) -> None:
    """Write the rows one after the other."""
    end = 0
    places = scratch[: len(time)]
    ranks = scratch[len(time) :]
    theirs, mine = words.view(np.uint8), out.view(np.uint8)
    for r in range(len(begins) - 1):
        row: int = begins[r]
        first: int = starts[r]
        stop: int = starts[r + 1]
        old: int = words[row] >> _OPTIONS if begins[r + 1] > row else 0
        n: int = words[row + 1] if begins[r + 1] > row else 0
        at = row + HEADER
        told[r, _UNDECIDED] = _find(words, at, n, old & KNOWN, time, known, first, stop, places)
        told[r, _END] = end
        told[r, _FIRST] = places[first] if stop > first else n
        if told[r, _UNDECIDED]:
            continue
        size = n + stop - first
        options = _options(words, at, n, old, time, known, until, first, stop)
        to = end + HEADER
        _weave_times(
            words, at, n, old, options, time, known, until, first, stop, places, out, to
        )  # fmt: skip
        at, to = at + n * _times(old), to + size * _times(options)
        width = values.shape[0]
        for w in range(width):
            _weave(words, at + w * n, n, values[w], first, stop, places, out, to + w * size)
        heap_at = _weave_flags(
            theirs, 8 * (at + width * n), n, flags, first, stop, places, mine,
            8 * (to + width * size),
        )  # fmt: skip
        heap = heap_at
        if used_starts.shape[0]:
            held = 8 * row + words[row + HEAP_AT] if n else 0
            heap = write_heap(
                theirs, held, n, first, stop, places, columns, used, used_starts, r, items,
                item_at, ranks, out, to, 8 * (to + width * size), heap_at,
            )  # fmt: skip
        out[end] = head | options << _OPTIONS
        out[end + 1], out[end + 2], out[end + 3] = size, width, flags.shape[0]
        out[end + HEAP_AT], out[end + HEAP] = heap_at - 8 * end, heap - heap_at
        out[end + 6 : end + HEADER] = 0
        while heap & 7:
            mine[heap] = 0
            heap += 1
        end = heap >> 3
        told[r, _END] = end


@nested
def _find(
    words: Words,
    at: int,
    n: int,
    late: int,
    time: Words,
    known: Words,
    first: int,
    stop: int,
    places: Words,
) -> int:
    """Note how many old events come before each new one; 1 if one is tied with an old one."""
    knowns = at + (n if late else 0)
    low = 0
    for j in range(first, stop):
        high = n
        while low < high:
            middle = (low + high) >> 1
            moment: int = words[at + middle]
            if moment < time[j] or (
                moment == time[j] and max(words[knowns + middle], moment) <= known[j]
            ):
                low = middle + 1
            else:
                high = middle
        places[j] = low
        same = low > 0 and words[at + low - 1] == time[j]
        if same and max(words[knowns + low - 1], time[j]) == known[j]:
            return 1
    return 0


@nested
def _options(
    words: Words,
    at: int,
    n: int,
    old: int,
    time: Words,
    known: Words,
    until: Words,
    first: int,
    stop: int,
) -> int:
    """The flags of a row: those of its times follow from its events."""
    options = old & UNTIL
    for j in range(first, stop):
        if known[j] != time[j]:
            options |= KNOWN
        if until[j] != I64_MAX:
            options |= UNTIL
    if old & KNOWN:
        for i in range(n):
            if words[at + n + i] > words[at + i]:
                options |= KNOWN
    return options


@apart
def _weave(
    old: Any, at: int, n: int, new: Any, first: int, stop: int, places: Words, out: Any, to: int
) -> None:
    """Write old values and, each before the old one at its place, the new ones."""
    done = 0
    for j in range(first, stop):
        place: int = places[j]
        for i in range(done, place):
            out[to + i] = old[at + i]
        out[to + place] = new[j]
        done = place
        to += 1
    for i in range(done, n):
        out[to + i] = old[at + i]


@nested
def _weave_times(
    words: Words,
    at: int,
    n: int,
    old: int,
    options: int,
    time: Words,
    known: Words,
    until: Words,
    first: int,
    stop: int,
    places: Words,
    out: Words,
    to: int,
) -> None:
    """The times, and the moments of being known and of being replaced if the row has them.

    An old row without has its times, and never.
    """
    size = n + stop - first
    _weave(words, at, n, time, first, stop, places, out, to)
    if options & KNOWN:
        knowns = to + size
        _weave(
            words, at + (n if old & KNOWN else 0), n, known, first, stop, places, out, knowns
        )  # fmt: skip
        for i in range(size):
            out[knowns + i] = max(out[knowns + i], out[to + i])
    if options & UNTIL == 0:
        return
    to += size * (_times(options) - 1)
    if old & UNTIL:
        at += n * (_times(old) - 1)
        _weave(words, at, n, until, first, stop, places, out, to)
        return
    for i in range(size):
        out[to + i] = I64_MAX
    for j in range(first, stop):
        out[to + places[j] + j - first] = until[j]


@nested
def _weave_flags(
    old: Bytes,
    at: int,
    n: int,
    flags: NDArray[np.uint8],
    first: int,
    stop: int,
    places: Words,
    out: Bytes,
    to: int,
) -> int:
    """The columns of bytes, each padded to whole words; returns the end."""
    size = n + stop - first
    for f in range(flags.shape[0]):
        _weave(old, at, n, flags[f], first, stop, places, out, to)
        at += (n + 7) & ~7
        padded = (size + 7) & ~7
        out[to + size : to + padded] = 0
        to += padded
    return to
