"""Why values of one view differ: its events and its definition, altered until they fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.engines.arrow import arrow_type, scalar_of
from tidemark.errors import TidemarkError
from tidemark.model.graph import Definitions, Feature, FeatureView
from tidemark.model.window import format_moment
from tidemark.monitor.audit_differences import differing
from tidemark.monitor.audit_events import Case, Entities, Trials, written
from tidemark.monitor.audit_faults import UNMOVED, Fault, Reading, faults, pairs
from tidemark.monitor.audit_part import Detail, Part, said
from tidemark.monitor.audit_singles import Singles
from tidemark.serve.log.form import Column

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB

SAMPLED = 60
"""Rows that differ, of each online state, by which a fault of a whole view is found."""

SCREENED = 4
"""Of these, those with which a fault is tried first: most are refuted by them."""

MOST, ENOUGH = 0.75, 8
"""A fault of a whole view explains all values that differ, or such a share of so many."""

SOME = 0.25
"""Or such a share, so many, and of several entities: others have another cause besides."""

PAIRED_EVENTS = 20_000_000
"""Events of all trials of two faults at once: of the online states with most that is left."""


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
            nothing = _nothing(feature)
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


class Work:
    """A part of the differences of a view, with the events of its entities.

    `known` tells the online state of each row; `rewritten` says of which rows the history was
    written after it.
    """

    def __init__(
        self,
        part: Part,
        columns: Sequence[Column],
        entities: Entities,
        trials: Trials,
        known: NDArray[np.int64],
        rewritten: NDArray[np.bool_],
    ) -> None:
        self._part, self._columns, self._trials = part, columns, trials
        self.entities, self.rewritten = entities, rewritten
        self._known = known

    def open_rows(self, state: int | None = None) -> NDArray[np.int64]:
        """The rows with a difference whose cause is not known, of one online state or of all."""
        rows = self._part.wrong(self._columns)
        return rows if state is None else rows[self._known[rows] == state]

    def open_at(self, row: int) -> int:
        """How many values of a row are open."""
        return sum(bool(self._part.open[each.name][row]) for each in self._columns)

    def explained(
        self, rows: NDArray[np.int64], cases: Sequence[Case], reading: Reading
    ) -> NDArray[np.bool_]:
        """Which open values are those of altered events, bool[features, rows]."""
        told = self._are_served(rows, cases, reading)
        open_ = np.array([self._part.open[each.name][rows] for each in self._columns])
        both: NDArray[np.bool_] = told & open_
        return both

    def plain_numbers(self, places: Sequence[int]) -> list[int]:
        """Those of some features whose values the log has as they are."""
        return [place for place in places if not self._columns[place].masked]

    def numbers(
        self,
        rows: NDArray[np.int64],
        cases: Sequence[Case],
        reading: Reading,
        which: Sequence[int],
    ) -> NDArray[np.float64]:
        """The values of some features computed from cases, [features, rows]; of nothing 0."""
        values = self._trials.values(self.entities, rows, cases, reading)
        return np.array([_numbers(values[place]) for place in which])

    def served(self, rows: NDArray[np.int64], which: Sequence[int]) -> NDArray[np.float64]:
        """The values of some features that were served in rows, [features, rows]; of nothing 0."""
        table, taken = self._part.table, pa.array(rows)
        names = [self._columns[place].name for place in which]
        return np.array([_numbers(table[f"value.{name}"].take(taken)) for name in names])

    def enter(
        self, rows: NDArray[np.int64], explained: NDArray[np.bool_], cause: str, detail: Detail
    ) -> None:
        """Say the cause of what is explained, bool[features, rows]."""
        for column, flags in zip(self._columns, explained, strict=True):
            self._part.enter(column, rows[flags], cause, detail)

    def lag(self, fault: Fault | None = None, rows: NDArray[np.int64] | None = None) -> None:
        """Without the events that the online state had not taken in, on top of a fault."""
        rows = self.open_rows() if rows is None else rows
        rows = np.array([row for row in rows.tolist() if len(self.entities.unknown(row))], np.int64)
        cases = [self.entities.lagging(row, self._whole(row, fault)) for row in rows.tolist()]

        def detail(row: int) -> str:
            unknown = self.entities.unknown(row)
            newest = self.entities.describe(int(unknown[-1]))
            return (
                f"{len(unknown)} events that were known by then had not reached the online "
                f"state; the newest is {newest}"
            )

        self._attempt(rows, cases, self._reading(fault), _and("lag", fault), detail)

    def late(self, fault: Fault | None = None, rows: NDArray[np.int64] | None = None) -> None:
        """With the events that were seen later, on top of a fault."""
        rows = self.open_rows() if rows is None else rows
        rows = np.array([row for row in rows.tolist() if len(self.entities.late(row))], np.int64)
        cases = [self._whole(row, fault) for row in rows.tolist()]

        def detail(row: int) -> str:
            late = self.entities.late(row)
            return (
                f"{len(late)} events happened before the moment and were seen after it; "
                f"the first is {self.entities.describe(int(late[0]))}"
            )

        reading = self._reading(fault)._replace(hindsight=True)
        self._attempt(rows, cases, reading, _and("late data", fault), detail)

    def fault(self, state: int, fault: Fault) -> None:
        """A fault of the online state that served some rows, and lag or late data on top of it."""
        for each in (*fault.parts, fault):  # of two faults, one may be all that a feature shows
            rows = self.open_rows(state)
            cases = [self._whole(row, each) for row in rows.tolist()]
            self._attempt(rows, cases, each.reading, each.cause, said(each.detail))
        for more in (self.lag, self.late):
            more(fault, self.open_rows(state))

    def faults(self, alone: Sequence[Fault], two: Sequence[Fault]) -> dict[int, Fault]:
        """For each online state the fault that explains what differs of it, and what does not.

        Where none explains everything, `two` faults at once may explain more.
        """
        wrong = self.open_rows()
        if not len(wrong):
            return {}
        everything = np.arange(len(self._known))
        right = np.setdiff1d(everything, np.flatnonzero(self._part.differing()))
        of_state = {
            int(state): (wrong[self._known[wrong] == state], right[self._known[right] == state])
            for state in np.unique(self._known[wrong])
        }
        found: dict[int, tuple[float, Fault]] = {}
        self._screen(alone, of_state, found)
        left = {state: of for state, of in of_state.items() if found.get(state, (0.0,))[0] < 1}
        self._screen(two, self._affordable(left, len(two)), found)
        return {state: fault for state, (_, fault) in found.items()}

    def _screen(
        self,
        tried: Sequence[Fault],
        of_state: Mapping[int, tuple[NDArray[np.int64], NDArray[np.int64]]],
        found: dict[int, tuple[float, Fault]],
    ) -> None:
        """Try faults with few rows of each state, and those that fit with all."""
        states = list(of_state)
        if not states:
            return
        screened = [_spread(of_state[state][0], SCREENED) for state in states]
        for reading, several in _by_reading(tried).items():
            shares = self._shares(screened, reading, several)
            for fault, of_fault in zip(several, shares, strict=True):
                for state, share in zip(states, of_fault, strict=True):
                    if share >= SOME:
                        self._judge(state, fault, *of_state[state], found)

    def _affordable(
        self, of_state: Mapping[int, tuple[NDArray[np.int64], NDArray[np.int64]]], tried: int
    ) -> dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The states with most that is left for which so many faults can be tried."""
        kept: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        budget = PAIRED_EVENTS
        for state, (rows, right) in sorted(of_state.items(), key=lambda each: -len(each[1][0])):
            entities = self.entities.of_row[_spread(rows, SCREENED)]
            sizes = self.entities.starts[entities + 1] - self.entities.starts[entities]
            budget -= tried * int(sizes.sum())
            if budget < 0:
                break
            kept[state] = rows, right
        return kept

    def _judge(
        self,
        state: int,
        fault: Fault,
        rows: NDArray[np.int64],
        right: NDArray[np.int64],
        found: dict[int, tuple[float, Fault]],
    ) -> None:
        """Enter a fault that explains more of a state than those before, and nothing wrongly."""
        best = found.get(state, (0.0,))[0]
        if best == 1:
            return
        told = self.explained(
            rows, [self._whole(row, fault) for row in rows.tolist()], fault.reading
        )
        cells = self._cells(rows)
        share = int(told.sum()) / cells
        several = len(np.unique(self.entities.of_row[rows[told.any(axis=0)]])) > 1
        enough = share == 1 or (share >= MOST and cells >= ENOUGH)
        enough |= share >= SOME and several and int(told.sum()) >= ENOUGH
        if enough and share > best and self._keeps(right, fault):
            found[state] = share, fault

    def _shares(
        self, groups: Sequence[NDArray[np.int64]], reading: Reading, several: Sequence[Fault]
    ) -> list[list[float]]:
        """For each fault of a reading its share of the open values of each group of rows."""
        rows = np.concatenate(groups)
        cases = [self._whole(row, fault) for fault in several for row in rows.tolist()]
        told = self.explained(np.tile(rows, len(several)), cases, reading).sum(axis=0)
        starts = np.cumsum([0, *(len(each) for each in groups)])[:-1]
        cells = np.array([self._cells(each) for each in groups])
        return [
            [
                one / of
                for one, of in zip(np.add.reduceat(each, starts).tolist(), cells, strict=True)
            ]
            for each in np.split(told, len(several))
        ]

    def _cells(self, rows: NDArray[np.int64]) -> int:
        return sum(int(self._part.open[each.name][rows].sum()) for each in self._columns)

    def _keeps(self, rows: NDArray[np.int64], fault: Fault) -> bool:
        """Whether a fault gives what was served in rows without a difference."""
        if not len(rows):
            return True
        cases = [self._whole(row, fault) for row in rows.tolist()]
        return bool(self._are_served(rows, cases, fault.reading).all())

    def _are_served(
        self, rows: NDArray[np.int64], cases: Sequence[Case], reading: Reading
    ) -> NDArray[np.bool_]:
        values = self._trials.values(self.entities, rows, cases, reading)
        return np.array(
            [
                self._part.is_served(column, rows, each)
                for column, each in zip(self._columns, values, strict=True)
            ]
        )

    def _attempt(
        self,
        rows: NDArray[np.int64],
        cases: Sequence[Case],
        reading: Reading,
        cause: str,
        detail: Detail,
    ) -> None:
        if len(rows):
            self.enter(rows, self.explained(rows, cases, reading), cause, detail)

    def _reading(self, fault: Fault | None) -> Reading:
        return self._trials.plain if fault is None else fault.reading

    def _whole(self, row: int, fault: Fault | None) -> Case:
        return Case(int(self.entities.of_row[row]), UNMOVED if fault is None else fault.shift)


def _equal_in_single_precision(
    served: pa.ChunkedArray, offline: pa.ChunkedArray
) -> NDArray[np.bool_]:
    """Which doubles are equal once they are rounded to singles."""
    one, other = (pc.fill_null(each, np.nan).to_numpy() for each in (served, offline))
    with np.errstate(over="ignore"):
        equal: NDArray[np.bool_] = one.astype(np.float32) == other.astype(np.float32)
    return equal


def _numbers(values: pa.ChunkedArray) -> NDArray[np.float64]:
    numbers = pc.fill_null(pc.cast(values, pa.float64(), safe=False), 0.0)
    found: NDArray[np.float64] = numbers.to_numpy()
    return found


def _and(cause: str, fault: Fault | None) -> str:
    return cause if fault is None else f"{fault.cause} and {cause}"


def _by_reading(faults: Iterable[Fault]) -> dict[Reading, list[Fault]]:
    """The faults that are computed in one go: those that only move events."""
    found: dict[Reading, list[Fault]] = {}
    for fault in faults:
        found.setdefault(fault.reading, []).append(fault)
    return found


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Some of the rows, from all of their length."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))]


def _nothing(feature: Feature) -> Any:
    """The value of a feature that found nothing."""
    default = feature.aggregate.default
    if feature.aggregate.rule.zero or default is None:
        return 0 if feature.aggregate.rule.zero else None
    return scalar_of(default).cast(arrow_type(feature.type)).as_py()
