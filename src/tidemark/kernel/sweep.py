"""Many moments of many entities: `tidemark.kernel.evaluate`.

Aggregates of one window are a group.  All groups are computed segment by segment, while its events
are in the cache; the segments that have moments are dealt out in runs of about equal work to
threads, which share nothing but the arrays into which each writes its own part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tidemark.kernel import (
    Column,
    Lists,
    Moments,
    Numbers,
    Positions,
    Result,
    SumOverflow,
    Timeline,
)
from tidemark.kernel.bounds import period_starts
from tidemark.kernel.compiled import ready
from tidemark.kernel.distinct import RANKS, REGISTERS
from tidemark.kernel.encoding import (
    APPROX_COUNT_DISTINCT,
    FLOAT,
    KINDS,
    LISTS,
    NOTHING,
    OVERFLOW,
    RANKED,
    Out,
    encode,
    encode_window,
    memory_size,
    takes_two_rows,
)
from tidemark.kernel.segments import rank_segments, sweep_segments
from tidemark.model.aggregates import Aggregate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.model.window import Bound, Unit, Window

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

RUNS_PER_THREAD = 8
LEAST_WORK = 200_000  # events and moments of a run, below which a thread is not worth waking

_NO_WORDS = np.empty(0, np.int64)
_POSITIONS = {"first", "last", "latest"}
_FLOATS = {"mean", "variance", "stddev", "quantile", "approx_quantile"}
_SAME = {"sum", "min", "max", "mode"}


class Input(NamedTuple):
    """The arrays as compiled code takes them: contiguous, absent ones empty, bools as bytes."""

    starts: Words
    time: Words
    known: Words
    until: Words
    words: Words
    high: Words
    valid: Bytes
    where: Bytes

    @classmethod
    def of(cls, timeline: Timeline, column: Column) -> Input:
        """The input that a timeline and a column are."""
        return cls(
            _as_words(timeline.starts),
            _as_words(timeline.time),
            _as_words(timeline.known),
            _as_words(timeline.until),
            _as_words(column.words),
            _as_words(column.high),
            _as_bytes(column.valid),
            _as_bytes(column.where),
        )


@dataclass(frozen=True)
class _Run:
    """Consecutive segments, and the size of the largest one that has moments."""

    first: int
    stop: int
    events: int
    moments: int


@dataclass(frozen=True)
class _Group:
    """Aggregates that count the same events, by their index."""

    window: Window
    max_age: int
    skip_null: bool
    members: list[int]


def evaluate(
    timeline: Timeline,
    moments: Moments,
    column: Column,
    aggregates: Sequence[Aggregate],
    *,
    bound: Bound = "at",
    max_age: int = 0,
    step: int = 0,
    threads: int | None = None,
) -> list[Result]:
    """See `tidemark.kernel.evaluate`."""
    ready()
    # Writable, as the only moment of rows is: what is compiled for one serves the other.
    t = np.require(moments.t, np.int64, ["C", "W"])
    asked = Moments(_as_words(moments.starts), t, moments.places)
    events = Input.of(timeline, column)
    sweep = _Sweep(events, asked, column, bound, step, threads or os.cpu_count() or 1)
    return sweep.evaluate(aggregates, _groups(aggregates, max_age))


class _Sweep:
    """One call of `evaluate`."""

    def __init__(
        self,
        events: Input,
        moments: Moments,
        column: Column,
        bound: Bound,
        step: int,
        threads: int,
    ) -> None:
        self.events, self.moments, self.step, self.threads = events, moments, step, threads
        self.bound: Bound = bound
        self.kind, self.scale = KINDS[column.kind], column.scale
        self.places = _as_words(moments.places)
        self.runs = list(_runs(events.starts, moments.starts, threads))
        self.ranks, self.values = np.empty(0, np.int64), np.empty(0, np.int64)

    def evaluate(self, aggregates: Sequence[Aggregate], groups: list[_Group]) -> list[Result]:
        """The results of the aggregates, which `groups` refer to by index."""
        if self._needs_ranks(aggregates):
            self._rank()
        two = [takes_two_rows(a.function, self.kind) for a in aggregates]
        second = list(accumulate(two, initial=0))
        count = len(self.moments.t)
        lists = self._place_lists(aggregates, groups)
        others = np.empty((second[-1], count), np.int64)
        for i, starts in lists.items():
            others[second[i]] = starts[:-1]
        items = np.empty(max((int(starts[-1]) for starts in lists.values()), default=0), np.int64)
        words = np.empty((len(aggregates), count), np.int64)
        state = np.empty(words.shape, np.uint8)
        out = Out(words, others, state, items)
        self._sweep_groups(aggregates, groups, second, self.places, out)
        if len(self.places):
            placed = np.empty_like(others)
            placed[:, self.places] = others
            others = placed
        return [
            _list(others[second[i]], words[i], items)
            if i in lists
            else _result(i, a, self.kind, words[i], others[second[i]] if two[i] else None, state[i])
            for i, a in enumerate(aggregates)
        ]

    def _needs_ranks(self, aggregates: Sequence[Aggregate]) -> bool:
        general = len(self.events.known) or len(self.events.until)
        return any(
            a.function in RANKED or (general and a.function in {"min", "max"}) for a in aggregates
        )

    def _rank(self) -> None:
        size = len(self.events.time)
        self.ranks, self.values = np.empty(size, np.int64), np.empty(size, np.int64)
        self._run(partial(self._rank_run, run) for run in self.runs)

    def _rank_run(self, run: _Run) -> None:
        cast("Any", rank_segments)(
            self.events.starts,
            self.events.words,
            self.events.high,
            self.moments.starts,
            run.first,
            run.stop,
            self.kind,
            self.scale,
            self.ranks,
            self.values,
            np.empty(memory_size(run.events, 0), np.int64),
        )

    def _place_lists(
        self, aggregates: Sequence[Aggregate], groups: list[_Group]
    ) -> dict[int, Words]:
        """Where the items of each list begin, if each is as long as its events allow.

        One after another for all lists, so the last of all is the number of items.
        """
        lists: dict[int, Words] = {}
        total = 0
        for group in groups:
            members = [i for i in group.members if aggregates[i].function in LISTS]
            if not members:
                continue
            counts = np.empty((1, len(self.moments.t)), np.int64)
            out = Out(counts, counts, np.empty(counts.shape, np.uint8), counts[0])
            counted = replace(group, members=[0])
            self._sweep_groups([Aggregate("count")], [counted], [0], _NO_WORDS, out)
            for i in members:
                starts = np.zeros(len(self.moments.t) + 1, np.int64)
                np.cumsum(np.minimum(counts[0], aggregates[i].n), out=starts[1:])
                lists[i] = starts + total
                total = int(lists[i][-1])
        return lists

    def _sweep_groups(
        self,
        aggregates: Sequence[Aggregate],
        groups: list[_Group],
        second: list[int],
        places: Words,
        out: Out,
    ) -> None:
        """Compute the aggregates of groups, which refer to them by index, into rows of `out`."""
        periods: dict[tuple[Unit, str, int], int] = {}
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for part in self._dealt(groups):
            encoded: list[tuple[int, ...]] = []
            tables: list[NDArray[np.int64]] = []
            stop = 0
            for group in part:
                window, low, members = group.window, -1, group.members
                if window.unit is not None:
                    period = window.unit, window.zone, window.offset
                    low = periods.setdefault(period, len(periods))
                start, stop = stop, stop + len(members)
                columns = encode_window(
                    window, self.bound, self.step, group.max_age, low, skip_null=group.skip_null
                )
                encoded.append((*columns, start, stop))
                tables.append(
                    encode([aggregates[i] for i in members], members, [second[i] for i in members])
                )
            parts.append((np.array(encoded, np.int64), np.concatenate(tables)))
        lows = period_starts(self.moments.t, periods)
        self._run(
            partial(self._sweep_run, run, places, lows, encoded_groups, table, out)
            for run in self.runs
            for encoded_groups, table in parts
        )

    def _dealt(self, groups: list[_Group]) -> list[list[_Group]]:
        """Groups that go together: all, or some for each thread where there are too few runs."""
        count = -(-self.threads // max(len(self.runs), 1))
        size = -(-len(groups) // count)
        if len(self.moments.t) < LEAST_WORK:
            size = len(groups)
        return [groups[i : i + size] for i in range(0, len(groups), size)]

    def _sweep_run(
        self,
        run: _Run,
        places: Words,
        lows: NDArray[np.int64],
        groups: NDArray[np.int64],
        table: NDArray[np.int64],
        out: Out,
    ) -> None:
        distinct = (table[:, 0] == APPROX_COUNT_DISTINCT).any()
        rows = len(out.words)
        cast("Any", sweep_segments)(
            *self.events,
            self.moments.starts,
            self.moments.t,
            places,
            lows,
            self.ranks,
            self.values,
            run.first,
            run.stop,
            self.kind,
            self.scale,
            groups,
            table,
            *out,
            np.empty(memory_size(run.events, run.moments) + 2 * run.moments * rows, np.int64),
            np.zeros(REGISTERS * RANKS if distinct else 0, np.int32),
        )

    def _run(self, tasks: Iterable[Callable[[], None]]) -> None:
        if self.threads == 1 or (len(self.runs) == 1 and len(self.moments.t) < LEAST_WORK):
            for task in tasks:
                task()
            return
        with ThreadPoolExecutor(self.threads) as pool:
            for future in [pool.submit(task) for task in tasks]:
                future.result()


def _as_words(values: NDArray[Any] | None) -> Words:
    if values is None:
        return np.empty(0, np.int64)
    values = np.ascontiguousarray(values)
    return (
        values.view(np.int64) if values.dtype == np.float64 else values.astype(np.int64, copy=False)
    )


def _as_bytes(values: NDArray[np.bool_] | None) -> Bytes:
    if values is None:
        return np.empty(0, np.uint8)
    return np.ascontiguousarray(values, np.bool_).view(np.uint8)


def _groups(aggregates: Sequence[Aggregate], max_age: int) -> list[_Group]:
    groups: dict[tuple[Window, int, bool], list[int]] = {}
    for i, aggregate in enumerate(aggregates):
        age = max_age if aggregate.rule.stored else 0
        # A null is as good as no event to all but `latest`.
        key = aggregate.window, age, aggregate.function != "latest"
        groups.setdefault(key, []).append(i)
    return [_Group(*key, members) for key, members in groups.items()]


def _runs(starts: Words, moment_starts: Words, threads: int) -> Iterator[_Run]:
    """Runs of segments that hold about the same number of events and moments to work on."""
    moments: Words = np.diff(moment_starts)
    events: Words = np.where(moments > 0, np.diff(starts), 0)
    total: Words = np.cumsum(events + moments)
    if not len(total) or not total[-1]:
        return
    count = 1 if threads == 1 else min(threads * RUNS_PER_THREAD, 1 + total[-1] // LEAST_WORK)
    shares: NDArray[np.float64] = total[-1] * np.arange(1, count + 1) / count
    ends: Words = np.searchsorted(total, shares)
    first = 0
    for end in np.minimum(ends + 1, len(total)).tolist():
        if end > first:
            most = events[first:end].max(), moments[first:end].max()
            yield _Run(first, end, int(most[0]), int(most[1]))
            first = end


def _list(starts: Words, lengths: Words, items: Words) -> Lists:
    """Lists whose items begin at `starts`; there is room for more."""
    ends = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return Lists(ends, items[np.arange(ends[-1]) + np.repeat(starts - ends[:-1], lengths)])


def _result(
    index: int, aggregate: Aggregate, kind: int, words: Words, high: Words | None, state: Bytes
) -> Result:
    valid = state != NOTHING
    function = aggregate.function
    if function in _POSITIONS:
        return Positions(np.where(valid, words, -1))
    overflows = np.flatnonzero(state == OVERFLOW)
    if len(overflows):
        raise SumOverflow(index, int(overflows[0]))
    if function in _FLOATS or (function in _SAME and kind == FLOAT):
        return Numbers(words.view(np.float64), valid)
    return Numbers(words, valid, high)
