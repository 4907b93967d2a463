"""Project defaults: named, written into definitions when they are read, and never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemark.errors import DefinitionError, NotFound
from tidemark.store import connect

PYTHON = """
from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.parquet("x.parquet"), time="at"{source}):
    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase{view}):
    visits = tm.count(over="30d")
"""
YAML = """
entities: {user: {keys: {user_id: string}}}
sources:
  purchase:
    columns: {user_id: string, at: timestamp}
    time: at
    history: {parquet: x.parquet}
views:
  spend:
    entity: user
    source: purchase
    features: {visits: {function: count, over: 30d}}
"""
ACME = 'defaults = { name = "acme-1", bound = "before", zone = "Europe/Paris", delay = "10m" }\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write()
    return tmp_path


def write(settings: str = "", *, source: str = "", view: str = "", text: str = PYTHON) -> None:
    """A project, and definitions that say what is given."""
    name = "features.yaml" if text is YAML else "features.py"
    Path("tidemark.toml").write_text(f'definitions = "{name}"\n{settings}')
    Path(name).write_text(text if text is YAML else text.format(source=source, view=view))


def said() -> tuple[str, str, int]:
    """The bound, the zone and the delay that a plan would put in force."""
    with connect() as store:
        definitions = store.plan().definitions
    source = definitions.source("purchase")
    return definitions.view("spend").bound, source.timezone, source.delay


@pytest.mark.parametrize("text", [PYTHON, YAML])
def test_what_is_unsaid_is_written(project: Path, text: str):
    """In Python and in YAML alike."""
    write(text=text)
    assert said() == ("at", "", 0)
    write(ACME, text=text)
    assert said() == ("before", "Europe/Paris", 600_000_000)


def test_what_is_said_stays(project: Path):
    """Even where it says what the built-in set says."""
    write(ACME, source=', timezone="UTC", delay="1s"', view=', bound="at"')
    assert said() == ("at", "UTC", 1_000_000)


def test_the_set_is_recorded_and_described(project: Path):
    """Under its name; every one of them is printed with the feature."""
    write(ACME)
    with connect() as store:
        plan = store.plan()
        assert "~ defaults acme-1  metadata" in str(plan)
        store.apply(plan)
        assert store.plan().empty
        facts = store.describe("spend:visits")
    assert facts["defaults"] == "acme-1"
    assert facts["bound"].startswith("before")
    assert facts["seen"] == "10 minutes after it happened"
    assert facts["nulls"] == "rows count whatever they hold; of nothing the value is 0"


def test_a_set_never_changes_under_its_name(project: Path):
    """Another one is given another name."""
    write(ACME)
    with connect() as store:
        store.apply(store.plan())
    write(ACME.replace("10m", "20m"))
    with connect() as store, pytest.raises(DefinitionError, match="'acme-1' are not what they"):
        store.plan()


def test_another_set_cannot_alter_what_is_published(project: Path):
    """What it would change is refused as any change of meaning is."""
    with connect() as store:
        store.apply(store.plan())
    write(ACME)
    with connect() as store:
        assert [change.name for change in store.plan().refused] == ["spend:visits@1"]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ('defaults = { bound = "before" }', DefinitionError, "need a name of their own"),
        ('defaults = { name = "a", bond = "at" }', NotFound, "no default 'bond'"),
        ('defaults = { name = "a", bound = "after" }', DefinitionError, "wrong type"),
    ],
)
def test_what_is_no_set(project: Path, settings: str, error: type[Exception], words: str):
    """One sentence each."""
    write(settings)
    with pytest.raises(error, match=words):
        connect()
