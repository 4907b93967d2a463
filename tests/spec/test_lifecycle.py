"""Lives of features: draft, published, deprecated, retired; and what each of these promises."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import DefinitionError, NotFound, PlanConflict, RequestInvalid
from tidemark.store import reading

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROWS = pa.table(
    {
        "user_id": ["u1"],
        "amount": [1.0],
        "at": pa.array([NOON - timedelta(days=1)], pa.timestamp("us", "UTC")),
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


class Visits(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    visits = tm.count(over="30d")


class Fraud(tm.FeatureService):
    total = "spend:total@1"


@pytest.fixture
def store():
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Spend, Fraud]))
        yield opened


def stage_of(store: tm.Store, feature: str) -> str:
    return store.registry.snapshot().records.life(feature).stage


class TestDrafts:
    """What is tried out promises nothing."""

    @pytest.fixture
    def drafted(self, store: tm.Store) -> tm.Store:
        class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.sum(Purchase.amount, over="30d")
            visits = tm.count(over="30d")
            largest = tm.max(Purchase.amount, over="30d")

        store.apply(store.plan([More, Fraud]), draft=True)
        return store

    class Changed(tm.FeatureView, entity=User, source=Purchase, name="spend"):
        """The draft computes something else."""

        total = tm.sum(Purchase.amount, over="30d")
        visits = tm.count(over="30d")
        largest = tm.max(Purchase.amount, over="7d")

    def test_a_draft_may_change_its_meaning(self, drafted: tm.Store):
        """Under the same version."""
        assert drafted.describe("spend:largest")["lifecycle"] == "draft"
        assert drafted.apply(drafted.plan([self.Changed, Fraud])).revision == 3

    def test_a_published_one_may_not(self, drafted: tm.Store):
        """From then on it is like any other."""
        drafted.registry.publish("spend:largest")
        with pytest.raises(PlanConflict, match="spend:largest@1"):
            drafted.apply(drafted.plan([self.Changed, Fraud]))

    def test_a_draft_that_is_no_longer_said_is_gone(self, drafted: tm.Store):
        """Only what is published is kept."""
        drafted.apply(drafted.plan([Spend, Fraud]))
        with pytest.raises(NotFound):
            drafted.describe("spend:largest")
        assert drafted.registry.snapshot().records.lifecycle == ()

    def test_a_name_means_the_newest_published_version(self, drafted: tm.Store):
        """A draft is read only by who names its version."""

        class Next(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.max(Purchase.amount, over="30d", version=2)
            visits = tm.count(over="30d")

        drafted.apply(drafted.plan([Next, Fraud]), draft=True)
        assert drafted.describe("spend:total")["name"] == "spend:total@1"
        assert drafted.describe("spend:total@2")["lifecycle"] == "draft"


class TestDeprecated:
    """It serves on, and says that it is to be left."""

    @pytest.fixture
    def deprecated(self, store: tm.Store, monkeypatch: pytest.MonkeyPatch) -> tm.Store:
        monkeypatch.setattr(reading, "_told", set())
        store.registry.deprecate(
            "spend:total", replacement="spend:visits", sunset="2027-01-31", reason="too costly"
        )
        return store

    def test_reading_it_warns_once_in_a_process(self, deprecated: tm.Store):
        """With the reason, the day and what to read instead."""
        told = (
            r"spend:total@1 is deprecated \(too costly\)\. It may end on 2027-01-31\. "
            r"Read spend:visits@1 instead\."
        )
        with pytest.warns(FutureWarning, match=told):
            deprecated.training_set("fraud", LABELS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            deprecated.training_set("fraud", LABELS)

    def test_describe_says_so(self, deprecated: tm.Store):
        """All that was said."""
        facts = deprecated.describe("spend:total")
        assert facts["lifecycle"] == "deprecated"
        assert (facts["replacement"], facts["sunset"]) == ("spend:visits@1", "2027-01-31")

    def test_a_search_says_so(self, deprecated: tm.Store):
        """And names it after what is as near."""
        hits = deprecated.registry.search(kind="feature").hits
        assert {hit.reference: hit.lifecycle for hit in hits}["spend:total@1"] == "deprecated"
        assert hits[-1].reference == "spend:total@1"

    def test_it_can_be_taken_back(self, deprecated: tm.Store):
        """Publishing it again."""
        deprecated.registry.publish("spend:total")
        assert deprecated.describe("spend:total")["lifecycle"] == "published"

    def test_it_outlives_other_changes(self, deprecated: tm.Store):
        """Applying something else says nothing about it."""
        deprecated.apply(deprecated.plan([Spend]))
        assert deprecated.describe("spend:total")["lifecycle"] == "deprecated"

    @pytest.mark.parametrize(
        ("options", "error", "said"),
        [
            ({"replacement": "spend:nothing"}, NotFound, "no feature 'spend:nothing'"),
            ({"replacement": "spend:total"}, RequestInvalid, "cannot replace itself"),
            ({"sunset": "soon"}, RequestInvalid, "'soon' is not a date"),
        ],
    )
    def test_what_cannot_be_said(
        self, store: tm.Store, options: dict[str, str], error: type[Exception], said: str
    ):
        """One sentence each."""
        with pytest.raises(error, match=said):
            store.registry.deprecate("spend:total", **options)


class TestRetired:
    """It serves no more, and nothing else ever takes its version."""

    @pytest.fixture
    def retired(self, store: tm.Store) -> tm.Store:
        store.apply(store.plan([Visits]))
        store.registry.retire("spend:total", replacement="spend:visits", reason="too costly")
        return store

    def test_not_while_a_service_reads_it(self, store: tm.Store):
        """Whoever uses it is named."""
        with pytest.raises(PlanConflict, match="spend:total@1 is still used") as caught:
            store.registry.retire("spend:total")
        assert caught.value.where == "service fraud"

    def test_not_while_a_model_reads_it(self, store: tm.Store):
        """Until the model is retired as well."""
        store.registry.register_model("fraud", 3, service="fraud", owner="risk")
        store.apply(store.plan([Spend]))
        with pytest.raises(PlanConflict) as caught:
            store.registry.retire("spend:total")
        assert caught.value.where == "model fraud@3 (risk)"
        pins = store.registry.model("fraud", 3)
        store.registry.register_model("fraud", 3, service=pins, owner="risk", stage="retired")
        store.registry.retire("spend:total")

    def test_reading_it_is_one_clear_error(self, retired: tm.Store):
        """What happened to it and what to read instead."""
        with pytest.raises(NotFound, match=r"spend:total@1 is retired \(too costly\)") as caught:
            retired.training_set(["spend:total@1"], LABELS)
        assert caught.value.remedy.startswith("Read spend:visits@1 instead.")

    @pytest.mark.parametrize("asked", ["spend:total", "spend:total@1", Spend.total, Spend])
    def test_whoever_has_its_definition_cannot_read_it_either(
        self, retired: tm.Store, asked: object
    ):
        """By name or as the class that still says it."""
        with pytest.raises(NotFound, match=r"spend:total@1 is retired \(too costly\)"):
            retired.training_set([asked], LABELS)

    def test_not_while_it_is_read(self, store: tm.Store):
        """Who asks for it without being registered is seen in the log of reads."""
        asked: list[datetime] = []

        def recently_read(since: datetime) -> dict[str, datetime]:
            asked.append(since)
            return {"spend:visits@1": NOON, "spend:total@1": NOON}

        store.registry.recently_read = recently_read
        before = datetime.now(UTC)
        with pytest.raises(PlanConflict, match="spend:visits@1 is still used") as caught:
            store.registry.retire("spend:visits")
        assert caught.value.where == "read last at 2026-03-02T12:00:00Z"
        assert "unread_for" in caught.value.remedy
        (since,) = asked
        assert before - timedelta(days=7) <= since <= datetime.now(UTC) - timedelta(days=7)

    def test_when_others_are_read(self, store: tm.Store):
        """Another feature, or another version of it."""
        store.registry.recently_read = lambda since: {"spend:visits@2": NOON, "other@1": NOON}
        store.registry.retire("spend:visits")
        assert stage_of(store, "spend:visits@1") == "retired"

    def test_how_long_nobody_may_have_read_it_can_be_said(self, store: tm.Store):
        """Who knows that the readers have moved need not wait a week."""

        def recently_read(since: datetime) -> dict[str, datetime]:
            at = datetime.now(UTC) - timedelta(days=2)
            return {"spend:visits@1": at} if since <= at else {}

        store.registry.recently_read = recently_read
        with pytest.raises(PlanConflict, match="still used"):
            store.registry.retire("spend:visits", unread_for="3d")
        assert stage_of(store, "spend:visits@1") == "published"
        store.registry.retire("spend:visits", unread_for="1d")
        assert stage_of(store, "spend:visits@1") == "retired"

    def test_reads_need_not_matter(self, store: tm.Store):
        """The log is not even asked."""

        def recently_read(since: datetime) -> dict[str, datetime]:
            raise AssertionError(since)

        store.registry.recently_read = recently_read
        store.registry.retire("spend:visits", unread_for=None)
        assert stage_of(store, "spend:visits@1") == "retired"

    def test_not_while_the_serving_log_holds_a_read(self, tmp_path: Path):
        """Retired once it is asked no more who read it."""
        (tmp_path / "tidemark.toml").write_text("serving_log_in_process = true\n")
        with tm.connect(tmp_path) as store:
            store.apply(store.plan([Spend]))
            store.materialize(until=NOON)
            store.online("spend:total", {"user_id": "u1"}, at=NOON)
            with pytest.raises(PlanConflict, match="spend:total@1 is still used") as caught:
                store.registry.retire("spend:total")
            assert caught.value.where.startswith("read last at 20")
            store.registry.retire("spend:visits")
            store.registry.retire("spend:total", unread_for=None)
            assert stage_of(store, "spend:total@1") == "retired"

    def test_its_definition_stays_readable(self, retired: tm.Store):
        """As of a revision that had it."""
        assert retired.describe("spend:total", as_of=1)["name"] == "spend:total@1"

    def test_it_cannot_be_said_again(self, retired: tm.Store):
        """Neither with the same meaning nor with another."""
        with pytest.raises(DefinitionError, match="spend:total@1 is retired"):
            retired.plan([Spend])

    def test_a_service_cannot_read_it(self, retired: tm.Store):
        """One error, not two."""
        with pytest.raises(DefinitionError) as caught:
            retired.plan([Visits, Fraud])
        (problem,) = caught.value.problems
        assert problem.what == (
            "The service fraud reads spend:total@1, which is retired (too costly)."
        )

    def test_it_can_be_brought_back(self, retired: tm.Store):
        """By publishing it and saying it again."""
        retired.registry.publish("spend:total@1")
        retired.apply(retired.plan([Spend, Fraud]))
        assert retired.training_set("fraud", LABELS).to_arrow()["total"].to_pylist() == [1.0]

    def test_its_rows_go(self, store: tm.Store):
        """At the next materialization."""
        store.materialize(until=NOON)
        store.apply(store.plan([Visits]))
        store.registry.retire("spend:total")
        with pytest.raises(NotFound):
            store.registry.retire("spend:total")
        store.materialize(until=NOON)
        assert store.online("spend:visits", {"user_id": "u1"}, at=NOON)["visits"] == 1


class TestRenaming:
    """A new name for what is published: the old one ends, at once or when nobody reads it."""

    class Renamed(tm.FeatureView, entity=User, source=Purchase, name="spend"):
        """Both features under other names."""

        sum_30d = tm.sum(Purchase.amount, over="30d")
        stays = tm.count(over="30d")

    class Moved(tm.FeatureService, name="fraud"):
        """The service reads the new name."""

        total = "spend:sum_30d@1"

    def test_the_refusal_says_how_the_old_name_ends(self, store: tm.Store):
        """It is kept since it is published, so the two would stand beside each other."""
        with pytest.raises(PlanConflict, match="two names") as caught:
            store.apply(store.plan([self.Renamed, Fraud]))
        assert "tidemark retire spend:total@1" in caught.value.remedy
        assert "--allow-duplicate spend:" in caught.value.remedy

    def test_what_nobody_reads_is_retired_first(self, store: tm.Store):
        """Then the new name is the only one."""

        class Renamed(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.sum(Purchase.amount, over="30d")
            stays = tm.count(over="30d")

        store.registry.retire("spend:visits")
        store.apply(store.plan([Renamed, Fraud]))
        assert [twin.kind for twin in store.registry.duplicates()] == []
        assert store.training_set("spend:stays", LABELS).to_arrow()["stays"].to_pylist() == [1]

    def test_what_is_read_is_retired_last(self, store: tm.Store):
        """Both stand until its readers have moved, which one plan can do."""
        with pytest.raises(PlanConflict, match=r"spend:total@1 is still used\."):
            store.registry.retire("spend:total")
        plan = store.plan([self.Renamed, self.Moved])
        allowed = ["spend:sum_30d", "spend:stays"]
        store.apply(plan, allow_duplicates=allowed, reason="renamed")
        store.registry.retire("spend:total", replacement="spend:sum_30d")
        store.registry.retire("spend:visits", replacement="spend:stays")
        assert store.plan([self.Renamed, self.Moved]).empty
        assert store.registry.duplicates() == ()
        assert store.training_set("fraud", LABELS).to_arrow()["total"].to_pylist() == [1.0]


def test_what_is_asked_of_the_registry_may_be_an_object(store: tm.Store) -> None:
    """A feature with its version, a service, a column: what a notebook has at hand."""
    lineage = store.registry.lineage
    assert lineage(Spend.total) == lineage("spend:total@1")
    assert lineage(Fraud) == lineage("fraud")
    assert lineage(Purchase.amount) == lineage("purchase.amount")
    store.registry.deprecate(Spend.visits, replacement=Spend.total)
    assert stage_of(store, "spend:visits@1") == "deprecated"
    store.registry.publish(Spend.visits)
    assert stage_of(store, "spend:visits@1") == "published"
    store.registry.retire(Spend.visits)
    assert stage_of(store, "spend:visits@1") == "retired"
