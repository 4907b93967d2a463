"""What is written may name by text what is defined elsewhere: in a notebook, or applied before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import DefinitionError

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(
    tm.Source,
    history=tm.frame(pa.table({"user_id": ["ada"], "amount": [40.0], "at": [NOON]})),
    time="at",
):
    """What was bought."""

    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class UserSpend(tm.FeatureView, entity=User, source=Purchase):
    """What a user has bought."""

    spend = tm.sum(Purchase.amount, over=("7d", "30d"))


class Checkout(tm.Request):
    """What the caller knows."""

    amount: tm.Col[float]


@tm.on_demand(amount="checkout.amount", spend="user_spend:spend_7d")
def share(amount: float, spend: float | None) -> float:
    """This purchase as a share of the week."""
    return amount / spend if spend else 1.0


class Fraud(tm.FeatureService):
    """Inputs of the fraud model."""

    week = "user_spend:spend_7d"
    month = "user_spend:spend_30d@1"
    share = "share"


class Typo(tm.FeatureService):
    """Names what is nowhere."""

    week = "user_spend:spent_7d"


LABELS = pa.table({"user_id": ["ada"], "amount": [10.0], "t": [NOON]})


@pytest.fixture
def store() -> Iterator[tm.Store]:
    """The view and the function are applied, the service is not."""
    with tm.connect(":memory:") as store:
        store.apply(store.plan([UserSpend, Checkout, share]))
        store.materialize()
        yield store


def test_a_service_names_its_features() -> None:
    """Applied together with what it names, it serves that."""
    with tm.connect(":memory:") as store:
        store.apply(store.plan([Fraud, share, Checkout, UserSpend]))
        store.materialize()
        vector = store.online(Fraud, {"user_id": "ada"}, request={"amount": 10.0}, at=NOON)
        assert vector == {"week": 40.0, "month": 40.0, "share": 0.25}


def test_a_service_names_what_is_applied(store: tm.Store) -> None:
    """Planned alone, it need not bring along what the registry has."""
    plan = store.plan([Fraud])
    assert [change.title for change in plan.changes] == ["service fraud"]
    store.apply(plan)
    row = store.training_set(Fraud, LABELS).to_arrow().select(["week", "month", "share"])
    assert row.to_pylist() == [{"week": 40.0, "month": 40.0, "share": 0.25}]


class Everything(tm.FeatureService, features=["user_spend", "share"]):
    """All that the view has, and a function."""


def test_a_view_in_the_list_of_a_service_is_each_of_its_features(store: tm.Store) -> None:
    """By its name as by its class, and in documents as in classes."""
    loaded = tm.load({"services": {"all": {"features": ["user_spend"]}}})
    store.apply(store.plan([Everything, loaded]))
    names = ["spend_7d", "spend_30d"]
    found = store.training_set(Everything, LABELS).to_arrow().column_names
    assert found == [*LABELS.column_names, *names, "share"]
    assert list(store.online("all", {"user_id": "ada"}, at=NOON)) == names


def test_a_service_is_trained_on_before_it_is_applied(store: tm.Store) -> None:
    """As any other object of a notebook."""
    row = store.training_set(Fraud, LABELS).to_arrow().select(["week", "month", "share"])
    assert row.to_pylist() == [{"week": 40.0, "month": 40.0, "share": 0.25}]


def test_what_is_named_is_missing_when_it_is_planned(store: tm.Store) -> None:
    """Not where the class is written, since it may be defined further down."""
    with pytest.raises(DefinitionError) as raised:
        store.plan([Typo])
    assert raised.value.what == "Typo.week: There is no feature of user_spend 'spent_7d'."
    assert raised.value.remedy == "Did you mean 'spend_7d'?"
    assert 'week = "user_spend:spent_7d"' in raised.value.where


def test_a_document_names_what_is_applied(store: tm.Store) -> None:
    """Its entity by the key, its source, and the features of its services."""
    loaded = tm.load(
        {
            "features": {
                "purchases": {
                    "entity": "user_id",
                    "source": "purchase",
                    "aggregation": {"function": "count", "window": "30d", "filter": "amount > 1"},
                }
            },
            "services": {"fraud": {"features": ["user_spend:spend_7d", "purchases:purchases"]}},
        }
    )
    store.apply(store.plan(loaded))
    row = store.training_set("fraud", LABELS).to_arrow().select(["spend_7d", "purchases"])
    assert row.to_pylist() == [{"spend_7d": 40.0, "purchases": 1}]
    counted = store.training_set(tm.load(loaded_view()), LABELS).to_arrow()["purchases"]
    assert counted.to_pylist() == [1]


def loaded_view() -> dict[str, object]:
    """The feature of the document alone, as YAML of its own says it."""
    return {
        "name": "purchases",
        "entity": "user_id",
        "source": "purchase",
        "type": "int64",
        "aggregation": {"function": "count", "window": "30d", "filter": "amount > 1"},
    }
