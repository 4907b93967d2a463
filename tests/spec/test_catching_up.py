"""The online state follows the event log, whoever died or is faster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.store.pushing import Pushing

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, time="at", unique=("order_id",)):
    """Card purchases."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Habits(tm.FeatureView, entity=User, source=Purchase):
    """How much a user buys."""

    purchases = tm.count(over="30d")


def purchase(order_id: str) -> dict[str, object]:
    return {"order_id": order_id, "user_id": "ada", "at": YESTERDAY}


def counted(store: tm.Store) -> int:
    return store.online([Habits.purchases], {"user_id": "ada"})["purchases"]


@pytest.fixture
def store():
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Habits]))
        opened.materialize()
        yield opened


def append(store: tm.Store, order_id: str) -> None:
    """Leave an event in the log that nobody counts, as a process that is killed there does."""
    row = purchase(order_id)
    moment = pa.array([row["at"]], pa.timestamp("us", "UTC"))
    table = pa.table({"order_id": [order_id], "user_id": [row["user_id"]], "at": moment})
    source = store.readers.snapshot().definitions.source("purchase")
    store._project.log.append(source, table, seen=0)


def test_who_catches_up_does_not_run_after_those_who_go_on_appending(store, monkeypatch):
    """Another process is always faster: what was in the log at first counts, and that is all."""
    put_many, faster = store._online.put_many, Pushing(store._project, store._online, store.readers)
    overtaken = 0

    def late(*args, **options):
        nonlocal overtaken
        overtaken += 1
        with monkeypatch.context() as patch:
            patch.setattr(store._online, "put_many", put_many)
            append(store, f"faster-{overtaken}")
            faster.catch_up()
        return put_many(*args, **options)

    append(store, "o1")
    monkeypatch.setattr(store._online, "put_many", late)
    assert store.events.catch_up()["purchase"].position == 1
    assert overtaken == 1
    assert counted(store) == 2
    faster.close()
