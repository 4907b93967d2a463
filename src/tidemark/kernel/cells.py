"""Cells: what is kept of the events of a view, for each column and filter that features need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.encoding import (
    APPROX_COUNT_DISTINCT,
    APPROX_QUANTILE,
    CODE,
    COUNT,
    FUNCTIONS,
    HASH,
    MAX,
    MIN,
    NONE,
    STDDEV,
    VARIANCE,
)
from tidemark.kernel.program import kind_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.layout import Layout, LayoutFeature

EXTREMES, SUMS, SQUARES, DISTINCT, QUANTILES = 1, 2, 4, 8, 16
"""What a cell needs beside its count."""

SKETCHED = DISTINCT | QUANTILES
"""Needs that are not in summaries, but in sketches, see `tidemark.kernel.sketches`."""

CELL_COLUMN, CELL_FILTER, CELL_KIND, CELL_NEEDS = range(4)
"""Columns of the table of cells; column and filter are -1 where there is none."""


@dataclass(frozen=True)
class Cells:
    """The cells of a view, in the order in which its features need them.

    The first one has all rows: no column and no filter.
    """

    table: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.table)

    @property
    def sketched(self) -> list[int]:
        """Those that need sketches."""
        found: list[int] = np.flatnonzero(self.table[:, CELL_NEEDS] & SKETCHED).tolist()
        return found

    @classmethod
    def of(cls, layout: Layout) -> Cells:
        """The cells that the features of a layout need."""
        return _cells(layout)

    def find(self, column: int, filter_: int) -> int:
        """The place of the cell of a column and a filter."""
        pair = self.table[:, [CELL_COLUMN, CELL_FILTER]] == (column, filter_)
        return int(np.flatnonzero(pair.all(axis=1))[0])


@lru_cache(maxsize=1024)
def _cells(layout: Layout) -> Cells:
    needs: dict[tuple[int, int], int] = {(-1, -1): 0}
    for feature in layout.features:
        cell = cell_of(feature)
        needs[cell] = needs.get(cell, 0) | _needs_of(layout, feature)
    rows = [
        (column, filter_, kind_of(layout.columns[column] if column >= 0 else None), need)
        for (column, filter_), need in needs.items()
    ]
    return Cells(np.array(rows, np.int64))


def cell_of(feature: LayoutFeature) -> tuple[int, int]:
    """The column and the filter of the cell of a feature; -1 where nulls count like values."""
    aggregate = feature.aggregate
    nulls = aggregate.function == "latest" or aggregate.window.rows > 0
    return -1 if nulls else feature.column, feature.filter


def adds_up(function: int, kind: int) -> bool:
    """Whether the results of a function follow from summaries and sketches (without `rows=n`)."""
    if function in (MIN, MAX):
        return kind not in (CODE, HASH, NONE)
    return COUNT <= function <= APPROX_COUNT_DISTINCT


def _needs_of(layout: Layout, feature: LayoutFeature) -> int:
    function = FUNCTIONS.index(feature.aggregate.function)
    kind = kind_of(layout.columns[feature.column] if feature.column >= 0 else None)
    if feature.aggregate.window.rows > 0 or not adds_up(function, kind):
        return 0
    return needs_of(function)


def needs_of(function: int) -> int:
    """What a function that adds up reads beside a count."""
    if function in (MIN, MAX):
        return EXTREMES
    if function == COUNT:
        return 0
    if function in (APPROX_QUANTILE, APPROX_COUNT_DISTINCT):
        return QUANTILES if function == APPROX_QUANTILE else DISTINCT
    return SUMS | SQUARES if function in (VARIANCE, STDDEV) else SUMS
