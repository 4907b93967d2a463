"""HyperLogLog over a sliding set of events: approx_count_distinct.

A value's hash names one of 2^12 registers and a rank, one more than the zeros with which the rest
of the hash begins; the estimate depends on the highest rank in each register only.  A register
that forgets all but the highest cannot let an event go.  Here it counts its events of each rank,
and a word of bits says which ranks it has: what leaves is subtracted.  The registers are those that
any other HyperLogLog would have, so the estimate is the same whichever way a set came about.

The estimate is the improved one of Otmar Ertl ("New cardinality estimation algorithms for
HyperLogLog sketches", 2017), from the histogram of ranks; its error is about 1.6 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import apart, leading_zeros, nested
from tidemark.kernel.digits import U0, U1
from tidemark.kernel.encoding import ROW, VALUE, Events, Out
from tidemark.kernel.hashing import mix
from tidemark.kernel.keys import key_of
from tidemark.kernel.steps import ACTIVE, ADD, ADD_END, DROP, DROP_END, Steps, position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]

PRECISION = 12
REGISTERS = 1 << PRECISION
RANKS = 64 - PRECISION + 2
"""Ranks are 0 (no event) to 53."""
ALPHA = 0.7213475204444817  # 1 / (2 ln 2)


@apart
def sweep_distinct(
    events: Events,
    kind: int,
    steps: Steps,
    group: Words,
    out: Out,
    at: int,
    zeros: NDArray[np.int32],
) -> None:
    """Write the estimate at each moment, from column `at` of the results on.

    `zeros` holds `REGISTERS * RANKS` counts; with a single moment nothing leaves, and it may be
    empty.
    """
    words, adds, drops, table = events.words, steps.adds, steps.drops, steps.table
    present = steps.free[:REGISTERS].view(np.uint64)
    histogram = steps.free[REGISTERS : REGISTERS + RANKS]
    present[:] = U0
    histogram[:] = 0
    histogram[0] = REGISTERS
    estimate = np.int64(0)
    for r in range(len(table)):
        for k in range(table[r, DROP], table[r, DROP_END]):
            _drop(key_of(words[position(drops, k)], kind), present, histogram, zeros)
        for k in range(table[r, ADD], table[r, ADD_END]):
            _add(key_of(words[position(adds, k)], kind), present, histogram, zeros)
        if r == 0 or table[r, DROP] < table[r, DROP_END] or table[r, ADD] < table[r, ADD_END]:
            estimate = estimate_of(histogram) if table[r, ACTIVE] else np.int64(0)
        for f in range(len(group)):
            out.words[group[f, ROW], at + r] = estimate
            out.state[group[f, ROW], at + r] = VALUE
    if len(zeros) and len(table):
        stop = table[len(table) - 1, ADD_END]
        for k in range(stop - table[len(table) - 1, ACTIVE], stop):
            _drop(key_of(words[position(drops, k)], kind), present, histogram, zeros)


@nested
def place_of(key: int) -> tuple[np.int64, int]:
    """The register and the rank of a value."""
    hashed = mix(np.uint64(key))
    rest = (hashed << np.uint64(PRECISION)) | (U1 << np.uint64(PRECISION - 1))
    return np.int64(hashed >> np.uint64(64 - PRECISION)), leading_zeros(rest) + 1


@nested
def _highest(ranks: np.uint64) -> int:
    return 63 - leading_zeros(ranks) if ranks != U0 else 0


@nested
def _add(
    key: int, present: NDArray[np.uint64], histogram: Words, counts: NDArray[np.int32]
) -> None:
    register, rank = place_of(key)
    if len(counts):
        counts[register * RANKS + rank] += 1
    before = _highest(present[register])
    present[register] |= U1 << np.uint64(rank)
    if rank > before:
        histogram[before] -= 1
        histogram[rank] += 1


@nested
def _drop(
    key: int, present: NDArray[np.uint64], histogram: Words, counts: NDArray[np.int32]
) -> None:
    register, rank = place_of(key)
    counts[register * RANKS + rank] -= 1
    if counts[register * RANKS + rank] > 0:
        return
    before = _highest(present[register])
    present[register] &= ~(U1 << np.uint64(rank))
    if rank == before:
        histogram[before] -= 1
        histogram[_highest(present[register])] += 1


@nested
def estimate_of(histogram: Words) -> np.int64:
    """The estimate, of how many registers have each rank."""
    z = REGISTERS * _tau(1.0 - histogram[RANKS - 1] / REGISTERS)
    for rank in range(RANKS - 2, 0, -1):
        z = 0.5 * (z + histogram[rank])
    z += REGISTERS * _sigma(histogram[0] / REGISTERS)
    return np.int64(np.rint(ALPHA * REGISTERS * REGISTERS / z))


@nested
def _sigma(x: float) -> float:
    """The sum of x + x^2 + 2 x^4 + 4 x^8 + ..., for x below 1."""
    y, z, last = 1.0, x, -1.0
    while z != last:
        x *= x
        last = z
        z += x * y
        y += y
    return z


@nested
def _tau(x: float) -> float:
    """A third of 1 - x - (1 - x^(1/2))^2 / 2 - (1 - x^(1/4))^2 / 4 - ..."""
    if x == 0.0 or x == 1.0:
        return 0.0
    y, z, last = 1.0, 1.0 - x, -1.0
    while z != last:
        x = np.sqrt(x)
        last = z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
    return z / 3.0
