"""Where rows are: the bytes of keys.

    record of a view    msgpack "m", [project, view, state]
    row of an entity    msgpack "r", [project, view, state, generation], then [key, ...]

Each part says its own length, so different tuples never give the same bytes, and nothing is hashed.
`state` is the fingerprint of what rows hold; `generation` counts the materializations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tidemark.model.graph import Entity
from tidemark.model.types import Type
from tidemark.online.codec import FORMAT, other_format
from tidemark.online.values import Convert, stored

encode = msgspec.msgpack.Encoder().encode


class Record(msgspec.Struct, frozen=True):
    """What is known of the rows of a view; written in one transaction with becoming current.

    Rows answer for moments of at least `floor`, from the events known by `until` (microseconds).
    """

    format: int
    generation: int
    until: int
    floor: int
    rows: int
    events: int


_decode_record = msgspec.msgpack.Decoder(Record).decode


def record_key(project: str, view: str, state: str) -> bytes:
    """Where the record of a view's rows is."""
    return encode("m") + encode((project, view, state))


def read_record(stored: bytes) -> Record:
    """Read a record; raises `StoreUnavailable` for rows of another format."""
    record = _decode_record(stored)
    if record.format != FORMAT:
        raise other_format(record.format)
    return record


def generation_prefix(project: str, view: str, state: str, generation: int) -> bytes:
    """What the keys of all rows of one materialization start with."""
    return encode("r") + encode((project, view, state, generation))


def stored_key(type_: Type) -> Convert | None:
    """The function from a key's Python value to what its bytes hold; equal keys, equal bytes."""
    if type_.name == "float64":
        return lambda value: value + 0.0  # so that -0.0 is 0.0
    return stored(type_)


def key_encoder(entity: Entity) -> Callable[[Sequence[Sequence[Any]]], list[bytes]]:
    """The function from columns of Python values, one for each key, to what names each entity."""
    converts = [stored_key(field.type) for field in entity.keys]

    def keys(columns: Sequence[Sequence[Any]]) -> list[bytes]:
        converted = [
            column if convert is None else [convert(value) for value in column]
            for convert, column in zip(converts, columns, strict=True)
        ]
        return [encode(values) for values in zip(*converted, strict=True)]

    return keys
