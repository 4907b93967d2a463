"""How long events take until reads count them, and how far streams are read.

Both are kept beside the rows, so that any process can tell: the first is written in one transaction
with the rows of a batch, the second by whoever reads the stream.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemark.online.states.keys import encode, of_project

Moments = Sequence[int] | NDArray[np.int64]
"""Some moments in microseconds; few of them in a list."""

BUCKETS = 34
"""The first holds delays of up to a millisecond, each other one up to twice as much; the last, all
that are longer (from 50 days on)."""


class Delays(msgspec.Struct, frozen=True):
    """How many events of a source took how long, since its delays are counted.

    `event` is the time from the event until reads counted it, `seen` that since it was accepted.
    The clock is that of the writer, just before the rows are committed.
    """

    event: tuple[int, ...] = (0,) * BUCKETS
    seen: tuple[int, ...] = (0,) * BUCKETS

    @property
    def count(self) -> int:
        """How many events were counted."""
        return sum(self.seen)

    def and_these(self, now: int, times: Moments, seen: Moments) -> Delays:
        """With events of these times, accepted at `seen`, that are written `now` (microseconds)."""
        return Delays(_added(self.event, now, times), _added(self.seen, now, seen))


def _added(counts: Sequence[int], now: int, moments: Moments) -> tuple[int, ...]:
    if not isinstance(moments, np.ndarray):  # few: without what arrays cost
        sums = list(counts)
        for moment in moments:
            alone = max(-((moment - now) // 1_000), 1)
            sums[min((alone - 1).bit_length(), BUCKETS - 1)] += 1
        return tuple(sums)
    delays = now - moments
    milliseconds = np.maximum(-(-delays // 1_000), 1)
    buckets = np.minimum(np.ceil(np.log2(milliseconds)).astype(np.int64), BUCKETS - 1)
    more: list[int] = np.bincount(buckets, minlength=BUCKETS).tolist()
    return tuple(map(operator.add, counts, more))


def quantile(counts: Sequence[int], q: float) -> float | None:
    """The seconds within which a share `q` of the delays lie: the upper end of a bucket."""
    total = sum(counts)
    if not total:
        return None
    below = 0
    for bucket, count in enumerate(counts):
        below += count
        if below >= q * total:
            return float(2**bucket / 1_000)
    return float(2 ** (BUCKETS - 1) / 1_000)


def delays_key(project: str, source: str) -> bytes:
    """Where the delays of a source's events are."""
    return encode("d") + of_project(project) + encode((source,))


def read_delays(stored: bytes | None) -> Delays:
    """The delays as they were written; none where nothing was."""
    return Delays() if stored is None else msgspec.msgpack.decode(stored, type=Delays)


class Partition(msgspec.Struct, frozen=True):
    """How one partition of a stream stands.

    `waiting` messages had not been taken at `told`; the last time that there were none was `read`
    (microseconds, 0: never).
    """

    waiting: int
    told: int
    read: int


class Reading(msgspec.Struct, frozen=True):
    """How the reading of a source's stream stands, as its readers have told by partition.

    `stream` is what is read: of another one, nothing of this holds.  `lost` messages were gone
    before they were read, and passed over because somebody said so.
    """

    stream: str = ""
    partitions: dict[str, Partition] = {}
    lost: int = 0

    @property
    def read(self) -> int | None:
        """Until when all that there was has been read; None where that is not known."""
        moments = [each.read for each in self.partitions.values()]
        return min(moments) if moments and all(moments) else None

    def and_told(self, stream: str, now: int, waiting: Mapping[str, int], lost: int = 0) -> Reading:
        """With what a reader tells now of the partitions that it reads, and what it found lost."""
        known = self.partitions if self.stream == stream else {}
        before = self.lost if self.stream == stream else 0
        told = {
            name: Partition(count, now, known[name].read if name in known else 0)
            if count
            else Partition(0, now, now)
            for name, count in waiting.items()
        }
        return Reading(stream, known | told, before + lost)


def reading_key(project: str, source: str) -> bytes:
    """Where it is kept how the reading of a source's stream stands."""
    return encode("b") + of_project(project) + encode((source,))


def read_reading(stored: bytes | None) -> Reading:
    """The reading as it was written; one that knows nothing where nothing was."""
    return Reading() if stored is None else msgspec.msgpack.decode(stored, type=Reading)
