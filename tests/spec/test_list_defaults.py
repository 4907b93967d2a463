"""`default=` of features whose values are lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import DefinitionError
from tidemark.testing import features_at

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class User(tm.Entity):
    """A person who watches."""

    user_id: tm.Key[str]


class Watch(tm.Source, time="at"):
    """What was watched."""

    user_id: tm.Col[str]
    genre: tm.Col[str | None]
    price: tm.Col[Decimal | None] = tm.decimal(9, 2)
    taste: tm.Col[list[float] | None] = tm.vector(2)
    at: tm.Col[datetime]


ROWS = pa.table(
    {
        "user_id": ["ada", "bob"],
        "genre": ["noir", None],
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        "taste": pa.array([[0.5, 1.0], None], pa.list_(pa.float64(), 2)),
        "at": [NOON, NOON],
    }
)


class Watched(Watch, history=tm.frame(ROWS)):
    """The same, of a table."""


class Taste(tm.FeatureView, entity=User, source=Watched, max_age="1d"):
    """What a user likes."""

    genres = tm.last_n(Watch.genre, 3, default=[])
    favourites = tm.top_n(Watch.genre, 2, default=["drama"])
    prices = tm.first_n(Watch.price, 2, default=[Decimal("0.5")])
    taste = tm.last(Watch.taste, default=[0, 0.25])


KNOWN = {"genres": ["noir"], "favourites": ["noir"], "prices": [Decimal("1.50")]}
NOTHING = {"genres": [], "favourites": ["drama"], "prices": [Decimal("0.50")]}


@pytest.fixture
def store() -> Iterator[tm.Store]:
    """One user has watched something, one has values of nothing, all others are unknown."""
    with tm.connect(":memory:") as store:
        store.apply(store.plan([Taste]))
        store.materialize()
        yield store


def test_lists_of_nothing_are_the_default(store: tm.Store) -> None:
    """In training and online, of rows without values and of unknown users."""
    users = ["ada", "bob", "eve"]
    expected = [
        {**KNOWN, "taste": [0.5, 1.0]},
        {**NOTHING, "taste": [0.0, 0.25]},
        {**NOTHING, "taste": [0.0, 0.25]},
    ]
    labels = pa.table({"user_id": users, "t": [NOON] * 3})
    training = store.training_set(Taste, labels).to_arrow().drop(["user_id", "t"])
    vectors = store.online_many(Taste, [{"user_id": user} for user in users], at=NOON)
    assert training.to_pylist() == expected
    assert vectors.to_dicts() == expected
    assert vectors.to_arrow().to_pylist() == expected


def test_what_is_too_old_is_the_default(store: tm.Store) -> None:
    """Of the stored values, which can expire."""
    later = NOON + timedelta(days=1, microseconds=1)
    vector = store.online([Taste.genres, Taste.taste], {"user_id": "ada"}, at=later)
    assert vector == {"genres": [], "taste": [0.0, 0.25]}
    assert vector.status("genres") == "EXPIRED"


def test_a_caller_may_change_the_list(store: tm.Store) -> None:
    """The next one has the default again."""
    for _ in range(2):
        vector = store.online([Taste.genres], {"user_id": "eve"}, at=NOON)
        assert vector["genres"] == []
        vector["genres"].append("western")


def test_documents_say_lists() -> None:
    """As YAML writes them."""
    document = {
        "entities": {"user": {"keys": {"user_id": "string"}}},
        "sources": {
            "watch": {
                "time": "at",
                "columns": {"user_id": "string", "genre": "string", "at": "timestamp"},
            }
        },
        "views": {
            "taste": {
                "entity": "user",
                "source": "watch",
                "features": {
                    "genres": {"function": "last_n", "value": "genre", "n": 2, "default": ["drama"]}
                },
            }
        },
    }
    assert features_at(tm.load(document), [], {"user_id": "ada"}, at=NOON) == {"genres": ["drama"]}


@pytest.mark.parametrize("default", [[1], ["noir", 2], [["noir"]]])
def test_a_list_of_other_values_is_refused(default: list[object]) -> None:
    """With the line that says it."""
    with pytest.raises(DefinitionError) as raised:

        class Other(tm.FeatureView, entity=User, source=Watched):
            """Wrong."""

            genres = tm.last_n(Watch.genre, 2, default=default)  # type: ignore[arg-type]

    assert raised.value.what == f"Other.genres: the default {default!r} is not list<string>."
    assert "genres = tm.last_n" in raised.value.where
