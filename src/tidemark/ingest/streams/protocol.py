"""What a stream is: messages in partitions, each with an offset at which reading can go on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from tidemark.errors import RequestInvalid
from tidemark.model.graph import Kafka, Ndjson, RedisStream, Stream
from tidemark.model.window import parse_moment

Positions = Mapping[str, str]
"""Of each partition, the offset of the newest message that was taken; both are text."""

_POSITION = re.compile(r"(.+):(\d+(?:-\d+)?)")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d")


class Message(NamedTuple):
    """One message; `value` is None for one that carries nothing (a tombstone).

    `offset` is empty in a stream that cannot be read twice.
    """

    partition: str
    offset: str
    value: bytes | None


class Start(NamedTuple):
    """Where to begin in a partition of which nothing was taken yet.

    `at` is "earliest", "latest", "time" (then `moment`, microseconds) or "position" (then
    `positions`: of each partition, the first offset to read).  Whoever `said` "earliest" also goes
    on at the earliest message that there is where those that come next are gone.
    """

    at: str = "earliest"
    moment: int = 0
    positions: Positions = MappingProxyType({})
    said: bool = False

    @classmethod
    def of(cls, text: str) -> Start:
        """`earliest`, `latest`, a moment, or positions such as `0:1200,1:900`, `clicks:1772-0`."""
        if text in {"earliest", "latest"}:
            return cls(text, said=True)
        try:
            return cls("time", moment=parse_moment(text), said=True)
        except RequestInvalid as error:
            pairs = [_POSITION.fullmatch(pair) for pair in text.split(",")]
            found = {pair[1]: pair[2] for pair in pairs if pair is not None}
            if len(found) == len(pairs) and not _MOMENT.match(text):
                return cls("position", positions=found, said=True)
            raise RequestInvalid(
                f"{text!r} is no place to start from.",
                remedy="earliest, latest, a moment such as 2026-03-01T00:00:00Z, or positions such "
                "as 0:1200,1:900.",
            ) from error

    @property
    def leaps(self) -> bool:
        """Whether reading goes on where messages that were to come next are gone."""
        return self.said and self.at == "earliest"

    def only(self, partition: str) -> str:
        """The position in a stream of one partition; raises `RequestInvalid` for other ones."""
        if set(self.positions) != {partition}:
            raise RequestInvalid(
                f"The stream has one partition, {partition!r}.",
                remedy=f"Name a position in that one: {partition}:...",
            )
        return self.positions[partition]


class StreamSource(Protocol):
    """Reads the messages of one stream, each partition in its order.

    Where reading goes on after a restart is not kept here but beside the events themselves, in one
    transaction with them: `taken` tells the broker for its own displays only.  Methods are called
    from one thread.  `tidemark.testing.StreamSourceContract` says all of this as tests.
    """

    @property
    def name(self) -> str:
        """What is read, as messages should say it."""
        ...

    @property
    def shared(self) -> bool:
        """Whether the broker deals partitions out to several readers."""
        ...

    def open(self, taken: Callable[[], Positions], start: Start) -> None:
        """Begin to read after what was taken, elsewhere at `start`.

        `taken` is asked again whenever partitions are assigned anew.
        """
        ...

    def poll(self, most: int, seconds: float) -> Sequence[Message]:
        """Up to `most` messages, waiting up to `seconds` for the first; raises `StoreUnavailable`.

        Raises `StaleSource` where messages that were not taken yet are gone.
        """
        ...

    def rewind(self) -> None:
        """Go back to what was taken; what was polled since will come again."""
        ...

    def taken(self, positions: Positions) -> None:
        """Tell the broker how far reading has come."""
        ...

    def lag(self) -> Mapping[str, int]:
        """How many messages of each assigned partition have not been polled yet."""
        ...

    @property
    def lost(self) -> Mapping[str, int]:
        """How many messages of a partition were gone, and passed over since `open`."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing will ever come any more; a file that may grow never ends."""
        ...

    def close(self) -> None:
        """Let go of the stream; closing twice is fine."""
        ...


def open_stream(
    stream: Stream, *, root: Path, group: str, kafka: Mapping[str, Any], redis: str = ""
) -> StreamSource:
    """What reads a stream as it is declared.

    `group` names those who share the reading; `kafka` are settings of librdkafka, `redis` is a URL,
    for what the declaration leaves unsaid.  Raises `MissingExtra` where a client is not installed.
    """
    if isinstance(stream, Kafka):
        from tidemark.ingest.streams.kafka import KafkaTopic

        return KafkaTopic(stream, group, kafka)
    if isinstance(stream, RedisStream):
        from tidemark.ingest.streams.redis import RedisEntries

        return RedisEntries(stream, group, redis)
    assert isinstance(stream, Ndjson)  # noqa: S101 - the last kind there is
    from tidemark.ingest.streams.lines import Lines

    return Lines(stream, root)
