"""A few events that came alone: what rows take of them, in plain Python.

`engines.micro` computes the same over arrays; what it leaves to a query is left to it here, too.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.few import COUNTED, PLAIN, Few, Row
from tidemark.engines.identity import identity_words
from tidemark.engines.log import CORRECTS, POSITION, SEEN, Appended, Newest, Taken
from tidemark.engines.log.batches import table_of_taken
from tidemark.engines.micro import alike
from tidemark.ingest.values import micros_of
from tidemark.kernel.hashing import hash_bytes
from tidemark.kernel.layout import InputColumn, Layout
from tidemark.model.expr import Call, Column, Expr, Literal
from tidemark.model.graph import FeatureView, Source
from tidemark.model.types import FLOAT64
from tidemark.online import tree
from tidemark.online.dictionaries import TEXTS
from tidemark.online.directories import Fetch
from tidemark.online.single import Event, gathered, inserted, is_simple
from tidemark.online.tree import Merged

Values = Row
"""An event's columns, as `engines.few` has them."""

Function = Callable[[Values], Any]

_NONE = np.zeros(0, np.int64)

_integer, _float = struct.Struct("<q").pack, struct.Struct("<d").pack


class Arrived:
    """Events of a source that are to be counted; what is made of them is made once.

    They are as `EventLog.read` gives them, or were just taken (`Taken`).
    """

    def __init__(self, source: Source, events: pa.Table | Taken) -> None:
        self.source = source
        self.taken = events if isinstance(events, Taken) else None
        self._events = events

    @classmethod
    def appended(cls, source: Source, done: Sequence[Appended]) -> Arrived | None:
        """What a writing has taken; None where that is nothing."""
        parts = [each.taken for each in done if each.taken is not None]
        if len(parts) < 2:
            return cls(source, parts[0]) if parts else None
        return cls(source, pa.concat_tables([table_of_taken(each) for each in parts]))

    def __len__(self) -> int:
        return len(self._events)

    @property
    def few(self) -> Few | None:
        """The rows, where they are at hand one by one."""
        rows = None if self.taken is None else self.taken.rows
        return rows if isinstance(rows, Few) else None

    @cached_property
    def table(self) -> pa.Table:
        """The events as `EventLog.read` gives them."""
        return table_of_taken(self._events) if isinstance(self._events, Taken) else self._events

    @property
    def first(self) -> int:
        """The position of the first one."""
        if self.taken is not None:
            return self.taken.first
        return int(self.table.column(POSITION)[0].as_py())

    @property
    def newest(self) -> Newest:
        """The position of the last one, and when it was seen."""
        if self.taken is not None:
            return Newest(self.taken.first + len(self.taken) - 1, int(self.taken.seen[-1]))
        position, seen = (self.table.column(name)[-1].as_py() for name in (POSITION, SEEN))
        return Newest(int(position), int(seen))

    def after(self, count: int) -> Arrived:
        """All but the first ones."""
        return Arrived(self.source, self.table.slice(count)) if count else self

    @cached_property
    def identities(self) -> NDArray[np.int64] | None:
        """What identifies them (`identity_words`); None where the source has no `unique`."""
        unique = self.source.unique
        if not unique:
            return None
        if self.taken is not None:
            return np.asarray(self.taken.identities, np.int64)
        return identity_words([self.table.column(name) for name in unique])

    @property
    def listed(self) -> Sequence[int | None]:
        """What identifies each of them; None where the source has no `unique`."""
        if self.few is not None and self.taken is not None:
            found = self.taken.identities
            return [None] * len(self) if found is None else cast("Sequence[int]", found)
        return [None] * len(self) if self.identities is None else self.identities.tolist()

    @property
    def corrects(self) -> NDArray[np.bool_]:
        """Which of them are new versions of an event of the log."""
        if self.taken is not None:
            return np.asarray(self.taken.corrects, np.bool_)
        corrects: NDArray[np.bool_] = self.table.column(CORRECTS).to_numpy()
        return corrects

    @property
    def times(self) -> Sequence[int] | NDArray[np.int64]:
        """When they happened, in microseconds."""
        if self.few is not None:
            return self.few.times
        return micros_of(self.table.column(str(self.source.time)))

    @property
    def seen(self) -> Sequence[int] | NDArray[np.int64]:
        """When they were seen, in microseconds."""
        return np.asarray(self.table.column(SEEN)) if self.taken is None else self.taken.seen

    @cached_property
    def values(self) -> list[Values]:
        """Their columns one by one, with `SEEN`, but for those that are not plain."""
        if self.few is not None:
            names = (*self.few.plain.names, SEEN)
            few = zip(*self.few.columns, self.seen, strict=True)
            return [dict(zip(names, row, strict=True)) for row in few]
        columns = {SEEN: self.table.column(SEEN).to_pylist()}
        for each in self.source.columns:
            if each.type.name in PLAIN:
                column = self.table.column(each.name)
                columns[each.name] = (
                    [value.value for value in column]
                    if each.type.name in COUNTED
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
