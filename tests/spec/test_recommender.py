"""The recommender: the template of `tidemark init`, and the example that is made from it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from examples import printing
from examples.recommender import demo
from pyarrow import parquet
from rich.console import Console
from sybil import Sybil
from tests import redis_server
from tests.docs.test_pages import ConsoleBlockParser

from tidemark.apps.cli import main
from tidemark.apps.cli.example import recommender

LINE = (
    "User context: segment=power_user, watched 47 titles in the last 30 days, "
    "last genre watched: documentary"
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), prog_name="tidemark")

    return command


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


class TestExample:
    """`examples/recommender`, as it is run by hand."""

    @pytest.fixture
    def printed(self, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
        text = io.StringIO()
        for module in (demo, printing):
            monkeypatch.setattr(module, "console", Console(file=text, width=200, highlight=False))
        return text

    def test_embedded_and_redis_give_the_same(self, tmp_path: Path, printed: io.StringIO) -> None:
        """With one line changed; behind HTTP, values, statuses and ages are equal."""
        redis_server.required()
        server = redis_server.RedisServer(tmp_path)
        server.start()
        try:
            assert demo.main(server.url) == 0
        finally:
            server.kill()
        told = printed.getvalue()
        assert told.count(LINE) == 2  # after the push, and again from Redis
        assert told.count("50 of 50 by the very next read") == 2
        assert f'changed       online = "{server.url}"' in told
        assert re.search(r"differ +0\s", told)

    def test_another_answer_is_found(self, tmp_path: Path, printed: io.StringIO) -> None:
        """The comparison is one of every value, status and age."""
        redis_server.required()
        project = demo.make(tmp_path / "project")
        moment, answers = demo.embedded(project)
        value, status, age = answers["u1"]["last_genre"]
        answers["u1"]["last_genre"] = (value, status, age + timedelta(microseconds=1))
        server = redis_server.RedisServer(tmp_path)
        server.start()
        try:
            assert not demo.on_redis(project, server.url, moment, answers)
        finally:
            server.kill()

    def test_without_redis_it_ends_there(self, monkeypatch, printed: io.StringIO) -> None:
        """The embedded part needs nothing else."""
        monkeypatch.setattr(demo, "own_redis", lambda _: nullcontext(None))
        assert demo.main() == 0
        assert "no redis-server here" in printed.getvalue()

    def test_the_commands_of_the_page_run(self, tmp_path: Path, monkeypatch) -> None:
        """One after another in an empty folder."""
        monkeypatch.chdir(tmp_path)
        page = Path(demo.__file__).with_name("README.md")
        for block in Sybil(parsers=[ConsoleBlockParser()]).parse(page).examples():
            block.evaluate()
        assert (tmp_path / "my-recommender" / ".tidemark" / "log").exists()

    def test_the_line_to_change_is_in_the_template(self) -> None:
        """Otherwise the example would stay on the embedded store without saying so."""
        template = resources.files(recommender).joinpath("tidemark.toml").read_text("utf-8")
        assert demo.COMMENTED in template.splitlines()
