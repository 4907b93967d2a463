"""Datasets: training sets that are kept, split, and made again to be compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.engines import content
from tidemark.engines.splits import PARTS, SplitPlan, assign
from tidemark.errors import EngineError, NotFound, PlanConflict, RequestInvalid, StaleSource
from tidemark.store import Store

ZONED = pa.timestamp("us", "UTC")


def moment(day: int, hour: int = 0) -> datetime:
    """A moment in March 2026."""
    return datetime(2026, 3, day, hour, tzinfo=UTC)


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.parquet("data/*.parquet"), time="at"):
    """What was bought."""

    user_id: tm.Col[str]
    at: tm.Col[datetime]
    amount: tm.Col[float | None]


class Spending(tm.FeatureView, entity=User, source=Purchase, owner="risk@acme.com"):
    """What a user has bought."""

    purchases = tm.count()
    spend = tm.sum(Purchase.amount)


class Checkout(tm.Request):
    """What the caller knows."""

    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount, spend=Spending.spend)
def share(amount: float, spend: float | None) -> float | None:
    """This purchase against all."""
    return amount / spend if spend else None


class Fraud(tm.FeatureService, owner="risk@acme.com"):
    """Inputs of the fraud model."""

    spend = Spending.spend
    share = share


def changed() -> Any:
    """The function `share` with other code."""

    @tm.on_demand(amount=Checkout.amount, spend=Spending.spend)
    def share(amount: float, spend: float | None) -> float | None:
        return 2 * amount / spend if spend else None

    return share


FIRST = [("ada", moment(1), 1.5), ("bob", moment(2), 3.0)]
SECOND = [("ada", moment(4), 4.0)]
LABELS = pa.table(
    {
        "user_id": ["bob", "ada", "ada", "cyd"],
        "when": pa.array([moment(3), moment(3), moment(5), moment(6)], ZONED),
        "amount": [6.0, 3.0, 11.0, 1.0],
        "fraud": [True, False, True, False],
    }
)


def purchases(rows: list[tuple[str, datetime, float]]) -> pa.Table:
    users, times, amounts = zip(*rows, strict=True)
    return pa.table({"user_id": users, "at": pa.array(times, ZONED), "amount": amounts})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two files of purchases."""
    (tmp_path / "data").mkdir()
    pq.write_table(purchases(FIRST), tmp_path / "data" / "a.parquet")
    pq.write_table(purchases(SECOND), tmp_path / "data" / "b.parquet")
    (tmp_path / "tidemark.toml").write_text('name = "shop"\n', "utf-8")
    return tmp_path


@pytest.fixture
def store(project: Path) -> Iterator[Store]:
    """The project with its definitions applied."""
    with tm.connect(project) as store:
        store.apply(store.plan([Fraud]))
        yield store


class TestSaving:
    def test_what_is_kept_is_what_was_returned(self, store: Store) -> None:
        """The rows, in order, with the columns of the labels first."""
        training = store.training_set(Fraud, LABELS, save_as="march")
        dataset = store.registry.dataset("march")
        assert dataset.to_arrow().equals(training.to_arrow())
        assert dataset.to_pandas()["spend"].tolist()[:3] == [3.0, 1.5, 5.5]
        assert len(dataset) == 4

    def test_the_manifest_says_what_it_was_made_from(self, store: Store) -> None:
        """Revision, pins, sources with their files, times, hashes."""
        store.training_set(Fraud, LABELS, save_as="march")
        dataset = store.registry.dataset("march")
        manifest = dataset.manifest
        assert manifest.revision == 1
        assert [pin.reference for pin in manifest.pins] == ["spending:spend@1", "share@1"]
        assert [state.source for state in manifest.sources] == ["purchase"]
        files = manifest.sources[0].files
        assert [file.path for file in files] == ["data/a.parquet", "data/b.parquet"]
        assert all(file.hash and file.size for file in files)
        assert (manifest.time, manifest.timezone, manifest.hindsight) == ("when", None, False)
        assert manifest.labels == ("user_id", "when", "amount", "fraud")
        assert manifest.features == ("spend", "share")
        assert manifest.entities == {"user": ("user_id",)}
        assert manifest.epoch == 1
        assert manifest.versions["tidemark"] == tm.__version__

    def test_the_manifest_is_json_beside_the_rows(self, store: Store, project: Path) -> None:
        """Anything that reads JSON and Parquet reads a dataset."""
        store.training_set(Fraud, LABELS, save_as="march")
        folder = project / ".tidemark" / "datasets" / "march"
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rows.parquet"]
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        assert manifest["format"] == 1
        assert manifest["rows"] == pq.read_table(folder / "rows.parquet").num_rows == 4

    def test_it_lies_where_the_project_says(self, project: Path) -> None:
        """`datasets` of tidemark.toml is relative to the project."""
        (project / "tidemark.toml").write_text('datasets = "kept"\n', "utf-8")
        with tm.connect(project) as store:
            store.apply(store.plan([Fraud]))
            store.training_set(Fraud, LABELS, save_as="march")
            assert store.registry.dataset("march").folder == project.resolve() / "kept" / "march"

    def test_a_project_moves_with_its_datasets(self, store: Store, project: Path) -> None:
        """Places inside the project are kept relative to it."""
        store.training_set(Fraud, LABELS, save_as="march")
        store.close()
        moved = project.rename(project.with_name("elsewhere"))
        with tm.connect(moved) as again:
            assert again.registry.verify_dataset("march").reproduced

    def test_a_name_is_given_once(self, store: Store) -> None:
        """A dataset never changes, not even into itself; nothing is computed for naught."""
        store.training_set(Fraud, LABELS, save_as="march")
        with pytest.raises(PlanConflict, match="There is a dataset 'march'") as error:
            store.training_set(Fraud, None, save_as="march")
        assert "choose another name" in error.value.remedy

    @pytest.mark.parametrize("name", ["", "../march", "a b", ".march", "m" * 101])
    def test_a_name_is_one_of_a_folder(self, store: Store, name: str) -> None:
        """No path and no blank."""
        with pytest.raises(RequestInvalid, match="cannot be the name"):
            store.training_set(Fraud, LABELS, save_as=name)

    def test_only_what_is_applied_is_kept(self, store: Store) -> None:
        """Otherwise there is no revision to make it from again."""

        class Extra(tm.FeatureView, entity=User, source=Purchase):
            """Not applied."""

            largest = tm.max(Purchase.amount)

        with pytest.raises(PlanConflict, match="only from what is applied") as error:
            store.training_set([Extra.largest], LABELS, time="when", save_as="extra")
        assert error.value.where == "not applied: extra:largest@1"
        assert store.registry.datasets() == []

    def test_a_project_without_files_keeps_them_while_it_lasts(self) -> None:
        """A notebook can try datasets out."""
        rows = purchases(FIRST)

        class Bought(tm.Source, history=tm.frame(rows), time="at"):
            user_id: tm.Col[str]
            at: tm.Col[datetime]
            amount: tm.Col[float]

        class Sums(tm.FeatureView, entity=User, source=Bought):
            spend = tm.sum(Bought.amount)

        with tm.connect(":memory:") as store:
            store.apply(store.plan([Sums]))
            store.training_set([Sums.spend], LABELS, save_as="march")
            dataset = store.registry.dataset("march")
            assert dataset.to_arrow()["spend"].to_pylist() == [3.0, 1.5, 1.5, None]
            assert store.registry.verify_dataset("march").reproduced
        assert not dataset.folder.exists()

    def test_a_source_that_changes_meanwhile_is_refused(
        self, store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A state that was never read as a whole cannot be read again."""
        from tidemark.store.datasets import Recipe

        make = Recipe.make

        def meanwhile(self: Recipe, engine: Any, labels: Any) -> Any:
            made = make(self, engine, labels)
            pq.write_table(purchases(FIRST), project / "data" / "c.parquet")
            return made

        monkeypatch.setattr(Recipe, "make", meanwhile)
        with pytest.raises(StaleSource, match="purchase changed while it was read") as error:
            store.training_set(Fraud, LABELS, save_as="march")
        assert error.value.where == "data/c.parquet was added"
        assert store.registry.datasets() == []


WRITER = """
import os, sys
import pyarrow.parquet as pq
import tidemark as tm
from tidemark.registry import Registry
from pathlib import Path

def die(*_, **__):
    os._exit(9)

point = sys.argv[1]
if point == "rows":
    pq.write_table = die
if point == "manifest":
    Path.write_bytes = die
if point == "rename":
    Path.rename = die
if point == "registry":
    Registry.register_dataset = die
with tm.connect(".") as store:
    labels = pq.read_table("labels.parquet")
    store.training_set("spending:spend", labels, time="when", save_as="march")
"""


class TestKilled:
    @pytest.mark.parametrize("point", ["rows", "manifest", "rename", "registry"])
    def test_there_is_the_whole_dataset_or_none(
        self, store: Store, project: Path, point: str
    ) -> None:
        """Whatever a killed writer left behind, the next one of this name succeeds."""
        pq.write_table(LABELS, project / "labels.parquet")
        ran = subprocess.run([sys.executable, "-c", WRITER, point], cwd=project, check=False)
        assert ran.returncode == 9
        assert store.registry.datasets() == []
        store.training_set("spending:spend", LABELS, time="when", save_as="march")
        assert store.registry.verify_dataset("march").reproduced

    def test_of_two_writers_at_once_one_is_told(self, store: Store, project: Path) -> None:
        """The name is taken by one of them, whole."""
        pq.write_table(LABELS, project / "labels.parquet")
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, "no"], cwd=project, stderr=-1)
            for _ in range(2)
        ]
        said = [writer.communicate()[1].decode() for writer in writers]
        assert sorted(writer.returncode for writer in writers) == [0, 1], said
        assert "There is a dataset 'march'" in "".join(said)
        assert store.registry.verify_dataset("march").reproduced

    def test_what_was_left_behind_is_removed_in_time(self, store: Store, project: Path) -> None:
        """Not at once: another process may be writing it."""
        home = project / ".tidemark" / "datasets"
        old, new = home / ".march.00000000", home / ".march.11111111"
        for path in (old, new):
            path.mkdir(parents=True)
        os.utime(old, (0, 0))
        store.training_set(Fraud, LABELS, save_as="march")
        assert not old.exists()
        assert new.exists()

    def test_a_folder_of_other_content_is_not_touched(self, store: Store, project: Path) -> None:
        """It may be the dataset of a registry that was lost."""
        store.training_set(Fraud, LABELS, save_as="march")
        store.close()
        (project / ".tidemark" / "registry.db").unlink()
        with tm.connect(project) as again:
            again.apply(again.plan([Fraud]))
            with pytest.raises(PlanConflict, match="a folder of another dataset 'march'"):
                again.training_set(Fraud, LABELS.slice(1), save_as="march")


class TestVerify:
    def test_it_gives_the_same_content(self, store: Store) -> None:
        """From the recorded definitions and the present files."""
        store.training_set(Fraud, LABELS, save_as="march")
        found = store.registry.verify_dataset("march")
        assert found.reproduced
        assert found.rebuilt_hash == found.content_hash
        assert found.changed == ()

    def test_a_removed_file_is_named(self, store: Store, project: Path) -> None:
        """And what it altered, by column."""
        store.training_set(Fraud, LABELS, save_as="march")
        (project / "data" / "b.parquet").unlink()
        found = store.registry.verify_dataset("march")
        assert not found.reproduced
        assert found.changed == ("source purchase: data/b.parquet was removed",)
        assert found.differing == {"spend": 1, "share": 1}
        assert str(found).splitlines() == [
            "march is not reproduced.",
            "  source purchase: data/b.parquet was removed",
            "  spend differs in 1 of 4 rows",
            "  share differs in 1 of 4 rows",
        ]

    def test_a_changed_file_is_named(self, store: Store, project: Path) -> None:
        """Content counts, not the time of the change."""
        store.training_set(Fraud, LABELS, save_as="march")
        pq.write_table(purchases([("ada", moment(4), 5.0)]), project / "data" / "b.parquet")
        (changed,) = store.registry.verify_dataset("march").changed
        assert changed.startswith("source purchase: data/b.parquet changed: ")

    def test_a_file_that_is_only_touched_is_the_same(self, store: Store, project: Path) -> None:
        """A copied project verifies."""
        store.training_set(Fraud, LABELS, save_as="march")
        os.utime(project / "data" / "b.parquet", (0, 0))
        assert store.registry.verify_dataset("march").changed == ()

    def test_an_added_file_without_effect_is_told(self, store: Store, project: Path) -> None:
        """New events alter no old row."""
        store.training_set(Fraud, LABELS, save_as="march")
        pq.write_table(purchases([("ada", moment(9), 1.0)]), project / "data" / "c.parquet")
        found = store.registry.verify_dataset("march")
        assert found.reproduced
        assert found.changed == ("source purchase: data/c.parquet was added",)
        assert "without effect" in str(found)

    def test_large_files_are_told_apart_by_size_and_time(
        self, store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reading a terabyte only to hash it would cost more than the dataset."""
        monkeypatch.setattr("tidemark.engines.inventory.HASHED_BYTES", 0)
        store.training_set(Fraud, LABELS, save_as="march")
        os.utime(project / "data" / "b.parquet", (0, 0))
        found = store.registry.verify_dataset("march")
        assert found.reproduced
        assert found.changed == (
            "source purchase: data/b.parquet was written again at 1970-01-01T00:00:00Z",
        )

    def test_later_definitions_do_not_matter(self, store: Store) -> None:
        """It is made as it was defined at its revision."""
        store.training_set(Fraud, LABELS, save_as="march")

        class Other(tm.FeatureView, entity=User, source=Purchase):
            """Applied later."""

            largest = tm.max(Purchase.amount)

        store.apply(store.plan([Fraud, Other]))
        assert store.registry.verify_dataset("march").reproduced

    def test_a_changed_row_of_the_file_is_found(self, store: Store) -> None:
        """The stored column is named."""
        store.training_set(Fraud, LABELS, save_as="march")
        path = store.registry.dataset("march").folder / "rows.parquet"
        table = pq.read_table(path)
        pq.write_table(table.set_column(4, "spend", pa.array([9.0, None, None, None])), path)
        found = store.registry.verify_dataset("march")
        assert not found.reproduced
        assert found.changed == ("the stored column spend is not what was saved",)

    def test_an_edited_manifest_is_found(self, store: Store) -> None:
        """The registry keeps the hash as well."""
        store.training_set(Fraud, LABELS, save_as="march")
        path = store.registry.dataset("march").folder / "manifest.json"
        manifest = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(manifest | {"content_hash": "0"}), "utf-8")
        assert store.registry.verify_dataset("march").changed == (
            "the manifest is not the one that was saved",
        )

    def test_another_meaning_is_named(self, store: Store) -> None:
        """A fingerprint that is not the recorded one is a definition that is not."""
        store.training_set(Fraud, LABELS, save_as="march")
        path = store.registry.dataset("march").folder / "manifest.json"
        manifest = json.loads(path.read_text("utf-8"))
        manifest["pins"][0]["meaning"] = "0"
        path.write_text(json.dumps(manifest), "utf-8")
        assert store.registry.verify_dataset("march").changed == (
            "the definition of spending:spend@1 at revision 1 is not the one that was recorded",
        )

    def test_another_engine_epoch_is_named(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A release that computes other values says so."""
        store.training_set(Fraud, LABELS, save_as="march")
        monkeypatch.setattr("tidemark.store.verification.ENGINE_EPOCH", 2)
        found = store.registry.verify_dataset("march")
        assert found.changed == ("the engine epoch was 1 and is 2",)

    def test_a_changed_function_is_named(
        self, project: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An on-demand feature is its code: whoever has other code cannot make the rows again."""
        store.training_set(Fraud, LABELS, save_as="march")
        monkeypatch.setattr(sys.modules[__name__], "share", changed())
        with tm.connect(project) as again:
            found = again.registry.verify_dataset("march")
        assert not found.reproduced
        assert found.error.startswith(f"The code of '{__name__}:share' is not that of share@1")

    def test_a_function_that_is_only_planned_is_not_used(self, store: Store) -> None:
        """Neither for the rows of a name nor to make a dataset again."""
        training = store.training_set("fraud", LABELS, save_as="march")
        plan = store.plan([Spending, changed()])
        assert [change.name for change in plan.refused] == ["share@1"]
        assert store.training_set("fraud", LABELS).to_arrow().equals(training.to_arrow())
        assert store.registry.verify_dataset("march").reproduced

    def test_a_history_that_is_gone_is_said(self, store: Store, project: Path) -> None:
        """The dataset stays readable."""
        store.training_set(Fraud, LABELS, save_as="march")
        for path in (project / "data").iterdir():
            path.unlink()
        found = store.registry.verify_dataset("march")
        assert not found.reproduced
        assert "No file matches" in found.error
        assert len(store.registry.dataset("march").to_arrow()) == 4

    def test_tables_are_known_by_their_rows(self, tmp_path: Path) -> None:
        """In whatever order the database gives them."""
        with duckdb.connect(tmp_path / "shop.db") as shop:
            shop.execute('CREATE TABLE bought (user_id VARCHAR, "at" TIMESTAMPTZ, amount DOUBLE)')
            shop.execute("INSERT INTO bought VALUES ('ada', '2026-03-01 00:00:00+00', 1.5)")
        (tmp_path / "tidemark.toml").write_text("", "utf-8")

        class Bought(tm.Source, history=tm.table("bought", connection="shop.db"), time="at"):
            user_id: tm.Col[str]
            at: tm.Col[datetime]
            amount: tm.Col[float]

        class Sums(tm.FeatureView, entity=User, source=Bought):
            spend = tm.sum(Bought.amount)

        with tm.connect(tmp_path) as store:
            store.apply(store.plan([Sums]))
            store.training_set([Sums.spend], LABELS, save_as="march")
            assert store.registry.verify_dataset("march").reproduced
            with duckdb.connect(tmp_path / "shop.db") as shop:
                shop.execute("INSERT INTO bought VALUES ('bob', '2026-03-01 00:00:00+00', 1.0)")
            found = store.registry.verify_dataset("march")
        assert found.changed == ("source bought: it had 1 rows and has 2",)
        assert found.differing == {"spend": 1}

    def test_a_delta_table_is_known_by_its_version(self, tmp_path: Path) -> None:
        """Which the table itself keeps."""
        deltalake.write_deltalake(tmp_path / "bought", purchases(FIRST))
        (tmp_path / "tidemark.toml").write_text("", "utf-8")

        class Bought(tm.Source, history=tm.delta("bought"), time="at"):
            user_id: tm.Col[str]
            at: tm.Col[datetime]
            amount: tm.Col[float]

        class Sums(tm.FeatureView, entity=User, source=Bought):
            spend = tm.sum(Bought.amount)

        with tm.connect(tmp_path) as store:
            store.apply(store.plan([Sums]))
            store.training_set([Sums.spend], LABELS, save_as="march")
            assert store.registry.verify_dataset("march").changed == ()
            deltalake.write_deltalake(tmp_path / "bought", purchases(SECOND), mode="append")
            found = store.registry.verify_dataset("march")
        assert found.changed == ("source bought: it was at version 0 and is at 1",)
        assert found.differing == {"spend": 1}

    def test_a_frame_of_another_process_is_said(self, project: Path) -> None:
        """Only this process could make it again."""

        class Bought(tm.Source, history=tm.frame(purchases(FIRST)), time="at"):
            user_id: tm.Col[str]
            at: tm.Col[datetime]
            amount: tm.Col[float]

        class Sums(tm.FeatureView, entity=User, source=Bought):
            spend = tm.sum(Bought.amount)

        with tm.connect(project) as store:
            store.apply(store.plan([Sums]))
            store.training_set([Sums.spend], LABELS, save_as="march")
        with tm.connect(project) as store:
            found = store.registry.verify_dataset("march")
        assert not found.reproduced
        assert "a frame of another process" in found.error

    def test_whatever_labels_hold_comes_back(self, store: Store) -> None:
        """Categories, times without a zone, lists and nulls make the same rows again."""
        labels = LABELS.drop_columns(["user_id", "when"])
        columns = {
            "user_id": pa.array(["bob", "ada", "ada", "cyd"]).dictionary_encode(),
            "when": pa.array([1772496000 + day * 86_400 for day in range(4)], pa.timestamp("s")),
            "note": pa.array([["a"], None, [], [None]]),
            "nothing": pa.nulls(4),
        }
        for name, column in columns.items():
            labels = labels.append_column(name, column)
        store.training_set(Fraud, labels, timezone="America/New_York", save_as="march")
        found = store.registry.verify_dataset("march")
        assert found.reproduced
        assert store.registry.dataset("march").manifest.timezone == "America/New_York"

    def test_hindsight_is_remembered(self, store: Store) -> None:
        """It is part of what was asked."""
        store.training_set(Fraud, LABELS, hindsight=True, save_as="march")
        assert store.registry.dataset("march").manifest.hindsight
        assert store.registry.verify_dataset("march").reproduced

    def test_an_unknown_dataset_is_suggested(self, store: Store) -> None:
        """As every name is."""
        store.training_set(Fraud, LABELS, save_as="march")
        with pytest.raises(NotFound, match="no dataset 'marhc'") as error:
            store.registry.verify_dataset("marhc")
        assert error.value.remedy == "Did you mean 'march'?"

    def test_a_manifest_of_another_format_is_refused(self, store: Store) -> None:
        """Rather than misread."""
        store.training_set(Fraud, LABELS, save_as="march")
        path = store.registry.dataset("march").folder / "manifest.json"
        path.write_text('{"format": 2}', "utf-8")
        with pytest.raises(EngineError, match=r"is of format 2, .* knows format 1"):
            store.registry.dataset("march")


def many(rows: int = 400) -> pa.Table:
    """Labels of 40 users, an hour apart."""
    start = int(moment(1).timestamp() * 1_000_000)
    return pa.table(
        {
            "user_id": [f"u{row * 7 % 40}" for row in range(rows)],
            "when": pa.array([start + row * 3_600_000_000 for row in range(rows)], ZONED),
        }
    )


GOLDEN = ["u19", "u37", "u7"]


@pytest.fixture
def training(store: Store) -> Any:
    """A training set of 400 rows."""
    return store.training_set([Spending.purchases], many())


def users(part: Any) -> set[str]:
    return set(part.to_arrow()["user_id"].to_pylist())


def times(part: Any) -> list[datetime]:
    return part.to_arrow()["when"].to_pylist()


class TestSplits:
    def test_by_time_the_newest_rows_are_test(self, training: Any) -> None:
        """A fifth, if nothing is said."""
        parts = training.split()
        assert [len(parts.train), len(parts.validation), len(parts.test)] == [320, 0, 80]
        assert max(times(parts.train)) < min(times(parts.test))
        assert parts.report.leaks == ()

    def test_by_time_from_a_moment_on(self, training: Any) -> None:
        """A label at the very moment is the first of test."""
        parts = training.split(time=(moment(11), "2026-03-15T00:00:00Z"))
        assert [len(parts.train), len(parts.validation), len(parts.test)] == [240, 96, 64]
        assert min(times(parts.test)) == moment(15)

    def test_rows_of_one_moment_are_not_parted(self, store: Store) -> None:
        """A cut lies before the first of them."""
        labels = pa.table(
            {"user_id": list("abcd"), "when": pa.array([moment(1), *[moment(2)] * 3], ZONED)}
        )
        parts = store.training_set([Spending.purchases], labels).split(0.25)
        assert [len(parts.train), len(parts.test)] == [1, 3]

    def test_a_gap_leaves_out_what_is_not_settled(self, training: Any) -> None:
        """Labels shortly before a cut, whose outcome lies after it."""
        parts = training.split(time=moment(11), gap="1d")
        assert [len(parts.train), len(parts.test)] == [216, 160]
        assert parts.report.left_out == 24
        assert max(times(parts.train)) < moment(10)

    def test_by_entity_nobody_is_in_two_parts(self, training: Any) -> None:
        """All rows of an entity go the same way."""
        parts = training.split((0.2, 0.2), by="entity", seed=7)
        assert not users(parts.train) & users(parts.test)
        assert not users(parts.train) & users(parts.validation)
        assert not users(parts.validation) & users(parts.test)
        assert sum(len(part) for part in (parts.train, parts.validation, parts.test)) == 400

    def test_by_entity_it_is_the_same_everywhere(self, training: Any) -> None:
        """The hash of key and seed is a promise: these users are test for ever."""
        assert sorted(users(training.split(0.1, by="entity", seed=7).test)) == GOLDEN
        assert sorted(users(training.split(0.1, by="entity", seed=8).test)) != GOLDEN

    def test_rows_that_are_added_move_none(self, store: Store) -> None:
        """Where a row goes depends on nothing but the row."""
        some = store.training_set([Spending.purchases], many(200))
        more = store.training_set([Spending.purchases], many(400))
        for by in ("entity", "random"):
            before = some.split(by=by).test.to_arrow().to_pylist()
            after = more.split(by=by).test.to_arrow().to_pylist()
            assert [row for row in after if row in some.to_arrow().to_pylist()] == before

    def test_at_random_equal_rows_stay_together(self, store: Store) -> None:
        """Twice the same user and moment is one example, not two."""
        twice = pa.concat_tables([many(100), many(100)])
        parts = store.training_set([Spending.purchases], twice).split(by="random")
        mine, theirs = (
            {(row["user_id"], row["when"]) for row in part.to_arrow().to_pylist()}
            for part in (parts.train, parts.test)
        )
        assert not mine & theirs

    def test_a_label_later_than_the_test_is_a_leak(self, training: Any) -> None:
        """Said in words, since a split by entity may be meant so."""
        report = training.split(by="entity").report
        assert len(report.leaks) == 1
        assert "of train later than the earliest of test (2026-03-01T" in report.leaks[0]
        assert "leak: " in str(report)

    def test_shared_entities_are_counted(self, training: Any) -> None:
        """By time they are to be expected, and no leak."""
        (overlap,) = training.split().report.overlaps
        assert overlap.entities == {"user": 40}
        assert (overlap.rows, overlap.late) == (0, 0)

    @given(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abcde")), min_size=2, max_size=30),
        st.sampled_from(["time", "entity", "random"]),
        st.sampled_from([0.25, 0.5, (0.25, 0.25)]),
        st.integers(0, 3),
        st.integers(0, 99),
    )
    def test_a_report_is_what_comparing_the_rows_gives(
        self, rows: list[tuple[int, str]], by: Any, fraction: Any, gap: int, seed: int
    ) -> None:
        """Every row is in one part or in the gap; shared entities, rows and late labels count."""
        t = np.array([time for time, _ in rows], np.int64)
        keys = {"user": [pa.chunked_array([[user for _, user in rows]])]}
        gap_text = f"{gap}us" if gap and by == "time" else ""
        plan = SplitPlan.of(fraction, by=by, gap=gap_text, seed=seed)
        try:
            codes, report = assign(t, keys, plan)
        except RequestInvalid:
            return
        parts = {
            name: [row for row, code in zip(rows, codes, strict=True) if code == place]
            for place, name in enumerate(PARTS)
        }
        assert report.rows == {name: len(part) for name, part in parts.items()}
        assert sum(report.rows.values()) + report.left_out == len(rows)
        for overlap in report.overlaps:
            mine, theirs = parts[overlap.first], parts[overlap.second]
            begins = min(time for time, _ in theirs)
            assert overlap.entities == {"user": len({u for _, u in mine} & {u for _, u in theirs})}
            assert overlap.rows == sum(row in theirs for row in mine)
            assert overlap.late == sum(time > begins for time, _ in mine)
            if by == "time":
                assert overlap.leaks() == []
                assert max(time for time, _ in mine) < begins - (gap if gap_text else 0)
            if by == "entity":
                assert overlap.entities == {"user": 0}
            assert overlap.rows == 0

    def test_each_part_can_be_split_again(self, training: Any) -> None:
        """Folds are splits of parts."""
        inner = training.split(0.5).train.split(0.5)
        assert [len(inner.train), len(inner.test)] == [100, 100]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"fraction": 1.0}, "leave a part empty"),
            ({"fraction": (0.5, 0.5)}, "leave a part empty"),
            ({"by": "weekday"}, "not split by 'weekday'"),
            ({"by": "random", "gap": "1d"}, "means nothing in a split by random"),
            ({"time": moment(11), "fraction": 0.1}, "not both"),
            ({"time": moment(1)}, "leaves train empty"),
            ({"time": (moment(12), moment(11))}, "Test begins before validation"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(
        self, training: Any, arguments: dict[str, Any], message: str
    ) -> None:
        """Before anything is trained on it."""
        with pytest.raises(RequestInvalid, match=message):
            training.split(**arguments)

    def test_an_unknown_entity_is_suggested(self, training: Any) -> None:
        """As every name is."""
        with pytest.raises(NotFound, match="no entity of this training set 'usr'"):
            training.split(by="entity", entity="usr")

    def test_a_dataset_keeps_the_split_it_was_saved_with(self, store: Store) -> None:
        """With its seed, so that everybody means the same test rows."""
        split = {"by": "entity", "fraction": 0.1, "seed": 7}
        store.training_set([Spending.purchases], many(), save_as="march", split=split)
        dataset = store.registry.dataset("march")
        assert dataset.manifest.split is not None
        assert dataset.manifest.split.seed == 7
        assert sorted(users(dataset.parts.test)) == GOLDEN
        assert dataset.manifest.parts["test"] == len(dataset.parts.test)

    def test_a_dataset_saved_without_a_split_says_so(self, store: Store) -> None:
        """And can be split nevertheless."""
        store.training_set([Spending.purchases], many(), save_as="march")
        dataset = store.registry.dataset("march")
        with pytest.raises(NotFound, match="without a split"):
            _ = dataset.parts
        assert len(dataset.split().test) == 80

    def test_a_wrong_argument_of_a_kept_split_is_suggested(self, store: Store) -> None:
        """Before anything is read."""
        with pytest.raises(NotFound, match="no argument of split 'sed'") as error:
            store.training_set(Fraud, LABELS, save_as="march", split={"sed": 7})
        assert error.value.remedy == "Did you mean 'seed'?"

    def test_a_split_without_a_dataset_is_refused(self, store: Store) -> None:
        """There would be nothing to keep it with."""
        with pytest.raises(RequestInvalid, match="none is saved"):
            store.training_set(Fraud, LABELS, split={"seed": 7})


class TestContent:
    @given(
        st.lists(st.none() | st.floats() | st.just(float("nan")), max_size=20),
        st.lists(st.integers(0, 20), max_size=3),
    )
    def test_where_it_is_cut_does_not_count(
        self, values: list[float | None], cuts: list[int]
    ) -> None:
        """One column has one hash in one piece and in many."""
        column = pa.array(values, pa.float64())
        ends = sorted({0, *(min(cut, len(values)) for cut in cuts), len(values)})
        pieces = [column[a:b] for a, b in pairwise(ends)]
        whole = pa.chunked_array([column])
        assert content.column_hash(pa.chunked_array(pieces, pa.float64())) == content.column_hash(
            whole
        )

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([1, None, 3], pa.int32()),
            pa.array([1.5, float("nan"), None]),
            pa.array(["a", None, ""]),
            pa.array(["a", None, "a"]).dictionary_encode(),
            pa.array([1, None, 3], pa.timestamp("s", "UTC")),
            pa.array([1, None, 3], pa.timestamp("ns")),
            pa.array([1, None, 3], pa.duration("s")),
            pa.array([1, None, 3], pa.time32("s")),
            pa.array([True, None, False]),
            pa.array([[1, 2], None, []]),
            pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)),
            pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": []}]),
            pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
            pa.nulls(3),
        ],
        ids=lambda column: str(column.type),
    )
    def test_a_file_does_not_change_it(self, tmp_path: Path, column: pa.Array) -> None:
        """However Parquet stores the values."""
        table = pa.table({"x": column})
        pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
        again = pq.read_table(tmp_path / "x.parquet")
        assert content.column_hashes(again) == content.column_hashes(table)
        assert content.differing(table["x"], again["x"]) == 0

    @pytest.mark.parametrize(
        ("one", "other", "rows"),
        [
            ([1, 2], [2, 1], 2),
            ([1, None], [1, 0], 1),
            ([0.0, 1.0], [-0.0, 1.0], 1),
            (["ab", "c"], ["a", "bc"], 2),
            ([["a"], ["b"]], [["a", "b"], []], 2),
            ([float("nan"), 1.0], [None, 1.0], 1),
        ],
    )
    def test_other_values_are_other_content(
        self, one: list[Any], other: list[Any], rows: int
    ) -> None:
        """Their order, nulls and signs count; the rows that differ are counted."""
        left, right = (pa.chunked_array([pa.array(values)]) for values in (one, other))
        assert content.column_hash(left) != content.column_hash(right)
        assert content.differing(left, right) == rows

    def test_the_hash_is_a_promise(self) -> None:
        """A dataset of today is verified by every later release."""
        table = pa.table({"a": [1, None], "b": ["x", "y"], "c": [0.5, float("nan")]})
        assert content.rows_hash(content.column_hashes(table)) == (
            "b0a60f1463dd4f56a2eecbc17e814f214038832eb2640620f688a42967268e32"
        )


class TestLineage:
    def test_a_dataset_reads_features(self, store: Store) -> None:
        """And a model its dataset."""
        store.training_set(Fraud, LABELS, save_as="march")
        store.registry.register_model("fraud", 1, service=Fraud, dataset="march")
        graph = store.registry.lineage("dataset march").to_dict()
        edges = {(edge["from"], edge["to"]) for edge in graph["edges"]}
        assert ("feature spending:spend@1", "dataset march") in edges
        assert ("dataset march", "model fraud@1") in edges
        assert ("column purchase.amount", "feature spending:spend@1") in edges

    def test_an_auditor_asks_what_a_model_was_trained_on(self, store: Store) -> None:
        """Definitions, pins and dataset, at that revision."""
        store.training_set(Fraud, LABELS, save_as="march")
        store.registry.register_model("fraud", 3, service=Fraud, dataset="march")
        dataset = store.registry.dataset(store.registry.model("fraud", 3).dataset)
        then = store.registry.snapshot(as_of=dataset.revision).definitions
        types = {each.name: each.type.name for each in then.view("spending").features}
        assert types["spend"] == "float64"

    def test_a_model_reads_what_it_was_trained_on(self, store: Store) -> None:
        """Anything else would be served values that it has never seen."""
        store.training_set(Fraud, LABELS, save_as="march")
        with pytest.raises(PlanConflict, match="reads what it was not trained on") as error:
            store.registry.register_model(
                "fraud", 1, service=["spending:spend", "spending:purchases"], dataset="march"
            )
        assert error.value.where == (
            "not in the dataset march: spending:purchases@1\nwhich has spending:spend@1, share@1"
        )

    def test_what_is_used_for_a_dataset_counts_as_use(self, store: Store) -> None:
        """When features are searched for."""
        store.training_set([Spending.purchases], LABELS, time="when", save_as="march")
        (hit, *_) = store.registry.search("purchases", kind="feature")
        assert hit.reference == "spending:purchases@1"
        assert hit.consumers == ("dataset march",)


class TestCommands:
    @pytest.fixture
    def example(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The example project, applied."""
        monkeypatch.chdir(tmp_path)
        runner = CliRunner()
        assert runner.invoke(main, ["init", "example"]).exit_code == 0
        monkeypatch.chdir(tmp_path / "example")
        assert runner.invoke(main, ["apply", "--yes"]).exit_code == 0
        return tmp_path / "example"

    def test_a_dataset_from_the_command_line(self, example: Path) -> None:
        """Made, listed, shown, verified; and the file that changed is named."""

        def run(*words: str) -> Any:
            return CliRunner().invoke(main, list(words))

        made = run("train", "fraud", "--labels", "data/labels.parquet", "--save-as", "march")
        assert made.exit_code == 0, made.output
        assert run("dataset", "list").stdout.startswith("march  ")
        shown = json.loads(run("dataset", "show", "march", "--json").stdout)
        assert shown["name"] == "march"
        assert run("dataset", "verify", "march").exit_code == 0
        victim = min((example / "data" / "purchases").glob("*.parquet"))
        table = pq.read_table(victim)
        pq.write_table(table.slice(len(table) // 2), victim)
        verified = run("dataset", "verify", "march", "--json")
        assert verified.exit_code == 1
        facts = json.loads(verified.stdout)
        assert not facts["reproduced"]
        assert victim.name in facts["changed"][0]

    def test_rows_must_go_somewhere(self, example: Path) -> None:
        """A file, a name, or both."""
        words = ["train", "fraud", "--labels", "data/labels.parquet"]
        ran = CliRunner().invoke(main, words)
        assert ran.exit_code == 2
        assert "--save-as" in ran.stderr

    def test_no_dataset_is_said_so(self, example: Path) -> None:
        """With what makes one."""
        ran = CliRunner().invoke(main, ["dataset", "list"])
        assert "--save-as" in ran.stdout
