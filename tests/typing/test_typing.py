"""Definitions are checked by ordinary type checkers, without a plugin."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tidemark.store import Store
from tidemark.store.registry import ProjectRegistry

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOOD = (HERE / "good_definitions.py", HERE / "good_store.py")
BAD = (HERE / "bad_definitions.py", HERE / "bad_store.py")

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
    command += ["--no-warn-unreachable", *map(str, (*GOOD, *BAD))]
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


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_good_code_type_checks(found: Found, file: Path) -> None:
    """`Purchase.amount` is a `Col[float]`, `store.plan()` a `Plan`."""
    assert found.get(file.name, set()) == set()


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_mistakes_are_found_by_type_checkers(found: Found, file: Path) -> None:
    """An unknown column, a sum of text, a plan that is a path: red in the editor."""
    wrong = {
        number
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if line.endswith("# wrong")
    }
    assert found.get(file.name, set()) == wrong


@pytest.mark.parametrize("owner", [Store, ProjectRegistry], ids=lambda owner: owner.__name__)
def test_every_public_method_is_called_in_good_code(owner: type) -> None:
    """Whoever adds one shows how it is called, and of what type its answer is."""
    tree = ast.parse("\n".join(file.read_text("utf-8") for file in GOOD))
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in dir(owner) if not name.startswith("_")} - called == set()


def test_good_definitions_run() -> None:
    """What type-checks is what Tidemark accepts."""
    assert "Fraud" in runpy.run_path(str(GOOD[0]), run_name="good_definitions")
