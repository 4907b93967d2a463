"""Views whose windows move in steps: what they say of themselves."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from msgspec.structs import replace

import tidemark as tm
from tidemark import define
from tidemark.errors import StaleSource
from tidemark.model import prose
from tidemark.model.fingerprint import meaning
from tidemark.model.window import HOUR


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, time="at", timezone="UTC"):
    """Card purchases."""

    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Hourly(tm.FeatureView, entity=User, source=Purchase, step="1h"):
    """What a user bought, by the hour."""

    spend = tm.sum(Purchase.amount, over="7d", offset="1d")
    dearest = tm.max(Purchase.amount)


DOCUMENT = {
    "entities": {"User": {"keys": {"user_id": "string"}}},
    "sources": {
        "Purchase": {
            "time": "at",
            "columns": {"user_id": "string", "amount": "float64", "at": "timestamp"},
        }
    },
    "views": {
        "Hourly": {
            "entity": "User",
            "source": "Purchase",
            "step": "1h",
            "features": {"spend": {"function": "sum", "value": "amount", "over": "7d"}},
        }
    },
}


def test_a_class_and_a_document_say_the_step() -> None:
    assert define.lower([Hourly]).definitions.views[0].step == HOUR
    assert define.lower(tm.load(DOCUMENT)).definitions.views[0].step == HOUR


def test_a_sentence_says_the_step() -> None:
    definitions = define.lower([Hourly]).definitions
    view = definitions.views[0]
    assert prose.sentence(view, view.features[0], definitions.sources[0]) == (
        "Sum of amount over purchase, in the 7 days up to and including 1 day before the "
        "moment asked for, in steps of 1 hour; null if there were none."
    )


def test_another_step_is_another_meaning() -> None:
    """Without one, fingerprints are what they were before there were steps."""
    definitions = define.lower([Hourly]).definitions
    (view,), (source,) = definitions.views, definitions.sources
    kinds = {meaning(replace(view, step=step), view.features[0], source) for step in (0, 1, HOUR)}
    assert len(kinds) == 3


class Sale(tm.Source, time="at", unique=("order",)):
    """What people bought."""

    order: tm.Col[int]
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Busy(tm.FeatureView, entity=User, source=Sale, step="1h"):
    """What a user bought, by the hour."""

    spend = tm.sum(Sale.amount, over="5h")
    orders = tm.count(over="2h")
    spread = tm.stddev(Sale.amount)


BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=9)
NAMES = ["busy:spend", "busy:orders", "busy:spread"]


@pytest.fixture
def store() -> Iterator[tm.Store]:
    """A user with four thousand purchases in eight hours, pushed as they happened."""
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Busy]))
        opened.materialize()
        opened.push("sale", [sale(number) for number in range(4_000)])
        yield opened


def sale(number: int, **values: object) -> dict[str, object]:
    """A purchase every 7.2 seconds, the last one an hour ago."""
    at = BEGIN + timedelta(seconds=7.2 * number)
    return {"order": number, "user_id": "u1", "amount": number / 7, "at": at} | values


def trained(store: tm.Store, at: datetime) -> dict[str, object]:
    labels = pa.table({"user_id": ["u1"], "t": [at]})
    (row,) = store.training_set(NAMES, labels, time="t").to_arrow().to_pylist()
    return {name: value for name, value in row.items() if name not in {"user_id", "t"}}


def test_a_busy_entity_is_sums_of_steps(store: tm.Store) -> None:
    """Its state is as large as its hours are many, however much happens in them."""
    rows = [row for row in store._online._rows.values() if row.startswith(b"TMRW")]
    assert sum(map(len, rows)) < 10_000
    vector = store.online(NAMES, {"user_id": "u1"})
    assert dict(vector) == trained(store, vector.at)


def test_a_correction_of_what_is_in_a_sum_is_counted(store: tm.Store) -> None:
    """The entity is made anew of the event log, where its events are."""
    store.push("sale", [sale(17, amount=1e6), sale(4_001)])
    vector = store.online(NAMES, {"user_id": "u1"})
    assert dict(vector) == trained(store, vector.at)


def test_a_moment_before_an_event_of_a_sum_came_is_refused(store: tm.Store) -> None:
    """What a sum was before, only the events can tell: history is asked for that."""
    before = datetime.now(UTC)
    store.push("sale", [sale(4_002, at=BEGIN)])
    with pytest.raises(StaleSource) as caught:
        store.online(NAMES, {"user_id": "u1"}, at=before)
    assert "some of these events came later" in caught.value.what
    assert trained(store, before)["spread"] < trained(store, datetime.now(UTC))["spread"]
