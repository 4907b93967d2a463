"""The online state follows the event log, whoever died or is faster."""

from __future__ import annotations

import pyarrow as pa
import pytest
from tests.spec.habits import YESTERDAY, Habits, Purchase

import tidemark as tm
from tidemark.errors import EngineError, StoreUnavailable
from tidemark.store.pushing import Pushing


def purchase(order_id: str) -> dict[str, object]:
    return {"order_id": order_id, "user_id": "ada", "at": YESTERDAY}


def counted(store: tm.Store) -> int:
    return store.online([Habits.purchases], {"user_id": "ada"})["purchases"]


@pytest.fixture
def store(tmp_path):
    (tmp_path / "tidemark.toml").write_text('name = "shop"', "utf-8")
    with tm.connect(tmp_path) as opened:
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


def test_the_first_read_of_a_process_counts_what_was_left(store):
    """Nobody pushes again, and nobody calls anything."""
    append(store, "o1")
    append(store, "o2")
    with tm.connect(store.config.root) as other:
        assert counted(other) == 2
    assert store.events.catch_up()["purchase"].events == 0


def torn(store: tm.Store) -> None:
    """Cut the log off, as a disk does that fails."""
    store._project.log.close()
    (store._project.log.folder / "purchase" / "log.db").write_bytes(b"")


def test_a_state_without_what_a_damaged_log_acknowledged_answers_nothing(store):
    """Also where a push was tried first: less than was acknowledged is never an answer."""
    store.push(Purchase, purchase("o1"))
    append(store, "o2")
    torn(store)
    with tm.connect(store.config.root) as other:
        with pytest.raises(EngineError, match="damaged"):
            other.push(Purchase, purchase("o3"))
        with pytest.raises(EngineError, match="damaged"):
            counted(other)


def test_a_state_with_all_that_a_damaged_log_acknowledged_answers(store, caplog):
    """Reads need no log: they go on, with a warning."""
    store.push(Purchase, purchase("o1"))
    torn(store)
    with tm.connect(store.config.root) as other:
        assert counted(other) == 1
    assert "damaged" in caplog.text


def test_only_the_first_read_looks(store, monkeypatch):
    """What is read later is prepared without asking the log."""
    store.push(Purchase, purchase("o1"))
    with tm.connect(store.config.root) as other:
        assert counted(other) == 1
        monkeypatch.setattr(other.events.applier, "left", None)
        assert other.online([Habits.last], {"user_id": "ada"})["last"] == "o1"


def test_who_finds_another_process_at_it_leaves_it_alone(store, monkeypatch):
    """The state moves on meanwhile, so the one who reads waits, and counts nothing itself."""
    append(store, "o1")
    append(store, "o2")
    with tm.connect(store.config.root) as other:
        looks = iter([0, 1])
        monkeypatch.setattr(other.events.applier, "left", lambda *_: next(looks))
        monkeypatch.setattr(other.events, "catch_up", None)
        assert counted(other) == 0
        assert next(looks, "all were taken") == "all were taken"


def test_a_store_that_cannot_be_written_is_read_as_it_is(store, monkeypatch, caplog):
    """A warning says what may be missing; who reads after it was repaired has it."""
    store.push(Purchase, purchase("o1"))
    append(store, "o2")

    def read_only(*_, **__):
        raise StoreUnavailable("The disk is read-only.")

    with tm.connect(store.config.root) as other:
        with monkeypatch.context() as patch:
            patch.setattr(other._online, "put_many", read_only)
            assert counted(other) == 1
        assert "events of purchase in the log may not be counted" in caplog.text
        assert other.online([Habits.last], {"user_id": "ada"})["last"] == "o2"
        assert counted(other) == 2


def test_reading_makes_no_log(store):
    """Where nothing was pushed there is no folder for it, and there is none afterwards."""
    with tm.connect(store.config.root) as other:
        assert counted(other) == 0
        other.recovery.watch()
    assert not (store.config.root / store.config.log).exists()


def test_a_server_counts_what_is_left_at_two_looks(store):
    """What it finds once may be on its way; what has not become less since is nobody's."""
    append(store, "o1")
    store.recovery.watch()
    store.recovery.watch()
    assert store.events.catch_up()["purchase"].events == 0


def test_a_server_leaves_what_moves_alone(store, monkeypatch):
    """Another process is behind, too, but goes on."""
    looks = iter([3, 5, None])
    append(store, "o1")
    monkeypatch.setattr(store.events.applier, "left", lambda *_: next(looks))
    monkeypatch.setattr(store.events, "catch_up", None)
    for _ in range(3):
        store.recovery.watch()
    assert next(looks, "all were taken") == "all were taken"
