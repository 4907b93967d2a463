"""The command that reads streams."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tidemark.apps.cli.shell import Command, open_store, show, told_to_stop, wants_json
from tidemark.model.plural import counted

if TYPE_CHECKING:
    from tidemark.errors import TidemarkError
    from tidemark.ingest.consume import Consumed

TELLING_SECONDS = 2.0


@click.command(cls=Command)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "--from",
    "start",
    metavar="WHERE",
    help="Where to begin in a partition of which nothing was taken: earliest (the default), "
    "latest, a moment, or positions such as 0:1200,1:900.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Read again what was taken, from the place that --from names; `unique` tells it apart.",
)
@click.option("--pause", is_flag=True, help="Have no process take anything, until --resume.")
@click.option("--resume", is_flag=True, help="Let it be taken again.")
@click.option("--once", is_flag=True, help="End when nothing is left, instead of waiting for more.")
@click.option("--batch", default=10_000, show_default=True, help="Messages taken at once.")
def stream(
    sources: tuple[str, ...],
    start: str | None,
    again: bool,
    pause: bool,
    resume: bool,
    once: bool,
    batch: int,
) -> None:
    """Follow streams: take their events as they come.

    Those of each SOURCE, or of all that have a stream.  Each message counts once, however
    often this is stopped, killed or run beside itself.
    """
    if pause and resume:
        raise click.UsageError("--pause or --resume: not both.")
    if pause or resume:
        _pause_or_resume(sources, pausing=pause)
        return
    telling = _Telling(quiet=wants_json() or not sys.stderr.isatty())
    with open_store() as store, told_to_stop() as stop:
        consumed = store.streams.run(
            list(sources) or None,
            start=start,
            again=again,
            once=once,
            batch=batch,
            told=telling.tell,
            stop=stop,
        )
    show("\n".join(map(_line, consumed)), [asdict(each) for each in consumed])


def _pause_or_resume(sources: tuple[str, ...], *, pausing: bool) -> None:
    with open_store() as store:
        do = store.streams.pause if pausing else store.streams.resume
        names = do(list(sources) or None)
    word = "paused" if pausing else "resumed"
    show("\n".join(f"{name}: {word}" for name in names), {word: names})


class _Telling:
    """Says how far reading has come, now and then, on standard error; if `quiet`, errors only."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._next: dict[str, float] = {}

    def tell(self, consumed: Consumed, error: TidemarkError | None) -> None:
        now = time.monotonic()
        passes = error is None or error.retryable
        if passes and now < self._next.get(consumed.source, 0.0):
            return
        self._next[consumed.source] = now + TELLING_SECONDS
        if error is not None:
            click.echo(f"{consumed.source}: {error}", err=True)
        elif not self._quiet:
            click.echo(_line(consumed), err=True)


def _line(consumed: Consumed) -> str:
    parts = [counted(consumed.messages, "message"), counted(consumed.accepted, "new event")]
    if consumed.duplicates:
        parts.append(f"{consumed.duplicates:,} that were there")
    if consumed.buried:
        parts.append(counted(consumed.buried, "dead letter"))
    if consumed.lost:
        parts.append(f"{consumed.lost:,} lost")
    parts.append(f"{sum(consumed.lag.values()):,} waiting")
    if consumed.paused:
        parts.append("paused")
    return f"{consumed.source}: {', '.join(parts)}"
