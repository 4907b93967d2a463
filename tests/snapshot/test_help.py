"""What the command line says of itself.

`UPDATE_SNAPSHOTS=1 pytest tests/snapshot` writes it anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tidemark.apps.cli import SECTIONS, main

FOLDER = Path(__file__).parent / "help"
COMMANDS = (
    "",
    *sorted(main.commands),
    *(
        f"{name} {inner}"
        for name, command in sorted(main.commands.items())
        if isinstance(command, click.Group)
        for inner in sorted(command.commands)
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    """A changed option is a changed promise: it shows in review."""
    arguments = [*command.split(), "--help"]
    result = CliRunner().invoke(main, arguments, prog_name="tidemark", terminal_width=88)
    path = FOLDER / f"{command.replace(' ', '-') or 'tidemark'}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(result.output, "utf-8")
    assert result.exit_code == 0
    assert result.output == path.read_text("utf-8")


def test_no_help_is_left_of_a_command_that_went() -> None:
    """Snapshots are of commands that there are."""
    assert {path.stem for path in FOLDER.iterdir()} == {
        each.replace(" ", "-") or "tidemark" for each in COMMANDS
    }


def test_every_command_is_in_one_section() -> None:
    """What is in none would not be listed."""
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(main.commands)
