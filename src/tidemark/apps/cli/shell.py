"""What all commands share: their common options, their output, and how they fail."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tidemark.errors import DefinitionError, EventsRefused, PlanConflict, TidemarkError

if TYPE_CHECKING:
    from tidemark.store import Store

ERROR = 1
CHANGES = 10
CONFIRMATION_MISSING = 11
REFUSED = 12
DIFFERENCES = 14
INCOMPLETE = 15

_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "--project",
        "The project's directory; the nearest one upward if left out.",
        {"metavar": "DIR"},
    ),
    ("--json", "Print JSON.", {"is_flag": True}),
    ("--debug", "Show the traceback of an error.", {"is_flag": True}),
)
"""What every command understands: name, help, and the rest."""


class _Told(click.Command):
    """What tells as JSON, where that is asked for, that the command line itself is wrong."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the words of the command; what they lack is told as JSON if that is asked for."""
        as_json = "--json" in args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if as_json:
                _misused(error)
            raise


class Group(_Told, click.Group):
    """Commands under one name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words before a command; options that all commands have belong after it."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in {name for name, _, _ in _OPTIONS}:
                raise
            said = f"Say it after the command: {ctx.command_path} COMMAND {error.option_name} ..."
            raise click.UsageError(f"{error.format_message()}. {said}", ctx) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words begin with."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if "--json" in args:
                _misused(error)
            raise


class Command(_Told):
    """A command with `--project`, `--json` and `--debug`, whose errors are sentences."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += [
            click.Option([name], help=about, expose_value=False, callback=_remember, **more)
            for name, about, more in _OPTIONS
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a `TidemarkError` becomes text on stderr and an exit code."""
        if wants_json():  # whose reader has no use for what a person is told while waiting
            logging.getLogger("tidemark.kernel").setLevel(logging.ERROR)
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if wants_json():
                _misused(error)
            raise
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except TidemarkError as error:
            if _option(ctx, "debug"):
                raise
            fail(error)
        except Exception as error:
            if _option(ctx, "debug"):
                raise
            what = f"Something unforeseen happened. {type(error).__name__}: {error}"
            fail(TidemarkError(what, remedy="The same command with --debug shows where."))


def _misused(error: click.UsageError) -> NoReturn:
    """Print as JSON that a command was called with other words than it takes."""
    command = error.ctx.command_path if error.ctx is not None else "tidemark"
    facts = {"error": "usage", "what": error.format_message(), "where": command}
    _echo_json({**facts, "remedy": f"{command} --help"}, to_stderr=True)
    raise SystemExit(error.exit_code)


def fail(error: TidemarkError) -> NoReturn:
    """Print an error, as JSON if that was asked for, and end with its exit code."""
    if wants_json():
        facts: dict[str, Any] = {"error": error.slug, "what": error.what}
        facts |= {"where": error.where, "remedy": error.remedy, "text": str(error)}
        if isinstance(error, DefinitionError):
            facts["problems"] = [asdict(problem) for problem in error.problems]
        if isinstance(error, EventsRefused):
            facts |= {"bad_rows": error.bad_rows, "bad": [asdict(each) for each in error.bad]}
        _echo_json(facts, to_stderr=True)
    else:
        click.secho(f"{type(error).__name__}: ", fg="red", bold=True, nl=False, err=True)
        click.echo(str(error), err=True)
    if isinstance(error, PlanConflict):
        raise SystemExit(CONFIRMATION_MISSING if error.unconfirmed else REFUSED)
    raise SystemExit(ERROR)


@contextmanager
def told_to_stop() -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set; what goes on meanwhile is to end by itself."""
    stop = threading.Event()

    def told(_signal: int, _frame: object) -> None:
        stop.set()

    before = {each: signal.signal(each, told) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def open_store() -> Store:
    """The store of the project that `--project` names or that is nearest."""
    from tidemark.store import connect

    return connect(project())


def project() -> str | None:
    """What `--project` names."""
    path: str | None = _option(click.get_current_context(), "project")
    return path


def wants_json() -> bool:
    """Whether the output is for programs."""
    return bool(_option(click.get_current_context(), "json"))


def show(value: Any, facts: Any) -> None:
    """Print `value` for people (coloured where it can be), or `facts` as JSON."""
    if wants_json():
        _echo_json(facts)
        return
    from rich.console import Console

    # Text that is piped is not wrapped: whoever reads it has a width of their own.
    width = None if sys.stdout.isatty() else 10_000
    Console(highlight=False, markup=False, emoji=False, width=width).print(value, end="\n")


def _echo_json(facts: Any, *, to_stderr: bool = False) -> None:
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(facts, enc_hook=str), indent=2)
    click.echo(text.decode(), err=to_stderr)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    ctx.meta[f"tidemark.{param.name}"] = value
    return value


def _option(ctx: click.Context, name: str) -> Any:
    return ctx.meta.get(f"tidemark.{name}")
