"""The commands of live events: take them from a file or a pipe, and show those that were bad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import click

from tidemark.apps.cli.shell import Command, Group, open_store, show
from tidemark.errors import EventsRefused, TidemarkError
from tidemark.model.plural import counted

if TYPE_CHECKING:
    from tidemark.ingest.push import OnError


_SHOWN = 500
"""Characters of a dead letter that people are shown; programs are told all."""


@click.command(cls=Command)
@click.argument("source")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--on-error",
    type=click.Choice(["refuse", "quarantine"]),
    default="refuse",
    show_default=True,
    help="A bad line: take none of its batch, or take the good ones and keep the bad.",
)
@click.option(
    "--key", default="", help="Idempotency key: a file pushed again under it counts once."
)
@click.option("--batch", default=10_000, show_default=True, help="Lines that are taken together.")
def push(source: str, file: IO[bytes], on_error: OnError, key: str, batch: int) -> None:
    """Push events of a source from a file or a pipe.

    FILE has one JSON object on each line; - is the standard input.  Each batch is durable and
    counted by the next read before the following one is taken.
    """
    from tidemark.engines.progress import Progress

    facts: dict[str, Any] = {"source": source, "lines": 0, "accepted": 0, "duplicates": 0}
    facts |= {"quarantined": 0, "position": 0}
    with open_store() as store, Progress() as progress:
        progress.begin(f"push {source}")
        for number, (places, lines) in enumerate(_batches(file, max(1, batch))):
            named = f"{key}:{number}" if key else ""
            try:
                done = store.push(source, b"".join(lines), on_error=on_error, key=named)
            except EventsRefused as error:
                raise _placed(error, places, facts["lines"]) from None
            except TidemarkError as error:
                error.remedy += _before(facts["lines"])
                raise
            facts["lines"] += len(lines)
            for name in ("accepted", "duplicates", "quarantined"):
                facts[name] += getattr(done, name)
            facts["position"] = done.position
            progress.rows(len(lines))
    show(
        f"{counted(facts['accepted'], 'event')} of {source} taken, {facts['duplicates']:,} there "
        f"already, {counted(facts['quarantined'], 'dead letter')}.",
        facts,
    )


@click.group("dead-letters", cls=Group)
def dead_letters() -> None:
    """Rows that could not be events: see them, replay them."""


@dead_letters.command("list", cls=Command)
@click.argument("source")
@click.option("--after", default=0, help="Only those with a greater number.")
@click.option("--limit", default=100, show_default=True, help="How many to show.")
@click.option("--replayed", is_flag=True, help="Those that have become events since.")
def list_(source: str, after: int, limit: int, replayed: bool) -> None:
    """Show the rows of a source that could not be events.

    With their numbers and the reasons, oldest first.
    """
    from tidemark.model.window import format_moment

    with open_store() as store:
        found = store.events.dead_letters(source, after=after, most=limit, replayed=replayed)
    lines: list[str] = []
    for each in found:
        place = f"  {each.origin} {each.offset}" if each.origin else ""
        lines.append(f"{each.number}  {format_moment(each.at)}{place}  {_plain(each.row)}")
        lines += [f"    {_plain(reason)}" for reason in each.reasons]
        lines += [f"    replayed {format_moment(each.replayed)}"] if replayed else []
    kind = "replayed dead letters" if replayed else "dead letters"
    show("\n".join(lines) or f"There are no {kind} of {source}.", [*map(asdict, found)])


@dead_letters.command(cls=Command)
@click.argument("source")
@click.option("--id", "numbers", multiple=True, type=int, metavar="NUMBER", help="Only this one.")
def replay(source: str, numbers: tuple[int, ...]) -> None:
    """Check dead letters again, and push those that are good now.

    After the declaration, or a clock, was put right.  The others stay, with the reasons they
    have now; whatever dies meanwhile, none is counted twice.
    """
    with open_store() as store:
        done = store.events.replay(source, numbers or None)
    show(
        f"{counted(done.accepted, 'event')} of {source} taken, {done.duplicates:,} there already, "
        f"{counted(done.refused, 'dead letter')} left.",
        asdict(done),
    )


def _batches(file: IO[bytes], size: int) -> Iterator[tuple[list[int], list[bytes]]]:
    """The lines that are not empty, some at a time, and which of the file they are, from 1."""
    lines = (
        (place, line if line.endswith(b"\n") else line + b"\n")
        for place, line in enumerate(file, 1)
        if line.strip()
    )
    while taken := list(islice(lines, size)):
        yield [place for place, _ in taken], [line for _, line in taken]


def _placed(error: EventsRefused, places: list[int], before: int) -> EventsRefused:
    """The error with rows counted as lines of the file; so many lines went in before them."""
    from tidemark.ingest.push import listed

    bad = [replace(each, row=places[each.row]) for each in error.bad]
    return EventsRefused(
        error.what,
        where=listed(bad, "line"),
        remedy="Correct them, or let the good ones in with --on-error quarantine."
        + _before(before),
        bad=bad,
        bad_rows=error.bad_rows,
    )


def _plain(text: str) -> str:
    """A text that anybody may have sent, cut, without what a terminal would take for commands."""
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )


def _before(lines: int) -> str:
    return f" Before this batch {counted(lines, 'line')} went in." if lines else ""


COMMANDS = (push, dead_letters)
