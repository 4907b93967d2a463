"""What every `StreamSource` promises, as a suite that an adapter's tests derive from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import pytest

from tidemark.ingest.streams.protocol import Message, Start

if TYPE_CHECKING:
    from tidemark.ingest.streams.protocol import StreamSource

PATIENCE = 300.0


class Carrier(Protocol):
    """A stream that a test writes and reads."""

    def send(self, values: Sequence[bytes]) -> None:
        """Append messages; they are there to be read when it returns."""
        ...

    def source(self) -> StreamSource:
        """A new reader of the stream, in the same group as the others."""
        ...


class StreamSourceContract:
    """Derive from it and give the fixture `carrier`: an empty stream."""

    @pytest.fixture
    def carrier(self) -> Carrier:
        """The stream under test."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self, carrier: Carrier) -> Iterator[Callable[..., StreamSource]]:
        """Opens readers, which are closed after the test."""
        sources: list[StreamSource] = []

        def open_(
            taken: Mapping[str, str] | None = None, start: Start | None = None
        ) -> StreamSource:
            source = carrier.source()
            sources.append(source)
            source.open(lambda: taken or {}, start or Start())
            return source

        yield open_
        for source in sources:
            source.close()

    def test_messages_come_once_and_in_the_order_of_their_partition(
        self, carrier: Carrier, opened: Callable[..., StreamSource]
    ) -> None:
        """Whatever the partitions are, all that was sent arrives."""
        carrier.send([b'{"n": %d}' % n for n in range(50)])
        messages = gathered(opened(), 50)
        assert sorted(str(each.value) for each in messages) == sorted(
            str(b'{"n": %d}' % n) for n in range(50)
        )
        for partition in {each.partition for each in messages}:
            numbers = [
                int((each.value or b"")[6:-1]) for each in messages if each.partition == partition
            ]
            assert numbers == sorted(numbers)

    def test_reading_goes_on_after_what_was_taken(
        self, carrier: Carrier, opened: Callable[..., StreamSource]
    ) -> None:
        """Offsets of messages are all that a reader needs to be replaced by another one."""
        carrier.send([b'{"n": 1}', b'{"n": 2}'])
        first = opened()
        taken = {each.partition: each.offset for each in gathered(first, 2)}
        first.close()
        carrier.send([b'{"n": 3}'])
        again = opened(taken)
        assert [each.value for each in gathered(again, 1)] == [b'{"n": 3}']

    def test_what_is_not_taken_comes_again(
        self, carrier: Carrier, opened: Callable[..., StreamSource]
    ) -> None:
        """`rewind` goes back to what was taken."""
        carrier.send([b'{"n": 1}', b'{"n": 2}'])
        source = opened()
        before = gathered(source, 2)
        source.rewind()
        after = gathered(source, 2)
        assert sorted(before) == sorted(after)

    def test_a_reader_may_begin_at_the_end(
        self, carrier: Carrier, opened: Callable[..., StreamSource]
    ) -> None:
        """Then what was there before does not come."""
        carrier.send([b'{"n": 1}'])
        source = opened(start=Start("latest"))
        while not source.lag():  # it has its partitions
            source.poll(10, 0.1)
        carrier.send([b'{"n": 2}'])
        assert [each.value for each in gathered(source, 1)] == [b'{"n": 2}']

    def test_lag_is_nothing_once_everything_has_come(
        self, carrier: Carrier, opened: Callable[..., StreamSource]
    ) -> None:
        """And is told until then."""
        carrier.send([b'{"n": 1}', b'{"n": 2}'])
        source = opened()
        messages = gathered(source, 2)
        source.taken({each.partition: each.offset for each in messages})
        assert not any(source.lag().values())

    def test_closing_twice_is_fine(
        self, carrier: Carrier, opened: Callable[..., StreamSource]
    ) -> None:
        """Also before anything was read."""
        carrier.send([b"{}"])
        source = opened()
        source.close()
        source.close()


def gathered(source: StreamSource, count: int) -> list[Message]:
    """That many messages of a stream; fails where they do not come."""
    found: list[Message] = []
    until = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < until, f"{len(found)} of {count} messages came"
        found += source.poll(count - len(found), 0.1)
    return found
