"""Aggregates of how often values occur: count_distinct, quantile, approx_quantile, mode, top_n.

The values of a segment are sorted once, for all its moments, and each event gets the rank of its
value among the different ones.  What slides is an array of how many events have each rank, with one
index above it for each kind of question: a Fenwick tree finds the k-th smallest value, a tournament
the most frequent one, a set of bits the smallest and the largest where events do not come and go in
order.  So each event and each question cost the logarithm of the number of different values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.bits import MOST_LEVELS, clear_bit, largest, make_levels, set_bit, smallest
from tidemark.kernel.compiled import apart, bits_float, float_bits, nested
from tidemark.kernel.encoding import (
    APPROX_QUANTILE,
    COUNT_DISTINCT,
    DECIMAL,
    FLOAT,
    FUNCTION,
    MAX,
    MIN,
    MODE,
    NOTHING,
    QUANTILE,
    ROW,
    SECOND,
    TOP_N,
    VALUE,
    N,
    Out,
    Q,
)
from tidemark.kernel.keys import NAN_KEY, bucket_middle, decimal_key, double_of, key_of, word_of
from tidemark.kernel.steps import ACTIVE, ADD, ADD_END, DROP, DROP_END, Steps, position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

SHORT_RUN = 16


@apart
def rank_segment(
    words: Words, high: Words, kind: int, scale: int, ranks: Words, values: Words, memory: Words
) -> None:
    """Write the rank of each event's value, and the keys of the different values in order.

    The number of different values is 1 + the largest rank; it is not written.
    """
    size = len(words)
    keys, other_keys = memory[:size], memory[size : 2 * size]
    order, other_order = memory[2 * size : 3 * size], memory[3 * size : 4 * size]
    for i in range(size):
        if kind == DECIMAL:
            keys[i] = decimal_key(high[i], words[i], scale, memory[4 * size :])
        else:
            keys[i] = key_of(words[i], kind)
        order[i] = i
    _sort_runs(keys, order)
    width = SHORT_RUN
    while width < size:
        for start in range(0, size, 2 * width):
            middle, stop = min(start + width, size), min(start + 2 * width, size)
            _merge(keys, order, start, middle, stop, other_keys, other_order)
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
        width *= 2
    rank = -1
    for i in range(size):
        if i == 0 or keys[i] != keys[i - 1]:
            rank += 1
            values[rank] = keys[i]
        ranks[order[i]] = rank


@nested
def _sort_runs(keys: Words, order: Words) -> None:
    """Sort each run of `SHORT_RUN` keys by insertion."""
    for start in range(0, len(keys), SHORT_RUN):
        for i in range(start + 1, min(start + SHORT_RUN, len(keys))):
            key, event = keys[i], order[i]
            k = i
            while k > start and keys[k - 1] > key:
                keys[k], order[k] = keys[k - 1], order[k - 1]
                k -= 1
            keys[k], order[k] = key, event


@nested
def _merge(
    keys: Words,
    order: Words,
    start: int,
    middle: int,
    stop: int,
    new_keys: Words,
    new_order: Words,
) -> None:
    i, j = start, middle
    for k in range(start, stop):
        if i < middle and (j >= stop or keys[i] <= keys[j]):
            new_keys[k], new_order[k] = keys[i], order[i]
            i += 1
        else:
            new_keys[k], new_order[k] = keys[j], order[j]
            j += 1


# --- sliding over the steps -----------------------------------------------------------------------


class Counts(NamedTuple):
    """How many events have each rank, and the indexes of these counts; empty if not needed."""

    counts: Words
    sums: Words
    best: Words
    levels: Words
    present: NDArray[np.uint64]


@apart
def sweep_ranks(
    kind: int, ranks: Words, values: Words, steps: Steps, group: Words, out: Out, at: int
) -> None:
    """Write the results of `group` at each moment, from column `at` of the results on."""
    top = 0
    for i in range(len(ranks)):
        top = max(top, ranks[i])
    index, memory = _make_counts(group, top + 1, steps.free)
    counts, sums, best, levels, present = index
    adds, drops, table = steps.adds, steps.drops, steps.table
    different = 0
    for r in range(len(table)):
        for k in range(table[r, DROP], table[r, DROP_END]):
            rank = ranks[position(drops, k)]
            counts[rank] -= 1
            different -= 1 if counts[rank] == 0 else 0
            _reindex(counts, sums, best, levels, present, rank, -1)
        for k in range(table[r, ADD], table[r, ADD_END]):
            rank = ranks[position(adds, k)]
            counts[rank] += 1
            different += 1 if counts[rank] == 1 else 0
            _reindex(counts, sums, best, levels, present, rank, 1)
        count = table[r, ACTIVE]
        odd = kind == FLOAT and count > 0 and counts[top] > 0 and values[top] == NAN_KEY
        for f in range(len(group)):
            function, row = group[f, FUNCTION], group[f, ROW]
            word = different
            if count == 0:
                word = 0
            elif function == QUANTILE or function == APPROX_QUANTILE:
                q = bits_float(group[f, Q])
                found = np.nan if odd else _quantile(function, q, count, kind, values, sums)
                # Infinities differ by a NaN with a sign; there is only one NaN here.
                word = NAN_KEY if np.isnan(found) else float_bits(found)
            elif function == MODE:
                winner: int = best[1]
                word = word_of(values[winner], kind)
            elif function == TOP_N:
                place = out.second[group[f, SECOND], at + r]
                word = min(group[f, N], different)
                items = out.items[place : place + word]
                _most_frequent(items, kind, values, counts, best, memory)
            elif function == MIN or function == MAX:
                rank = smallest(levels, present)
                if function == MAX or odd:
                    rank = largest(levels, present)
                word = word_of(values[rank], kind)
            out.words[row, at + r] = word
            out.state[row, at + r] = VALUE if count or function == COUNT_DISTINCT else NOTHING


@nested
def _make_counts(group: Words, ranks: int, memory: Words) -> tuple[Counts, Words]:
    """Counts of zero, with the indexes that the functions of `group` need; the memory left."""
    size = 1
    while size < ranks:
        size *= 2
    sums = best = bits = 0
    for f in range(len(group)):
        function = group[f, FUNCTION]
        if function == QUANTILE or function == APPROX_QUANTILE:
            sums = size + 1
        elif function == MODE or function == TOP_N:
            best = 2 * size
        elif function == MIN or function == MAX:
            bits = size
    memory[: size + sums] = 0
    tournament = memory[size + sums : size + sums + best]
    if best:
        for rank in range(size):
            tournament[size + rank] = rank
        for node in range(size - 1, 0, -1):
            tournament[node] = tournament[2 * node]
    rest = memory[size + sums + best :]
    levels, present = make_levels(bits, rest)
    rest = rest[MOST_LEVELS + len(present) :]
    index = Counts(
        memory[:size],
        memory[size : size + sums],
        tournament,
        levels,
        present if bits else present[:0],
    )
    return index, rest


@nested
def _reindex(
    counts: Words,
    sums: Words,
    best: Words,
    levels: Words,
    present: NDArray[np.uint64],
    rank: int,
    change: int,
) -> None:
    """Bring the indexes up to date after the count of a rank has changed."""
    if len(sums):
        i = rank + 1
        while i < len(sums):
            sums[i] += change
            i += i & -i
    if len(best):
        _replay(counts, best, rank)
    if len(present):
        if counts[rank] == 0:
            clear_bit(levels, present, rank)
        elif counts[rank] == 1 and change > 0:
            set_bit(levels, present, rank)


@nested
def _replay(counts: Words, best: Words, rank: int) -> None:
    """Repeat the matches of a rank; the more frequent one wins, of two equals the smaller."""
    node = (len(counts) + rank) >> 1
    while node > 0:
        left, right = best[2 * node], best[2 * node + 1]
        winner = left if counts[left] >= counts[right] else right
        if winner == best[node] and winner != rank:
            return
        best[node] = winner
        node >>= 1


@nested
def _nth(sums: Words, n: int) -> int:
    """The rank of the n-th smallest value, counted from 0."""
    place, step = 0, len(sums) - 1
    while step > 0:
        if place + step < len(sums) and sums[place + step] <= n:
            place += step
            n -= sums[place]
        step >>= 1
    return place


@nested
def _quantile(function: int, q: float, count: int, kind: int, values: Words, sums: Words) -> float:
    """The quantile as `numpy.quantile` computes it, or the middle of its bucket."""
    place = q * (count - 1)
    below = int(np.floor(place))
    low = double_of(values[_nth(sums, below)], kind)
    if function == APPROX_QUANTILE:
        return bucket_middle(low)
    high = double_of(values[_nth(sums, min(below + 1, count - 1))], kind)
    gap, share = high - low, place - below
    return high - gap * (1.0 - share) if share >= 0.5 else low + gap * share


@nested
def _most_frequent(
    items: Words, kind: int, values: Words, counts: Words, best: Words, memory: Words
) -> None:
    """Write the most frequent values: take each winner out, and put them back in the end."""
    taken = memory[: 2 * len(items)]
    for i in range(len(items)):
        rank: int = best[1]
        items[i] = word_of(values[rank], kind)
        taken[2 * i], taken[2 * i + 1] = rank, counts[rank]
        counts[rank] = 0
        _replay(counts, best, rank)
    for i in range(len(items)):
        rank = taken[2 * i]
        counts[rank] = taken[2 * i + 1]
        _replay(counts, best, rank)
