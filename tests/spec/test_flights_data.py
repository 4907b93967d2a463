"""The demo's data: what was known about the 2013 New York flights, and when."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from examples.flights import data


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return data.build(tmp_path_factory.mktemp("flights"))


def the_flight(path: Path, carrier: str, flight: int, scheduled: datetime) -> dict[str, Any]:
    table = pq.read_table(path)
    same = pc.and_(
        pc.equal(table["scheduled_departure"], scheduled),
        pc.and_(pc.equal(table["carrier"], carrier), pc.equal(table["flight"], flight)),
    )
    (row,) = table.filter(same).to_pylist()
    return row


def test_every_flight_is_where_its_outcome_puts_it(files: dict[str, Path]) -> None:
    """8,255 of 336,776 never left, 1,175 more have no arrival delay."""
    rows = {name: pq.read_metadata(path).num_rows for name, path in files.items()}
    assert rows == {
        "departures": 336_776 - 8_255,
        "arrivals": 336_776 - 8_255 - 1_175,
        "labels": 336_776 - 8_255 - 1_175,
        "weather": 26_115,
        "planes": 3_322,
        "airports": 1_458,
        "airlines": 16,
    }


def test_an_arrival_is_a_moment_though_it_is_noted_by_the_clock_of_the_destination(
    files: dict[str, Path],
) -> None:
    """UA 1545 left Newark at 5:17 in the east and landed in Houston at 8:30 Central time."""
    scheduled = datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    arrival = the_flight(files["arrivals"], "UA", 1545, scheduled)
    assert arrival == {
        "carrier": "UA",
        "flight": 1545,
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "distance": 1400,
        "scheduled_departure": scheduled,
        "dep_delay": 2,
        "arr_delay": 11,
        "air_time": 227,
        "arrived_at": datetime(2013, 1, 1, 14, 30, tzinfo=UTC),
    }


def test_a_departure_carries_the_clock_of_new_york_and_no_zone(files: dict[str, Path]) -> None:
    scheduled = datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    departure = the_flight(files["departures"], "UA", 1545, scheduled)
    assert departure["departed_at"] == datetime(2013, 1, 1, 5, 17)


def test_a_landing_in_the_hour_that_the_clocks_left_out_comes_after_it(
    files: dict[str, Path],
) -> None:
    """B6 35 was noted in Palm Beach at 2:03 on 10 March 2013; clocks showed 3:03, UTC was 7:03."""
    arrival = the_flight(files["arrivals"], "B6", 35, datetime(2013, 3, 10, 2, 45, tzinfo=UTC))
    assert arrival["arrived_at"] == datetime(2013, 3, 10, 7, 3, tzinfo=UTC)


def test_a_night_flight_lands_across_the_end_of_summer_time(files: dict[str, Path]) -> None:
    """VX 413 left five hours late on 2 November 2013 and landed in Los Angeles at 1:14."""
    arrival = the_flight(files["arrivals"], "VX", 413, datetime(2013, 11, 2, 20, 55, tzinfo=UTC))
    assert arrival["arrived_at"] == datetime(2013, 11, 3, 8, 14, tzinfo=UTC)


def test_nobody_lands_before_leaving(files: dict[str, Path]) -> None:
    """Taxiing takes between 5 minutes and 4 hours, on every single flight."""
    arrivals = pq.read_table(files["arrivals"])
    late_out = pc.cast(pc.multiply(arrivals["dep_delay"], 60_000_000), "duration[us]")
    departed = pc.add(arrivals["scheduled_departure"], late_out)
    minutes = pc.divide(pc.cast(pc.subtract(arrivals["arrived_at"], departed), "int64"), 60_000_000)
    assert pc.min_max(pc.subtract(minutes, arrivals["air_time"])).as_py() == {"min": 5, "max": 235}


def test_a_label_is_asked_for_two_hours_ahead_and_says_whether_more_than_15_minutes_were_lost(
    files: dict[str, Path],
) -> None:
    label = the_flight(files["labels"], "UA", 1545, datetime(2013, 1, 1, 10, 15, tzinfo=UTC))
    assert label["predict_at"] == datetime(2013, 1, 1, 8, 15, tzinfo=UTC)
    assert label["hour"] == 5
    assert label["late"] is False
    assert pc.sum(pq.read_table(files["labels"])["late"]).as_py() == 77_630


def test_what_the_package_does_not_know_is_null(files: dict[str, Path]) -> None:
    """Integers with nulls stay integers."""
    planes = pq.read_table(files["planes"])
    assert (str(planes["built"].type), planes["built"].null_count) == ("int64", 70)
    weather = pq.read_table(files["weather"])
    assert (str(weather["wind_dir"].type), weather["wind_dir"].null_count) == ("int64", 460)


def test_building_again_leaves_the_files_alone(files: dict[str, Path], tmp_path: Path) -> None:
    """A second folder gets the same bytes."""
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}
    again = data.build(next(iter(files.values())).parent)
    assert {name: path.stat().st_mtime_ns for name, path in again.items()} == before
    other = data.build(tmp_path / "other")
    assert all(other[name].read_bytes() == path.read_bytes() for name, path in files.items())
