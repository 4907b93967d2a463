"""The registry: plans that show what changes, and revisions that are never lost or altered."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from tidemark.errors import EngineError, NotFound, PlanConflict, StoreUnavailable
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Column, Literal
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Field,
    Input,
    OnDemand,
    Output,
    Parquet,
    Reference,
    Source,
)
from tidemark.model.types import FLOAT64, STRING, TIMESTAMP
from tidemark.model.window import DAY, MINUTE, Window
from tidemark.registry import Registry

SETTLED = Call("eq", (Column("status"), Literal("settled", STRING)))
USER = Entity(name="user", keys=(Field("user_id", STRING),))
PURCHASE = Source(
    name="purchase",
    columns=(
        Field("user_id", STRING),
        Field("amount", FLOAT64),
        Field("status", STRING),
        Field("at", TIMESTAMP),
    ),
    time="at",
    history=Parquet("data/*.parquet"),
)
SPEND = Feature(
    name="spend",
    aggregate=Aggregate("sum", Column("amount"), window=Window("sliding", 7 * DAY)),
    type=FLOAT64,
)
VIEW = FeatureView(
    name="user_spend", entity="user", source="purchase", keys=("user_id",), features=(SPEND,)
)
RATIO = OnDemand(
    name="ratio",
    function="features:ratio",
    inputs=(Input("spend", Reference("feature", "spend", "user_spend")),),
    type=FLOAT64,
)
FRAUD = FeatureService(name="fraud", outputs=(Output("ratio", Reference("on_demand", "ratio")),))
ALL = Definitions.of([USER, PURCHASE, VIEW, RATIO, FRAUD])


def with_feature(**changes: object) -> Definitions:
    """The example with its feature changed."""
    view = replace(VIEW, features=(replace(SPEND, **changes),))
    return Definitions.of([USER, PURCHASE, view, RATIO, FRAUD])


def settled_only(version: int = 1) -> Definitions:
    """The example with a filter on its feature."""
    return with_feature(aggregate=replace(SPEND.aggregate, where=SETTLED), version=version)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "registry.db"


@pytest.fixture
def registry(path: Path):
    opened = Registry(f"sqlite:///{path}")
    yield opened
    opened.close()


@pytest.fixture
def applied(registry: Registry) -> Registry:
    registry.apply(registry.plan(ALL), reason="first", author="ada")
    return registry


def changes(registry: Registry, definitions: Definitions) -> list[tuple[str, str]]:
    return [(change.what, change.title) for change in registry.plan(definitions).changes]


def test_an_empty_registry_is_revision_0(registry: Registry) -> None:
    """Nothing is defined, and that is no error."""
    assert registry.snapshot().revision == 0
    assert list(registry.snapshot().definitions) == []
    assert registry.history() == []


def test_a_first_plan_adds_everything(registry: Registry) -> None:
    """Every object is named, features one by one with their version."""
    assert changes(registry, ALL) == [
        ("added", "entity user"),
        ("added", "source purchase"),
        ("added", "view user_spend"),
        ("added", "feature user_spend:spend@1"),
        ("added", "on-demand feature ratio@1"),
        ("added", "service fraud"),
    ]


def test_a_plan_changes_nothing(registry: Registry) -> None:
    """Looking is free."""
    registry.plan(ALL)
    assert registry.snapshot().revision == 0


def test_what_was_applied_is_in_force(applied: Registry) -> None:
    """The snapshot holds the very definitions, with who applied them and why."""
    snapshot = applied.snapshot()
    assert snapshot.definitions == ALL
    assert (snapshot.revision, snapshot.author, snapshot.reason) == (1, "ada", "first")


def test_another_process_sees_it(applied: Registry, path: Path) -> None:
    """The registry is on disk, not in the object."""
    assert Registry(f"sqlite:///{path}").snapshot().definitions == ALL


def test_applying_the_same_again_makes_no_revision(applied: Registry) -> None:
    """A deployment may run as often as it likes."""
    plan = applied.plan(ALL)
    assert plan.empty
    assert applied.apply(plan).revision == 1
    assert len(applied.history()) == 1


def test_metadata_changes_freely(applied: Registry) -> None:
    """An owner or a description is nobody's contract."""
    plan = applied.plan(with_feature(description="money spent", owner="ada"))
    (change,) = plan.changes
    assert (change.what, change.title) == ("metadata", "feature user_spend:spend@1")
    assert [(each.field, each.before, each.after) for each in change.fields] == [
        ("description", None, "money spent"),
        ("owner", None, "ada"),
    ]
    assert applied.apply(plan).revision == 2


def test_a_promise_of_freshness_is_operation(applied: Registry) -> None:
    """What is computed stays the same."""
    view = replace(VIEW, freshness=5 * MINUTE)
    definitions = Definitions.of([USER, PURCHASE, view, RATIO, FRAUD])
    assert changes(applied, definitions) == [("operation", "view user_spend")]


def test_moved_files_are_operation(applied: Registry) -> None:
    """Where data lies is not what it means."""
    source = replace(PURCHASE, history=Parquet("other/*.parquet"))
    definitions = Definitions.of([USER, source, VIEW, RATIO, FRAUD])
    assert changes(applied, definitions) == [("operation", "source purchase")]


def test_a_changed_meaning_under_the_same_version_is_refused(applied: Registry) -> None:
    """The plan shows the difference and who reads the feature; apply does not do it."""
    plan = applied.plan(settled_only())
    (change,) = plan.refused
    assert change.what == "meaning"
    assert [(each.field, each.before, each.after) for each in change.fields] == [
        ("where", None, "status = 'settled'")
    ]
    assert change.affects == ("ratio@1", "service fraud")
    with pytest.raises(PlanConflict, match=r"cannot change what it computes.*spend@1") as caught:
        applied.apply(plan)
    assert "version=2" in caught.value.remedy
    assert applied.snapshot().definitions == ALL


def test_a_new_version_carries_the_changed_meaning(applied: Registry) -> None:
    """Version 2 is another feature, and version 1 stays beside it."""
    plan = applied.plan(settled_only(version=2))
    assert [(change.what, change.title) for change in plan.changes] == [
        ("added", "feature user_spend:spend@2"),
    ]
    assert plan.kept == ("user_spend:spend@1",)
    assert applied.apply(plan).revision == 2


def test_a_changed_bound_is_refused_for_every_feature_of_the_view(applied: Registry) -> None:
    """The view's own fields are part of what its features mean."""
    view = replace(VIEW, bound="before")
    plan = applied.plan(Definitions.of([USER, PURCHASE, view, RATIO, FRAUD]))
    assert [change.through for change in plan.refused] == ["view user_spend"]


def test_a_changed_source_is_shown_with_all_that_it_reaches(applied: Registry) -> None:
    """There is no version of a source; its consequences are named down to the services."""
    source = replace(PURCHASE, timezone="Europe/Paris")
    plan = applied.plan(Definitions.of([USER, source, VIEW, RATIO, FRAUD]))
    first, second = plan.changes
    assert (first.what, first.title) == ("meaning", "source purchase")
    assert first.affects == ("ratio@1", "user_spend:spend@1", "service fraud")
    assert (second.title, second.through) == ("feature user_spend:spend@1", "source purchase")
    assert plan.refused == ()


def test_a_column_that_nothing_reads_is_contract_only(applied: Registry) -> None:
    """A source that grows alters no feature."""
    source = replace(PURCHASE, columns=(*PURCHASE.columns, Field("channel", STRING)))
    definitions = Definitions.of([USER, source, VIEW, RATIO, FRAUD])
    assert changes(applied, definitions) == [("contract", "source purchase")]


def test_a_changed_service_is_contract(applied: Registry) -> None:
    """Its outputs are what a model relies on."""
    service = replace(
        FRAUD, outputs=(*FRAUD.outputs, Output("s", Reference("feature", "spend", "user_spend")))
    )
    definitions = Definitions.of([USER, PURCHASE, VIEW, RATIO, service])
    assert changes(applied, definitions) == [("contract", "service fraud")]


def test_a_service_that_is_no_longer_defined_is_removed(applied: Registry) -> None:
    """Features stay until they are retired; earlier revisions keep what they had."""
    plan = applied.plan(Definitions.of([USER, PURCHASE]))
    assert [(change.what, change.title) for change in plan.changes] == [
        ("removed", "service fraud")
    ]
    assert plan.kept == ("user_spend:spend@1", "ratio@1")
    applied.apply(plan)
    assert applied.snapshot().definitions.services == ()
    assert applied.snapshot().definitions.views == (VIEW,)
    assert applied.snapshot(1).definitions == ALL


def test_the_text_of_a_plan(applied: Registry) -> None:
    """Symbols, differences and consequences, one line each."""
    assert str(applied.plan(settled_only())) == (
        "Plan against revision 1\n"
        "\n"
        "  ! feature user_spend:spend@1  meaning  refused\n"
        "      where: none -> status = 'settled'\n"
        "      read by ratio@1, service fraud\n"
        "\n"
        "0 to add, 1 to change, 0 to remove\n"
        "Refused: a published version cannot change what it computes. "
        "Declare version=2, or undo the change.\n"
    )


def test_a_plan_as_data(applied: Registry) -> None:
    """What people read, programs read too."""
    facts = applied.plan(settled_only()).to_dict()
    assert facts["revision"] == 1
    assert [(each["name"], each["refused"]) for each in facts["changes"]] == [
        ("user_spend:spend@1", True)
    ]


def test_a_stale_plan_is_refused(applied: Registry) -> None:
    """Somebody applied in between: what was looked at is not what would happen."""
    stale = applied.plan(with_feature(owner="ada"))
    applied.apply(applied.plan(with_feature(owner="bob")))
    with pytest.raises(PlanConflict, match="against revision 1; the registry is at 2"):
        applied.apply(stale)
    with pytest.raises(PlanConflict, match="against revision 0"):
        applied.apply(replace(stale, revision=0, base=""))


def test_an_empty_plan_can_be_stale_too(applied: Registry) -> None:
    """Nothing to do then is not nothing to do now."""
    stale = applied.plan(ALL)
    applied.apply(applied.plan(with_feature(owner="bob")))
    with pytest.raises(PlanConflict):
        applied.apply(stale)


def test_of_many_at_once_one_wins(applied: Registry, path: Path) -> None:
    """Every acknowledged change is there; the others are told to plan again."""
    plans = [applied.plan(with_feature(owner=f"owner {number}")) for number in range(8)]
    outcomes: list[str] = []

    def apply(number: int) -> None:
        own = Registry(f"sqlite:///{path}")
        try:
            own.apply(plans[number])
            outcomes.append(f"owner {number}")
        except PlanConflict:
            outcomes.append("refused")
        finally:
            own.close()

    threads = [threading.Thread(target=apply, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome != "refused"]
    assert len(outcomes) == 8
    owners = {
        each.name: each.owner for each in applied.snapshot().definitions.view("user_spend").features
    }
    assert owners["spend"] == winner


def test_reading_as_of_a_revision_or_a_moment(applied: Registry) -> None:
    """The past stays readable."""
    applied.apply(applied.plan(with_feature(owner="bob")))
    first, second = applied.history()
    assert applied.snapshot(as_of=1) == first
    assert applied.snapshot(as_of="2100-01-01T00:00:00Z") == second
    with pytest.raises(NotFound, match="no revision as of 3"):
        applied.snapshot(as_of=3)
    with pytest.raises(NotFound, match="no revision as of 2000"):
        applied.snapshot(as_of="2000-01-01T00:00:00Z")


@pytest.mark.parametrize("column", ["reason", "author", "definitions"])
def test_an_edited_revision_shows(applied: Registry, path: Path, column: str) -> None:
    """The digest covers every word of a revision."""
    applied.close()
    with sqlite3.connect(path) as database:
        database.execute(f"update tidemark_revision set {column} = '{{}}'")
    database.close()
    with pytest.raises(EngineError, match="Revision 1 of the registry is not what was applied"):
        applied.snapshot()


def test_a_revision_taken_out_of_the_middle_shows(applied: Registry, path: Path) -> None:
    """Each revision names the one before."""
    for owner in ("bob", "eve"):
        applied.apply(applied.plan(with_feature(owner=owner)))
    applied.close()
    with sqlite3.connect(path) as database:
        database.execute("delete from tidemark_revision where number = 2")
    database.close()
    with pytest.raises(EngineError, match="Revision 3"):
        applied.history()


def test_a_database_of_another_schema_is_refused(applied: Registry, path: Path) -> None:
    """What this release does not know it does not touch."""
    applied.close()
    with sqlite3.connect(path) as database:
        database.execute("update tidemark_schema set version = 99")
    database.close()
    before = path.read_bytes()
    with pytest.raises(EngineError, match=r"is of schema 99, .* knows schema 1") as caught:
        Registry(f"sqlite:///{path}").snapshot()
    assert str(path) in caught.value.where
    assert caught.value.remedy.startswith("Use the release that made it.")
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """The error says so in words."""
    path.parent.mkdir()
    path.write_text("not a database, however long one looks at it")
    with pytest.raises(EngineError, match="refused: file is not a database"):
        Registry(f"sqlite:///{path}").snapshot()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """The error names the directory."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        Registry(f"sqlite:///{tmp_path}/file/registry.db").snapshot()


def test_a_changed_engine_epoch_shows_in_the_plan(
    applied: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that computes otherwise says so before anything is served."""
    monkeypatch.setattr("tidemark.registry.plan.ENGINE_EPOCH", 2)
    plan = applied.plan(ALL)
    assert plan.new_epoch
    assert not plan.empty
    assert "computes some values otherwise" in str(plan)
