"""Which events an aggregate covers: `over=`, `offset=` and `rows=`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta, tzinfo
from typing import TypeAlias, cast, get_args

import msgspec

from tidemark.define.problems import Unknown, here, report
from tidemark.errors import DefinitionError
from tidemark.model.window import Unit, Window, check_zone, format_duration, parse_duration


class ToDate(msgspec.Struct, frozen=True):
    """The calendar unit of a zone that holds the moment asked for, so far."""

    unit: Unit
    zone: str


def to_date(unit: str, zone: str | tzinfo = "UTC") -> ToDate:
    """The calendar window so far: `tm.to_date("month", "America/New_York")`, or of a `ZoneInfo`.

    Units are day, week (from Monday), month, quarter and year.
    """
    place, zone = here(), str(zone)
    if unit not in get_args(Unit):
        units = ", ".join(get_args(Unit))
        report(f"{unit!r} is not a unit of the calendar.", place, f"Units: {units}.")
        return cast("ToDate", Unknown())
    try:
        check_zone(zone)
    except DefinitionError as error:
        report(error.what, place, error.remedy)
        return cast("ToDate", Unknown())
    return ToDate(cast("Unit", unit), zone)


Over: TypeAlias = str | timedelta | ToDate | None


class LabelledWindow(msgspec.Struct, frozen=True):
    """A window and what it adds to the name of a feature that fans out."""

    label: str
    window: Window


def windows(
    over: Over | Iterable[Over], offset: str | timedelta | None, rows: int | None
) -> tuple[LabelledWindow, ...]:
    """The windows that `over=` names, in its order; raises `DefinitionError`."""
    if not is_single(over) and not isinstance(over, Iterable):
        raise DefinitionError(f"{over!r} is not a window.", remedy='For example over="30d".')
    several = [cast("Over", over)] if is_single(over) else list(cast("Iterable[Over]", over))
    if not several:
        raise DefinitionError(
            "`over` names no window.", remedy='Name one, over="30d", or leave it out for all time.'
        )
    if rows is not None and (type(rows) is not int or rows < 1):
        raise DefinitionError(
            f"rows={rows!r} keeps no rows.", remedy="Leave `rows` out for all rows."
        )
    shift = parse_duration(offset) if offset is not None else 0
    return tuple(_window(each, shift, rows or 0) for each in several)


def is_single(over: Over | Iterable[Over]) -> bool:
    """Whether `over=` is one window, so that the feature keeps the attribute's own name."""
    return over is None or isinstance(over, str | timedelta | ToDate)


def _window(over: Over, offset: int, rows: int) -> LabelledWindow:
    if over is None:
        return LabelledWindow("all", Window("all", offset=offset, rows=rows))
    if isinstance(over, ToDate):
        window = Window("to_date", offset=offset, unit=over.unit, zone=over.zone, rows=rows)
        return LabelledWindow(f"{over.unit}_to_date", window)
    length = parse_duration(over)
    label = "".join(over.split()) if isinstance(over, str) else format_duration(length)
    return LabelledWindow(label, Window("sliding", length=length, offset=offset, rows=rows))
