"""How long events take until reads count them, and until when a stream is known to be read.

Both are kept beside the rows, so that any process can tell: the first is written in one transaction
with the rows of a batch, the second by whoever reads the stream.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemark.online.keys import encode, of_project

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


def alive_key(project: str, source: str) -> bytes:
    """Where the moment is until which a source's stream is known to be read to its end."""
    return encode("b") + of_project(project) + encode((source,))


def read_alive(stored: bytes | None) -> int | None:
    """The moment in microseconds; None where nobody has read the stream to its end."""
    return None if stored is None else msgspec.msgpack.decode(stored, type=int)
