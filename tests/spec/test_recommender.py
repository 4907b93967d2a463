"""The recommender: the template of `tidemark init`, and the example that is made from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from tidemark.apps.cli import main

LINE = (
    "User context: segment=power_user, watched 47 titles in the last 30 days, "
    "last genre watched: documentary"
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command in an empty folder; its definitions are not found by the next test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), prog_name="tidemark")

    yield command
    sys.modules.pop("features", None)


@pytest.fixture
def project(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template's project, materialized; commands run inside it."""
    assert run("init", "example", "--template", "recommender").exit_code == 0
    monkeypatch.chdir(tmp_path / "example")
    assert run("apply", "--yes").exit_code == 0
    assert run("materialize").exit_code == 0
    return tmp_path / "example"


def read(run, user: str) -> dict[str, object]:
    told = json.loads(run("online", "recommend", "--key", f"user_id={user}", "--json").stdout)
    return {name: each["value"] for name, each in told.items()}


def test_every_command_that_init_prints_succeeds(run, tmp_path, monkeypatch) -> None:
    """They can be copied, one after another."""
    told = json.loads(run("init", "example", "--template", "recommender", "--json").stdout)
    monkeypatch.chdir(tmp_path / "example")
    cd, *commands = told["next"]
    assert cd == "cd example"
    for command in commands:
        result = run(*command.split()[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_the_known_user_after_a_push(project: Path, run) -> None:
    """The line that goes into a language model's prompt, to the letter."""
    before = read(run, "u1")
    assert before["watch_count_30d"] == 46
    assert before["last_genre"] != "documentary"
    assert run("push", "watch", "data/late.ndjson").exit_code == 0
    assert read(run, "u1") == {
        "user_segment": "power_user",
        "watch_count_30d": 47,
        "last_genre": "documentary",
        "user_context": LINE,
    }


def test_a_new_user_has_words_too(project: Path, run) -> None:
    """Nulls become words, not `None`."""
    assert read(run, "nobody") == {
        "user_segment": None,
        "watch_count_30d": 0,
        "last_genre": None,
        "user_context": "User context: a new user, nothing watched yet",
    }


def test_training_has_the_same_line(project: Path, run) -> None:
    """The function is called for each label row, with what was known then."""
    words = ("--labels", "data/labels.parquet", "--out", "training.parquet")
    assert run("train", "recommend", *words).exit_code == 0
    row = parquet.read_table("training.parquet").to_pylist()[-1]
    assert row["user_context"].startswith(f"User context: segment={row['user_segment']}, watched ")
    assert row["user_context"].endswith(f"last genre watched: {row['last_genre']}")


def test_the_project_has_tests_that_pass(project: Path) -> None:
    """A user begins with a test that is green."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
        cwd=project,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in ran.stdout, ran.stdout


def test_a_template_that_is_not_there(run) -> None:
    """The error lists those that are."""
    result = run("init", "example", "--template", "recomender")
    assert result.exit_code == 1
    assert "no template 'recomender'" in result.stderr
    assert "fraud (" in result.stderr
    assert "recommender (" in result.stderr
    assert not Path("example").exists()
