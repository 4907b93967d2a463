"""Events that are to be counted, as they are at hand: a few in plain Python, or as columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.few import COUNTED, PLAIN, Few, Row
from tidemark.engines.identity import identity_words
from tidemark.engines.log import CORRECTS, POSITION, SEEN, Appended, Newest, Taken
from tidemark.engines.log.batches import table_of_taken
from tidemark.ingest.values import micros_of
from tidemark.model.graph import Source


class Arrived:
    """Events of a source that are to be counted; what is made of them is made once.

    They are as `EventLog.read` gives them, or were just taken (`Taken`).
    """

    def __init__(self, source: Source, events: pa.Table | Taken) -> None:
        self.source = source
        self.taken = events if isinstance(events, Taken) else None
        self._events = events

    @classmethod
    def appended(cls, source: Source, done: Sequence[Appended]) -> Arrived | None:
        """What a writing has taken; None where that is nothing."""
        parts = [each.taken for each in done if each.taken is not None]
        if len(parts) < 2:
            return cls(source, parts[0]) if parts else None
        return cls(source, pa.concat_tables([table_of_taken(each) for each in parts]))

    def __len__(self) -> int:
        return len(self._events)

    @property
    def few(self) -> Few | None:
        """The rows, where they are at hand one by one."""
        rows = None if self.taken is None else self.taken.rows
        return rows if isinstance(rows, Few) else None

    @cached_property
    def table(self) -> pa.Table:
        """The events as `EventLog.read` gives them."""
        return table_of_taken(self._events) if isinstance(self._events, Taken) else self._events

    @property
    def first(self) -> int:
        """The position of the first one."""
        if self.taken is not None:
            return self.taken.first
        return int(self.table.column(POSITION)[0].as_py())

    @property
    def newest(self) -> Newest:
        """The position of the last one, and when it was seen."""
        if self.taken is not None:
            return Newest(self.taken.first + len(self.taken) - 1, int(self.taken.seen[-1]))
        position, seen = (self.table.column(name)[-1].as_py() for name in (POSITION, SEEN))
        return Newest(int(position), int(seen))

    def after(self, count: int) -> Arrived:
        """All but the first ones."""
        return Arrived(self.source, self.table.slice(count)) if count else self

    @cached_property
    def identities(self) -> NDArray[np.int64] | None:
        """What identifies them (`identity_words`); None where the source has no `unique`."""
        unique = self.source.unique
        if not unique:
            return None
        if self.taken is not None:
            return np.asarray(self.taken.identities, np.int64)
        return identity_words([self.table.column(name) for name in unique])

    @property
    def listed(self) -> Sequence[int | None]:
        """What identifies each of them; None where the source has no `unique`."""
        if self.few is not None and self.taken is not None:
            found = self.taken.identities
            return [None] * len(self) if found is None else cast("Sequence[int]", found)
        return [None] * len(self) if self.identities is None else self.identities.tolist()

    @property
    def corrects(self) -> NDArray[np.bool_]:
        """Which of them are new versions of an event of the log."""
        if self.taken is not None:
            return np.asarray(self.taken.corrects, np.bool_)
        corrects: NDArray[np.bool_] = self.table.column(CORRECTS).to_numpy()
        return corrects

    @property
    def times(self) -> Sequence[int] | NDArray[np.int64]:
        """When they happened, in microseconds."""
        if self.few is not None:
            return self.few.times
        return micros_of(self.table.column(str(self.source.time)))

    @property
    def seen(self) -> Sequence[int] | NDArray[np.int64]:
        """When they were seen, in microseconds."""
        return np.asarray(self.table.column(SEEN)) if self.taken is None else self.taken.seen

    @cached_property
    def values(self) -> list[Row]:
        """Their columns one by one, with `SEEN`, but for those that are not plain."""
        if self.few is not None:
            names = (*self.few.plain.names, SEEN)
            few = zip(*self.few.columns, self.seen, strict=True)
            return [dict(zip(names, row, strict=True)) for row in few]
        columns = {SEEN: self.table.column(SEEN).to_pylist()}
        for each in self.source.columns:
            if each.type.name in PLAIN:
                column = self.table.column(each.name)
                columns[each.name] = (
                    [value.value for value in column]
                    if each.type.name in COUNTED
                    else column.to_pylist()
                )
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]
