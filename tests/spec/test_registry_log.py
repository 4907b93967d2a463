"""The history of a registry: who changed what, what was then, and that nobody altered it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tidemark.apps.cli import main
from tidemark.errors import EngineError
from tidemark.store import connect

Run = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example project with two revisions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEMARK_AUTHOR", "ada")
    invoke("init", "example")
    monkeypatch.chdir("example")
    invoke("apply", "--yes", "--reason", "first")
    edit("features.py", "risk@example.com", "growth@example.com")
    invoke("apply", "--yes", "--reason", "moved")
    return tmp_path / "example"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def edit(name: str, old: str, new: str) -> None:
    text = Path(name).read_text("utf-8")
    assert old in text
    Path(name).write_text(text.replace(old, new), "utf-8")


def test_the_log_is_newest_first(project: Path):
    """Revision, time, author, reason."""
    lines = invoke("log").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["r2", "r1"]
    assert lines[0].endswith("ada          moved")
    facts = json.loads(invoke("log", "--json", "--limit", "1").stdout)
    assert [each["revision"] for each in facts["revisions"]] == [2]
    assert facts["verified"] is None


def test_the_difference_of_two_revisions(project: Path):
    """Named as they are shown, or by a moment."""
    told = invoke("diff", "r1", "r2").stdout
    assert "owner: risk@example.com -> growth@example.com" in told
    assert invoke("diff", "1").stdout == told
    assert invoke("diff", "r2", "2100-01-01T00:00:00Z").stdout == "Nothing changed.\n"
    assert "no revision as of r7" in invoke("diff", "r7").stderr


def test_what_was_then(project: Path):
    """Any read takes a revision."""
    then = json.loads(invoke("describe", "fraud", "--as-of", "r1", "--json").stdout)
    now = json.loads(invoke("describe", "fraud", "--json").stdout)
    assert (then["owner"], now["owner"]) == ("risk@example.com", "growth@example.com")


def test_reverting_makes_a_new_revision(project: Path):
    """The past is not rewritten."""
    assert invoke("revert", "r1", "--yes").exit_code == 0
    with connect() as store:
        newest, _, first = store.registry.log()
    assert (newest.revision, newest.reason) == (3, "revert to r1")
    assert newest.definitions == first.definitions


def test_an_altered_revision_shows(project: Path):
    """Whichever it is, and whatever was altered."""
    assert invoke("log", "--verify").stdout.endswith("2 revisions, each as it was applied.\n")
    with sqlite3.connect(".tidemark/registry.db") as database:
        database.execute("update tidemark_revision set author = 'eve' where number = 1")
    database.close()
    result = invoke("log", "--verify")
    assert result.exit_code == 1
    assert "Revision 1 of the registry is not what was applied" in result.stderr


def test_altered_records_show(project: Path):
    """Lives and models are under the same digest."""
    invoke("deprecate", "user_spend:spend_7d")
    with sqlite3.connect(".tidemark/registry.db") as database:
        database.execute("update tidemark_revision set records = '{}' where number = 3")
    database.close()
    with connect() as store, pytest.raises(EngineError, match="Revision 3"):
        store.registry.snapshot()


class TestCommands:
    """A model, a plan that needs its owner, and the ways of a feature."""

    def test_a_plan_is_confirmed_and_applied(self, project: Path):
        """Exit codes say what is missing."""
        registered = invoke("model", "register", "fraud", "3", "--service", "fraud")
        assert registered.exit_code == 0, registered.output
        assert "fraud@3 reads:" in registered.stdout
        assert "fraud@3  production  fraud  ada" in invoke("model", "list").stdout
        edit("features.py", 'time="purchased_at"', 'time="purchased_at", delay="10m"')
        assert invoke("plan", "--out", "plan.json", "--exit-code").exit_code == 11
        refused = invoke("apply", "plan.json", "--yes")
        assert refused.exit_code == 11
        assert "fraud@3: by ada" in refused.stderr
        words = ("confirm", "plan.json", "--model", "fraud@3", "--by")
        assert invoke(*words, "eve").exit_code == 12
        assert invoke(*words, "ada").exit_code == 0
        assert invoke("apply", "plan.json", "--yes").exit_code == 0
        assert invoke("apply", "plan.json", "--yes").exit_code == 12

    def test_a_feature_is_left_and_ended(self, project: Path):
        """Deprecated, then retired when nothing reads it."""
        assert invoke("deprecate", "user_spend:spend_30d", "--reason", "unused").exit_code == 0
        assert "deprecated" in invoke("describe", "user_spend:spend_30d").stdout
        assert invoke("retire", "user_spend:spend_7d").exit_code == 12
        assert invoke("retire", "user_spend:spend_30d").exit_code == 0
        assert "is retired" in invoke("plan").stderr
        assert invoke("publish", "user_spend:spend_30d@1").exit_code == 0
        assert invoke("plan").exit_code == 0

    def test_a_plan_as_markdown(self, project: Path):
        """For the review of a change."""
        edit("features.py", "growth@example.com", "ads@example.com")
        assert "| metadata |" in invoke("plan", "--markdown").stdout
