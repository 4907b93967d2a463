"""Duplicates: one meaning under two names is found, shown, and needs a reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa
import pytest
from msgspec.structs import replace

import tidemark as tm
from tidemark.errors import PlanConflict, RequestInvalid
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Column, Literal
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureView,
    Field,
    Input,
    OnDemand,
    Parquet,
    Reference,
    Source,
)
from tidemark.model.twins import twins
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP
from tidemark.model.window import DAY, Window
from tidemark.registry import Registry

USER = Entity(name="user", keys=(Field("user_id", STRING),))
SETTLED = Call("eq", (Column("status"), Literal("settled", STRING)))
MONTH = Window("sliding", 30 * DAY)


def source(name: str = "purchase", **changes: object) -> Source:
    made = Source(
        name=name,
        columns=(
            Field("user_id", STRING),
            Field("amount", FLOAT64),
            Field("status", STRING),
            Field("at", TIMESTAMP),
        ),
        time="at",
        timezone="UTC",
        history=Parquet("data/*.parquet"),
    )
    return replace(made, **changes)


def count(name: str = "purchases_30d", window: Window = MONTH, **changes: object) -> Feature:
    aggregate = Aggregate("count", None, SETTLED, window)
    return Feature(name=name, aggregate=replace(aggregate, **changes), type=INT64)


def view(name: str, *features: Feature, **more: object) -> FeatureView:
    facts = {"entity": "user", "source": "purchase", "keys": ("user_id",), **more}
    return FeatureView(name=name, features=features, **facts)


def define(*objects: object) -> Definitions:
    return Definitions.of([USER, source(), *objects])


GROWTH = view("growth", count(), owner="growth@acme.com")


def found(definitions: Definitions, kind: str) -> list[tuple[str, str]]:
    return [(twin.first, twin.second) for twin in twins(definitions) if twin.kind == kind]


class TestSame:
    """The same values, whatever the names."""

    def test_another_name_in_another_view(self) -> None:
        """Names, owners and descriptions do not make another meaning."""
        risk = view("risk", count("tx_cnt"), owner="risk@acme.com")
        assert found(define(GROWTH, risk), "same") == [("growth:purchases_30d@1", "risk:tx_cnt@1")]

    def test_another_name_in_the_same_view(self) -> None:
        """Whoever wrote both forgot one."""
        both = view("growth", count(), count("orders"))
        assert found(define(both), "same") == [("growth:orders@1", "growth:purchases_30d@1")]

    def test_another_source_that_reads_the_same_history_in_the_same_way(self) -> None:
        """What a source is called does not matter, where it lies does."""
        risk = view("risk", count("tx"), source="payments")
        pair = [("growth:purchases_30d@1", "risk:tx@1")]
        assert found(define(GROWTH, risk, source("payments")), "same") == pair
        elsewhere = source("payments", history=Parquet("other/*.parquet"))
        assert found(define(GROWTH, risk, elsewhere), "same") == []

    def test_sources_without_a_history_are_what_they_are_called(self) -> None:
        """Two streams of one shape are two streams."""
        streams = [source(name, history=None) for name in ("clicks", "taps")]
        views = [view(f"of_{each.name}", count(), source=each.name) for each in streams]
        assert twins(define(*streams, *views)) == ()

    def test_another_entity_by_the_same_column(self) -> None:
        """Two entities that share a key column share its features."""
        buyer = Entity(name="buyer", keys=(Field("user_id", STRING),))
        risk = view("risk", count(), entity="buyer")
        assert len(found(define(buyer, GROWTH, risk), "same")) == 1

    def test_a_max_age_where_nothing_is_stored(self) -> None:
        """It says nothing about a count."""
        assert len(found(define(GROWTH, view("risk", count(), max_age=DAY)), "same")) == 1

    def test_versions_of_one_feature_are_none(self) -> None:
        """They have one name."""
        both = view("growth", count(), replace(count(), version=2))
        assert twins(define(both)) == ()

    def test_on_demand_features(self) -> None:
        """One function of the same values."""
        given = (Input("n", Reference("feature", "purchases_30d", "growth")),)
        one, other = (
            OnDemand(name=name, function="shared:f", inputs=given, type=FLOAT64)
            for name in ("busy", "active")
        )
        assert found(define(GROWTH, one, other), "same") == [("active@1", "busy@1")]
        other = replace(other, function="shared:g")
        assert found(define(GROWTH, one, other), "same") == []

    def test_on_demand_features_of_equal_code(self) -> None:
        """Wherever the functions lie; two that give different types are two."""
        given = (Input("n", Reference("feature", "purchases_30d", "growth")),)
        one, other = (
            OnDemand(name=name, function=f"{name}:f", inputs=given, type=FLOAT64, code="c0de")
            for name in ("busy", "active")
        )
        assert found(define(GROWTH, one, other), "same") == [("active@1", "busy@1")]
        for changed in (
            replace(other, code="0dd"),
            replace(other, type=INT64),
            replace(other, inputs=(Input("m", given[0].reference),)),
        ):
            assert found(define(GROWTH, one, changed), "same") == []


class TestNear:
    """The same source, entity, aggregate and value; something else differs."""

    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            (view("risk", count(window=Window("sliding", 28 * DAY))), [("window", "30d", "28d")]),
            (view("risk", count(where=None)), [("where", "status = 'settled'", None)]),
            (
                view("risk", count(window=replace(MONTH, offset=DAY))),
                [("offset", None, "1d")],
            ),
            (view("risk", count(), bound="before"), [("bound", None, "before")]),
            (
                view("risk", count(), source="payments"),
                [("timezone", "UTC", "America/New_York")],
            ),
            (
                view("risk", count(window=Window("to_date", unit="month", zone="Europe/Paris"))),
                [("window", "30d", "month so far"), ("zone", None, "Europe/Paris")],
            ),
        ],
    )
    def test_what_differs_is_shown_field_by_field(
        self, other: FeatureView, expected: list[tuple[str, str | None, str | None]]
    ) -> None:
        """Each field with its value here and there."""
        payments = source("payments", timezone="America/New_York")
        (twin,) = twins(define(GROWTH, other, payments))
        assert twin.kind == "near"
        assert [(each.field, each.before, each.after) for each in twin.differences] == expected

    def test_another_value_or_aggregate_is_another_feature(self) -> None:
        """Nobody takes a sum for a count."""
        amount = Feature(
            name="spend", aggregate=Aggregate("sum", Column("amount"), SETTLED, MONTH), type=FLOAT64
        )
        assert twins(define(GROWTH, view("risk", amount))) == ()

    def test_features_of_one_view_are_not_held_against_it(self) -> None:
        """Their author saw both."""
        both = view("growth", count(), count("week", Window("sliding", 7 * DAY)))
        assert twins(define(both)) == ()

    def test_columns_of_another_type(self) -> None:
        """Two declarations of one file disagree on what is in it."""
        text = source("payments", columns=(*source().columns[:2], Field("status", INT64)))
        number = replace(count(), aggregate=Aggregate("count", Column("status"), window=MONTH))
        views = view("growth", number), view("risk", number, source="payments")
        (twin,) = twins(define(text, *views))
        assert [each.field for each in twin.differences] == ["columns"]

    def test_in_a_crowd(self) -> None:
        """Among many, those with a single difference are still found."""
        crowd = [
            view(f"v{number}", count(window=Window("sliding", DAY + number), where=None))
            for number in range(400)
        ]
        told = found(define(GROWTH, *crowd), "near")
        assert ("v0:purchases_30d@1", "v100:purchases_30d@1") in told
        assert len(told) <= 3 * 400

    def test_only_the_nearest_are_told(self) -> None:
        """Of a family of windows, the one that fits best."""
        weeks = Window("sliding", 7 * DAY)
        risk = view("risk", count("a", where=None), count("b", weeks, where=None))
        assert found(define(GROWTH, risk), "near") == [
            ("growth:purchases_30d@1", "risk:a@1"),
            ("growth:purchases_30d@1", "risk:b@1"),
        ]
        assert [
            (twin.first, twin.second)
            for twin in twins(define(GROWTH, risk), {"growth:purchases_30d@1"})
        ] == [("growth:purchases_30d@1", "risk:a@1")]


class TestPlan:
    """What is new is compared with all that there is."""

    @pytest.fixture
    def registry(self) -> Registry:
        made = Registry("sqlite://")
        made.apply(made.plan(define(GROWTH)))
        yield made
        made.close()

    def test_a_second_name_is_refused(self, registry: Registry) -> None:
        """The error names the one that is there and its owner."""
        plan = registry.plan(define(GROWTH, view("risk", count("tx"))))
        with pytest.raises(PlanConflict) as error:
            registry.apply(plan)
        assert str(error.value) == (
            "The same meaning would have two names.\n"
            "  growth:purchases_30d@1 (growth@acme.com) means the same as risk:tx@1\n"
            "  Use the one that is there; or keep both and say why: tidemark apply "
            '--allow-duplicate risk:tx --reason "...", '
            "store.apply(plan, allow_duplicates=[...], reason=...)."
        )
        assert "Refused unless allowed" in str(plan)

    def test_the_one_that_is_new_is_the_one_to_allow(self, registry: Registry) -> None:
        """Whichever name comes first."""
        plan = registry.plan(define(GROWTH, view("alpha", count("tx"))))
        with pytest.raises(PlanConflict, match="--allow-duplicate alpha:tx"):
            plan.check()

    def test_it_is_allowed_with_a_reason_that_is_kept(self, registry: Registry) -> None:
        """The history says why, and of which."""
        plan = registry.plan(define(GROWTH, view("risk", count("tx"))))
        with pytest.raises(RequestInvalid, match="need a reason"):
            registry.apply(plan, allow_duplicates=["risk:tx"])
        registry.apply(plan, allow_duplicates=["risk:tx"], reason="migration until May")
        assert registry.snapshot().reason == (
            "migration until May (duplicates allowed: growth:purchases_30d@1 = risk:tx@1)"
        )

    def test_what_was_allowed_is_not_asked_again(self, registry: Registry) -> None:
        """Only what a plan adds is compared."""
        both = define(GROWTH, view("risk", count("tx")))
        registry.apply(registry.plan(both), allow_duplicates=["risk:tx"], reason="why")
        more = define(GROWTH, view("risk", count("tx"), description="More words."))
        assert registry.plan(more).twins == ()
        assert len(registry.duplicates()) == 1

    def test_allowing_one_allows_no_other(self, registry: Registry) -> None:
        """Each is named."""
        plan = registry.plan(define(GROWTH, view("risk", count("tx"))))
        with pytest.raises(PlanConflict, match="two names"):
            registry.apply(plan, allow_duplicates=["risk:ty"], reason="why")

    def test_a_near_twin_is_shown_and_applied(self, registry: Registry) -> None:
        """It may well be meant."""
        plan = registry.plan(define(GROWTH, view("risk", count(where=None))))
        assert "growth:purchases_30d@1 (growth@acme.com) is nearly risk:purchases_30d@1" in str(
            plan
        )
        assert plan.to_dict()["twins"][0]["kind"] == "near"
        assert registry.apply(plan).revision == 2


class TestByValue:
    """What the definitions cannot know, a sample can."""

    START = datetime(2026, 1, 1, tzinfo=UTC)

    @pytest.fixture
    def store(self) -> tm.Store:
        rows = [
            {
                "user_id": f"u{user}",
                "amount": float(user + day),
                "state": "done" if (user + day) % 5 else "open",
                "at": self.START + timedelta(days=day),
            }
            for user in range(60)
            for day in range(8)
        ]

        class User(tm.Entity):
            user_id: tm.Key[str]

        class Purchase(tm.Source, history=tm.frame(pa.Table.from_pylist(rows)), time="at"):
            user_id: tm.Col[str]
            amount: tm.Col[float]
            state: tm.Col[str]
            at: tm.Col[datetime]

        class Ours(tm.FeatureView, entity=User, source=Purchase, owner="growth@acme.com"):
            spend = tm.sum(Purchase.amount, where=Purchase.state == "done", over="30d")
            constant = tm.count(over="1us")

        class Theirs(tm.FeatureView, entity=User, source=Purchase):
            total = tm.sum(Purchase.amount, where=~(Purchase.state == "open"), over="60d")
            largest = tm.max(Purchase.amount)

        with tm.connect(":memory:") as opened:
            opened.apply(opened.plan([Ours, Theirs]))
            yield opened

    def test_two_spellings_of_one_filter(self, store: tm.Store) -> None:
        """Another filter and another window that happen to give the same."""
        (twin,) = store.registry.value_twins()
        assert (twin.first, twin.second) == ("ours:spend@1", "theirs:total@1")
        assert (twin.agreement, twin.owners) == (1.0, ("growth@acme.com", ""))
        assert twin.rows == 180
        assert (
            str(twin)
            == "ours:spend@1 (growth@acme.com) equals theirs:total@1 on 100.0% of 180 rows"
        )

    def test_the_sample_is_the_same_at_every_call(self, store: tm.Store) -> None:
        """A report can be compared with the one of yesterday."""
        one, again = (store.registry.value_twins(entities=20) for _ in range(2))
        assert one == again
        assert one[0].rows == 60

    def test_the_share_is_asked_for(self, store: tm.Store) -> None:
        """Whatever agrees less is not told; nothing agrees on more than all."""
        assert store.registry.value_twins(least=1.01) == ()

    def test_a_plan_compares_what_it_adds(self, store: tm.Store) -> None:
        """If it is asked to; the new one is named first, and what was there before is not told."""
        definitions = list(store.registry.snapshot().definitions)
        (theirs,) = (each for each in definitions if each.name == "theirs")
        renamed = msgspec.structs.replace(
            theirs,
            name="again",
            features=tuple(each for each in theirs.features if each.name == "largest"),
        )
        definitions.append(renamed)
        assert store.plan(definitions).alike is None
        plan = store.plan(definitions, values=True)
        assert plan.alike is not None
        assert [(each.feature, each.other) for each in plan.alike] == [
            ("again:largest@1", "theirs:largest@1")
        ]
        line = "again:largest@1 equals theirs:largest@1 on 100.0% of 180 rows of a sample"
        assert f"= {line}" in str(plan)
        assert f"Twins by value: {line}" in plan.to_markdown()
        assert plan.to_dict()["alike"][0]["agreement"] == 1.0
