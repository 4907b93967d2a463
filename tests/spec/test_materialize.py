"""Materialization: history becomes online state in one step, seen whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tests.spec import shop as shops
from tests.spec.shop import DAY, HOUR, MICRO, NOON, bought, history

import tidemark as tm
from tidemark.define import lower
from tidemark.engines.duckdb import DuckDB
from tidemark.errors import NotFound, StaleSource, StoreUnavailable
from tidemark.ingest import materialize as module
from tidemark.ingest.materialize import materialize
from tidemark.online.states.keys import record_key
from tidemark.online.stores.lmdb import LmdbStore
from tidemark.online.stores.memory import MemoryStore
from tidemark.serve import Reader

LOWERED = lower([shops.Spending, shops.Habits])


def run(online, *rows, until=NOON, **options):
    """Materialize purchases into a store."""
    with DuckDB(frames={"purchase": history(list(rows))}) as engine:
        return materialize(
            engine, online, LOWERED.definitions, project="shop", until=until, **options
        )


def count(online, user, at=NOON, name="visits", view="habits"):
    """A feature of a user, read from a store."""
    from tidemark.define import outputs

    asked = outputs([f"{view}:{name}"], LOWERED.definitions)
    return Reader(online, LOWERED.definitions, {}, asked, project="shop").online(
        {"user_id": user}, at=at
    )[name]


def test_it_says_what_was_written():
    """Entities, events and speed, view by view."""
    done = run(MemoryStore(), bought("u1", NOON), bought("u1", NOON), bought("u2", NOON))
    assert done.until == NOON
    assert [(view.view, view.entities, view.events) for view in done.views] == [
        ("habits", 2, 3),
        ("spending", 2, 3),
    ]
    assert (done.entities, done.events) == (4, 6)
    first, habits, _ = repr(done).splitlines()
    assert first == "Materialized until 2026-03-02T12:00:00Z"
    assert habits.startswith("  habits              2 entities              3 events ")
    assert habits.endswith(" rows/s")


def test_some_views_only():
    """The others stay as they are."""
    online = MemoryStore()
    done = run(online, bought("u1", NOON), views=["habits"])
    assert [view.view for view in done.views] == ["habits"]
    assert count(online, "u1") == 1
    with pytest.raises(StaleSource):
        count(online, "u1", view="spending", name="purchases_7d")
    with pytest.raises(NotFound, match="Did you mean 'habits'"):
        run(online, views=["habit"])


def test_nothing_after_until_is_known():
    """Neither an event that happened later nor one that was seen later."""
    online = MemoryStore()
    rows = [bought("u1", NOON), bought("u1", NOON + MICRO), bought("u1", NOON, seen=NOON + MICRO)]
    run(online, *rows)
    assert count(online, "u1", at=NOON + DAY) == 1


def test_until_may_be_text_and_is_now_by_default():
    """A moment has a zone."""
    assert run(MemoryStore(), until="2026-03-02T13:00:00+01:00").until == NOON
    assert run(MemoryStore(), until=None).until > NOON - DAY


def test_materializing_again_replaces():
    """New events count, and entities that vanished from history are gone."""
    online = MemoryStore()
    run(online, bought("u1", NOON), bought("u2", NOON))
    run(online, bought("u2", NOON), bought("u2", NOON))
    assert (count(online, "u1"), count(online, "u2")) == (0, 2)


def test_the_same_history_gives_the_same_bytes():
    """Whatever the order in which the rows are read, and only one generation is kept."""
    rows = [bought(f"u{n % 7}", NOON - n * HOUR, merchant="abc"[n % 3]) for n in range(50)]
    one, two = MemoryStore(), MemoryStore()
    numbered = [row | {"order_id": str(n)} for n, row in enumerate(rows)]
    run(one, *numbered)
    run(two, *reversed(numbered))
    assert one._rows == two._rows
    run(two, *numbered)
    assert len(one._rows) == len(two._rows) == 2 * 7 + 2 * 2


def test_without_retain_every_moment_is_answered():
    """The first event is as good as the last."""
    online = MemoryStore()
    run(online, bought("u1", NOON - 900 * DAY), bought("u1", NOON))
    assert count(online, "u1", at=NOON - 900 * DAY) == 1


def test_retain_makes_earlier_moments_an_error():
    """Never a guess."""
    online = MemoryStore()
    run(online, bought("u1", NOON - 2 * DAY), retain="1d")
    assert count(online, "u1", at=NOON - DAY) == 1
    with pytest.raises(StaleSource, match="does not reach back") as caught:
        count(online, "u1", at=NOON - DAY - MICRO)
    assert caught.value.where == "It answers moments from 2026-03-01T12:00:00Z on."


class Recent(tm.FeatureView, entity=shops.User, source=shops.Purchase):
    """A day at most."""

    visits = tm.count(over="1d")
    spend = tm.sum(shops.Purchase.amount, over="1h", offset="2h")


def test_retain_forgets_what_no_window_can_reach():
    """One event stays for each entity, which therefore stays known."""
    rows = [bought("u1", NOON - n * HOUR) for n in range(100)] + [bought("u2", NOON - 90 * DAY)]
    definitions = lower([Recent]).definitions
    kept, whole = MemoryStore(), MemoryStore()
    for online, retain in ((kept, "1d"), (whole, None)):
        with DuckDB(frames={"purchase": history(rows)}) as engine:
            done = materialize(
                engine, online, definitions, project="shop", until=NOON, retain=retain
            )
        if online is kept:
            assert (done.entities, done.events) == (2, 50)
    from tidemark.define import outputs

    asked = outputs(["recent:visits", "recent:spend"], definitions)
    readers = [Reader(online, definitions, {}, asked, project="shop") for online in (kept, whole)]
    for hours in range(25):
        for user in ("u1", "u2", "u3"):
            one, two = (r.online({"user_id": user}, at=NOON - hours * HOUR) for r in readers)
            assert one == two
            assert [one.status(name) for name in one] == [two.status(name) for name in two]


def test_a_failure_leaves_the_old_state(monkeypatch):
    """Whatever breaks on the way, readers go on with what they had."""
    online = MemoryStore()
    run(online, bought("u1", NOON))
    before = dict(online._rows)
    entities = module.entities

    def breaking(*args, **kwargs):
        yield from entities(*args, **kwargs)
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(module, "entities", breaking)
    with pytest.raises(RuntimeError, match="on fire"):
        run(online, bought("u1", NOON), bought("u1", NOON))
    assert count(online, "u1") == 1
    monkeypatch.undo()
    run(online, bought("u1", NOON))
    assert len(online._rows) == len(before)


def test_readers_never_see_half_of_it():
    """While history grows from one event for everybody to two, each read sees one or the other."""
    online = MemoryStore()
    users = [f"u{n}" for n in range(50)]
    asked = lowered_outputs("habits:visits")
    reader = Reader(online, LOWERED.definitions, {}, asked, project="shop")
    run(online, *(bought(user, NOON) for user in users))
    seen: set[tuple[int, ...]] = set()
    done = threading.Event()

    def read() -> None:
        ended = False
        while not ended:
            ended = done.is_set()
            seen.add(tuple(reader.online_many({"user_id": users}, at=NOON).values("visits")))

    thread = threading.Thread(target=read)
    thread.start()
    for times in (2, 1, 2):
        run(online, *(bought(user, NOON) for user in users * times))
    done.set()
    thread.join()
    assert seen <= {(1,) * 50, (2,) * 50}
    assert seen


def lowered_outputs(*names):
    from tidemark.define import outputs

    return outputs(list(names), LOWERED.definitions)


def test_a_changed_view_has_its_own_state():
    """It has no rows until it is materialized; then the old rows go, which nothing defines."""

    class Changed(tm.FeatureView, entity=shops.User, source=shops.Purchase, name="habits"):
        visits = tm.count(where=shops.Purchase.settled)

    changed = lower([Changed]).definitions
    online = MemoryStore()
    run(online, bought("u1", NOON, settled=False), views=["habits"])
    reader = Reader(online, changed, {}, lowered_outputs("habits:visits"), project="shop")
    with pytest.raises(StaleSource, match="no online state yet of habits:visits@1"):
        reader.online({"user_id": "u1"}, at=NOON)
    with DuckDB(frames={"purchase": history([bought("u1", NOON, settled=False)])}) as engine:
        materialize(engine, online, changed, project="shop", until=NOON)
    assert reader.online({"user_id": "u1"}, at=NOON)["visits"] == 0
    with pytest.raises(StaleSource):
        count(online, "u1")


def test_projects_do_not_meet_in_one_store():
    """The same names in another project are other rows."""
    online = MemoryStore()
    run(online, bought("u1", NOON))
    reader = Reader(
        online, LOWERED.definitions, {}, lowered_outputs("habits:visits"), project="other"
    )
    with pytest.raises(StaleSource):
        reader.online({"user_id": "u1"}, at=NOON)


def hold(path: Path, ready, free) -> None:
    with LmdbStore(path).lock("materialize shop"):
        ready.set()
        free.wait(300)


def test_a_second_process_is_told_who_is_at_work(tmp_path):
    """It gets one clear error and writes nothing; afterwards it can."""
    context = multiprocessing.get_context("spawn")
    ready, free = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready, free))
    holder.start()
    try:
        assert ready.wait(300)
        online = LmdbStore(tmp_path)
        with pytest.raises(StoreUnavailable, match=f"Process {holder.pid} is busy"):
            run(online, bought("u1", NOON))
        assert holder.pid != os.getpid()
    finally:
        free.set()
        holder.join()
    run(online, bought("u1", NOON))
    assert count(online, "u1") == 1
    online.close()


def test_projects_that_share_a_store_do_not_wait_for_each_other():
    """What is locked is the project."""
    online = MemoryStore()
    with online.lock("materialize other"):
        run(online, bought("u1", NOON))
    assert count(online, "u1") == 1


def test_rows_with_a_null_key_belong_to_nobody():
    """They are left out and counted: events, each once, that are known by then."""
    rows = [
        bought("u1", NOON),
        bought(None, NOON),
        bought(None, NOON - HOUR, order_id="o1", seen=NOON - HOUR),
        bought(None, NOON - HOUR, order_id="o1"),
        bought(None, NOON - HOUR, order_id="o2", seen=NOON - HOUR),
        bought("u1", NOON - HOUR, order_id="o2"),
        bought(None, NOON + MICRO),
    ]
    done = run(MemoryStore(), *rows)
    assert [(each.entities, each.events, each.unattributed) for each in done.views] == [
        (1, 2, 2),
        (1, 2, 2),
    ]
    assert repr(done).splitlines()[1].endswith("  2 events without a key left out")


def test_a_history_of_nobody_is_counted():
    """No row is written, and the events are not forgotten."""
    done = run(MemoryStore(), bought(None, NOON), views=["habits"])
    assert (done.entities, done.events, done.views[0].unattributed) == (0, 0, 1)


def test_an_empty_history_is_a_state():
    """Every entity is unknown then, which is an answer."""
    online = MemoryStore()
    assert run(online).entities == 0
    assert count(online, "u1") == 0


def test_a_moment_needs_a_zone():
    """As everywhere."""
    with pytest.raises(tm.errors.RequestInvalid, match="no time zone"):
        run(MemoryStore(), until=datetime(2026, 3, 2))
    assert run(MemoryStore(), until=datetime(2026, 3, 2, tzinfo=UTC)).entities == 0


def test_a_project_says_how_far_back_its_state_answers(monkeypatch):
    """`retain` in the settings bounds what every materialization keeps."""
    monkeypatch.setenv("TIDEMARK_RETAIN", "1d")
    with tm.connect(":memory:") as store:
        store.apply(store.plan([Recent]))
        store.materialize(until=NOON)
        keys = {"user_id": "u1"}
        assert store.online([Recent.visits], keys, at=NOON - DAY)["visits"] == 0
        with pytest.raises(StaleSource, match="does not reach back"):
            store.online([Recent.visits], keys, at=NOON - DAY - MICRO)


def test_rows_of_another_format_are_refused_until_they_are_written_anew():
    """Never misread; the next materialization replaces them, and leaves none behind."""
    online = MemoryStore()
    run(online, bought("u1", NOON), bought("u2", NOON))
    place = record_key("shop", "habits")
    record = msgspec.msgpack.decode(online._rows[place])
    online._rows[place] = msgspec.msgpack.encode(record | {"format": 2, "states": "otherwise"})
    with pytest.raises(StoreUnavailable, match="rows of format 2; this release reads format 1"):
        count(online, "u1")
    run(online, bought("u1", NOON))
    assert count(online, "u1") == 1
    assert sum(row.startswith(b"TMRW") for row in online._rows.values()) == 2
