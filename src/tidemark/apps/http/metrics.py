"""What the service counts, in Prometheus form; `docs/reference/http.md` lists the names."""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0
)  # fmt: skip
STAGES = ("decode", "answer", "encode")

_MOST_KINDS = 1_000
"""Kinds of single answers that are held back before they are counted."""


class Metrics:
    """The counts of one worker; where workers share a folder, any of them tells the sums."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
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
        for (features, row), times in self._alike.items():
            for pair in zip(features, row, strict=True):
                self._counted[pair] += times
        self._alike.clear()
        for (feature, status), times in self._counted.items():
            self._values.labels(feature, status).inc(times)
        self._counted.clear()

    def text(self) -> bytes:
        """All counts in the text form of Prometheus."""
        self.settle()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
