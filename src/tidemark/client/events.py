"""Events as they are sent, and what a server tells of them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from tidemark.client.vectors import batches_of, to_json

OnError = Literal["refuse", "quarantine"]

_JSON, _LINES = "application/json", "application/x-ndjson"
_ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Pushed:
    """What became of a push: it is durable, and every read from now on counts it.

    `duplicates` were there already, with the same content.  `quarantined` rows are among the dead
    letters of the server.  `position` is that of the newest event of the source, `seen` when the
    accepted ones became known.
    """

    accepted: int
    duplicates: int
    quarantined: int
    position: int
    seen: datetime

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Pushed:
        """What the server told."""
        return cls(
            told["accepted"],
            told["duplicates"],
            told["quarantined"],
            told["position"],
            datetime.fromisoformat(told["seen"]),
        )


def body_of(rows: object) -> tuple[bytes, str]:
    """What is sent for rows, and its media type: JSON, or an Arrow stream for a frame."""
    if isinstance(rows, bytes):
        return rows, _LINES
    if isinstance(rows, Mapping):
        return _encoded(cast("Mapping[str, object]", rows)), _JSON
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        return _encoded(list(cast("Sequence[object]", rows))), _JSON
    return _stream(rows), _ARROW


def _encoded(rows: object) -> bytes:
    return json.dumps(to_json(rows), allow_nan=False).encode()


def _stream(frame: object) -> bytes:
    reader = batches_of(frame)
    from pyarrow import ipc

    sink = io.BytesIO()
    with ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return sink.getvalue()
