"""The documentation is true: every Python example and every command of every page runs."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))

# Commands that set up a machine; the fresh-clone check runs those, not this one.
NOT_RUN_HERE = {"pip", "make", "git", "source"}


def run_console(example: Example) -> None:
    """Run each `$ tidemark ...` line of a console block in the page's folder; it must succeed."""
    for line in example.parsed.splitlines():
        if not line.startswith("$ "):
            continue
        for command in line[2:].split(" && "):
            words = shlex.split(command, comments=True)
            if not words or words[0] in NOT_RUN_HERE:
                continue
            if words[0] == "cd":
                os.chdir(words[1])
                continue
            assert words[0] == "tidemark", f"{example.path}:{example.line} runs {words[0]}"
            ran = subprocess.run(
                [sys.executable, "-m", "tidemark", *words[1:]],
                check=False, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"},
            )  # fmt: skip
            assert ran.returncode == 0, f"{example.path}:{example.line} {command}\n{ran.stderr}"


class ConsoleBlockParser(CodeBlockParser):
    language = "console"

    def evaluate(self, example: Example) -> None:
        run_console(example)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_example_of_the_page_runs(page, tmp_path, monkeypatch):
    """Blocks of one page run in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    document = Sybil(parsers=[PythonCodeBlockParser(), ConsoleBlockParser()]).parse(ROOT / page)
    for example in document.examples():
        example.evaluate()
