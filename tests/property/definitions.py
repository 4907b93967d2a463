"""Random features, and edits of them: what people are told, other spellings, the meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace as with_
from datetime import date, datetime, timedelta
from decimal import Decimal
from random import Random
from types import new_class
from typing import Any

from msgspec.structs import replace
from tests.property import worlds
from tests.property.worlds import COLUMNS, FILTERS, RULES

import tidemark as tm
from tidemark import define
from tidemark.model.aggregates import Aggregate, result_type
from tidemark.model.expr import Column, Expr, Literal, columns_of, type_of
from tidemark.model.fingerprint import meaning
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureView,
    Field,
    Frame,
    Source,
)
from tidemark.model.types import STRING
from tidemark.model.window import DAY, HOUR, MINUTE, SECOND, Window

USER = Entity(name="user", keys=(Field("user", STRING),))
FIELDS = tuple(Field(name, type_) for name, type_ in COLUMNS.items())


@dataclass(frozen=True)
class Defined:
    """One feature, its view (without features) and its source."""

    source: Source
    view: FeatureView
    feature: Feature

    @property
    def aggregate(self) -> Aggregate:
        return self.feature.aggregate

    @property
    def window(self) -> Window:
        return self.feature.aggregate.window

    @property
    def meaning(self) -> str:
        return meaning(self.view, self.feature, self.source)

    def computing(self, **fields: Any) -> Defined:
        """This feature with other fields of its aggregate, and the type that follows."""
        aggregate = replace(self.aggregate, **fields)
        value = None if aggregate.value is None else type_of(aggregate.value, COLUMNS)
        type_ = result_type(aggregate.function, value)
        return with_(self, feature=replace(self.feature, aggregate=aggregate, type=type_))

    def over(self, **fields: Any) -> Defined:
        return self.computing(window=replace(self.window, **fields))

    def of_view(self, **fields: Any) -> Defined:
        return with_(self, view=replace(self.view, **fields))

    def of_source(self, **fields: Any) -> Defined:
        return with_(self, source=replace(self.source, **fields))

    def of_feature(self, **fields: Any) -> Defined:
        return with_(self, feature=replace(self.feature, **fields))


def other(random: Random, now: Any, *values: Any) -> Any:
    """One of the values that is not the present one."""
    return random.choice([value for value in values if value != now])


# ---------------------------------------------------------------- definitions


def bases(number: int) -> Iterator[Defined]:
    """Random features over one random view and source."""
    random = Random(number)
    local = number % 4 == 3  # its times carry no zone
    seen = random.choice((None, "seen", "delay"))
    source = Source(
        name="events",
        columns=FIELDS,
        time="at",
        history=Frame("local" if local else "events"),
        timezone="Asia/Tokyo" if local else "",
        unique=random.choice(((), ("id",), ("id", "part"))),
        seen="seen" if seen == "seen" else None,
        delay=random.choice((1, HOUR, DAY)) if seen == "delay" else 0,
    )
    view = FeatureView(
        name="view",
        entity="user",
        source="events",
        keys=("user",),
        features=(),
        bound=random.choice(("at", "before")),
        max_age=random.choice((0, HOUR, DAY)),
    )
    for feature in worlds.features(number, random):
        yield Defined(source, view, replace(feature, name="feature"))


def described(random: Random, it: Defined) -> Iterator[tuple[str, Defined]]:
    """Edits of what people are told, of contracts and of operation."""
    about = {"description": "said anew", "owner": "risk@acme.com", "tags": ("new",)}
    yield "feature", it.of_feature(**about)
    yield "view", it.of_view(**about)
    yield "source", it.of_source(**about)
    yield "freshness", it.of_view(freshness=random.choice((MINUTE, DAY)))
    yield "version", it.of_feature(version=random.randrange(2, 9), attribute="declared")
    columns = [replace(each, description="a column", tags=("pii",)) for each in it.source.columns]
    yield "columns", it.of_source(columns=tuple(columns))
    if random.random() < 0.25:  # each is a source of its own, which takes time to read
        yield "columns read", it.of_source(columns=as_read(random, it))


def as_read(random: Random, it: Defined) -> tuple[Field, ...]:
    """The columns that matter: those read in any order, or all up to the last if ties do."""
    columns = it.source.columns
    read = {*it.view.keys, *it.source.unique, it.source.time, it.source.seen}
    for expr in (it.aggregate.value, it.aggregate.where):
        read |= columns_of(expr) if expr is not None else set()
    kept = [place for place, each in enumerate(columns) if each.name in read]
    if it.source.unique or it.aggregate.needs_order:
        return columns[: kept[-1] + 1]
    return tuple(columns[place] for place in random.sample(kept, len(kept)))


def idle(random: Random, it: Defined) -> Iterator[tuple[str, Defined]]:
    """Fields that may be said and are not read, by the function or the source of the feature."""
    if it.aggregate.q in (0, 1):
        yield "whole q", it.computing(q=int(it.aggregate.q))
    if it.aggregate.rule.zero:
        yield "idle default", it.computing(default=Literal(5, it.feature.type))
    if it.aggregate.function == "latest" and it.window.rows:
        yield "idle rows", it.over(rows=random.choice((0, 9)))
    if not it.aggregate.rule.stored:
        yield "idle max_age", it.of_view(max_age=other(random, it.view.max_age, 0, 1, DAY))
    if not it.aggregate.needs_order and len(it.source.unique) > 1:
        yield "order of unique", it.of_source(unique=it.source.unique[::-1])


def edited(random: Random, it: Defined) -> Iterator[tuple[str, Defined]]:
    """Edits of one field of the meaning."""
    yield from edited_aggregate(random, it)
    yield from edited_window(random, it)
    yield "bound", it.of_view(bound=other(random, it.view.bound, "at", "before"))
    yield "keys", it.of_view(keys=("text",))
    if it.aggregate.rule.stored:
        yield "max_age", it.of_view(max_age=other(random, it.view.max_age, 0, 1, HOUR, DAY))
    unique = other(random, it.source.unique, (), ("id",), ("id", "part"), ("part",))
    yield "unique", it.of_source(unique=unique)
    if it.source.seen is None:
        yield "delay", it.of_source(delay=other(random, it.source.delay, 0, 1, HOUR, DAY, 7 * DAY))
    seen = None if it.source.seen else "seen"
    yield "seen", it.of_source(seen=seen, delay=0)
    if not it.source.seen:
        yield "time", it.of_source(time="seen")
    if it.source.timezone:
        yield "timezone", it.of_source(timezone=other(random, "", "UTC", worlds.NEW_YORK))
    if it.aggregate.needs_order:
        yield "order of columns", it.of_source(columns=it.source.columns[::-1])


def edited_aggregate(random: Random, it: Defined) -> Iterator[tuple[str, Defined]]:
    aggregate = it.aggregate
    takes = [name for name in RULES if aggregate.value in worlds.column_types(name)]
    if aggregate.value is not None:
        function = other(random, aggregate.function, *takes)
        reads = RULES[function].parameters
        yield (
            "function",
            it.computing(
                function=function,
                n=max(aggregate.n, 1) if "n" in reads else 0,
                q=aggregate.q if "q" in reads else 0.5,
                ddof=aggregate.ddof if "ddof" in reads else 1,
                default=None,
            ),
        )
    values = worlds.column_types(aggregate.function)
    yield "value", it.computing(value=other(random, aggregate.value, *values), default=None)
    yield "where", it.computing(where=other(random, aggregate.where, None, *FILTERS))
    if "n" in aggregate.rule.parameters:
        yield "n", it.computing(n=other(random, aggregate.n, 1, 2, 5))
    if "q" in aggregate.rule.parameters:
        yield "q", it.computing(q=other(random, aggregate.q, 0.0, 0.1, 0.5, 0.75, 1.0))
    if "ddof" in aggregate.rule.parameters:
        yield "ddof", it.computing(ddof=1 - aggregate.ddof)
    if not aggregate.rule.zero and it.feature.type.name in ("int64", "float64", "string"):
        value = {"int64": 41, "float64": 0.5, "string": "other"}[it.feature.type.name]
        default = other(random, aggregate.default, None, Literal(value, it.feature.type))
        yield "default", it.computing(default=default)


def edited_window(random: Random, it: Defined) -> Iterator[tuple[str, Defined]]:
    window = it.window
    kinds = (
        Window(),
        Window("sliding", length=DAY),
        Window("to_date", unit="day", zone=worlds.NEW_YORK),
    )
    kind = random.choice([each for each in kinds if each.kind != window.kind])
    whole = replace(kind, offset=window.offset, rows=window.rows)
    yield "window", it.computing(window=whole)
    yield "offset", it.over(offset=other(random, window.offset, 0, 1, HOUR, DAY, 30 * DAY))
    if it.aggregate.function != "latest":
        yield "rows", it.over(rows=other(random, window.rows, 0, 1, 2, 4))
    if window.kind == "sliding":
        yield "length", it.over(length=other(random, window.length, 1, HOUR, DAY, 7 * DAY))
    if window.kind == "to_date":
        yield "unit", it.over(unit=other(random, window.unit, "day", "week", "month", "year"))
        zone = other(random, window.zone, worlds.NEW_YORK, worlds.LORD_HOWE, "UTC")
        yield "zone", it.over(zone=zone)


# ------------------------------------------------------------------ spellings

# A filter of the model as an expression of a class and as text in a document.
SPELLED: list[tuple[Expr, Callable[[Any], Any], str]] = [
    (FILTERS[0], lambda c: c.ok, "ok"),
    (FILTERS[1], lambda c: ~c.ok, "(not (ok))"),
    (FILTERS[2], lambda c: c.n > 0, "n>0"),
    (FILTERS[3], lambda c: c.odd.is_null(), "odd IS NULL"),
    (FILTERS[4], lambda c: c.odd > 0, "odd > 0"),
    (FILTERS[6], lambda c: c.ok | (c.n < 0), "ok or (n < 0)"),
    (FILTERS[8], lambda c: c.text.is_in(["a", "😀"]), "text in ('a', '😀')"),
]


def spelled(random: Random, it: Defined) -> Iterator[tuple[str, Defined]]:
    """The feature as a class and as a document say it."""
    filters = [each for each in SPELLED if each[0] == it.aggregate.where]
    plain = isinstance(it.aggregate.value, Column | None)
    if it.source.timezone or not plain or (it.aggregate.where is not None and not filters):
        return
    yield "class", from_class(random, it, filters)
    yield "document", from_document(random, it, filters)


def duration(random: Random, micros: int) -> str | timedelta:
    """One of the spellings of a duration."""
    texts = [f"{micros}us", f" {micros} us"]
    texts += [f"{micros // size}{unit}" for unit, size in UNITS.items() if micros % size == 0]
    return random.choice([*texts, timedelta(microseconds=micros)])


PYTHON: dict[str, Any] = {
    "string": str,
    "int64": int,
    "float64": float,
    "bool": bool,
    "bytes": bytes,
    "timestamp": datetime,
    "date": date,
    "decimal": Decimal,
    "list": list[str],
    "vector": list[float],
}
OTHER_NAMES = {worlds.NEW_YORK: ("US/Eastern",), worlds.LORD_HOWE: ("Australia/LHI",)}
UNITS = {"w": 7 * DAY, "d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": 1_000}


def options(random: Random, it: Defined, over: Callable[[Any], Any]) -> dict[str, Any]:
    """What an aggregate says besides value and filter, in any order."""
    window, aggregate = it.window, it.aggregate
    said: dict[str, Any] = {}
    if window.kind == "sliding":
        said["over"] = duration(random, window.length)
    elif window.kind == "to_date":
        zone = random.choice([window.zone, *OTHER_NAMES.get(window.zone, ())])
        said["over"] = over(replace(window, zone=zone))
    if window.offset:
        said["offset"] = duration(random, window.offset)
    if window.rows:
        said["rows"] = window.rows
    if aggregate.default is not None:
        said["default"] = aggregate.default.value
    for name in aggregate.rule.parameters:
        value = getattr(aggregate, name)
        said[name] = int(value) if value in (0, 1) else value
    if said.get("ddof") == 0 and random.random() < 0.5:
        said["population"] = bool(said.pop("ddof") == 0)
    return dict(random.sample(list(said.items()), len(said)))


def max_age(random: Random, it: Defined) -> dict[str, Any]:
    """The age limit; a view in which nothing could be too old may not say one."""
    said = it.view.max_age and it.aggregate.rule.stored
    return {"max_age": duration(random, it.view.max_age)} if said else {}


def from_class(random: Random, it: Defined, filters: list[Any]) -> Defined:
    """What two classes give that say what the model says."""
    events = source_class(it.source)
    said = options(random, it, lambda window: tm.to_date(window.unit, window.zone))
    if filters:
        said["where"] = filters[0][1](events)
    values = [getattr(events, it.aggregate.value.name)] if it.aggregate.value is not None else []
    made = getattr(tm, it.aggregate.function)(*values, **said)
    given: dict[str, Any] = {"entity": entity_class(), "source": events, "by": events.user}
    given |= {"bound": it.view.bound} if it.view.bound != "at" or random.random() < 0.5 else {}
    given |= max_age(random, it)
    given = dict(random.sample(list(given.items()), len(given)))
    body = {"feature": made, "__module__": __name__}
    view = new_class("View", (tm.FeatureView,), given, lambda names: names.update(body))
    return only(define.lower(view).definitions, it)


def entity_class() -> type:
    body = {"__annotations__": {"user": tm.Key[str]}, "__module__": __name__}
    return new_class("User", (tm.Entity,), {}, lambda names: names.update(body))


def source_class(source: Source) -> Any:
    given: dict[str, Any] = {"time": source.time, "unique": source.unique}
    given |= {"seen": source.seen} if source.seen else {}
    given |= {"delay": timedelta(microseconds=source.delay)} if source.delay else {}
    body: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    for column in source.columns:
        body["__annotations__"][column.name] = tm.Col[PYTHON[column.type.name]]
        if column.type.name == "decimal":
            body[column.name] = tm.decimal(column.type.precision, column.type.scale)
        if column.type.name == "vector":
            body[column.name] = tm.vector(column.type.size)
    return new_class("Events", (tm.Source,), given, lambda names: names.update(body))


def from_document(random: Random, it: Defined, filters: list[Any]) -> Defined:
    """What a document gives that says what the model says."""
    feature = options(random, it, lambda window: {"zone": window.zone, "to_date": window.unit})
    feature |= {"function": it.aggregate.function}
    if it.aggregate.value is not None:
        feature[random.choice(("value", "column"))] = f'"{it.aggregate.value.name}"'
    if filters:
        feature[random.choice(("where", "filter"))] = filters[0][2]
    source: dict[str, Any] = {"time": it.source.time, "unique": list(it.source.unique)}
    source |= {"seen": it.source.seen} if it.source.seen else {}
    source |= {"delay": duration(random, it.source.delay)} if it.source.delay else {}
    source |= {"columns": {each.name: str(each.type) for each in it.source.columns}}
    view = {"features": {"feature": feature}, "bound": it.view.bound, "by": "user"}
    view |= max_age(random, it)
    sections = {
        "views": {"view": view | {"source": "events", "entity": "user"}},
        "sources": {"events": source},
        "entities": {"user": {"keys": {"user": "string"}}},
    }
    return only(define.lower(tm.load(sections)).definitions, it)


def only(definitions: Definitions, it: Defined) -> Defined:
    """The one feature of the definitions; where its rows lie is said here."""
    view, source = definitions.views[0], definitions.sources[0]
    source = replace(source, history=it.source.history)
    return Defined(source, replace(view, features=()), view.features[0])
