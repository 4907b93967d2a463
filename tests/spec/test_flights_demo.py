"""The demo, on few of its flights: it may claim only what holds."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from examples import printing
from examples.flights import demo, judgement, live, serving
from rich.console import Console

import tidemark as tm

LABELS = 12_000
PAIRS = 300
# Whenever the test runs: no flight leaves New York in the small hours.
HALF_A_DAY = timedelta(hours=12)


class World(NamedTuple):
    store: tm.Store
    labels: pa.Table
    arrivals: pa.Table
    training: Any


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The demo's project in another folder, with a training set of some of its labels."""
    project = tmp_path_factory.mktemp("flights")
    for name in ("features.py", "tidemark.toml"):
        shutil.copy(demo.PROJECT / name, project)
    paths = demo.prepare(project)
    labels = serving.sample(pq.read_table(paths["labels"]), LABELS)
    with tm.connect(project) as store:
        demo.define(store)
        training = demo.train(store, labels)
        demo.materialize(store)
        yield World(store, labels, pq.read_table(paths["arrivals"]), training)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(printing, "console", Console(file=text, width=200, highlight=False))
    return text


def test_every_label_keeps_its_place_in_the_training_set(world: World) -> None:
    table = world.training.to_arrow()
    assert table.select(world.labels.column_names).equals(world.labels)


def test_only_landings_before_the_prediction_count(world: World) -> None:
    """The aircraft's flights of the last day, counted by hand; the flight itself is never one."""
    for row in serving.sample(world.training.to_arrow(), 50).to_pylist():
        mine = world.arrivals.filter(pc.equal(world.arrivals["tailnum"], row["tailnum"]))
        ages = [row["predict_at"] - landed for landed in mine["arrived_at"].to_pylist()]
        within = [age for age in ages if timedelta(0) <= age < timedelta(days=1)]
        assert row["aircraft_flights_1d"] == len(within)


def test_the_naive_join_promises_more_than_it_delivers(world: World) -> None:
    """And what it delivers is less than what features as they stood give."""
    table, features = world.training.to_arrow(), world.training.features
    scores = judgement.judge(table, features, world.arrivals)
    assert scores.promised > scores.honest > scores.delivered


def test_the_naive_table_counts_the_flight_itself(world: World) -> None:
    """On a date with one flight to a place, the day's figure is that flight's own delay."""
    table = judgement.naive_join(world.training.to_arrow(), world.arrivals)
    assert table.num_rows == LABELS
    only = [row for row in table.to_pylist() if row["dest_late_1d"] in {0.0, 1.0}]
    assert only
    assert all(row["late"] == bool(row["dest_late_1d"]) for row in only)


def test_served_vectors_are_the_training_rows(world: World, printed: io.StringIO) -> None:
    assert demo.serve(world.store, world.training, PAIRS, batches=1)
    assert f"{PAIRS * len(world.training.features):,} values" in printed.getvalue()


def test_flights_asked_about_together_share_airlines_and_airports(world: World) -> None:
    """One call for many flights says of each what a call of its own says."""
    rows = serving.sample(world.training.to_arrow(), 40).to_pylist()
    moment = max(row["predict_at"] for row in rows)
    rows = [{**row, "predict_at": moment} for row in rows]
    together = world.store.online_many(
        serving.SERVICE,
        [{name: row[name] for name in serving.KEYS} for row in rows],
        request=[{name: row[name] for name in serving.REQUEST} for row in rows],
        at=moment,
    )
    assert together.to_dicts() == [dict(serving.ask(world.store, row)) for row in rows]


@pytest.fixture
def like(world: World) -> Path:
    """The project that the live one is made like."""
    return world.store.config.root


def test_what_is_served_while_events_are_pushed_is_what_is_trained_on(
    like: Path, tmp_path: Path, printed: io.StringIO
) -> None:
    """Twelve hours of landings, departures and weather through HTTP; the audit closes it."""
    assert demo.live(like, tmp_path / "live", HALF_A_DAY)
    told = printed.getvalue()
    assert re.search(r"differ +0 ", told)
    assert re.search(r"[1-9]\d* events were delivered twice", told)


def test_what_is_no_longer_so_is_found_by_the_audit(
    like: Path, tmp_path: Path, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History is rewritten after it was served from: the demo says what differs, and fails."""
    stream, arrivals = live.stream, tmp_path / "live" / "history" / "arrivals.parquet"

    def stream_and_rewrite(project: Path, week: live.Week) -> live.Streamed:
        done = stream(project, week)
        table = pq.read_table(arrivals)
        column = table.column_names.index("arr_delay")
        later = pc.add(table["arr_delay"], 1)
        pq.write_table(table.set_column(column, "arr_delay", later), arrivals)
        return done

    monkeypatch.setattr(live, "stream", stream_and_rewrite)
    assert not demo.live(like, tmp_path / "live", HALF_A_DAY)
    assert "restated history" in printed.getvalue()


def test_a_landing_that_is_not_counted_is_found(
    like: Path, tmp_path: Path, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit is of what was served; that nothing was lost is looked at besides."""
    counted = live.landed
    monkeypatch.setattr(live, "landed", lambda *about: (counted(*about)[0] - 1, counted(*about)[1]))
    assert not demo.live(like, tmp_path / "live", HALF_A_DAY)


def test_the_week_is_pushed_in_the_order_in_which_it_happened(like: Path, tmp_path: Path) -> None:
    """All of it, once; what came before is history, and nothing is of the future."""
    now = datetime.now(UTC)
    week = live.make(tmp_path / "live", like, now)
    batches = list(live.batches(week))
    assert [each.until for each in batches] == sorted(each.until for each in batches)
    for source, (file, time, _) in live.SOURCES.items():
        pushed = pa.concat_tables([each.rows for each in batches if each.source == source])
        assert pushed.equals(week.events[source])
        moments = pushed[time].to_pylist()
        assert moments == sorted(moments)
        assert now - timedelta(days=7) < moments[0] <= moments[-1] <= now
        before = pq.read_table(tmp_path / "live" / "history" / f"{file}.parquet")
        assert max(before[time].to_pylist()) <= now - timedelta(days=7)


def test_one_value_that_differs_is_found(world: World, printed: io.StringIO) -> None:
    """The demo says which, and fails."""
    name = "carrier_landed_1d"
    table = world.training.to_arrow()
    column = table.column_names.index(name)
    wrong = table.set_column(column, name, pc.add(table[name], 1))
    assert not demo.serve(world.store, replace(world.training, table=wrong), 2, batches=1)
    assert f"{name} trained" in printed.getvalue()


@pytest.mark.parametrize(
    ("trained", "served", "one"),
    [
        (1.5, 1.5, True),
        (float("nan"), float("nan"), True),
        (None, None, True),
        (1, 1.0, False),
        (0, None, False),
        (0.1 + 0.2, 0.3, False),
    ],
)
def test_same_means_equal_and_of_one_type(trained: Any, served: Any, one: bool) -> None:
    assert serving.same(trained, served) is one
