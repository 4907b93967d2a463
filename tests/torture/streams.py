"""The streams that runs read: what is sent to them, and what they said that they keep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from random import Random

from tests.kafka_broker import FaultyBroker
from tests.redis_server import RedisServer
from tests.torture.world import Name, Sending, as_json

MOST = 30
NONSENSE = b'{"order": '


class Stream:
    """A producer that sends, and sends again until what it sent is kept."""

    declared = "None"
    brokers = ""
    once = True
    """Whether nothing is sent again."""

    def __init__(self, name: str, number: int, base: datetime) -> None:
        self._sending = Sending(name, number)
        self._base = base
        self._chance = Random(name)
        self._open: list[Name] = []
        self.acknowledged: set[Name] = set()

    def step(self) -> None:
        """Send some events, or those again of which it is not known whether they are there."""
        names = self._open or self._sending.batch(MOST, several=self.once)
        self._open = names
        values = as_json(names, self._base)
        if self._chance.random() < 0.1:
            values.insert(0, NONSENSE)
        if self._deliver(values):
            self.acknowledged |= set(names)
            self._open = []

    def flush(self) -> None:
        """See to it that all is there."""
        while self._open:
            self.step()

    def _deliver(self, values: Sequence[bytes]) -> bool:
        raise NotImplementedError


class KafkaStream(Stream):
    """A topic of four partitions; the events of one order are in one of them."""

    def __init__(self, name: str, number: int, base: datetime, topic: str) -> None:
        super().__init__(name, number, base)
        self._broker = broker()
        self._topic = self._broker.topic(topic)
        self.declared = f'tm.kafka("{topic}")'
        self.brokers = self._broker.address

    def _deliver(self, values: Sequence[bytes]) -> bool:
        # One batch at a time and in one partition: corrections stay behind what they correct only
        # within a partition, so each partition has a producer's orders of its own.
        self._broker.send(self._topic, values, partitions=[0])
        return True


class RedisEntries(Stream):
    """A stream of a Redis that may be killed."""

    once = False

    def __init__(self, name: str, number: int, base: datetime, server: RedisServer) -> None:
        super().__init__(name, number, base)
        import redis

        self._client = redis.Redis(port=server.port)
        self.declared = f'tm.redis_stream("orders", url="{server.name}")'

    def _deliver(self, values: Sequence[bytes]) -> bool:
        import redis

        try:
            with self._client.pipeline(transaction=True) as several:
                for value in values:
                    several.xadd("orders", {"data": value})
                several.execute()
        except redis.RedisError:
            time.sleep(0.05)
            return False
        return True


class NdjsonStream(Stream):
    """A file of lines."""

    def __init__(self, name: str, number: int, base: datetime, path: Path) -> None:
        super().__init__(name, number, base)
        self._path = path
        path.touch()
        self.declared = f'tm.ndjson("{path.name}")'

    def _deliver(self, values: Sequence[bytes]) -> bool:
        with self._path.open("ab") as file:
            file.write(b"".join(value + b"\n" for value in values))
        return True


@cache
def broker() -> FaultyBroker:
    """The broker of this process."""
    return FaultyBroker()
