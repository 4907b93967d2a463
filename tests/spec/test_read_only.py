"""A project that cannot be written can be read, as in a container that only serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidemark as tm

DEFINITIONS = '''
from datetime import datetime
import tidemark as tm

class Guest(tm.Entity):
    """Somebody who stays."""
    guest: tm.Key[str]

class Stay(tm.Source, history=tm.csv("stays.csv"), time="at", timezone="UTC"):
    """A stay."""
    guest: tm.Col[str]
    at: tm.Col[datetime]

class Stays(tm.FeatureView, entity=Guest, source=Stay):
    """How often somebody stayed."""
    stays = tm.count()
'''

READER = """
import os, sys
import tidemark as tm
from tidemark.errors import StoreUnavailable
import tidemark.ingest.materialize

ROOM = {"entities": {"room": {"keys": {"room": "string"}}}}
path, user = sys.argv[1], int(sys.argv[2])
if user:
    with tm.connect(path) as store:  # what is needed is imported while Python's files are readable
        store.online("stays", {"guest": "ada"})
        store.plan(tm.load(ROOM))
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
with tm.connect(path) as store:
    print(store.online("stays", {"guest": "ada"})["stays"])
    plan = store.plan(tm.load(ROOM))
    for write in (lambda: store.apply(plan), store.materialize):
        try:
            write()
        except StoreUnavailable as error:
            print(error.what)
    print(store.online("stays", {"guest": "ada"})["stays"])
"""


@pytest.fixture
def project() -> Iterator[Path]:
    """A project with one materialized view, in a place that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="tidemark-test-"))
    (folder / "tidemark.toml").write_text('definitions = "features.py"\n')
    (folder / "features.py").write_text(DEFINITIONS)
    (folder / "stays.csv").write_text(
        "guest,at\nada,2026-01-01 00:00:00\nada,2026-01-02 00:00:00\n"
    )
    with tm.connect(folder) as store:
        store.apply(store.plan())
        store.materialize()
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in everything:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_project_that_is_not_writable_can_be_read(project: Path) -> None:
    """Reads answer, before and after a write was refused in one sentence."""
    nobody = 65534 if os.getuid() == 0 else 0  # root would be allowed to write
    command = [sys.executable, "-B", "-c", READER, str(project), str(nobody)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    first, registry, online, again = done.stdout.splitlines() or [done.stderr] * 4
    assert (first, again) == ("2", "2"), done.stderr
    assert registry == "The registry can only be read by this process."
    assert online.startswith("The online store refused: ")
