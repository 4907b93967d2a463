"""Every error that Tidemark raises, grouped by who must act.

    TidemarkError
    ├── DefinitionError      the author of a definition; carries file and line, all problems at once
    ├── PlanConflict         whoever applies: plan again, confirm, or choose a new version
    ├── NotFound             the caller: the name does not exist; suggests the nearest one
    ├── SchemaMismatch       the owner of the data: a column is missing or of another type
    ├── StaleSource          the owner of the data: the source cannot answer for the moment asked
    ├── EngineError          the operator: a database refused; holds the SQL
    ├── StoreUnavailable     nobody yet: try again
    │   └── StoreConflict    nobody yet: somebody else wrote in between; read again, then try again
    ├── RequestInvalid       the caller: keys, labels or request values are wrong
    │   └── EventsRefused    the caller: rows of events that are not as declared; carries each one
    ├── NotPermitted         the caller: a server wants a key, or one that allows this
    └── MissingExtra         the operator: install what is named

A message says what is wrong in the user's words, then where, then what to do.  `slug` is the
stable name under which `docs/reference/errors.md` explains the error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


class TidemarkError(Exception):
    """The root of all errors of Tidemark."""

    slug: ClassVar[str] = "tidemark"
    retryable: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what, where, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process and come back with all that this one holds, subclasses too."""
        return _restored, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {line}" for line in self.where.splitlines()]
        lines += [f"  {line}" for line in self.remedy.splitlines()]
        return "\n".join(lines)


def _restored(kind: type[TidemarkError], args: tuple[object, ...]) -> TidemarkError:
    """An error without what its constructor would make of other arguments than these."""
    return kind.__new__(kind, *args)


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a definition: what, where (`file.py:24   the line`), what to do."""

    what: str
    where: str = ""
    remedy: str = ""


class DefinitionError(TidemarkError):
    """Definitions do not mean anything that could be computed; holds every problem found."""

    slug = "definition"

    def __init__(
        self, problems: Sequence[Problem] | str, *, where: str = "", remedy: str = ""
    ) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems, where, remedy)]
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.what, where=first.where, remedy=first.remedy)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return super().__str__()
        parts = [f"{len(self.problems)} problems in the definitions."]
        parts += [
            str(TidemarkError(problem.what, where=problem.where, remedy=problem.remedy))
            for problem in self.problems
        ]
        return "\n\n".join(parts)


class PlanConflict(TidemarkError):
    """A plan cannot be applied, or what is asked for differs from what is applied.

    `unconfirmed` names the models that somebody must confirm first, where that is all it lacks.
    """

    slug = "plan-conflict"

    def __init__(
        self, what: str, *, where: str = "", remedy: str = "", unconfirmed: Sequence[str] = ()
    ) -> None:
        self.unconfirmed = tuple(unconfirmed)
        super().__init__(what, where=where, remedy=remedy)


class NotFound(TidemarkError):
    """A name does not exist."""

    slug = "not-found"

    @classmethod
    def named(
        cls, kind: str, name: str, known: Iterable[str], *, where: str = "", make: str = ""
    ) -> NotFound:
        """Say that `name` is not a known `kind` and suggest the nearest name that is.

        Where there is none at all, `make` says how the first one is made.
        """
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        windows = [each for each in names if name and each.startswith(f"{name}_")]
        if windows:
            remedy = f"Did you mean {' or '.join(map(repr, windows[:12]))}?"
        elif near:
            remedy = f"Did you mean {near[0]!r}?"
        elif names:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            remedy = f"There are: {shown}."
        else:
            make = make or "Define one and apply it: tidemark apply, or store.apply(store.plan())."
            remedy = f"There is none yet. {make}"
        return cls(f"There is no {kind} {name!r}.", where=where, remedy=remedy)


class SchemaMismatch(TidemarkError):
    """Data does not have the columns or the types that the definition declares."""

    slug = "schema-mismatch"


class StaleSource(TidemarkError):
    """A source or the online state cannot answer for the moment asked for."""

    slug = "stale-source"


class EngineError(TidemarkError):
    """An engine refused a query or the data broke a rule of computation."""

    slug = "engine"

    def __init__(self, what: str, *, sql: str = "", where: str = "", remedy: str = "") -> None:
        self.sql = sql
        super().__init__(what, where=where, remedy=remedy)


class StoreUnavailable(TidemarkError):
    """A store did not answer or is in use; the same call may succeed later."""

    slug = "store-unavailable"
    retryable = True


class StoreConflict(StoreUnavailable):
    """Others have written what a batch was made from, so it was not written: read again."""

    slug = "store-conflict"


class LockLost(StoreUnavailable):
    """A process was stopped for so long that its lock may be somebody else's: take it anew."""

    slug = "lock-lost"


class RequestInvalid(TidemarkError):
    """What the caller passed cannot be answered: keys, labels, request values or a moment."""

    slug = "request-invalid"


@dataclass(frozen=True)
class BadValue:
    """One thing wrong in a row of events: its number from 0, the column, the value, the reason."""

    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.column} {self.value} {self.reason}"


class EventsRefused(RequestInvalid):
    """Rows of events are not what their source declares; none of them was taken.

    `bad` is everything that is wrong (from a server the first 10,000 things), `bad_rows` is how
    many rows have one.
    """

    slug = "events-refused"

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        bad: Sequence[BadValue] = (),
        bad_rows: int = 0,
    ) -> None:
        self.bad = tuple(bad)
        self.bad_rows = bad_rows
        super().__init__(what, where=where, remedy=remedy)


class NotPermitted(TidemarkError):
    """A server does not answer this caller: there is no key with the request, or not one for it."""

    slug = "not-permitted"


class MissingExtra(TidemarkError, ImportError):
    """An optional part is not installed."""

    slug = "missing-extra"

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        super().__init__(
            f"{needed_for} needs the extra {extra!r}, which is not installed.",
            remedy=f"pip install 'tidemark[{extra}]'",
        )
