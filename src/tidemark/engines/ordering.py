"""Putting events in order: by entity, then time, then everything that tells tied events apart.

A file in time order needs one counting sort by entity; any other is sorted entity by entity, while
the entity's events are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.engines.arrow import valid, words

P = ParamSpec("P")
R = TypeVar("R")
Words = NDArray[np.int64]

_SHORT = 32  # segments up to this length are sorted by insertion


def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a loop without the GIL; cached on disk where there is a place for it."""
    try:
        dispatcher: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        dispatcher = numba.njit(nogil=True)(function)
    return cast("Callable[P, R]", dispatcher)


def by_segment(code: NDArray[np.int32], time: Words, segments: int) -> tuple[Words, NDArray[Any]]:
    """Where each segment starts, int64[segments + 1], and the order by (segment, time), stable."""
    order = np.empty(len(code), np.int32 if len(code) < 2**31 else np.int64)
    starts = _count(code, segments)
    _place(code, starts, order)
    if not _is_sorted(time):
        _sort_segments(starts, time, order)
    return starts, order


@_compiled
def _count(code: NDArray[np.int32], segments: int) -> Words:
    starts = np.zeros(segments + 1, np.int64)
    for segment in code:
        starts[segment + 1] += 1
    for segment in range(segments):
        starts[segment + 1] += starts[segment]
    return starts


@_compiled
def _place(code: NDArray[np.int32], starts: Words, order: NDArray[Any]) -> None:
    free = starts[:-1].copy()
    for i in range(len(code)):
        segment = code[i]
        order[free[segment]] = i
        free[segment] += 1


@_compiled
def _is_sorted(time: Words) -> bool:
    for i in range(1, len(time)):  # noqa: SIM110
        if time[i] < time[i - 1]:
            return False
    return True


@_compiled
def _sort_segments(starts: Words, time: Words, order: NDArray[Any]) -> None:
    for segment in range(len(starts) - 1):
        first, end = starts[segment], starts[segment + 1]
        if end - first <= _SHORT:
            for i in range(first + 1, end):
                event = order[i]
                moment = time[event]
                j = i
                while j > first and time[order[j - 1]] > moment:
                    order[j] = order[j - 1]
                    j -= 1
                order[j] = event
        else:
            moments = time[order[first:end]]
            if not _is_sorted(moments):
                order[first:end] = order[first:end][np.argsort(moments, kind="mergesort")]


@_compiled
def tied(starts: Words, time: Words) -> tuple[Words, Words]:
    """The places of events that share segment and time with another, and a number of each group."""
    places = np.empty(0, np.int64)
    groups = np.empty(0, np.int64)
    for writing in range(2):
        n, group = 0, 0
        for segment in range(len(starts) - 1):
            for i in range(starts[segment], starts[segment + 1]):
                again = i > starts[segment] and time[i] == time[i - 1]
                more = i + 1 < starts[segment + 1] and time[i] == time[i + 1]
                if again or more:
                    group += not again
                    if writing:
                        places[n], groups[n] = i, group
                    n += 1
        if not writing:
            places, groups = np.empty(n, np.int64), np.empty(n, np.int64)
    return places, groups


@_compiled
def count_coincident(starts: Words, time: Words, moment_starts: Words, t: Words) -> int:
    """How many moments fall exactly on an event of their own segment."""
    found = 0
    for segment in range(len(moment_starts) - 1):
        i, end = starts[segment], starts[segment + 1]
        for r in range(moment_starts[segment], moment_starts[segment + 1]):
            while i < end and time[i] < t[r]:
                i += 1
            found += i < end and time[i] == t[r]
    return found


@_compiled
def scatter(slots: NDArray[Any], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Put each value into its slot; a negative slot drops it."""
    for i in range(len(slots)):
        slot = slots[i]
        if slot >= 0:
            out[slot] = values[i]


def sort_keys(column: pa.Array) -> list[NDArray[Any]]:
    """Arrays that order the values of a column, the most significant first: nulls, then by value.

    Numbers compare by value with NaN greatest and -0.0 equal to 0.0, text and bytes bytewise, lists
    item by item.
    """
    type_ = column.type
    defined = valid(column)
    if pa.types.is_floating(type_):
        return [defined, ordered_words(words(column))]
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_) or pa.types.is_temporal(type_):
        return [defined, words(column)]
    if pa.types.is_nested(type_):
        return [defined, rank_lists(column)]
    ranks = pc.rank(column, sort_keys="ascending", tiebreaker="dense")
    return [defined, ranks.to_numpy().astype(np.int64)]


def ordered_words(values: NDArray[np.float64]) -> Words:
    """Doubles as integers of the same order, with -0.0 as 0.0 and one NaN above infinity."""
    plain = np.where(np.isnan(values), np.nan, values + 0.0)
    bits = plain.view(np.int64)
    return np.where(bits < 0, bits ^ np.int64(0x7FFF_FFFF_FFFF_FFFF), bits)


def rank_lists(column: pa.Array) -> Words:
    """The dense rank of each list, nulls as empty ones; items compare as columns do."""
    lists = [() if value is None else tuple(map(_item_key, value)) for value in column.to_pylist()]
    ranks = {value: rank for rank, value in enumerate(sorted(set(lists)))}
    return np.fromiter((ranks[value] for value in lists), np.int64, len(lists))


def _item_key(item: Any) -> tuple[int, Any]:
    if item is None:
        return (0, 0)
    if isinstance(item, float) and item != item:  # noqa: PLR0124
        return (2, 0)
    return (1, item)
