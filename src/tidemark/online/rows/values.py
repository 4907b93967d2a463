"""How values look in bytes: the boundary between types and stored rows.

type        word                     msgpack, in dictionaries and keys
int64       itself                   int
float64     the bits of the double   float
bool        0 or 1                   bool
timestamp   microseconds             int
date        days since 1970          int
decimal     low word, high word      text, with all digits of the scale
string      rank in a dictionary     str
bytes       rank in a dictionary     bin
list        rank in a dictionary     array; a null item is nil
vector      rank in a dictionary     array of float
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date
from decimal import Context, Decimal
from typing import Any

from tidemark.model.types import Type
from tidemark.model.window import instant, since_epoch

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EXACT = Context(prec=80)

Convert = Callable[[Any], Any]


def stored(type_: Type) -> Convert | None:
    """The function from a Python value to what msgpack holds; None where that is the value."""
    match type_.name:
        case "timestamp":
            return since_epoch
        case "date":
            return lambda value: value.toordinal() - _EPOCH_DAY
        case "decimal":
            return lambda value: str(rescaled(value, type_))
        case "list" | "vector":
            convert = stored(type_.item) if type_.item is not None else None
            if convert is None:
                return None
            return lambda value: [None if item is None else convert(item) for item in value]
        case _:
            return None


def restored(type_: Type) -> Convert | None:
    """The function from what msgpack holds to the Python value; None where that is the value."""
    match type_.name:
        case "timestamp":
            return instant
        case "date":
            return day
        case "decimal":
            return Decimal
        case "list":
            convert = restored(type_.item) if type_.item is not None else None
            if convert is None:
                return None
            return lambda value: [None if item is None else convert(item) for item in value]
        case _:
            return None


def converted(type_: Type) -> Convert | None:
    """The function from a word to the Python value; None where a word is the value."""
    return _OF_WORD.get(type_.name)


def real(bits: int) -> float:
    """The double that an int64's bits are."""
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def day(days: int) -> date:
    """The date so many days after 1970."""
    return date.fromordinal(_EPOCH_DAY + days)


def rescaled(value: Decimal, type_: Type) -> Decimal:
    """The decimal with exactly the digits after the point that its type has."""
    return value.quantize(Decimal(1).scaleb(-type_.scale), context=_EXACT)


def decimal_of(low: int, high: int, scale: int) -> Decimal:
    """The decimal whose unscaled integer is in two words."""
    return Decimal((high << 64) | (low & 0xFFFF_FFFF_FFFF_FFFF)).scaleb(-scale, _EXACT)


_OF_WORD: dict[str, Convert] = {
    "float64": real,
    "bool": bool,
    "timestamp": instant,
    "date": day,
}
