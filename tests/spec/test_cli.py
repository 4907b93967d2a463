"""The command line, from the outside: what is printed, what is written, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import csv, parquet

from tidemark.apps.cli import main
from tidemark.apps.cli.values import parse_value
from tidemark.errors import RequestInvalid
from tidemark.model.types import parse_type

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), prog_name="tidemark")

    return command


@pytest.fixture
def project(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example project, nothing applied; commands run inside it."""
    assert run("init", "example").exit_code == 0
    monkeypatch.chdir(tmp_path / "example")
    return tmp_path / "example"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


class TestInit:
    def test_it_prints_what_it_made_and_what_to_do(self, run: Run) -> None:
        """The next commands can be copied."""
        result = run("init", "example")
        assert "features.py" in result.stdout
        assert "  cd example\n  tidemark plan\n" in result.stdout

    def test_it_overwrites_nothing(self, project: Path, run: Run) -> None:
        """What a user has written stays."""
        result = run("init", ".")
        assert result.exit_code == 1
        assert "already has tidemark.toml" in result.stderr

    def test_a_place_that_cannot_be_written(self, run: Run, tmp_path: Path) -> None:
        """One error, no traceback."""
        (tmp_path / "file").write_text("in the way")
        result = run("init", "file/example")
        assert result.exit_code == 1
        assert "cannot be written: Not a directory" in result.stderr

    def test_the_same_data_everywhere(self, project: Path) -> None:
        """The example is generated with a seed."""
        table = parquet.read_table(project / "data" / "purchases" / "part-0.parquet")
        assert table.num_rows == 3_000
        assert table.schema.field("purchased_at").type == pa.timestamp("us", "UTC")


class TestPlanAndApply:
    def test_no_change_is_0_and_changes_are_0(self, project: Path, run: Run) -> None:
        """Looking is success, so that commands can be chained."""
        assert run("plan").exit_code == 0
        run("apply", "--yes")
        assert run("plan").exit_code == 0

    def test_changes_are_10_if_asked(self, project: Path, run: Run) -> None:
        """For pipelines that must know."""
        assert run("plan", "--exit-code").exit_code == 10
        run("apply", "--yes")
        assert run("plan", "--exit-code").exit_code == 0

    def test_without_confirmation_nothing_happens(self, project: Path, run: Run) -> None:
        """Not at a terminal and not told to: 11."""
        result = run("apply")
        assert result.exit_code == 11
        assert "without --yes" in result.stderr
        assert run("plan", "--exit-code").exit_code == 10

    def test_a_refused_change_is_12(self, project: Path, run: Run) -> None:
        """In the plan and at apply alike."""
        run("apply", "--yes")
        edit(project / "features.py", 'status == "settled"', 'status == "SETTLED"')
        planned, applied = run("plan"), run("apply", "--yes")
        assert (planned.exit_code, applied.exit_code) == (12, 12)
        assert "where: status = 'settled' -> status = 'SETTLED'" in planned.stdout
        assert "Declare a new version" in applied.stderr

    def test_reason_and_author_are_kept(
        self, project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The history says who and why."""
        monkeypatch.setenv("TIDEMARK_AUTHOR", "ada")
        applied = json.loads(run("apply", "--yes", "--json", "--reason", "go").stdout)
        assert (applied["revision"], applied["author"], applied["reason"]) == (1, "ada", "go")

    def test_a_plan_as_json(self, project: Path, run: Run) -> None:
        """Only JSON is on stdout."""
        facts = json.loads(run("plan", "--json").stdout)
        assert {
            "what": "added",
            "kind": "entity",
            "name": "user",
            "class": "additive",
            "refused": False,
        } in facts["changes"]

    def test_every_mistake_of_a_file_at_once(self, project: Path, run: Run) -> None:
        """With file and line, and no traceback."""
        edit(project / "features.py", "tm.sum(Purchase.amount", "tm.sum(Purchase.merchant")
        edit(project / "features.py", "tm.last(Purchase.merchant)", "tm.last(Purchase.shop)")
        result = run("plan")
        assert result.exit_code == 1
        assert "2 problems" in result.stderr
        assert "features.py:" in result.stderr
        assert "Traceback" not in result.output


class TestFirstDay:
    """The commands that `init` prints."""

    @pytest.fixture
    def applied(self, project: Path, run: Run) -> Path:
        run("apply", "--yes")
        return project

    def test_train(self, applied: Path, run: Run) -> None:
        """One row out for each label row, written where it was asked for."""
        result = run("train", "fraud", "--labels", "data/labels.parquet", "--out", "t.parquet")
        assert result.exit_code == 0, result.output
        table = parquet.read_table(applied / "t.parquet")
        assert table.num_rows == 300
        assert table.column_names == [
            "user_id",
            "at",
            "amount",
            "is_fraud",
            "purchases_1h",
            "spend_7d",
            "last_merchant",
            "ratio",
        ]

    def test_train_from_and_to_csv(self, applied: Path, run: Run) -> None:
        """The ending says what it is; a time without a zone needs one."""
        (applied / "l.csv").write_text("user_id,at,amount\nu1,2026-02-01 00:00:00,10.0\n")
        words = ("train", "fraud", "--labels", "l.csv", "--out", "t.csv")
        refused = run(*words)
        assert refused.exit_code == 1
        assert not (applied / "t.csv").exists()
        assert run(*words, "--timezone", "UTC").exit_code == 0
        assert csv.read_csv(applied / "t.csv").num_rows == 1

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("gone.parquet", None, "There is no file gone.parquet"),
            ("labels.xlsx", "", "neither .parquet nor .csv"),
            ("labels.parquet", "not parquet", "cannot be read"),
        ],
    )
    def test_labels_that_cannot_be_read(
        self, applied: Path, run: Run, name: str, text: str | None, said: str
    ) -> None:
        """One sentence each."""
        if text is not None:
            (applied / name).write_text(text)
        result = run("train", "fraud", "--labels", name, "--out", "t.parquet")
        assert result.exit_code == 1
        assert said in result.stderr

    def test_materialize_and_online(self, applied: Path, run: Run) -> None:
        """Keys and request values are read by their declared types."""
        assert run("materialize").exit_code == 0
        words = ("online", "fraud", "--key", "user_id=u1", "--request", "amount=42")
        result = run(*words, "--json")
        assert result.exit_code == 0, result.output
        facts = json.loads(result.stdout)
        assert list(facts) == ["purchases_1h", "spend_7d", "last_merchant", "ratio"]
        assert facts["spend_7d"]["status"] == "PRESENT"
        assert facts["spend_7d"]["value"] > 0

    def test_a_model_is_read_by_its_pins(self, applied: Path, run: Run) -> None:
        """`model:NAME@VERSION` stands wherever a service does."""
        assert run("materialize").exit_code == 0
        assert run("model", "register", "fraud", "3", "--service", "fraud").exit_code == 0
        words = ("online", "model:fraud@3", "--key", "user_id=u1", "--request", "amount=42")
        result = run(*words, "--json")
        assert result.exit_code == 0, result.output
        assert list(json.loads(result.stdout)) == [
            "purchases_1h", "spend_7d", "last_merchant", "ratio",
        ]  # fmt: skip

    def test_materialize_says_how_much_it_will_be(self, applied: Path, run: Run) -> None:
        """Before there is any state, with a rate, and as it was the last time; nothing is done."""
        words = ("materialize", "user_spend", "--estimate")
        assert "events, as its source has now" in run(*words).stdout
        assert " in " in run(*words, "--rate", "0.5").stdout
        (facts,) = json.loads(run(*words, "--json").stdout)
        assert (facts["view"], facts["counted"], facts["seconds"]) == ("user_spend", True, None)
        assert "not applied" not in run("online", "fraud", "--key", "user_id=u1").stderr
        assert run("materialize", "--rate", "1e6", "--restart").exit_code == 0
        again = run(*words).stdout
        assert again.startswith("user_spend: about ")
        assert again.endswith("as last time\n")

    def test_materialize_as_json(self, applied: Path, run: Run) -> None:
        """View by view, with whether an interrupted run was gone on with."""
        facts = json.loads(run("materialize", "user_spend", "--json").stdout)
        (view,) = facts["views"]
        assert view.keys() == {
            "view", "features", "entities", "events", "unattributed", "seconds", "resumed",
        }  # fmt: skip
        assert (view["view"], view["resumed"]) == ("user_spend", False)
        refused = run("materialize", "--rate", "-1")
        assert (refused.exit_code, "is not a rate" in refused.stderr) == (1, True)

    def test_materialize_that_is_interrupted_says_how_to_go_on(
        self, applied: Path, run: Run, monkeypatch
    ) -> None:
        """Control-C loses nothing, and whoever pressed it is told so."""

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("tidemark.store.Store.materialize", interrupted)
        result = run("materialize")
        assert result.exit_code == 1
        assert "the same command goes on with the rest" in result.stderr

    def test_an_unknown_key(self, applied: Path, run: Run) -> None:
        """The right one is suggested."""
        result = run("online", "fraud", "--key", "user=u1")
        assert result.exit_code == 1
        assert "Did you mean 'user_id'" in result.stderr

    def test_a_value_of_the_wrong_type(self, applied: Path, run: Run) -> None:
        """Said with the declared type."""
        result = run("online", "fraud", "--key", "user_id=u1", "--request", "amount=much")
        assert result.exit_code == 1
        assert "amount is float64, and 'much' is not" in result.stderr

    def test_describe(self, applied: Path, run: Run) -> None:
        """The meaning in one sentence, and as JSON."""
        assert "Sum of amount over purchase" in run("describe", "user_spend:spend_7d").stdout
        assert json.loads(run("describe", "fraud", "--json").stdout)["kind"] == "service"

    def test_an_error_as_json(self, applied: Path, run: Run) -> None:
        """Programs read errors as well."""
        result = run("describe", "nothing", "--json")
        assert json.loads(result.stderr)["error"] == "not-found"
        assert result.stdout == ""

    def test_another_directory(self, applied: Path, run: Run, monkeypatch, tmp_path: Path) -> None:
        """`--project` names it."""
        monkeypatch.chdir(tmp_path)
        assert run("describe").exit_code == 1
        assert run("describe", "--project", "example").exit_code == 0

    def test_an_unforeseen_error(self, applied: Path, run: Run, monkeypatch) -> None:
        """Even a bug is one sentence, and says how to see more."""
        monkeypatch.setattr("tidemark.store.Store.describe", lambda *_, **__: 1 / 0)
        result = run("describe")
        assert result.exit_code == 1
        assert "ZeroDivisionError: division by zero" in result.stderr
        assert "--debug" in result.stderr

    def test_debug_shows_the_traceback(self, applied: Path, run: Run) -> None:
        """For bug reports."""
        assert type(run("describe", "nothing", "--debug").exception).__name__ == "NotFound"


class TestDoctor:
    def test_a_healthy_project(self, project: Path, run: Run) -> None:
        """Versions, extras, and all that is reachable."""
        run("apply", "--yes")
        facts = json.loads(run("doctor", "--json").stdout)
        assert facts["healthy"] is True
        found = {check["name"]: check["found"] for check in facts["checks"]}
        assert found["registry"].startswith("revision 1")
        assert found["purchase"] == "1 file at data/purchases/*.parquet"

    def test_history_that_went_away(self, project: Path, run: Run) -> None:
        """Named, and the command fails."""
        run("apply", "--yes")
        (project / "data" / "purchases" / "part-0.parquet").unlink()
        result = run("doctor")
        assert result.exit_code == 1
        assert "0 files at data/purchases" in result.stdout

    def test_an_event_log_that_lost_its_end(self, project: Path, run: Run) -> None:
        """Where a log stands is shown; one that lacks what it acknowledged is wrong."""
        run("apply", "--yes")
        event = {"order_id": "o1", "user_id": "u1", "amount": 1.0, "merchant": "ink"}
        event |= {"status": "settled", "purchased_at": "2026-01-01T00:00:00Z"}
        Path("events.ndjson").write_text(json.dumps(event))
        assert run("push", "purchase", "events.ndjson").exit_code == 0
        result = run("doctor")
        assert (result.exit_code, "up to position 1, 0 dead letters" in result.stdout) == (0, True)
        (file,) = project.glob(".tidemark/log/*/log.db")
        file.unlink()
        result = run("doctor")
        assert (result.exit_code, "log of purchase" in result.stdout) == (1, True)

    def test_outside_of_a_project(self, run: Run) -> None:
        """An installation can be looked at anywhere."""
        assert run("doctor").exit_code == 0


def test_usage_errors_are_2(run: Run) -> None:
    """As everywhere."""
    assert run("train").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_usage_errors_are_json_where_that_is_asked_for(run: Run) -> None:
    """Whether a word is missing, unknown, or what was said is not enough."""
    for words, what in (
        (["train", "--json"], "Missing argument 'SERVICE'."),
        (["train", "fraud", "--json", "--labels", "x.csv"], "Say where the rows go: "),
    ):
        result = run(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        told = json.loads(result.stderr)
        assert told["what"].startswith(what)
        assert (told["error"], told["remedy"]) == ("usage", "tidemark train --help")


def test_a_folder_that_is_not_there_is_told_before_anything_is_computed(run: Run) -> None:
    """Not after an hour, and neither the labels nor the project are looked at."""
    for out, what in (("no/where/out.csv", "no directory no/where"), ("out.txt", "neither")):
        result = run("train", "fraud", "--labels", "none.csv", "--out", out)
        assert result.exit_code == 1
        assert what in result.stderr


def test_every_problem_of_definitions_is_in_the_json(project: Path, run: Run) -> None:
    """Each with what, where and what to do."""
    edit(project / "features.py", "tm.count(", "tm.count(wehre=None, ")
    edit(project / "features.py", "Purchase.amount", "Purchase.amuont")
    result = run("plan", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    told = json.loads(result.stderr)
    assert told["error"] == "definition"
    assert len(told["problems"]) >= 2
    assert told["problems"][0].keys() == {"what", "where", "remedy"}
    assert told["what"] == told["problems"][0]["what"]


def in_a_new_process(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ,
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_installed_command_starts_without_any_engine(tmp_path: Path) -> None:
    """Help is instant: nothing heavy is imported for it."""
    heavy = "numpy", "pyarrow", "duckdb", "numba", "sqlalchemy", "sqlglot", "rich", "yaml"
    script = (
        "import sys; from tidemark.apps.cli import main; main(['--help'], standalone_mode=False); "
        f"sys.exit(' '.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    done = in_a_new_process(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("words", "told"), [(["--json"], False), ([], True)])
def test_who_reads_json_is_not_told_what_is_waited_for(
    tmp_path: Path, words: list[str], told: bool
) -> None:
    """Programs find the error and nothing else on stderr, also where the kernel compiles first."""
    script = (
        "from tidemark import store; from tidemark.apps.cli import main;"
        "from tidemark.kernel import compiled; connect = store.connect;"
        "store.connect = lambda path: compiled._announce(15) or connect(path);"
        f"main(['freshness', *{words!r}])"
    )
    done = in_a_new_process(script, tmp_path)
    assert done.returncode == 1
    assert ("Compiling the kernel for this machine, once: about 15 s\n" in done.stderr) == told
    assert told or json.loads(done.stderr)["error"] == "not-found"


@pytest.mark.parametrize(
    ("text", "type_", "value"),
    [
        ("u1", "string", "u1"),
        ("", "string", ""),
        ("", "int64", None),
        ("9007199254740993", "int64", 9007199254740993),
        ("0.5", "float64", 0.5),
        ("true", "bool", True),
        ("00ff", "bytes", b"\x00\xff"),
        ('["a"]', "list<string>", ["a"]),
        ("[1, 2.5]", "vector<2>", [1.0, 2.5]),
    ],
)
def test_values_are_read_by_their_type(text: str, type_: str, value: object) -> None:
    """Text is text; of anything else, nothing is null."""
    assert parse_value(text, parse_type(type_), "x") == value


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("1.5", "int64"),
        ("yes", "bool"),
        ("2026-13-01", "date"),
        ("x", "decimal(4,2)"),
        ("[", "list<int64>"),
    ],
)
def test_values_of_another_type_are_refused(text: str, type_: str) -> None:
    """Never guessed."""
    with pytest.raises(RequestInvalid, match="x is"):
        parse_value(text, parse_type(type_), "x")


class TestFinding:
    """Search, duplicates and lineage of what is applied."""

    @pytest.fixture(autouse=True)
    def applied(self, project: Path, run: Run) -> None:
        """The example's definitions are in force."""
        assert run("apply", "--yes").exit_code == 0

    def test_search(self, run: Run) -> None:
        """Words need no quotes; a hit says what it is, whose, and why it was found."""
        lines = run("search", "purchases", "7", "days", "user").stdout.splitlines()
        assert lines[:4] == [
            "user_spend:purchases_7d@1",
            (
                "  Number of rows of purchase where status = 'settled', in the 7 days up to and "
                "including the moment asked for; 0 if there were none."
            ),
            "  owner risk@example.com; read by nothing yet",
            "  found by purchases (name); 7d (name); user (entity)",
        ]

    def test_search_with_filters_as_json(self, run: Run) -> None:
        """For programs: hits, how many there are, and how they divide."""
        result = run("search", "--kind", "feature", "--type", "string", "--json")
        found = json.loads(result.stdout)
        assert [hit["reference"] for hit in found["hits"]] == ["user_spend:last_merchant@1"]
        assert found["total"] == 1
        assert found["facets"]["entity"] == {"user": 1}

    def test_lineage(self, run: Run) -> None:
        """One way only, where that is asked for."""
        result = run("lineage", "purchase.merchant", "--downstream")
        assert result.stdout.splitlines() == [
            "column purchase.merchant",
            "└── goes to",
            "    └── feature user_spend:last_merchant@1  as value",
            "        └── service fraud  as last_merchant",
        ]

    def test_lineage_as_a_drawing(self, run: Run) -> None:
        """It can be pasted as it is."""
        result = run("lineage", "fraud", "--format", "mermaid")
        assert result.stdout.startswith("flowchart LR\n")

    def test_a_second_name_needs_to_be_allowed(self, run: Run, project: Path) -> None:
        """Plan and apply refuse it with one exit code; the reason is required."""
        edit(
            project / "features.py",
            "    last_merchant = tm.last(Purchase.merchant)",
            "    last_merchant = tm.last(Purchase.merchant)\n"
            "    newest_merchant = tm.last(Purchase.merchant)",
        )
        assert run("plan").exit_code == 12
        refused = run("apply", "--yes")
        assert refused.exit_code == 12
        assert "--allow-duplicate user_spend:newest_merchant" in refused.stderr
        allowed = ("apply", "--yes", "--allow-duplicate", "user_spend:newest_merchant")
        assert run(*allowed).exit_code == 1
        assert run(*allowed, "--reason", "renamed in May").exit_code == 0
        assert run("duplicates").stdout == (
            "user_spend:last_merchant@1 (risk@example.com) means the same as "
            "user_spend:newest_merchant@1 (risk@example.com)\n"
        )
