"""Traces of reads for OpenTelemetry, where its library is installed and set up.

Spans are made after the answer, from times that were taken anyway, so that nothing is held up.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import TYPE_CHECKING, Any

from tidemark.apps.http.metrics import STAGES

if TYPE_CHECKING:
    from tidemark.apps.http.vectors import Done


class Tracing:
    """Makes a span for each read, with one inside for each stage; does nothing without a tracer."""

    def __init__(self) -> None:
        self._tracer: Any = None
        try:
            from opentelemetry import propagate, trace
        except ImportError:
            return
        self._propagate, self._trace = propagate, trace
        self._tracer = trace.get_tracer("tidemark")

    def _nobody(self) -> bool:
        """Whether the process has set up nothing that spans go to."""
        trace = self._trace
        return isinstance(self._tracer, trace.ProxyTracer) and isinstance(
            trace.get_tracer_provider(), trace.ProxyTracerProvider
        )

    def read(
        self, done: Done, headers: Mapping[bytes, bytes], request_id: str, service: str | None
    ) -> None:
        """Tell of a read that has just been answered, in the trace that its caller names."""
        if self._tracer is None or self._nobody():
            return
        ended = time_ns()
        began = ended - int(sum(done.seconds) * 1e9)
        caller = None
        if b"traceparent" in headers:
            told = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()
            }
            caller = self._propagate.extract(told)
        span = self._tracer.start_span(
            "tidemark.read", context=caller, start_time=began, kind=self._trace.SpanKind.SERVER
        )
        if not span.is_recording():
            return
        span.set_attribute("tidemark.request_id", request_id)
        span.set_attribute("tidemark.service", service or "features")
        span.set_attribute("tidemark.keys", done.answer.rows)
        inside = self._trace.set_span_in_context(span)
        for stage, seconds in zip(STAGES, done.seconds, strict=True):
            child = self._tracer.start_span(f"tidemark.{stage}", context=inside, start_time=began)
            began += int(seconds * 1e9)
            child.end(end_time=began)
        span.end(end_time=ended)
