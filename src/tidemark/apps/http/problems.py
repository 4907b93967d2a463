"""Errors as problem details (RFC 9457): what is wrong and what to do, and nothing of the inside."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from tidemark.errors import EventsRefused, TidemarkError

MEDIA_TYPE = "application/problem+json"

_STATUS = {
    "request-invalid": 422,
    "events-refused": 422,
    "not-permitted": 403,
    "not-found": 404,
    "stale-source": 409,
    "plan-conflict": 409,
    "store-unavailable": 503,
    "store-conflict": 503,
}
# Where an error of these lies is in the request; of others it may be a file of the server.
_TELLS_WHERE = {"request-invalid", "events-refused", "stale-source"}

# What looks like a file; errors of databases name theirs.
_PATH = re.compile(r"(?<![\w.:/])/[^\s,;:'\"]+")

_LONGEST = 1_000
"""Characters of what a problem tells."""

_MOST_BAD = 10_000
"""Things that are wrong with pushed rows of which a problem tells each."""

EVERY_SECONDS = 10.0
"""How often the log says that requests fail for the same reason."""

_log = logging.getLogger("tidemark.http")

Header = tuple[bytes, bytes]


class Refused(Exception):
    """An error that is answered with a status of its own."""

    def __init__(self, status: int, error: TidemarkError, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error
        self.headers = headers


class Failing:
    """What a store that is away makes fail: said once of each kind, and then counted.

    Every `EVERY_SECONDS` in which there was more of it, one line says how much.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}
        self._more: Counter[str] = Counter()

    def note(self, request_id: str, error: TidemarkError) -> None:
        """Say or count that a request failed."""
        with self._lock:
            if error.slug in self._said:
                self._more[error.slug] += 1
                return
            self._said[error.slug] = self._clock()
        _log.error("request %s: %s", request_id, error)

    def settle(self) -> None:
        """Say how many have been counted, where it is time to; called every second or so."""
        with self._lock:
            now = self._clock()
            due = [slug for slug, at in self._said.items() if now - at >= EVERY_SECONDS]
            counted = {slug: self._more.pop(slug, 0) for slug in due}
            for slug, more in counted.items():
                if more:
                    self._said[slug] = now
                else:  # it is over: the next one is said
                    del self._said[slug]
        for slug, more in counted.items():
            if more:
                _log.error("%d more requests failed: %s", more, slug)


failing = Failing()
"""Of this process, since its log is."""


def problem(error: Exception, request_id: str) -> tuple[int, bytes, list[Header]]:
    """The status, the body and further headers that answer an error.

    What is none of Tidemark's errors goes to the log, and the caller is told only its number.
    """
    headers: list[Header] = []
    status: int | None = None
    told = False  # whether the log has it, or need not
    if isinstance(error, Refused):
        told = True
        status, headers = error.status, list(error.headers)
        error = error.error
    if not isinstance(error, TidemarkError):
        told = True
        _log.error("request %s failed", request_id, exc_info=error)
        error = TidemarkError(
            "Something unforeseen happened.", remedy="The log of the server has the request id."
        )
    status = status or _STATUS.get(error.slug, 500)
    detail, remedy = error.what, error.remedy
    if status >= 500:
        if not told and error.retryable:
            failing.note(request_id, error)
        elif not told:
            _log.error("request %s: %s", request_id, error)
        detail, remedy = _PATH.sub("...", detail), _PATH.sub("...", remedy)
    if len(detail) > _LONGEST:  # it repeats what was sent
        detail = f"{detail[: _LONGEST - 3]}..."
    facts: dict[str, Any] = {
        "type": f"urn:tidemark:error:{error.slug}",
        "title": type(error).__name__,
        "status": status,
        "detail": detail,
        "slug": error.slug,
        "remedy": remedy,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    if error.where and error.slug in _TELLS_WHERE:
        facts["where"] = error.where
    if isinstance(error, EventsRefused):
        facts["bad_rows"], facts["bad"] = error.bad_rows, error.bad[:_MOST_BAD]
    if error.retryable and not any(name == b"retry-after" for name, _ in headers):
        headers.append((b"retry-after", b"1"))
    return status, msgspec.json.encode(facts), headers
