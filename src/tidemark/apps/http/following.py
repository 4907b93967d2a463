"""What a worker learns from the registry meanwhile, in a thread that holds up nobody."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from tidemark.errors import StoreUnavailable, TidemarkError

REFRESH_SECONDS = 1.0
"""How often the registry is asked; this, and the time of an answer, is how late a change shows."""

READY_SECONDS = 2.0
"""How long registry and online store may take to answer when somebody asks whether it is ready."""

_log = logging.getLogger("tidemark.http")


class Following:
    """Calls a function that reads the registry, again and again, until it is stopped."""

    def __init__(self, refresh: Callable[[], object], every: float = REFRESH_SECONDS) -> None:
        self._refresh, self._every = refresh, every
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin; a daemon, since a database that hangs must not keep the process."""
        threading.Thread(target=self._run, name="tidemark-following", daemon=True).start()

    def stop(self) -> None:
        """End after the call that is under way."""
        self._stopped.set()

    def _run(self) -> None:
        failing = False
        while not self._stopped.wait(self._every):
            try:
                self._refresh()
            except Exception as error:  # noqa: BLE001  # to be asked again is all that can be done
                if not failing and not self._stopped.is_set():
                    foreseen = isinstance(error, TidemarkError)
                    _log.warning(
                        "what is followed cannot be read: %s", error, exc_info=not foreseen
                    )
                failing = True
            else:
                failing = False


class Readiness:
    """Whether the registry and the online store answer; they are asked by one thread at a time."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._asking: Future[int | Exception] | None = None

    async def revision(self) -> int:
        """The revision in force; raises what they raise, `StoreUnavailable` if they are silent."""
        if self._asking is None or self._asking.done():
            self._asking = Future()
            threading.Thread(target=self._run, args=(self._asking,), daemon=True).start()
        asking = self._asking
        done, _ = await asyncio.wait((asyncio.wrap_future(asking),), timeout=READY_SECONDS)
        if not done:
            raise StoreUnavailable(
                f"The registry or the online store was silent for {READY_SECONDS:g} s.",
                remedy="Try again.",
            )
        found = asking.result()
        if isinstance(found, Exception):
            raise found
        return found

    def _run(self, asking: Future[int | Exception]) -> None:
        try:
            asking.set_result(self._ask())
        except Exception as error:  # noqa: BLE001  # it is raised by whoever asked
            asking.set_result(error)
