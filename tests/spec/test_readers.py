"""A new revision is prepared before reads see it, by whoever follows the registry."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.spec.served import DEFINITIONS, define, make_project

import tidemark as tm
from tidemark.serve import reader as serving


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture
def made_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads in which readers were made."""
    found: list[int] = []
    made = serving.Reader.__init__

    def note(*arguments: Any, **named: Any) -> None:
        found.append(threading.get_ident())
        made(*arguments, **named)

    monkeypatch.setattr(serving.Reader, "__init__", note)
    return found


def elsewhere(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_reads_of_a_new_revision_make_nothing(project: Path, made_in: list[int]) -> None:
    """Services, old and new, and what was read by name, were made by who follows."""
    with tm.connect(project) as store:
        store.readers.refresh()
        before = store.reader(["activity:events"])
        more = "\n\nclass More(tm.FeatureService):\n    spend = Activity.spend\n"
        define(project, DEFINITIONS + more)
        command = [sys.executable, "-m", "tidemark", "apply", "--yes", "--project", str(project)]
        subprocess.run(command, check=True, capture_output=True)
        elsewhere(store.readers.refresh)
        made_in.clear()
        for features in ("everything", "asked", "more", ["activity:events"]):
            store.reader(features)
        assert store.reader(["activity:events"]) is not before
        assert made_in == []
