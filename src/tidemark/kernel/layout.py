"""Which columns the features of a view need, and in which form.

The layout is what an engine extracts from history, what a stored row holds and what the kernel
reads: one input column for each distinct value in each form that some aggregate needs, one byte
column for each distinct filter.  It depends on the view's meaning only, so that everything that
writes or reads a row of the view derives the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Expr, type_of
from tidemark.model.graph import FeatureView
from tidemark.model.types import Type

Form = Literal["word", "decimal", "code", "hash"]

_SUMS = {"sum", "mean", "variance", "stddev", "quantile", "approx_quantile"}
_WORDS = {"int64", "float64", "bool", "timestamp", "date"}


@dataclass(frozen=True)
class InputColumn:
    """An expression whose values the kernel reads, as 64-bit words.

    `word`     the bits of a double; an integer; a bool; microseconds; days
    `decimal`  two words: the low one, then the high one
    `code`     the rank in a dictionary of the values, sorted
    `hash`     `tidemark.kernel.hashing.hash_bytes` of the value

    A null has any word and is False in the validity that accompanies every column.
    """

    value: Expr
    type: Type
    form: Form


@dataclass(frozen=True)
class LayoutFeature:
    """A feature, and the index of its column and of its filter in the layout (-1: none)."""

    name: str
    aggregate: Aggregate
    type: Type
    column: int
    filter: int


@dataclass(frozen=True)
class Layout:
    """The columns and filters of a view, each once, in the order in which features need them.

    `step` is that of the view, in microseconds; 0 where it has none.
    """

    columns: tuple[InputColumn, ...]
    filters: tuple[Expr, ...]
    features: tuple[LayoutFeature, ...]
    step: int = 0

    @classmethod
    def of(cls, view: FeatureView, types: Mapping[str, Type]) -> Layout:
        """The layout of a view over a source whose columns have the given types."""
        return _layout(view, tuple(types.items()))

    def feature(self, name: str) -> LayoutFeature:
        """The feature of that name."""
        return next(feature for feature in self.features if feature.name == name)


def form_of(function: str, type_: Type) -> Form:
    """The form in which an aggregate reads values of a type."""
    if type_.name in _WORDS:
        return "word"
    if type_.name == "decimal" and function in _SUMS:
        return "decimal"
    hashed = function in {"approx_count_distinct", "count"} and type_.scalar
    return "hash" if hashed else "code"


@lru_cache(maxsize=1024)
def _layout(view: FeatureView, types: tuple[tuple[str, Type], ...]) -> Layout:
    known = dict(types)
    columns: dict[InputColumn, int] = {}
    filters: dict[Expr, int] = {}
    places: dict[str, int] = {}
    # A count needs no more than which values are null, so it takes a column that is there anyway.
    for feature in sorted(view.features, key=lambda feature: feature.aggregate.function == "count"):
        aggregate = feature.aggregate
        if aggregate.where is not None:
            filters.setdefault(aggregate.where, len(filters))
        if aggregate.value is None:
            continue
        type_ = type_of(aggregate.value, known)
        if aggregate.function == "count":
            there = [i for column, i in columns.items() if column.value == aggregate.value]
            if there:
                places[feature.name] = there[0]
                continue
        column = InputColumn(aggregate.value, type_, form_of(aggregate.function, type_))
        places[feature.name] = columns.setdefault(column, len(columns))
    features = tuple(
        LayoutFeature(
            feature.name,
            feature.aggregate,
            feature.type,
            places.get(feature.name, -1),
            -1 if feature.aggregate.where is None else filters[feature.aggregate.where],
        )
        for feature in view.features
    )
    return Layout(tuple(columns), tuple(filters), features, view.step)
