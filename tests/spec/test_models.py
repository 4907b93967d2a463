"""Models: pinned to exact versions, and asked before a value that they receive can change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from msgspec.structs import replace

import tidemark as tm
from tidemark.errors import NotFound, PlanConflict
from tidemark.model.graph import Definitions
from tidemark.registry import Plan, Registry

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROWS = pa.table(
    {
        "user_id": ["u1", "u1"],
        "amount": [1.0, 4.0],
        "at": pa.array([NOON - timedelta(days=n) for n in (1, 2)], pa.timestamp("us", "UTC")),
    }
)
LABELS = pa.table({"user_id": ["u1"], "t": pa.array([NOON], pa.timestamp("us", "UTC"))})


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(ROWS), time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    total = tm.sum(Purchase.amount, over="30d")
    visits = tm.count(over="30d")


class Fraud(tm.FeatureService):
    spent = "spend:total@1"


class Largest(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    total = tm.max(Purchase.amount, over="30d", version=2)
    visits = tm.count(over="30d")


class MovedFraud(tm.FeatureService, name="fraud"):
    spent = Largest.total


@pytest.fixture
def store():
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Spend, Fraud]))
        opened.registry.register_model("fraud", 3, service="fraud", owner="risk@acme.com")
        yield opened


@pytest.fixture
def registry(store: tm.Store) -> Registry:
    return store.registry


def later(store: tm.Store) -> Plan:
    """A plan that changes what every feature of the source means."""
    said = store.registry.snapshot().definitions
    return store.registry.plan(replace(said, sources=(replace(said.sources[0], delay=60_000_000),)))


class TestPins:
    def test_a_model_keeps_its_versions(self, store: tm.Store):
        """The service moved on; the model reads what it was built on."""
        store.apply(store.plan([Largest, MovedFraud]))
        store.materialize(until=NOON)
        key = {"user_id": "u1"}
        assert store.online("fraud", key, at=NOON).to_dict() == {"spent": 4.0}
        assert store.online("model:fraud@3", key, at=NOON).to_dict() == {"spent": 5.0}
        assert store.online(store.registry.model("fraud", 3), key, at=NOON)["spent"] == 5.0

    def test_and_trains_on_them(self, store: tm.Store):
        """The same spelling for training."""
        store.apply(store.plan([Largest, MovedFraud]))
        training = store.training_set("model:fraud@3", LABELS)
        assert training.to_arrow()["spent"].to_pylist() == [5.0]

    def test_models_move_one_by_one(self, store: tm.Store):
        """A new version of the model is pinned to what the service reads now."""
        store.apply(store.plan([Largest, MovedFraud]))
        made = store.registry.register_model("fraud", 4, service="fraud")
        assert [str(output.reference) for output in made.outputs] == ["spend:total@2"]
        assert store.registry.model("fraud") == made
        assert store.registry.model("fraud", 3).outputs != made.outputs

    def test_of_a_list_of_features(self, registry: Registry):
        """A service is not needed."""
        made = registry.register_model("churn", 1, service=["spend:visits"])
        assert (made.service, [output.name for output in made.outputs]) == ("", ["visits"])

    def test_of_a_class(self, registry: Registry):
        """Objects are accepted wherever names are."""
        assert registry.register_model("churn", 1, service=Fraud).service == "fraud"

    def test_pins_never_change(self, store: tm.Store):
        """The next version number is offered."""
        store.apply(store.plan([Largest, MovedFraud]))
        with pytest.raises(PlanConflict, match="registered with other features") as caught:
            store.registry.register_model("fraud", 3, service="fraud")
        assert caught.value.where == "spent: spend:total@1 -> spend:total@2"
        assert caught.value.remedy.endswith("register version 4.")

    def test_owner_and_stage_may_change(self, registry: Registry):
        """They are about the model, not of it."""
        registry.register_model("fraud", 3, service="fraud", owner="ada", stage="retired")
        assert (registry.model("fraud").owner, registry.model("fraud").stage) == ("ada", "retired")

    def test_registering_the_same_again_makes_no_revision(self, registry: Registry):
        """A deployment may run as often as it likes."""
        before = registry.snapshot().revision
        registry.register_model("fraud", 3, service="fraud", owner="risk@acme.com")
        assert registry.snapshot().revision == before

    def test_an_unknown_model(self, store: tm.Store):
        """The nearest one is suggested."""
        with pytest.raises(NotFound, match="no model 'fraud@9'") as caught:
            store.online("model:fraud@9", {"user_id": "u1"})
        assert "fraud@3" in caught.value.remedy

    def test_a_model_without_its_prefix(self, store: tm.Store):
        """What was probably meant is named."""
        store.registry.register_model("churn", 1, service=["spend:visits"])
        for asked, meant in (("churn@1", "model:churn@1"), ("fraud@3", "model:fraud@3")):
            with pytest.raises(NotFound) as caught:
                store.online(asked, {"user_id": "u1"})
            assert f'"{meant}"' in caught.value.remedy

    def test_an_unknown_dataset(self, registry: Registry):
        """A model is not built on what is not kept."""
        with pytest.raises(NotFound, match="no dataset 'march'"):
            registry.register_model("fraud", 4, service="fraud", dataset="march")

    def test_a_draft_is_nothing_for_production(self, store: tm.Store):
        """It may still change."""
        store.apply(store.plan([Largest, MovedFraud]), draft=True)
        with pytest.raises(PlanConflict, match="would read drafts"):
            store.registry.register_model("fraud", 4, service="fraud")
        store.registry.register_model("fraud", 4, service="fraud", stage="development")

    def test_describe_tells_of_it(self, store: tm.Store):
        """What it reads and whose it is; and the feature names its readers."""
        facts = store.describe("model:fraud@3")
        assert (facts["name"], facts["owner"]) == ("fraud@3", "risk@acme.com")
        assert facts["outputs"] == {"spent": "float64  spend:total@1"}
        assert store.describe("spend:total")["read_by"] == ["service fraud", "model fraud@3"]

    def test_a_version_of_what_has_none_is_not_passed_over(self, store: tm.Store):
        """It would be told as if it were that one; where a model is meant, its name is said."""
        with pytest.raises(NotFound) as caught:
            store.describe("fraud@3")
        assert str(caught.value) == (
            "There is no 'fraud@3': a service has no versions.\n  The model is \"model:fraud@3\"."
        )
        with pytest.raises(NotFound, match="a view has no versions") as caught:
            store.describe("spend@1")
        assert caught.value.remedy == 'Ask for "spend".'


class TestConfirmation:
    def test_a_changed_source_needs_each_models_consent(self, store: tm.Store):
        """Applying names who must confirm, and changes nothing."""
        plan = later(store)
        assert [(impact.model, impact.owner) for impact in plan.models] == [
            ("fraud@3", "risk@acme.com")
        ]
        assert plan.models[0].through == ("spend:total@1",)
        with pytest.raises(PlanConflict, match="not confirmed: fraud@3") as caught:
            store.apply(plan)
        assert caught.value.where == "fraud@3: by risk@acme.com, for spend:total@1"
        assert caught.value.unconfirmed == ("fraud@3",)
        assert later(store).base == plan.base

    def test_with_it_the_plan_is_applied(self, store: tm.Store):
        """The consent is kept in the revision that rested on it."""
        plan = later(store)
        store.registry.confirm(plan, model="fraud@3", by="risk@acme.com")
        assert "model fraud@3 confirmed by risk@acme.com" in str(later(store))
        store.apply(plan)
        (confirmation,) = store.registry.snapshot().records.confirmations
        assert (confirmation.plan, confirmation.by) == (plan.digest, "risk@acme.com")
        store.registry.deprecate("spend:visits")
        assert store.registry.snapshot().records.confirmations == ()

    def test_consent_is_for_one_plan(self, store: tm.Store):
        """Another plan is asked for again."""
        store.registry.confirm(later(store), model="fraud@3", by="risk@acme.com")
        with pytest.raises(PlanConflict, match="not confirmed"):
            store.apply(store.plan([Spend, Fraud], restated=[Purchase]))

    def test_not_everybody_can(self, store: tm.Store):
        """Its owner, or an administrator."""
        with pytest.raises(PlanConflict, match="eve cannot confirm for fraud@3"):
            store.registry.confirm(later(store), model="fraud@3", by="eve")

    def test_an_administrator_can(self, store: tm.Store):
        """For models whose owner left."""
        store.registry.administrators = ("eve",)
        plan = later(store)
        store.registry.confirm(plan, model="fraud@3", by="eve")
        assert store.apply(plan).revision == 3

    def test_a_model_that_is_not_reached(self, store: tm.Store):
        """There is nothing to consent to."""
        store.registry.register_model("old", 1, service="fraud", owner="ada", stage="retired")
        with pytest.raises(PlanConflict, match="does not need a confirmation for old@1"):
            store.registry.confirm(later(store), model="old@1", by="ada")

    def test_a_rewritten_history_needs_it(self, store: tm.Store):
        """And names the datasets and models that it reaches."""
        plan = store.plan([Spend, Fraud], restated=[Purchase])
        assert "model fraud@3" in plan.changes[0].affects
        assert plan.unconfirmed

    def test_another_engine_epoch_needs_it(self, store: tm.Store, monkeypatch: pytest.MonkeyPatch):
        """A release of Tidemark that computes otherwise."""
        for module in ("plan", "planning"):
            monkeypatch.setattr(f"tidemark.registry.{module}.ENGINE_EPOCH", 2)
        assert store.plan([Spend, Fraud]).unconfirmed

    @pytest.mark.parametrize("objects", [[Largest, Fraud], [Spend]])
    def test_what_alters_no_value_needs_none(self, store: tm.Store, objects: list[type]):
        """New versions, and services that go: the model keeps its pins."""
        plan = store.plan(objects)
        assert (plan.models, plan.empty) == ((), False)
        store.apply(plan)

    def test_a_stale_plan_cannot_be_confirmed(self, store: tm.Store):
        """It cannot be applied either."""
        plan = later(store)
        store.registry.deprecate("spend:visits")
        with pytest.raises(PlanConflict, match="the registry is at 3"):
            store.registry.confirm(plan, model="fraud@3", by="risk@acme.com")

    def test_definitions_of_the_time(self, store: tm.Store):
        """What the model was pinned to is readable as of then."""
        then: Definitions = store.registry.snapshot(2).definitions
        store.apply(store.plan([Largest, MovedFraud]))
        assert store.registry.snapshot("r2").definitions == then
        assert store.describe("spend:total", as_of=2)["name"] == "spend:total@1"
        assert store.describe("spend:total")["name"] == "spend:total@2"
