"""Commands that look at how what is served stands."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

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
    facts: dict[str, Any] = asdict(found)
    for view in facts["views"]:
        for name in ("promise", "age"):
            duration: timedelta | None = view.pop(name)
            seconds = None if duration is None else duration.total_seconds()
            view[f"{name}_seconds"] = seconds
    show(repr(found), facts)
    if found.broken:
        raise SystemExit(BROKEN)
