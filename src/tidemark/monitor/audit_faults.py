"""Errors of a whole view that somebody may have made: another bound, filter or zone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import lru_cache, partial
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tidemark.model.expr import Call
from tidemark.model.graph import Feature, FeatureView
from tidemark.model.window import HOUR, Window

# Zones differ from UTC by whole hours, some by halves, those of Nepal and the Chathams by quarters.
_QUARTERS = [k for k in range(-56, 57) if k and (k % 2 == 0 or abs(k) in {23, 51})]
_SHIFTS = [k * HOUR // 4 for k in sorted(_QUARTERS, key=lambda k: (k % 4 != 0, abs(k)))]


# Clocks that change in summer, at different days; a source's own zone is tried as well.
_ZONES = (
    *(f"Europe/{city}" for city in ("Berlin", "London", "Helsinki")),
    *(f"America/{city}" for city in ("New_York", "Chicago", "Denver", "Los_Angeles")),
    *("Australia/Sydney", "Pacific/Auckland"),
)


class Shift(NamedTuple):
    """By how much events are moved: microseconds, or so often as far as a zone is from UTC then."""

    amount: int
    zone: str = ""

    def of(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """By how much events of some times are moved (microseconds)."""
        if not self.zone:
            return np.full(len(times), self.amount, np.int64)
        quarters, which = np.unique(times // (HOUR // 4), return_inverse=True)
        offsets = [_offset(self.zone, quarter) for quarter in quarters.tolist()]
        moved: NDArray[np.int64] = self.amount * np.array(offsets, np.int64)[which]
        return moved

    def __str__(self) -> str:
        if self.zone:
            read = f"local times of {self.zone} were" if self.amount > 0 else "times were"
            return f"{read} read as {'UTC' if self.amount > 0 else f'local ones of {self.zone}'}"
        when = "later" if self.amount > 0 else "earlier"
        return f"every event had happened {abs(self.amount) / HOUR:g} h {when}"


UNMOVED = Shift(0)


@lru_cache(1 << 16)
def _offset(zone: str, quarter: int) -> int:
    """How far a zone is from UTC in a quarter of an hour since 1970 (microseconds)."""
    seconds = min(max(quarter * 900, _FIRST), _LAST)
    offset = datetime.fromtimestamp(seconds, ZoneInfo(zone)).utcoffset()
    return 0 if offset is None else round(offset.total_seconds()) * 1_000_000


_FIRST, _LAST = -2_000_000_000, 4_000_000_000
"""The seconds, of 1906 and 2096, beyond which zones are as they are there."""


class Reading(NamedTuple):
    """How the features of a view are computed: by its definition or another one.

    With `hindsight`, as if every event had been seen when it happened.
    """

    view: FeatureView
    hindsight: bool = False


class Fault(NamedTuple):
    """An error of a whole view: its cause, and how features are computed if it is made.

    From events that are moved by `shift`.  One that is two at once has them as `parts`.
    """

    cause: str
    detail: str
    reading: Reading
    shift: Shift = UNMOVED
    parts: tuple[Fault, ...] = ()


def faults(view: FeatureView, zone: str) -> Iterator[Fault]:
    """The faults of a whole view that are worth trying, the likeliest first.

    `zone` is that of its source's local times, empty where they have none.
    """
    yield from _other_bounds(view)
    yield from _other_filters(view)
    yield from _shifts(view, zone)
    yield from _other_calendars(view, zone, (f"Etc/GMT{k:+d}" for k in range(-14, 13) if k))


def pairs(view: FeatureView, zone: str) -> Iterator[Fault]:
    """Two faults of different kinds at once: a bound, a filter, a zone."""
    filters = list(_other_filters(view))
    zones = [*_shifts(view, zone), *_other_calendars(view, zone, ())]
    for bound in _other_bounds(view):
        yield from map(partial(_together, bound), filters, _other_filters(bound.reading.view))
    for first in (*_other_bounds(view), *filters):
        of = first.reading.view
        both = [*_shifts(of, zone), *_other_calendars(of, zone, ())]
        yield from map(partial(_together, first), zones, both)


def _together(first: Fault, second: Fault, both: Fault) -> Fault:
    """Two faults as one; `both` is the second one of a view that has the first."""
    detail = f"{first.detail}, and {second.detail}"
    cause = " and ".join(sorted((first.cause, second.cause)))
    return both._replace(cause=cause, detail=detail, parts=(first, second))


def _shifts(view: FeatureView, zone: str) -> Iterator[Fault]:
    shifts = [Shift(each) for each in _SHIFTS]
    shifts += [Shift(sign, each) for each in _zones(zone) for sign in (1, -1)]
    for shift in shifts:
        yield Fault("shifted zone", f"it is served as if {shift}", Reading(view), shift)


def _zones(zone: str) -> list[str]:
    return list(dict.fromkeys([*filter(None, [zone]), *_ZONES]))


def _other_calendars(view: FeatureView, zone: str, fixed: Iterable[str]) -> Iterator[Fault]:
    if any(each.aggregate.window.unit is not None for each in view.features):
        for other in ("UTC", *fixed, *_zones(zone)):
            detail = f"it is served as with calendar windows of {other}"
            altered = _with_windows(view, partial(_in_zone, other))
            yield Fault("shifted zone", detail, Reading(altered))


def _other_bounds(view: FeatureView) -> Iterator[Fault]:
    other = "before" if view.bound == "at" else "at"
    detail = f"it is served as with bound={other!r}; the view says {view.bound!r}"
    yield Fault("off-by-one bound", detail, Reading(replace(view, bound=other)))
    for micros in (1, -1):
        more = "longer" if micros > 0 else "shorter"
        detail = f"it is served as with windows that are a microsecond {more}"
        altered = _with_windows(view, partial(_longer, micros))
        yield Fault("off-by-one bound", detail, Reading(altered))


def _other_filters(view: FeatureView) -> Iterator[Fault]:
    if any(feature.aggregate.where is not None for feature in view.features):
        for detail, negated in (("without its filter", False), ("with its filter reversed", True)):
            features = tuple(_unfiltered(each, negated) for each in view.features)
            altered = Reading(replace(view, features=features))
            yield Fault("changed definition", f"it is served as {detail}", altered)


def _with_windows(view: FeatureView, change: Callable[[Window], Window]) -> FeatureView:
    features = tuple(
        replace(each, aggregate=replace(each.aggregate, window=change(each.aggregate.window)))
        for each in view.features
    )
    return replace(view, features=features)


def _longer(micros: int, window: Window) -> Window:
    return replace(window, length=window.length + micros) if window.kind == "sliding" else window


def _in_zone(zone: str, window: Window) -> Window:
    return replace(window, zone=zone) if window.unit is not None else window


def _unfiltered(feature: Feature, negated: bool) -> Feature:
    where = feature.aggregate.where
    if where is None:
        return feature
    altered = Call("not", (where,)) if negated else None
    return replace(feature, aggregate=replace(feature.aggregate, where=altered))
