"""Search: what people call a thing leads to it."""

from __future__ import annotations

import random

import pytest
from benchmarks import registry as large
from msgspec.structs import replace

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
    Parquet,
    Reference,
    Request,
    Source,
)
from tidemark.model.lineage import Consumer
from tidemark.model.search import Index
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP
from tidemark.model.vocabulary import Vocabulary, distance, stem, words
from tidemark.model.window import DAY, Window
from tidemark.registry import Registry

USER = Entity(name="user", keys=(Field("user_id", STRING),), description="A person.")
DEVICE = Entity(name="device", keys=(Field("device_id", STRING),))
PURCHASE = Source(
    name="card_event",
    columns=(
        Field("user_id", STRING),
        Field("device_id", STRING),
        Field("amount", FLOAT64),
        Field("status", STRING),
        Field("at", TIMESTAMP),
    ),
    time="at",
    history=Parquet("data/*.parquet"),
)


def feature(
    name: str, function: str, days: int, value: str | None = None, **more: object
) -> Feature:
    where = Call("eq", (Column("status"), Literal("settled", STRING)))
    aggregate = Aggregate(
        function, Column(value) if value else None, where, Window("sliding", days * DAY)
    )
    return Feature(name=name, aggregate=aggregate, type=FLOAT64 if value else INT64, **more)


ACTIVITY = FeatureView(
    name="activity",
    entity="user",
    source="card_event",
    keys=("user_id",),
    owner="growth@acme.com",
    description="What somebody does.",
    features=(
        feature("user_purchase_count_30d", "count", 30, tags=("core",)),
        feature("user_purchase_count_7d", "count", 7),
        feature("user_spend_30d", "sum", 30, "amount"),
        feature("typical_ticket", "mean", 90, "amount", description="Average basket."),
    ),
)
PHONES = FeatureView(
    name="phones",
    entity="device",
    source="card_event",
    keys=("device_id",),
    owner="risk@acme.com",
    features=(feature("events_30d", "count", 30), feature("x1", "max", 30, "amount")),
)
CHECKOUT = Request(name="checkout", fields=(Field("amount", FLOAT64),))
RATIO = OnDemand(
    name="amount_ratio",
    function="features:amount_ratio",
    inputs=(Input("typical", Reference("feature", "typical_ticket", "activity")),),
    type=FLOAT64,
    description="Against what is typical.",
)
FRAUD = FeatureService(
    name="fraud",
    owner="risk@acme.com",
    outputs=(
        Output("ratio", Reference("on_demand", "amount_ratio")),
        Output("count", Reference("feature", "user_purchase_count_7d", "activity")),
    ),
)
ALL = Definitions.of([USER, DEVICE, PURCHASE, ACTIVITY, PHONES, CHECKOUT, RATIO, FRAUD])


@pytest.fixture(scope="module")
def index() -> Index:
    return Index(ALL)


def first(index: Index, text: str, **filters: object) -> str:
    return index.search(text, **filters).hits[0].reference


@pytest.mark.parametrize(
    "text",
    [
        "purchases 30 days user",
        "user_purchase_count_30d",
        "UserPurchaseCount30d",
        "how many orders per customer in the last thirty days",
        "number of transactions 720h",
        "purhcases 30d usr",
        "core purchase",
    ],
)
def test_one_feature_under_what_many_would_call_it(index: Index, text: str) -> None:
    """Other words, other forms, other spellings of a duration, slips of the finger, tags."""
    found = [hit.reference for hit in index.search(text).hits[:3]]
    assert "activity:user_purchase_count_30d@1" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("maximum amount phone", "phones:x1@1"),
        ("total amount 30 days", "activity:user_spend_30d@1"),
        ("basket", "activity:typical_ticket@1"),
        ("amount_ratio", "amount_ratio@1"),
        ("fraud service", "fraud"),
        ("card event", "card_event"),
        ("checkout request", "checkout"),
    ],
)
def test_what_is_found_first(index: Index, text: str, expected: str) -> None:
    """By aggregate, column, description, name; every kind of definition."""
    assert first(index, text) == expected


def test_a_hit_tells_what_it_is(index: Index) -> None:
    """Enough to decide without opening it."""
    hit = index.search("purchase count 7d").hits[0]
    assert (hit.reference, hit.kind, hit.owner, hit.entity, hit.type) == (
        "activity:user_purchase_count_7d@1",
        "feature",
        "growth@acme.com",
        "user",
        "int64",
    )
    assert hit.definition == (
        "Number of rows of card_event where status = 'settled', in the 7 days up to and including "
        "the moment asked for; 0 if there were none."
    )
    assert hit.consumers == ("service fraud",)
    assert hit.why == ("purchase (name)", "count (name)", "7d (name)")


def test_why_says_what_a_word_was_taken_for(index: Index) -> None:
    """A synonym and a slip are named."""
    hit = index.search("orders custmer 7d").hits[0]
    assert hit.why == ("orders as purchase (name)", "custmer as user (name)", "7d (name)")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"entity": "device", "kind": "feature"}, {"phones:events_30d@1", "phones:x1@1"}),
        ({"tag": "core"}, {"activity:user_purchase_count_30d@1"}),
        ({"owner": "risk@acme.com", "type": "float64"}, {"phones:x1@1"}),
        ({"source": "card_event", "kind": "source"}, {"card_event"}),
        ({"kind": "on-demand feature"}, {"amount_ratio@1"}),
        ({"owner": "nobody@acme.com"}, set()),
        ({"tag": "pii"}, set()),
        ({"type": "decimal( 18,2 )"}, set()),
        ({"entity": "user", "kind": "source"}, set()),
    ],
)
def test_filters_hold_exactly(index: Index, filters: dict[str, str], expected: set[str]) -> None:
    """Without words, everything that fits."""
    assert {hit.reference for hit in index.search("", **filters)} == expected


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"entity": "devise"}, "There is no entity 'devise'.\n  Did you mean 'device'?"),
        (
            {"source": "card_events"},
            "There is no source 'card_events'.\n  Did you mean 'card_event'?",
        ),
        ({"kind": "featur"}, "There is no kind of definition 'featur'.\n  Did you mean 'feature'?"),
        ({"type": "int"}, "There is no type 'int'.\n  Did you mean 'int64'?"),
    ],
)
def test_a_filter_that_nothing_could_fit_is_refused(
    index: Index, filters: dict[str, str], said: str
) -> None:
    """What is defined has these names and no others, so that it is a slip of the finger."""
    with pytest.raises(NotFound) as caught:
        index.search("count", **filters)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (
            {"owner": "risk@acme.con"},
            "There is no owner 'risk@acme.con'.\n  Did you mean 'risk@acme.com'?",
        ),
        ({"tag": "cor"}, "There is no tag 'cor'.\n  Did you mean 'core'?"),
    ],
)
def test_an_owner_or_a_tag_of_nothing_is_an_answer_that_names_the_nearest(
    index: Index, filters: dict[str, str], said: str
) -> None:
    """Who owns nothing finds nothing, which is no error."""
    results = index.search("", **filters)
    assert (results.total, results.hint, str(results)) == (0, said, said)


def test_nobody_says_of_an_owner_of_something_that_there_is_none(index: Index) -> None:
    """It is the words that found nothing."""
    assert index.search("zzzzqqq", owner="risk@acme.com", tag="core").hint == ""


def test_facets_count_everything_found_not_only_what_is_shown(index: Index) -> None:
    """They say how to narrow."""
    results = index.search("30d", limit=1)
    assert len(results) == 1
    assert results.total == 4
    assert results.facets["entity"] == {"user": 2, "device": 2}
    assert results.facets["owner"] == {"growth@acme.com": 2, "risk@acme.com": 2}


def test_what_is_used_comes_before_what_is_not() -> None:
    """Models count, directly and through a service."""
    twins = [
        FeatureView(
            name=name,
            entity="user",
            source="card_event",
            keys=("user_id",),
            features=(feature("spend", "sum", 7, "amount"),),
        )
        for name in ("aaa", "bbb")
    ]
    definitions = Definitions.of([USER, PURCHASE, *twins])
    assert first(Index(definitions), "spend") == "aaa:spend@1"
    used = Index(definitions, [Consumer("model", "churn@2", ("bbb:spend@1",))])
    assert first(used, "spend") == "bbb:spend@1"
    through = Index(ALL, [Consumer("model", "fraud@3", ("fraud",))])
    assert through.search("purchase count 7d").hits[0].consumers == (
        "service fraud",
        "model fraud@3",
    )


def test_what_is_deprecated_comes_last() -> None:
    """Its state is told."""
    index = Index(ALL, lifecycles={"activity:user_purchase_count_30d@1": "deprecated"})
    assert first(index, "user purchase count") == "activity:user_purchase_count_7d@1"
    hit = index.search("user_purchase_count_30d", tag="core").hits[0]
    assert hit.lifecycle == "deprecated"


def test_nothing_found(index: Index) -> None:
    """That is an answer, not an error."""
    assert index.search("zzzzqqq").total == 0
    assert str(index.search("zzzzqqq")).startswith("Nothing was found.")
    assert Index(Definitions()).search("anything").total == 0


def test_among_five_thousand() -> None:
    """The right ones are in the first three, whatever else is there."""
    index = Index(large.registry())
    for hit in index.search("purchases 30 days user", limit=3):
        assert hit.reference.partition(":")[2] == "user_purchase_count_30d@1"
    for hit in index.search("total refund amount merchant 90 days kiosk", limit=1):
        assert hit.reference.startswith("merchant_kiosk_refund")
        assert hit.reference.endswith(":merchant_refund_amount_sum_90d@1")


def test_most_of_five_thousand_under_words_of_their_own() -> None:
    """Any order, and a slip in every longer word: nearly always among the first three."""
    definitions = large.registry()
    index = Index(definitions)
    chance = random.Random(7)
    features = [(view, feature) for view in definitions.views for feature in view.features]
    found = {"plain": 0, "slips": 0}
    for view, wanted in chance.sample(features, 100):
        place, event = view.source.split("_")
        value = wanted.aggregate.value
        terms = ["sum", value.name] if isinstance(value, Column) else ["count"]
        terms += [event, view.entity, place, f"{wanted.aggregate.window.length // DAY}d"]
        terms += ["settled" if "settled" in str(wanted.aggregate.where) else "open"]
        chance.shuffle(terms)
        for kind, asked in {"plain": terms, "slips": [slip(term) for term in terms]}.items():
            hits = [hit.reference for hit in index.search(" ".join(asked), limit=3)]
            found[kind] += f"{view.name}:{wanted.name}@1" in hits
    assert found["plain"] >= 98
    assert found["slips"] >= 85


def slip(word: str) -> str:
    """Two letters swapped in the middle of a word of five or more."""
    return word if len(word) < 5 else f"{word[:2]}{word[3]}{word[2]}{word[4:]}"


def test_a_search_of_the_registry_sees_what_is_applied() -> None:
    """The index is of the revision in force, or of the one asked for."""
    registry = Registry("sqlite://")
    assert registry.search("purchases").total == 0
    registry.apply(registry.plan(ALL))
    assert registry.search("purchases 30 days user").hits[0].entity == "user"
    registry.apply(registry.plan(Definitions.of([*ALL, replace(USER, name="rider")])))
    assert registry.search("rider").hits[0].reference == "rider"
    assert registry.search("rider", kind="entity", as_of=1).total == 0
    registry.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_purchase_count_30d", ["user", "purchase", "count", "30d"]),
        ("UserSpend", ["user", "spend"]),
        ("30 days, 30-day, 720h and 30d", ["30d"]),
        ("2 weeks", ["14d"]),
        ("the last 90 minutes", ["last", "90m"]),
        ("30 dyas", ["30d"]),
        ("500ms", ["500ms"]),
        ("3 users", ["3", "users"]),
        ("p95latency", ["p", "95", "latency"]),
        ("a month", ["month"]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    """Names fall apart, durations hold together, a month is no number of days."""
    assert words(text) == expected


def test_forms_of_one_word_share_a_stem() -> None:
    """English endings only."""
    assert {stem(word) for word in ("purchase", "purchases", "purchased", "purchasing")} == {
        "purchas"
    }
    assert (stem("days"), stem("deliveries"), stem("loss"), stem("is")) == (
        "day",
        "delivery",
        "loss",
        "is",
    )


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("user", "user", 0),
        ("usre", "user", 1),
        ("usr", "user", 1),
        ("uzer", "user", 1),
        ("abcd", "wxyz", 3),
    ],
)
def test_slips_are_counted_up_to_a_bound(left: str, right: str, expected: int) -> None:
    """Two swapped letters are one slip; beyond the bound it is only known to be more."""
    assert distance(left, right, 2) == expected


def test_short_words_and_numbers_are_taken_as_they_are() -> None:
    """A slip in three letters would be any word; another number is another thing."""
    vocabulary = Vocabulary(["fee", "30d", "amount"])
    assert vocabulary.like("fea") == {}
    assert vocabulary.like("31d") == {}
    assert vocabulary.like("amonut") == {"amount": 0.6}
