"""A Kafka topic, read as a member of a consumer group.

The group deals out the partitions.  Which messages were taken is kept with the events, so offsets
that the brokers keep are for their displays only, and are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from tidemark.errors import MissingExtra, NotFound, RequestInvalid, StaleSource, StoreUnavailable
from tidemark.ingest.streams.protocol import Message, Positions, Start
from tidemark.model.graph import Kafka

try:
    import confluent_kafka as kafka
except ImportError:
    raise MissingExtra("kafka", "Reading a Kafka topic") from None

_KafkaError: Any = kafka.KafkaError
_UNKNOWN = {_KafkaError.UNKNOWN_TOPIC_OR_PART, _KafkaError._UNKNOWN_TOPIC}  # noqa: SLF001
_GONE = {_KafkaError._AUTO_OFFSET_RESET, _KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001
_REFUSED = {
    _KafkaError.TOPIC_AUTHORIZATION_FAILED,
    _KafkaError.GROUP_AUTHORIZATION_FAILED,
    _KafkaError.SASL_AUTHENTICATION_FAILED,
    _KafkaError._AUTHENTICATION,  # noqa: SLF001
}
ANSWER_SECONDS = 10.0
REACHED_SECONDS = 1.0
"""How long brokers that could not be reached are asked whether they can be again."""


class KafkaTopic:
    """Partitions and offsets are those of the topic."""

    shared = True
    ended = False

    def __init__(self, stream: Kafka, group: str, settings: Mapping[str, Any]) -> None:
        self.name = f"topic {stream.topic}"
        self._topic = stream.topic
        self._settings = {**settings, "group.id": group}
        if stream.brokers:
            self._settings["bootstrap.servers"] = stream.brokers
        if not self._settings.get("bootstrap.servers"):
            raise RequestInvalid(
                f"Where the brokers of the {self.name} are is not said.",
                remedy='kafka = { "bootstrap.servers" = "host:9092" } in tidemark.toml, or '
                "TIDEMARK_KAFKA=host:9092.",
            )
        self._consumer: Any = None
        self._taken: Callable[[], Positions] = dict
        self._start = Start()
        self._begun: dict[int, int] = {}
        self._trouble = ""  # why no broker was reached, since one was
        self._gone: dict[tuple[str, int], int] = {}  # by partition and the offset that was next

    def open(self, taken: Callable[[], Positions], start: Start) -> None:
        """Join the group; partitions are assigned by the first polls."""
        self._taken, self._start = taken, start
        for partition, offset in start.positions.items():
            if not (partition.isdigit() and offset.isdigit()):
                raise RequestInvalid(
                    f"{partition}:{offset} is no position in the {self.name}.",
                    remedy="Positions are partitions with their offsets, such as 0:1200,1:900.",
                )
        settings = {
            **self._settings,
            "enable.auto.commit": False,
            # An offset that the brokers do not have any more is an error, not a place to go on.
            "auto.offset.reset": "error",
            "error_cb": self._troubled,
        }
        try:
            self._consumer = cast("Any", kafka).Consumer(settings, logger=_SILENT)
        except kafka.KafkaException as error:
            raise RequestInvalid(
                f"The settings of Kafka are refused: {error}.",
                remedy="They are those of librdkafka, in `kafka` of tidemark.toml.",
            ) from None
        self._consumer.subscribe([self._topic], on_assign=self._assign, on_revoke=_revoked)

    def _assign(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Begin each partition after what was taken of it."""
        taken = self._taken()
        begun = [p for p in partitions if str(p.partition) in taken]
        new = [p for p in partitions if str(p.partition) not in taken]
        for each in begun:
            each.offset = int(taken[str(each.partition)]) + 1
            if self._start.leaps:
                with self._asking():
                    low, _ = consumer.get_watermark_offsets(each, timeout=ANSWER_SECONDS)
                if low > each.offset:
                    self._gone[str(each.partition), each.offset] = low - each.offset
                    each.offset = low
        if self._start.at == "time" and new:
            for each in new:
                each.offset = self._start.moment // 1_000
            with self._asking():
                new = consumer.offsets_for_times(new, timeout=ANSWER_SECONDS)
        else:
            for each in new:
                each.offset = self._first(str(each.partition))
        self._begun = {each.partition: each.offset for each in (*begun, *new)}
        consumer.assign([*begun, *new])

    def _first(self, partition: str) -> int:
        if self._start.at == "position" and partition in self._start.positions:
            return int(self._start.positions[partition])
        return int(kafka.OFFSET_END if self._start.at == "latest" else kafka.OFFSET_BEGINNING)

    def poll(self, most: int, seconds: float) -> Sequence[Message]:
        """The next messages of all assigned partitions."""
        found: list[Message] = []
        with self._asking():
            messages = self._consumer.consume(most, timeout=seconds)
            if self._trouble and not messages:
                self._consumer.list_topics(timeout=REACHED_SECONDS)
            self._trouble = ""
        for message in messages:
            error = message.error()
            if error is not None:
                self._refuse(error, message)
                continue
            found.append(Message(str(message.partition()), str(message.offset()), message.value()))
        return found

    def _troubled(self, error: Any) -> None:
        """Note why the brokers cannot be reached: the client tries again, and says it once."""
        if not self._trouble or error.code() != _KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._trouble = error.str()

    def _refuse(self, error: Any, message: Any) -> None:
        """Raise what cannot pass by itself; the client tries again where brokers are away."""
        if error.code() in _UNKNOWN:
            raise NotFound(
                f"There is no {self.name}.", remedy="Create it, or name another in the source."
            )
        if error.code() in _GONE:
            raise StaleSource(
                f"Messages of the {self.name} that were not read yet are gone: partition "
                f"{message.partition()} at offset {message.offset()}.",
                where=str(error.str()),
                remedy="The brokers kept them too briefly.  Load them into the history and "
                "materialize; then go on with --from earliest.",
            )
        if error.code() in _REFUSED or error.fatal():
            raise StoreUnavailable(
                f"The brokers refuse: {error.str()}.",
                where=self.name,
                remedy="Look at `kafka` in tidemark.toml.",
            )

    @property
    def lost(self) -> Mapping[str, int]:
        """Offsets between the last one that was taken and the first one that there is."""
        lost: dict[str, int] = {}
        for (partition, _), count in self._gone.items():
            lost[partition] = lost.get(partition, 0) + count
        return lost

    def rewind(self) -> None:
        """Assign the same partitions again."""
        self._assign(self._consumer, self._consumer.assignment())

    def taken(self, positions: Positions) -> None:
        """Commit, without waiting."""
        offsets = [
            kafka.TopicPartition(self._topic, int(partition), int(offset) + 1)
            for partition, offset in positions.items()
        ]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except kafka.KafkaException:
            return  # it is for displays, and the next one tells the same

    def lag(self) -> Mapping[str, int]:
        """From the ends of the partitions, as the newest answers of the brokers told them.

        Only what none has told is asked: that waits behind the request for messages.
        """
        lags: dict[str, int] = {}
        with self._asking():
            for place in self._consumer.position(self._consumer.assignment()):
                low, high = self._consumer.get_watermark_offsets(place, cached=True)
                at = place.offset if place.offset >= 0 else self._begun.get(place.partition, -1)
                if high < 0 or (at < 0 and low < 0):
                    low, high = self._consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS)
                if at < 0:
                    at = high if at == kafka.OFFSET_END else low
                lags[str(place.partition)] = max(0, high - max(0, at))
        return lags

    @contextmanager
    def _asking(self) -> Generator[None]:
        """What brokers answer, or do not, while they are started, moved or too busy."""
        try:
            yield
        except kafka.KafkaException as error:
            why = self._trouble or error.args[0].str()
            raise StoreUnavailable(
                f"The brokers of the {self.name} cannot be asked: {why}.",
                remedy="They are asked again.",
            ) from None

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _revoked(consumer: Any, _partitions: Sequence[Any]) -> None:
    consumer.unassign()


class _Silent:
    """The client's log is not ours to print; what matters comes as an error."""

    def log(self, *_: object) -> None:
        """Drop a line."""


_SILENT = _Silent()
