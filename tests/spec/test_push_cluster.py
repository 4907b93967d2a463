"""Pushes to a Redis Cluster, where one step does not span all rows."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.ingest import alone

NOW = datetime.now(UTC)
USERS = range(12)
PUSHES = 15


class User(tm.Entity):
    user_id: tm.Key[int]


class Event(tm.Source, time="at"):
    user_id: tm.Col[int]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Counts(tm.FeatureView, entity=User, source=Event):
    events = tm.count()
    total = tm.sum(Event.amount)


class Largest(tm.FeatureView, entity=User, source=Event):
    largest = tm.max(Event.amount)


def test_stores_that_push_at_once_lose_nothing(
    cluster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows lie in many slots, each written in a step of its own: one store at a time counts."""
    monkeypatch.setattr(alone, "SECONDS", 300.0)  # however long the others take on this machine
    (tmp_path / "tidemark.toml").write_text(f'online = "{cluster_url}"\n')
    errors: list[Exception] = []

    def push(worker: int) -> None:
        try:
            with tm.connect(tmp_path) as mine:
                for number in range(PUSHES):
                    at = NOW - timedelta(minutes=number, microseconds=worker)
                    row = {"amount": float(100 * worker + number), "at": at}
                    mine.push("event", [{"user_id": user} | row for user in USERS])
        except Exception as error:  # the thread cannot fail the test
            errors.append(error)

    with tm.connect(tmp_path) as store:
        store.apply(store.plan([Counts, Largest]))
        store.materialize()
        threads = [threading.Thread(target=push, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        features = ["counts:events", "counts:total", "largest:largest"]
        vectors = store.online_many(features, {"user_id": list(USERS)})
        moments = pa.array([vectors.at] * len(USERS), pa.timestamp("us", "UTC"))
        labels = pa.table({"user_id": list(USERS), "t": moments})
        trained = store.training_set(features, labels).to_arrow()
        assert vectors.values("events") == [3 * PUSHES] * len(USERS)
        for name in ("events", "total", "largest"):
            assert vectors.values(name) == trained.column(name).to_pylist()
