"""An answer without what computed it, for vectors that are copied or go to another process."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from tidemark.serve.answer import Answer
    from tidemark.serve.vector import Status


@dataclass(frozen=True)
class Kept:
    """The values of an answer by name, with what it says of each; asked as an `Answer` is."""

    rows: int
    moment: datetime
    request_id: str
    schema: pa.Schema
    columns: dict[str, list[Any]]
    said: dict[str, tuple[list[Status], list[timedelta | None]]]

    @classmethod
    def of(cls, answer: Answer | Kept) -> Kept:
        """All that can be asked of an answer."""
        if isinstance(answer, Kept):
            return answer
        return cls(
            answer.rows,
            answer.moment,
            answer.request_id,
            answer.to_arrow().schema,
            {name: answer.values(name) for name in answer.names},
            {name: (answer.statuses(name), answer.ages(name)) for name in answer.names},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values, in the order of the service."""
        return tuple(self.columns)

    def first(self) -> dict[str, Any]:
        """The values for the first set of keys."""
        return {name: values[0] for name, values in self.columns.items()}

    def values(self, name: str) -> list[Any]:
        """The values of a name, one for each set of keys."""
        return list(self.columns[name])

    def statuses(self, name: str) -> list[Status]:
        """What the values of a name say."""
        return list(self.said[name][0])

    def ages(self, name: str) -> list[timedelta | None]:
        """The ages of the values of a name."""
        return list(self.said[name][1])

    def to_arrow(self) -> pa.Table:
        """All values as a table."""
        import pyarrow as pa

        return pa.table(self.columns, schema=self.schema)
