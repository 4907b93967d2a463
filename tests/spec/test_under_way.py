"""Reads while events are being accepted: they are of the moment before, as training has it."""

from __future__ import annotations

import threading
from datetime import datetime

import pyarrow as pa
import pytest
from tests.spec.habits import YESTERDAY, Habits, Purchase

import tidemark as tm
from tidemark.online import underway
from tidemark.online.underway import UnderWay


@pytest.fixture
def store():
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Habits]))
        opened.materialize()
        opened.push(Purchase, {"order_id": "o1", "user_id": "ada", "at": YESTERDAY})
        yield opened


def trained(store: tm.Store, at: datetime) -> int:
    labels = pa.table({"user_id": ["ada"], "at": [at]})
    return store.training_set([Habits.purchases], labels).to_arrow()["purchases"].to_pylist()[0]


def test_a_read_meanwhile_is_what_training_has_for_its_moment(store, monkeypatch):
    """The event is durable and has been seen, but its moment is after that of the read."""
    put_many = store._online.put_many
    reached, go_on = threading.Event(), threading.Event()

    def wait_first(*args, **options):
        reached.set()
        assert go_on.wait(60)
        return put_many(*args, **options)

    monkeypatch.setattr(store._online, "put_many", wait_first)
    purchase = {"order_id": "o2", "user_id": "ada", "at": YESTERDAY}
    pushes = []
    pushing = threading.Thread(target=lambda: pushes.append(store.push(Purchase, purchase)))
    pushing.start()
    assert reached.wait(60)
    meanwhile = store.online([Habits.purchases], {"user_id": "ada"})
    go_on.set()
    pushing.join()
    after = store.online([Habits.purchases], {"user_id": "ada"})

    assert meanwhile["purchases"] == 1
    assert meanwhile.at < pushes[0].seen <= after.at
    assert after["purchases"] == 2
    assert trained(store, meanwhile.at) == 1
    assert trained(store, after.at) == 2


def test_what_is_known_ends_before_the_first_that_is_under_way(monkeypatch):
    """By the clock where nothing is; whatever ends leaves no trace, an error included."""
    clock = iter(range(100, 200))
    monkeypatch.setattr(underway, "now", lambda: next(clock))
    events = UnderWay()
    assert events.known_by() == 100
    with events.accepting():  # since 101
        with events.accepting():  # since 102
            assert events.known_by() == 100
        assert events.known_by() == 100
    with pytest.raises(ZeroDivisionError), events.accepting():
        _ = 1 // 0
    assert events.known_by() == 106
