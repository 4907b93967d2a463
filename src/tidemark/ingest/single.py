"""A few events that came alone: what rows take of them, in plain Python.

`engines.micro` computes the same over arrays; what it leaves to a query is left to it here, too.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.identity import identity_words
from tidemark.engines.log import POSITION, SEEN, Newest
from tidemark.engines.micro import alike
from tidemark.kernel.hashing import hash_bytes
from tidemark.kernel.layout import InputColumn, Layout
from tidemark.model.expr import Call, Column, Expr, Literal
from tidemark.model.graph import FeatureView, Source
from tidemark.model.types import FLOAT64
from tidemark.online.single import TEXTS, Event, inserted, is_simple

Values = Mapping[str, Any]
"""An event's columns: moments in microseconds, dates in days, everything else as Python has it."""

Function = Callable[[Values], Any]

FEW = 8
"""Events that are cheaper one by one."""

_integer, _float = struct.Struct("<q").pack, struct.Struct("<d").pack
_counted = frozenset({"timestamp", "date"})
_plain = TEXTS | _counted | {"int64", "float64", "bool"}


@dataclass(frozen=True)
class Arrived:
    """Events of a source, as `EventLog.read` gives them; what is made of them is made once."""

    source: Source
    table: pa.Table

    @property
    def first(self) -> int:
        """The position of the first one."""
        return int(self.table.column(POSITION)[0].as_py())

    @property
    def newest(self) -> Newest:
        """The position of the last one, and when it was seen."""
        position, seen = (self.table.column(name)[-1].as_py() for name in (POSITION, SEEN))
        return Newest(int(position), int(seen))

    def after(self, count: int) -> Arrived:
        """All but the first ones."""
        return Arrived(self.source, self.table.slice(count)) if count else self

    @cached_property
    def identities(self) -> NDArray[np.int64] | None:
        """What identifies them (`identity_words`); None where the source has no `unique`."""
        unique = self.source.unique
        return identity_words([self.table.column(name) for name in unique]) if unique else None

    @cached_property
    def values(self) -> list[dict[str, Any]]:
        """Their columns, but for those of other types than `Values` has."""
        columns = {SEEN: self.table.column(SEEN).to_pylist()}
        for each in self.source.columns:
            if each.type.name in _plain:
                column = self.table.column(each.name)
                columns[each.name] = (
                    [value.value for value in column]
                    if each.type.name in _counted
                    else column.to_pylist()
                )
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


@dataclass(frozen=True)
class Single:
    """How the events of a source are taken apart for the rows of one view."""

    view: FeatureView
    layout: Layout
    time: str
    columns: tuple[Function, ...]
    filters: tuple[Function, ...]

    @classmethod
    def of(cls, view: FeatureView, source: Source, layout: Layout) -> Single | None:
        """None where rows need more of an event than is plain to see."""
        keyed = all(source.types[name].name in _plain - _counted for name in view.keys)
        if not keyed or source.time is None or not is_simple(layout):
            return None
        columns = [_column(each, source) for each in layout.columns]
        filters = [_evaluated(each, source) for each in layout.filters]
        found = tuple(each for each in columns if each is not None)
        kept = tuple(each for each in filters if each is not None)
        if len(found) < len(columns) or len(kept) < len(filters):
            return None
        return cls(view, layout, source.time, found, kept)

    def rows(
        self,
        arrived: Arrived,
        place: Callable[[Sequence[object]], bytes],
        fetch: Callable[[Sequence[bytes]], list[bytes | None]],
    ) -> list[tuple[bytes, bytes]] | None:
        """The rows with some events in them, by what `place` makes of their entities' keys.

        None where a row does not take an event in (`inserted`).
        """
        found = arrived.identities
        identities = [None] * arrived.table.num_rows if found is None else found.tolist()
        events: list[tuple[bytes, Event]] = []
        for values, identity in zip(arrived.values, identities, strict=True):
            key = self.key(values)
            if key is not None:
                events.append((place(key), self.event(values, identity)))
        places = list(dict.fromkeys(where for where, _ in events))
        old = dict(zip(places, fetch(places), strict=True))
        new: dict[bytes, bytes] = {}
        for where, event in events:
            row = inserted(self.layout, new.get(where, old[where]), event)
            if row is None:
                return None
            new[where] = row
        return list(new.items())

    def key(self, values: Values) -> list[Any] | None:
        """The key of the entity that an event belongs to; None where it belongs to none."""
        key = [values[name] for name in self.view.keys]
        return None if None in key else key

    def event(self, values: Values, identity: int | None) -> Event:
        """What a row takes of an event."""
        time = values[self.time]
        kept = [condition(values) is True for condition in self.filters]
        taken = [column(values) for column in self.columns]
        return Event(time, max(time, values[SEEN]), taken, kept, identity)


def _column(column: InputColumn, source: Source) -> Function | None:
    """The function to the value of a column, as `Event` has it."""
    value = _evaluated(column.value, source)
    if value is None:
        return None
    if column.form == "code":
        return value
    if column.form == "hash":
        return _hashed(value, column.type.name) if column.type.name in TEXTS else None
    pack = _float if column.type.name == "float64" else _integer

    def word(values: Values) -> bytes | None:
        found = value(values)
        return None if found is None else pack(found)

    return word


def _hashed(value: Function, type_: str) -> Function:
    def hashed(values: Values) -> bytes | None:
        found = value(values)
        if found is None:
            return None
        return _integer(hash_bytes(found.encode() if type_ == "string" else found))

    return hashed


def _evaluated(expr: Expr, source: Source) -> Function | None:
    """The function to the value of what is a column, or a condition on columns."""
    match expr:
        case Column(name) if source.types[name].name in _plain:
            return operator.itemgetter(name)
        case Call(function, (Column(name), *others)) if function in _COMPARE:
            literals = [each for each in others if isinstance(each, Literal)]
            same = all(alike(source, name, each) for each in literals)
            if same and literals and len(literals) == len(others):
                if source.types[name] != FLOAT64:
                    return _compared(function, name, [each.value for each in literals])
                numbers = [float(each.value or 0.0) for each in literals]
                return _compared(function, name, numbers)
        case Call(function, args) if function in _COMBINE:
            given = [_evaluated(arg, source) for arg in args]
            found = [each for each in given if each is not None]
            if len(found) == len(given):
                combine = _COMBINE[function]
                return lambda values: combine([each(values) for each in found])
        case _:
            pass
    return None


def _compared(function: str, name: str, literals: Sequence[Any]) -> Function:
    """A comparison as SQL has it: NaN is the greatest number and equals itself."""
    compare = _COMPARE[function]
    others: Any = [_ordered(each) for each in literals]
    other = others if function == "is_in" else others[0]

    def compared(values: Values) -> bool | None:
        value = values[name]
        return None if value is None else compare(_ordered(value), other)

    return compared


def _ordered(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return (1, 0.0) if value != value else (0, value)  # noqa: PLR0124


def _and(values: Sequence[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True


def _or(values: Sequence[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "is_in": lambda value, others: value in others,
}
_COMBINE: dict[str, Callable[[Sequence[Any]], Any]] = {
    "and": _and,
    "or": _or,
    "not": lambda values: None if values[0] is None else not values[0],
    "is_null": lambda values: values[0] is None,
    "is_not_null": lambda values: values[0] is not None,
}
