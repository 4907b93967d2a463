"""What compiled code is told: aggregates as rows of integers, events and results as arrays.

A *group* is a set of aggregates that count the same events: one column, one filter, one window.
Its aggregates are rows of an int64 table, in the order of their function's number, so that each
family of functions is a slice of it.  A result is a row of 64-bit words and one of states; a sum of
decimals and a list take a second row of words (the high words; where the items go).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.model.aggregates import Aggregate

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

I64_MIN, I64_MAX = -(2**63), 2**63 - 1

NONE, INT, FLOAT, DECIMAL, CODE, HASH = range(6)
KINDS = {"none": NONE, "int": INT, "float": FLOAT, "decimal": DECIMAL, "code": CODE, "hash": HASH}

FUNCTIONS = (
    *("count",),
    *("sum", "mean", "variance", "stddev", "any", "all"),
    *("first", "last", "latest", "first_n", "last_n"),
    *("min", "max"),
    *("count_distinct", "quantile", "approx_quantile", "mode", "top_n"),
    *("approx_count_distinct",),
)
(COUNT, SUM, MEAN, VARIANCE, STDDEV, ANY, ALL, FIRST, LAST, LATEST, FIRST_N, LAST_N, MIN, MAX,
 COUNT_DISTINCT, QUANTILE, APPROX_QUANTILE, MODE, TOP_N, APPROX_COUNT_DISTINCT) = range(20)  # fmt: skip

FUNCTION, ROW, N, Q, DDOF = range(5)
"""Columns of the table of a group's aggregates; `Q` holds the bits of a double."""

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
    """Where results go: a row for each aggregate, a column for each moment; items of lists."""

    words: NDArray[np.int64]
    state: NDArray[np.uint8]
    items: Words


def takes_two_rows(function: int, kind: int) -> bool:
    """Whether results have a second row of words."""
    return function in {FIRST_N, LAST_N, TOP_N} or (function == SUM and kind == DECIMAL)


def skips_null(aggregate: Aggregate) -> bool:
    """Whether a null is as good as no event; only `latest` (and a count of rows) can tell."""
    return aggregate.function != "latest"


def encode(aggregates: Sequence[Aggregate], rows: Sequence[int]) -> Words:
    """The table of a group; `rows` says in which row of the results each aggregate goes."""
    table = [
        (FUNCTIONS.index(a.function), row, a.n, int(np.float64(a.q).view(np.int64)), a.ddof)
        for a, row in zip(aggregates, rows, strict=True)
    ]
    return np.array(sorted(table), np.int64).reshape(-1, 5)
