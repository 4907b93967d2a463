"""The reference is complete: what can be said is listed."""

from __future__ import annotations

import inspect
import re

import click
import pytest
from tests.docs.test_pages import ROOT

import tidemark as tm
from tidemark import errors
from tidemark.apps.cli import main
from tidemark.define.features import Options
from tidemark.store import Store
from tidemark.store.config import Config

REFERENCE = ROOT / "docs" / "reference"
DECLARATIONS = (tm.Entity, tm.Source, tm.Request, tm.FeatureView, tm.FeatureService)
MADE = (tm.parquet, tm.csv, tm.delta, tm.table, tm.query, tm.frame)
STREAMED = (tm.kafka, tm.redis_stream, tm.ndjson)


def listed(page: str) -> str:
    """The text of a page of the reference."""
    return (REFERENCE / page).read_text("utf-8")


def test_every_argument_of_a_declaration() -> None:
    """Class arguments, options of aggregates, histories and streams are in definitions.md."""
    arguments = {
        name
        for each in DECLARATIONS
        for name in inspect.signature(each.__init_subclass__).parameters
    }
    arguments |= set(Options.__annotations__)
    text = listed("definitions.md")
    assert [name for name in sorted(arguments) if f"{name}=" not in text] == []
    assert [
        each.__name__ for each in (*MADE, *STREAMED) if f"tm.{each.__name__}(" not in text
    ] == []


def test_every_method_of_the_store() -> None:
    """What is public is in store.md; what servers need of a store is not for users."""
    public = {name for name in vars(Store) if not name.startswith("_")} - {"readers", "config"}
    assert [
        name
        for name in sorted(public)
        if not re.search(rf"`(store\.)?{name}\b", listed("store.md"))
    ] == []


@pytest.mark.parametrize("name", [each for each in Config.__struct_fields__ if each != "root"])
def test_every_setting(name: str) -> None:
    """A line of the example in configuration.md has it."""
    assert re.search(rf"^{name} = ", listed("configuration.md"), re.MULTILINE)


def test_every_error() -> None:
    """Each class of `tidemark.errors` has its row, but for the base of all."""
    kinds = {
        name for name, each in vars(errors).items()
        if inspect.isclass(each) and issubclass(each, errors.TidemarkError)
    }  # fmt: skip
    assert [
        name for name in sorted(kinds - {"TidemarkError"}) if f"`{name}`" not in listed("errors.md")
    ] == []


def commands(group: click.Group, above: str = "") -> dict[str, click.Command]:
    """All commands by what is typed."""
    found: dict[str, click.Command] = {}
    for name, each in group.commands.items():
        inner = commands(each, f"{above}{name} ") if isinstance(each, click.Group) else {}
        found |= inner or {f"{above}{name}": each}
    return found


@pytest.mark.parametrize(("name", "command"), commands(main).items())
def test_every_option_of_a_command(name: str, command: click.Command) -> None:
    """The command has a row in cli.md, and the row names what only this command takes."""
    (row,) = re.findall(rf"^\| `{name}[ `].*$", listed("cli.md"), re.MULTILINE) or [""]
    common = {"--project", "--json", "--debug", "-y", "-h"}
    options = {each for param in command.params for each in param.opts if each.startswith("-")}
    assert row
    assert [each for each in sorted(options - common) if each not in row] == []


def test_every_limit_of_the_service() -> None:
    """http.md has each member of `Limits` with its default."""
    http = pytest.importorskip("tidemark.apps.http")
    rows = dict(re.findall(r"^\|[^|]*\| `(\w+)` \| ([\d,]+)", listed("http.md"), re.MULTILINE))
    told = {name: float(text.replace(",", "")) for name, text in rows.items()}
    assert told == {
        name: float(getattr(http.Limits(), name)) for name in http.Limits.__struct_fields__
    }
