"""Random events of some entities, as engines give them: what rows and trees are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from tidemark.kernel import Timeline
from tidemark.kernel.layout import InputColumn, Layout, LayoutFeature
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Column
from tidemark.model.types import FLOAT64, INT64, STRING, decimal, list_of
from tidemark.online.rows.codec import NEVER

LAYOUT = Layout(
    (
        InputColumn(Column("x"), FLOAT64, "word"),
        InputColumn(Column("text"), STRING, "code"),
        InputColumn(Column("price"), decimal(38, 2), "decimal"),
        InputColumn(Column("tags"), list_of(STRING), "code"),
        InputColumn(Column("n"), INT64, "word"),
        InputColumn(Column("exact"), decimal(38, 2), "code"),
    ),
    (Column("ok"), Column("large")),
    tuple(
        LayoutFeature(f"{function}_{column}_{filter_}", Aggregate(function), type_, column, filter_)
        for filter_ in (-1, 0)
        for function, type_, column in (
            ("count", INT64, -1),
            ("sum", FLOAT64, 0),
            ("variance", FLOAT64, 0),
            ("max", FLOAT64, 0),
            ("count", INT64, 1),
            ("sum", decimal(38, 2), 2),
            ("mean", FLOAT64, 4),
            ("min", INT64, 4),
            ("last", STRING, 1),
            ("count_distinct", INT64, 5),
            ("approx_count_distinct", FLOAT64, 0),
            ("approx_quantile", FLOAT64, 0),
            ("approx_quantile", FLOAT64, 2),
            ("approx_count_distinct", INT64, 4),
        )
    ),
)
_WITHOUT_ORDERS = (0, 1, 2, 4)
TEXTUAL = Layout(
    tuple(LAYOUT.columns[place] for place in _WITHOUT_ORDERS),
    LAYOUT.filters,
    tuple(
        replace(each, column=_WITHOUT_ORDERS.index(each.column) if each.column >= 0 else -1)
        for each in LAYOUT.features
        if each.column in (-1, *_WITHOUT_ORDERS)
    ),
)
"""The same without columns of codes whose order is not that of their bytes."""

REALS = [0.0, -0.0, 1.5, -2.25, 1e300, -1e300, 5e-324, 1e16, 0.1, math.nan, math.inf, -math.inf]
TEXTS = ["", "a", "A", "b", "é", "日本", "\uffff", "😀", "z" * 40]
TAGS = [[], ["a"], ["a", ""], [None], ["b", None], ["é"]]
EXACT = [Decimal("-1.50"), Decimal("0.00"), Decimal("9.99"), Decimal("10.00")]
ARROW = {1: pa.string(), 3: pa.list_(pa.string()), 5: pa.decimal128(38, 2)}


@dataclass(frozen=True)
class Event:
    """One event; `values` follow the columns of the layout, codes as their values."""

    entity: int
    time: int
    known: int
    until: int
    values: tuple[Any, ...]
    filters: tuple[bool, bool]
    identity: int


@dataclass
class Values:
    words: Any
    high: Any
    valid: Any
    dictionary: Any = None


@dataclass
class Events:
    timeline: Timeline
    columns: list[Values]
    filters: list[Any]
    identities: Any = None


def event(random: Random, entity: int, identity: int, times: int) -> Event:
    """An event at one of so many times, often known late, sometimes replaced later."""
    time = random.randrange(times) * 10
    known = time + random.choice((0, 0, 0, 1, 10, 1000))
    until = NEVER if random.random() < 0.9 else known + random.choice((1, 50, 2000))
    values = (
        random.choice(REALS),
        random.choice(TEXTS),
        random.choice((10**30, -1, 0)),
        random.choice(TAGS),
        random.randrange(2**60),
        random.choice(EXACT),
    )
    values = tuple(None if random.random() < 0.15 else value for value in values)
    return Event(entity, time, known, until, values, (random.random() < 0.5, time > 100), identity)


def total_order(event: Event) -> tuple[int, int, int]:
    """What events of an entity are ordered by."""
    return event.time, event.known, event.identity


def as_events(
    events: Sequence[Event], entities: int, *, identified: bool = True, layout: Layout = LAYOUT
) -> Events:
    """The events in their order, a segment for each of so many entities."""
    places = range(len(LAYOUT.columns)) if layout is LAYOUT else _WITHOUT_ORDERS
    ordered = sorted(events, key=lambda each: (each.entity, *total_order(each)))
    starts = np.searchsorted([each.entity for each in ordered], np.arange(entities + 1))
    numbers = {
        name: np.array([getattr(each, name) for each in ordered], np.int64)
        for name in ("time", "known", "until", "identity")
    }
    return Events(
        Timeline(starts.astype(np.int64), numbers["time"], numbers["known"], numbers["until"]),
        [_column(i, [each.values[i] for each in ordered]) for i in places],
        [np.array([each.filters[i] for each in ordered], np.bool_) for i in range(2)],
        numbers["identity"] if identified else None,
    )


def _column(place: int, values: list[Any]) -> Values:
    valid = np.array([value is not None for value in values], np.bool_)
    if place in ARROW:
        distinct = []
        for value in values:
            if value is not None and value not in distinct:
                distinct.append(value)
        distinct.sort(key=_sorting)
        words = [0 if value is None else distinct.index(value) for value in values]
        dictionary = pa.array(distinct, ARROW[place])
        return Values(np.array(words, np.int64), None, valid, dictionary)
    words = [0 if value is None else value for value in values]
    if LAYOUT.columns[place].form == "decimal":
        low = np.array([word & (2**64 - 1) for word in words], np.uint64).view(np.int64)
        return Values(low, np.array([word >> 64 for word in words], np.int64), valid)
    if LAYOUT.columns[place].type == FLOAT64:
        return Values(np.array(words, np.float64).view(np.int64), None, valid)
    return Values(np.array(words, np.int64), None, valid)


def _sorting(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return [(0, b"") if item is None else (1, item.encode()) for item in value]
    return value
