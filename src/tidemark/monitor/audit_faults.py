"""Errors of a whole view that somebody may have made: another bound, filter or zone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from tidemark.model.expr import Call
from tidemark.model.graph import Feature, FeatureView
from tidemark.model.window import HOUR, Window

# Zones differ from UTC by whole hours, some by halves, those of Nepal and the Chathams by quarters.
_QUARTERS = [k for k in range(-56, 57) if k and (k % 2 == 0 or abs(k) in {23, 51})]
_SHIFTS = [k * HOUR // 4 for k in sorted(_QUARTERS, key=lambda k: (k % 4 != 0, abs(k)))]


class Reading(NamedTuple):
    """How the features of a view are computed: by its definition or another one.

    With `hindsight`, as if every event had been seen when it happened.
    """

    view: FeatureView
    hindsight: bool = False


class Fault(NamedTuple):
    """An error of a whole view: its cause, and how features are computed if it is made.

    From events that happened `shift` microseconds later than they say.
    """

    cause: str
    detail: str
    reading: Reading
    shift: int = 0


def faults(view: FeatureView) -> Iterator[Fault]:
    """The faults of a whole view that are worth trying, the likeliest first."""
    yield from _other_bounds(view)
    yield from _other_filters(view)
    for shift in _SHIFTS:
        when = "later" if shift > 0 else "earlier"
        detail = f"it is served as if every event had happened {abs(shift) / HOUR:g} h {when}"
        yield Fault("shifted zone", detail, Reading(view), shift)
    if any(each.aggregate.window.unit is not None for each in view.features):
        for zone in ("UTC", *(f"Etc/GMT{k:+d}" for k in range(-14, 13) if k)):
            detail = f"it is served as with calendar windows of {zone}"
            other = _with_windows(view, partial(_in_zone, zone))
            yield Fault("shifted zone", detail, Reading(other))


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
