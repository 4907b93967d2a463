"""What can be audited no more: values whose events the event log has let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from msgspec.structs import replace
from numpy.typing import NDArray

from tidemark.model.graph import Definitions, parse_reference
from tidemark.model.window import format_moment
from tidemark.monitor.audit_report import Forgotten
from tidemark.serve.log.form import Column

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB

_WITHOUT_LIMIT = 2**62


class _Limit(NamedTuple):
    """Up to `until` events were deleted; moments up to `moment` reach back to them."""

    until: int
    moment: int


class Deletions:
    """Which values reach back to events that retention has deleted from the log.

    What it did not delete may be in history as well, so such values are compared; that they differ
    says nothing.
    """

    def __init__(self, engine: DuckDB, definitions: Definitions) -> None:
        self._engine, self._definitions = engine, definitions
        self._limits: dict[str, _Limit | None] = {}

    def reaches(self, column: Column, rows: pa.Table) -> NDArray[np.bool_]:
        """Which rows of the serving log are of such a moment, bool[n]."""
        limit = self._limit(column.reference)
        if limit is None:
            return np.zeros(len(rows), np.bool_)
        found: NDArray[np.bool_] = rows["at"].cast(pa.int64()).to_numpy() <= limit.moment
        return found

    def told(self, column: Column, values: int) -> Forgotten:
        """So many values of a feature that do, in words."""
        limit = self._limit(column.reference)
        assert limit is not None  # noqa: S101 - some values reach back to it
        since = "" if limit.moment == _WITHOUT_LIMIT else format_moment(limit.moment)
        return Forgotten(column.reference, values, format_moment(limit.until), since)

    def _limit(self, reference: str) -> _Limit | None:
        """The latest limit of a feature, or of what an on-demand function is given."""
        if reference not in self._limits:
            limits: list[_Limit] = []
            log = self._engine.log
            for needed in self._definitions.needed([parse_reference(reference)]):
                if needed.kind != "feature" or log is None:
                    continue
                view, feature = self._definitions.locate(needed)
                until = log.forgotten(view.source)
                if until is not None:
                    reach = replace(view, features=(feature,)).reach
                    moment = _WITHOUT_LIMIT if reach is None else until + reach
                    limits.append(_Limit(until, moment))
            self._limits[reference] = max(limits, key=lambda each: each.moment, default=None)
        return self._limits[reference]
