"""What the service counts, in Prometheus form; `docs/reference/metrics.md` lists the names."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tidemark.errors import EngineError, StaleSource, StoreUnavailable
from tidemark.serve.program import ALWAYS
from tidemark.serve.vector import Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.apps.http.vectors import Done
    from tidemark.serve.log import ServingLog
    from tidemark.serve.program import Program

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0
)  # fmt: skip
_AGES = (1, 10, 60, 300, 900, 3_600, 6 * 3_600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400)
_STATUSES = [*map(str, Status)]
STAGES = ("decode", "store", "kernel", "on_demand", "encode")

_STORE_ERRORS = (StoreUnavailable, StaleSource, EngineError)

_MOST_KINDS = 1_000
"""Kinds of single answers that are held back before they are counted."""


_MOST_AGED = 200
"""Answers whose ages are counted between two times of settling."""


def _by_features(
    alike: Mapping[tuple[tuple[str, ...], bytes], int],
) -> dict[tuple[str, ...], dict[bytes, int]]:
    found: dict[tuple[str, ...], dict[bytes, int]] = {}
    for (features, outcome), often in alike.items():
        found.setdefault(features, {})[outcome] = often
    return found


class _Histogram(Histogram):
    """A histogram that takes many values at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Count values, so many in each bucket, that are `total` together."""
        # The library counts one at a time, at the price of a lock or of a shared page each.
        histogram = cast("Any", self)
        histogram._sum.inc(total)  # noqa: SLF001
        for bucket, count in zip(histogram._buckets, counts, strict=True):  # noqa: SLF001
            if count:
                bucket.inc(count)


class _Times:
    """What a histogram of times is told when counts are settled."""

    def __init__(self, histogram: _Histogram) -> None:
        self._histogram = histogram
        self._counts, self._total = [0] * (len(_SECONDS) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """Hold a time."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._total += seconds

    def take(self) -> Callable[[], None]:
        """Hold nothing any more; what is given counts what was held."""
        counts, self._counts = self._counts, [0] * len(self._counts)
        total, self._total = self._total, 0.0
        return partial(self._histogram.add, counts, total)


class Metrics:
    """The counts of one worker; where workers share a folder, any of them tells the sums.

    `log` is the serving log that is counted too, where there is one.  `standing` is told besides,
    by every worker as it knows it: the stores say the same to all of them.
    """

    def __init__(self, log: ServingLog | None = None, standing: Collector | None = None) -> None:
        self._registry = CollectorRegistry()
        self._standing = standing
        if standing is not None:
            self._registry.register(standing)
        self._requests = Counter(
            "tidemark_http_requests",
            "Requests answered.",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = _Histogram(
            "tidemark_http_request_seconds",
            "Time from the start of a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        stages = _Histogram(
            "tidemark_http_stage_seconds",
            "Time of a read in each of its stages.",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = [_Times(stages.labels(stage)) for stage in STAGES]
        self._keys = Counter(
            "tidemark_keys", "Sets of keys that were answered.", registry=self._registry
        )
        self._values = Counter(
            "tidemark_values",
            "Values that were answered.",
            ("feature", "status"),
            registry=self._registry,
        )
        self._ages = Histogram(
            "tidemark_age_at_serving_seconds",
            "Age of the newest event of an entity when it was read.",
            ("view",),
            buckets=_AGES,
            registry=self._registry,
        )
        self._errors = Counter(
            "tidemark_store_errors",
            "Reads that a store, or what it holds, made fail.",
            ("kind",),
            registry=self._registry,
        )
        for each in _STORE_ERRORS:  # told as 0, so that the first one is seen to be one
            self._errors.labels(each.slug)
        self._logged = Counter(
            "tidemark_serving_log_rows",
            "Rows of the serving log by what became of them.",
            ("outcome",),
            registry=self._registry,
        )
        self._queue = Gauge(
            "tidemark_serving_log_queue_rows",
            "Rows that wait to be written to the serving log.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._log = log
        self._log_counted = {"written": 0, "dropped": 0, "failed": 0}
        self._aged: list[tuple[Program, int, NDArray[np.int64]]] = []
        self._of_route: dict[tuple[str, int], tuple[Counter, _Times]] = {}
        self._alike: Tally[tuple[tuple[str, ...], bytes]] = Tally()
        self._counts: dict[tuple[str, ...], NDArray[np.int64]] = {}
        self._answered = 0
        self._holding = threading.Lock()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        found = self._of_route.get((route, status))
        if found is None:
            times = _Times(self._seconds.labels(route))
            found = self._requests.labels(route, str(status)), times
            self._of_route[route, status] = found
        found[0].inc()
        with self._holding:
            found[1].observe(seconds)

    def read(self, done: Done) -> None:
        """Count a read: its stages, the statuses of its values, and how old they are.

        All that is held until `settle`, single answers that are alike as one; of ages there are
        those of some answers in each second.
        """
        answer, features, outcome = done.answer, done.features, done.outcome
        with self._holding:
            for stage, taken in zip(self._stages, done.seconds, strict=True):
                stage.observe(taken)
            if len(self._aged) < _MOST_AGED:
                self._aged.append((answer.program, answer.at, answer.newest))
            self._answered += answer.rows
            if isinstance(outcome, bytes):
                self._alike[features, outcome] += 1
            else:
                before = self._counts.get(features)
                self._counts[features] = outcome if before is None else before + outcome
            full = len(self._alike) > _MOST_KINDS
        if full:
            self.settle()

    def error(self, error: Exception) -> None:
        """Count an error, if it is one of a store."""
        if isinstance(error, _STORE_ERRORS):
            self._errors.labels(error.slug).inc()

    def settle(self) -> None:
        """Count what is held."""
        with self._holding:
            times = [*self._stages, *(each for _, each in self._of_route.values())]
            held = [each.take() for each in times]
            answered, self._answered = self._answered, 0
            alike, self._alike = self._alike, Tally()
            counts, self._counts = self._counts, {}
            aged, self._aged = self._aged, []
        self._keys.inc(answered)
        for count in held:
            count()
        for features, of_answers in _by_features(alike).items():
            codes = np.frombuffer(b"".join(of_answers), np.uint8).reshape(-1, len(features))
            often = np.array([*of_answers.values()], np.int64)
            found = np.stack([often @ (codes == code) for code in range(len(_STATUSES))], axis=1)
            before = counts.get(features)
            counts[features] = found if before is None else found + before
        for features, of in counts.items():
            for feature, numbers in zip(features, of.tolist(), strict=True):
                for status, number in zip(_STATUSES, numbers, strict=True):
                    if number:
                        self._values.labels(feature, status).inc(number)
        for program, at, newest in aged:
            moments: list[int] = newest[:, 0].tolist() if newest.shape[1] else []
            for view, time in zip(program.views, moments, strict=False):
                if time > ALWAYS:
                    self._ages.labels(view.view.name).observe((at - time) / 1e6)
        self._settle_log()

    def _settle_log(self) -> None:
        if self._log is None:
            return
        self._queue.set(self._log.waiting)
        for outcome, before in self._log_counted.items():
            now: int = getattr(self._log, outcome)
            self._logged.labels(outcome).inc(now - before)
            self._log_counted[outcome] = now

    def text(self) -> bytes:
        """All counts in the text form of Prometheus."""
        self.settle()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        if self._standing is not None:
            together.register(self._standing)
        return generate_latest(together)
