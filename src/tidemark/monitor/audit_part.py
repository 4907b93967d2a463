"""A part of what differs, and how far its causes are known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.model.types import parse_type
from tidemark.model.window import format_moment
from tidemark.monitor.audit_differences import differing
from tidemark.monitor.audit_report import Difference
from tidemark.serve.log.form import Column, Description

if TYPE_CHECKING:
    from tidemark.serve.log.masking import Mask

Detail = Callable[[int], str]
"""What is known of the cause at a row, in words."""


class Tally:
    """How many differences have which cause, and the first of each feature with each cause."""

    def __init__(self) -> None:
        self.causes: dict[str, Counter[str]] = defaultdict(Counter)
        self._first: dict[tuple[str, str, str], tuple[int, Difference]] = {}

    def first(self) -> tuple[Difference, ...]:
        """The first differences, by feature and place."""
        found = sorted(self._first.items(), key=lambda item: (item[0][0], item[1][0]))
        return tuple(difference for _, (_, difference) in found)

    def is_first(self, description: Description, feature: str, cause: str, number: int) -> bool:
        """Whether a row is before all that are known with a cause."""
        known = self._first.get((feature, cause, description.fingerprint))
        return known is None or number < known[0]

    def keep(self, description: Description, number: int, found: Difference) -> None:
        """Keep a first difference."""
        self._first[found.feature, found.cause, description.fingerprint] = number, found


class Entered(NamedTuple):
    """Rows of a feature whose cause is known."""

    rows: NDArray[np.int64]
    cause: str
    detail: Detail


class Part:
    """Rows that differ; `open` has for each column the rows whose cause is not known yet.

    Columns are named as in the log.  Without a tally nothing is counted: the part is looked at to
    learn something of others.
    """

    def __init__(
        self, description: Description, table: pa.Table, tally: Tally | None, mask: Mask | None
    ) -> None:
        self.description = description
        self.table = table
        self._tally, self._mask = tally, mask
        self.entered: dict[str, list[Entered]] = defaultdict(list)
        self.open: dict[str, NDArray[np.bool_]] = {
            name.removeprefix("differs."): table[name].to_numpy().copy()
            for name in table.column_names
            if name.startswith("differs.")
        }

    def wrong(self, columns: Sequence[Column]) -> NDArray[np.int64]:
        """The rows of which some of the columns are open."""
        return np.flatnonzero(np.logical_or.reduce([self.open[each.name] for each in columns]))

    def differing(self) -> NDArray[np.bool_]:
        """Which rows have a difference, whether or not its cause is known, bool[n]."""
        flags = [self.table[f"differs.{name}"].to_numpy() for name in self.open]
        found: NDArray[np.bool_] = np.logical_or.reduce(flags)
        return found

    def is_served(
        self, column: Column, rows: NDArray[np.int64], values: pa.ChunkedArray
    ) -> NDArray[np.bool_]:
        """Which values are those that were served in rows."""
        if column.masked and self._mask is not None:
            values = masked(self._mask, column, values)
        served = self.table[f"value.{column.name}"].take(pa.array(rows))
        return ~differing(served, values)

    def enter(self, column: Column, rows: NDArray[np.int64], cause: str, detail: Detail) -> None:
        """Say the cause of what is open in rows of a column."""
        rows = rows[self.open[column.name][rows]]
        if not len(rows):
            return
        self.open[column.name][rows] = False
        self.entered[column.name].append(Entered(rows, cause, detail))
        if self._tally is None:
            return
        reference = column.reference
        self._tally.causes[reference][cause] += len(rows)
        row = int(rows.min())
        number: int = self.table["number"][row].as_py()
        if self._tally.is_first(self.description, reference, cause, number):
            found = self._difference(column, row, cause, detail(row))
            self._tally.keep(self.description, number, found)

    def _difference(self, column: Column, row: int, cause: str, detail: str) -> Difference:
        record: dict[str, Any] = self.table.slice(row, 1).to_pylist()[0]
        return Difference(
            column.reference,
            record["request_id"],
            self.description.target,
            {each.name: record[f"key.{each.name}"] for each in self.description.keys},
            format_moment(self.table["at"].cast(pa.int64())[row].as_py()),
            record[f"value.{column.name}"],
            record[f"offline.{column.name}"],
            cause,
            detail,
        )


def said(text: str) -> Detail:
    """The same words for every row."""
    return lambda _: text


def masked(mask: Mask, column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as the log has those of a column that is masked."""
    told = mask.values(values.to_pylist(), parse_type(column.type))
    return pa.chunked_array([pa.array(told, pa.string())])
