"""Reads while events are being accepted: they are of the moment before, as training has it."""

from __future__ import annotations

import os
import threading
from datetime import datetime

import pyarrow as pa
import pytest
from tests.spec.accepting import (
    FEATURES,
    PROCESSES,
    USERS,
    Buying,
    Purchase,
    Visit,
    Visiting,
    purchase,
    push_all_the_time,
    push_and_wait,
    visit,
)

import tidemark as tm
from tidemark.online.states import marks, underway
from tidemark.online.states.marks import FILE, SLOTS, Marks
from tidemark.online.states.underway import Known, Look, UnderWay, number_of

A, B = number_of("purchase"), number_of("visit")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    (tmp_path / "tidemark.toml").write_text('name = "shop"\n', "utf-8")
    with tm.connect(tmp_path) as opened:
        opened.apply(opened.plan([Buying, Visiting]))
        opened.materialize()
        opened.push(Purchase, purchase(1))
        yield opened


def trained(store: tm.Store, at: datetime) -> dict[str, int]:
    labels = pa.table({"user_id": ["ada"], "at": [at]})
    (row,) = store.training_set(FEATURES, labels).to_arrow().to_pylist()
    return {name: row[name] for name in ("purchases", "visits")}


def read(store: tm.Store) -> tuple[dict[str, int], datetime]:
    vector = store.online(FEATURES, {"user_id": "ada"})
    return dict(vector), vector.at


class Held:
    """A method whose first call waits until it is let go."""

    def __init__(self, owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._call = getattr(owner, name)
        self._reached, self._go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *args: object, **options: object) -> object:
        if not self._reached.is_set():
            self._reached.set()
            assert self._go_on.wait(300)
        return self._call(*args, **options)

    def reached(self) -> None:
        assert self._reached.wait(300)

    def let_go(self) -> None:
        self._go_on.set()


def in_a_thread(work, *args):
    done = []
    thread = threading.Thread(target=lambda: done.append(work(*args)))
    thread.start()
    return thread, done


def test_a_read_meanwhile_is_what_training_has_for_its_moment(store, monkeypatch):
    """The event is durable and has been seen, but its moment is after that of the read."""
    held = Held(store._online, "put_many", monkeypatch)
    pushing, pushes = in_a_thread(store.push, Purchase, purchase(2))
    held.reached()
    meanwhile, at = read(store)
    held.let_go()
    pushing.join()
    after, later = read(store)

    assert meanwhile == {"purchases": 1, "visits": 0} == trained(store, at)
    assert at < pushes[0].seen <= later
    assert after == {"purchases": 2, "visits": 0} == trained(store, later)


def test_what_another_source_has_not_counted_holds_back_a_read_of_both(store, monkeypatch):
    """A purchase counts already, a visit that was seen before it does not: neither is read."""
    held = Held(store._project.log, "append_all", monkeypatch)
    visiting, _ = in_a_thread(store.push, Visit, visit())
    held.reached()
    settle = Held(store._readers.under_way, "settle", monkeypatch)
    buying, pushes = in_a_thread(store.push, Purchase, purchase(2))
    settle.reached()  # it counts, and its push is about to wait for the visit
    meanwhile, at = read(store)
    alone = store.online([Buying.purchases], {"user_id": "ada"})
    settle.let_go()
    held.let_go()
    buying.join()
    visiting.join()
    after, later = read(store)

    assert meanwhile == {"purchases": 1, "visits": 0} == trained(store, at)
    assert alone["purchases"] == 2
    assert at < pushes[0].seen <= alone.at
    assert after == {"purchases": 2, "visits": 1} == trained(store, later)


def test_a_push_returns_when_every_read_counts_it(monkeypatch):
    """Reads of several sources, too: it waits for what was accepted before it, and for no more."""
    clock = iter(range(100, 10_000))
    monkeypatch.setattr(underway, "clock", lambda: next(clock))
    events = UnderWay()
    visits, baskets = events.accepting("visit"), events.accepting("basket")
    visits.__enter__()  # since 100
    baskets.__enter__()  # since 101
    pauses = []

    def pause(_seconds: float) -> None:
        pauses.append(len(pauses))
        visits.__exit__(None, None, None)

    monkeypatch.setattr(underway, "sleep", pause)
    events.settle("visit", 100)  # its own source goes in the order of its log
    events.settle("purchase", 99)
    assert pauses == []
    events.settle("purchase", 100)
    assert pauses == [0]
    baskets.__exit__(None, None, None)
    assert events.look().accepts == ()


@pytest.mark.parametrize(
    ("states", "moment", "accepts", "expected"),
    [
        ([("purchase", 50)], 99, (), 99),  # nothing is under way: now
        ([("purchase", 50)], 99, ((A, 80),), 79),
        ([("purchase", 81)], 99, ((A, 80),), 81),  # that counts meanwhile
        ([("purchase", 50)], 99, ((B, 80),), 99),  # of a source that is not read
        ([("purchase", 50), ("visit", 60)], 99, ((A, 80), (B, 70)), 69),
        ([("purchase", 85), ("visit", 60)], 99, ((A, 80), (B, 70)), 69),  # 85 is hidden
        ([("purchase", 105), ("visit", 60)], 99, (), 99),  # counted since the look, and hidden
        ([("purchase", 105), ("visit", 104)], 99, (), 104),
        ([("purchase", 900), ("visit", 60)], 99, (), 900),  # by a clock that is ahead
    ],
)
def test_the_moment_of_a_read(monkeypatch, states, moment, accepts, expected):
    """Of all that is seen by then the rows have every event; what they hold beyond is hidden."""
    monkeypatch.setattr(underway, "clock", lambda: 200)
    assert Known.of(states).moment(Look(moment, accepts)) == expected


def test_what_is_under_way_ends_however_it_ends(monkeypatch):
    """And what begins after a look is seen after the moment of the look, at whatever speed."""
    monkeypatch.setattr(underway, "clock", lambda: 100)
    events = UnderWay()
    assert events.look() == (99, ())
    with events.accepting("purchase"), events.accepting("visit"):
        assert events.look() == (99, ((A, 100), (B, 100)))
    with pytest.raises(ZeroDivisionError), events.accepting("purchase"):
        _ = 1 // 0
    assert events.look() == (99, ())


def test_what_another_process_accepts_is_known(store):
    """It has the event in its log, and this one reads: as of the moment before, until it counts."""
    ours, theirs = PROCESSES.Pipe()
    other = PROCESSES.Process(target=push_and_wait, args=(store.config.root, theirs))
    other.start()
    assert ours.recv() == "in the log"
    meanwhile, at = read(store)
    ours.send("go on")
    assert ours.recv() == "counted"
    other.join()
    after, later = read(store)

    assert meanwhile == {"purchases": 1, "visits": 0} == trained(store, at)
    assert after == {"purchases": 2, "visits": 0} == trained(store, later)


def test_what_a_process_that_died_was_accepting_holds_nobody_back(store, monkeypatch):
    """Its mark is void; what it left in the log is counted by whoever catches up."""
    monkeypatch.setattr(marks, "YOUNG", 0)
    ours, theirs = PROCESSES.Pipe()
    other = PROCESSES.Process(target=push_and_wait, args=(store.config.root, theirs))
    other.start()
    assert ours.recv() == "in the log"
    held_back = read(store)[1]
    assert read(store)[1] == held_back
    other.kill()
    other.join()
    assert read(store)[1] > held_back
    assert store.readers.under_way.look().accepts == ()
    store.events.catch_up()
    assert read(store)[0]["purchases"] == 2


def test_two_processes_that_push_two_sources_leave_no_lag(store, monkeypatch):
    """While they do, everything that is read is what training has for the moment of the read."""
    monkeypatch.setattr(underway, "PATIENCE_SECONDS", 300.0)  # however busy this machine is
    ours, theirs = PROCESSES.Pipe()
    other = PROCESSES.Process(target=push_all_the_time, args=(store.config.root, theirs))
    other.start()
    assert ours.recv() == "pushing"
    for number in range(1_000, 1_012):
        own = store.push(Purchase, purchase(number))
        after = store.online_many(FEATURES, {"user_id": USERS})
        assert own.seen <= after.at
        store.online_many([*FEATURES, Buying.last], {"user_id": USERS})
    ours.send("stop")
    other.join()
    found = store.audit()
    assert (found.compared, found.causes) == (12 * 2 * (2 + 3), {})


def test_a_slot_belongs_to_a_source_in_a_process_and_is_used_again(tmp_path):
    """However often something is accepted."""
    events = UnderWay(tmp_path)
    for _ in range(3):
        for name in ("purchase", "visit"):
            with events.accepting(name), events.accepting(name):
                assert [source for source, _ in events.look().accepts] == [number_of(name)]
    shared = Marks.of(tmp_path, create=False)
    assert shared is events._marks
    assert shared._words[1] == 2
    shared.release()
    events.close()
    again = Marks.of(tmp_path, create=False)
    again.note(5, 100)
    assert again.look(100) == ((5, 100),)
    again.release()


def test_more_sources_than_slots_and_folders_that_cannot_be_written(tmp_path, monkeypatch):
    """Other processes are not told; this one knows all the same where there is no file."""
    shared = Marks.of(tmp_path, create=True)
    for source in range(1, SLOTS + 2):
        shared.note(source, 100)
    assert shared.look(100) == tuple((source, 100) for source in range(1, SLOTS + 1))
    shared.release()
    nowhere = tmp_path / "file" / "log"
    nowhere.parent.write_text("in the way")
    events = UnderWay(nowhere)
    with events.accepting("purchase"):
        assert len(events.look().accepts) == 1


def test_a_file_of_another_release_is_left_alone(tmp_path):
    """What its words mean is not known here."""
    (tmp_path / FILE).write_bytes(b"\x07" * (2 * SLOTS + 2) * 8)
    assert Marks.of(tmp_path, create=True) is None
    assert (tmp_path / FILE).read_bytes()[:3] == b"\x07\x07\x07"


def test_where_nothing_may_be_written_marks_are_read(tmp_path, monkeypatch):
    """As by a process of another user."""
    shared = Marks.of(tmp_path, create=True)
    shared.note(5, 100)
    monkeypatch.setattr(os, "access", lambda *_: False)
    reading = Marks(tmp_path / FILE, create=False)
    assert reading.look(100) == ((5, 100),)
    reading.note(6, 100)
    assert reading.look(100) == ((5, 100),)
    reading._close()
    shared.release()
