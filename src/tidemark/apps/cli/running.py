"""The commands of recurring work: all of it, and the jobs that have no other command."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tidemark.apps.cli.shell import ERROR, Command, open_store, show, told_to_stop, wants_json
from tidemark.model.plural import counted
from tidemark.model.window import format_duration

if TYPE_CHECKING:
    from tidemark.store.schedule import Ran, Standing

_NO_SCHEDULE = 'There is no schedule; tidemark.toml has it: schedule = { materialize = "1h" }'


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
@click.option("--list", "listing", is_flag=True, help="Show the jobs and how they stand.")
def run(once: bool, listing: bool) -> None:
    """Do the jobs of the schedule.

    Each in its cadence, and by one process at a time, however many run this.  Each job is told
    when it is done, with --json as an object on a line of its own.  With --once it ends with 1
    if a job failed.
    """
    with open_store() as store:
        if listing:
            standing = store.schedule.standing()
            facts = [asdict(each) | {"cadence": format_duration(each.cadence)} for each in standing]
            show("\n".join(map(_row, standing)) or _NO_SCHEDULE, facts)
            return
        # Jobs run in threads, where click knows nothing of the command's options.
        told = _tell_programs if wants_json() else _tell
        with told_to_stop() as stop:
            ran = store.schedule.run(once=once, told=told, stop=stop)
    if any(each.error is not None for each in ran):
        raise SystemExit(ERROR)


@click.command(cls=Command)
@click.argument("views", nargs=-1, metavar="[VIEW]...")
@click.option(
    "--until", metavar="MOMENT", help="Write the state as of this moment; now if left out."
)
@click.option("--rate", type=float, metavar="ROWS", help="Write at most so many rows a second.")
@click.option("--restart", is_flag=True, help="Write everything anew, whatever was interrupted.")
@click.option("--estimate", is_flag=True, help="Only say how much it will be.")
def materialize(
    views: tuple[str, ...], until: str | None, rate: float | None, restart: bool, estimate: bool
) -> None:
    """Write online state from history.

    Without a VIEW, that of all views.  What serves goes on serving until the new state is
    whole; what an interrupted run has written is gone on with.
    """
    with open_store() as store:
        if estimate or (sys.stderr.isatty() and not wants_json()):
            expected = store.registry.estimate(list(views) or None)
            lines = [f"{each.view}: {each.extent(rate)}" for each in expected]
            if estimate:
                show("\n".join(lines), [each.to_dict(rate) for each in expected])
                return
            click.echo("\n".join(lines), err=True)
        try:
            written = store.materialize(
                list(views) or None, until=until, rate=rate, restart=restart
            )
        except KeyboardInterrupt:
            click.echo("What served serves on; the same command goes on with the rest.", err=True)
            raise
    show(repr(written), asdict(written))


@click.command(cls=Command)
@click.argument("source", required=False)
def compact(source: str | None) -> None:
    """Turn old batches of the event log into Parquet.

    Of SOURCE, or of all sources.
    """
    with open_store() as store:
        rows = store.events.compact(source)
    show(f"{counted(rows, 'event')} moved into Parquet", {"events": rows})


@click.command(cls=Command)
def retain() -> None:
    """Delete events that are older than log_retention.

    From the event log; nothing without that setting.
    """
    with open_store() as store:
        rows = store.events.retain()
    show(f"{rows:,} events deleted", {"events": rows})


@click.command("catch-up", cls=Command)
@click.argument("source", required=False)
def catch_up(source: str | None) -> None:
    """Count online what a crash left in the event log.

    Of SOURCE, or of all sources.
    """
    with open_store() as store:
        applied = {name: each.events for name, each in store.events.catch_up(source).items()}
    show(f"{sum(applied.values()):,} events applied", {"events": applied})


COMMANDS = (run, compact, materialize, retain, catch_up)


def _tell(ran: Ran) -> None:
    failed = "failed: " if ran.error is not None else ""
    click.echo(f"{ran.started:%H:%M:%SZ} {ran.job}: {failed}{ran.outcome} ({ran.seconds:.1f} s)")


def _tell_programs(ran: Ran) -> None:
    facts: dict[str, Any] = {"job": ran.job, "started": ran.started, "seconds": ran.seconds}
    facts |= {"outcome": ran.outcome, "failed": ran.error is not None}
    click.echo(msgspec.json.encode(facts))


def _row(each: Standing) -> str:
    last = "never done" if each.last is None else f"last {each.last:%Y-%m-%d %H:%M:%SZ}"
    now = f", now at work: {each.holder}" if each.holder else ""
    failed = f", {counted(each.failures, 'failure')} in a row" if each.failures else ""
    outcome = f": {each.outcome}" if each.outcome else ""
    return f"{each.job} every {format_duration(each.cadence)}, {last}{failed}{outcome}{now}"
