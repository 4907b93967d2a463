"""Commands about training sets: making them, and those that are kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tidemark.apps.cli.shell import ERROR, Command, Group, open_store, show
from tidemark.model.plural import counted


@click.command(cls=Command)
@click.argument("service")
@click.option("--labels", required=True, metavar="FILE", help="Label rows: Parquet or CSV.")
@click.option("--out", metavar="FILE", help="Where to write: Parquet or CSV.")
@click.option("--save-as", metavar="NAME", help="Keep it as a dataset, with what it was made from.")
@click.option(
    "--split",
    "split",
    multiple=True,
    metavar="NAME=VALUE",
    help="Keep it in parts: time=2026-01-01, fraction=0.2, gap=1d, entity=user, by=random, seed=7.",
)
@click.option("--time", metavar="COLUMN", help="The time column, where labels have several.")
@click.option("--timezone", metavar="ZONE", help="The zone of times that carry none.")
@click.option("--hindsight", is_flag=True, help="Ignore when events became known.")
def train(
    service: str,
    labels: str,
    out: str | None,
    save_as: str | None,
    split: tuple[str, ...],
    time: str | None,
    timezone: str | None,
    hindsight: bool,
) -> None:
    """Make a training set: join labels with features.

    Each row has the features as they stood at the moment of its label.  SERVICE is a
    service, one feature (view:feature) or a model (model:fraud@3).  The rows go to a file, or are
    kept under a name, or both.  A split is kept with the name; two moments or fractions, parted
    by a comma, are of validation and test.
    """
    from tidemark.apps.cli.tables import check_target, read_table, write_table
    from tidemark.apps.cli.values import parse_split

    if out is None and save_as is None:
        raise click.UsageError("Say where the rows go: --out FILE, --save-as NAME, or both.")
    if split and save_as is None:
        raise click.UsageError("A split is kept with a dataset: add --save-as NAME.")
    if out is not None:
        check_target(Path(out))
    parts = parse_split(split, timezone)
    rows = read_table(Path(labels))
    with open_store() as store:
        training = store.training_set(
            service,
            rows,
            time=time,
            timezone=timezone,
            hindsight=hindsight,
            save_as=save_as,
            split=parts,
        )
    if out is not None:
        write_table(training.to_arrow(), Path(out))
    facts: dict[str, Any] = {"out": out, "saved_as": save_as, **asdict(training.report)}
    lines = [str(training.report)]
    if parts is not None:
        report = training.split(**parts).report
        facts["split"] = {"rows": report.rows, "left_out": report.left_out, "leaks": report.leaks}
        lines.append(str(report))
    show("\n".join(lines), facts)


@click.group(cls=Group)
def dataset() -> None:
    """Saved training sets: list them, show one, make one again."""


@dataset.command("list", cls=Command)
def list_() -> None:
    """List the datasets that are kept."""
    import msgspec

    from tidemark.model.window import format_moment

    with open_store() as store:
        records = store.registry.snapshot().datasets
    width = max((len(record.name) for record in records), default=0)
    lines = [
        f"{record.name:<{width}}  {counted(record.rows, 'row')}  {format_moment(record.created)}"
        f"  revision {record.revision}  {record.owner}"
        for record in records
    ]
    facts = msgspec.to_builtins(records)
    show("\n".join(lines) or "There is no dataset; tidemark train --save-as keeps one.", facts)


@dataset.command("show", cls=Command)
@click.argument("name")
def show_(name: str) -> None:
    """Show what a dataset holds and what it was made from."""
    import msgspec

    with open_store() as store:
        found = store.registry.dataset(name)
    show(repr(found), {**msgspec.to_builtins(found.manifest), "folder": str(found.folder)})


@dataset.command(cls=Command)
@click.argument("name")
def verify(name: str) -> None:
    """Make a dataset again and compare it.

    It is made as it was defined, from the sources as they are now.  Exits with 1 if it is not
    the same; what changed is named.
    """
    with open_store() as store:
        found = store.registry.verify_dataset(name)
    show(str(found), found.to_dict())
    if not found.reproduced:
        raise SystemExit(ERROR)


COMMANDS = (train, dataset)
