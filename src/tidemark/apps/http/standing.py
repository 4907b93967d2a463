"""How what is served stands, for Prometheus: what every worker knows alike, and none counts.

It is read from the stores by a thread of its own, every few seconds, and told from memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tidemark.monitor.freshness import Verdict

if TYPE_CHECKING:
    from tidemark.monitor.freshness import Freshness
    from tidemark.store import Store
    from tidemark.store.pushing import LogStanding

REFRESH_SECONDS = 5.0
"""How often the stores are asked."""

BELIEVED_SECONDS = 60.0
"""For how long it is told what they said, when they say nothing more."""


class _Known(NamedTuple):
    read_at: float
    freshness: Freshness
    logs: Sequence[LogStanding]


class Standing(Collector):
    """Freshness by view; positions, dead letters and delays by source."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: _Known | None = None

    def refresh(self) -> None:
        """Ask the stores."""
        logs = self._store.events.standing()
        self._known = _Known(time.monotonic(), self._store.freshness(), logs)

    def collect(self) -> Iterator[Metric]:
        """What is known, with ages as of now; names without samples if it is not known."""
        known = self._known
        if known is not None and time.monotonic() - known.read_at > BELIEVED_SECONDS:
            known = None
        yield from self._views(None if known is None else known.freshness)
        yield from self._sources(() if known is None else known.logs)

    def _views(self, freshness: Freshness | None) -> Iterator[Metric]:
        age = _gauge("view_age_seconds", "Time since what is served was complete.", "view")
        promise = _gauge("view_promise_seconds", "The age that a view promises.", "view")
        waiting = _gauge("view_waiting_events", "Events not counted by a view yet.", "view")
        verdict = _gauge("view_verdict", "1 for what holds of a promise.", "view", "verdict")
        for each in () if freshness is None else freshness.views:
            if each.complete_until is not None:
                seconds = (datetime.now(UTC) - each.complete_until).total_seconds()
                age.add_metric([each.view], max(seconds, 0.0))
            if each.promise is not None:
                promise.add_metric([each.view], each.promise.total_seconds())
            waiting.add_metric([each.view], each.waiting)
            for name in get_args(Verdict):
                verdict.add_metric([each.view, name], float(name == each.verdict))
        left = _gauge("stream_waiting_messages", "Messages not taken yet.", "source", "partition")
        paused = _gauge("stream_paused", "1 where nothing is to be taken.", "source")
        lost = CounterMetricFamily(
            "tidemark_stream_lost_messages", "Gone before they were read.", labels=["source"]
        )
        for stream in () if freshness is None else freshness.streams:
            lost.add_metric([stream.source], stream.lost)
            paused.add_metric([stream.source], float(stream.paused))
            for partition, count in stream.waiting.items():
                left.add_metric([stream.source, partition], count)
        yield from (age, promise, waiting, verdict, left, lost, paused)

    def _sources(self, logs: Sequence[LogStanding]) -> Iterator[Metric]:
        position = _gauge("log_position", "The newest position of the event log.", "source")
        dead = CounterMetricFamily(
            "tidemark_dead_letters", "Rows that could not be events.", labels=["source"]
        )
        happened = _delays("event_to_online_seconds", "From an event until reads counted it.")
        accepted = _delays("accepted_to_online_seconds", "From accepting an event until then.")
        for each in logs:
            position.add_metric([each.source], each.position)
            dead.add_metric([each.source], each.dead_letters)
            happened.add_metric([each.source], _buckets(each.delays.event), None)
            accepted.add_metric([each.source], _buckets(each.delays.seen), None)
        yield from (position, dead, happened, accepted)


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tidemark_{name}", what, labels=labels)


def _delays(name: str, what: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"tidemark_{name}", what, labels=["source"])


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Counts of delays as Prometheus has them: each bucket holds those below it too."""
    ends = [str(2**bucket / 1_000) for bucket in range(len(counts) - 1)]
    return [(end, float(n)) for end, n in zip([*ends, "+Inf"], accumulate(counts), strict=True)]
