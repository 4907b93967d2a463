"""A broker that speaks Kafka's protocol: the mock cluster of librdkafka, on loopback ports."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import confluent_kafka as kafka


class Broker:
    """Lives as long as this object; other processes may connect to `address`."""

    def __init__(self, brokers: int = 1) -> None:
        settings = {"bootstrap.servers": "mock", "test.mock.num.brokers": brokers}
        self._cluster: Any = cast("Any", kafka).Producer(settings, logger=_Silent())
        known = self._cluster.list_topics(timeout=300).brokers.values()
        self.address = ",".join(f"{each.host}:{each.port}" for each in known)
        self._producer: Any = cast("Any", kafka).Producer(
            {"bootstrap.servers": self.address, "linger.ms": 1}, logger=_Silent()
        )

    def topic(self, name: str) -> str:
        """Create a topic of four partitions, by asking for it; gives its name."""
        assert len(self._producer.list_topics(name, timeout=300).topics[name].partitions) == 4
        return name

    def send(
        self, topic: str, values: Sequence[bytes | None], *, partitions: Sequence[int]
    ) -> None:
        """Append messages to partitions, in turn; they are there when it returns."""
        for place, value in enumerate(values):
            partition = partitions[place % len(partitions)]
            self._producer.produce(topic, value, partition=partition)
        left = self._producer.flush(300)
        assert left == 0

    def close(self) -> None:
        """Stop the cluster."""
        self._producer = self._cluster = None


FETCH, OFFSET_COMMIT, FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT = 1, 8, 10, 11, 12
"""The requests of Kafka's protocol that a broker can be told to refuse."""


class FaultyBroker(Broker):
    """A broker that answers with errors when told to, and deals partitions out without delay.

    Both are asked of the library itself: its Python module does not show them.
    """

    def __init__(self) -> None:
        self._library = _library()
        create, new = self._library.rd_kafka_new, self._library.rd_kafka_mock_cluster_new
        create.restype = new.restype = ctypes.c_void_p
        self._library.rd_kafka_conf_new.restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        conf = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        said = ctypes.create_string_buffer(512)
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", said, ctypes.c_size_t(512))
        self._handle = ctypes.c_void_p(create(0, conf, said, ctypes.c_size_t(512)))
        self._mock = ctypes.c_void_p(new(self._handle, 1))
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._mock, 50)
        self.address = self._library.rd_kafka_mock_cluster_bootstraps(self._mock).decode()
        self._cluster = None
        self._producer = cast("Any", kafka).Producer(
            {"bootstrap.servers": self.address, "linger.ms": 1}, logger=_Silent()
        )

    def refuse(self, request: int, *errors: int) -> None:
        """Answer the next requests of a kind with these errors."""
        for error in errors:
            self._library.rd_kafka_mock_push_request_errors(
                self._mock, ctypes.c_int16(request), ctypes.c_size_t(1), ctypes.c_int(error)
            )

    def down(self, *, is_down: bool) -> None:
        """Close all connections and take no new ones, or take them again."""
        act = "down" if is_down else "up"
        getattr(self._library, f"rd_kafka_mock_broker_set_{act}")(self._mock, ctypes.c_int32(-1))


def _library() -> ctypes.CDLL:
    """The library that the Python module has loaded."""
    place = Path(kafka.__file__).parent
    found = [*place.parent.glob("confluent_kafka.libs/librdkafka*"), *place.glob(".dylibs/librd*")]
    return ctypes.CDLL(str(found[0]) if found else "librdkafka.so.1")


class _Silent:
    def log(self, *_: object) -> None:
        """Drop a line."""
