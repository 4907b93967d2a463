"""Local time: from naive timestamps to instants, and where local days, months and years begin.

A zone is a table of pieces of constant offset, made for the years that the data touches by asking
`zoneinfo` once a day and bisecting where two answers differ (no zone has ever changed twice within
four days). Whole columns are then looked up by binary search.

Instants are int64 microseconds since 1970 UTC. A value outside the years 1 to 9999 has no local
time and is returned as it is, so that the marker of a null passes through.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from tidemark.model.window import DAY, SECOND, Unit, check_zone

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Instants = NDArray[np.int64]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND  # years 1 to 9999
DAY_SECONDS = 86_400
MONTHS = {"month": 1, "quarter": 3, "year": 12}
FIRST_MONDAY = 4  # days after the epoch, a Thursday


def to_utc(local: Instants, zone: str) -> Instants:
    """The instants at which clocks in the zone show these naive times.

    A time that occurs twice, when clocks go back, is the earlier one; one that does not occur is
    moved forward by the gap. This is `zoneinfo` with `fold=0`. Raises `DefinitionError` where the
    zone is not known.
    """
    inside = (local >= FIRST) & (local < LAST)
    pieces = _calendar(zone).pieces_for(local[inside])
    result = local.copy()
    result[inside] -= pieces.offsets[pieces.of_local(local[inside])]
    return result


def period_start(t: Instants, unit: Unit, zone: str) -> Instants:
    """The instant at which the local day, week (from Monday), month, quarter or year of `t` began.

    It is the first instant of the local date, also where that date has no midnight. It never goes
    back as `t` grows: where clocks go back across midnight, the day that has begun goes on.
    Raises `DefinitionError` where the zone is not known.
    """
    inside = (t >= FIRST) & (t < LAST)
    starts = _calendar(zone).starts_for(t[inside], unit)
    result = t.copy()
    result[inside] = starts[np.searchsorted(starts, t[inside], side="right") - 1]
    return result


def period_start_one(t: int, unit: Unit, zone: str) -> int:
    """`period_start` of one instant; cheap while instants stay in the same period."""
    start, end = _latest.get((unit, zone), (0, 0))
    if start <= t < end:
        return start
    if not FIRST <= t < LAST:
        return t
    starts = _calendar(zone).starts_for(np.array([t]), unit)
    after = int(np.searchsorted(starts, t, side="right"))
    start, end = int(starts[after - 1]), int(starts[after])
    _latest[unit, zone] = start, end
    return start


_latest: dict[tuple[Unit, str], tuple[int, int]] = {}


class Pieces(NamedTuple):
    """A zone as pieces of constant offset, one after another."""

    begins: Instants
    """The instant at which each piece begins."""
    offsets: Instants
    """What local clocks are ahead of UTC during it, in microseconds."""
    local_begins: Instants
    """The first local time that belongs to it: the later one where two pieces overlap or gap."""

    @classmethod
    def joined(cls, begins: Iterable[int], offsets: Iterable[int]) -> Pieces:
        """Pieces in the order of time, with their local boundaries."""
        utc, ahead = np.array(list(begins), np.int64), np.array(list(offsets), np.int64)
        before = np.concatenate([ahead[:1], ahead[:-1]])
        return cls(utc, ahead, utc + np.maximum(before, ahead))

    def of_local(self, local: Instants) -> NDArray[np.intp]:
        """The number of the piece to which each local time belongs."""
        after = np.searchsorted(self.local_begins, local, side="right")
        piece: NDArray[np.intp] = np.maximum(after - 1, 0)
        return piece

    def first_instants(self, dates: NDArray[np.datetime64]) -> Instants:
        """The instant at which each local date begins; where it has no midnight, the gap's end."""
        midnights = dates.astype("datetime64[us]").astype(np.int64)
        piece = self.of_local(midnights)
        ends = np.append(self.begins[1:], np.iinfo(np.int64).max)
        first: Instants = np.minimum(midnights - self.offsets[piece], ends[piece])
        return first


class _Calendar:
    """One zone, known for the years that were asked for so far and two to either side.

    What is known is replaced whole, never changed, so threads need no lock: at worst two of them
    compute the same years.
    """

    def __init__(self, zone: str) -> None:
        self.zone = ZoneInfo(check_zone(zone))
        self.known: tuple[frozenset[int], Pieces] = (frozenset(), Pieces.joined([], []))
        self.starts: dict[Unit, tuple[frozenset[int], Instants]] = {}

    def pieces_for(self, t: Instants) -> Pieces:
        """Pieces that are right for all of these times, local or UTC."""
        return self._known_for(t)[1]

    def starts_for(self, t: Instants, unit: Unit) -> Instants:
        """The instants at which periods begin, in order, around all of these times."""
        years, pieces = self._known_for(t)
        made = self.starts.get(unit)
        if made is None or made[0] is not years:
            dates = np.concatenate([_first_dates(year, unit) for year in sorted(years)])
            made = self.starts[unit] = years, pieces.first_instants(dates)
        return made[1]

    def _known_for(self, t: Instants) -> tuple[frozenset[int], Pieces]:
        known = self.known
        needed = _years(t)
        if not needed <= known[0]:
            years = known[0] | needed
            pieces = [piece for year in sorted(years) for piece in self._year(year)]
            known = self.known = years, Pieces.joined(*zip(*pieces, strict=True))
        return known

    @cache  # noqa: B019 - calendars live as long as the process
    def _year(self, year: int) -> list[tuple[int, int]]:
        """The (begin, offset) of each piece of a year; the first begins with the year."""
        begin, end = (_day_number(y) * DAY_SECONDS for y in (year, year + 1))
        offset = self._offset(begin)
        pieces = [(begin * SECOND, offset)]
        for day in range(begin + DAY_SECONDS, end + 1, DAY_SECONDS):
            after = self._offset(day)
            if after == offset:
                continue
            low, high = day - DAY_SECONDS, day
            while high - low > 1:
                middle = (low + high) // 2
                if self._offset(middle) == offset:
                    low = middle
                else:
                    high = middle
            offset = after
            if high < end:
                pieces.append((high * SECOND, offset))
        return pieces

    def _offset(self, second: int) -> int:
        inside = min(max(second, FIRST // SECOND + DAY_SECONDS), LAST // SECOND - 2 * DAY_SECONDS)
        moment = (EPOCH + timedelta(seconds=inside)).astimezone(self.zone)
        return (moment.utcoffset() or timedelta()) // timedelta(microseconds=1)


_calendar = cache(_Calendar)


def _years(t: Instants) -> frozenset[int]:
    """The years of these times and two to either side, so that every neighbour is known."""
    if not len(t):
        t = np.zeros(1, np.int64)
    low, high = int(t.min()), int(t.max())
    if high - low < 200 * 366 * DAY:
        ends = np.array([low, high]).astype("datetime64[us]").astype("datetime64[Y]")
        first, last = (int(year) + 1970 for year in ends.astype(np.int64))
        return frozenset(range(first - 2, last + 3))
    days = np.unique(t // DAY).astype("datetime64[D]").astype("datetime64[Y]")
    touched = np.unique(days.astype(np.int64)) + 1970
    return frozenset(int(year) + step for year in touched for step in range(-2, 3))


def _first_dates(year: int, unit: Unit) -> NDArray[np.datetime64]:
    """The dates of a year on which a period begins."""
    if unit in MONTHS:
        months = np.arange(0, 12, MONTHS[unit]) + 12 * (year - 1970)
        return months.astype("datetime64[M]").astype("datetime64[D]")
    first, step = _day_number(year), 1
    if unit == "week":
        first, step = first + (FIRST_MONDAY - first) % 7, 7
    return np.arange(first, _day_number(year + 1), step).astype("datetime64[D]")


def _day_number(year: int) -> int:
    """Days from 1970 to the first of January."""
    before = year - 1
    return 365 * before + before // 4 - before // 100 + before // 400 - 719_162
