"""A broker that speaks Kafka's protocol: the mock cluster of librdkafka, on loopback ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import confluent_kafka as kafka


class Broker:
    """Lives as long as this object; other processes may connect to `address`."""

    def __init__(self, brokers: int = 1) -> None:
        settings = {"bootstrap.servers": "mock", "test.mock.num.brokers": brokers}
        self._cluster: Any = cast("Any", kafka).Producer(settings, logger=_Silent())
        known = self._cluster.list_topics(timeout=10).brokers.values()
        self.address = ",".join(f"{each.host}:{each.port}" for each in known)
        self._producer: Any = cast("Any", kafka).Producer(
            {"bootstrap.servers": self.address, "linger.ms": 1}, logger=_Silent()
        )

    def topic(self, name: str) -> str:
        """Create a topic of four partitions, by asking for it; gives its name."""
        assert len(self._producer.list_topics(name, timeout=10).topics[name].partitions) == 4
        return name

    def send(
        self, topic: str, values: Sequence[bytes | None], *, partitions: Sequence[int]
    ) -> None:
        """Append messages to partitions, in turn; they are there when it returns."""
        for place, value in enumerate(values):
            partition = partitions[place % len(partitions)]
            self._producer.produce(topic, value, partition=partition)
        left = self._producer.flush(10)
        assert left == 0

    def close(self) -> None:
        """Stop the cluster."""
        self._producer = self._cluster = None


class _Silent:
    def log(self, *_: object) -> None:
        """Drop a line."""
