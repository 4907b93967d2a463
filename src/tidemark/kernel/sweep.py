"""Many moments of many entities: `tidemark.kernel.evaluate`.

Aggregates of one window are a group.  Each group is computed segment by segment, and the segments
that have moments are dealt out in runs of about equal work to threads, which share nothing but the
arrays into which each writes its own columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

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
from tidemark.kernel.bounds import window_bounds
from tidemark.kernel.compiled import (
    BYTE_ROWS,
    BYTES,
    INTEGER,
    NEW_WORDS,
    WORD_ROWS,
    WORDS,
    entry,
    ready,
)
from tidemark.kernel.encoding import (
    FLOAT,
    FUNCTIONS,
    KINDS,
    NOTHING,
    OVERFLOW,
    Events,
    Out,
    encode,
    skips_null,
    takes_two_rows,
)
from tidemark.kernel.group import sweep_group
from tidemark.kernel.steps import StepsScratch, make_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.model.aggregates import Aggregate
    from tidemark.model.window import Bound, Window

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

RUNS_PER_THREAD = 8
LEAST_WORK = 200_000  # events and moments of a run, below which a thread is not worth waking

_POSITIONS = {"first", "last", "latest"}
_LISTS = {"first_n", "last_n", "top_n"}
_FLOATS = {"mean", "variance", "stddev", "quantile", "approx_quantile"}
_SAME = {"sum", "min", "max", "mode"}


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
    threads: int | None = None,
) -> list[Result]:
    """See `tidemark.kernel.evaluate`."""
    ready()
    threads = threads or os.cpu_count() or 1
    kind = KINDS[column.kind]
    arrays = _arrays(timeline, column)
    rows = _rows(aggregates, kind)
    out_words = np.empty((rows[-1], len(moments.t)), np.int64)
    out_state = np.empty((rows[-1], len(moments.t)), np.uint8)
    t = np.ascontiguousarray(moments.t, np.int64)
    runs = list(_runs(timeline.starts, moments.starts, threads))
    tasks = []
    for group in _groups(aggregates, max_age):
        low, high = window_bounds(group.window, bound, group.max_age, t)
        table = encode([aggregates[i] for i in group.members], [rows[i] for i in group.members])
        tasks += [
            partial(
                cast("Any", _sweep),
                *arrays,
                moments.starts,
                t,
                low,
                high,
                *run,
                kind,
                column.scale,
                group.window.rows,
                int(group.skip_null),
                table,
                out_words,
                out_state,
                np.empty(0, np.int64),
            )
            for run in runs
        ]
    _run(tasks, threads)
    return [
        _result(i, aggregate, kind, out_words[rows[i] : rows[i + 1]], out_state[rows[i]])
        for i, aggregate in enumerate(aggregates)
    ]


@entry(
    *(WORDS,) * 6,
    *(BYTES,) * 2,
    *(WORDS,) * 4,
    *(INTEGER,) * 6,
    WORD_ROWS,
    WORD_ROWS,
    BYTE_ROWS,
    NEW_WORDS,
)
def _sweep(
    starts: Words,
    time: Words,
    known: Words,
    until: Words,
    words: Words,
    high_words: Words,
    valid: Bytes,
    where: Bytes,
    moment_starts: Words,
    t: Words,
    low: Words,
    high: Words,
    first: int,
    stop: int,
    kind: int,
    scale: int,
    rows: int,
    skip_null: int,
    group: NDArray[np.int64],
    out_words: NDArray[np.int64],
    out_state: NDArray[np.uint8],
    items: Words,
) -> None:
    out = Out(out_words, out_state, items)
    events_most = moments_most = 0
    for s in range(first, stop):
        if moment_starts[s + 1] > moment_starts[s]:
            events_most = max(events_most, starts[s + 1] - starts[s])
            moments_most = max(moments_most, moment_starts[s + 1] - moment_starts[s])
    scratch = StepsScratch(
        np.empty((moments_most, 5), np.int64),
        np.empty(events_most + 1, np.int64),
        np.empty(events_most + 1, np.int64),
    )
    for s in range(first, stop):
        a, b = starts[s], starts[s + 1]
        i, j = moment_starts[s], moment_starts[s + 1]
        if i == j:
            continue
        events = Events(
            time[a:b],
            known[a:b],
            until[a:b],
            words[a:b],
            high_words[a:b],
            valid[a:b],
            where[a:b],
        )
        steps = make_steps(events, t[i:j], low[i:j], high[i:j], rows, skip_null != 0, scratch)
        sweep_group(events, kind, scale, steps, group, out, i, a)


def _arrays(timeline: Timeline, column: Column) -> tuple[NDArray[Any], ...]:
    """The arrays as compiled code takes them: contiguous, absent ones empty, bools as bytes."""
    words = (
        timeline.starts,
        timeline.time,
        timeline.known,
        timeline.until,
        column.words,
        column.high,
    )
    flags = (column.valid, column.where)
    return (*map(_as_words, words), *map(_as_bytes, flags))


def _as_words(values: NDArray[Any] | None) -> Words:
    if values is None:
        return np.empty(0, np.int64)
    values = np.ascontiguousarray(values)
    return values.view(np.int64) if values.dtype == np.float64 else values.astype(np.int64, copy=False)


def _as_bytes(values: NDArray[np.bool_] | None) -> Bytes:
    if values is None:
        return np.empty(0, np.uint8)
    return np.ascontiguousarray(values, np.bool_).view(np.uint8)


def _rows(aggregates: Sequence[Aggregate], kind: int) -> list[int]:
    """The first row of results of each aggregate, and the number of rows."""
    rows = [0]
    for aggregate in aggregates:
        two = takes_two_rows(FUNCTIONS.index(aggregate.function), kind)
        rows.append(rows[-1] + (2 if two else 1))
    return rows


def _groups(aggregates: Sequence[Aggregate], max_age: int) -> list[_Group]:
    groups: dict[tuple[Window, int, bool], list[int]] = {}
    for i, aggregate in enumerate(aggregates):
        age = max_age if aggregate.rule.stored else 0
        groups.setdefault((aggregate.window, age, skips_null(aggregate)), []).append(i)
    return [_Group(*key, members) for key, members in groups.items()]


def _runs(starts: Words, moment_starts: Words, threads: int) -> Iterator[tuple[int, int]]:
    """Runs of segments that hold about the same number of events and moments to work on."""
    moments = np.diff(moment_starts)
    work = np.where(moments > 0, np.diff(starts) + moments, 0)
    total = np.cumsum(work)
    if not len(total) or not total[-1]:
        return
    count = 1 if threads == 1 else min(threads * RUNS_PER_THREAD, 1 + total[-1] // LEAST_WORK)
    ends = np.searchsorted(total, total[-1] * np.arange(1, count + 1) / count) + 1
    first = 0
    for end in np.minimum(ends, len(total)).tolist():
        if end > first:
            yield first, end
            first = end


def _run(tasks: list[partial[None]], threads: int) -> None:
    if threads == 1 or len(tasks) < 2:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()


def _result(
    index: int, aggregate: Aggregate, kind: int, words: NDArray[np.int64], state: Bytes
) -> Result:
    valid = state != NOTHING
    function = aggregate.function
    if function in _POSITIONS:
        return Positions(np.where(valid, words[0], -1))
    overflows = np.flatnonzero(state == OVERFLOW)
    if len(overflows):
        raise SumOverflow(index, int(overflows[0]))
    if function in _FLOATS or (function in _SAME and kind == FLOAT):
        return Numbers(words[0].view(np.float64), valid)
    return Numbers(words[0], valid, words[1] if len(words) > 1 else None)
