"""Why values of one view differ: its events and its definition, altered until they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.engines.arrow import value_of_nothing
from tidemark.errors import TidemarkError
from tidemark.model.graph import Definitions, Feature, FeatureView
from tidemark.model.window import format_moment
from tidemark.monitor.audit_differences import differing
from tidemark.monitor.audit_events import Entities, Trials, written
from tidemark.monitor.audit_faults import Fault, faults, pairs
from tidemark.monitor.audit_part import Detail, Part, said
from tidemark.monitor.audit_singles import Singles
from tidemark.monitor.audit_work import Work
from tidemark.serve.log.form import Column

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB

SAMPLED = 60
"""Rows that differ, of each online state, by which a fault of a whole view is found."""


class OfView:
    """Finds the causes of what differs of some features of a view; close it."""

    def __init__(
        self,
        engine: DuckDB,
        definitions: Definitions,
        view: FeatureView,
        several: Sequence[tuple[Column, Feature]],
    ) -> None:
        self._engine, self._definitions, self._view = engine, definitions, view
        self._source = definitions.source(view.source)
        self.columns = [column for column, _ in several]
        self._features = [feature for _, feature in several]
        self._written = written(engine, self._source)
        self._faults: dict[int, Fault] = {}
        self._singles = Singles()
        self._trials = Trials(definitions, view, self._features)

    def close(self) -> None:
        """Close the engine of its trials."""
        self._trials.close()

    def known(self, table: pa.Table) -> NDArray[np.int64]:
        """Up to when the online state knew history at each row (microseconds), 0 if there was none.

        Rows of one moment were served from one online state.
        """
        moments = table[f"known.{self._view.name}"].cast(pa.int64())
        found: NDArray[np.int64] = pc.fill_null(moments, 0).to_numpy()
        return found

    def learn(self, part: Part) -> None:
        """Find the faults of whole online states, by rows that differ and rows that do not."""
        if self._source.time is None or not len(part.wrong(self.columns)):
            return
        try:
            work = self._work(part)
            work.lag()
            work.late()
            view, zone = self._trials.plain.view, self._source.timezone
            self._faults = work.faults(list(faults(view, zone)), list(pairs(view, zone)))
        except TidemarkError:
            return  # that its events cannot be looked at is said with each row

    def find(self, part: Part) -> None:
        """Enter a cause for each difference."""
        if not len(part.wrong(self.columns)):
            return
        if self._source.time is not None:  # facts without a time say nothing of their past
            try:
                self._try(self._work(part))
            except TidemarkError as error:
                detail = said(f"its events cannot be looked at: {error.what}")
                self._rest(part, "unexplained", detail)
                return
        self._rounded(part)
        self._restated(part)
        self._defaults(part)
        detail = said("no alteration of its events or its definition that is tried gives it")
        self._rest(part, "unexplained", detail)

    def _work(self, part: Part) -> Work:
        entity = self._definitions.entity(self._view.entity)
        table, view = part.table, self._view.name
        keys = {f"key_{i}": table[f"key.{key.name}"] for i, key in enumerate(entity.keys)}
        moments = pa.table(
            {
                **keys,
                "at": table["at"].cast(pa.int64()),
                "known": table[f"known.{view}"].cast(pa.int64()),
                "position": table[f"position.{view}"],
            }
        )
        entities = Entities.of(self._engine, self._definitions, self._view, moments)
        known = self.known(table)
        rewritten = known < max(self._written.values(), default=0)
        return Work(part, self.columns, entities, self._trials, known, rewritten)

    def _try(self, work: Work) -> None:
        work.lag()
        work.late()
        for state, fault in self._faults.items():
            work.fault(state, fault)
            self._singles.find(work, work.open_rows(state), fault.reading, fault)
        self._singles.find(work, work.open_rows(), self._trials.plain)

    def _rounded(self, part: Part) -> None:
        detail = said("the two are equal in single precision")
        for column in self.columns:
            served = part.table[f"value.{column.name}"]
            if pa.types.is_floating(served.type):
                alike = _equal_in_single_precision(served, part.table[f"offline.{column.name}"])
                rows = np.flatnonzero(part.open[column.name] & alike)
                part.enter(column, rows, "precision", detail)

    def _restated(self, part: Part) -> None:
        known = self.known(part.table)
        for name, moment in sorted(self._written.items(), key=lambda each: each[1]):
            second = format_moment(moment // 1_000_000 * 1_000_000)
            detail = said(f"{name} was written at {second}")
            for column in self.columns:
                rows = np.flatnonzero(part.open[column.name] & (known < moment))
                part.enter(column, rows, "restated history", detail)

    def _defaults(self, part: Part) -> None:
        """What was served is what the feature is of nothing, or the other way round."""
        for column, feature in zip(self.columns, self._features, strict=True):
            nothing = value_of_nothing(feature)
            rows = np.flatnonzero(part.open[column.name])
            if nothing is None or column.masked or not len(rows):
                continue
            for kind, which in (("value", "served"), ("offline", "computed offline")):
                values = part.table[f"{kind}.{column.name}"].take(pa.array(rows))
                empty = pa.chunked_array([pa.array([nothing] * len(rows), values.type)])
                equal = ~differing(values, empty)
                detail = said(f"{nothing!r}, the value of nothing, was {which}")
                part.enter(column, rows[equal], "default", detail)

    def _rest(self, part: Part, cause: str, detail: Detail) -> None:
        for column in self.columns:
            part.enter(column, np.flatnonzero(part.open[column.name]), cause, detail)


def _equal_in_single_precision(
    served: pa.ChunkedArray, offline: pa.ChunkedArray
) -> NDArray[np.bool_]:
    """Which doubles are equal once they are rounded to singles."""
    one, other = (pc.fill_null(each, np.nan).to_numpy() for each in (served, offline))
    with np.errstate(over="ignore"):
        equal: NDArray[np.bool_] = one.astype(np.float32) == other.astype(np.float32)
    return equal
