"""The heaps of rows: the distinct values of columns of codes, as msgpack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from tidemark.online.rows.values import stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.model.types import Type

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_TABLE = 4
"""How many times more possible values than values are worth a table rather than sorting."""

TEXTS = frozenset({"string", "bytes"})
"""The types of codes whose order is that of their Python values."""

_encode = msgspec.msgpack.Encoder().encode
NIL = _encode(None)
_decode = msgspec.msgpack.Decoder(list[Any]).decode
_split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_of_heap = msgspec.msgpack.Decoder(list[list[Any] | None]).decode


@dataclass(frozen=True)
class Dictionary:
    """Distinct values in their order, each as msgpack."""

    items: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.items)


class CodeColumn(Protocol):
    """A column whose words are places in a dictionary, of many entities."""

    @property
    def words(self) -> Words:
        """Places in the dictionary, any where null."""
        ...

    @property
    def valid(self) -> Flags:
        """False where null."""
        ...

    @property
    def dictionary(self) -> Any:
        """The values, sorted: an Arrow array, a `Dictionary` or None."""
        ...


def encoded(dictionary: Any, type_: Type) -> Dictionary:
    """The dictionary of a column: what is one already, an Arrow array, or None."""
    if dictionary is None:
        return Dictionary()
    if isinstance(dictionary, Dictionary):
        return dictionary
    convert, values = stored(type_), dictionary.to_pylist()
    return Dictionary(
        tuple(_encode(value if convert is None else convert(value)) for value in values)
    )


def joined(dictionaries: Sequence[Dictionary], type_: Type) -> tuple[Dictionary, Words]:
    """One dictionary of all values, and the place of each in it, one after the other.

    Values that count as equal (0.0 and -0.0 in a vector) become one, that of the smaller bytes.
    """
    flat = [item for each in dictionaries for item in each.items]
    items, places = _sorted(flat, _decode(array_head(len(flat)) + b"".join(flat)), type_)
    return Dictionary(items), np.array([places[item] for item in flat], np.int64)


def _sorted(
    items: Sequence[bytes], values: Sequence[Any], type_: Type
) -> tuple[tuple[bytes, ...], dict[bytes, int]]:
    """The distinct ones among values that have these bytes, in order, and the place of each."""
    if type_.name in TEXTS:  # what differs differs in its bytes, and sorts as Python has it
        of_value = dict(zip(values, items, strict=True))
        in_order = [of_value[value] for value in sorted(of_value)]
        return tuple(in_order), {item: place for place, item in enumerate(in_order)}
    order = _order(type_)
    keys = {item: order(value) for item, value in zip(items, values, strict=True)}
    places: dict[bytes, int] = {}
    distinct: list[bytes] = []
    before: object = None
    for item in sorted(sorted(keys), key=keys.__getitem__):
        if keys[item] != before or not distinct:
            distinct.append(item)
        before, places[item] = keys[item], len(distinct) - 1
    return tuple(distinct), places


def _order(type_: Type) -> Callable[[Any], Any]:
    """The function from what msgpack holds to what sorts as the values do."""
    match type_.name:
        case "decimal":
            return Decimal
        case "list" | "vector":
            item_type = type_.item
            of_item = _order(item_type) if item_type is not None else _number
            return lambda items: tuple(
                (0, 0) if item is None else _item(of_item(item)) for item in items
            )
        case _:
            return lambda value: value


def _number(value: Any) -> Any:
    return value


def _item(value: Any) -> tuple[int, Any]:
    """Items of lists: NaN after every number; nulls, as (0, 0), before."""
    return (2, 0) if value != value else (1, value)  # noqa: PLR0124


@dataclass(frozen=True)
class Codes:
    """Codes over the dictionary of each segment instead of that of the whole column.

    `ranks` int64[N]; segment s has the values `used[starts[s]:starts[s + 1]]` of the whole one.
    """

    ranks: Words
    used: Words
    starts: Words


def recode(column: CodeColumn, starts: Words) -> Codes:
    """The codes of a column's segments."""
    segments = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    distinct = 1 if column.dictionary is None else max(len(column.dictionary), 1)
    pairs, places = _distinct(
        segments[column.valid] * distinct + column.words[column.valid], distinct * (len(starts) - 1)
    )
    own_starts = np.searchsorted(pairs, np.arange(len(starts)) * distinct)
    ranks = np.zeros(len(segments), np.int64)
    ranks[column.valid] = places - own_starts[segments[column.valid]]
    return Codes(ranks, pairs % distinct, own_starts)


def _distinct(values: Words, bound: int) -> tuple[Words, Words]:
    """The distinct values in order, all of [0, bound), and the place of each value among them."""
    if bound > _TABLE * len(values):
        return np.unique(values, return_inverse=True)
    there = np.zeros(bound, np.bool_)
    there[values] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[values]


def heaps(
    types: Sequence[Type],
    dictionaries: Sequence[Any],
    codes: Sequence[Codes | None],
    rows: int,
) -> tuple[NDArray[np.uint8], Words]:
    """The heaps of all rows, one after the other, and the length of each, in bytes."""
    if not any(codes):
        return np.zeros(0, np.uint8), np.zeros(rows, np.int64)
    pieces = [array_head(len(codes)), NIL]
    counts = np.ones(rows, np.int64)
    for code in codes:
        counts += 1 if code is None else 1 + np.diff(code.starts)
    ends = np.cumsum(counts)
    order = np.empty(int(ends[-1]) if rows else 0, np.int64)
    at = ends - counts
    order[at] = 0
    at += 1
    for type_, dictionary, code in zip(types, dictionaries, codes, strict=True):
        if code is None:
            order[at] = 1
            at += 1
            continue
        sizes = np.diff(code.starts)
        distinct, which = np.unique(sizes, return_inverse=True)
        order[at] = len(pieces) + which
        pieces += [array_head(size) for size in distinct.tolist()]
        at += 1
        order[spread(at, sizes)] = len(pieces) + code.used
        pieces += encoded(dictionary, type_).items
        at += sizes
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    offsets = np.cumsum(lengths) - lengths
    blob = np.frombuffer(b"".join(pieces), np.uint8)
    sizes = lengths[order]
    total = np.concatenate(([0], np.cumsum(sizes)))
    return blob[spread(offsets[order], sizes)], total[ends] - total[ends - counts]


def array_of(heap: bytes, place: int) -> tuple[int, bytes]:
    """How many values the dictionary of a column has, and their bytes."""
    array = bytes(_split(heap)[place])
    if array[0] < 0xDC:
        return array[0] & 15, array[1:]
    after = 3 if array[0] == 0xDC else 5
    return int.from_bytes(array[1:after], "big"), array[after:]


def read_heaps(
    types: Sequence[Type | None], found: Sequence[bytes | None]
) -> list[tuple[Dictionary, Words, Words] | None]:
    """For each column of codes (its type is given), what the heaps of many rows hold.

    That is one dictionary of all values, where the values of each row begin, and the place of each
    in the dictionary.  None is the heap of a row without events.
    """
    whole = [() if heap is None else _of_heap(heap) for heap in found]
    out: list[tuple[Dictionary, Words, Words] | None] = []
    for place, type_ in enumerate(types):
        if type_ is None:
            out.append(None)
            continue
        mine = [values[place] or () if values else () for values in whole]
        sizes = np.fromiter(map(len, mine), np.int64, len(mine))
        dictionary, places = _dictionary(list(chain.from_iterable(mine)), type_)
        out.append((dictionary, np.cumsum(sizes) - sizes, places))
    return out


def _dictionary(values: list[Any], type_: Type) -> tuple[Dictionary, Words]:
    """The dictionary of values as msgpack holds them, and the place of each in it."""
    if type_.name in TEXTS:
        ordered = sorted(set(values))
        of_text = {value: place for place, value in enumerate(ordered)}
        items = tuple(map(_encode, ordered))
        places = map(of_text.__getitem__, values)
    elif type_.scalar:  # then they can be told apart without writing them
        distinct = list(dict.fromkeys(values))
        written = list(map(_encode, distinct))
        items, of_item = _sorted(written, distinct, type_)
        of_value = {value: of_item[item] for value, item in zip(distinct, written, strict=True)}
        places = map(of_value.__getitem__, values)
    else:
        written = list(map(_encode, values))
        items, of_item = _sorted(written, values, type_)
        places = map(of_item.__getitem__, written)
    return Dictionary(items), np.fromiter(places, np.int64, len(values))


def array_head(size: int) -> bytes:
    """How msgpack begins an array."""
    if size < 16:
        return bytes([0x90 | size])
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")


def spread(starts: Words, sizes: Words) -> Words:
    """All indices of many ranges, one range after the other."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)
