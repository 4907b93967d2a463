"""Values as they are pushed, as the declared types: columns at once, or one value with a reason.

| type | from Python | from JSON |
|---|---|---|
| int64 | int | a number without a fraction |
| float64 | float, an int that it holds exactly | a number; `"NaN"`, `"Infinity"`, `"-Infinity"` |
| decimal | Decimal or int, exactly | text; a number without a fraction |
| bool, string | bool, str | themselves |
| bytes | bytes | text in base64 |
| timestamp | datetime, or ISO text; naive only where the source names its zone | ISO text |
| date | date, or ISO text | ISO text |
| list, vector | sequences of these | arrays |
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.engines.arrow import arrow_type
from tidemark.kernel import calendar
from tidemark.model.types import FLOAT64, Type
from tidemark.model.window import since_epoch
from tidemark.online.rows.values import rescaled

Read = Callable[[Any], Any]

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NOTHING = type(None)
_PYTHON: dict[str, frozenset[type]] = {
    "int64": frozenset({int, _NOTHING}),
    "float64": frozenset({float, int, _NOTHING}),
    "bool": frozenset({bool, _NOTHING}),
    "string": frozenset({str, _NOTHING}),
    "date": frozenset({date, _NOTHING}),
}
_PER_MICRO = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}


_EPOCH_DAY = date(1970, 1, 1).toordinal()


class Refusal(ValueError):
    """Why a value is none of its type."""


def column_of(values: Any, type_: Type, zone: str, *, json: bool) -> Any:
    """An Arrow column of the declared type; None where some value needs a look of its own.

    `values` are a list of Python values or an Arrow column; `zone` is that of naive timestamps.
    """
    try:
        if isinstance(values, pa.Array | pa.ChunkedArray):
            column = _of_arrow(values, type_, zone)
        else:
            column = _of_list(values, type_, json=json)
        return column if column is None or type_.name != "timestamp" else _dated(column)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        return None


def _dated(column: Any) -> Any:
    """A column of timestamps, if all are within the years 1 to 9999."""
    micros = micros_of(column)
    if len(micros) and (micros.min() < calendar.FIRST or micros.max() >= calendar.LAST):
        return None
    return column


def micros_of(column: pa.Array | pa.ChunkedArray, null: int = 0) -> NDArray[np.int64]:
    """The microseconds of UTC timestamps, int64[n]; `null` stands for a null."""
    if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1:
        column = column.chunk(0)
    words = column.view(pa.int64()) if isinstance(column, pa.Array) else column.cast(pa.int64())
    micros: NDArray[np.int64] = np.asarray(pc.fill_null(words, null) if words.null_count else words)
    return micros


def _of_list(values: list[Any], type_: Type, *, json: bool) -> Any:
    kinds = set(map(type, values))
    target = arrow_type(type_)
    if kinds <= {_NOTHING}:
        return pa.nulls(len(values), target)
    plain = _PYTHON.get(type_.name)
    if plain is not None and kinds <= plain:
        return pa.array(values, target)
    match type_.name:
        case "bytes" if not json and kinds <= {bytes, _NOTHING}:
            return pa.array(values, target)
        case "timestamp" if kinds <= {str, _NOTHING}:
            return pa.array(values, pa.string()).cast(target)  # fails at one without a zone
        case "timestamp" if kinds <= {datetime, _NOTHING}:
            zones = {value.tzinfo for value in values if value is not None}
            return None if None in zones else pa.array(values, target)
        case _:
            return None


def _of_arrow(column: pa.Array | pa.ChunkedArray, type_: Type, zone: str) -> Any:
    given, target = column.type, arrow_type(type_)
    if given == target:
        return column
    if pa.types.is_null(given):
        return pa.nulls(len(column), target)
    if pa.types.is_dictionary(given):
        return _of_arrow(column.cast(given.value_type), type_, zone)
    if type_.name == "timestamp" and pa.types.is_timestamp(given):
        return _instants(column, zone, target)
    return column.cast(target) if _widens(given, type_) else None


def _widens(given: pa.DataType, type_: Type) -> bool:
    """Whether a cast either keeps every value or fails."""
    is_ = pa.types
    match type_.name:
        case "int64":
            return bool(is_.is_integer(given))
        case "float64":
            return bool(is_.is_floating(given) or is_.is_integer(given))
        case "decimal":
            return bool(is_.is_decimal(given) or is_.is_integer(given))
        case "string":
            return bool(is_.is_large_string(given) or is_.is_string_view(given))
        case "bytes":
            return bool(is_.is_large_binary(given) or is_.is_fixed_size_binary(given))
        case _:
            return False


def _instants(
    column: pa.Array | pa.ChunkedArray, zone: str, target: pa.DataType
) -> pa.Array | None:
    """Timestamps of any unit as microseconds of UTC, nanoseconds cut off downwards."""
    if column.type.tz is None and not zone:
        return None
    times, parts = _PER_MICRO[column.type.unit]
    words = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    micros = words * times if parts == 1 else words // parts
    if column.type.tz is None:
        micros = calendar.to_utc(micros, zone)
    mask = None if not column.null_count else np.asarray(column.is_null())
    return pa.array(micros, pa.int64(), mask=mask).view(target)


@lru_cache(maxsize=512)
def reader(type_: Type, zone: str, *, json: bool) -> Read:
    """What takes one value (not null) as the type, or raises `Refusal` with the reason."""
    match type_.name:
        case "int64":
            return _integer
        case "float64":
            return _json_float if json else _float
        case "decimal":
            return lambda value: _decimal(value, type_, json=json)
        case "bool":
            return _bool
        case "string":
            return _string
        case "bytes":
            return _base64 if json else _bytes
        case "timestamp":
            return lambda value: _moment(value, zone)
        case "date":
            return _date
        case "list" | "vector":
            item = reader(type_.item or FLOAT64, zone, json=json)
            return lambda value: _items(value, type_, item)


@lru_cache(maxsize=512)
def plain_reader(type_: Type, zone: str, *, json: bool) -> Read:
    """What takes one value (not null) of a plain type as `engines.few` has it.

    It raises `ValueError` not only where `reader` does: what is not seen to be right at once needs
    a look of its own.
    """
    match type_.name:
        case "timestamp":
            return lambda value: _micros(value, zone)
        case "float64":
            return lambda value: value if type(value) is float else _float(_exactly(int, value))
        case "bytes" if json:
            return _base64
        case "date":
            return lambda value: _date(value).toordinal() - _EPOCH_DAY
        case name:
            exactly, read = _PLAINLY[name]
            return lambda value: read(_exactly(exactly, value))


def _exactly(type_: type, value: Any) -> Any:
    if type(value) is not type_:
        raise Refusal
    return value


def _micros(value: Any, zone: str) -> int:
    if type(value) is not str and type(value) is not datetime:
        raise Refusal
    return since_epoch(_moment(value, zone))


def _unwrapped(value: Any) -> Any:
    """A numpy scalar as the Python value that it is."""
    return value.item() if type(value).__module__ == "numpy" else value


def _integer(value: Any) -> int:
    value = _unwrapped(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refusal("must be int64")
    if not -(2**63) <= value < 2**63:
        raise Refusal("does not fit into int64")
    return int(value)


def _float(value: Any) -> float:
    value = _unwrapped(value)
    if isinstance(value, float):
        return float(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refusal("must be float64")
    try:
        exact = float(value) == value
    except OverflowError:
        exact = False
    if not exact:
        raise Refusal("is not held exactly by a float64")
    return float(value)


def _json_float(value: Any) -> float:
    return _NOT_FINITE[value] if isinstance(value, str) and value in _NOT_FINITE else _float(value)


def _decimal(value: Any, type_: Type, *, json: bool) -> Decimal:
    if json and isinstance(value, str):
        try:
            value = Decimal(value)
        except InvalidOperation:
            raise Refusal(f"must be {type_}") from None
    if isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    if not isinstance(value, Decimal):
        raise Refusal(f"must be {type_}" + (", as text" if json else ", as a Decimal or an int"))
    whole = type_.precision - type_.scale
    if not value.is_finite() or (value and value.adjusted() >= whole):
        raise Refusal(f"does not fit into {type_}")
    exact = rescaled(value, type_)
    if exact != value:
        raise Refusal(f"has more digits than {type_}")
    return exact


def _bool(value: Any) -> bool:
    value = _unwrapped(value)
    if not isinstance(value, bool):
        raise Refusal("must be bool")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise Refusal("must be string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refusal("holds half a character (a lone surrogate)") from None
    return str(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise Refusal("must be bytes")
    return bytes(cast("Any", value))


def _base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        raise Refusal("must be text in base64") from None


def _moment(value: Any, zone: str) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise Refusal("must be a moment, such as 2026-03-01T12:00:00Z") from None
    if not isinstance(value, datetime):
        raise Refusal("must be a timestamp")
    moment = value
    if moment.tzinfo is None:
        if not zone:
            raise Refusal("carries no time zone, and the source names none")
        moment = moment.replace(tzinfo=ZoneInfo(zone), fold=0)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise Refusal("is outside the years 1 to 9999 in UTC") from None
    return moment


def _date(value: Any) -> date:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise Refusal("must be a date, such as 2026-03-01") from None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise Refusal("must be a date")
    return value


def _items(value: Any, type_: Type, item: Read) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise Refusal(f"must be {type_}")
    several = list(cast("Any", value))
    if type_.size and len(several) != type_.size:
        raise Refusal(f"has {len(several)} items and must be {type_}")
    taken: list[Any] = []
    for place, each in enumerate(several):
        if each is None:
            if type_.name == "vector":
                raise Refusal(f"has a null at {place} and must be {type_}")
            taken.append(None)
            continue
        try:
            taken.append(item(each))
        except Refusal as refusal:
            raise Refusal(f"its item {place} {refusal}") from None
    return taken


_PLAINLY: dict[str, tuple[type, Read]] = {
    "int64": (int, _integer),
    "bool": (bool, _bool),
    "string": (str, _string),
    "bytes": (bytes, _bytes),
}
