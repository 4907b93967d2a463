"""Which single events could be behind a difference, told by what adds up.

Of a feature that adds up (a count, a sum), one event alone has a value.  What was served differs
from what is computed by just that value if the event was lost, and by its negative if it counted
twice.  So the events worth trying are found by looking at each of them once, however many there
are, and so are two events at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemark.model.graph import Feature
from tidemark.monitor.audit_events import Case

if TYPE_CHECKING:
    from tidemark.monitor.audit_faults import Reading
    from tidemark.monitor.audit_work import Work

LOOKED_AT = 10_000
"""Events of an entity that are looked at: the newest."""

PAIRED = 5_000
"""Of these, those that are looked at two by two."""

SUGGESTED = 50
"""Suggestions for a row: of those that fit alike, the newest."""

_ULPS = 8
"""By so many steps of the larger value two sums may differ from the sum of their difference."""


class Suggestion(NamedTuple):
    """Events that were not counted, and events that were counted twice."""

    without: frozenset[int]
    twice: frozenset[int]


class _Looked(NamedTuple):
    """A row: events `places`, what each gives alone, and what is to be explained, by feature."""

    places: NDArray[np.int64]
    values: NDArray[np.float64]
    missing: NDArray[np.float64]
    about: NDArray[np.float64]


def adding_up(features: Sequence[Feature]) -> list[int]:
    """The places of the features that add up event by event."""
    return [
        place
        for place, each in enumerate(features)
        if each.aggregate.function in {"count", "sum"}
        and each.type.name in {"int64", "float64"}
        and not each.aggregate.window.rows
        and each.aggregate.default is None
    ]


def suggested(
    work: Work, reading: Reading, rows: Sequence[int], bases: Sequence[Case]
) -> list[list[Suggestion] | None]:
    """For each row the events that would explain it, given the case that it is computed from.

    None where that cannot be told: nothing adds up, or what does is right, or an event has several
    versions.
    """
    told: list[list[Suggestion] | None] = [None] * len(rows)
    which = work.plain_numbers(adding_up(reading.view.features))
    able = [i for i, row in enumerate(rows) if which and not work.entities.versions(row)]
    if not able:
        return told
    places = [work.entities.visible(rows[i])[-LOOKED_AT:] for i in able]
    cases = [bases[i] for i in able]
    at = [rows[i] for i in able]
    for i, mine in zip(able, places, strict=True):
        alone = (bases[i]._replace(only=event) for event in mine.tolist())
        cases += alone
        at += [rows[i]] * len(mine)
    computed = work.numbers(np.array(at, np.int64), cases, reading, which)
    served = work.served(np.array([rows[i] for i in able], np.int64), which)
    end = len(able)
    for number, (i, mine) in enumerate(zip(able, places, strict=True)):
        begin, end = end, end + len(mine)
        base = computed[:, number]
        looked = _Looked(
            mine,
            computed[:, begin:end],
            served[:, number] - base,
            np.abs(served[:, number]) + np.abs(base),
        )
        known = np.isfinite(looked.missing).all() and np.isfinite(looked.values).all()
        if known and looked.missing.any():
            told[i] = _found(looked)
    return told


def _found(looked: _Looked) -> list[Suggestion]:
    """Single events that fit, or if there are none two that do; the newest first."""
    effective = np.flatnonzero((looked.values != 0).any(axis=0))[::-1]
    tolerance = _ULPS * np.spacing(looked.about + np.abs(looked.values).max(axis=1, initial=0.0))
    # Of n events, item i is event i without it, and item n + i is event i twice.
    places = np.concatenate([looked.places[effective]] * 2)
    values = np.concatenate([-looked.values[:, effective], looked.values[:, effective]], axis=1)
    twice = np.arange(len(places)) >= len(effective)
    fits = (np.abs(values - looked.missing[:, None]) <= tolerance[:, None]).all(axis=0)
    items: list[tuple[int, ...]] = [(each,) for each in np.flatnonzero(fits).tolist()]
    if not items:
        few = np.flatnonzero(np.arange(len(places)) % max(1, len(effective)) < PAIRED)
        two = _pairs(values[:, few], looked.missing, tolerance)
        items = [tuple(int(few[each]) for each in pair) for pair in two]
    return [
        Suggestion(
            frozenset(int(places[each]) for each in item if not twice[each]),
            frozenset(int(places[each]) for each in item if twice[each]),
        )
        for item in items[:SUGGESTED]
    ]


def _pairs(
    values: NDArray[np.float64], missing: NDArray[np.float64], tolerance: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Two items whose values together are what is missing, by every feature."""
    telling = max(range(len(values)), key=lambda each: len(np.unique(values[each])), default=0)
    order = np.argsort(values[telling], kind="stable")
    ordered = values[telling][order]
    wanted = missing[telling] - values[telling]
    margin = float(tolerance[telling])
    low: NDArray[np.intp] = ordered.searchsorted(wanted - margin, "left")
    high: NDArray[np.intp] = ordered.searchsorted(wanted + margin, "right")
    found: list[tuple[int, int]] = []
    for first in np.flatnonzero(high > low).tolist():
        others = order[low[first] : high[first]]
        others = others[others > first]
        together = values[:, others] + values[:, first, None] - missing[:, None]
        fits = (np.abs(together) <= tolerance[:, None]).all(axis=0)
        found += [(first, int(other)) for other in others[fits]]
        if len(found) >= SUGGESTED:
            break
    return found
