"""Commands that look at how what is served stands."""

from __future__ import annotations

import click

from tidemark.apps.cli.shell import Command, open_store, show

BROKEN = 13


@click.command(cls=Command)
def freshness() -> None:
    """Tell how old what is served is.

    View by view, against what was promised.  Ends with 13 if a promise is broken.
    """
    with open_store() as store:
        found = store.freshness()
    show(repr(found), found.to_dict())
    if found.broken:
        raise SystemExit(BROKEN)
