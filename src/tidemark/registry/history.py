"""Revisions as they follow each other: reading any of them, and appending the next."""

from __future__ import annotations

import getpass
import os
import random
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import cast

from msgspec.structs import replace

from tidemark.errors import NotFound, StoreUnavailable
from tidemark.model.diff import Change, diff
from tidemark.model.window import clock, parse_moment
from tidemark.registry.protocol import Jobs, Writer
from tidemark.registry.snapshots import Snapshot, check_chain, opened, sealed

_ATTEMPTS = 1_000
"""How often a change that commutes with others is tried; each time at least one writer got on."""


class History:
    """The revisions of a registry; `writes` counts those that this object has appended."""

    def __init__(self, revisions: Writer, url: str) -> None:
        self.url = url
        self.writes = 0
        self._revisions = revisions
        self._newest = Snapshot()

    def snapshot(self, as_of: int | str | datetime | None = None) -> Snapshot:
        """Everything that is defined, now or as of a revision (12, `"r12"`) or a moment.

        Raises `NotFound` if there was no such revision, `EngineError` if it was tampered with.
        """
        if as_of is None:
            if self._revisions.head() != self._newest.digest:
                latest = self._revisions.latest()
                self._newest = opened(latest) if latest else Snapshot()
            return self._newest
        number = _revision_number(as_of)
        if number is not None:
            found = self._revisions.revision(number)
        else:
            found = self._revisions.revision_at(parse_moment(cast("str | datetime", as_of)))
        if found is None:
            raise NotFound(
                f"There is no revision as of {as_of}.",
                remedy="A revision is r12, or a moment; tidemark log lists them.",
            )
        return opened(found)

    @property
    def jobs(self) -> Jobs:
        """Who does which recurring work."""
        return self._revisions

    @property
    def identity(self) -> str:
        """What tells this registry from every other: the digest of its first revision, else ""."""
        first = self._revisions.revision(1)
        return first.digest if first is not None else ""

    def history(self) -> list[Snapshot]:
        """All revisions, oldest first, after checking that each follows from the one before."""
        revisions = self._revisions.revisions()
        check_chain(revisions)
        return [opened(each) for each in revisions]

    def log(self, limit: int = 20) -> list[Snapshot]:
        """The newest revisions, newest first."""
        newest = self.snapshot().revision
        return [self.snapshot(number) for number in range(newest, max(newest - limit, 0), -1)]

    def verify(self) -> int:
        """How many revisions there are, each as it was applied; raises `EngineError` if not."""
        revisions = self._revisions.revisions()
        check_chain(revisions)
        return len(revisions)

    def diff(
        self, before: int | str | datetime, after: int | str | datetime | None = None
    ) -> tuple[Change, ...]:
        """Every change of definitions from one revision or moment to another (None: now)."""
        return diff(self.snapshot(before).definitions, self.snapshot(after).definitions)

    def _change(
        self, edit: Callable[[Snapshot], Snapshot], reason: str, author: str | None
    ) -> Snapshot:
        """Append the revision that an edit of the newest one gives, however many others write."""
        for _ in range(_ATTEMPTS):
            current = self.snapshot()
            then = edit(current)
            if then == current:
                return current
            # What a revision rested on is told by that revision, not by those that follow.
            then = replace(then, records=replace(then.records, confirmations=()))
            made = self._append(current, then, reason, author)
            if made is not None:
                return made
            time.sleep(random.uniform(0.001, 0.05))  # noqa: S311  # so that writers part
        raise StoreUnavailable(
            "Others kept changing the registry.", where=self.url, remedy="Try again."
        )

    def _append(
        self, current: Snapshot, then: Snapshot, reason: str, author: str | None
    ) -> Snapshot | None:
        """The revision that follows the current one; None if another came between."""
        moment = clock()
        then = replace(then, author=author or whoami(), at=moment, reason=reason)
        revision = sealed(current, then)
        if not self._revisions.append(revision):
            return None
        self.writes += 1
        return opened(revision)

    def close(self) -> None:
        """Close the connections to the database."""
        self._revisions.close()


def whoami() -> str:
    """Who changes are recorded for: `TIDEMARK_AUTHOR`, else the user of the machine."""
    if "TIDEMARK_AUTHOR" in os.environ:
        return os.environ["TIDEMARK_AUTHOR"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _revision_number(as_of: object) -> int | None:
    """The number of a revision, written 12 or `r12`; None for a moment."""
    if isinstance(as_of, int):
        return as_of
    found = re.fullmatch(r"r?(\d{1,9})", as_of) if isinstance(as_of, str) else None
    return int(found[1]) if found else None
