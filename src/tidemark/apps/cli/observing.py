"""Commands about what was served."""

from __future__ import annotations

from pathlib import Path

import click

from tidemark.apps.cli.shell import Command, open_store, show


@click.command(cls=Command)
@click.argument("request_id")
def explain(request_id: str) -> None:
    """Show what one request was given, and why.

    REQUEST_ID is in its answer.  Values, versions, statuses and ages as the serving log has
    them, what each value means, and what on-demand features were computed from.
    """
    with open_store() as store:
        found = store.log.explain(request_id)
    show(str(found), found.to_dict())


@click.command(cls=Command)
@click.option("--service", metavar="NAME", help="A service, model:NAME@VERSION, or features.")
@click.option("--since", metavar="WHEN", help="A moment, or how long ago: 24h.")
@click.option("--until", metavar="WHEN", help="A moment, or how long ago.")
@click.option("--out", metavar="FILE", help="Write the rows: Parquet or CSV.")
def served(service: str | None, since: str | None, until: str | None, out: str | None) -> None:
    """Tell how much was served, or write the rows of the serving log.

    --out takes one service whose outputs had one form.
    """
    from tidemark.apps.cli.tables import check_target, write_table

    if out is not None:
        check_target(Path(out))
    with open_store() as store:
        table = store.log.read(service=service, since=since, until=until)
    if out is not None:
        write_table(table, Path(out))
    requests = len(table["request_id"].unique())
    text = f"{table.num_rows:,} rows of {requests:,} requests"
    show(
        f"{text} in {out}" if out else text,
        {"rows": table.num_rows, "requests": requests, "out": out},
    )


COMMANDS = (explain, served)
