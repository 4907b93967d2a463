"""The first day: define, plan, apply, train, materialize, serve; the vector is the training row."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import tidemark as tm
from tidemark.errors import NotFound, PlanConflict, RequestInvalid

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

FEATURES = '''
"""Card-fraud features."""
from datetime import datetime
import tidemark as tm


class User(tm.Entity):
    """A person with an account."""
    user_id: tm.Key[str]


class Purchase(
    tm.Source,
    history=tm.parquet("data/purchases/*.parquet"),
    time="purchased_at",
    timezone="UTC",
    unique=("order_id",),
):
    """Card purchases, as the payment gateway reported them."""
    order_id: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float]
    merchant: tm.Col[str]
    status: tm.Col[str]
    purchased_at: tm.Col[datetime]


class UserSpend(tm.FeatureView, entity=User, source=Purchase, owner="risk@acme.com"):
    """What a user has bought, counting settled purchases only."""
    settled = Purchase.status == "settled"

    purchases = tm.count(where=settled, over=("1h", "7d"))
    spend = tm.sum(Purchase.amount, where=settled, over=("7d", "30d"))
    typical = tm.mean(Purchase.amount, where=settled, over="30d")
    last_merchant = tm.last(Purchase.merchant)


class Checkout(tm.Request):
    """What the caller knows at decision time."""
    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount, typical=UserSpend.typical)
def amount_ratio(amount: float, typical: float | None) -> float:
    """This purchase against the user's 30-day mean; 1.0 for a new user."""
    return amount / typical if typical else 1.0


class Fraud(tm.FeatureService, owner="risk@acme.com"):
    """Inputs of the fraud model."""
    purchases_1h = UserSpend.purchases["1h"]
    spend_7d = UserSpend.spend["7d"]
    last_merchant = UserSpend.last_merchant
    ratio = amount_ratio
'''

PURCHASES = [
    # order, user, amount, merchant, status, hours before noon
    ("o1", "ada", 10.0, "books", "settled", 24 * 20),
    ("o2", "ada", 0.1, "tea", "settled", 24 * 7),
    ("o3", "ada", 0.2, "tea", "settled", 30),
    ("o3", "ada", 0.2, "tea", "settled", 30),
    ("o4", "ada", 99.0, "shoes", "declined", 2),
    ("o5", "ada", 0.3, "books", "settled", 1),
    ("o6", "bob", 5.0, "tea", "settled", 0),
]
FRAUD = ["purchases_1h", "spend_7d", "last_merchant", "ratio"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the features above and a few purchases, whose times carry no zone."""
    (tmp_path / "tidemark.toml").write_text('definitions = "fraud_features.py"')
    (tmp_path / "fraud_features.py").write_text(FEATURES)
    (tmp_path / "data" / "purchases").mkdir(parents=True)
    orders, users, amounts, merchants, statuses, hours = zip(*PURCHASES, strict=True)
    times = [(NOON - hour * HOUR).replace(tzinfo=None) for hour in hours]
    table = pa.table(
        {
            "order_id": orders,
            "user_id": users,
            "amount": amounts,
            "merchant": merchants,
            "status": statuses,
            "purchased_at": pa.array(times, pa.timestamp("us")),
        }
    )
    parquet.write_table(table, tmp_path / "data" / "purchases" / "1.parquet")
    return tmp_path


@pytest.fixture
def store(project: Path):
    with tm.connect(project) as opened:
        opened.apply(opened.plan())
        yield opened


def label_rows(*rows: tuple[str, datetime, float]) -> pa.Table:
    users, times, amounts = zip(*rows, strict=True)
    return pa.table({"user_id": users, "at": times, "amount": amounts})


LABELS = label_rows(
    ("bob", NOON, 10.0),
    ("ada", NOON, 1.0),
    ("ada", NOON - timedelta(microseconds=1), 1.0),
    ("eve", NOON, 7.0),
    ("ada", NOON, 1.0),
    ("ada", NOON - 24 * 21 * HOUR, 3.0),
)


def vectors_of(training: tm.TrainingSet, names: list[str] = FRAUD) -> list[dict[str, Any]]:
    return training.to_arrow().select(names).to_pylist()


def test_training_rows_are_the_features_as_they_stood(store: tm.Store) -> None:
    """Windows end at the label's moment; a duplicate delivery counts once; sums are exact."""
    training = store.training_set("fraud", LABELS)
    assert training.to_arrow().column_names == ["user_id", "at", "amount", *FRAUD]
    assert vectors_of(training) == [
        {"purchases_1h": 1, "spend_7d": 5.0, "last_merchant": "tea", "ratio": 2.0},
        {"purchases_1h": 0, "spend_7d": 0.5, "last_merchant": "books", "ratio": 1.0 / 2.65},
        {"purchases_1h": 1, "spend_7d": 0.6, "last_merchant": "books", "ratio": 1.0 / 2.65},
        {"purchases_1h": 0, "spend_7d": None, "last_merchant": None, "ratio": 1.0},
        {"purchases_1h": 0, "spend_7d": 0.5, "last_merchant": "books", "ratio": 1.0 / 2.65},
        {"purchases_1h": 0, "spend_7d": None, "last_merchant": None, "ratio": 1.0},
    ]


def test_label_columns_are_untouched(store: tm.Store) -> None:
    """One row out for each row in, in the caller's order."""
    table = store.training_set("fraud", LABELS).to_arrow()
    assert table.select(LABELS.column_names).equals(LABELS)


def test_labels_on_an_event_are_counted(store: tm.Store) -> None:
    """That is how a label leaks into its own features."""
    assert store.training_set("fraud", LABELS).report.coincident == {"user_spend": 1}


def test_a_vector_is_the_training_row(store: tm.Store) -> None:
    """Value by value, with `==`, for every label."""
    training = store.training_set("fraud", LABELS)
    store.materialize()
    for row, expected in zip(LABELS.to_pylist(), vectors_of(training), strict=True):
        vector = store.online(
            "fraud",
            {"user_id": row["user_id"]},
            request={"amount": row["amount"]},
            at=row["at"],
        )
        assert dict(vector) == expected


def test_many_vectors_are_the_training_rows(store: tm.Store) -> None:
    """In the order asked for, repeated and unknown entities included."""
    users = ["eve", "ada", "bob", "ada"]
    labels = label_rows(*((user, NOON, 2.0) for user in users))
    store.materialize()
    vectors = store.online_many(
        "fraud",
        [{"user_id": user} for user in users],
        request=[{"amount": 2.0}] * 4,
        at=NOON,
    )
    assert vectors.to_dicts() == vectors_of(store.training_set("fraud", labels))


def test_statuses_say_what_is_known(store: tm.Store) -> None:
    """A count of an unknown user is 0, and its status says that the user is unknown."""
    store.materialize()
    known = store.online("fraud", {"user_id": "ada"}, request={"amount": 1.0}, at=NOON)
    unknown = store.online("fraud", {"user_id": "eve"}, request={"amount": 1.0}, at=NOON)
    assert (known["spend_7d"], known.status("spend_7d")) == (0.5, "PRESENT")
    assert (unknown["purchases_1h"], unknown.status("purchases_1h")) == (0, "MISSING")
    assert known.age("last_merchant") == HOUR


def test_another_process_serves_the_same(store: tm.Store, project: Path) -> None:
    """Registry and state are on disk; the function is imported by its name."""
    store.materialize()
    asked: dict[str, Any] = {"request": {"amount": 1.0}, "at": NOON}
    with tm.connect(project) as other:
        vector = other.online("fraud", {"user_id": "ada"}, **asked)
        assert vector == store.online("fraud", {"user_id": "ada"}, **asked)
        assert vector["ratio"] == 1.0 / 2.65


def test_features_by_list_and_by_name(store: tm.Store) -> None:
    """A bare list is named as the features are."""
    training = store.training_set(["user_spend:spend_30d", "typical"], LABELS)
    assert vectors_of(training, ["spend_30d", "typical"])[1] == {"spend_30d": 10.6, "typical": 2.65}


def test_objects_are_accepted_wherever_names_are(store: tm.Store) -> None:
    """In a notebook the classes are at hand."""
    fraud = sys.modules["fraud_features"]
    store.materialize([fraud.UserSpend])
    by_object = store.online(fraud.Fraud, {"user_id": "ada"}, request={"amount": 1.0}, at=NOON)
    by_name = store.online("fraud", {"user_id": "ada"}, request={"amount": 1.0}, at=NOON)
    assert by_object == by_name
    training = store.training_set([fraud.UserSpend.spend["7d"]], LABELS)
    assert vectors_of(training, ["spend_7d"])[1] == {"spend_7d": 0.5}


def test_a_feature_straight_from_the_notebook(store: tm.Store) -> None:
    """What is not registered can be trained on; serving it needs a plan."""
    fraud = sys.modules["fraud_features"]

    class Visits(tm.FeatureView, entity=fraud.User, source=fraud.Purchase):
        """An idea."""

        visits = tm.count(over="30d")

    training = store.training_set([Visits.visits, fraud.UserSpend.typical], LABELS)
    assert vectors_of(training, ["visits"])[1] == {"visits": 5}
    with pytest.raises(NotFound):
        store.online([Visits.visits], {"user_id": "ada"}, at=NOON)


def test_an_edited_feature_is_not_the_applied_one(store: tm.Store) -> None:
    """Training on what is not served would be the very skew that this is for."""
    fraud = sys.modules["fraud_features"]

    class Edited(tm.FeatureView, entity=fraud.User, source=fraud.Purchase, name="user_spend"):
        """The mean of everything."""

        typical = tm.mean(fraud.Purchase.amount, over="30d")

    for read in (
        lambda: store.training_set([Edited.typical], LABELS),
        lambda: store.online([Edited.typical], {"user_id": "ada"}, at=NOON),
    ):
        with pytest.raises(PlanConflict, match="differs from what is applied"):
            read()


def test_asking_again_prepares_nothing(store: tm.Store) -> None:
    """`UserSpend.spend["7d"]` is a new object every time; what it asks for is not."""
    fraud = sys.modules["fraud_features"]
    store.materialize()
    for _ in range(3):
        store.online([fraud.UserSpend.spend["7d"], "typical"], {"user_id": "ada"}, at=NOON)
    assert len(store._readers) == 1


def test_objects_of_the_model_are_accepted(store: tm.Store) -> None:
    """A service or a view as the registry holds it."""
    definitions = store.registry.snapshot().definitions
    training = store.training_set(definitions.service("fraud"), LABELS)
    assert training.to_arrow() == store.training_set("fraud", LABELS).to_arrow()
    assert len(store.training_set([definitions.view("user_spend")], LABELS).features) == 6


def test_the_source_grows_and_the_vector_follows(store: tm.Store, project: Path) -> None:
    """Materializing again takes in what has come."""
    store.materialize()
    table = pa.table(
        {
            "order_id": ["o7"],
            "user_id": ["eve"],
            "amount": [3.0],
            "merchant": ["tea"],
            "status": ["settled"],
            "purchased_at": pa.array([NOON.replace(tzinfo=None)], pa.timestamp("us")),
        }
    )
    parquet.write_table(table, project / "data" / "purchases" / "2.parquet")
    store.materialize()
    vector = store.online("user_spend:spend_7d", {"user_id": "eve"}, at=NOON)
    assert vector["spend_7d"] == 3.0


@pytest.mark.parametrize(
    ("features", "error"),
    [("froud", NotFound), (["user_spend:spent"], NotFound), ([], RequestInvalid)],
)
def test_features_that_are_not_there(
    store: tm.Store, features: object, error: type[Exception]
) -> None:
    """In training and in serving alike."""
    with pytest.raises(error):
        store.training_set(features, LABELS)
    with pytest.raises(error):
        store.online(features, {"user_id": "ada"}, at=NOON)
