"""Local time is what `zoneinfo` says of every single value."""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tidemark.errors import DefinitionError
from tidemark.kernel.calendar import period_start, period_start_one, to_utc

MICROSECOND, HOUR, DAY = timedelta(microseconds=1), 3_600_000_000, 86_400_000_000
EPOCH = datetime(1970, 1, 1)
UNITS = ("day", "week", "month", "quarter", "year")
INT64 = np.iinfo(np.int64)

# Half-hour shifts, midnights that do not exist, a day that was skipped, a zone that never changed.
ZONES = (
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Pacific/Apia",
    "UTC",
)


def local(text):
    """Naive text as microseconds."""
    return (datetime.fromisoformat(text) - EPOCH) // MICROSECOND


def instant(text):
    """Text with an offset as microseconds UTC."""
    return (datetime.fromisoformat(text) - EPOCH.replace(tzinfo=UTC)) // MICROSECOND


def shown(micros, zone):
    """The local datetime at an instant."""
    return (EPOCH.replace(tzinfo=UTC) + micros * MICROSECOND).astimezone(ZoneInfo(zone))


def column(*values):
    return np.array(values, np.int64)


def naive_to_utc(micros, zone):
    """What `zoneinfo` says with fold=0."""
    moment = (EPOCH + micros * MICROSECOND).replace(tzinfo=ZoneInfo(zone))
    return (moment - EPOCH.replace(tzinfo=UTC)) // MICROSECOND


def first_date(day, unit):
    """The first date of the period of a date."""
    if unit == "week":
        return day - timedelta(days=day.weekday())
    month = {"day": day.month, "month": day.month, "quarter": (day.month - 1) // 3 * 3 + 1}
    return day.replace(month=month.get(unit, 1), day=day.day if unit == "day" else 1)


def begins(micros, day, zone):
    """Whether the local date is `day` or later from this instant on, and earlier just before."""
    return shown(micros - 1, zone).date() < day <= shown(micros, zone).date()


@cache
def changes(zone):
    """The instants at which the zone changes its offset, from 1880 to 2040, to the second."""
    tz, found = ZoneInfo(zone), []
    moment, end, step = datetime(1880, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC), 2**18
    while moment < end:
        width, here = step, moment.astimezone(tz).utcoffset()
        if (moment + timedelta(seconds=width)).astimezone(tz).utcoffset() != here:
            while width > 1:
                width //= 2
                if (moment + timedelta(seconds=width)).astimezone(tz).utcoffset() == here:
                    moment += timedelta(seconds=width)
            found.append((moment - EPOCH.replace(tzinfo=UTC)) // MICROSECOND + 1_000_000)
            width = 1
        moment += timedelta(seconds=width)
    return found or [0]


near = st.sampled_from(
    [0, 1, -1, HOUR // 2, HOUR, -HOUR // 2, -HOUR, DAY, -DAY, HOUR - 1, 1 - HOUR]
)


@st.composite
def moments_in_a_zone(draw):
    """A zone and times: anywhere, and close to where its offset changes, in UTC or local time."""
    zone = draw(st.sampled_from(ZONES))
    anywhere = st.integers(local("1850-01-01"), local("2090-01-01"))
    ahead = st.sampled_from([0, *range(-12 * HOUR, 15 * HOUR, HOUR // 2)])
    close = st.builds(
        lambda at, *steps: at + sum(steps), st.sampled_from(changes(zone)), near, near, ahead
    )
    midnight = st.builds(lambda at, step: at // DAY * DAY + step, anywhere, near)
    return zone, draw(st.lists(st.one_of(close, close, midnight, anywhere), max_size=60))


@given(moments_in_a_zone())
def test_local_times_become_the_instants_that_zoneinfo_gives(case):
    zone, times = case
    assert to_utc(column(*times), zone).tolist() == [naive_to_utc(t, zone) for t in times]


@pytest.mark.parametrize("unit", UNITS)
@given(case=moments_in_a_zone())
def test_a_period_starts_at_the_first_instant_of_its_first_local_date(unit, case):
    zone, times = case
    starts = period_start(column(*times), unit, zone).tolist()
    for t, start in zip(times, starts, strict=True):
        assert start <= t
        assert begins(start, first_date(shown(t, zone).date(), unit), zone)


@given(moments_in_a_zone(), st.sampled_from(UNITS))
def test_one_moment_is_answered_as_a_column_is(case, unit):
    zone, times = case
    starts = period_start(column(*times), unit, zone).tolist()
    assert [period_start_one(t, unit, zone) for t in times] == starts


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_every_year_is_found(zone):
    """To the microsecond, on both sides, in local time and in UTC."""
    offsets = range(-16 * HOUR, 16 * HOUR, HOUR // 2)
    times = [at + step for at in changes(zone) for step in (*offsets, -1, 1)]
    assert to_utc(column(*times), zone).tolist() == [naive_to_utc(t, zone) for t in times]


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        # clocks go forward at 02:00: 02:30 does not exist
        ("2024-03-10T01:59:59.999999", "America/New_York", "2024-03-10T06:59:59.999999+00:00"),
        ("2024-03-10T02:30:00", "America/New_York", "2024-03-10T07:30:00+00:00"),
        ("2024-03-10T03:00:00", "America/New_York", "2024-03-10T07:00:00+00:00"),
        # clocks go back at 02:00: 01:30 occurs twice
        ("2024-11-03T01:30:00", "America/New_York", "2024-11-03T05:30:00+00:00"),
        ("2024-11-03T02:00:00", "America/New_York", "2024-11-03T07:00:00+00:00"),
        # by half an hour
        ("2024-04-07T01:45:00", "Australia/Lord_Howe", "2024-04-06T14:45:00+00:00"),
        ("2024-10-06T02:15:00", "Australia/Lord_Howe", "2024-10-05T15:45:00+00:00"),
        # by 3 minutes 58 seconds, when railways brought standard time
        ("1883-11-18T12:00:00", "America/New_York", "1883-11-18T16:56:02+00:00"),
        ("1883-11-18T12:03:58", "America/New_York", "1883-11-18T17:03:58+00:00"),
        # by a whole day
        ("2011-12-30T12:00:00", "Pacific/Apia", "2011-12-30T22:00:00+00:00"),
        ("2011-12-31T00:00:00", "Pacific/Apia", "2011-12-30T10:00:00+00:00"),
    ],
)
def test_a_time_that_occurs_twice_is_the_earlier_and_one_that_does_not_moves_on(
    text, zone, expected
):
    assert to_utc(column(local(text)), zone).tolist() == [instant(expected)]


@pytest.mark.parametrize(
    ("text", "unit", "zone", "expected"),
    [
        ("2024-03-10T15:00:00-04:00", "day", "America/New_York", "2024-03-10T00:00:00-05:00"),
        ("2024-11-03T23:59:59-05:00", "day", "America/New_York", "2024-11-03T00:00:00-04:00"),
        ("2024-03-31T12:00:00+02:00", "week", "Europe/Berlin", "2024-03-25T00:00:00+01:00"),
        ("2024-04-01T00:00:00+02:00", "quarter", "Europe/Berlin", "2024-04-01T00:00:00+02:00"),
        ("2024-03-31T21:59:59.999999Z", "quarter", "Europe/Berlin", "2024-01-01T00:00:00+01:00"),
        ("2024-12-31T18:29:59.999999Z", "year", "Asia/Kolkata", "2024-01-01T00:00:00+05:30"),
        ("2024-12-31T18:30:00Z", "year", "Asia/Kolkata", "2025-01-01T00:00:00+05:30"),
        # midnight did not exist: the day began at 01:00
        ("2017-10-15T12:00:00-02:00", "day", "America/Sao_Paulo", "2017-10-15T01:00:00-02:00"),
        # the clock reached midnight and went back to 23:00: the day began an hour later
        ("2017-02-19T12:00:00-03:00", "day", "America/Sao_Paulo", "2017-02-19T00:00:00-03:00"),
        ("2017-02-18T23:30:00-03:00", "day", "America/Sao_Paulo", "2017-02-18T00:00:00-02:00"),
        # the clock jumped from 23:30 to 00:30
        ("1919-03-31T12:00:00-04:00", "day", "America/Toronto", "1919-03-31T00:30:00-04:00"),
        # the 30th of December was skipped
        ("2011-12-31T00:00:00+14:00", "day", "Pacific/Apia", "2011-12-31T00:00:00+14:00"),
        ("2011-12-29T23:59:59-10:00", "day", "Pacific/Apia", "2011-12-29T00:00:00-10:00"),
    ],
)
def test_a_day_begins_when_its_first_moment_does(text, unit, zone, expected):
    t = instant(text)
    assert period_start(column(t), unit, zone).tolist() == [instant(expected)]
    assert period_start_one(t, unit, zone) == instant(expected)


def test_a_day_that_has_begun_goes_on_when_clocks_go_back_across_midnight():
    """Clocks of St. John's went from 00:01 back to 23:01; starts never go back in time."""
    times = column(
        instant("2010-11-06T23:59:59-02:30"),
        instant("2010-11-07T00:00:00-02:30"),
        instant("2010-11-06T23:30:00-03:30"),
        instant("2010-11-07T12:00:00-03:30"),
    )
    yesterday, today = instant("2010-11-06T00:00:00-02:30"), instant("2010-11-07T00:00:00-02:30")
    starts = period_start(times, "day", "America/St_Johns").tolist()
    assert starts == [yesterday, today, today, today]


def test_years_far_apart_are_looked_up_together():
    """Such as a real time beside a placeholder for "never"."""
    times = [local("0001-01-02"), local("2024-07-01"), local("9999-12-30T23:59:59.999999")]
    zone = "Europe/Berlin"
    assert to_utc(column(*times), zone).tolist() == [naive_to_utc(t, zone) for t in times]
    years = column(local("0001-01-01"), local("2024-01-01"), local("9999-01-01"))
    starts = period_start(to_utc(column(*times), zone), "year", zone)
    assert starts.tolist() == to_utc(years, zone).tolist()


@pytest.mark.parametrize("sentinel", [INT64.min, INT64.max, -(2**62), 2**62])
def test_a_value_outside_the_calendar_is_returned_as_it_is(sentinel):
    """The marker of a null passes through, beside values that are converted."""
    noon = instant("2024-07-01T12:00:00+02:00")
    both = column(sentinel, noon)
    assert to_utc(both, "Europe/Berlin").tolist() == [sentinel, noon - 2 * HOUR]
    assert period_start(both, "day", "Europe/Berlin").tolist() == [sentinel, noon - 12 * HOUR]
    assert period_start_one(int(sentinel), "day", "Europe/Berlin") == sentinel


def test_a_column_without_values_stays_one():
    empty = column()
    assert to_utc(empty, "Europe/Berlin").tolist() == []
    assert period_start(empty, "month", "Europe/Berlin").tolist() == []


def test_the_columns_of_the_caller_are_not_changed():
    times = column(local("2024-07-01T12:00"))
    to_utc(times, "Europe/Berlin")
    period_start(times, "day", "Europe/Berlin")
    assert times.tolist() == [local("2024-07-01T12:00")]


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd"])
def test_a_zone_that_is_not_known_is_an_error_that_names_it(zone):
    with pytest.raises(DefinitionError, match="is not a time zone"):
        to_utc(column(0), zone)
    with pytest.raises(DefinitionError, match="is not a time zone"):
        period_start_one(0, "day", zone)
