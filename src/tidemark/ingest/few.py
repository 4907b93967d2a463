"""A few events into the rows of a view, in plain Python (`engines.few` says when and why).

`engines.micro` computes the same over arrays; what it leaves to a query is left to it here, too.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tidemark.engines.few import COUNTED, PLAIN, Row
from tidemark.engines.log import SEEN
from tidemark.engines.micro import alike
from tidemark.ingest.arrived import Arrived
from tidemark.kernel.hashing import hash_bytes
from tidemark.kernel.layout import InputColumn, Layout
from tidemark.model.expr import Call, Column, Expr, Literal
from tidemark.model.graph import FeatureView, Source
from tidemark.model.types import FLOAT64
from tidemark.online.rows.dictionaries import TEXTS
from tidemark.online.trees import tree
from tidemark.online.trees.directories import Fetch
from tidemark.online.trees.few import Event, gathered, inserted, is_simple
from tidemark.online.trees.tree import Merged

Function = Callable[[Row], Any]

_NONE = np.zeros(0, np.int64)

_integer, _float = struct.Struct("<q").pack, struct.Struct("<d").pack


@dataclass(frozen=True)
class Inserter:
    """Puts events of a source into the rows of one view, one by one."""

    view: FeatureView
    layout: Layout
    time: str
    columns: tuple[Function, ...]
    filters: tuple[Function, ...]

    @classmethod
    def of(cls, view: FeatureView, source: Source, layout: Layout) -> Inserter | None:
        """None where rows need more of an event than is plain to see."""
        keyed = all(source.types[name].name in PLAIN - COUNTED for name in view.keys)
        if not keyed or source.time is None or not is_simple(layout):
            return None
        columns = [_column(each, source) for each in layout.columns]
        filters = [_evaluated(each, source) for each in layout.filters]
        found = tuple(each for each in columns if each is not None)
        kept = tuple(each for each in filters if each is not None)
        if len(found) < len(columns) or len(kept) < len(filters):
            return None
        return cls(view, layout, source.time, found, kept)

    def events(
        self, arrived: Arrived, place: Callable[[Sequence[object]], bytes]
    ) -> list[tuple[bytes, Event]]:
        """What rows take of events, by what `place` makes of their entities' keys."""
        events: list[tuple[bytes, Event]] = []
        for values, identity in zip(arrived.values, arrived.listed, strict=True):
            key = self.key(values)
            if key is not None:
                events.append((place(key), self.event(values, identity)))
        return events

    def merged(
        self,
        events: Sequence[tuple[bytes, Event]],
        old: Mapping[bytes, bytes | None],
        fetch: Fetch,
    ) -> Merged | None:
        """What is written and deleted for the events; None where bytes do not tell.

        `old` are the rows, some of them those of trees; `fetch` reads what is below these.
        """
        new: dict[bytes, bytes] = {}
        rest: dict[bytes, list[Event]] = {}
        for where, event in events:
            row = None
            if where not in rest:
                row = inserted(self.layout, new.get(where, old[where]), event)
            if row is None:
                rest.setdefault(where, []).append(event)
            else:
                new[where] = row
        if not rest:
            return Merged(list(new.items()), [], _NONE)
        some = gathered(self.layout, list(rest.values()))
        if some is None:
            return None
        there = [new.pop(where, old[where]) for where in rest]
        merged = tree.merge(self.layout, list(rest), there, some, fetch, told_apart=True)
        if len(merged.undecided):
            return None
        return merged._replace(puts=[*new.items(), *merged.puts])

    def key(self, values: Row) -> list[Any] | None:
        """The key of the entity that an event belongs to; None where it belongs to none."""
        key = [values[name] for name in self.view.keys]
        return None if None in key else key

    def event(self, values: Row, identity: int | None) -> Event:
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

    def word(values: Row) -> bytes | None:
        found = value(values)
        return None if found is None else pack(found)

    return word


def _hashed(value: Function, type_: str) -> Function:
    def hashed(values: Row) -> bytes | None:
        found = value(values)
        if found is None:
            return None
        return _integer(hash_bytes(found.encode() if type_ == "string" else found))

    return hashed


def _evaluated(expr: Expr, source: Source) -> Function | None:
    """The function to the value of what is a column, or a condition on columns."""
    match expr:
        case Column(name) if source.types[name].name in PLAIN:
            return operator.itemgetter(name)
        case Call(function, (Column(name), *others)) if function in _COMPARE:
            literals = [each for each in others if isinstance(each, Literal)]
            same = all(alike(source, name, each) for each in literals)
            if same and literals and len(literals) == len(others):
                if source.types[name] != FLOAT64:
                    return _compared(function, name, [each.value for each in literals])
                numbers = [float(cast("float", each.value or 0.0)) for each in literals]
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

    def compared(values: Row) -> bool | None:
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
