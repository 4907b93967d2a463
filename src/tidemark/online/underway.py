"""Events that this process has accepted and that reads do not count yet.

An event is known from the moment at which it is accepted, and counted some milliseconds later.  A
read in between is one of the moment before, so that training has the same for the moment it names.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager


class UnderWay:
    """Knows what this process is accepting; what other processes accept it cannot know."""

    def __init__(self) -> None:
        self._since: dict[object, int] = {}

    @contextmanager
    def accepting(self) -> Generator[None]:
        """From before events are given the moment at which they are seen until reads count them."""
        mark = object()
        self._since[mark] = now()
        try:
            yield
        finally:
            del self._since[mark]

    def known_by(self) -> int:
        """The latest moment (microseconds) of which reads that begin now count every event."""
        moment = now()  # first: what is accepted after it was seen after it
        return min((moment, *(since - 1 for since in tuple(self._since.values()))))


def now() -> int:
    """The moment by the clock of this machine, in microseconds."""
    return time.time_ns() // 1_000
