"""What the service counts, in Prometheus form; `docs/reference/metrics.md` lists the names."""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tidemark.errors import EngineError, StaleSource, StoreUnavailable
from tidemark.serve.answer import ALWAYS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tidemark.serve.answer import Answer
    from tidemark.serve.log import ServingLog
    from tidemark.serve.program import Program

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0
)  # fmt: skip
_AGES = (1, 10, 60, 300, 900, 3_600, 6 * 3_600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400)
STAGES = ("decode", "store", "kernel", "on_demand", "encode")

_MOST_KINDS = 1_000
"""Kinds of single answers that are held back before they are counted."""


_MOST_AGED = 200
"""Answers whose ages are counted between two times of settling."""


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
        self._seconds = Histogram(
            "tidemark_http_request_seconds",
            "Time from the start of a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        stages = Histogram(
            "tidemark_http_stage_seconds",
            "Time of a read in each of its stages.",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = [stages.labels(stage) for stage in STAGES]
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
        self._of_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._alike: Tally[tuple[tuple[str, ...], tuple[str, ...]]] = Tally()
        self._counted: Tally[tuple[str, str]] = Tally()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        found = self._of_route.get((route, status))
        if found is None:
            found = self._requests.labels(route, str(status)), self._seconds.labels(route)
            self._of_route[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def stages(self, *seconds: float) -> None:
        """Count the stages of a read, in the order of `STAGES`."""
        for stage, taken in zip(self._stages, seconds, strict=True):
            stage.observe(taken)

    def ages(self, answer: Answer) -> None:
        """Count how old what was read is, of some answers in each second."""
        if len(self._aged) < _MOST_AGED:
            self._aged.append((answer.program, answer.at, answer.newest))

    def error(self, error: Exception) -> None:
        """Count an error, if it is one of a store."""
        if isinstance(error, StoreUnavailable | StaleSource | EngineError):
            self._errors.labels(error.slug).inc()

    def values(self, features: tuple[str, ...], statuses: Iterable[list[str]], keys: int) -> None:
        """Count the statuses of values: a column for each feature, of as many as there are keys.

        They are held until `settle`, single answers that are alike as one.
        """
        self._keys.inc(keys)
        if keys == 1:
            self._alike[features, tuple([of[0] for of in statuses])] += 1
            if len(self._alike) > _MOST_KINDS:
                self.settle()
            return
        for feature, of in zip(features, statuses, strict=True):
            present = of.count("PRESENT")  # nearly all
            self._counted[feature, "PRESENT"] += present
            if present < len(of):
                self._counted.update((feature, each) for each in of if each != "PRESENT")

    def settle(self) -> None:
        """Count what is held."""
        for (features, row), count in self._alike.items():
            for pair in zip(features, row, strict=True):
                self._counted[pair] += count
        self._alike.clear()
        for (feature, status), count in self._counted.items():
            self._values.labels(feature, status).inc(count)
        self._counted.clear()
        aged, self._aged = self._aged, []
        for program, at, newest in aged:
            times: list[int] = newest[:, 0].tolist() if newest.shape[1] else []
            for view, time in zip(program.views, times, strict=False):
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
