"""What makes two definitions the same: four fingerprints, each sensitive to its own fields only."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields, replace

from tidemark.model import aggregates, expr, graph, types, window
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Column, Literal
from tidemark.model.fingerprint import FIELDS, KINDS, Fingerprints, fingerprints, meaning, state_id
from tidemark.model.graph import (
    Definition,
    Definitions,
    Entity,
    Feature,
    FeatureView,
    Field,
    Kafka,
    Query,
    Source,
)
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP
from tidemark.model.window import DAY, HOUR, Window

SETTLED = Call("eq", (Column("status"), Literal("settled", STRING)))
USER = Entity(
    name="user",
    keys=(Field("user_id", STRING, "who", ("pii",)),),
    description="a person",
    owner="us",
    tags=("x",),
)
PURCHASE = Source(
    name="purchase",
    columns=(
        Field("order_id", STRING, "which"),
        Field("user_id", STRING),
        Field("amount", FLOAT64, tags=("money",)),
        Field("status", STRING),
        Field("at", TIMESTAMP),
        Field("seen_at", TIMESTAMP),
    ),
    time="at",
    history=Query("select * from purchases", "shop.db"),
    timezone="UTC",
    unique=("order_id",),
    seen="seen_at",
    delay=HOUR,
    stream=Kafka("purchases", "localhost:9092", "avro", "schemas"),
    description="bought",
    owner="shop",
    tags=("y",),
)
LAST = Feature(
    name="last_7d",
    aggregate=Aggregate(
        "last_n",
        Column("amount"),
        where=SETTLED,
        window=Window("sliding", 7 * DAY, offset=HOUR, rows=9),
        n=3,
        default=Literal(0.5, FLOAT64),
    ),
    type=types.list_of(FLOAT64),
    attribute="last",
    version=2,
    description="recent amounts",
    owner="me",
    tags=("z",),
)
VIEW = FeatureView(
    name="user_spend",
    entity="user",
    source="purchase",
    keys=("user_id",),
    features=(LAST,),
    bound="before",
    max_age=30 * DAY,
    freshness=HOUR,
    description="what a user bought",
    owner="risk",
    tags=("w",),
)


GOLDEN = Fingerprints(
    meaning="de20fbcff890949485c6a53789e0da15",
    contract="e207d544a79bacde80c70d4ea073e4b1",
    metadata="aa4d1eaca09c4ba95c880dbe119a17c6",
    operation="d8287f6c2c9796778476f3aeb2f567a8",
)


def structs_of(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """Every struct that a type annotation can hold."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from structs_of(inner)


def all_structs() -> set[type[msgspec.Struct]]:
    """Every struct that a definition can hold, at any depth."""
    found: set[type[msgspec.Struct]] = set()
    todo = list(structs_of(Definition))
    names = {**vars(types), **vars(window), **vars(expr), **vars(aggregates), **vars(graph)}
    while todo:
        struct = todo.pop()
        if struct not in found:
            found.add(struct)
            scope = {**names, **vars(__import__(struct.__module__, fromlist=["_"]))}
            for hint in typing.get_type_hints(struct, scope).values():
                todo += structs_of(hint)
    return found


WHOLE = {  # taken as a whole, under the field that holds them
    types.Type,
    window.Window,
    aggregates.Aggregate,
    graph.Reference,
    expr.Column,
    expr.Literal,
    expr.Call,
    expr.Cast,
    expr.Sql,
}


def test_every_struct_of_the_model_is_classified() -> None:
    """A struct added to the model must be given a place in the fingerprints."""
    assert all_structs() == set(FIELDS) | WHOLE


@pytest.mark.parametrize("struct", FIELDS, ids=lambda struct: struct.__name__)
def test_every_field_is_classified(struct: type[msgspec.Struct]) -> None:
    """A field added to the model must be given a place in the fingerprints."""
    assert set(FIELDS[struct]) == {field.name for field in fields(struct)}


def other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case "sliding":
            return "all"
        case "last_n":
            return "first_n"
        case "before":
            return "at"
        case str():
            return f"{value}_"
        case int() | float():
            return value + 1
        case types.Type():
            return INT64
        case tuple():
            return (*value, "more")
        case _:
            return None


def mutations(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The object with one leaf changed, for each leaf that has a value."""
    for field in fields(value):
        item = getattr(value, field.name)
        here = f"{path}.{field.name}"
        if field.name in {"features", "source", "entity"} or item in {None, ""}:
            continue
        if isinstance(item, tuple) and item and isinstance(item[0], msgspec.Struct):
            for place, each in enumerate(item):
                for name, changed in mutations(each, f"{here}[{place}]"):
                    items = (*item[:place], changed, *item[place + 1 :])
                    yield name, replace(value, **{field.name: items})
        elif isinstance(item, msgspec.Struct) and not isinstance(item, types.Type):
            for name, changed in mutations(item, here):
                yield name, replace(value, **{field.name: changed})
        elif item != ():
            yield here, replace(value, **{field.name: other(item)})


def changed_kinds(entity: Entity, source: Source, view: FeatureView) -> list[str]:
    """The fingerprints of the feature that differ from those of the example."""
    plain = fingerprints(Definitions.of([USER, PURCHASE, VIEW]), VIEW, LAST)
    view = replace(view, entity=entity.name, source=source.name)
    now = fingerprints(Definitions.of([entity, source, view]), view, view.features[0])
    return [kind for kind in KINDS if getattr(plain, kind) != getattr(now, kind)]


CASES = {
    **{name: (item, PURCHASE, VIEW) for name, item in mutations(USER, "entity")},
    **{name: (USER, item, VIEW) for name, item in mutations(PURCHASE, "source")},
    **{name: (USER, PURCHASE, item) for name, item in mutations(VIEW, "view")},
    **{
        name: (USER, PURCHASE, replace(VIEW, features=(item,)))
        for name, item in mutations(LAST, "feature")
    },
}
EXPECTED = {
    "entity.keys[0].type": ["contract"],
    "entity.name": ["contract"],
    "source.history.sql": ["meaning"],
    "source.history.connection": ["operation"],
    "source.stream.topic": ["operation"],
    "source.columns[2].tags": ["metadata"],
    "source.timezone": ["meaning"],
    "view.bound": ["meaning"],
    "view.freshness": ["operation"],
    "view.owner": ["metadata"],
    "feature.type": ["contract"],
    "feature.version": ["contract"],
    "feature.attribute": ["metadata"],
    "feature.aggregate.window.length": ["meaning"],
    "feature.aggregate.where.args[1].value": ["meaning"],
}


@pytest.mark.parametrize("name", CASES)
def test_a_changed_field_changes_one_fingerprint(name: str) -> None:
    """Whatever is edited is meaning, contract, metadata or operation, never two of them."""
    kinds = changed_kinds(*CASES[name])
    assert kinds == EXPECTED.get(name, kinds[:1])
    assert kinds or name in EXPECTED


def test_the_expected_kinds_name_real_fields() -> None:
    """The table above does not outlive the fields it speaks of."""
    assert set(EXPECTED) <= set(CASES)


def test_a_column_after_the_last_one_read_is_not_part_of_the_meaning() -> None:
    """Sources may grow: rows that agree on what is read cannot be told apart by what is not."""
    grown = replace(PURCHASE, columns=(*PURCHASE.columns, Field("channel", STRING)))
    assert changed_kinds(USER, grown, VIEW) == []


def test_a_column_that_breaks_ties_is_part_of_the_meaning() -> None:
    """Where content decides which of two equal moments is newer, its order matters."""
    columns = (PURCHASE.columns[3], *PURCHASE.columns[:3], *PURCHASE.columns[4:])
    assert "meaning" in changed_kinds(USER, replace(PURCHASE, columns=columns), VIEW)


def test_max_age_is_part_of_what_is_stored_only() -> None:
    """An age limit touches `last` and its kin; a sum knows no age."""
    total = replace(LAST, aggregate=Aggregate("sum", Column("amount")))
    prints = [
        fingerprints(Definitions.of([USER, PURCHASE, view]), view, total).meaning
        for view in (replace(VIEW, features=(total,), max_age=age) for age in (0, DAY))
    ]
    assert prints[0] == prints[1]


def test_a_float_is_a_float_however_it_came_into_the_model() -> None:
    """A quantile of 1 is the quantile of 1.0."""
    prints = [
        meaning(
            VIEW, replace(LAST, aggregate=Aggregate("quantile", Column("amount"), q=q)), PURCHASE
        )
        for q in (1, 1.0)
    ]
    assert prints[0] == prints[1]


def test_the_bound_is_nothing_to_facts_that_hold_always() -> None:
    """What has no time is on both sides of every moment."""
    facts = replace(PURCHASE, time=None, seen=None, delay=0)
    latest = replace(LAST, aggregate=Aggregate("latest", Column("amount")), type=FLOAT64)
    before, at = (replace(VIEW, bound=bound, features=(latest,)) for bound in ("before", "at"))
    assert meaning(before, latest, facts) == meaning(at, latest, facts)


def test_fingerprints_are_stable_across_releases() -> None:
    """A changed golden value means that every registry in the world would see a change."""
    assert fingerprints(Definitions.of([USER, PURCHASE, VIEW]), VIEW, LAST) == GOLDEN


def test_online_rows_are_told_apart_by_what_they_hold() -> None:
    """Names, descriptions and defaults leave the state as it is; columns and windows do not."""
    named = replace(LAST, name="other", description="x", version=9)
    plain = replace(LAST, aggregate=replace(LAST.aggregate, default=None))
    longer = replace(LAST, aggregate=replace(LAST.aggregate, window=Window()))
    now = state_id(VIEW, PURCHASE)
    assert state_id(replace(VIEW, features=(named,), owner="x"), PURCHASE) == now
    assert state_id(replace(VIEW, features=(plain,)), PURCHASE) == now
    assert state_id(replace(VIEW, features=(longer,)), PURCHASE) != now
    assert state_id(VIEW, replace(PURCHASE, timezone="Asia/Tokyo")) != now
