"""An audit of values whose events the log has let go: it does not call them different."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests.spec.watched import Person, Watch

import tidemark as tm
from tidemark.apps.cli import main

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


class Watching(tm.FeatureView, entity=Person, source=Watch):
    """What a person watches."""

    week = tm.count(over="7d")
    ever = tm.count(over=None)


@tm.on_demand(week=Watching.week, ever=Watching.ever)
def share(week: int, ever: int) -> float | None:
    """How much of all of it was this week."""
    return week / ever if ever else None


class Feed(tm.FeatureService):
    """Inputs of a model."""

    week = Watching.week
    share = share


def watch(days_ago: int) -> dict:
    at = NOW - days_ago * DAY + DAY / 2
    return {"watch_id": f"w{days_ago}", "user_id": "ada", "minutes": 5.0, "at": at}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Somebody watched every day for 40 days; all of it has been seen for long."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    (tmp_path / "tidemark.toml").write_text('name = "live"\nlog_retention = "20d"\n', "utf-8")
    with tm.connect(tmp_path) as opened:
        opened.apply(opened.plan([Watching, share, Feed]))
        opened.materialize()
        for days in range(40, 0, -1):
            append(opened, watch(days))
        opened.events.catch_up()
        yield opened


def append(store: tm.Store, row: dict) -> None:
    """Have the log hold an event as of when it happened."""
    table = pa.Table.from_pylist([row])
    table = table.set_column(3, "at", table["at"].cast(pa.timestamp("us", "UTC")))
    source = store.registry.snapshot().definitions.source("watch")
    store._project.log.append(source, table, seen=int(row["at"].timestamp() * 1_000_000))


def forget(store: tm.Store) -> None:
    source = store.registry.snapshot().definitions.source("watch")
    store._project.log.compact(source, keep_rows=0)
    assert store.events.retain() == 20


def serve(store: tm.Store, *days_ago: int) -> None:
    for days in days_ago:
        store.online("feed", {"user_id": "ada"}, at=NOW - days * DAY)
    store.log.flush()


def test_what_reaches_back_to_deleted_events_is_not_auditable_any_more(store):
    """It says how many values, since when they are gone, and from when on all is as before."""
    serve(store, 30, 25, 15, 10, 1)
    assert store.audit().compared == 15
    forget(store)
    found = store.audit()
    assert (found.differing, found.causes, found.incomplete) == (0, {}, True)
    told = {each.feature: each for each in found.forgotten}
    newest = (NOW - 20.5 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert told["watching:week@1"].until == newest
    assert told["watching:week@1"].since == (NOW - 13.5 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert told["watching:week@1"].values == 3  # 30, 25 and 15 days ago
    assert (told["watching:ever@1"].values, told["watching:ever@1"].since) == (5, "")
    assert (told["share@1"].values, told["share@1"].since) == (5, "")
    assert found.compared == 2
    assert "not auditable any more: 3 values of watching:week@1: retention deleted" in str(found)


def test_what_does_not_reach_back_is_compared_and_still_differs(store):
    """Whatever retention did: here an event that nobody has counted."""
    serve(store, 5)
    forget(store)
    append(store, watch(1) | {"watch_id": "more"})
    serve(store, 0)
    found = store.audit()
    assert {each.feature: each.causes for each in found.features if each.differing} == {
        "watching:week@1": {"lag": 1}
    }
    assert {each.feature: each.values for each in found.forgotten} == {
        "watching:ever@1": 2,
        "share@1": 2,
    }


def test_the_command_ends_with_15(store):
    """Nothing differs, and not all could be compared; with nothing forgotten it ends with 0."""
    serve(store, 25, 1)
    asked = ["audit", "--project", str(store.config.root), "--json"]
    assert CliRunner().invoke(main, asked).exit_code == 0
    forget(store)
    result = CliRunner().invoke(main, asked)
    facts = json.loads(result.output)
    assert (result.exit_code, facts["differing"], facts["incomplete"]) == (15, 0, True)
    assert [each["values"] for each in facts["forgotten"]] == [2, 2, 1]


def test_events_that_history_has_as_well_are_compared(store):
    """What retention deleted is forgotten only where nothing else knows it."""
    assert store.events.retain() == 0
    serve(store, 25, 1)
    assert (store.audit().compared, store.audit().incomplete) == (6, False)
