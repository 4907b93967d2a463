"""The route that takes events: JSON, lines of JSON, or an Arrow stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from tidemark.apps.http.access import Caller, forbidden
from tidemark.apps.http.problems import Refused
from tidemark.errors import RequestInvalid, StoreUnavailable
from tidemark.model.window import moment_text

if TYPE_CHECKING:
    from tidemark.store import Store

EVENTS = "/v1/sources/{name}/events"

_PREFIX, _SUFFIX = "/v1/sources/", "/events"
_ARROW = b"application/vnd.apache.arrow.stream"
_LONGEST_KEY = 255


def source_of(path: str) -> str | None:
    """The source whose events a path takes; None for another path."""
    if path.startswith(_PREFIX) and path.endswith(_SUFFIX) and len(path) > len(EVENTS) - 6:
        return path[len(_PREFIX) : -len(_SUFFIX)]
    return None


def late(seconds: float, began: bool) -> StoreUnavailable:
    """The error of a push that took too long."""
    if not began:
        return StoreUnavailable(
            f"The push did not begin within {seconds:g} s; nothing was taken.", remedy="Try again."
        )
    return StoreUnavailable(
        f"The push was not done within {seconds:g} s; it may have been taken, or may still be.",
        remedy="Push the same again: that is safe with the same Idempotency-Key, and where the "
        "source has `unique`.",
    )


class Events:
    """Takes the events of requests; every call may come from another thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def push(
        self,
        caller: Caller,
        source: str,
        body: bytes,
        headers: Mapping[bytes, bytes],
        query: bytes,
        request_id: str,
    ) -> bytes:
        """What became of the events of a body, as JSON."""
        on_error = _on_error(query)
        key = headers.get(b"idempotency-key", b"").decode("latin-1")
        if len(key) > _LONGEST_KEY:
            raise RequestInvalid(f"The Idempotency-Key has more than {_LONGEST_KEY} characters.")
        with caller.told_nothing_else():
            found = self._store.readers.snapshot().definitions.source(source)
        if caller.limited and (caller.key is None or not {*caller.key.scope.tags} & {*found.tags}):
            raise forbidden()
        rows: object = body
        if headers.get(b"content-type", b"").startswith(_ARROW):
            rows = _arrow(body)
        done = self._store.push(found, rows, on_error=on_error, key=key)
        facts: dict[str, Any] = {
            "request_id": request_id,
            "source": source,
            "accepted": done.accepted,
            "duplicates": done.duplicates,
            "quarantined": done.quarantined,
            "position": done.position,
            "seen": moment_text(done.seen),
        }
        return msgspec.json.encode(facts)


def _on_error(query: bytes) -> Any:
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    for name in given:
        if name != "on_error":
            raise RequestInvalid(
                f"There is no parameter {name!r} here.", remedy="There is: on_error."
            )
    return given.get("on_error", ["refuse"])[-1]


def _arrow(body: bytes) -> object:
    import pyarrow as pa
    from pyarrow import ipc

    try:
        table = ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        what = RequestInvalid(f"The body is not an Arrow stream: {error}.")
        raise Refused(400, what) from None
    return table


_ROWS: dict[str, Any] = {
    "anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}],
    "description": "Events by column, as the source declares; a missing column is null.",
}
_PARAMETERS: list[dict[str, Any]] = [
    {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},
    {
        "name": "on_error",
        "in": "query",
        "schema": {"enum": ["refuse", "quarantine"], "default": "refuse"},
        "description": "Whether bad rows refuse all, or go to the dead letters.",
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "maxLength": _LONGEST_KEY},
        "description": "A push with the key of an earlier one is that push.",
    },
]

PUSHED: dict[str, Any] = {
    "type": "object",
    "required": [
        "request_id", "source", "accepted", "duplicates", "quarantined", "position", "seen",
    ],
    "properties": {
        "request_id": {"type": "string"},
        "source": {"type": "string"},
        "accepted": {"type": "integer"},
        "duplicates": {"type": "integer"},
        "quarantined": {"type": "integer"},
        "position": {"type": "integer"},
        "seen": {"type": "string", "format": "date-time"},
    },
}  # fmt: skip
"""The JSON Schema of the answer."""


def push_path(problems: Mapping[int | str, Any]) -> dict[str, Any]:
    """The OpenAPI of the route; `problems` are the responses that are none of success."""
    operation = {
        "tags": ["push"],
        "operationId": "push_events",
        "summary": "Take events of a source: durable, and counted by the next read",
        "parameters": _PARAMETERS,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ROWS},
                "application/x-ndjson": {"schema": {"type": "string"}},
                _ARROW.decode(): {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "200": {
                "description": "What became of the events.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Pushed"}}
                },
            },
            **{str(status): response for status, response in problems.items()},
        },
    }
    return {EVENTS: {"post": operation}}
