"""Plans: every change has a class, shows whom it reaches, and can be saved for a review."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from msgspec.structs import replace

import tidemark as tm
from tidemark.errors import NotFound, PlanConflict
from tidemark.model.diff import Change, FieldChange
from tidemark.model.graph import Definitions, Output, Reference
from tidemark.registry import Backfill, Plan

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROWS = pa.table(
    {
        "user_id": ["u1", "u2"],
        "amount": [1.0, 4.0],
        "at": pa.array([NOON - timedelta(days=n) for n in (1, 2)], pa.timestamp("us", "UTC")),
    }
)


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(ROWS), time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase, name="spend"):
    total = tm.sum(Purchase.amount, over="30d")


class Fraud(tm.FeatureService):
    total = "spend:total@1"


@pytest.fixture
def store():
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Spend, Fraud]))
        yield opened


@pytest.fixture
def said(store: tm.Store) -> Definitions:
    """What is in force, as objects of the model."""
    return store.registry.snapshot().definitions


def categories(plan: Plan) -> list[tuple[str, str]]:
    """The class and the title of each change."""
    return [(change.category, change.title) for change in plan.changes]


class TestClasses:
    def test_a_description_is_metadata(self, store: tm.Store, said: Definitions):
        """Nobody has to do anything."""
        views = (replace(said.views[0], description="What is spent."),)
        assert categories(store.registry.plan(replace(said, views=views))) == [
            ("metadata", "view spend")
        ]

    @pytest.mark.parametrize(("tags", "category"), [(("pii",), "policy"), (("x",), "metadata")])
    def test_a_tag_may_be_policy(
        self, store: tm.Store, said: Definitions, tags: tuple[str, ...], category: str
    ):
        """Tags that say how data must be treated are more than words."""
        views = (replace(said.views[0], tags=tags),)
        assert categories(store.registry.plan(replace(said, views=views)))[0][0] == category

    def test_a_promise_of_freshness_is_policy(self, store: tm.Store, said: Definitions):
        """It is checked and reported."""
        views = (replace(said.views[0], freshness=60_000_000),)
        assert categories(store.registry.plan(replace(said, views=views)))[0][0] == "policy"

    def test_a_moved_history_is_operational(self, store: tm.Store, said: Definitions):
        """The events are the same."""
        moved = replace(said.sources[0], history=None)
        plan = store.registry.plan(replace(said, sources=(moved,)))
        assert categories(plan)[0][0] == "operational"

    def test_a_new_feature_is_additive(self, store: tm.Store):
        """And a new version is one."""

        class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.max(Purchase.amount, over="30d", version=2)
            visits = tm.count(over="30d")

        plan = store.plan([More, Fraud])
        assert ("additive", "feature spend:total@2") in categories(plan)
        assert "^ feature spend:total@2" in str(plan)
        assert "+ feature spend:visits@1" in str(plan)

    def test_a_changed_filter_is_semantic(self, store: tm.Store):
        """And refused under the same version."""

        class Other(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.sum(Purchase.amount, where=Purchase.amount > 1, over="30d")

        plan = store.plan([Other, Fraud])
        assert ("semantic", "feature spend:total@1") in categories(plan)
        assert plan.refused

    def test_a_changed_source_is_source(self, store: tm.Store, said: Definitions):
        """It reaches every feature that rests on it."""
        later = replace(said.sources[0], delay=60_000_000)
        plan = store.registry.plan(replace(said, sources=(later,)))
        assert {category for category, _ in categories(plan)} == {"source"}

    def test_rewritten_history_is_a_restatement(self, store: tm.Store):
        """Nothing that is said changed, and still values can."""
        (change,) = store.plan([Spend, Fraud], restated=[Purchase]).changes
        assert change.category == "restatement"
        assert change.affects == ("spend:total@1", "service fraud")

    def test_a_service_that_reads_another_version_moves(self, store: tm.Store, said: Definitions):
        """What the model sees under a name is another feature."""

        class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.max(Purchase.amount, over="30d", version=2)

        store.apply(store.plan([More, Fraud]))

        class Moved(tm.FeatureService, name="fraud"):
            total = More.total

        assert categories(store.plan([More, Moved])) == [("alias", "service fraud")]

    def test_a_service_with_one_more_name_is_additive(self, said: Definitions, store: tm.Store):
        """Its readers find what they found."""
        extra = Output("more", Reference("feature", "total", "spend"))
        service = replace(said.services[0], outputs=(*said.services[0].outputs, extra))
        plan = store.registry.plan(replace(said, services=(service,)))
        assert categories(plan) == [("additive", "service fraud")]

    def test_a_service_that_goes_is_a_retirement(self, store: tm.Store):
        """Features stay, services do not."""
        assert categories(store.plan([Spend])) == [("retirement", "service fraud")]

    def test_a_tag_that_goes_is_policy_as_well(self):
        """Taking `pii` away is the more serious of the two."""
        fields = (FieldChange("tags", "pii, x", "x"),)
        assert Change("metadata", "view", "spend", fields=fields).category == "policy"


class TestMissingRows:
    def test_what_has_to_be_materialized_is_named(self, store: tm.Store):
        """With what the view held last time."""

        class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.sum(Purchase.amount, over="30d")
            visits = tm.count(over="30d")

        store.materialize(until=NOON)
        (missing,) = store.plan([More, Fraud]).backfill
        assert (missing.view, missing.features) == ("spend", ("spend:visits@1",))
        assert (missing.rows, missing.events) == (2, 2)

    def test_how_long_it_took_last_time_is_the_estimate(self, store: tm.Store):
        """In rows, events and seconds, as text, JSON and Markdown."""

        class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.sum(Purchase.amount, over="30d")
            visits = tm.count(over="30d")

        (measured,) = store.materialize(until=NOON).views
        plan = store.plan([More, Fraud])
        assert json.loads(json.dumps(plan.to_dict()))["backfill"] == [
            {
                "view": "spend",
                "features": ["spend:visits@1"],
                "rows": 2,
                "events": 2,
                "seconds": measured.seconds,
                "largest": 1,
                "growing": [],
                "counted": False,
            }
        ]
        estimate = f"spend:visits@1 can serve; {plan.backfill[0].extent()}"
        assert estimate.endswith(", as last time")
        assert estimate in str(plan)
        assert estimate in plan.to_markdown()

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.2, "under 1 s"),
            (1.0, "1 s"),
            (89.6, "90 s"),
            (90.0, "2 min"),
            (5_399.0, "90 min"),
            (9_000.0, "2.5 h"),
        ],
    )
    def test_an_estimate_is_as_exact_as_it_is_long(self, said: Definitions, seconds, text):
        """Nobody plans by the second what takes hours."""
        missing = Backfill("spend", ("spend:total@1",), 1_000, 30_000, seconds)
        plan = Plan(revision=1, base="", epoch=1, definitions=said, changes=(), backfill=(missing,))
        assert f"about 1,000 rows of 30,000 events in {text}, as last time" in str(plan)

    def test_what_grows_with_a_large_entity_is_said(self, said: Definitions):
        """With the aggregate that does not."""
        missing = Backfill(
            *("spend", ("spend:shops@1",), 1_000, 3_030_000, 9.0, 3_000_000),
            growing=(("spend:shops@1", "approx_count_distinct"),),
        )
        plan = Plan(revision=1, base="", epoch=1, definitions=said, changes=(), backfill=(missing,))
        assert (
            "reads of spend:shops@1 grow with the events of an entity, of which the largest "
            "has 3,000,000; approx_count_distinct takes as long for any number"
        ) in str(plan)

    def test_a_view_that_was_never_materialized_is_as_large_as_its_source(self, store: tm.Store):
        """Its entities and events as they are now; how long it takes nobody knows."""

        class Habits(tm.FeatureView, entity=User, source=Purchase):
            visits = tm.count(over="30d")

        plan = store.plan([Spend, Habits, Fraud])
        (missing,) = plan.backfill
        assert (missing.rows, missing.events, missing.seconds) == (2, 2, None)
        assert "can serve; about 2 rows of 2 events, as its source has now" in str(plan)

    def test_a_plan_against_an_empty_registry_has_an_estimate(self):
        """Of every view, from the rows and events of the sources."""
        with tm.connect(":memory:") as store:
            plan = store.plan([Spend, Fraud])
            (missing,) = plan.backfill
            assert (missing.view, missing.rows, missing.events) == ("spend", 2, 2)
            assert (missing.counted, missing.seconds) == (True, None)
            assert "about 2 rows of 2 events, as its source has now" in plan.to_markdown()
            store.apply(plan)
            assert [each.rows for each in store.registry.estimate()] == [2]
            store.materialize(until=NOON)
            (again,) = store.registry.estimate("spend")
            assert (again.rows, again.events, again.counted) == (2, 2, False)
            assert again.extent(rate=0.01) == "about 2 rows of 2 events in 3 min, as last time"
            assert again.to_dict(rate=0.01)["seconds"] == 200.0

    @pytest.mark.parametrize("history", [tm.parquet("nowhere.parquet"), tm.query("SELECT 1")])
    def test_what_cannot_be_counted_without_reading_it_is_not(self, history: object):
        """A file that is not there yet, and a query: it says so, rather than guess."""

        class Visit(tm.Source, history=history, time="at"):
            user_id: tm.Col[str]
            at: tm.Col[datetime]

        class Visits(tm.FeatureView, entity=User, source=Visit):
            visits = tm.count()

        with tm.connect(":memory:") as store:
            plan = store.plan([Visits])
            assert [each.events for each in plan.backfill] == [None]
            assert "can serve; not measured: it was never materialized" in str(plan)


def test_reverting_is_a_plan_like_any_other(store: tm.Store):
    """What was said then, with what has to be materialized for it."""

    class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
        total = tm.sum(Purchase.amount, over="30d")
        visits = tm.count(over="30d")

    store.apply(store.plan([More, Fraud]), draft=True)
    store.apply(store.plan([Spend]))
    store.materialize(until=NOON)
    plan = store.registry.revert(2)
    assert [change.title for change in plan.changes] == ["feature spend:visits@1", "service fraud"]
    assert [missing.features for missing in plan.backfill] == [("spend:visits@1",)]


class TestSaved:
    def test_a_plan_is_saved_and_applied(self, store: tm.Store, tmp_path: Path):
        """What was looked at is what happens."""

        class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
            total = tm.sum(Purchase.amount, over="30d")
            visits = tm.count(over="30d")

        plan = store.plan([More, Fraud])
        plan.write(tmp_path / "plan.json")
        again = Plan.read(tmp_path / "plan.json")
        assert (again, again.digest) == (plan, plan.digest)
        assert store.apply(again).revision == 2

    def test_a_saved_plan_can_be_stale(self, store: tm.Store, tmp_path: Path):
        """Somebody applied in between."""
        store.plan([Spend]).write(tmp_path / "plan.json")
        store.registry.deprecate("spend:total")
        with pytest.raises(PlanConflict, match="against revision 1; the registry is at 2"):
            store.apply(Plan.read(tmp_path / "plan.json"))

    def test_an_edited_plan_is_refused(self, store: tm.Store, tmp_path: Path):
        """Its seal is broken."""
        path = tmp_path / "plan.json"
        store.plan([Spend]).write(path)
        path.write_text(path.read_text().replace("spend", "spent"))
        with pytest.raises(PlanConflict, match="not what was saved"):
            Plan.read(path)

    def test_an_edited_plan_with_a_new_seal_is_refused_by_apply(
        self, store: tm.Store, said: Definitions
    ):
        """What a plan claims is made anew from what it says."""
        plan = store.plan([Spend])
        with pytest.raises(PlanConflict, match="does not say what applying it would do"):
            store.apply(replace(plan, changes=()))

    @pytest.mark.parametrize("text", ["", "{}", "not json", '{"plan": {"revision": 1}}'])
    def test_a_file_that_is_no_plan(self, tmp_path: Path, text: str):
        """One sentence."""
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(PlanConflict, match="is not a plan of this Tidemark"):
            Plan.read(tmp_path / "plan.json")

    def test_a_file_that_is_not_there(self, tmp_path: Path):
        """With the command that makes one."""
        with pytest.raises(NotFound, match="There is no plan") as caught:
            Plan.read(tmp_path / "plan.json")
        assert "tidemark plan --out" in caught.value.remedy


def test_markdown_for_a_review(store: tm.Store):
    """A table of changes, and what is to be known besides."""

    class More(tm.FeatureView, entity=User, source=Purchase, name="spend"):
        total = tm.max(Purchase.amount, over="30d", version=2)

    text = store.plan([More, Fraud]).to_markdown()
    assert "| `^` | feature spend:total@2 | additive |" in text
    assert "- kept spend:total@1" in text
    assert "- materialize spend before spend:total@2 can serve" in text


def test_json_for_programs(store: tm.Store):
    """Everything that people read."""
    facts = store.plan([Spend]).to_dict()
    assert json.loads(json.dumps(facts))["changes"] == [
        {
            "what": "removed",
            "kind": "service",
            "name": "fraud",
            "class": "retirement",
            "refused": False,
        }
    ]
