"""Online rows of views that nothing defines any more: they go, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import NotFound

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROWS = pa.table(
    {
        "user_id": ["u1", "u2"],
        "amount": [1.0, 2.0],
        "at": pa.array([NOON - timedelta(days=n) for n in (1, 2)], pa.timestamp("us", "UTC")),
    }
)
KEY = {"user_id": "u1"}


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(ROWS), time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    total = tm.sum(Purchase.amount, over="30d")
    visits = tm.count(over="30d")


class Spender(tm.FeatureView, entity=User, source=Purchase, name="spend_er"):
    """A name that begins as the other one does."""

    largest = tm.max(Purchase.amount, over="30d")


@pytest.fixture
def store() -> Iterator[tm.Store]:
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Spend, Spender]))
        opened.materialize(until=NOON)
        yield opened


def keys(store: tm.Store, name: str) -> int:
    """How many keys of the online store mention a view: its record, what it holds, its rows."""
    named = b"\xa5spend" if name == "spend" else name.encode()
    return sum(named in key for key in store._online._rows)


def test_rows_of_a_view_go_when_all_of_it_is_retired(store: tm.Store) -> None:
    """By the next materialization, of whichever views, and that says so."""
    assert keys(store, "spend") == 1 + 1 + 2
    store.registry.retire("spend:total")
    store.registry.retire("spend:visits")
    done = store.materialize("spend_er", until=NOON)
    assert done.gone == ("spend",)
    assert repr(done).splitlines()[-1] == "  spend: rows deleted, as nothing defines it any more"
    assert keys(store, "spend") == 0
    assert store.online("spend_er", KEY, at=NOON)["largest"] == 1.0


def test_rows_stay_while_one_feature_is_published(store: tm.Store) -> None:
    """Another one being retired is no reason."""
    store.registry.retire("spend:total")
    assert store.materialize("spend_er", until=NOON).gone == ()
    assert store.online("spend:visits", KEY, at=NOON)["visits"] == 1


def test_rows_stay_while_a_view_is_kept_by_the_registry_only(store: tm.Store) -> None:
    """A published view that left the definitions serves on."""
    store.apply(store.plan([Spender]))
    assert store.materialize(until=NOON).gone == ()
    assert store.online("spend:total", KEY, at=NOON)["total"] == 1.0


def test_rows_of_a_draft_go_when_it_leaves_the_definitions() -> None:
    """Nothing was promised."""
    with tm.connect(":memory:") as store:
        store.apply(store.plan([Spend]), draft=True)
        store.materialize(until=NOON)
        store.apply(store.plan([Spender]))
        assert store.materialize(until=NOON).gone == ("spend",)
        assert keys(store, "spend") == 0


def test_they_go_once(store: tm.Store) -> None:
    """The next materialization has nothing to delete."""
    store.registry.retire("spend:total")
    store.registry.retire("spend:visits")
    store.materialize(until=NOON)
    assert store.materialize(until=NOON).gone == ()


def test_a_view_that_comes_back_is_materialized_again(store: tm.Store) -> None:
    """As if it had never been away."""
    for name in ("spend:total@1", "spend:visits@1"):
        store.registry.retire(name)
    store.materialize(until=NOON)
    for name in ("spend:total@1", "spend:visits@1"):
        store.registry.publish(name)
    store.apply(store.plan([Spend, Spender]))
    store.materialize(until=NOON)
    assert store.online("spend:total", KEY, at=NOON)["total"] == 1.0


def test_what_a_registry_published_after_the_read_is_not_deleted(store: tm.Store) -> None:
    """Whether a view is gone is asked when nobody else can materialize, not before."""
    for name in ("spend:total@1", "spend:visits@1"):
        store.registry.retire(name)
    store.describe()  # the revision without the view is known here
    lock = store._online.lock

    def late(purpose: str) -> object:
        for name in ("spend:total@1", "spend:visits@1"):
            store.registry.publish(name)
        store.apply(store.plan([Spend, Spender]))
        return lock(purpose)

    store._online.lock = late  # type: ignore[method-assign,assignment]
    assert store.materialize("spend_er", until=NOON).gone == ()
    assert store.online("spend:total", KEY, at=NOON)["total"] == 1.0


def test_where_nothing_is_defined_nothing_is_written() -> None:
    """Not even the list of views."""
    with tm.connect(":memory:") as store:
        assert store.materialize(until=NOON).views == ()
        assert store._online._rows == {}


def test_rows_of_another_registry_are_not_ours(tmp_path: Path) -> None:
    """Two projects without a name that share an online store do not tidy each other's views."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        online = tmp_path / "online"
        (tmp_path / name / "tidemark.toml").write_text(f'online = "lmdb://{online}"\n')
    with tm.connect(tmp_path / "one") as one, tm.connect(tmp_path / "two") as two:
        one.apply(one.plan([Spend]))
        two.apply(two.plan([Spender]))
        one.materialize(until=NOON)
        assert two.materialize(until=NOON).gone == ()
        assert one.materialize(until=NOON).gone == ()
        assert one.online("spend:total", KEY, at=NOON)["total"] == 1.0
        assert two.online("spend_er:largest", KEY, at=NOON)["largest"] == 1.0


def test_an_interrupted_deletion_is_finished_by_the_next(store: tm.Store) -> None:
    """Readers lose the view first, rows follow whenever they can."""
    for name in ("spend:total@1", "spend:visits@1"):
        store.registry.retire(name)
    delete = store._online.delete

    def failing(*prefixes: bytes) -> int:
        delete(prefixes[0])
        raise KeyboardInterrupt

    store._online.delete = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        store.materialize(until=NOON)
    store._online.delete = delete  # type: ignore[method-assign]
    assert store.materialize(until=NOON).gone == ("spend",)
    assert keys(store, "spend") == 0
    with pytest.raises(NotFound, match="retired"):
        store.online("spend:total", KEY, at=NOON)
