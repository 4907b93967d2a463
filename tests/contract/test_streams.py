"""Every kind of stream gives its messages once, in order, and from where reading had come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from tests.kafka_broker import Broker
from tests.redis_server import RedisServer

from tidemark.errors import NotFound, RequestInvalid, StaleSource, StoreUnavailable
from tidemark.ingest.streams import Message, Start, StreamSource, open_stream
from tidemark.model.graph import Kafka, Ndjson, RedisStream, Stream
from tidemark.online.stores.address import Address
from tidemark.testing.streams import Carrier, StreamSourceContract, gathered


def opened(stream: Stream, root: Path, *, group: str = "test", redis: str = "") -> StreamSource:
    # The mock cluster does not see a member leave, so it waits until the session times out.
    # One that joins just then may wait for ever, so it asks again after some more seconds.
    kafka = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500}
    kafka |= {"max.poll.interval.ms": 10_000}
    return open_stream(stream, root=root, group=group, kafka=kafka, redis=redis)


class LinesCarrier:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "events.ndjson").touch()

    def send(self, values: Sequence[bytes]) -> None:
        with (self.folder / "events.ndjson").open("ab") as file:
            file.writelines(value + b"\n" for value in values)

    def source(self) -> StreamSource:
        return opened(Ndjson("events.ndjson"), self.folder)


class TestLines(StreamSourceContract):
    @pytest.fixture
    def carrier(self, tmp_path: Path) -> Carrier:
        return LinesCarrier(tmp_path)

    def test_half_a_line_waits_for_its_end(self, tmp_path: Path) -> None:
        """Whoever appends may be in the middle of a line."""
        carrier = LinesCarrier(tmp_path)
        source = carrier.source()
        source.open(dict, Start())
        file = (tmp_path / "events.ndjson").open("ab", buffering=0)
        file.write(b'{"n": ')
        assert source.poll(10, 0.01) == []
        file.write(b'1}\n{"n": 2}\n')
        assert [each.value for each in gathered(source, 2)] == [b'{"n": 1}', b'{"n": 2}']
        file.close()
        source.close()

    def test_a_file_that_was_cut_is_an_error(self, tmp_path: Path) -> None:
        """What was read of another file says nothing about this one."""
        carrier = LinesCarrier(tmp_path)
        carrier.send([b"{}"])
        source = carrier.source()
        with pytest.raises(StaleSource, match="3 bytes; 10 had been read"):
            source.open(lambda: {"events.ndjson": "10"}, Start())
        source.close()

    def test_another_file_of_the_same_name_is_an_error(self, tmp_path: Path) -> None:
        """Where the last line ended there is none, and the middle of one would be read."""
        carrier = LinesCarrier(tmp_path)
        carrier.send([b'{"n": 1}'])
        source = carrier.source()
        with pytest.raises(StaleSource, match="no end of a line at 4 bytes"):
            source.open(lambda: {"events.ndjson": "4"}, Start())
        source.close()

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        """With its path."""
        with pytest.raises(NotFound, match=r"nothing\.ndjson"):
            opened(Ndjson("nothing.ndjson"), tmp_path).open(dict, Start())


class RedisCarrier:
    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.client = redis.Redis(port=Address.of(url).hosts[0][1])

    def send(self, values: Sequence[bytes]) -> None:
        for value in values:
            self.client.xadd("events", {"data": value})

    def source(self) -> StreamSource:
        return opened(RedisStream("events"), self.folder, redis=self.url)


class TestRedis(StreamSourceContract):
    @pytest.fixture
    def carrier(self, redis_url: str, tmp_path: Path) -> Iterator[Carrier]:
        carrier = RedisCarrier(redis_url, tmp_path)
        yield carrier
        carrier.client.close()

    def test_the_times_of_an_address_are_those_of_its_reader(
        self, redis_url: str, carrier: RedisCarrier
    ) -> None:
        """As the online store takes them: a Redis that is both has one address."""
        address = Address.of(redis_url)
        assert (address.connect_timeout, address.read_timeout) == (300.0, 300.0)
        carrier.send([b"1"])
        source = carrier.source()
        source.open(dict, Start())
        assert [each.value for each in gathered(source, 1)] == [b"1"]
        source.close()

    def test_a_redis_that_stands_still_does_not_hold_its_reader(
        self, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is told, and read again when it goes on."""
        monkeypatch.setattr("tidemark.ingest.streams.redis._ANSWER_SECONDS", 0.5)
        carrier = RedisCarrier(
            f"redis://127.0.0.1:{redis_server.port}/0?read_timeout=0.5", tmp_path
        )
        carrier.send([b"1"])
        source = carrier.source()
        redis_server.pause()
        with pytest.raises(StoreUnavailable, match="Redis stream events does not answer"):
            source.open(dict, Start())
        redis_server.resume()
        found = list[Message]()
        while not found:
            with suppress(StoreUnavailable):  # which may be slow besides
                source.rewind()
                found += source.poll(10, 0.1)
        assert [each.value for each in found] == [b"1"]
        source.close()
        carrier.client.close()

    def test_an_entry_without_the_field_carries_nothing(
        self, redis_url: str, tmp_path: Path
    ) -> None:
        """It becomes a dead letter, since its offset is passed."""
        carrier = RedisCarrier(redis_url, tmp_path)
        carrier.client.xadd("events", {"other": b"1"})
        source = carrier.source()
        source.open(dict, Start())
        assert [each.value for each in gathered(source, 1)] == [None]
        source.close()
        carrier.client.close()

    def test_entries_that_come_during_the_first_look_are_not_taken_for_lost(
        self, carrier: RedisCarrier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """How many there were and which are left is asked at one moment."""
        execute = redis.client.Pipeline.execute
        late = iter([[b"1", b"2", b"3"]])

        def execute_and_send(pipeline: redis.client.Pipeline, *arguments: bool, **said: bool):
            answers = execute(pipeline, *arguments, **said)
            for values in late:
                carrier.send(values)
            return answers

        carrier.send([b"0"])
        source = carrier.source()
        source.open(dict, Start())
        monkeypatch.setattr(redis.client.Pipeline, "execute", execute_and_send)
        assert [each.value for each in gathered(source, 4)] == [b"0", b"1", b"2", b"3"]
        source.close()

    def test_entries_that_were_trimmed_before_they_were_read(
        self, redis_url: str, tmp_path: Path
    ) -> None:
        """Are an error, also after a restart, until somebody says to go on at the earliest."""
        carrier = RedisCarrier(redis_url, tmp_path)
        taken: dict[str, str] = {}

        def opening(start: Start) -> StreamSource:
            source = carrier.source()
            source.open(lambda: taken, start)
            return source

        def take(source: StreamSource, count: int) -> list[bytes | None]:
            found = gathered(source, count)
            taken["events"] = found[-1].offset
            source.taken(taken)
            return [each.value for each in found]

        carrier.send([b"0", b"1"])
        carrier.client.xtrim("events", maxlen=1, approximate=False)
        source = opening(Start())  # what had gone before anybody read it is nobody's loss
        assert take(source, 1) == [b"1"]
        carrier.send([b"2", b"3", b"4"])
        carrier.client.xtrim("events", maxlen=3, approximate=False)  # what was read
        assert take(source, 3) == [b"2", b"3", b"4"]
        source.close()
        carrier.send([b"5", b"6", b"7"])
        carrier.client.xtrim("events", maxlen=1, approximate=False)
        source = opening(Start())
        with pytest.raises(StaleSource, match=r"Redis stream events after .* are gone: 2"):
            source.poll(10, 0.01)
        source.close()
        source = opening(Start.of("earliest"))
        assert take(source, 1) == [b"7"]
        assert source.lost == {"events": 2}
        carrier.send([b"8", b"9"])
        carrier.client.xtrim("events", maxlen=1, approximate=False)
        with pytest.raises(StaleSource, match="are gone: 1"):
            source.poll(10, 0.01)
        source.close()
        carrier.client.close()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


class KafkaCarrier:
    def __init__(self, broker: Broker, topic: str, folder: Path) -> None:
        self.broker, self.topic, self.folder = broker, broker.topic(topic), folder

    def send(self, values: Sequence[bytes]) -> None:
        self.broker.send(self.topic, values, partitions=range(3))

    def source(self) -> StreamSource:
        return opened(Kafka(self.topic, self.broker.address), self.folder, group=self.topic)


class TestKafka(StreamSourceContract):
    @pytest.fixture
    def carrier(
        self, broker: Broker, request: pytest.FixtureRequest, tmp_path: Path
    ) -> Iterator[Carrier]:
        return KafkaCarrier(broker, request.node.name.replace("[", "_").strip("]"), tmp_path)

    def test_a_member_that_comes_takes_partitions_over_where_they_were_left(
        self, broker: Broker, tmp_path: Path
    ) -> None:
        """The group deals out partitions anew; positions come from who keeps them."""
        carrier = KafkaCarrier(broker, "two_members", tmp_path)
        carrier.send([b'{"n": %d}' % n for n in range(30)])
        taken: dict[str, str] = {}
        first = carrier.source()
        first.open(lambda: taken, Start())
        seen = gathered(first, 30)
        taken.update({each.partition: each.offset for each in seen})
        second = carrier.source()
        second.open(lambda: taken, Start())
        carrier.send([b'{"n": %d}' % n for n in range(30, 60)])
        more: set[bytes] = set()
        while len(more) < 30:
            for member in (first, second):
                for each in member.poll(10, 0.1):
                    taken[each.partition] = max(taken.get(each.partition, ""), each.offset, key=_n)
                    more.add(each.value or b"")
        assert more == {b'{"n": %d}' % n for n in range(30, 60)}
        first.close()
        second.close()

    def test_a_partition_begins_at_the_offset_that_is_named(
        self, broker: Broker, tmp_path: Path
    ) -> None:
        """From which on messages come."""
        topic = broker.topic("positions")
        broker.send(topic, [b"0", b"1", b"2"], partitions=[0])
        source = opened(Kafka(topic, broker.address), tmp_path)
        source.open(dict, Start.of("0:2"))
        assert [each.value for each in gathered(source, 1)] == [b"2"]
        source.close()

    def test_brokers_that_are_not_said_are_asked_for(self, tmp_path: Path) -> None:
        """The setting is named."""
        with pytest.raises(RequestInvalid, match=r"bootstrap\.servers"):
            opened(Kafka("purchases"), tmp_path)


def _n(offset: str) -> int:
    return int(offset or -1)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", Start("earliest", said=True)),
        ("latest", Start("latest", said=True)),
        ("0:12,1:9", Start("position", positions={"0": "12", "1": "9"}, said=True)),
        ("1970-01-01T00:00:01Z", Start("time", 1_000_000, said=True)),
        ("a:b:17-4", Start("position", positions={"a:b": "17-4"}, said=True)),
    ],
)
def test_a_start_is_spelled(text: str, start: Start) -> None:
    """As `--from` takes it."""
    assert Start.of(text) == start


def test_any_other_start_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(RequestInvalid, match="earliest, latest, a moment"):
        Start.of("yesterday")
