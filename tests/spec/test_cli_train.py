"""`tidemark train`: datasets that are kept with a split, and how errors are told to programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from tidemark.apps.cli import main
from tidemark.apps.cli.values import parse_split
from tidemark.errors import NotFound, RequestInvalid

Run = Callable[..., Result]
KEEP = ("train", "fraud", "--labels", "data/labels.parquet", "--save-as", "march")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in the example project, where everything is applied."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), prog_name="tidemark")

    assert command("init", "example").exit_code == 0
    monkeypatch.chdir(tmp_path / "example")
    assert command("apply", "--yes").exit_code == 0
    return command


class TestSplit:
    """What `TrainingSet.split` takes, as name=value."""

    def test_by_time(self, run: Run) -> None:
        """The parts are kept with the dataset, and told with what they have in common."""
        day = sorted(parquet.read_table("data/labels.parquet")["at"].to_pylist())[200].date()
        result = run(*KEEP, "--split", f"time={day}", "--split", "gap=1d")
        assert result.exit_code == 0, result.output
        assert "split by time, with a gap of 1d" in result.stdout
        shown = json.loads(run("dataset", "show", "march", "--json").stdout)
        assert shown["split"] == {"time": f"{day}T00:00:00Z", "gap": "1d"}

    def test_by_entity(self, run: Run) -> None:
        """To name the entity is to split by it; two fractions are validation and test."""
        words = ("--split", "entity=user", "--split", "fraction=0.1,0.2", "--split", "seed=7")
        result = run(*KEEP, *words, "--json")
        assert result.exit_code == 0, result.output
        split = json.loads(result.stdout)["split"]
        assert set(split["rows"]) == {"train", "validation", "test"}
        assert sum(split["rows"].values()) == 300
        shown = json.loads(run("dataset", "show", "march", "--json").stdout)
        assert shown["split"] == {
            "by": "entity",
            "entity": "user",
            "fraction": [0.1, 0.2],
            "seed": 7,
        }

    def test_it_is_kept_with_a_dataset_only(self, run: Run) -> None:
        """Rows in one file have no parts."""
        result = run(
            "train",
            "fraud",
            "--labels",
            "data/labels.parquet",
            "--out",
            "t.parquet",
            "--split",
            "fraction=0.2",
        )
        assert result.exit_code == 2
        assert "A split is kept with a dataset: add --save-as NAME." in result.stderr

    @pytest.mark.parametrize(
        ("said", "what"),
        [
            ("fractoin=0.2", "Did you mean 'fraction'"),
            ("fraction=much", "fraction is a number, and 'much' is not"),
            ("time=soon", "'soon' is not a moment"),
            ("by=luck", "Rows are not split by 'luck'"),
            ("0.2", "'0.2' is not name=value"),
        ],
    )
    def test_what_it_does_not_understand(self, run: Run, said: str, what: str) -> None:
        """One sentence, before anything is computed."""
        result = run(*KEEP, "--split", said)
        assert result.exit_code == 1
        assert what in result.stderr


@pytest.mark.parametrize(
    ("pairs", "timezone", "arguments"),
    [
        (["fraction=0.2"], None, {"fraction": 0.2}),
        (["fraction=0.1,0.2"], None, {"fraction": (0.1, 0.2)}),
        (["time=2026-01-01"], None, {"time": "2026-01-01T00:00:00+00:00"}),
        (["time=2026-07-01"], "America/New_York", {"time": "2026-07-01T00:00:00-04:00"}),
        (
            ["time=2026-01-01,2026-02-01T12:00:00Z"],
            None,
            {"time": ("2026-01-01T00:00:00+00:00", "2026-02-01T12:00:00Z")},
        ),
        (["by=random", "seed=7"], None, {"by": "random", "seed": 7}),
        (["entity=user"], None, {"entity": "user", "by": "entity"}),
        ([], None, None),
    ],
)
def test_a_split_is_read(
    pairs: list[str], timezone: str | None, arguments: dict[str, object] | None
) -> None:
    """A day begins at midnight of `--timezone`, or of UTC; a pair is validation and test."""
    assert parse_split(pairs, timezone) == arguments


@pytest.mark.parametrize("pair", ["fraction=0.1,0.2,0.3", "seed=1.5", "time=a,b,c"])
def test_a_split_that_does_not_read(pair: str) -> None:
    """At most two parts are cut off."""
    with pytest.raises(RequestInvalid):
        parse_split([pair], None)


def test_an_unknown_argument_of_a_split() -> None:
    """With the nearest one."""
    with pytest.raises(NotFound, match="argument of split"):
        parse_split(["sed=1"], None)


@pytest.mark.parametrize(
    ("words", "what", "where"),
    [
        (("plam", "--json"), "No such command 'plam'. Did you mean 'plan'?", "tidemark"),
        (("dataset", "verfy", "x", "--json"), "No such command 'verfy'.", "tidemark dataset"),
        (("plan", "--nope", "--json"), "No such option '--nope'.", "tidemark plan"),
        (("--nope", "plan", "--json"), "No such option '--nope'.", "tidemark"),
        (("dataset", "--nope", "--json"), "No such option '--nope'.", "tidemark dataset"),
        (("lineage", "x", "--format", "gif", "--json"), "Invalid value for", "tidemark lineage"),
    ],
)
def test_a_command_line_that_is_wrong_is_told_as_json(
    run: Run, words: tuple[str, ...], what: str, where: str
) -> None:
    """Unknown commands and options as every other error, wherever they stand."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    told = json.loads(result.stderr)
    assert told["what"].startswith(what)
    assert (told["error"], told["where"]) == ("usage", where)
    assert told["remedy"] == f"{where} --help"


def test_without_json_it_is_told_as_text(run: Run) -> None:
    """With the usage, as people know it."""
    result = run("plam")
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: tidemark")
