"""`features_at`: features of a few rows, without files, stores or projects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import NotFound, RequestInvalid
from tidemark.testing import features_at

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Station(tm.Entity):
    """A weather station."""

    station: tm.Key[str]


class Reading(
    tm.Source, time="at", seen="seen", unique=("reading_id",), timezone="America/New_York"
):
    """What a station measured."""

    reading_id: tm.Col[int]
    station: tm.Col[str]
    degrees: tm.Col[float | None]
    at: tm.Col[datetime]
    seen: tm.Col[datetime]


class Weather(tm.FeatureView, entity=Station, source=Reading):
    """What it was like."""

    readings = tm.count(over="1h")
    warmest = tm.max(Reading.degrees, over="1h")


def reading(
    number: int, at: datetime, degrees: float | None = 1.0, **more: object
) -> dict[str, object]:
    return {
        "reading_id": number,
        "station": "LGA",
        "degrees": degrees,
        "at": at,
        "seen": at,
        **more,
    }


def test_rows_in_values_out() -> None:
    """Names are those of the features."""
    rows = [reading(1, NOON), reading(2, NOON - timedelta(hours=1))]
    assert features_at(Weather, rows, {"station": "LGA"}, at=NOON) == {
        "readings": 1,
        "warmest": 1.0,
    }


def test_the_moment_may_be_text() -> None:
    """ISO text with a zone."""
    values = features_at(Weather, [reading(1, NOON)], {"station": "LGA"}, at="2026-03-02T12:00:00Z")
    assert values["readings"] == 1


def test_no_rows() -> None:
    """The values of nothing."""
    assert features_at(Weather, [], {"station": "LGA"}, at=NOON) == {"readings": 0, "warmest": None}


def test_a_column_left_out_is_null() -> None:
    """Rows say only what matters to the test."""
    row = reading(1, NOON)
    del row["degrees"]
    assert features_at(Weather, [row], {"station": "LGA"}, at=NOON) == {
        "readings": 1,
        "warmest": None,
    }


def test_naive_times_are_in_the_zone_of_the_source() -> None:
    """As in its files: noon in UTC is seven in New York."""
    seven = datetime(2026, 3, 2, 7)
    values = features_at(Weather, [reading(1, seven)], {"station": "LGA"}, at=NOON)
    assert values["readings"] == 1


def test_aware_times_of_any_zone() -> None:
    """An instant is an instant."""
    rows = [reading(1, datetime.fromisoformat("2026-03-02T13:00:00+01:00"))]
    assert features_at(Weather, rows, {"station": "LGA"}, at=NOON)["readings"] == 1


def test_hindsight() -> None:
    """What became known later counts if the test says so."""
    rows = [reading(1, NOON, seen=NOON + timedelta(hours=3))]
    assert features_at(Weather, rows, {"station": "LGA"}, at=NOON)["readings"] == 0
    assert features_at(Weather, rows, {"station": "LGA"}, at=NOON, hindsight=True)["readings"] == 1


def test_a_misspelled_column() -> None:
    """Not silently null."""
    with pytest.raises(NotFound, match="Did you mean 'degrees'"):
        features_at(Weather, [{"degree": 1.0}], {"station": "LGA"}, at=NOON)


def test_a_misspelled_key() -> None:
    """The entity's own name is suggested."""
    with pytest.raises(NotFound, match="Did you mean 'station'"):
        features_at(Weather, [], {"stations": "LGA"}, at=NOON)


def test_a_value_of_another_type() -> None:
    """Said with the declared type."""
    with pytest.raises(RequestInvalid, match="degrees is float64"):
        features_at(Weather, [reading(1, NOON, degrees="warm")], {"station": "LGA"}, at=NOON)


def test_naive_and_aware_times_in_one_column() -> None:
    """No file could hold that."""
    rows = [reading(1, NOON), reading(2, datetime(2026, 3, 2, 7))]
    with pytest.raises(RequestInvalid, match="some have none"):
        features_at(Weather, rows, {"station": "LGA"}, at=NOON)


def test_moments_are_in_utc() -> None:
    """As serving gives them: `datetime.UTC`, whatever the zone of the rows."""

    class Newest(tm.FeatureView, entity=Station, source=Reading):
        """When it was measured last."""

        last_at = tm.last(Reading.at)
        moments = tm.last_n(Reading.at, n=1)

    found = features_at(Newest, [reading(1, NOON)], {"station": "LGA"}, at=NOON)
    assert found == {"last_at": NOON, "moments": [NOON]}
    assert (found["last_at"].tzinfo, found["moments"][0].tzinfo) == (UTC, UTC)


def test_rows_may_be_a_frame() -> None:
    """As everywhere; columns that it lacks are null."""
    frame = pa.table({"reading_id": [1], "station": ["LGA"], "at": [NOON], "seen": [NOON]})
    found = features_at(Weather, frame, {"station": "LGA"}, at=NOON)
    assert found == {"readings": 1, "warmest": None}


def test_one_feature_is_asked_for_alone() -> None:
    """And none of the others of its view."""
    rows = [reading(1, NOON, 3.5)]
    assert features_at(Weather.warmest, rows, {"station": "LGA"}, at=NOON) == {"warmest": 3.5}


def test_a_service_is_no_view() -> None:
    """Its request and its functions are not rows of a source."""

    class Today(tm.FeatureService):
        """What is served."""

        warmest = Weather.warmest

    with pytest.raises(RequestInvalid, match="is not one feature view"):
        features_at(Today, [], {"station": "LGA"}, at=NOON)


class Spread(tm.FeatureView, entity=Station, source=Reading):
    """How much it varied."""

    variance = tm.variance(Reading.degrees)
    stddev = tm.stddev(Reading.degrees, default=0.0)


@pytest.mark.parametrize(
    ("degrees", "variance", "stddev"), [(1.0, None, 0.0), (float("nan"),) * 3, (None, None, 0.0)]
)
def test_a_sample_of_one_value(
    degrees: float | None, variance: float | None, stddev: float
) -> None:
    """One number is too few for a variance; NaN is not hidden, however few there are."""
    found = features_at(Spread, [reading(1, NOON, degrees)], {"station": "LGA"}, at=NOON)
    assert repr(found) == repr({"variance": variance, "stddev": stddev})
