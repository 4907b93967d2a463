"""Commands about saved training sets."""

from __future__ import annotations

import click

from tidemark.apps.cli.shell import ERROR, Command, open_store, show


@click.group()
def dataset() -> None:
    """Saved training sets: list, show, verify."""


@dataset.command("list", cls=Command)
def list_() -> None:
    """List the datasets that are kept."""
    import msgspec

    from tidemark.model.window import format_moment

    with open_store() as store:
        records = store.registry.snapshot().datasets
    width = max((len(record.name) for record in records), default=0)
    lines = [
        f"{record.name:<{width}}  {record.rows:,} rows  {format_moment(record.created)}"
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
