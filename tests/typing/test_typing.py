"""Definitions are checked by ordinary type checkers, without a plugin."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOOD, BAD = HERE / "good_definitions.py", HERE / "bad_definitions.py"

Found = dict[str, set[int]]


def pyright() -> Found:
    settings = HERE / "pyrightconfig.json"
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(settings)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    found: Found = {}
    for each in json.loads(run.stdout)["generalDiagnostics"]:
        found.setdefault(Path(each["file"]).name, set()).add(each["range"]["start"]["line"] + 1)
    return found


def mypy() -> Found:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--output=json"]
    command += ["--no-warn-unreachable", str(GOOD), str(BAD)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode in {0, 1}, run.stderr
    found: Found = {}
    for line in run.stdout.splitlines():
        each = json.loads(line)
        found.setdefault(Path(each["file"]).name, set()).add(each["line"])
    return found


CHECKERS = {"pyright": pyright, "mypy": mypy}


@pytest.fixture(scope="module", params=CHECKERS)
def found(request: pytest.FixtureRequest) -> Found:
    """The lines that one checker complains about, in both files."""
    return CHECKERS[request.param]()


def test_good_definitions_type_check(found: Found) -> None:
    """`Purchase.amount` is a `Col[float]`, `UserSpend.spend["7d"]` a `Feature[float]`."""
    assert found.get(GOOD.name, set()) == set()


def test_mistakes_are_found_by_type_checkers(found: Found) -> None:
    """An unknown column, a sum of text, a filter that is no condition: red in the editor."""
    wrong = {
        number
        for number, line in enumerate(BAD.read_text("utf-8").splitlines(), 1)
        if line.endswith("# wrong")
    }
    assert found.get(BAD.name, set()) == wrong


def test_good_definitions_run() -> None:
    """What type-checks is what Tidemark accepts."""
    assert "Fraud" in runpy.run_path(str(GOOD), run_name="good_definitions")
