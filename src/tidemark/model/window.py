"""Durations, moments and windows: which events a feature covers at the moment asked for.

All times are UTC in integer microseconds; a day is 24 hours except in calendar windows.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Literal, cast
from zoneinfo import ZoneInfo

import msgspec

from tidemark.errors import DefinitionError, RequestInvalid

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

_UNITS = {"w": WEEK, "d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": 1_000, "us": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Unit = Literal["day", "week", "month", "quarter", "year"]
Bound = Literal["at", "before"]


class Window(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Which visible events count at a moment t, with u = t - offset.

    `sliding`  times in (u - length, u]; [u - length, u) under `bound="before"`
    `all`      every time up to u
    `to_date`  times from the start of the local calendar unit that holds u, up to u

    `rows` keeps only the newest n of those events that pass the feature's filter (0: all of them).
    """

    kind: Literal["sliding", "all", "to_date"] = "all"
    length: int = 0
    offset: int = 0
    unit: Unit | None = None
    zone: str = ""
    rows: int = 0

    @property
    def reach(self) -> int | None:
        """How far before the moment asked for the window can look; None: without limit."""
        # A day more than the calendar says: a zone that moves across the date line repeats one.
        longest = {"day": 2 * DAY + HOUR, "week": 9 * DAY, "month": 33 * DAY}
        longest |= {"quarter": 94 * DAY, "year": 368 * DAY}
        if self.kind == "all":
            return None
        if self.unit is not None:
            return longest[self.unit] + self.offset
        return self.length + self.offset


def parse_duration(value: str | timedelta) -> int:
    """Microseconds of a positive duration such as `"90s"`, `"15m"`, `"12h"`, `"30d"`, `"2w"`."""
    if isinstance(value, timedelta):
        micros = value // timedelta(microseconds=1)
    else:
        found = re.fullmatch(r"\s*(-?\d+)\s*(w|d|h|m|s|ms|us)\s*", str(value))
        if not found:
            raise DefinitionError(
                f"{value!r} is not a duration.",
                remedy='A duration is a whole number and a unit: "90s", "15m", "12h", "30d", "2w".',
            )
        micros = int(found[1]) * _UNITS[found[2]]
    if micros <= 0:
        raise DefinitionError(
            f"{value!r} is not a duration: it must be longer than nothing.",
            remedy='For example "30d"; leave `over` out for all time.',
        )
    if micros > 1_000 * 366 * DAY:
        raise DefinitionError(
            f"{value!r} is longer than a thousand years.", remedy="Leave `over` out for all time."
        )
    return micros


def format_duration(micros: int) -> str:
    """The shortest text that `parse_duration` reads back, in days rather than weeks."""
    for unit in ("d", "h", "m", "s", "ms"):
        if micros % _UNITS[unit] == 0:
            return f"{micros // _UNITS[unit]}{unit}"
    return f"{micros}us"


def rough_duration(micros: int) -> str:
    """A duration to be read by people, cut to the largest unit of which there are two or more."""
    units = (DAY, HOUR, MINUTE, SECOND)
    unit = next((each for each in units if micros >= 2 * each), SECOND)
    return format_duration(max(micros // unit, 1) * unit)


def plain_age(age: timedelta) -> str:
    """An age to be read by people: of a second and more, in whole seconds."""
    whole = timedelta(days=age.days, seconds=age.seconds)
    return str(whole if abs(whole) >= timedelta(seconds=1) else age)


def parse_moment(value: str | datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime or ISO text with a zone."""
    if not isinstance(cast("object", value), str | datetime):
        raise RequestInvalid(
            f"{value!r} is not a moment.",
            remedy="Moments are aware datetimes or ISO text with a zone.",
        )
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise RequestInvalid(
                f"{value!r} is not a moment.",
                remedy='Moments are ISO text with a zone, such as "2026-11-20T12:00:00Z".',
            ) from None
    else:
        moment = value
    if moment.tzinfo is None:
        raise RequestInvalid(
            f"The moment {value!s} has no time zone.",
            remedy='Add one: "2026-11-20T12:00:00Z", or datetime(..., tzinfo=UTC).',
        )
    try:
        return since_epoch(moment)
    except OverflowError:
        raise RequestInvalid(
            f"The moment {value!s} is outside the years 1 to 9999 in UTC."
        ) from None


def format_moment(moment: int) -> str:
    """ISO text in UTC of microseconds since 1970."""
    try:
        return moment_text(instant(moment))
    except OverflowError:
        return f"{moment} us since 1970"


def moment_text(moment: datetime) -> str:
    """A moment in UTC, to the microsecond where it has any: `2026-03-01T12:00:00Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def clock() -> int:
    """The moment by the clock of this machine, in microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


def instant(moment: int) -> datetime:
    """The datetime in UTC of microseconds since 1970; raises `OverflowError` past its years."""
    return _EPOCH + _MICROSECOND * moment


def since_epoch(moment: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime; raises `OverflowError` past its years."""
    return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND


def check_zone(name: str) -> str:
    """Return the name if the time zone database knows it; raises `DefinitionError` otherwise."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise DefinitionError(
            f"{name!r} is not a time zone.",
            remedy='Zones are IANA names such as "UTC" or "America/New_York".',
        ) from None
    return name
