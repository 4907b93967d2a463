"""Lineage: from the column to the model, both ways, and what each edge rests on."""

from __future__ import annotations

import json

import pytest
from benchmarks import registry as large

from tidemark.errors import NotFound
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Column, Literal
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Field,
    Input,
    OnDemand,
    Output,
    Reference,
    Request,
    Source,
)
from tidemark.model.lineage import Consumer, Lineage, LineageIndex
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP
from tidemark.registry import Registry

USER = Entity(name="user", keys=(Field("user_id", STRING),))
PURCHASE = Source(
    name="purchase",
    owner="data@acme.com",
    columns=(
        Field("order_id", STRING),
        Field("user_id", STRING),
        Field("amount", FLOAT64),
        Field("status", STRING),
        Field("at", TIMESTAMP),
        Field("note", STRING),
    ),
    time="at",
    unique=("order_id",),
)
SETTLED = Call("eq", (Column("status"), Literal("settled", STRING)))
SPEND = Feature(name="spend", aggregate=Aggregate("sum", Column("amount"), SETTLED), type=FLOAT64)
COUNT = Feature(name="count", aggregate=Aggregate("count"), type=INT64)
ACTIVITY = FeatureView(
    name="activity",
    entity="user",
    source="purchase",
    keys=("user_id",),
    features=(SPEND, COUNT),
    owner="growth@acme.com",
)
CHECKOUT = Request(name="checkout", fields=(Field("amount", FLOAT64),))
RATIO = OnDemand(
    name="ratio",
    function="features:ratio",
    inputs=(
        Input("amount", Reference("request", "amount", "checkout")),
        Input("spend", Reference("feature", "spend", "activity")),
    ),
    type=FLOAT64,
)
FRAUD = FeatureService(
    name="fraud",
    outputs=(
        Output("ratio", Reference("on_demand", "ratio")),
        Output("count", Reference("feature", "count", "activity")),
    ),
)
ALL = Definitions.of([USER, PURCHASE, ACTIVITY, CHECKOUT, RATIO, FRAUD])
MODELS = (
    Consumer("model", "fraud@3", ("fraud",), owner="risk@acme.com"),
    Consumer("dataset", "fraud-2026-11", ("activity:spend@1",), observed=True),
)


@pytest.fixture(scope="module")
def index() -> LineageIndex:
    return LineageIndex(ALL, MODELS)


def names(lineage: Lineage) -> list[str]:
    return [str(node) for node in lineage.nodes]


def edges(lineage: Lineage) -> list[tuple[str, str, str, str]]:
    return [(e.start.name, e.end.name, e.role, e.evidence) for e in lineage.edges]


def test_upstream_of_a_feature_are_the_columns_that_it_reads(index: LineageIndex) -> None:
    """Each with what it is for; a column that is not read is not there."""
    assert edges(index.of("activity:spend", "upstream")) == [
        ("purchase", "purchase.amount", "", "declared"),
        ("purchase", "purchase.at", "", "declared"),
        ("purchase", "purchase.order_id", "", "declared"),
        ("purchase", "purchase.status", "", "declared"),
        ("purchase", "purchase.user_id", "", "declared"),
        ("purchase.amount", "activity:spend@1", "value", "declared"),
        ("purchase.at", "activity:spend@1", "time", "declared"),
        ("purchase.order_id", "activity:spend@1", "identity", "declared"),
        ("purchase.status", "activity:spend@1", "filter", "declared"),
        ("purchase.user_id", "activity:spend@1", "key", "declared"),
    ]


def test_downstream_of_a_column_is_all_that_it_can_change(index: LineageIndex) -> None:
    """To the models and datasets; a count does not read the amount."""
    assert names(index.of("purchase.amount", "downstream")) == [
        "column purchase.amount",
        "feature activity:spend@1",
        "on-demand feature ratio@1",
        "service fraud",
        "model fraud@3",
        "dataset fraud-2026-11",
    ]


def test_edges_are_declared_or_observed(index: LineageIndex) -> None:
    """What was seen and what was said, and both where both hold."""
    assert edges(index.of("activity:spend", "downstream")) == [
        ("activity:spend@1", "ratio@1", "spend", "declared"),
        ("activity:spend@1", "fraud-2026-11", "", "observed"),
        ("ratio@1", "fraud", "ratio", "declared"),
        ("fraud", "fraud@3", "", "declared"),
    ]
    seen = Consumer("model", "fraud@3", ("fraud",), owner="risk@acme.com", observed=True)
    both = LineageIndex(ALL, [*MODELS, seen]).of("model fraud@3", "upstream")
    assert ("fraud", "fraud@3", "", "declared and observed") in edges(both)


@pytest.mark.parametrize(
    ("ref", "focus"),
    [
        ("purchase", ["source purchase"]),
        ("purchase.amount", ["column purchase.amount"]),
        ("user", ["feature activity:spend@1", "feature activity:count@1"]),
        ("activity", ["feature activity:spend@1", "feature activity:count@1"]),
        ("activity:spend", ["feature activity:spend@1"]),
        ("activity:spend@1", ["feature activity:spend@1"]),
        ("feature activity:spend@1", ["feature activity:spend@1"]),
        ("ratio", ["on-demand feature ratio@1"]),
        ("checkout", ["field checkout.amount"]),
        ("fraud", ["service fraud"]),
        ("service fraud", ["service fraud"]),
        ("fraud@3", ["model fraud@3"]),
        ("model fraud", ["model fraud@3"]),
        ("model:fraud@3", ["model fraud@3"]),
        ("fraud-2026-11", ["dataset fraud-2026-11"]),
    ],
)
def test_references(index: LineageIndex, ref: str, focus: list[str]) -> None:
    """As they are written everywhere; after its kind where a name alone would not do."""
    assert [str(node) for node in index.of(ref).focus] == focus


def test_without_a_version_all_versions_are_meant() -> None:
    """They stand side by side."""
    newer = Feature(
        name="spend", aggregate=Aggregate("sum", Column("amount")), type=FLOAT64, version=2
    )
    view = FeatureView(
        name="activity", entity="user", source="purchase", keys=("user_id",),
        features=(SPEND, newer),
    )  # fmt: skip
    found = LineageIndex(Definitions.of([USER, PURCHASE, view])).of("activity:spend")
    assert [node.name for node in found.focus] == ["activity:spend@1", "activity:spend@2"]


def test_an_unknown_name_is_answered_with_the_nearest(index: LineageIndex) -> None:
    """As everywhere."""
    with pytest.raises(NotFound, match="'activity:spent'") as error:
        index.of("activity:spent")
    assert error.value.remedy == "Did you mean 'activity:spend'?"


def test_what_was_retired_is_still_what_a_model_was_given() -> None:
    """A pin outlives the definition."""
    found = LineageIndex(ALL, [Consumer("model", "old@1", ("activity:gone@1",))]).of("old@1")
    assert names(found) == ["feature activity:gone@1", "model old@1"]


def test_as_text(index: LineageIndex) -> None:
    """A tree each way; a source is told once."""
    assert (
        index.of("activity:spend").render("text")
        == """\
feature activity:spend@1  (growth@acme.com)
├── comes from
│   ├── column purchase.amount  as value
│   │   └── source purchase
│   ├── column purchase.at  as time
│   ├── column purchase.order_id  as identity
│   ├── column purchase.status  as filter
│   └── column purchase.user_id  as key
└── goes to
    ├── on-demand feature ratio@1  as spend
    │   └── service fraud  as ratio
    │       └── model fraud@3
    └── dataset fraud-2026-11  observed"""
    )


def test_a_branch_is_drawn_once(index: LineageIndex) -> None:
    """Where it occurs again, it points to the first."""
    text = index.of("purchase", "downstream").render("text")
    assert text.count("on-demand feature ratio@1  as spend") == 1
    assert "feature activity:spend@1  as time  (see above)" in text


def test_as_json(index: LineageIndex) -> None:
    """Nodes by kind and name, edges with their evidence."""
    facts = json.loads(index.of("fraud", "downstream").render("json"))
    assert facts == {
        "focus": ["service fraud"],
        "nodes": [
            {"id": "service fraud", "kind": "service", "name": "fraud", "owner": ""},
            {"id": "model fraud@3", "kind": "model", "name": "fraud@3", "owner": "risk@acme.com"},
        ],
        "edges": [
            {"from": "service fraud", "to": "model fraud@3", "role": "", "evidence": "declared"}
        ],
    }


def test_as_graphviz(index: LineageIndex) -> None:
    """What was only observed is dashed."""
    assert index.of("dataset fraud-2026-11", "both").render("dot").splitlines()[-3:] == [
        '  "column purchase.user_id" -> "feature activity:spend@1" [label="key"];',
        '  "feature activity:spend@1" -> "dataset fraud-2026-11" [label="", style=dashed];',
        "}",
    ]


def test_as_mermaid(index: LineageIndex) -> None:
    """Shapes by kind, dotted where only observed."""
    assert (
        index.of("fraud", "downstream").render("mermaid")
        == """\
flowchart LR
  n0[["fraud"]]
  n1{{"fraud@3"}}
  n0 --> n1
  style n0 stroke-width:3px"""
    )


def test_thousands_of_nodes() -> None:
    """Every feature of an entity is reached."""
    found = LineageIndex(large.registry()).of("user", "downstream")
    assert sum(node.kind == "feature" for node in found.nodes) == 1_000
    assert len(found.render("mermaid").splitlines()) > 2_000


def test_the_registry_answers_as_of_a_revision() -> None:
    """What depended on what, then."""
    registry = Registry("sqlite://")
    registry.apply(registry.plan(ALL))
    registry.apply(registry.plan(Definitions.of([USER, PURCHASE, ACTIVITY])))
    assert names(registry.lineage("activity:count", "downstream")) == ["feature activity:count@1"]
    before = registry.lineage("activity:count", "downstream", as_of=1, consumers=MODELS)
    assert names(before) == ["feature activity:count@1", "service fraud", "model fraud@3"]
    registry.close()
