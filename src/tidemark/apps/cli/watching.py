"""Commands that look at how what is served stands."""

from __future__ import annotations

import click

from tidemark.apps.cli.shell import Command, open_store, show

BROKEN = 13


@click.command(cls=Command)
def freshness() -> None:
    """Show how old each view is, and what it promised.

    Of live events as well, how long they took until reads counted them.  Exits with 13 if a
    promise (freshness=) is broken.
    """
    with open_store() as store:
        found = store.freshness()
    show(repr(found), found.to_dict())
    if found.broken:
        raise SystemExit(BROKEN)
