"""Commands about what was served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidemark.apps.cli.shell import DIFFERENCES, INCOMPLETE, Command, open_store, show
from tidemark.model.plural import counted


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
@click.option("--key", "keys", multiple=True, metavar="NAME=VALUE", help="Only of this entity.")
@click.option("--out", metavar="FILE", help="Write the rows: Parquet or CSV.")
def served(
    service: str | None,
    since: str | None,
    until: str | None,
    keys: tuple[str, ...],
    out: str | None,
) -> None:
    """Count what was served, or write it to a file.

    Of the serving log.  --out takes one service whose outputs had one form.
    """
    from tidemark.apps.cli.tables import check_target, write_table
    from tidemark.apps.cli.values import parse_pairs

    if out is not None:
        check_target(Path(out))
    with open_store() as store:
        which: dict[str, Any] = {"service": service, "since": since, "until": until}
        if keys:
            entities = store.registry.snapshot().definitions.entities
            types = {each.name: each.type for entity in entities for each in entity.keys}
            which["keys"] = parse_pairs(keys, types, "key")
        if out is None:
            rows, requests = store.log.count(**which)
        else:
            table = store.log.read(**which)
            write_table(table, Path(out))
            rows, requests = len(table), len(table["request_id"].unique())
    text = f"{counted(rows, 'row')} of {counted(requests, 'request')}"
    show(f"{text} in {out}" if out else text, {"rows": rows, "requests": requests, "out": out})


@click.command(cls=Command)
@click.option(
    "--since", default="24h", show_default=True, metavar="WHEN", help="A moment, or how long ago."
)
@click.option("--until", metavar="WHEN", help="A moment, or how long ago; now if left out.")
@click.option("--service", metavar="NAME", help="Only what one service served.")
@click.option("--sample", default=1.0, show_default=True, help="The share of requests to compare.")
@click.option("--probe", default=0, metavar="N", help="Read N entities of each view now instead.")
@click.option("--history", is_flag=True, help="List the audits that were made.")
def audit(
    since: str, until: str | None, service: str | None, sample: float, probe: int, history: bool
) -> None:
    """Compute again what was served, and compare.

    Every value of the serving log is computed by the path of training, as of the moment of its
    request.  Exits with 14 if one differs; what differs is told with its cause.  Exits with 15 if
    none does, but something cannot be compared any more: events that retention deleted, code that
    is gone, damaged files.
    """
    with open_store() as store:
        if history:
            made = store.audits()
            show("\n".join(map(_line, made)) or "There was no audit.", {"audits": made})
            return
        found = store.audit(since=since, until=until, service=service, sample=sample, probe=probe)
    show(str(found), found.to_dict())
    if found.differing:
        raise SystemExit(DIFFERENCES)
    if found.incomplete:
        raise SystemExit(INCOMPLETE)


def _line(made: dict[str, Any]) -> str:
    causes = ", ".join(f"{cause} {count:,}" for cause, count in made["causes"].items())
    of = f"  {made['service']}" if made["service"] else ""
    of += f"  a sample of {made['sample']:g}" if made["sample"] < 1 else ""
    of += f"  {made['probe']} entities of each view" if made["probe"] else ""
    of += "  incomplete" if made["incomplete"] else ""
    told = f"{made['at']}  {made['compared']:>12,} values  {made['differing']:>8,} differ{of}"
    return f"{told}  ({causes})" if causes else told


COMMANDS = (explain, served, audit)
