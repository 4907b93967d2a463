"""The house rules that no linter knows."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "tidemark"
MODULES = sorted(SOURCE.rglob("*.py"))

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70
HEAVY = {"numpy", "pyarrow", "duckdb", "numba", "sqlalchemy", "sqlglot", "pandas", "click"}
VAGUE = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "misc"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    """A longer file holds two subjects."""
    assert len(path.read_text("utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    """A longer function hides its steps; the docstring counts, since it is read too."""
    long = {
        node.name: length
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_every_module_is_named_for_what_it_is_about() -> None:
    """A drawer called `utils` collects whatever nobody thought about."""
    parts = {part for path in MODULES for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert parts & VAGUE == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    """Open work belongs in the tracker, where it is seen."""
    assert UNFINISHED.findall(path.read_text("utf-8")) == []


def test_importing_tidemark_loads_no_engine() -> None:
    """A definition file is imported by editors, linters and servers that never compute a value."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, tidemark; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "tidemark" in loaded
    assert HEAVY & set(loaded) == set()


def test_the_licence_and_the_type_marker_ship_with_the_package() -> None:
    """Without `py.typed`, a type checker ignores every annotation of an installed package."""
    assert (SOURCE / "py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
