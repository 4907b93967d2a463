"""`connect` and `Store`: a project is found, its settings are read, its definitions are kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import (
    DefinitionError,
    NotFound,
    PlanConflict,
    RequestInvalid,
    StaleSource,
    StoreUnavailable,
)
from tidemark.store.config import read_config

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.csv("purchases.csv"), time="at", timezone="UTC"):
    """What was bought."""

    user_id: tm.Col[str]
    amount: tm.Col[float]
    status: tm.Col[str]
    at: tm.Col[datetime]


class UserSpend(tm.FeatureView, entity=User, source=Purchase, owner="risk@example.com"):
    """What a user has spent."""

    spend = tm.sum(Purchase.amount, over="7d")
    last_status = tm.last(Purchase.status)


class Checkout(tm.Request):
    """What the caller knows."""

    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount, spend=UserSpend.spend)
def share(amount: float, spend: float | None) -> float:
    """This purchase against the week."""
    return amount / spend if spend else 1.0


class Fraud(tm.FeatureService):
    """Inputs of the fraud model."""

    spend = UserSpend.spend
    share = share


def filtered_view() -> type[tm.FeatureView]:
    """`UserSpend` with a filter on its sum: another meaning under the same name."""

    class Changed(tm.FeatureView, entity=User, source=Purchase, name="user_spend"):
        spend = tm.sum(Purchase.amount, where=Purchase.status == "settled", over="7d")
        last_status = tm.last(Purchase.status)

    return Changed


@pytest.fixture
def store():
    with tm.connect(":memory:") as opened:
        yield opened


@pytest.fixture
def applied(store: tm.Store) -> tm.Store:
    store.apply(store.plan([Fraud]))
    return store


class TestConnect:
    """Where a project is."""

    def test_the_nearest_file_upward(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From a folder deep inside a project, the project is found."""
        (tmp_path / "tidemark.toml").write_text('name = "acme"')
        (tmp_path / "a" / "b").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "a" / "b")
        assert tm.connect().config.root == tmp_path

    @pytest.mark.parametrize("name", ["", "tidemark.toml"])
    def test_a_directory_or_its_file(self, tmp_path: Path, name: str) -> None:
        """A project elsewhere is named by its directory or by its settings file."""
        (tmp_path / "tidemark.toml").write_text('name = "acme"')
        assert tm.connect(tmp_path / name).config.name == "acme"

    def test_no_project_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error says how to make one."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(NotFound, match=r"no tidemark\.toml here") as caught:
            tm.connect()
        assert "tidemark init" in caught.value.remedy

    def test_a_directory_without_a_project(self, tmp_path: Path) -> None:
        """Named explicitly, nothing above it is looked at."""
        with pytest.raises(NotFound, match="There is no project at"):
            tm.connect(tmp_path)

    def test_memory(self, store: tm.Store, tmp_path: Path) -> None:
        """Two stores in memory know nothing of each other."""
        store.apply(store.plan([Fraud]))
        with tm.connect(":memory:") as other:
            assert other.describe()["revision"] == 0


class TestSettings:
    """What `tidemark.toml` says."""

    def read(self, path: Path, text: str, environment: dict[str, str] | None = None):
        (path / "tidemark.toml").write_text(text)
        return read_config(path, environment or {})

    def test_defaults(self, tmp_path: Path) -> None:
        """An empty file is a project."""
        config = self.read(tmp_path, "")
        assert config.registry_url == f"sqlite:///{tmp_path}/.tidemark/registry.db"
        assert config.online == "lmdb://.tidemark/online"
        assert config.definitions == ()

    def test_one_or_several_definition_files(self, tmp_path: Path) -> None:
        """A text is a list of one."""
        assert self.read(tmp_path, 'definitions = "a.py"').definitions == ("a.py",)
        assert self.read(tmp_path, 'definitions = ["a.py", "b.yaml"]').definitions == (
            "a.py",
            "b.yaml",
        )

    def test_an_unknown_setting(self, tmp_path: Path) -> None:
        """A misspelled setting is not silently a default."""
        with pytest.raises(NotFound, match="no setting 'onlin'") as caught:
            self.read(tmp_path, 'onlin = "memory:"')
        assert "Did you mean 'online'?" in str(caught.value)

    def test_a_setting_of_the_wrong_type(self, tmp_path: Path) -> None:
        """The error names the file and the setting."""
        with pytest.raises(DefinitionError, match="wrong type") as caught:
            self.read(tmp_path, 'threads = "many"')
        assert "threads" in str(caught.value)

    def test_a_file_that_is_not_toml(self, tmp_path: Path) -> None:
        """The error says where."""
        with pytest.raises(DefinitionError, match="is not TOML: Invalid value"):
            self.read(tmp_path, "name = ")

    def test_the_environment_wins(self, tmp_path: Path) -> None:
        """A deployment overrides places without touching the file."""
        config = self.read(
            tmp_path,
            'online = "memory:"\nthreads = 1',
            {"TIDEMARK_ONLINE": "lmdb:///srv/online", "TIDEMARK_THREADS": "4"},
        )
        assert (config.online, config.threads) == ("lmdb:///srv/online", 4)

    def test_an_absolute_registry(self, tmp_path: Path) -> None:
        """A registry may live outside of the project."""
        config = self.read(tmp_path, 'registry = "sqlite:////srv/registry.db"')
        assert config.registry_url == "sqlite:////srv/registry.db"


class TestPlan:
    """From definitions to the registry."""

    def test_objects_bring_what_they_need(self, store: tm.Store) -> None:
        """A service plans its features, their view, source and entity."""
        assert [change.title for change in store.plan([Fraud]).changes] == [
            "entity user",
            "source purchase",
            "view user_spend",
            "feature user_spend:last_status@1",
            "feature user_spend:spend@1",
            "request checkout",
            "on-demand feature share@1",
            "service fraud",
        ]

    def test_one_object_without_a_list(self, store: tm.Store) -> None:
        """A single class is enough."""
        assert store.plan(Fraud).changes == store.plan([Fraud]).changes

    def test_a_module(self, store: tm.Store) -> None:
        """Everything that a module declares."""
        module = ModuleType("shop_features")
        module.Fraud = Fraud
        assert store.plan(module).changes == store.plan([Fraud]).changes

    def test_a_document(self, store: tm.Store) -> None:
        """What `tm.load` gives."""
        loaded = tm.load({"entities": [{"name": "user", "keys": {"user_id": "string"}}]})
        assert [change.title for change in store.plan(loaded).changes] == ["entity user"]

    def test_the_same_again_is_empty(self, applied: tm.Store) -> None:
        """Planning is idempotent."""
        assert applied.plan([Fraud]).empty

    def test_a_file_named_by_the_project(self, tmp_path: Path) -> None:
        """`plan()` loads what `tidemark.toml` names."""
        (tmp_path / "tidemark.toml").write_text('definitions = "shop_features.py"')
        (tmp_path / "shop_features.py").write_text(
            "import tidemark as tm\n\nclass Shop(tm.Entity):\n    shop_id: tm.Key[int]\n"
        )
        with tm.connect(tmp_path) as store:
            store.apply(store.plan())
        with tm.connect(tmp_path) as store:
            assert store.plan().empty
            assert store.describe("shop")["keys"] == {"shop_id": "int64"}

    @pytest.mark.parametrize("named", [".", "..", "src/", "a..b", ""])
    def test_what_is_no_definition_file(self, tmp_path: Path, named: str) -> None:
        """A directory, or what can be no name, is told as such."""
        (tmp_path / "src").mkdir()
        (tmp_path / "tidemark.toml").write_text(f'definitions = "{named}"\n')
        with tm.connect(tmp_path) as store, pytest.raises(DefinitionError) as caught:
            store.plan()
        assert named in caught.value.what
        assert "names .py files, .yaml files and modules" in caught.value.remedy

    def test_nothing_named_and_nothing_passed(self, store: tm.Store) -> None:
        """There is nothing to guess."""
        with pytest.raises(NotFound, match="no definitions to plan"):
            store.plan()

    def test_a_changed_meaning_is_refused(self, applied: tm.Store) -> None:
        """The registry keeps what was published."""
        plan = applied.plan([filtered_view(), Checkout])
        with pytest.raises(PlanConflict, match="user_spend:spend@1"):
            applied.apply(plan)

    def test_a_view_of_columns_is_versioned_as_a_whole(self, store: tm.Store) -> None:
        """Another `max_age` is another meaning of every stored value; the view says version 2."""

        class Status(
            tm.FeatureView, entity=User, source=Purchase, columns=(Purchase.status,), max_age="1d"
        ):
            """What was said last."""

        class Longer(
            tm.FeatureView,
            entity=User,
            source=Purchase,
            name="status",
            columns=(Purchase.status,),
            max_age="2d",
            version=2,
        ):
            """What was said last."""

        as_data = tm.load(
            {
                "entities": {"user": {"keys": {"user_id": "string"}}},
                "sources": {
                    "purchase": {
                        "columns": {
                            "user_id": "string",
                            "amount": "float64",
                            "status": "string",
                            "at": "timestamp",
                        },
                        "description": "What was bought.",
                        "time": "at",
                        "timezone": "UTC",
                        "history": {"csv": "purchases.csv"},
                    }
                },
                "views": {
                    "status": {
                        "description": "What was said last.",
                        "entity": "user",
                        "source": "purchase",
                        "columns": ["status"],
                        "max_age": "2d",
                        "version": 2,
                    }
                },
            }
        )
        store.apply(store.plan([Status]))
        plan = store.plan([Longer])
        store.apply(plan)
        assert [change.title for change in plan.changes] == [
            "view status",
            "feature status:status@2",
        ]
        assert plan.kept == ("status:status@1",)
        assert {change.what for change in store.plan(as_data).changes} == {"metadata"}

    @pytest.mark.parametrize("given", [None, "plan", UserSpend])
    def test_what_is_no_plan(self, store: tm.Store, given: Any) -> None:
        """It says how to come by one."""
        with pytest.raises(RequestInvalid, match="is not a plan") as caught:
            store.apply(given)
        assert caught.value.remedy == "Plan first: store.apply(store.plan())."

    def test_a_plan_made_before_another_was_applied(self, store: tm.Store) -> None:
        """What is applied is what was looked at."""
        plan = store.plan([Fraud])
        store.apply(store.plan([UserSpend]))
        with pytest.raises(PlanConflict, match="the registry is at 1"):
            store.apply(plan)

    def test_a_registry_in_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        """The error names the place."""
        (tmp_path / "tidemark.toml").write_text('registry = "sqlite:///file/registry.db"')
        (tmp_path / "file").write_text("in the way")
        with tm.connect(tmp_path) as store, pytest.raises(StoreUnavailable, match="cannot be made"):
            store.plan([Fraud])


class TestDescribe:
    """What is in force, in words."""

    def test_the_overview(self, applied: tm.Store) -> None:
        """Everything by kind."""
        facts = applied.describe()
        assert facts["revision"] == 1
        assert facts["views"] == {"user_spend": "spend, last_status"}
        assert facts["services"] == {"fraud": "spend, share"}

    @pytest.mark.parametrize(
        "ref", ["user_spend:spend", "user_spend:spend@1", "last_status", UserSpend.spend]
    )
    def test_a_feature_by_any_name(self, applied: tm.Store, ref: object) -> None:
        """Text, with or without version or view, or the object itself."""
        assert applied.describe(ref)["kind"] == "feature"

    def test_a_feature(self, applied: tm.Store) -> None:
        """One exact sentence, and every default said."""
        facts = applied.describe("user_spend:spend")
        assert facts.pop("fingerprints").keys() == {"meaning", "contract", "metadata", "operation"}
        assert facts == {
            "kind": "feature",
            "name": "user_spend:spend@1",
            "owner": "risk@example.com",
            "lifecycle": "published",
            "meaning": "Sum of amount over purchase, in the 7 days up to and including the moment "
            "asked for; null if there were none.",
            "type": "float64",
            "entity": "user",
            "source": "purchase",
            "columns": {"amount": "value", "at": "time", "user_id": "key"},
            "bound": "at: an event at the very moment asked for counts",
            "zone": "UTC; a day is 24 hours",
            "nulls": "skipped; of nothing the value is null",
            "seen": "when it happened",
            "defaults": "tidemark-1",
            "read_by": ["share@1", "service fraud"],
        }

    @pytest.mark.parametrize("ref", ["user_spend:spend", "share"])
    def test_fingerprints_say_in_what_something_changed(self, applied: tm.Store, ref: str) -> None:
        """Another owner is other metadata, and nothing else."""
        before = applied.describe(ref)["fingerprints"]
        edited = [
            msgspec.structs.replace(each, owner="spending@example.com")
            for each in applied.registry.snapshot().definitions
        ]
        applied.apply(applied.plan(edited))
        after = applied.describe(ref)["fingerprints"]
        assert [kind for kind in before if before[kind] != after[kind]] == ["metadata"]

    @pytest.mark.parametrize(
        ("ref", "kind"),
        [
            (User, "entity"),
            (Purchase, "source"),
            (UserSpend, "view"),
            (Checkout, "request"),
            (share, "on-demand feature"),
            (Fraud, "service"),
        ],
    )
    def test_every_kind(self, applied: tm.Store, ref: object, kind: str) -> None:
        """By object, and the text has the description."""
        facts = applied.describe(ref)
        assert facts["kind"] == kind
        assert facts["description"] in repr(facts)

    def test_a_misspelled_name(self, applied: tm.Store) -> None:
        """The nearest name is suggested."""
        with pytest.raises(NotFound, match="Did you mean 'user_spend'"):
            applied.describe("user_spent")

    def test_a_timeless_source(self, store: tm.Store) -> None:
        """What has no time has no past."""

        class Profile(tm.Source, history=tm.csv("users.csv"), time=None):
            """Who users are."""

            user_id: tm.Col[str]
            country: tm.Col[str]

        class UserProfile(tm.FeatureView, entity=User, source=Profile, columns=(Profile.country,)):
            """What users said."""

        store.apply(store.plan([UserProfile]))
        assert "their past is not known" in store.describe(Profile)["time"]
        assert "its past is not known" in store.describe("country")["meaning"]


class TestFrames:
    """Histories that are objects of this process."""

    def test_another_process_does_not_have_them(self, tmp_path: Path) -> None:
        """The registry keeps that there was a frame; reading it elsewhere is refused."""

        class Click(
            tm.Source, history=tm.frame(pa.table({"user_id": ["u"], "at": [NOON]})), time="at"
        ):
            """Clicks."""

            user_id: tm.Col[str]
            at: tm.Col[datetime]

        class Clicks(tm.FeatureView, entity=User, source=Click):
            """How much a user clicks."""

            clicks = tm.count()

        labels = pa.table({"user_id": ["u"], "at": [NOON]})
        (tmp_path / "tidemark.toml").write_text("")
        with tm.connect(tmp_path) as here:
            here.apply(here.plan([Clicks]))
            assert here.training_set("clicks", labels).to_arrow()["clicks"].to_pylist() == [1]
        with tm.connect(tmp_path) as there, pytest.raises(StaleSource, match="frame"):
            there.training_set("clicks", labels)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.plan([Fraud]),
        lambda store: store.apply(None),
        lambda store: store.training_set("fraud", pa.table({"user_id": ["u1"]})),
        lambda store: store.materialize(),
        lambda store: store.online("fraud", {"user_id": "u1"}),
        lambda store: store.describe(),
        lambda store: store.describe(as_of=1),
        lambda store: store.registry.value_twins(),
    ],
)
def test_a_closed_store_is_closed(use: Callable[[tm.Store], object]) -> None:
    """Whatever is asked of it; closing it again is fine."""
    store = tm.connect(":memory:")
    store.close()
    store.close()
    with pytest.raises(RequestInvalid, match=r"The store is closed\."):
        use(store)


def test_what_another_store_applied_is_materialized_at_once(tmp_path: Path) -> None:
    """Reads of vectors ask only once a second whether there is another revision; this does not."""
    (tmp_path / "tidemark.toml").write_text('name = "acme"')
    rows = pa.table(
        {"user_id": ["ada"], "amount": [5.0], "status": ["paid"], "at": pa.array([NOON])}
    )
    labels = pa.table({"user_id": ["ada"], "t": pa.array([NOON])})

    class Stored(tm.Source, name="purchase", history=tm.frame(rows), time="at"):
        """What was bought."""

        user_id: tm.Col[str]
        amount: tm.Col[float]
        status: tm.Col[str]
        at: tm.Col[datetime]

    class Counts(tm.FeatureView, entity=User, source=Stored):
        """How often."""

        purchases = tm.count(over="7d")

    with tm.connect(tmp_path) as here, tm.connect(tmp_path) as there:
        there.plan([Counts])  # its process has the frame, too
        with pytest.raises(NotFound):
            there.online("counts", {"user_id": "ada"})
        here.apply(here.plan([Counts]))
        assert [each.view for each in there.materialize("counts").views] == ["counts"]
        assert there.training_set("counts", labels).to_arrow()["purchases"].to_pylist() == [1]
        assert there.describe("counts")["name"] == "counts"
