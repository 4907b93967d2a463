"""The differences of one view as events are altered: what explains them is entered.

`audit_view` says what is tried, `audit_singles` finds the single events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.monitor.audit_events import Case, Entities, Trials
from tidemark.monitor.audit_faults import UNMOVED, Fault, Reading
from tidemark.monitor.audit_part import Detail, Part, said
from tidemark.serve.log.form import Column

SCREENED = 4
"""Rows of each online state with which a fault is tried first: most are refuted by them."""

MOST, ENOUGH = 0.75, 8
"""A fault of a whole view explains all values that differ, or such a share of so many."""

SOME = 0.25
"""Or such a share, so many, and of several entities: others have another cause besides."""

PAIRED_EVENTS = 20_000_000
"""Events of all trials of two faults at once: of the online states with most that is left."""


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
