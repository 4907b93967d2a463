"""Versions: what is published stays, several serve side by side, and nothing stops meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.engines.progress import Progress
from tidemark.errors import PlanConflict, StaleSource

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROWS = pa.table(
    {
        "user_id": ["u1", "u1", "u2"],
        "amount": [1.0, 2.0, 4.0],
        "status": ["settled", "open", "settled"],
        "at": pa.array([NOON - timedelta(days=n) for n in (1, 2, 3)], pa.timestamp("us", "UTC")),
    }
)
LABELS = pa.table({"user_id": ["u1"], "t": pa.array([NOON], pa.timestamp("us", "UTC"))})


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(ROWS), time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    status: tm.Col[str]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    total = tm.sum(Purchase.amount, over="30d")
    visits = tm.count(over="30d")


class SettledSpend(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    total = tm.sum(Purchase.amount, where=Purchase.status == "settled", over="30d", version=2)
    visits = tm.count(over="30d")


class MoreSpend(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    total = tm.sum(Purchase.amount, over="30d")
    visits = tm.count(over="30d")
    largest = tm.max(Purchase.amount, over="30d")


class BeforeSpend(tm.FeatureView, entity=User, source=Purchase, name="spend", bound="before"):
    total = tm.sum(Purchase.amount, over="30d", version=2)
    visits = tm.count(over="30d", version=2)


@pytest.fixture
def store():
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan(Spend))
        yield opened


def titles(plan: tm.Plan) -> list[str]:
    """What a plan changes, one line each."""
    return [f"{change.what} {change.name}" for change in plan.changes]


def test_a_new_version_is_added_beside_the_old_one(store: tm.Store):
    """Nothing is removed, and the features that did not change are not touched."""
    plan = store.plan(SettledSpend)
    assert titles(plan) == ["added spend:total@2"]
    assert plan.kept == ("spend:total@1",)


def test_training_computes_both_versions(store: tm.Store):
    """A text names a version, or the newest one."""
    store.apply(store.plan(SettledSpend))
    features = ["spend:total@1", "spend:total@2"]
    training = store.training_set(features[:1], LABELS).to_arrow()
    assert training["total"].to_pylist() == [3.0]
    assert store.training_set(features[1:], LABELS).to_arrow()["total"].to_pylist() == [1.0]
    assert store.training_set(["spend:total"], LABELS).to_arrow()["total"].to_pylist() == [1.0]


def test_both_versions_serve(store: tm.Store):
    """Each from rows of its own."""
    store.apply(store.plan(SettledSpend))
    store.materialize(until=NOON)
    at = {"at": NOON}
    assert store.online("spend:total@1", {"user_id": "u1"}, **at)["total"] == 3.0
    assert store.online("spend:total@2", {"user_id": "u1"}, **at)["total"] == 1.0
    assert store.online("spend:visits", {"user_id": "u1"}, **at)["visits"] == 2


class TestTellingTheRowsOfVersionsApart:
    """Two versions of a feature are two sets of rows under the name of one view."""

    def test_materialize_says_which_is_which(self, store: tm.Store):
        """By what the others have in another version, then by the rest; JSON has all."""
        store.apply(store.plan(SettledSpend))
        done = store.materialize(until=NOON)
        assert [(each.view, each.features) for each in done.views] == [
            ("spend", ("spend:total@2", "spend:visits@1")),
            ("spend", ("spend:total@1",)),
        ]
        _, new, old = repr(done).splitlines()
        assert new.endswith(" rows/s  with total@2, visits@1")
        assert old.endswith(" rows/s  with total@1")

    def test_of_many_features_some_are_named(self, store: tm.Store):
        """Those that have another version first, whatever their place."""

        class Wide(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            visits = tm.count(over="30d")
            recent = tm.count(over=("1d", "7d", "14d"))
            total = tm.sum(Purchase.amount, over="7d", version=2)

        store.apply(store.plan(Wide))
        _, new, old = repr(store.materialize(until=NOON)).splitlines()
        assert new.endswith("  with total@2, visits@1, recent_1d@1 and 2 more")
        assert old.endswith("  with total@1")

    def test_a_view_of_one_list_is_named_alone(self, store: tm.Store):
        """There is nothing to tell apart."""
        (only,) = store.materialize(until=NOON).views
        assert only.features == ("spend:total@1", "spend:visits@1")
        assert repr(store.materialize(until=NOON)).splitlines()[1].endswith(" rows/s")

    def test_the_progress_says_it_too(self, store: tm.Store, monkeypatch: pytest.MonkeyPatch):
        """Reading and writing."""
        told: list[str] = []
        monkeypatch.setattr(Progress, "begin", lambda _self, what, *_, **__: told.append(what))
        store.materialize(until=NOON)
        assert set(told) == {"read for spend", "write spend"}
        told.clear()
        store.apply(store.plan(SettledSpend))
        store.materialize(until=NOON)
        assert set(told) == {
            f"{doing} spend with {features}"
            for doing in ("read for", "write")
            for features in ("total@2, visits@1", "total@1")
        }


def test_a_feature_that_left_the_text_is_kept(store: tm.Store):
    """The registry, not the file, keeps what is published; the plan says how it is let go."""

    class Rest(tm.FeatureView, entity=User, source=Purchase, name="spend"):
        visits = tm.count(over="30d")

    plan = store.plan(Rest)
    assert plan.empty
    assert "spend:total@1" in str(plan)
    assert "tidemark retire spend:total@1" in str(plan)
    store.apply(plan)
    assert store.training_set("spend:total", LABELS).to_arrow()["total"].to_pylist() == [3.0]


def test_a_view_that_left_the_text_is_kept_with_all_it_needs(store: tm.Store):
    """Its source and its entity stay as well."""
    plan = store.plan([User])
    assert titles(plan) == []
    store.apply(plan)
    assert store.training_set("spend:total", LABELS).to_arrow()["total"].to_pylist() == [3.0]


def test_a_changed_setting_of_the_view_makes_a_variant(store: tm.Store):
    """Features of both boundaries stand beside each other under one view's name."""
    store.apply(store.plan(BeforeSpend))
    labels = pa.table({"user_id": ["u1"], "t": ROWS["at"][:1]})
    assert store.training_set("spend:total@1", labels).to_arrow()["total"].to_pylist() == [3.0]
    assert store.training_set("spend:total@2", labels).to_arrow()["total"].to_pylist() == [2.0]
    store.materialize(until=NOON)
    assert store.online("spend:total@1", {"user_id": "u1"}, at=NOON)["total"] == 3.0


def test_a_service_of_the_text_may_read_a_kept_version(store: tm.Store):
    """It says the version that it wants."""
    store.apply(store.plan(SettledSpend))

    class Old(tm.FeatureService, name="old", features=["spend:total@1"]):
        pass

    store.apply(store.plan([SettledSpend, Old]))
    assert store.training_set("old", LABELS).to_arrow()["total"].to_pylist() == [3.0]


def test_a_service_cannot_read_what_is_nowhere(store: tm.Store):
    """Neither the text nor the registry has it."""

    class Old(tm.FeatureService, name="old", features=["spend:total@7"]):
        pass

    with pytest.raises(tm.errors.DefinitionError, match="no spend:total@7"):
        store.plan([Spend, Old])


def test_going_back_to_the_old_text_keeps_the_new_version(store: tm.Store):
    """Nothing that was published is lost on the way."""
    store.apply(store.plan(SettledSpend))
    plan = store.plan(Spend)
    assert plan.empty
    assert plan.kept == ("spend:total@2",)


def test_a_changed_meaning_of_a_kept_version_is_refused(store: tm.Store):
    """A version number is never used for something else."""
    store.apply(store.plan(SettledSpend))

    class Other(tm.FeatureView, entity=User, source=Purchase, name="spend"):
        total = tm.max(Purchase.amount, over="30d")
        visits = tm.count(over="30d")

    with pytest.raises(PlanConflict, match="spend:total@1"):
        store.apply(store.plan(Other))


class TestServingGoesOn:
    """Applying a revision does not stop what serves."""

    def test_with_an_added_feature(self, store: tm.Store):
        """The others are read from the rows that are there; the new one says what it waits for."""
        store.materialize(until=NOON)
        store.apply(store.plan(MoreSpend))
        key = {"user_id": "u1"}
        assert store.online("spend:total", key, at=NOON)["total"] == 3.0
        with pytest.raises(StaleSource, match="no online state yet of spend:largest@1"):
            store.online("spend:largest", key, at=NOON)
        store.materialize(until=NOON)
        assert store.online("spend", key, at=NOON).to_dict() == {
            "total": 3.0,
            "visits": 2,
            "largest": 2.0,
        }

    def test_with_a_new_version(self, store: tm.Store):
        """Version 1 and its neighbours serve before version 2 does."""
        store.materialize(until=NOON)
        store.apply(store.plan(SettledSpend))
        vector = store.online(["spend:total@1", "spend:visits"], {"user_id": "u1"}, at=NOON)
        assert vector.to_dict() == {"total": 3.0, "visits": 2}

    def test_for_a_reader_that_was_there_before(self, store: tm.Store):
        """It moves to the new rows when the old ones go."""
        store.materialize(until=NOON)
        later = NOON + timedelta(hours=1)
        assert store.online("spend:total", {"user_id": "u1"}, at=NOON)["total"] == 3.0
        store.materialize(until=later)
        assert store.online("spend:total", {"user_id": "u1"}, at=later)["total"] == 3.0

    def test_and_old_rows_go_when_nothing_needs_them(self, store: tm.Store):
        """Two states serve while both are needed, one when it holds all."""
        store.materialize(until=NOON)
        store.apply(store.plan(MoreSpend))
        store.materialize(until=NOON)
        assert len(states(store)) == 1
        store.apply(store.plan(SettledSpend))
        assert len(states(store)) == 1
        store.materialize(until=NOON)
        # Version 1 and what left the text, beside the current view.
        assert len(states(store)) == 2


def test_what_the_registry_of_a_store_writes_the_store_reads(store: tm.Store):
    """At once, not when it looks again."""
    store.describe()
    store.registry.register_model("fraud", 1, service=["spend:total"])
    assert store.describe("model:fraud@1")["outputs"] == {"total": "float64  spend:total@1"}


def states(store: tm.Store) -> list[str]:
    """The states of which rows serve."""
    from tidemark.online.states.keys import read_record, record_key

    place = record_key(store.config.namespace, "spend")
    (stored,) = store._online.get_many([place])
    return [each.state for each in read_record(stored).states]
