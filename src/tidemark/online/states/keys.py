"""Where rows are: the bytes of keys.

    views ever written  msgpack "v", {project}
    record of a view    msgpack "m", {project}, [view]
    what rows hold      msgpack "h", {project}, [view, state]
    rows being written  msgpack "p", {project}, [view, state]
    delays of events    msgpack "d", {project}, [source]
    reading of a stream msgpack "b", {project}, [source]
    row of an entity    msgpack "r", [project, view, state, generation], {[key, ...]}

Each part says its own length, so different tuples never give the same bytes, and nothing is hashed.
What stands between braces decides which node of a cluster holds the key: the rows of an entity are
together, and so is what decides about all rows of a project.
`state` is the fingerprint of what rows hold; `generation` counts the materializations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from tidemark.model.fingerprint import held_id
from tidemark.model.graph import Entity, FeatureView, Source
from tidemark.model.types import Type
from tidemark.online.rows.codec import FORMAT, other_format
from tidemark.online.rows.values import Convert, stored

encode = msgspec.msgpack.Encoder().encode

ANY_MOMENT = -(2**63)
"""The floor of a state that keeps everything."""

_ARRAY_OF_2, _ARRAY_OF_4 = b"\x92", b"\x94"  # how msgpack begins an array of so many items


class State(msgspec.Struct, frozen=True):
    """Rows that serve: what they hold (`state`), and which of their generations is the current one.

    They answer for moments of at least `floor`, from the events known by `until` (microseconds).
    `position` is that of the newest event of the source's log that they hold, or have considered.
    When they were materialized, they were `rows` of `events`, the largest of `largest` events.
    """

    state: str
    generation: int
    until: int
    floor: int
    rows: int
    events: int
    position: int = 0
    largest: int = 0


class Record(msgspec.Struct, frozen=True):
    """The rows that serve for a view, newest first; written in one transaction with becoming so.

    `leaving` are states and generations whose rows are being deleted, or are still being written.
    """

    format: int
    states: tuple[State, ...] = ()
    leaving: tuple[tuple[str, int], ...] = ()

    def state(self, name: str) -> State | None:
        """The state of that name; None if no rows of it serve."""
        return next((each for each in self.states if each.state == name), None)


class _Format(msgspec.Struct, frozen=True):
    """What a record of any release says of itself."""

    format: int


class Held(msgspec.Struct, frozen=True):
    """The view that rows were written for, and the source it read: how they are to be read."""

    view: FeatureView
    source: Source


class Written(msgspec.Struct, frozen=True, omit_defaults=True):
    """That a view may have rows: for which registry (its identity), and how long they took.

    `seconds` are those of its last materialization that was finished; None: there is none.
    """

    registry: str
    seconds: float | None = None


_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_format = msgspec.msgpack.Decoder(_Format).decode
_decode_held = msgspec.msgpack.Decoder(Held).decode
_decode_written = msgspec.msgpack.Decoder(dict[str, Written]).decode


def written_key(project: str) -> bytes:
    """Where is which views may have rows, and how they came about."""
    return encode("v") + of_project(project)


def read_written(stored: bytes | None) -> dict[str, Written]:
    """What is known of each view that may have rows."""
    return {} if stored is None else _decode_written(stored)


def record_key(project: str, view: str) -> bytes:
    """Where the record of a view's rows is."""
    return encode("m") + of_project(project) + encode((view,))


def held_key(project: str, view: str, state: str) -> bytes:
    """Where is what the rows of a state hold."""
    return encode("h") + of_project(project) + encode((view, state))


def journal_key(project: str, view: str, state: str) -> bytes:
    """Where is how far the rows of a state are that are being written."""
    return encode("p") + of_project(project) + encode((view, state))


def is_readable(stored: bytes | None) -> bool:
    """Whether a record, if there is one, is of the format of this release."""
    return stored is None or _decode_format(stored).format == FORMAT


def read_record(stored: bytes | None) -> Record:
    """Read a record; raises `StoreUnavailable` for rows of another format."""
    if stored is None:
        return Record(FORMAT)
    if not is_readable(stored):
        raise other_format(_decode_format(stored).format)
    return _decode_record(stored)


@lru_cache(maxsize=1024)
def read_held(stored: bytes) -> tuple[Held, Mapping[str, str]]:
    """What rows hold, and the names of their features by what answers for them (`held_id`)."""
    held = _decode_held(stored)
    names = {held_id(held.view, each, held.source): each.name for each in held.view.features}
    return held, names


def generation_prefix(project: str, view: str, state: str, generation: int) -> bytes:
    """What the keys of all rows of one materialization start with."""
    return encode("r") + encode((project, view, state, generation)) + b"{"


def view_prefixes(project: str, view: str) -> tuple[bytes, bytes, bytes]:
    """What the keys of all rows of a view, and of what is said of its states, start with."""
    rows = encode("r") + _ARRAY_OF_4 + encode(project) + encode(view)
    states = of_project(project) + _ARRAY_OF_2 + encode(view)
    return rows, encode("h") + states, encode("p") + states


def of_project(project: str) -> bytes:
    """The part of a key that brings what decides about all rows of a project to one node."""
    return b"{" + encode(project) + b"}"


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
        return [encode(values) + b"}" for values in zip(*converted, strict=True)]

    return keys
