"""Dead letters that are replayed: what is good now is an event, once, and the rest stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.engines.log import Letter, letters as table
from tidemark.errors import NotFound, StoreConflict, StoreUnavailable

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
HISTORY = pa.table(
    {
        "user_id": pa.array([], pa.string()),
        "at": pa.array([], pa.timestamp("us", "UTC")),
        "amount": pa.array([], pa.float64()),
    }
)


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(HISTORY), time="at"):
    """Without `unique`: nothing but the replay itself keeps an event from counting twice."""

    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Purchase):
    purchases = tm.count()
    total = tm.sum(Purchase.amount)


class Wider(tm.Source, history=tm.frame(HISTORY), time="at", name="purchase"):
    """The same source after its declaration was put right."""

    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]
    coupon: tm.Col[str | None]


class SpendOfWider(tm.FeatureView, entity=User, source=Wider, name="spend"):
    purchases = tm.count()
    total = tm.sum(Wider.amount)


def bought(amount: object, **more: object) -> dict[str, Any]:
    """A purchase of ada's."""
    return {"user_id": "ada", "amount": amount, "at": AT, **more}


@pytest.fixture
def store() -> Iterator[tm.Store]:
    """Two rows with a column that is not declared, and one whose amount is no number."""
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Spend]))
        opened.materialize()
        rows = [bought(1.0), bought(2.0, coupon="x"), bought("much"), bought(4.0, coupon="y")]
        done = opened.push("purchase", rows, on_error="quarantine")
        assert (done.accepted, done.quarantined) == (1, 3)
        yield opened


def bury(store: tm.Store, *letters: Letter) -> None:
    """Keep rows that are no events, as a stream does in which nothing is good."""
    source = store.registry.snapshot().definitions.source("purchase")
    none = HISTORY.select([*source.types])
    store._project.log.append(source, none, seen=0, buried=letters)


def put_right(store: tm.Store) -> None:
    """Declare the column that was missing."""
    store.apply(store.plan([SpendOfWider]))


def spend(store: tm.Store) -> tuple[int, float]:
    """How often ada bought, and for how much."""
    vector = store.online(["spend:purchases", "spend:total"], {"user_id": "ada"})
    return vector["purchases"], vector["total"]


def numbers(store: tm.Store, **options: Any) -> list[int]:
    """The dead letters there are."""
    return [each.number for each in store.events.dead_letters("purchase", **options)]


def test_what_is_good_now_counts_and_the_rest_stays(store: tm.Store) -> None:
    """With the reasons that it has now; what left is kept with the moment."""
    put_right(store)
    done = store.events.replay("purchase")
    assert (done.accepted, done.duplicates, done.refused) == (2, 0, 1)
    assert spend(store) == (3, 7.0)
    (left,) = store.events.dead_letters("purchase")
    assert (left.number, left.reasons) == (2, ('amount "much" must be float64',))
    assert numbers(store, replayed=True) == [1, 3]
    for each in store.events.dead_letters("purchase", replayed=True):
        assert each.replayed > each.at


def test_nothing_put_right_changes_only_reasons(store: tm.Store) -> None:
    """Nothing counts, and each says what it lacks still."""
    assert store.events.replay("purchase").refused == 3
    assert (spend(store), numbers(store)) == ((1, 1.0), [1, 2, 3])
    put_right(store)
    store.events.replay("purchase", [2])
    reasons = {each.number: each.reasons for each in store.events.dead_letters("purchase")}
    assert "coupon" in reasons[1][0]
    assert reasons[2] == ('amount "much" must be float64',)


def test_replaying_again_counts_nothing_again(store: tm.Store) -> None:
    """Also of those that are named; one that never was is an error."""
    put_right(store)
    assert store.events.replay("purchase", [3]).accepted == 1
    assert store.events.replay("purchase", [3]).accepted == 0
    assert store.events.replay("purchase").accepted == 1
    assert spend(store) == (3, 7.0)
    with pytest.raises(NotFound, match="no dead letter 4 of purchase"):
        store.events.replay("purchase", [1, 4])


def test_an_event_and_the_note_of_it_are_one_step(
    store: tm.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dies before the transaction ends has done nothing, after it everything."""
    put_right(store)
    settle = table.settle

    def dying(*args: Any) -> None:
        settle(*args)
        raise StoreUnavailable("The process is gone.")

    with monkeypatch.context() as patched:
        patched.setattr(table, "settle", dying)
        with suppress(StoreUnavailable):
            store.events.replay("purchase")
    store.events.catch_up()
    assert (spend(store), numbers(store)) == ((1, 1.0), [1, 2, 3])

    with monkeypatch.context() as patched:
        patched.setattr(store.events, "catch_up", dying)
        with suppress(TypeError):
            store.events.replay("purchase")
    store.events.catch_up()
    assert (spend(store), numbers(store)) == ((3, 7.0), [2])
    assert store.events.replay("purchase").accepted == 0


def test_two_processes_do_not_replay_the_same(
    store: tm.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes later keeps nothing and is told so."""
    put_right(store)
    log = store._project.log
    stale = log.buried("purchase")
    store.events.replay("purchase")
    monkeypatch.setattr(log, "buried", lambda *_, **__: stale)
    with pytest.raises(StoreConflict, match="Another process has replayed"):
        store.events.replay("purchase", [1, 2, 3])
    assert spend(store) == (3, 7.0)


def test_a_clock_that_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was of the future is an event once that has come."""
    monkeypatch.setenv("TIDEMARK_FUTURE", "1h")
    later = datetime.now(UTC) + timedelta(hours=2)
    with tm.connect(":memory:") as store:
        store.apply(store.plan([Spend]))
        store.materialize()
        store.push("purchase", bought(1.0, at=later), on_error="quarantine")
        assert store.events.replay("purchase").refused == 1
        real = store.events.bounds

        def bounds(source: Any) -> Any:
            found = real(source)
            return type(found)(found.now, found.latest + 7_200_000_000, found.oldest)

        monkeypatch.setattr(store.events, "bounds", bounds)
        assert store.events.replay("purchase").accepted == 1


def test_what_is_no_row_stays(store: tm.Store) -> None:
    """Text of several lines, a list, bytes: none of them is taken for rows of its own."""
    texts = ["no\njson", '[{"user_id": "ada"}]', "", '{"user_id":\n "ada",\r\n "amount": 8.0}']
    bury(store, *(Letter(text, ("odd",)) for text in texts))
    assert store.events.replay("purchase", [4, 5, 6, 7]).refused == 4
    reasons = [each.reasons for each in store.events.dead_letters("purchase", after=3)]
    assert reasons == [
        ("(row) is not a JSON object",),
        ("(row) is not a JSON object",),
        ("(row) is not a JSON object",),
        ("at null an event needs a time",),
    ]


def test_a_message_may_have_columns_that_nobody_declared(store: tm.Store) -> None:
    """As the stream that it came from may."""
    row = '{"user_id": "ada", "amount": 8.0, "at": "2026-03-01T12:00:00Z", "other": 1}'
    letter = Letter(row, ("odd",), origin="topic/0", offset="17")
    bury(store, letter)
    assert store.events.replay("purchase", [4]).accepted == 1
    bury(store, letter)  # the message delivered again
    assert store.events.dead_letters("purchase", after=3) == []
    assert spend(store) == (2, 9.0)
