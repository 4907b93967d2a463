"""What works for requests, in threads or in the event loop: so many, and for so long, at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from tidemark.apps.http.problems import Refused
from tidemark.errors import StoreUnavailable

T = TypeVar("T")


class Pool:
    """The places and the threads of one kind of request, which waits for no other kind.

    `most` requests may have a place; who comes when all are taken is told so before anything is
    done for it.  `late` makes the error of an answer that took more than `seconds`, and is told
    whether the work had begun: then it goes on, and keeps its place until it ends.
    """

    def __init__(
        self,
        kind: str,
        threads: int,
        *,
        most: int,
        seconds: float,
        late: Callable[[float, bool], StoreUnavailable] = lambda seconds, _: silent(seconds),
    ) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"tidemark-{kind}")
        self._kind, self._most, self._seconds, self._late = kind, most, seconds, late
        self._taken = 0
        self._left: list[Future[Any]] = []

    @contextmanager
    def place(self) -> Generator[Place]:
        """A place for a request, from its head to its answer; raises `Refused` (503)."""
        place = Place(self)
        place.take()
        try:
            yield place
        finally:
            place.leave()

    def count(self, more: int) -> None:
        """Have more places taken, or fewer; raises `Refused` (503) if there are not as many."""
        if self._left:
            self._left = [each for each in self._left if not each.done()]
        if more > 0 and self._taken + len(self._left) + more > self._most:
            raise Refused(503, self._full())
        self._taken += more

    async def run(self, work: Callable[[], T]) -> T:
        """What the work gives, in another thread; raises what `late` makes if it takes too long."""
        running = self._threads.submit(work)
        waiting = asyncio.wrap_future(running)
        began = False
        try:
            await asyncio.wait((waiting,), timeout=self._seconds)
        finally:
            if not waiting.done():
                began = not running.cancel()
                waiting.cancel()  # an error that comes later is nobody's
                if began:
                    self._left.append(running)
        if not waiting.cancelled():
            return waiting.result()
        raise self._late(self._seconds, began)

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work gives, in this event loop, where it is ended if it takes too long."""
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError:
            raise self._late(self._seconds, True) from None

    def close(self) -> None:
        """Begin nothing more; what has begun is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _full(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"Too many {self._kind} are waiting; nothing was done for this one.",
            remedy="Try again in a moment.",
        )


class Place:
    """The place of one request in a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._taken = False

    def take(self) -> None:
        """Have the place; raises `Refused` (503) if all are taken."""
        self._pool.count(1)
        self._taken = True

    def leave(self) -> None:
        """Let others have it; it is fine if they do already."""
        if self._taken:
            self._taken = False
            self._pool.count(-1)

    @contextmanager
    def left(self) -> Generator[None]:
        """Let others have it while a caller sends; afterwards it is taken again, or `Refused`."""
        self.leave()
        yield
        self.take()


def silent(seconds: float) -> StoreUnavailable:
    """The error of work that changes nothing and took too long."""
    return StoreUnavailable(f"There was no answer within {seconds:g} s.", remedy="Try again.")
