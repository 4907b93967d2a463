"""What a read gives: feature values with what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from tidemark.serve.answer import Answer

from tidemark.errors import NotFound
from tidemark.model.window import moment_text, plain_age
from tidemark.serve.kept import Kept


class Status(StrEnum):
    """What a value says; the value follows the features' definitions whatever the status."""

    PRESENT = "PRESENT"
    """There is a value."""
    NULL = "NULL"
    """The entity is known, and the value is null."""
    EXPIRED = "EXPIRED"
    """What was stored is older than the view's `max_age`."""
    MISSING = "MISSING"
    """Nothing is known of the entity at that moment."""


CODES = {status: code for code, status in enumerate(Status)}
"""The number that stands for a status where there are many: its place in `Status`."""


class _Answered:
    """What is said of an answer as a whole."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer | Kept) -> None:
        self._answer = answer

    @property
    def at(self) -> datetime:
        """The moment that was answered, in UTC."""
        return self._answer.moment

    @property
    def request_id(self) -> str:
        """What the serving log knows the read by; empty if it is not logged."""
        return self._answer.request_id


class Vector(_Answered, Mapping[str, Any]):
    """The values of one set of keys, by name, in the order of the service."""

    __slots__ = ("_values",)

    def __init__(self, answer: Answer | Kept) -> None:
        super().__init__(answer)
        self._values = answer.first()

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process with all that can be asked of it."""
        return Vector, (Kept.of(self._answer),)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def status(self, name: str) -> Status:
        """What the value of that name says."""
        return self._answer.statuses(_known(name, self._values))[0]

    def age(self, name: str) -> timedelta | None:
        """How long before `at` the newest event that counted for the value happened.

        None where no event counted, and for values that come from no events.
        """
        return self._answer.ages(_known(name, self._values))[0]

    def to_dict(self) -> dict[str, Any]:
        """The values by name."""
        return dict(self._values)

    def __repr__(self) -> str:
        width = max(map(len, self._values), default=0)
        shown = {name: repr(value) for name, value in self._values.items()}
        wide = min(max(map(len, shown.values()), default=0), 40)
        lines = [f"Vector at {moment_text(self.at)}"]
        for name, text in shown.items():
            age = self.age(name)
            old = "" if age is None else f"  {plain_age(age)} old"
            lines.append(f"  {name:<{width}}  {text:<{wide}}  {self.status(name)}{old}")
        return "\n".join(lines)


class Vectors(_Answered):
    """The values of many sets of keys, in the order asked for, kept by column."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process with all that can be asked of them."""
        return Vectors, (Kept.of(self._answer),)

    def __len__(self) -> int:
        return self._answer.rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values, in the order of the service."""
        return self._answer.names

    def values(self, name: str) -> list[Any]:
        """The values of that name, one for each set of keys."""
        return self._answer.values(_known(name, self.names))

    def statuses(self, name: str) -> list[Status]:
        """What the values of that name say."""
        return self._answer.statuses(_known(name, self.names))

    def ages(self, name: str) -> list[timedelta | None]:
        """The ages of the values of that name; see `Vector.age`."""
        return self._answer.ages(_known(name, self.names))

    def to_arrow(self) -> pa.Table:
        """One column for each name, one row for each set of keys."""
        return self._answer.to_arrow()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give the table to whatever reads Arrow: `polars.DataFrame(vectors)`."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary for each set of keys."""
        columns = [self._answer.values(name) for name in self.names]
        if not columns:
            return [{} for _ in range(len(self))]
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]

    def __repr__(self) -> str:
        rows, names = len(self), ", ".join(self.names)
        return f"<{rows} vectors at {moment_text(self.at)}: {names}>"


def _known(name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    if name not in names:
        raise NotFound.named("value", name, names)
    return name
