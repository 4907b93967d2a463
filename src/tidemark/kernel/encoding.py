"""What compiled code is told: aggregates as rows of integers, events and results as arrays.

A *group* is a set of aggregates that count the same events: one column, one filter, one window.
Its aggregates are rows of an int64 table, in the order of their function's number, so that each
family of functions is a slice of it.  A result is a row of 64-bit words and one of states; a sum of
decimals and a list have a second row of words elsewhere.

Compiled code allocates nothing: it works in memory that is handed down, of which every function
takes a piece from the front and hands on the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.model.aggregates import Aggregate
    from tidemark.model.window import Bound, Window

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

I64_MIN, I64_MAX = -(2**63), 2**63 - 1

NONE, INT, FLOAT, DECIMAL, CODE, HASH = range(6)
KINDS = {"none": NONE, "int": INT, "float": FLOAT, "decimal": DECIMAL, "code": CODE, "hash": HASH}

FUNCTIONS = (
    *("count",),  # answered by the steps themselves
    *("sum", "mean", "variance", "stddev", "any", "all"),  # sums.py
    *("min", "max"),  # extremes.py
    *("approx_quantile",),  # ranks.py
    *("approx_count_distinct",),  # distinct.py
    *("first", "last", "latest", "first_n", "last_n"),  # positions.py
    *("count_distinct", "quantile", "mode", "top_n"),  # ranks.py
)
(COUNT, SUM, MEAN, VARIANCE, STDDEV, ANY, ALL, MIN, MAX, APPROX_QUANTILE, APPROX_COUNT_DISTINCT,
 FIRST, LAST, LATEST, FIRST_N, LAST_N,
 COUNT_DISTINCT, QUANTILE, MODE, TOP_N) = range(20)  # fmt: skip

FUNCTION, ROW, SECOND, N, Q, DDOF = range(6)
"""Columns of the table of a group's aggregates.

`ROW` and `SECOND` are rows of the results (-1: none), `Q` holds the bits of a double.
"""

ROWS, SKIP_NULL, BEFORE, LENGTH, OFFSET, STEP, MAX_AGE, LOW, START, STOP = range(10)
"""Columns of a table of groups: what their windows are, and which aggregates are theirs.

`BEFORE` is 1 for `bound="before"`; `LENGTH` 0 is a window without length; windows end at multiples
of `STEP`, if it is not 0; `LOW` is a row of the
starts of periods that are passed in, or -1; the aggregates are `[START, STOP)`.
"""

NOTHING, VALUE, NULL, OVERFLOW, EXPIRED = range(5)
"""States of a result; `NULL` is a null that was stored, in the newest row."""


class Events(NamedTuple):
    """The events of one segment; an array that is absent (see `Timeline`, `Column`) is empty."""

    time: Words
    known: Words
    until: Words
    words: Words
    high: Words
    valid: Bytes
    where: Bytes


class Out(NamedTuple):
    """Where results go: a row for each aggregate, a column for each moment.

    `second` has the high words of sums of decimals, and says where in `items` each list begins.
    """

    words: NDArray[np.int64]
    second: NDArray[np.int64]
    state: NDArray[np.uint8]
    items: Words


LISTS = {"first_n", "last_n", "top_n"}
RANKED = {"count_distinct", "quantile", "approx_quantile", "mode", "top_n"}
"""Functions that need the ranks of `ranks.rank_segment`; without a range also `min` and `max`."""


def takes_two_rows(function: str, kind: int) -> bool:
    """Whether results have a second row of words."""
    return function in LISTS or (function == "sum" and kind == DECIMAL)


def encode(
    aggregates: Sequence[Aggregate], rows: Sequence[int], second: Sequence[int]
) -> NDArray[np.int64]:
    """The table of a group; `rows` and `second` say in which rows each aggregate's results go."""
    table = [
        (FUNCTIONS.index(a.function), row, other, a.n, int(np.float64(a.q).view(np.int64)), a.ddof)
        for a, row, other in zip(aggregates, rows, second, strict=True)
    ]
    return np.array(sorted(table), np.int64).reshape(-1, DDOF + 1)


def encode_window(
    window: Window, bound: Bound, step: int, max_age: int, low: int, *, skip_null: bool
) -> tuple[int, ...]:
    """The columns of a table of groups before `START`."""
    length = window.length if window.kind == "sliding" else 0
    before = int(bound == "before")
    return window.rows, int(skip_null), before, length, window.offset, step, max_age, low


def memory_size(events: int, moments: int) -> int:
    """How many words the sweeps of a segment of this size need at most."""
    return 11 * moments + 32 * events + 8_192
