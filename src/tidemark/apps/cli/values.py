"""Values typed on the command line: `user_id=u1`, read by the type that was declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.graph import Definitions, Output
from tidemark.model.types import Type
from tidemark.model.window import check_zone, instant, parse_moment

_BOOLS = {"true": True, "false": False}
_KINDS = {"key": "key", "request": "request field"}


def parse_pairs(pairs: Iterable[str], types: Mapping[str, Type], kind: str) -> dict[str, Any]:
    """Read `name=value` pairs; an empty value of anything but text is null."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise RequestInvalid(
                f"{pair!r} is not name=value.", remedy=f"--{kind} {_first(types)}=..."
            )
        if name not in types:
            raise NotFound.named(_KINDS[kind], name, types)
        if name in values:
            raise RequestInvalid(
                f"{name} is given twice.", remedy="A vector is of one entity: say each name once."
            )
        values[name] = parse_value(text, types[name], name)
    return values


def _first(types: Mapping[str, Type]) -> str:
    """A name to show as an example."""
    return next(iter(types), "NAME")


def parse_value(text: str, type_: Type, name: str) -> Any:
    """Read one value as its declared type; raises `RequestInvalid`."""
    if type_.name == "string":
        return text
    if not text:
        return None
    try:
        return _parse(text, type_)
    except (ValueError, KeyError, InvalidOperation, msgspec.DecodeError):
        raise RequestInvalid(f"{name} is {type_}, and {text!r} is not.") from None


def _parse(text: str, type_: Type) -> Any:
    match type_.name:
        case "int64":
            return int(text)
        case "float64":
            return float(text)
        case "decimal":
            return Decimal(text)
        case "bool":
            return _BOOLS[text.lower()]
        case "bytes":
            return bytes.fromhex(text)
        case "date":
            return date.fromisoformat(text)
        case "timestamp":
            return instant(parse_moment(text))
        case "vector":
            return msgspec.json.decode(text, type=list[float])
        case _:
            return msgspec.json.decode(text, type=list[Any])


def parse_split(pairs: Iterable[str], timezone: str | None) -> dict[str, Any] | None:
    """Read the arguments of `TrainingSet.split`, written name=value; None if there are none.

    Two fractions or moments, parted by a comma, are of validation and test.  A day is its midnight
    in `timezone` (None: UTC).  To name an entity is to split by it.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise RequestInvalid(f"{pair!r} is not name=value.", remedy="--split fraction=0.2")
        if name not in _SPLIT:
            raise NotFound.named("argument of split", name, _SPLIT)
        parts = text.split(",") if name in {"fraction", "time"} else [text]
        values = [_of_split(name, part.strip(), timezone) for part in parts]
        if len(values) > 2:
            raise RequestInvalid(f"{name} has at most two values: of validation and of test.")
        found[name] = values[0] if len(values) == 1 else tuple(values)
    if "entity" in found:
        found.setdefault("by", "entity")
    return found or None


_SPLIT = ("fraction", "time", "by", "gap", "seed", "entity")


def _of_split(name: str, text: str, timezone: str | None) -> Any:
    try:
        match name:
            case "fraction":
                return float(text)
            case "seed":
                return int(text)
            case "time":
                return _moment(text, timezone)
            case _:
                return text
    except ValueError:
        kind = "a whole number" if name == "seed" else "a number"
        raise RequestInvalid(f"{name} is {kind}, and {text!r} is not.") from None


def _moment(text: str, timezone: str | None) -> str:
    """A moment as it is written, of a day its midnight."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        parse_moment(text)
        return text
    zone = ZoneInfo(check_zone(timezone)) if timezone else UTC
    return datetime.combine(day, time.min, zone).isoformat()


def key_types(definitions: Definitions, outputs: Iterable[Output]) -> dict[str, Type]:
    """The entity keys that a request for the outputs names, with their types."""
    types: dict[str, Type] = {}
    for reference in definitions.needed(output.reference for output in outputs):
        if reference.kind == "feature":
            entity = definitions.entity(definitions.locate(reference)[0].entity)
            types |= {key.name: key.type for key in entity.keys}
    return types


def request_types(definitions: Definitions, outputs: Iterable[Output]) -> dict[str, Type]:
    """The request values that the outputs are computed from, with their types."""
    return {
        reference.name: definitions.type_of(reference)
        for reference in definitions.needed(output.reference for output in outputs)
        if reference.kind == "request"
    }
