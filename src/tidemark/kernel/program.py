"""What a request wants of stored rows, encoded once.

A `Program` has groups of aggregates, and says where in the rows their columns are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import ready
from tidemark.kernel.encoding import (
    CODE,
    DDOF,
    DECIMAL,
    FLOAT,
    HASH,
    INT,
    LISTS,
    NONE,
    RANKED,
    STOP,
    encode,
    encode_window,
    takes_two_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.layout import InputColumn, Layout, LayoutFeature
    from tidemark.model.aggregates import Aggregate
    from tidemark.model.graph import FeatureView
    from tidemark.model.window import Unit

(VIEW, KIND, SCALE, WORD, HIGH, VALID, WHERE, RANKS_NEEDED) = range(STOP + 1, STOP + 9)
"""Columns of the table of groups after those that say what their windows are.

`WORD` and `HIGH` are word columns of the row, `VALID` and `WHERE` byte columns, -1 where there is
none.
"""

_READ = RANKS_NEEDED - VIEW


@dataclass(frozen=True)
class Program:
    """What a request wants of its views, encoded once and used by any number of threads.

    Results of output f are in row f, and in row `second[f]` what does not fit there.  `lists` holds
    the output and the largest number of items of each list; `periods` the units, zones and offsets
    of calendar windows.
    """

    views: tuple[FeatureView, ...]
    outputs: int
    second: tuple[int, ...]
    lists: tuple[tuple[int, int], ...]
    periods: tuple[tuple[Unit, str, int], ...]
    groups: NDArray[np.int64]
    aggregates: NDArray[np.int64]

    @classmethod
    def of(cls, features: Sequence[tuple[FeatureView, Layout, str]]) -> Program:
        """The program that computes these features of views, in this order."""
        ready()
        return _Builder(features).program()


class _Builder:
    """Encodes the wanted features: numbers views and results, and puts features into groups."""

    def __init__(self, features: Sequence[tuple[FeatureView, Layout, str]]) -> None:
        self.views = list(dict.fromkeys(view for view, _, _ in features))
        self.periods: dict[tuple[Unit, str, int], int] = {}
        self.second: list[int] = []
        self.lists: list[tuple[int, int]] = []
        self.groups: dict[tuple[int, ...], list[tuple[Aggregate, int]]] = {}
        seconds = 0
        for output, (view, layout, name) in enumerate(features):
            feature = layout.feature(name)
            kind = kind_of(layout.columns[feature.column] if feature.column >= 0 else None)
            key = self._group_of(view, layout, feature, kind)
            self.groups.setdefault(key, []).append((feature.aggregate, output))
            two = takes_two_rows(feature.aggregate.function, kind)
            self.second.append(seconds if two else -1)
            seconds += two
            if feature.aggregate.function in LISTS:
                self.lists.append((output, feature.aggregate.n))

    def program(self) -> Program:
        """Everything that was added, each group's aggregates one after another."""
        groups: list[tuple[int, ...]] = []
        tables = [np.empty((0, DDOF + 1), np.int64)]
        start = 0
        for key, members in sorted(self.groups.items(), key=lambda item: item[0]):
            outputs = [output for _, output in members]
            aggregates = [aggregate for aggregate, _ in members]
            tables.append(encode(aggregates, outputs, [self.second[i] for i in outputs]))
            ranked = int(any(a.function in RANKED for a in aggregates))
            stop = start + len(members)
            groups.append((*key[_READ:], start, stop, *key[:_READ], ranked))
            start = stop
        return Program(
            tuple(self.views),
            len(self.second),
            tuple(self.second),
            tuple(self.lists),
            tuple(self.periods),
            np.array(groups, np.int64).reshape(-1, RANKS_NEEDED + 1),
            np.concatenate(tables),
        )

    def _group_of(
        self, view: FeatureView, layout: Layout, feature: LayoutFeature, kind: int
    ) -> tuple[int, ...]:
        """What is read from the rows, and the window."""
        aggregate, window = feature.aggregate, feature.aggregate.window
        low = -1
        if window.unit is not None:
            period = window.unit, window.zone, window.offset
            low = self.periods.setdefault(period, len(self.periods))
        return (
            self.views.index(view),
            kind,
            layout.columns[feature.column].type.scale if kind == DECIMAL else 0,
            *_word_columns(layout, feature.column),
            feature.column,
            len(layout.columns) + feature.filter if feature.filter >= 0 else -1,
            *encode_window(
                window,
                view.bound,
                view.step,
                view.max_age if aggregate.rule.stored else 0,
                low,
                skip_null=aggregate.function != "latest",
            ),
        )


def kind_of(column: InputColumn | None) -> int:
    """The kind of the words of a column."""
    if column is None:
        return NONE
    if column.form == "word":
        return FLOAT if column.type.name == "float64" else INT
    return {"decimal": DECIMAL, "code": CODE, "hash": HASH}[column.form]


def _word_columns(layout: Layout, index: int) -> tuple[int, int]:
    """The word column of a row that holds an input column, and that of its high words."""
    if index < 0:
        return -1, -1
    sizes = [2 if column.form == "decimal" else 1 for column in layout.columns]
    first = sum(sizes[:index])
    return first, (first + 1 if sizes[index] == 2 else -1)
