"""Errors as problem details (RFC 9457): what is wrong and what to do, and nothing of the inside."""

from __future__ import annotations

import logging
import re
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

_log = logging.getLogger("tidemark.http")

Header = tuple[bytes, bytes]


class Refused(Exception):
    """An error that is answered with a status of its own."""

    def __init__(self, status: int, error: TidemarkError, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error
        self.headers = headers


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
        if not told:
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
        facts["bad_rows"], facts["bad"] = error.bad_rows, error.bad
    if error.retryable and not any(name == b"retry-after" for name, _ in headers):
        headers.append((b"retry-after", b"1"))
    return status, msgspec.json.encode(facts), headers
