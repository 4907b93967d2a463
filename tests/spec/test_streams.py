"""Streams: each message is counted once, whoever reads it and whatever dies meanwhile."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest
from click.testing import CliRunner
from tests.kafka_broker import Broker, FaultyBroker

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.engines.log import EventLog
from tidemark.errors import RequestInvalid, StaleSource, StoreUnavailable
from tidemark.ingest import consume
from tidemark.ingest.streams.lines import Lines
from tidemark.store import streaming
from tidemark.store.pushing import Pushing

FEATURES = """
from datetime import datetime
import tidemark as tm


class User(tm.Entity):
    user_id: tm.Key[str]


class Shop(tm.Entity):
    shop: tm.Key[str]


class Purchase(tm.Source, time="at", unique="order_id", stream={stream}):
    order_id: tm.Col[str]
    user_id: tm.Col[str]
    shop: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class UserSpend(tm.FeatureView, entity=User, source=Purchase):
    purchases = tm.count(over="30d")
    spend = tm.sum(Purchase.amount, over="30d")


class ShopSales(tm.FeatureView, entity=Shop, source=Purchase):
    sales = tm.count(over="30d")
"""
NOW = datetime.now(UTC)


def project(folder: Path, stream: str, **settings: Any) -> Path:
    """A project with one source and two views, applied, and nothing materialized but emptiness."""
    (folder / "features.py").write_text(FEATURES.replace("{stream}", stream))
    lines = [
        'definitions = "features.py"',
        *(f"{k} = {json.dumps(v)}" for k, v in settings.items()),
    ]
    (folder / "tidemark.toml").write_text("\n".join(lines))
    with tm.connect(folder) as store:
        store.apply(store.plan())
        store.materialize()
    return folder


def event(number: int, **said: Any) -> bytes:
    at = NOW - timedelta(minutes=number % 600)
    row = {
        "order_id": f"o{number}",
        "user_id": f"u{number % 7}",
        "shop": f"s{number % 3}",
        "amount": number / 10,
        "at": at.isoformat(),
        "channel": "a field that the source does not declare",
    }
    return json.dumps(row | said).encode()


def counted(store: Any) -> tuple[list[int], list[int]]:
    """How many events the users and the shops have."""
    users = store.online_many("user_spend:purchases", {"user_id": [f"u{i}" for i in range(7)]})
    shops = store.online_many("shop_sales:sales", {"shop": [f"s{i}" for i in range(3)]})
    return (
        [row["purchases"] for row in users.to_dicts()],
        [row["sales"] for row in shops.to_dicts()],
    )


def expected(numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    return (
        [sum(n % 7 == i for n in numbers) for i in range(7)],
        [sum(n % 3 == i for n in numbers) for i in range(3)],
    )


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    project(tmp_path, 'tm.ndjson("events.ndjson")')
    (tmp_path / "events.ndjson").write_bytes(b"")
    return tmp_path


def append(folder: Path, *messages: bytes) -> None:
    with (folder / "events.ndjson").open("ab") as file:
        file.writelines(message + b"\n" for message in messages)


def test_the_views_of_all_entities_follow_one_stream(lines: Path) -> None:
    """An event belongs to a user and to a shop; it is read once."""
    append(lines, *map(event, range(100)))
    with tm.connect(lines) as store:
        (consumed,) = store.streams.run("purchase", once=True)
        assert (consumed.messages, consumed.accepted, consumed.buried) == (100, 100, 0)
        assert counted(store) == expected(range(100))


def test_reading_goes_on_where_it_ended(lines: Path) -> None:
    """In another process, days later."""
    append(lines, *map(event, range(10)))
    with tm.connect(lines) as store:
        store.streams.run(once=True, batch=3)
    append(lines, *map(event, range(10, 20)))
    with tm.connect(lines) as store:
        (consumed,) = store.streams.run(once=True)
        assert consumed.messages == 10
        assert counted(store) == expected(range(20))


def test_an_event_that_comes_twice_counts_once(lines: Path) -> None:
    """Where the source says what identifies one."""
    append(lines, event(1), event(2), event(1))
    with tm.connect(lines) as store:
        (consumed,) = store.streams.run(once=True)
        assert (consumed.accepted, consumed.duplicates) == (2, 1)


def test_what_is_no_event_is_kept_with_its_reasons(lines: Path) -> None:
    """The rest is taken, and reading goes on after it."""
    future = (NOW + timedelta(days=400)).isoformat()
    bad = [
        b"not json",
        b'{"order_id": ',
        b"[1]",
        event(3, amount="a lot"),
        event(4, at=None),
        event(5, at=future),
    ]
    append(lines, event(1), *bad, event(2))
    with tm.connect(lines) as store:
        (consumed,) = store.streams.run(once=True)
        assert (consumed.messages, consumed.accepted, consumed.buried) == (8, 2, 6)
        letters = store.events.dead_letters("purchase")
    reasons = {letter.row: " ".join(letter.reasons) for letter in letters}
    assert len(reasons) == 6
    assert "is not JSON" in reasons['{"order_id": ']
    assert "not a JSON object" in reasons["not json"]
    assert "not a JSON object" in reasons["[1]"]
    assert "amount" in reasons[bad[3].decode()]
    assert "an event needs a time" in reasons[bad[4].decode()]
    assert "ahead of the clock" in reasons[bad[5].decode()]


def test_one_message_alone_that_is_no_json_is_a_dead_letter(lines: Path) -> None:
    """A batch of one is a batch."""
    append(lines, b"{", event(1))
    with tm.connect(lines) as store:
        (consumed,) = store.streams.run(once=True, batch=1)
        assert (consumed.accepted, consumed.buried) == (1, 1)


def test_what_was_streamed_is_trained_on(lines: Path) -> None:
    """History and stream are one source."""
    append(lines, *map(event, range(50)))
    with tm.connect(lines) as store:
        store.streams.run(once=True)
        users = [f"u{i}" for i in range(7)]
        labels = {"user_id": users, "at": [datetime.now(UTC)] * 7}
        import pyarrow as pa

        training = store.training_set("user_spend:purchases", pa.table(labels))
        assert training.to_arrow().column("purchases").to_pylist() == expected(range(50))[0]


def test_a_pause_takes_nothing(lines: Path) -> None:
    """Whoever says it, in whatever process; readers wait, and say so, until it is resumed."""
    with tm.connect(lines) as store, tm.connect(lines) as operator:
        assert operator.streams.pause() == ["purchase"]
        append(lines, event(1), event(2))
        (consumed,) = store.streams.run("purchase", once=True)
        assert (consumed.messages, consumed.paused, consumed.lag) == (0, True, {"events.ndjson": 1})
        (standing,) = store.freshness().streams
        assert (standing.paused, standing.waiting) == (True, {"events.ndjson": 1})

        stop = threading.Event()
        told: list[tuple[int, bool]] = []

        def tell(consumed: Any, error: Any) -> None:
            told.append((consumed.messages, consumed.paused))
            if consumed.paused:
                operator.streams.resume("purchase")
            if consumed.messages == 2:
                stop.set()

        store.streams.run("purchase", told=tell, stop=stop)
        assert told == [(0, True), (0, False), (2, False)]
        assert store.online("user_spend:purchases", {"user_id": "u1"})["purchases"] == 1
        assert not store.freshness().streams[0].paused


def test_who_waits_for_another_reader_says_so_once(
    lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes over, so there is nothing to be done; `once` does not wait for ever."""
    append(lines, event(1))
    monkeypatch.setattr(streaming, "HOLDING_SECONDS", 0.001)
    told: list[str] = []

    def tell(_: Any, error: Exception | None) -> None:
        if error:
            told.append(str(error))
            monkeypatch.setattr(streaming, "UNHELD_SECONDS", 0.1)

    with tm.connect(lines) as store:
        with (
            store._online.lock(f"stream {store.config.namespace} purchase"),
            pytest.raises(StoreUnavailable, match="is busy with: stream"),
        ):
            store.streams.run(once=True, told=tell)
        assert len(told) == 1
        assert told[0].endswith("This process takes over as soon as it can.")
        assert store.streams.run(once=True)[0].messages == 1


def test_how_far_reading_is(lines: Path) -> None:
    """Told by who reads, for everybody; nothing is known before."""
    with tm.connect(lines) as store:
        (standing,) = store.freshness().streams
        assert (standing.source, standing.told) == ("purchase", None)
        assert "stream of purchase: nobody has read it" in repr(store.freshness())
        append(lines, *map(event, range(10)))
        store.streams.run("purchase", once=True)
        with tm.connect(lines) as other:
            assert other.freshness().streams[0].waiting == {"events.ndjson": 0}
            assert "stream of purchase: 0 messages waiting" in repr(other.freshness())


def test_reading_again_changes_nothing(lines: Path) -> None:
    """From an older position: what was taken is told apart, what had been left out comes in."""
    append(lines, *map(event, range(10)))
    with tm.connect(lines) as store:
        end = (lines / "events.ndjson").stat().st_size
        append(lines, *map(event, range(10, 20)))
        (consumed,) = store.streams.run("purchase", start=f"events.ndjson:{end}", once=True)
        assert (consumed.messages, consumed.accepted) == (10, 10)
        (consumed,) = store.streams.run("purchase", start="earliest", once=True)
        assert consumed.messages == 0  # a place to start is for what was never read
        (consumed,) = store.streams.run("purchase", start="earliest", again=True, once=True)
        assert (consumed.messages, consumed.accepted, consumed.duplicates) == (20, 10, 10)
        assert counted(store) == expected(range(20))


def test_reading_again_needs_identities(lines: Path) -> None:
    """Or everything would count twice."""
    features = lines / "features.py"
    features.write_text(features.read_text().replace('unique="order_id", ', ""))
    with tm.connect(lines) as store:
        store.apply(store.plan())
        with pytest.raises(RequestInvalid, match="purchase has no `unique`"):
            store.streams.run("purchase", again=True, once=True)


def test_standard_input_is_another_one_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines are new ones, wherever the last ones ended; the last may lack its end."""
    project(tmp_path, 'tm.ndjson("-")')
    with tm.connect(tmp_path) as store:
        for first in (0, 10):
            some = [*map(event, range(first, first + 5)), b"no json"]
            with piped(b"\n".join(some), monkeypatch):
                (consumed,) = store.streams.run("purchase")
            assert (consumed.messages, consumed.accepted, consumed.buried) == (6, 5, 1)
        assert len(store.events.dead_letters("purchase")) == 2


def test_what_came_by_standard_input_is_not_lost_to_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be read again, so it is kept until it is in the log."""
    project(tmp_path, 'tm.ndjson("-")')
    with tm.connect(tmp_path) as store:
        append, left = EventLog.append, [StoreUnavailable("The disk is full.")]

        def full(*args: Any, **kwargs: Any) -> Any:
            if left:
                raise left.pop()
            return append(*args, **kwargs)

        monkeypatch.setattr(EventLog, "append", full)
        with piped(b"\n".join(map(event, range(20))), monkeypatch):
            (consumed,) = store.streams.run("purchase")
        assert (consumed.messages, consumed.accepted) == (20, 20)
        assert counted(store) == expected(range(20))


@contextmanager
def piped(text: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A standard input that holds some text."""
    end, begin = os.pipe()
    with os.fdopen(begin, "wb") as writer:
        writer.write(text)
    with os.fdopen(end, "r") as reader, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", reader)
        yield


@pytest.mark.parametrize("start", ["other.ndjson:0", "events.ndjson:1-2", "soon", "2026-03-01"])
def test_a_place_that_is_none(lines: Path, start: str) -> None:
    """It is refused, rather than taken for the beginning."""
    with tm.connect(lines) as store, pytest.raises(RequestInvalid):
        store.streams.run("purchase", start=start, once=True)


def test_a_batch_of_nothing_is_refused(lines: Path) -> None:
    """It would read for ever."""
    with tm.connect(lines) as store, pytest.raises(RequestInvalid, match="batch=0"):
        store.streams.run(once=True, batch=0)


def test_pausing_and_resuming_at_once_is_refused(lines: Path) -> None:
    """As a mistake in the command line."""
    words = ["stream", "--pause", "--resume", "--project", str(lines)]
    assert CliRunner().invoke(main, words).exit_code == 2


def test_a_source_without_a_stream_is_named(tmp_path: Path) -> None:
    """With what to declare."""
    project(tmp_path, "None")
    with tm.connect(tmp_path) as store:
        with pytest.raises(RequestInvalid, match="No source has a stream"):
            store.streams.run()
        with pytest.raises(RequestInvalid, match="purchase has no stream"):
            store.streams.run("purchase")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


def kafka_project(
    folder: Path, broker: Broker, topic: str, session_ms: int = 6_000, form: str = ""
) -> Path:
    settings = {"session.timeout.ms": session_ms, "heartbeat.interval.ms": 500}
    settings |= {"max.poll.interval.ms": 10_000}  # after which it asks a broker that is silent
    project(folder, f"tm.kafka({topic!r}{form})")
    with (folder / "tidemark.toml").open("a") as file:
        pairs = ", ".join(f'"{k}" = {v}' for k, v in settings.items())
        file.write(f'\nkafka = {{ "bootstrap.servers" = "{broker.address}", {pairs} }}\n')
    return folder


def run_command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tidemark", "stream", "--project", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_consumers_of_a_topic_are_killed_and_every_event_counts_once(
    tmp_path: Path, broker: Broker
) -> None:
    """Two processes share the partitions; one is killed in the middle, again and again."""
    topic = broker.topic("killed")
    folder = kafka_project(tmp_path, broker, topic)
    stop = threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            broker.send(topic, [event(n) for n in range(sent, sent + 40)], partitions=range(4))
            sent += 40
            time.sleep(0.05)

    producer = threading.Thread(target=send)
    chance = random.Random(os.urandom(8))
    steady = run_command(folder, "--batch", "50")
    with tm.connect(folder) as store:
        while store.freshness().streams[0].told is None:  # then it ends well when it is told to
            assert steady.poll() is None
            time.sleep(0.05)
    producer.start()
    for _ in range(3):
        victim = run_command(folder, "--batch", "50")
        time.sleep(chance.uniform(1.5, 3.5))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    stop.set()
    producer.join()
    steady.terminate()
    out, errors = steady.communicate(timeout=300)
    assert steady.returncode == 0, errors
    last = run_command(folder, "--once", "--json")
    out, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert json.loads(out)[0]["lag"]
    with tm.connect(folder) as store:
        assert counted(store) == expected(range(sent))


def test_a_message_of_avro_can_be_replayed(tmp_path: Path, broker: Broker) -> None:
    """What was decoded is kept as JSON, so that it is an event once a clock was put right."""
    fields = [{"name": name, "type": "string"} for name in ("order_id", "user_id", "shop", "at")]
    fields.append({"name": "amount", "type": "double"})
    schema = {"type": "record", "name": "Purchase", "fields": fields}
    folder = kafka_project(
        tmp_path, broker, broker.topic("ahead"), form=', format="avro", schema="."'
    )
    (folder / "1.avsc").write_text(json.dumps(schema))
    ahead = {**json.loads(event(1)), "at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), ahead)
    broker.send("ahead", [b"\0\0\0\0\1" + body.getvalue()], partitions=[0])
    with tm.connect(folder) as store:
        assert store.streams.run(once=True)[0].buried == 1
        (letter,) = store.events.dead_letters("purchase")
        assert json.loads(letter.row)["order_id"] == "o1"
        assert store.events.replay("purchase").refused == 1
    with (folder / "tidemark.toml").open("a") as file:
        file.write('future = "2h"\n')
    with tm.connect(folder) as store:
        assert store.events.replay("purchase").accepted == 1


def test_brokers_that_cannot_be_reached_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was read to its end then, so `once` does not end as if it had been."""
    broker = FaultyBroker()
    folder = kafka_project(tmp_path, broker, broker.topic("away"), session_ms=2_000)
    broker.send("away", [event(1)], partitions=[0])
    broker.down(is_down=True)
    told: list[str] = []
    with tm.connect(folder) as store:
        with (
            monkeypatch.context() as patched,
            pytest.raises(StoreUnavailable, match="brokers of the topic away cannot be asked"),
        ):
            patched.setattr(consume, "FAILING_SECONDS", 0.5)
            store.streams.run(once=True, told=lambda _, error: error and told.append(error.what))
        assert told
        broker.down(is_down=False)
        assert store.streams.run(once=True)[0].messages == 1
    broker.close()


def test_a_moment_without_partitions_ends_nothing(
    lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long `once` has read before: the others deal them out, and it goes on."""
    monkeypatch.setattr(consume, "UNASSIGNED_SECONDS", 0.0)
    append(lines, *map(event, range(10)))
    poll, lag, gone = Lines.poll, Lines.lag, iter([True, False, True, False])
    dealing_out = [False]

    def polled(stream: Lines, most: int, seconds: float) -> Any:
        dealing_out[0] = next(gone, False)
        return [] if dealing_out[0] else poll(stream, most, seconds)

    monkeypatch.setattr(Lines, "poll", polled)
    monkeypatch.setattr(Lines, "lag", lambda stream: {} if dealing_out[0] else lag(stream))
    with tm.connect(lines) as store:
        assert store.streams.run(once=True, batch=5)[0].messages == 10


def test_an_online_store_that_is_away_ends_once(
    lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken is in the log, and counts when it is back."""
    append(lines, event(1))
    with tm.connect(lines) as store:
        with monkeypatch.context() as patched:
            patched.setattr(consume, "FAILING_SECONDS", 0.0)

            def away(*_: Any, **__: Any) -> None:
                raise StoreUnavailable("The online store is away.")

            patched.setattr(Pushing, "catch_up", away)
            with pytest.raises(StoreUnavailable, match="is away"):
                store.streams.run(once=True)
        assert store.streams.run(once=True)[0].messages == 1
        assert counted(store) == expected([1])


def test_messages_that_are_gone_are_told_and_counted(tmp_path: Path) -> None:
    """They are an error; whoever says `--from earliest` passes them over, and not in silence."""
    broker = FaultyBroker()
    folder = kafka_project(tmp_path, broker, broker.topic("trimmed"), session_ms=2_000)
    broker.send("trimmed", [event(n) for n in range(5)], partitions=[0])
    with tm.connect(folder) as store:
        store.streams.run(once=True)
        # The mock cluster keeps 5 MiB of a partition.
        large = [event(n, channel="x" * 900_000) for n in range(5, 12)]
        broker.send("trimmed", large, partitions=[0])
        with pytest.raises(StaleSource, match="not read yet are gone: partition 0 at offset 5"):
            store.streams.run(once=True)

        told: list[str] = []
        (consumed,) = store.streams.run(
            start="earliest", once=True, told=lambda _, error: error and told.append(error.what)
        )
        assert (consumed.messages, consumed.lost) == (5, 2)
        (lost,) = [each for each in told if "passed over" in each]
        assert lost.endswith("gone before they were read, and are passed over (0: 2).")
        assert counted(store) == expected([*range(5), *range(7, 12)])
        (stream,) = store.freshness().streams
        assert (stream.lost, str(stream)) == (
            2, "  stream of purchase: 0 messages waiting, 2 lost",
        )  # fmt: skip
    broker.close()


def test_a_topic_of_which_nothing_is_left_is_read_to_its_end_at_once(tmp_path: Path) -> None:
    """A reader that comes after another one knows from the log that it has everything."""
    broker = FaultyBroker()
    topic = broker.topic("at-its-end")
    folder = kafka_project(tmp_path, broker, topic, session_ms=2_000)
    broker.send(topic, [event(n) for n in range(10)], partitions=[0, 1])
    for messages in (10, 0):
        with tm.connect(folder) as store:
            (consumed,) = store.streams.run(once=True)
        assert consumed.messages == messages
        assert consumed.lag == {"0": 0, "1": 0, "2": 0, "3": 0}
    broker.close()
