"""How old what is served is, against what was promised."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.monitor.freshness import Freshness, SourceFreshness, ViewFreshness
from tidemark.online.states.pulse import Delays, Reading, quantile

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
FILE = """
from datetime import datetime
import tidemark as tm


class User(tm.Entity):
    user_id: tm.Key[str]


class Watch(tm.Source, time="at", stream=tm.ndjson("watches.ndjson")):
    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Prompt(tm.FeatureView, entity=User, source=Watch, freshness="5m"):
    watched = tm.count(over="30d")


class Careless(tm.FeatureView, entity=User, source=Watch):
    watched_7d = tm.count(over="7d")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tidemark.toml").write_text('definitions = "features.py"\n')
    (tmp_path / "features.py").write_text(FILE)
    (tmp_path / "watches.ndjson").write_bytes(b"")
    with tm.connect(tmp_path) as store:
        store.apply(store.plan())
    return tmp_path


def ago(hours: float) -> datetime:
    """The moment so long before now."""
    return datetime.now(UTC) - timedelta(hours=hours)


def of(store: Any, view: str) -> ViewFreshness:
    (found,) = (each for each in store.freshness().views if each.view == view)
    return found


def test_what_was_never_materialized_breaks_its_promise(folder: Path) -> None:
    """There is nothing that could be fresh."""
    with tm.connect(folder) as store:
        found = of(store, "prompt")
    assert (found.verdict, found.age) == ("broken", None)


def test_what_was_just_materialized_is_fresh(folder: Path) -> None:
    """And when its promise will break is told."""
    began = datetime.now(UTC)
    with tm.connect(folder) as store:
        store.materialize()
        found = of(store, "prompt")
    assert (found.verdict, found.promise) == ("kept", timedelta(minutes=5))
    assert found.age is not None
    assert found.age <= datetime.now(UTC) - began
    assert found.breaks_at is not None
    assert found.complete_until is not None
    assert found.breaks_at - found.complete_until == timedelta(minutes=5)


def test_an_old_materialization_breaks_the_promise(folder: Path) -> None:
    """That is the batch that died at night."""
    with tm.connect(folder) as store:
        until = ago(6)
        store.materialize(until=until)
        found = of(store, "prompt")
        assert found.verdict == "broken"
        assert found.age is not None
        assert timedelta(hours=6) <= found.age <= datetime.now(UTC) - until


def test_without_a_promise_there_is_an_age(folder: Path) -> None:
    """And no verdict."""
    with tm.connect(folder) as store:
        store.materialize(until=ago(6))
        found = of(store, "careless")
    assert (found.verdict, found.promise) == ("unknown", None)


def test_an_event_makes_fresh(folder: Path) -> None:
    """Whoever pushed it was alive then."""
    with tm.connect(folder) as store:
        store.materialize(until=ago(6))
        store.push("watch", {"user_id": "u1", "at": ago(0)})
        assert of(store, "prompt").verdict == "kept"


def test_a_stream_that_is_read_to_its_end_is_fresh_though_nothing_comes(folder: Path) -> None:
    """A quiet night is no failure, a dead reader is one."""
    with tm.connect(folder) as store:
        store.materialize(until=ago(6))
        store.streams.run(once=True)
        assert of(store, "prompt").verdict == "kept"


def test_delays_of_live_events_are_told(folder: Path) -> None:
    """From when they happened, and from when they were accepted, until reads counted them."""
    rows = [{"user_id": f"u{i}", "at": ago(2)} for i in range(100)]
    with tm.connect(folder) as store:
        store.materialize()
        store.push("watch", rows)
        (source,) = store.freshness().sources
    assert (source.source, source.events) == ("watch", 100)
    assert 7_200 <= source.event_to_online["p50"] < 2 * 7_300
    assert source.accepted_to_online["p99"] < 7_200


def test_delays_fall_into_buckets_of_factor_two() -> None:
    """The quantile is the upper end of its bucket."""
    micros = np.array([0, 1_000, 1_001, 2_000, 900_000], np.int64)
    delays = Delays().and_these(10**15, 10**15 - micros, 10**15 - micros)
    assert delays.event[:2] == (2, 2)
    assert delays.count == 5
    assert quantile(delays.event, 0.4) == 0.001
    assert quantile(delays.event, 0.8) == 0.002
    assert quantile(delays.event, 1.0) == 1.024
    assert quantile(Delays().event, 0.5) is None


def test_an_event_from_the_future_has_no_delay() -> None:
    """It is counted in the first bucket."""
    ahead = np.array([10], np.int64)
    assert Delays().and_these(0, ahead, ahead).event[0] == 1


def test_the_command_ends_with_13_where_a_promise_is_broken(folder: Path) -> None:
    """For schedulers; `--json` has everything."""
    arguments = ["freshness", "--project", str(folder)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 13
    assert "prompt" in result.output
    with tm.connect(folder) as store:
        store.materialize()
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0
    assert '"verdict": "kept"' in result.output
    assert '"promise_seconds": 300.0' in result.output


def test_training_from_what_was_pushed_alone(folder: Path) -> None:
    """A source without history begins empty."""
    with tm.connect(folder) as store:
        store.materialize()
        labels = pa.table({"user_id": ["u1"], "at": [ago(0)]})
        before = store.training_set("prompt:watched", labels).to_arrow()
        assert before.column("watched").to_pylist() == [0]


def test_a_stream_is_read_as_far_as_its_slowest_partition() -> None:
    """Several readers tell of their own; nothing is carried over to another stream."""
    behind = Reading().and_told("topic", 100, {"0": 0}).and_told("topic", 110, {"1": 5})
    assert behind.read is None
    assert {name: each.waiting for name, each in behind.partitions.items()} == {"0": 0, "1": 5}
    level = behind.and_told("topic", 120, {"1": 0})
    assert level.read == 100
    assert level.and_told("topic", 130, {"0": 3}).read == 100
    assert level.and_told("another", 140, {"0": 0}).read == 140


def test_delays_are_told_as_roughly_as_they_are_known() -> None:
    """They end in buckets of factor two: no figure pretends to more."""
    told = SourceFreshness("watch", 3, {"p50": 0.064, "p99": 524.288}, {"p50": 0.064, "p99": 1.024})
    assert str(told) == (
        "  watch: 3 live events; counted about 0.064 s after they happened (p99 8m), "
        "0.064 s after they were accepted (p99 1 s)"
    )


def test_a_view_that_promises_nothing_has_no_verdict_to_read() -> None:
    """`unknown` is for programs; people see that nothing was promised."""
    view = ViewFreshness(
        view="habits", source="watch", promise=None, age=timedelta(seconds=6), complete_until=NOON,
        waiting=0, verdict="unknown", breaks_at=None, next_run=None,
    )  # fmt: skip
    told = repr(Freshness(NOON, (view,), (), ()))
    assert told.splitlines()[1] == "  habits  -        6s old, nothing promised"
