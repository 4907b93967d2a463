"""Features of a view at many moments: history in, one value for each label row out.

A first pass reads keys and times and puts the events in order; further passes read one batch of
value columns each; features that pick stored values know by then which few rows they want.  What
does not fit into memory is done entity group by entity group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.compile import sql
from tidemark.engines import ordering
from tidemark.engines.arrow import arrow_type, column_of, scalar_of
from tidemark.engines.events import EVENT_BYTES, Events, Span, key_groups, read_events
from tidemark.engines.histories import Relation
from tidemark.engines.inputs import Form, Loaded, Need, in_batches, load
from tidemark.engines.keys import Keys
from tidemark.engines.versions import Versions
from tidemark.errors import EngineError
from tidemark.kernel import (
    Column,
    Lists,
    Moments,
    Numbers,
    Positions,
    Result,
    SumOverflow,
    evaluate as kernel_evaluate,
)
from tidemark.kernel.layout import form_of
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Expr, type_of
from tidemark.model.graph import Feature, FeatureView
from tidemark.model.types import Type
from tidemark.model.window import format_moment

_PICKED = {"first", "last", "latest", "first_n", "last_n"}


@dataclass(frozen=True)
class Asked:
    """Who and when: `keys` one column per key of the entity, `t` microseconds, row by row."""

    keys: tuple[pa.ChunkedArray, ...]
    t: NDArray[np.int64]

    def rows(self, chosen: NDArray[np.int64]) -> Asked:
        """Some of the rows."""
        indices = pa.array(chosen)
        return Asked(tuple(column.take(indices) for column in self.keys), self.t[chosen])


@dataclass(frozen=True)
class Answers:
    """The features by name, in the order of the rows asked for, and what was met on the way."""

    columns: dict[str, pa.ChunkedArray]
    events: int
    unattributed: int
    coincident: int


def evaluate(
    relation: Relation,
    versions: Versions | None,
    view: FeatureView,
    features: Sequence[Feature],
    asked: Asked,
    *,
    hindsight: bool = False,
) -> Answers:
    """Compute features of one view for rows of keys and moments.

    `versions` are those of the relation, resolved with the same `hindsight`.  Raises `EngineError`.
    """
    if not len(asked.t):
        none = {f.name: pa.chunked_array([], arrow_type(f.type)) for f in features}
        return Answers(none, 0, 0, 0)
    span = _span(view, features, asked.t, hindsight=hindsight)
    parts: list[Answers] = []
    places: list[NDArray[np.int64]] = []
    for where, rows in _groups(relation, view, asked):
        part = _Group(relation, versions, view, features, asked.rows(rows), span, where)
        parts.append(part.answers())
        places.append(rows)
    back = pa.array(np.argsort(np.concatenate(places)))
    columns: dict[str, pa.ChunkedArray] = {}
    for feature in features:
        chunks = [chunk for part in parts for chunk in part.columns[feature.name].chunks]
        whole = pa.chunked_array(chunks, arrow_type(feature.type))
        columns[feature.name] = whole if len(parts) == 1 else whole.take(back)
    return Answers(
        columns,
        sum(part.events for part in parts),
        sum(part.unattributed for part in parts),
        sum(part.coincident for part in parts),
    )


def _span(
    view: FeatureView, features: Sequence[Feature], t: NDArray[np.int64], *, hindsight: bool
) -> Span:
    """The times of events that some feature can see from some moment."""
    latest = int(t.max())
    span = Span(high=latest, known_by=latest, seen=not hindsight)
    reaches: list[int | None] = []
    for feature in features:
        reach = feature.aggregate.window.reach
        if view.max_age and feature.aggregate.rule.stored:
            reach = min(reach or view.max_age, view.max_age)
        reaches.append(reach)
    known = [reach for reach in reaches if reach is not None]
    if len(known) < len(reaches):
        return span
    return replace(span, low=max(span.low, int(t.min()) - max(known) - view.step))


def _groups(
    relation: Relation, view: FeatureView, asked: Asked
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Groups of entities whose events fit into memory: a condition on keys, and the label rows."""
    engine = relation.engine
    available = max(engine.memory * 3 // 5 - 64 * len(asked.t), engine.memory // 8)
    count = -(-relation.count() * EVENT_BYTES // available)
    names = [f"key_{i}" for i in range(len(asked.keys))]
    labels = pa.table(dict(zip(names, asked.keys, strict=True)))
    hashed = f"SELECT (hash({', '.join(names)}) % {max(count, 1)})::BIGINT AS part FROM labels"
    parts = np.zeros(len(asked.t), np.int64)
    if count > 1:
        parts = engine.table(hashed, {"labels": labels}).column(0).to_numpy()
    for part, where in enumerate(key_groups(view, count)):
        yield where, np.flatnonzero(parts == part)


@dataclass(frozen=True)
class _Input:
    """What one call of the kernel reads: a value in some form, and a condition."""

    value: Need | None
    where: Need | None

    @property
    def needs(self) -> list[Need]:
        return [need for need in (self.value, self.where) if need is not None]


class _Group:
    """The computation for some entities."""

    def __init__(
        self,
        relation: Relation,
        versions: Versions | None,
        view: FeatureView,
        features: Sequence[Feature],
        asked: Asked,
        span: Span,
        where: str,
    ) -> None:
        self.view, self.features, self.asked = view, features, asked
        self.types = relation.source.types
        self.keys = Keys(asked.keys)
        total = any(feature.aggregate.needs_order for feature in features)
        self.events: Events = read_events(
            relation, versions, view, self.keys, span, where=where, total=total
        )
        starts, order = ordering.by_segment(self.keys.codes, asked.t, len(self.keys))
        self.moments = Moments(starts, asked.t[order], order)
        self.engine = relation.engine
        self.columns: dict[str, pa.ChunkedArray] = {}
        self.picked: list[tuple[Feature, Positions | Lists]] = []

    def answers(self) -> Answers:
        """All features, in the order of the rows asked for."""
        inputs = self._inputs()
        held = len(self.events.rows) * EVENT_BYTES
        memory = max(self.engine.memory * 3 // 5 - held, self.engine.memory // 16)
        needs = list(dict.fromkeys(need for each in inputs for need in each.needs))
        loaded: dict[Need, Loaded] = {}
        if len(list(in_batches(needs, len(self.events.rows), memory))) <= 1:
            loaded = dict(zip(needs, load(self.events, needs) if needs else [], strict=True))
            for each, features in inputs.items():
                self._compute(each, features, loaded)
        else:
            for each, features in inputs.items():
                mine = load(self.events, each.needs) if each.needs else []
                self._compute(each, features, dict(zip(each.needs, mine, strict=True)))
        loaded.clear()
        self._pick()
        timeline = self.events.timeline
        coincident = ordering.count_coincident(
            timeline.starts, timeline.time, self.moments.starts, self.moments.t
        )
        return Answers(self.columns, self.events.scanned, self.events.unattributed, coincident)

    def _inputs(self) -> dict[_Input, list[Feature]]:
        """Which features read the same input."""
        forms: dict[tuple[Expr | None, Expr | None], dict[Form, None]] = {}
        wanted: list[tuple[Feature, Form | None]] = []
        for feature in self.features:
            form = self._form(feature.aggregate)
            wanted.append((feature, form))
            if form is not None:
                both = (feature.aggregate.value, feature.aggregate.where)
                forms.setdefault(both, {})[form] = None
        inputs: dict[_Input, list[Feature]] = {}
        for feature, form in wanted:
            value, where = feature.aggregate.value, feature.aggregate.where
            need = None
            if form is not None and value is not None:
                # Where the words are read anyway, they also say which values are null.
                others: list[Form] = [each for each in forms[value, where] if each != "flag"]
                type_ = type_of(value, self.types)
                need = Need(value, type_, others[0] if form == "flag" and others else form)
            condition = None if where is None else Need(where, None, "flag")
            inputs.setdefault(_Input(need, condition), []).append(feature)
        return inputs

    def _form(self, aggregate: Aggregate) -> Form | None:
        """The form in which a feature needs its value; None: rows are enough."""
        if aggregate.value is None or aggregate.function == "latest":
            return None
        if aggregate.function in _PICKED or aggregate.function == "count":
            return "flag"
        return form_of(aggregate.function, type_of(aggregate.value, self.types))

    def _compute(self, given: _Input, features: list[Feature], loaded: dict[Need, Loaded]) -> None:
        value = loaded[given.value] if given.value else Loaded()
        where = loaded[given.where].valid if given.where else None
        column = _column(given.value, value, where)
        # What picks rows alike is computed once, whichever columns are then taken from them.
        asked = {_without_value(feature.aggregate): feature for feature in features}
        try:
            results = kernel_evaluate(
                self.events.timeline,
                self.moments,
                column,
                list(asked),
                bound=self.view.bound,
                max_age=self.view.max_age,
                step=self.view.step,
                threads=self.engine.threads,
            )
        except SumOverflow as error:
            raise self._overflow(error, list(asked.values())[error.aggregate]) from error
        by_aggregate = dict(zip(asked, results, strict=True))
        for feature in features:
            result = by_aggregate[_without_value(feature.aggregate)]
            if feature.aggregate.function in _PICKED:
                assert not isinstance(result, Numbers)  # noqa: S101 - they pick events
                self.picked.append((feature, result))
            else:
                self.columns[feature.name] = self._values(feature, result, value)

    def _values(self, feature: Feature, result: Result, value: Loaded) -> pa.ChunkedArray:
        """Numbers, or lists of values, as a column in the order of the rows asked for."""
        if isinstance(result, Lists):
            items = _items(feature.type.item or feature.type, result.at, value)
            return _lists(result.starts, items, feature)
        assert isinstance(result, Numbers)  # noqa: S101 - events are picked elsewhere
        values, found = result.values, result.valid
        if value.dictionary is not None and feature.type.name not in {"int64", "float64"}:
            column = value.dictionary.take(pa.array(values.astype(np.int64), mask=~found))
        else:
            column = column_of(values, found, feature.type, result.high)
        return _with_default(column, found, feature)

    def _pick(self) -> None:
        """Fetch the values of the picked events, all in one pass that keeps only them."""
        if not self.picked:
            return
        chosen: dict[int, _Chosen] = {}
        columns: dict[str, str] = {}
        for feature, result in self.picked:
            if id(result) not in chosen:
                chosen[id(result)] = _Chosen.of(self.events, result.at)
            assert feature.aggregate.value is not None  # noqa: S101 - checked with the definition
            columns[feature.name] = sql(feature.aggregate.value, self.types)
        rows = [chosen[id(result)].rows for _, result in self.picked]
        taken = self.events.scan.take(rows, columns)
        for feature, result in self.picked:
            values = _typed(taken.pop(feature.name), _item(feature))
            places = chosen[id(result)].places
            if isinstance(result, Lists):
                items = values.take(pa.array(places)).combine_chunks()
                self.columns[feature.name] = _lists(result.starts, items, feature)
            else:
                found = places >= 0
                column = values.take(pa.array(places, mask=~found))
                self.columns[feature.name] = _with_default(column, found, feature)
        self.picked.clear()

    def _overflow(self, error: SumOverflow, feature: Feature) -> EngineError:
        row = error.request
        keys = ", ".join(repr(column[row].as_py()) for column in self.asked.keys)
        return EngineError(
            f"The sum {self.view.name}:{feature.name} does not fit into {feature.type}.",
            where=f"{self.view.entity} {keys} at {format_moment(int(self.asked.t[row]))}",
            remedy="Sum a cast to float64 or to a decimal, or correct the data.",
        )


@dataclass(frozen=True)
class _Chosen:
    """The rows of picked events, ascending, and which of them each pick is (-1: none)."""

    rows: NDArray[np.int64]
    places: NDArray[np.int32]

    @classmethod
    def of(cls, events: Events, at: NDArray[np.int64]) -> _Chosen:
        found = at >= 0
        picked = events.rows[at[found]]
        wanted = np.zeros(events.scanned, np.bool_)
        wanted[picked] = True
        rows = np.flatnonzero(wanted)
        numbers = np.empty(events.scanned, np.int32)
        numbers[rows] = np.arange(len(rows), dtype=np.int32)
        places = np.full(len(at), -1, np.int32)
        places[found] = numbers[picked]
        return cls(rows, places)


def _without_value(aggregate: Aggregate) -> Aggregate:
    return msgspec.structs.replace(aggregate, value=None, where=None, default=None)


def _column(need: Need | None, value: Loaded, where: NDArray[np.bool_] | None) -> Column:
    if need is None or need.form == "flag":
        return Column("none", valid=value.valid, where=where)
    if need.form == "decimal":
        scale = need.type.scale if need.type else 0
        return Column("decimal", value.words, value.high, value.valid, where, scale)
    if need.form != "word":
        return Column(need.form, value.words, None, value.valid, where)
    is_float = need.type is not None and need.type.name == "float64"
    return Column("float" if is_float else "int", value.words, None, value.valid, where)


def _item(feature: Feature) -> Type:
    """The type of the events' values behind a feature that picks them."""
    several = feature.aggregate.function in {"first_n", "last_n"}
    return feature.type.item or feature.type if several else feature.type


def _lists(starts: NDArray[np.int64], items: pa.Array, feature: Feature) -> pa.ChunkedArray:
    """Lists as a column; an empty one is null, or the default."""
    empty = starts[1:] == starts[:-1]
    offsets = pa.array(starts.astype(np.int32), mask=np.append(empty, False))
    return _with_default(pa.ListArray.from_arrays(offsets, items), ~empty, feature)


def _items(type_: Type, at: NDArray[np.int64], value: Loaded) -> pa.Array:
    """The words of a list of values as these values."""
    if value.dictionary is not None:
        return value.dictionary.take(pa.array(at))
    words = at.view(np.float64) if type_.name == "float64" else at
    return column_of(words, np.ones(len(at), np.bool_), type_)


def _typed(column: pa.ChunkedArray, type_: Type) -> pa.ChunkedArray:
    """A column in exactly the Arrow type of a type; a database says it a little differently."""
    wanted = arrow_type(type_)
    return column if column.type == wanted else column.cast(wanted)


def _with_default(
    column: pa.Array | pa.ChunkedArray, found: NDArray[np.bool_], feature: Feature
) -> pa.ChunkedArray:
    default = feature.aggregate.default
    if default is not None and not found.all():
        column = pc.if_else(
            pa.array(found), column, scalar_of(default).cast(arrow_type(feature.type))
        )
    whole = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    return _typed(whole, feature.type)
