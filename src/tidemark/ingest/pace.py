"""How fast rows are written, where that is to leave room for others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tidemark.errors import RequestInvalid

SLICE_SECONDS = 0.1
"""Rows of so long are written at once, so that the rate holds within any second."""


class Pace:
    """Keeps writing to `rate` rows a second; None or 0: as fast as it goes.

    What was not written in time is not made up for.  Raises `RequestInvalid` for a negative rate.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if rate is not None and not (rate >= 0 and math.isfinite(rate)):
            raise RequestInvalid(
                f"{rate:g} is not a rate.", remedy="It is rows a second; 0 is no limit."
            )
        self._rate = rate or 0.0
        self._clock, self._sleep = clock, sleep
        self._next = 0.0

    def at_once(self, most: int) -> int:
        """How many rows are to be written together, at most `most`."""
        if not self._rate:
            return most
        return max(1, min(most, int(self._rate * SLICE_SECONDS)))

    def wait(self, rows: int) -> None:
        """Wait until so many rows may be written, in naps that a signal ends."""
        if not self._rate:
            return
        while (left := self._next - self._clock()) > 0:
            self._sleep(min(left, SLICE_SECONDS))
        self._next = max(self._next, self._clock()) + rows / self._rate
