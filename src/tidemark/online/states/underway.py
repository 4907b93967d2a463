"""Events that somebody has accepted and that reads do not count yet.

An event is known from the moment at which it is accepted, and counted some milliseconds later.  A
read in between is one of the moment before, so that training has the same for the moment it names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from time import sleep
from typing import NamedTuple

from tidemark.model.window import clock
from tidemark.online.states.marks import Accept, Marks

PATIENCE_SECONDS = 2.0
"""How long a push waits for what others accepted before it."""

_PAUSE_SECONDS = 0.0002
_LOOKING_SECONDS = 0.1
"""How often whoever reads looks for a file of marks where there is none yet."""

_OTHER_CLOCK = 10_000
"""An event that was seen by more than that (microseconds) in the future was so by another clock."""


class Look(NamedTuple):
    """What was under way: whatever is accepted from now on is seen after `moment`."""

    moment: int
    accepts: tuple[Accept, ...] = ()


class UnderWay:
    """Knows what this process is accepting, and through a file what others of this machine are.

    `folder` is that of the event log, which has one machine; None where the log is of this process
    alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._own: dict[object, Accept] = {}
        self._marks: Marks | None = None
        self._look_again = 0.0

    @contextmanager
    def accepting(self, source: str) -> Generator[None]:
        """From before events are given the moment at which they are seen until reads count them."""
        self.share()
        mark, number = object(), number_of(source)
        with self._lock:
            self._own[mark] = (number, clock())
            self._publish(number)
        try:
            yield
        finally:
            with self._lock:
                del self._own[mark]
                self._publish(number)

    def look(self) -> Look:
        """What is under way; reads that begin now count everything that was accepted before it."""
        moment = clock() - 1  # first: what is accepted after it was seen after it
        marks = self._marks or self._found()
        if marks is not None and marks.writable:
            return Look(moment, marks.look(moment))
        return Look(moment, tuple(self._own.values()))

    def settle(self, source: str, seen: int) -> None:
        """Wait until every read that begins then counts what a source had seen by a moment.

        For those that read other sources as well: they are of a moment before whatever is under
        way.  It ends after some seconds in any case.
        """
        end, number = time.monotonic() + PATIENCE_SECONDS, number_of(source)
        while time.monotonic() < end:
            look = self.look()
            ahead = seen - look.moment
            earlier = any(source != number and since <= seen for source, since in look.accepts)
            if not earlier and not 0 < ahead <= _OTHER_CLOCK:
                return
            sleep(_PAUSE_SECONDS)

    def share(self) -> None:
        """Make the file by which other processes know; without one they do not."""
        if self._folder is not None and (self._marks is None or self._marks.inherited):
            self._marks = Marks.of(self._folder, create=True) or self._marks

    def close(self) -> None:
        """Let go of the file."""
        marks, self._marks = self._marks, None
        if marks is not None:
            marks.release()

    def _found(self) -> Marks | None:
        """The file, if somebody has made one meanwhile."""
        if self._folder is None or time.monotonic() < self._look_again:
            return None
        self._marks = Marks.of(self._folder, create=False)
        self._look_again = time.monotonic() + _LOOKING_SECONDS
        return self._marks

    def _publish(self, source: int) -> None:
        if self._marks is not None:
            own = (since for number, since in self._own.values() if number == source)
            self._marks.note(source, min(own, default=0))


class Known(NamedTuple):
    """Up to which moments some states know their sources: the least and the greatest of all.

    `of_source` has the least of those of each source, by its number.
    """

    least: int
    most: int
    of_source: Mapping[int, int]

    @classmethod
    def of(cls, states: Sequence[tuple[str, int]]) -> Known:
        """What states know, given with the names of their sources."""
        of_source: dict[int, int] = {}
        for name, until in states:
            number = number_of(name)
            of_source[number] = min(until, of_source.get(number, until))
        return cls(min(of_source.values()), max(until for _, until in states), of_source)

    def moment(self, look: Look) -> int:
        """The latest moment of which rows of these states, read after a look, have every event.

        They may hold events that were seen after it.  If another clock is ahead of this one, it is
        what they hold: what was written is to be read.
        """
        moment = max(look.moment, self.least)
        for source, since in look.accepts:
            until = self.of_source.get(source)
            if until is not None:
                moment = min(moment, max(until, since - 1))
        return self.most if moment < self.most and self.most >= clock() else moment


@lru_cache(4096)
def number_of(source: str) -> int:
    """What stands for a source in the file."""
    return int.from_bytes(blake2b(source.encode(), digest_size=8).digest(), "little", signed=True)
