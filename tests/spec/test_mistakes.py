"""Obvious mistakes of a first day: what is wrong is said, and the first thing to do about it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.errors import DefinitionError, NotFound, RequestInvalid, TidemarkError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HISTORY = pa.table({"user_id": ["ada"], "amount": [2.5], "at": [NOON]})
LABELS = {"user_id": ["ada"], "moment": [NOON]}


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(HISTORY), time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase):
    total = tm.sum(Purchase.amount)


class Fraud(tm.FeatureService):
    total = Spend.total


@pytest.fixture(scope="module")
def store() -> Generator[tm.Store]:
    """A store in memory with the service applied."""
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan(Fraud))
        yield opened


IN_PYTHON: dict[str, tuple[Callable[[tm.Store], object], type[TidemarkError], str]] = {
    "labels as rows": (
        lambda store: store.training_set(Fraud, [{"user_id": "ada", "moment": NOON}]),
        RequestInvalid,
        "list is not a table.\n  Make it one: pyarrow.Table.from_pylist(rows).",
    ),
    "labels as columns": (
        lambda store: store.training_set(Fraud, LABELS),
        RequestInvalid,
        "dict is not a table.\n  Make it one: pyarrow.table(columns).",
    ),
    "labels as a path": (
        lambda store: store.training_set(Fraud, "labels.parquet"),
        RequestInvalid,
        "str is not a table.\n  Read the file first: pyarrow.parquet.read_table(path)",
    ),
    "labels before features": (
        lambda store: store.training_set(pa.table(LABELS), Fraud),  # type: ignore[arg-type]
        RequestInvalid,
        "Features come first, labels or keys second",
    ),
    "moments as text": (
        lambda store: store.training_set(Fraud, pa.table({"user_id": ["ada"], "t": ["noon"]})),
        RequestInvalid,
        "The labels have no timestamp column.\n  columns: user_id (string), t (string)",
    ),
    "a zone that is none, of labels that carry theirs": (
        lambda store: store.training_set(Fraud, pa.table(LABELS), timezone="Europe/Pari"),
        RequestInvalid,
        "'Europe/Pari' is not a time zone.",
    ),
    "a dataset where there is none": (
        lambda store: store.registry.dataset("churn"),
        NotFound,
        "There is none yet. Keep one: tidemark train --save-as NAME",
    ),
    "a model where there is none": (
        lambda store: store.training_set("model:churn@1", pa.table(LABELS)),
        NotFound,
        "There is none yet. Register one: tidemark model register",
    ),
    "a key where there is none": (
        lambda store: store.registry.keys.revoke("checkout"),
        NotFound,
        "There is none yet. Make one: tidemark key create NAME.",
    ),
    "an end of a key that is no time": (
        lambda store: store.registry.keys.create("checkout", expires="soon"),
        RequestInvalid,
        "'soon' is not a moment.\n  Say how long it holds",
    ),
    "a revision that is not there": (
        lambda store: store.registry.diff("r1", "r9"),
        NotFound,
        "There is no revision as of r9.\n  A revision is r12, or a moment; tidemark log",
    ),
    "a folder that is not there": (
        lambda store: store.training_set(Fraud, pa.table(LABELS)).write_parquet("no/x.parquet"),
        RequestInvalid,
        "There is no directory no.\n  Make it: mkdir -p no",
    ),
    "no key for a test": (
        lambda _: tm.testing.features_at(Spend, [], {}, at=NOON),
        RequestInvalid,
        "The key 'user_id' is missing.\n  Expected: user_id.",
    ),
    "an audit without a log": (
        lambda store: store.audit(since="1h"),
        NotFound,
        "An audit with probe=10 needs none.",
    ),
    "more than all requests": (
        lambda store: store.audit(since="1h", sample=2),
        RequestInvalid,
        "sample=2 is no share of the requests.",
    ),
}


@pytest.mark.parametrize("mistake", IN_PYTHON)
def test_in_python(store: tm.Store, mistake: str) -> None:
    """The message is for whoever made the mistake."""
    call, error, said = IN_PYTHON[mistake]
    with pytest.raises(error) as caught:
        call(store)
    assert said in str(caught.value)


def test_a_name_that_the_package_does_not_have() -> None:
    """Python itself suggests the nearest name, since the error says where it was looked for."""
    with pytest.raises(AttributeError) as caught:
        _ = tm.conect  # type: ignore[attr-defined]
    assert (caught.value.name, caught.value.obj) == ("conect", tm)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("name = shop", 'such as definitions = "features.py", with text in quotes'),
        ('threads = "two"', "The setting threads has the wrong type: Expected `int`, got `str`."),
        ('future = "soon"', "'soon' is not a duration.\n  future in "),
        ('schedule = { compact = "hourly" }', "'hourly' is not a duration.\n  schedule, compact"),
    ],
)
def test_in_the_settings(tmp_path: Path, settings: str, said: str) -> None:
    """The setting is named, when the project is opened."""
    (tmp_path / "tidemark.toml").write_text(settings)
    with pytest.raises(DefinitionError) as caught:
        tm.connect(tmp_path)
    assert said in str(caught.value)


def test_a_project_that_is_another_file(tmp_path: Path) -> None:
    """It is named as it was given."""
    (tmp_path / "features.py").write_text("import tidemark")
    with pytest.raises(DefinitionError, match=r"features\.py is not TOML"):
        tm.connect(tmp_path / "features.py")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in a project with one service, nothing materialized."""
    (tmp_path / "tidemark.toml").write_text('definitions = "shop.yaml"')
    (tmp_path / "shop.yaml").write_text("""
entities: [{name: user, keys: {user_id: string}}]
sources: {purchase: {time: at, columns: {user_id: string, amount: float64, at: timestamp}}}
views:
  spend:
    {entity: user, source: purchase, features: {total: {function: sum, value: amount}}}
services: {fraud: {features: {total: "spend:total"}}}
""")
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Result:
        return CliRunner().invoke(main, list(words), prog_name="tidemark")

    assert command("apply", "--yes").exit_code == 0
    return command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("online", "fraud", "--key", "ada"), "'ada' is not name=value.\n  --key user_id=..."),
        (("online", "fraud", "--request", "amuont=1"), "There is no request field 'amuont'."),
        (
            ("online", "fraud", "--key", "user_id=ada", "--key", "user_id=bob"),
            "user_id is given twice.\n  A vector is of one entity",
        ),
        (("online", "model:fraud@1", "--key", "user_id=ada"), "There is no model 'fraud@1'."),
        (("train", "fraud", "--labels", "l.csv", "--out", "x.txt"), "name.parquet or name.csv"),
        (("train", "fraud", "--labels", ".", "--out", "x.csv"), ". is a directory.\n  Name one"),
        (("log", "--limit", "0"), "0 is not in the range x>=1"),
        (("--project", "shop", "plan"), "Say it after the command: tidemark COMMAND --project"),
        (("serve", "--port", "99999"), "99999 is not in the range 0<=x<=65535"),
    ],
)
def test_on_the_command_line(run: Callable[..., Result], words: tuple[str, ...], said: str) -> None:
    """What to write instead is shown."""
    (Path.cwd() / "l.csv").write_text("user_id,at\nada,2026-03-01T12:00:00Z\n")
    ran = run(*words)
    assert ran.exit_code in {1, 2}
    assert said in ran.stderr


def test_a_port_that_is_in_use(run: Callable[..., Result]) -> None:
    """What is in the way is said, not what the system calls it."""
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("serve", "--port", str(port))
    assert f"Port {port} of 127.0.0.1 is in use by another program." in ran.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--list"), "There is no schedule; tidemark.toml has it: schedule = { materialize"),
        (("model", "list"), "There is no model; tidemark model register pins one."),
    ],
)
def test_nothing_there_yet(run: Callable[..., Result], words: tuple[str, ...], said: str) -> None:
    """An empty list says how the first one is made."""
    assert said in run(*words).stdout
