"""Pushing events: durable when it returns, counted by the next read, and never twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.errors import EventsRefused, RequestInvalid, StoreUnavailable
from tidemark.ingest import push as pushing

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HISTORY = pa.table(
    {
        "order": ["h1", "h2"],
        "user_id": ["ada", "bob"],
        "amount": [1.0, 2.0],
        "at": pa.array([NOON - timedelta(hours=2), NOON], pa.timestamp("us", "UTC")),
    }
)


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(HISTORY), time="at", unique=("order",)):
    order: tm.Col[str]
    user_id: tm.Col[str | None]
    amount: tm.Col[float | None]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase):
    purchases = tm.count()
    total = tm.sum(Purchase.amount)


class Recent(tm.FeatureView, entity=User, source=Purchase):
    last = tm.last(Purchase.amount, over="30d")


class Country(
    tm.Source, history=tm.frame(pa.table({"user_id": ["ada"], "name": ["fr"]})), time=None
):
    user_id: tm.Col[str]
    name: tm.Col[str]


class Lives(tm.FeatureView, entity=User, source=Country, columns=(Country.name,)):
    """Where somebody lives."""


def bought(order: str, amount: float | None = 10.0, user: str | None = "ada", **more: Any) -> Any:
    return {"order": order, "user_id": user, "amount": amount, "at": NOON, **more}


@pytest.fixture
def store() -> Iterator[tm.Store]:
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Spend, Lives]))
        opened.materialize()
        yield opened


def spend(store: tm.Store, user: str = "ada") -> tuple[int, float | None]:
    found = store.online([Spend.purchases, Spend.total], {"user_id": user})
    return found["purchases"], found["total"]


class TestCounting:
    def test_the_next_read_counts_it(self, store: tm.Store) -> None:
        """What was pushed is there when the push returns."""
        assert spend(store) == (1, 1.0)
        done = store.push(Purchase, bought("o1"))
        assert (done.accepted, done.duplicates, done.quarantined, done.position) == (1, 0, 0, 1)
        assert spend(store) == (2, 11.0)
        assert spend(store, "cyd") == (0, None)

    def test_rows_of_any_kind(self, store: tm.Store) -> None:
        """Dicts, columns, a frame, JSON and lines of JSON mean the same."""
        store.push(Purchase, [bought("o1"), bought("o2")])
        store.push("purchase", {"order": ["o3"], "user_id": ["ada"], "at": [NOON]})
        frame = pa.table({"order": ["o4"], "user_id": ["ada"], "at": HISTORY["at"][:1]})
        store.push(Purchase, frame)
        store.push(Purchase, b'[{"order": "o5", "user_id": "ada", "at": "2026-03-02T12:00:00Z"}]')
        lines = b'{"order": "o6", "user_id": "ada", "at": "2026-03-02T12:00:00Z"}\n' * 2
        assert store.push(Purchase, lines).duplicates == 1
        assert spend(store) == (7, 21.0)

    def test_delivered_twice_counts_once(self, store: tm.Store) -> None:
        """The same identity with the same content is the same event, in one push or in two."""
        store.push(Purchase, [bought("o1"), bought("o1")])
        assert store.push(Purchase, bought("o1")).accepted == 0
        assert spend(store) == (2, 11.0)

    def test_what_history_has_counts_once(self, store: tm.Store) -> None:
        """The warehouse and the application tell of one purchase."""
        repeated = bought("h1", 1.0, at=NOON - timedelta(hours=2))
        store.push(Purchase, repeated)
        assert spend(store) == (1, 1.0)

    def test_a_correction_replaces_and_may_move(self, store: tm.Store) -> None:
        """The version seen last is the event: its amount, its time, and whose it is."""
        store.push(Purchase, bought("o1", 10.0))
        store.push(Purchase, bought("o1", 12.0))
        assert spend(store) == (2, 13.0)
        store.push(Purchase, bought("o1", 12.0, "bob"))
        assert (spend(store), spend(store, "bob")) == ((1, 1.0), (2, 14.0))
        store.push(Purchase, bought("h2", 5.0, "cyd"))
        assert (spend(store, "bob"), spend(store, "cyd")) == ((1, 12.0), (1, 5.0))

    def test_a_key_makes_a_push_happen_once(self, store: tm.Store) -> None:
        """What is tried again under its key is the first push, also in other order or form."""
        o1, o2 = bought("o1"), bought("o2")
        first = store.push(Purchase, [o1, o2], key="night-1")
        assert store.push(Purchase, [o2, o1], key="night-1") == first
        assert store.push(Purchase, pa.Table.from_pylist([o1, o2]), key="night-1") == first
        assert spend(store) == (3, 21.0)

    def test_other_events_under_a_known_key_are_refused(self, store: tm.Store) -> None:
        """They would be lost if they were taken for the first push."""
        store.push(Purchase, bought("o1"), key="night-1")
        with pytest.raises(RequestInvalid, match=r"Other events .* under the key 'night-1'"):
            store.push(Purchase, bought("o2"), key="night-1")
        assert store.push(Purchase, bought("o2"), key="night-2").accepted == 1

    def test_what_a_clock_makes_good_is_no_other_push(self, store: tm.Store) -> None:
        """With dead letters the key alone says which push it is."""
        bad = {**bought("o1"), "amount": "much"}
        first = store.push(Purchase, [bad, bought("o2")], on_error="quarantine", key="night-1")
        again = store.push(Purchase, [bought("o1"), bought("o2")], key="night-1")
        assert (again.accepted, again.position) == (first.accepted, first.position) == (1, 1)

    def test_an_event_without_a_key_is_nobodys(self, store: tm.Store) -> None:
        """It is kept, and no row counts it."""
        assert store.push(Purchase, bought("o1", user=None)).accepted == 1
        assert spend(store) == (1, 1.0)

    def test_late_events_count_from_the_moment_they_were_seen(self, store: tm.Store) -> None:
        """Training rows before that moment do not have them; hindsight does."""
        seen = store.push(Purchase, bought("o1", at=NOON - timedelta(days=3))).seen
        moments = [NOON + timedelta(hours=1), seen - timedelta(microseconds=1), seen]
        times = pa.array(moments, pa.timestamp("us", "UTC"))
        labels = pa.table({"user_id": ["ada"] * 3, "t": times})
        told = store.training_set([Spend.purchases], labels).to_arrow()
        assert told["purchases"].to_pylist() == [1, 1, 2]
        told = store.training_set([Spend.purchases], labels, hindsight=True).to_arrow()
        assert told["purchases"].to_pylist() == [2, 2, 2]
        for moment, count in zip(moments, [1, 1, 2], strict=True):
            found = store.online([Spend.purchases], {"user_id": "ada"}, at=moment)
            assert found["purchases"] == count

    def test_before_it_is_materialized(self, store: tm.Store) -> None:
        """The events wait in the log; each view goes on from its own position."""
        store.push(Purchase, bought("o1", 7.0, at=NOON + timedelta(hours=1)))
        store.apply(store.plan([Spend, Recent, Lives]))
        store.push(Purchase, bought("o2", 8.0, at=NOON + timedelta(hours=2)))
        with pytest.raises(tm.errors.StaleSource):
            store.online([Recent.last], {"user_id": "ada"})
        store.materialize([Recent])
        at = NOON + timedelta(days=1)
        store.push(Purchase, bought("o3", 9.0, at=NOON + timedelta(hours=3)))
        assert spend(store) == (4, 25.0)
        assert store.online([Recent.last], {"user_id": "ada"})["last"] is None
        labels = pa.table({"user_id": ["ada"], "t": pa.array([at], pa.timestamp("us", "UTC"))})
        told = store.training_set([Recent.last], labels, hindsight=True).to_arrow()
        assert told["last"].to_pylist() == [9.0]

    def test_state_as_of_a_moment_goes_on_with_the_next_push(self, store: tm.Store) -> None:
        """What was seen after that moment comes back, and counts once."""
        seen = store.push(Purchase, bought("o1")).seen
        store.push(Purchase, bought("o2"))
        store.materialize(until=seen)
        assert spend(store) == (2, 11.0)
        store.push(Purchase, bought("o3"))
        assert spend(store) == (4, 31.0)


class TestBadRows:
    def test_all_are_refused_and_every_bad_one_is_named(self, store: tm.Store) -> None:
        """Row, column, value and reason; nothing was taken."""
        rows = [bought("o1"), bought("o2", "42"), bought("o3", at=None), bought("o4", amuont=1)]
        with pytest.raises(EventsRefused) as refused:
            store.push(Purchase, rows)
        assert str(refused.value) == (
            "3 rows of 4 cannot be events of purchase; nothing was taken.\n"
            '  row 1: amount "42" must be float64\n'
            "  row 2: at null an event needs a time\n"
            "  row 3: amuont 1 is not a column of purchase. Did you mean 'amount'?\n"
            '  Correct them, or let the good ones in: on_error="quarantine".'
        )
        assert (refused.value.bad_rows, refused.value.bad[0].column) == (3, "amount")
        assert spend(store) == (1, 1.0)

    def test_many_are_counted_and_twenty_shown(self, store: tm.Store) -> None:
        """A message has an end; the error has all of them."""
        with pytest.raises(EventsRefused, match="and 30 more") as refused:
            store.push(Purchase, [bought(str(n), "much") for n in range(50)])
        assert (refused.value.bad_rows, len(refused.value.bad)) == (50, 50)

    def test_quarantine_lets_the_good_ones_in(self, store: tm.Store) -> None:
        """The bad ones are kept as they came, with all their reasons."""
        done = store.push(
            Purchase, [bought("o1"), bought("o2", "42", at=None)], on_error="quarantine"
        )
        assert (done.accepted, done.quarantined) == (1, 1)
        (letter,) = store.events.dead_letters(Purchase)
        assert letter.row == '{"order":"o2","user_id":"ada","amount":"42","at":null}'
        assert letter.reasons == ('amount "42" must be float64', "at null an event needs a time")
        assert store.events.dead_letters(Purchase, after=letter.number) == []

    def test_the_future_is_refused(self, store: tm.Store) -> None:
        """A clock that is wrong; a little ahead is taken, and counts when its time comes."""
        ahead = datetime.now(UTC) + timedelta(minutes=4)
        store.push(Purchase, bought("o1", at=ahead))
        assert spend(store) == (1, 1.0)
        found = store.online([Spend.purchases], {"user_id": "ada"}, at=ahead)
        assert found["purchases"] == 2
        with pytest.raises(EventsRefused, match=r"ahead of the clock here; `future` allows 5m"):
            store.push(Purchase, bought("o2", at=ahead + timedelta(hours=1)))

    def test_older_than_what_is_retained(self, tmp_path: Path) -> None:
        """Where the state forgets, an event that no moment could count is refused."""
        (tmp_path / "tidemark.toml").write_text('retain = "7d"', "utf-8")
        with tm.connect(tmp_path) as store:
            store.apply(store.plan([Recent]))
            store.materialize()
            now = datetime.now(UTC)
            store.push(Purchase, bought("o1", at=now - timedelta(days=36)))
            with pytest.raises(EventsRefused, match="older than what the online state retains"):
                store.push(Purchase, bought("o2", at=now - timedelta(days=38)))

    @pytest.mark.parametrize(
        ("source", "rows", "options", "what"),
        [
            ("country", {"user_id": "ada"}, {}, "has no time"),
            ("purchase", 5, {}, "int is not a table"),
            ("purchase", b"[{", {}, "not JSON"),
            ("purchase", {"order": ["a", "b"], "at": [NOON]}, {}, "differ in length"),
            ("purchase", pa.table({"ordr": ["a"]}), {}, "has no column 'ordr'"),
            ("purchase", [], {"on_error": "ignore"}, "'ignore' is not what to do"),
        ],
    )
    def test_what_cannot_be_pushed(
        self, store: tm.Store, source: str, rows: Any, options: Any, what: str
    ) -> None:
        """A sentence says what is wrong."""
        with pytest.raises(RequestInvalid, match=what):
            store.push(source, rows, **options)

    def test_nothing_is_taken_gladly(self, store: tm.Store) -> None:
        """No rows are no error."""
        assert store.push(Purchase, []).accepted == 0


class TestManyAtOnce:
    def test_pushes_of_several_threads(self, store: tm.Store) -> None:
        """Each has its own numbers, and all events are counted."""
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda n: store.push(Purchase, bought(f"o{n // 2}")), range(60)))
        assert sum(each.accepted for each in done) == 30
        assert sum(each.duplicates for each in done) == 30
        assert spend(store) == (31, 301.0)

    def test_two_processes_take_turns(self, tmp_path: Path) -> None:
        """What one has written since, rows or records, the other one goes on from."""

        class Visit(tm.Source, time="at", unique=("number",)):
            number: tm.Col[int]
            user_id: tm.Col[str]
            at: tm.Col[datetime]

        class Visits(tm.FeatureView, entity=User, source=Visit):
            visits = tm.count()

        class Newest(tm.FeatureView, entity=User, source=Visit):
            number = tm.last(Visit.number)

        def visit(number: int, user: str = "ada") -> dict[str, object]:
            at = NOON + timedelta(seconds=number)
            return {"number": number, "user_id": user, "at": at}

        def found(store: tm.Store) -> list[object]:
            return [store.online([Visits.visits], {"user_id": user})["visits"] for user in "ab"]

        (tmp_path / "tidemark.toml").write_text('name = "turns"\n', "utf-8")
        with tm.connect(tmp_path) as one, tm.connect(tmp_path) as other:
            one.apply(one.plan([Visits, Newest]))
            one.materialize(Visits)
            stores, counted = [one, other], [0, 0]
            for number in range(12):
                stores[number // 2 % 2].push(Visit, visit(number, "a"))
                counted[0] += 1
                if number == 3:  # now it has a record, which no push has seen
                    other.materialize(Newest)
                if number == 6:
                    one.push(Visit, visit(1, "b"))
                    counted = [counted[0] - 1, counted[1] + 1]
                if number == 9:
                    one.materialize(Visits)
                assert [found(each) for each in stores] == [counted, counted]
            assert one.online([Newest.number], {"user_id": "a"})["number"] == 11
            one.materialize()
            assert found(one) == [11, 1]

    def test_a_refused_push_does_not_disturb_others(self, store: tm.Store) -> None:
        """It never comes to the log."""
        rows = [bought(f"o{n}", "bad" if n % 3 == 0 else 1.0) for n in range(30)]

        def one(row: Any) -> int:
            try:
                return store.push(Purchase, row).accepted
            except EventsRefused:
                return 0

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(one, rows)) == 20
        assert spend(store) == (21, 21.0)

    def test_too_many_that_wait_are_told_to_come_again(
        self, store: tm.Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Memory does not grow with what cannot be written."""
        monkeypatch.setattr(pushing, "WAITING", 1)
        store.push(Purchase, bought("o0"))
        pusher: Any = store._pushing._pusher
        entered, go_on = threading.Event(), threading.Event()
        applied = pusher._apply

        def slow(*arguments: Any) -> None:
            entered.set()
            go_on.wait()
            applied(*arguments)

        monkeypatch.setattr(pusher, "_apply", slow)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(store.push, Purchase, bought("o1"))
            entered.wait()
            second = pool.submit(store.push, Purchase, bought("o2"))
            while not pusher._queues["purchase"].waiting:
                pass
            with pytest.raises(StoreUnavailable, match="Too many pushes to purchase") as refused:
                store.push(Purchase, bought("o3"))
            go_on.set()
            assert (first.result().accepted, second.result().accepted) == (1, 1)
        assert refused.value.retryable
        assert spend(store) == (4, 31.0)


class TestFailure:
    def test_a_store_that_does_not_answer(
        self, store: tm.Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The events are kept and said to be; `catch_up` counts them, and trying again nothing."""

        def away(*_: Any, **__: Any) -> None:
            raise StoreUnavailable("Nobody is there.")

        with monkeypatch.context() as broken:
            broken.setattr(store._online, "put_many", away)
            with pytest.raises(StoreUnavailable, match="are in the log, but no read counts them"):
                store.push(Purchase, bought("o1"))
        assert spend(store) == (1, 1.0)
        assert store.events.catch_up()["purchase"].events == 1
        assert store.push(Purchase, bought("o1")).duplicates == 1
        assert spend(store) == (2, 11.0)

    def test_a_closed_store(self, store: tm.Store) -> None:
        """It takes nothing."""
        store.close()
        with pytest.raises(RequestInvalid, match="closed"):
            store.push(Purchase, bought("o1"))


def test_a_folder_of_the_log_that_cannot_be_written(tmp_path: Path) -> None:
    """A sentence says where, when a materialization would note what history holds."""
    (tmp_path / "tidemark.toml").write_text('log = "taken/log"', "utf-8")
    (tmp_path / "taken").write_text("a file is in the way", "utf-8")
    with tm.connect(tmp_path) as store:
        store.apply(store.plan([Spend]))
        with pytest.raises(StoreUnavailable, match="cannot be noted beside its log"):
            store.materialize()
