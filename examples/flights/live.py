"""A week of flights, live: events are pushed as they come, while somebody asks; an audit closes it.

The week is one of July 2013 that ends at this very time of the week, moved to end now, so that
events have the ages that they would have.  What came before it is history.  Everything else goes
through `tidemark serve`: one client pushes departures, landings and weather in the order in which
they became known, another one asks about the flights of the hour, all the time.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from examples.flights.data import NEW_YORK
from examples.flights.serving import KEYS, REQUEST, SERVICE
from examples.printing import timed
from examples.processes import serving
from pyarrow import parquet

import tidemark as tm
from tidemark.client import Client

SUMMER = datetime(2013, 7, 18, tzinfo=UTC)
WEEK, REACH = timedelta(days=7), timedelta(days=30)
STEP = timedelta(hours=3)
"""How much of the week is pushed at once, source by source."""

AGAIN = 10
"""Of so many batches one is delivered twice, as by a client that missed the answer."""

LANDED = "carrier_punctuality:landed_30d"

PLANNED = "scheduled_departure + {by} as scheduled_departure"
SOURCES = {
    "arrival": (
        "arrivals",
        "arrived_at",
        (
            "* exclude (distance, dep_delay, air_time) replace ("
            f"arrived_at + {{by}} as arrived_at, {PLANNED})"
        ),
    ),
    "departure": (
        "departures",
        "departed_at",
        (
            "* exclude (tailnum, dest, distance) replace ("
            f"timezone('{NEW_YORK}', departed_at) + {{by}} as departed_at, {PLANNED})"
        ),
    ),
    "weather": (
        "weather",
        "observed_at",
        "* exclude (dewp, wind_dir, wind_gust) replace (observed_at + {by} as observed_at)",
    ),
}
"""For each source its file, its time, and its columns, moved by some days."""

ASKED = f"* replace (predict_at + {{by}} as predict_at, {PLANNED})"


class Week(NamedTuple):
    """The events of each source in the order in which they happened, and flights to ask about."""

    begins: datetime
    ends: datetime
    events: dict[str, pa.Table]
    flights: pa.Table


class Batch(NamedTuple):
    """Events of one source that became known in one step, which ends with `until`."""

    source: str
    until: datetime
    rows: pa.Table


class Streamed(NamedTuple):
    """What the two clients did; `pushing` and `reading` have the seconds of each call.

    `events` were taken; `again` of them were delivered a second time.
    """

    events: int
    again: int
    seconds: float
    pushing: list[float]
    reading: list[float]


def make(project: Path, like: Path, now: datetime, span: timedelta = WEEK) -> Week:
    """Write a project like another one, with the history before the week (or a part of it)."""
    history = like / "history"
    (project / "history").mkdir(parents=True)
    for name in ("features.py", "tidemark.toml"):
        shutil.copy(like / name, project)
    by, begins = (now - SUMMER) // WEEK * WEEK, now - span
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        events: dict[str, pa.Table] = {}
        for source, (file, time_, columns) in SOURCES.items():
            table = _moved(con, history / f"{file}.parquet", columns, by, time_)
            before = table.filter(_between(table[time_], begins - REACH, begins))
            parquet.write_table(before, project / "history" / f"{file}.parquet")
            events[source] = table.filter(_between(table[time_], begins, now))
        flights = _moved(con, history / "labels.parquet", ASKED, by, "predict_at")
    shutil.copy(history / "planes.parquet", project / "history")
    return Week(begins, now, events, flights.filter(_between(flights["predict_at"], begins, now)))


def _moved(
    con: duckdb.DuckDBPyConnection, file: Path, columns: str, by: timedelta, order: str
) -> pa.Table:
    moved = columns.format(by=f"interval {by.days} days")
    return con.sql(f"select {moved} from '{file}' order by {order}").to_arrow_table()


def _between(moments: pa.ChunkedArray, after: datetime, until: datetime) -> pa.ChunkedArray:
    return pc.and_(pc.greater(moments, after), pc.less_equal(moments, until))


def batches(week: Week) -> Iterator[Batch]:
    """The week, step by step, source by source."""
    until = week.begins
    while until < week.ends:
        until += STEP
        for source, (_, time_, _) in SOURCES.items():
            table = week.events[source]
            rows = table.filter(_between(table[time_], until - STEP, until))
            if rows.num_rows:
                yield Batch(source, until, rows)


def stream(project: Path, week: Week) -> Streamed:
    """Push the week, and ask while it is pushed."""
    with serving(project) as address, Client(address, timeout=60) as client:
        asking, began = Asking(address, week), time.perf_counter()
        pushing, events, again = list[float](), 0, 0
        asking.start()
        try:
            for number, batch in enumerate(batches(week)):
                asking.until = batch.until
                pushed, seconds = timed(partial(client.push, batch.source, batch.rows))
                pushing.append(seconds)
                events += pushed.accepted
                # Weather has no `unique`: the same observation twice is two.
                if number % AGAIN == 0 and batch.source != "weather":
                    again += client.push(batch.source, batch.rows).duplicates
        finally:
            asking.stop()
        return Streamed(events, again, time.perf_counter() - began, pushing, asking.seconds)


def landed(store: tm.Store, project: Path, week: Week) -> tuple[int, int]:
    """The landings of 30 days that all airlines count online, and those that there are."""
    at = datetime.now(UTC)
    before = parquet.read_table(project / "history" / "arrivals.parquet")
    there = [before["arrived_at"], week.events["arrival"]["arrived_at"]]
    carriers = pa.concat_tables([before, week.events["arrival"]], promote_options="permissive")
    keys = [{"carrier": each} for each in carriers["carrier"].unique().to_pylist()]
    counted = store.online_many([LANDED], keys, at=at).to_arrow()["landed_30d"]
    rows = sum(pc.sum(_between(each, at - REACH, at)).as_py() for each in there)
    return pc.sum(counted).as_py(), rows


class Asking(threading.Thread):
    """Asks about the flights of the present step, one after another, until it is stopped.

    On a busy machine the stream may be over before the first answer; something is asked always.
    """

    def __init__(self, address: str, week: Week) -> None:
        super().__init__()
        self.until = week.begins + STEP
        self.seconds: list[float] = []
        self._client = Client(address, timeout=60)
        self._week = week
        self._stopping = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Ask until told to stop."""
        try:
            with self._client:
                while not self._stopping.is_set():
                    self._ask()
                if not self.seconds:
                    self._ask()
        except Exception as error:  # noqa: BLE001 - `stop` raises it
            self._error = error

    def _ask(self) -> None:
        until, flights = self.until, self._week.flights
        asked = flights.filter(_between(flights["predict_at"], until - STEP, until)).to_pylist()
        if not asked and self._stopping.is_set():
            asked = flights.to_pylist()
        if not asked:
            self._stopping.wait(0.01)
        for row in asked:
            if self.seconds and (self._stopping.is_set() or self.until != until):
                return
            keys = {name: row[name] for name in KEYS}
            request = {name: row[name] for name in REQUEST}
            ask = partial(self._client.online, SERVICE, keys, request=request)
            self.seconds.append(timed(ask)[1])

    def stop(self) -> None:
        """End, and raise what went wrong."""
        self._stopping.set()
        self.join()
        if self._error is not None:
            raise self._error
