"""The bytes of a row: all events of an entity that a view may need, as the kernel reads them.

`docs/reference/row-format.md` shows the layout.  Packing is by column over many entities at once.
The bytes depend on the events only, not on which other entities were packed with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec
import numpy as np

from tidemark.errors import StoreUnavailable
from tidemark.kernel.layout import Layout
from tidemark.online.values import restored, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel import Timeline

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

FORMAT = 1
"""The version of the layout; a row of another version is refused."""

PREAMBLE = b"TMRW" + FORMAT.to_bytes(2, "little")
"""What every row starts with; two bytes of flags complete the first word."""

HAS_KNOWN, HAS_UNTIL = 1, 2
HEADER = 8
NEVER = 2**63 - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class EventColumn(Protocol):
    """The values of one input column, for the events of a timeline."""

    @property
    def words(self) -> Words:
        """One word for each event, int64[N]."""
        ...

    @property
    def high(self) -> Words | None:
        """The upper words of decimals."""
        ...

    @property
    def valid(self) -> Flags:
        """False where the value is null, bool[N]."""
        ...

    @property
    def dictionary(self) -> Any:
        """Of a column of codes: the Arrow array of distinct values that words are indices of.

        It is sorted by value; None where all values are null.
        """
        ...


def pack(
    layout: Layout,
    timeline: Timeline,
    columns: Sequence[EventColumn],
    filters: Sequence[Flags],
    *,
    until: int,
    floor: int,
) -> list[bytes]:
    """One row for each segment of the timeline.

    `columns` and `filters` follow the layout; `until` and `floor` are the moments (microseconds) up
    to which the events are complete and from which on the row answers.
    """
    starts = timeline.starts
    n = np.diff(starts)
    known = _differing(timeline.known, timeline.time, starts)
    ended = _differing(timeline.until, NEVER, starts)
    codes = [
        _recode(column, starts) if each.form == "code" else None
        for each, column in zip(layout.columns, columns, strict=True)
    ]
    heap, heap_size = _heaps(layout, columns, codes, len(n))

    words: list[Words] = [timeline.time]
    for column, code in zip(columns, codes, strict=True):
        words.append(np.where(column.valid, column.words if code is None else code.ranks, 0))
        if column.high is not None:
            words.append(np.where(column.valid, column.high, 0))
    flags = [column.valid for column in columns] + list(filters)

    padded = (n + 7) // 8 * 8
    heap_at = (HEADER + n * (len(words) + known + ended)) * 8 + padded * len(flags)
    size = (heap_at + heap_size + 7) // 8
    ends = np.cumsum(size)
    out = np.zeros(int(ends[-1]) if len(ends) else 0, np.int64)
    row = ends - size
    head: list[Words | int] = [
        int.from_bytes(PREAMBLE, "little") | (known * HAS_KNOWN | ended * HAS_UNTIL) << 48,
        n,
    ]
    head += [len(words) - 1, len(flags), heap_at, heap_size, floor, until]
    for i, value in enumerate(head):
        out[row + i] = value

    at = np.repeat(row + HEADER - starts[:-1], n) + np.arange(len(timeline.time))
    step = np.repeat(n, n)
    out[at] = words[0]
    at += step
    for present, values in ((known, timeline.known), (ended, timeline.until)):
        if values is not None and present.any():
            there = np.repeat(present, n) > 0
            out[at[there]] = values[there]
            at += step * there
    for values in words[1:]:
        out[at] = values
        at += step
    narrow = out.view(np.uint8)
    index = np.arange(len(timeline.time)) - np.repeat(starts[:-1], n)
    at = np.repeat(row * 8 + heap_at - padded * len(flags), n) + index
    step = np.repeat(padded, n)
    for flag in flags:
        narrow[at] = flag
        at += step
    narrow[_spread(row * 8 + heap_at, heap_size)] = heap
    packed = out.tobytes()
    return [packed[a:b] for a, b in zip((row * 8).tolist(), (ends * 8).tolist(), strict=True)]


def _differing(values: Words | None, usual: Words | int, starts: Words) -> Words:
    """For each segment, 1 where some value is not the usual one."""
    if values is None:
        return np.zeros(len(starts) - 1, np.int64)
    before = np.concatenate(([0], np.cumsum(values != usual)))
    return (before[starts[1:]] > before[starts[:-1]]).astype(np.int64)


@dataclass(frozen=True)
class _Codes:
    """Codes over the dictionary of each segment instead of that of the whole column.

    `ranks` int64[N]; segment s has the values `used[starts[s]:starts[s + 1]]` of the whole one.
    """

    ranks: Words
    used: Words
    starts: Words


def _recode(column: EventColumn, starts: Words) -> _Codes:
    segments = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    distinct = 1 if column.dictionary is None else max(len(column.dictionary), 1)
    pairs, inverse = np.unique(
        segments[column.valid] * distinct + column.words[column.valid], return_inverse=True
    )
    own_starts = np.searchsorted(pairs, np.arange(len(starts)) * distinct)
    ranks = np.zeros(len(segments), np.int64)
    ranks[column.valid] = inverse - own_starts[segments[column.valid]]
    return _Codes(ranks, pairs % distinct, own_starts)


def _heaps(
    layout: Layout, columns: Sequence[EventColumn], codes: Sequence[_Codes | None], rows: int
) -> tuple[NDArray[np.uint8], Words]:
    """The heaps of all rows, one after the other, and the length of each, in bytes."""
    if not any(codes):
        return np.zeros(0, np.uint8), np.zeros(rows, np.int64)
    pieces = [_array_head(len(codes)), _encode(None)]
    counts = np.ones(rows, np.int64)
    for code in codes:
        counts += 1 if code is None else 1 + np.diff(code.starts)
    ends = np.cumsum(counts)
    order = np.empty(int(ends[-1]) if rows else 0, np.int64)
    at = ends - counts
    order[at] = 0
    at += 1
    for input_column, column, code in zip(layout.columns, columns, codes, strict=True):
        if code is None:
            order[at] = 1
            at += 1
            continue
        sizes = np.diff(code.starts)
        distinct, which = np.unique(sizes, return_inverse=True)
        order[at] = len(pieces) + which
        pieces += [_array_head(size) for size in distinct.tolist()]
        at += 1
        order[_spread(at, sizes)] = len(pieces) + code.used
        if column.dictionary is not None:
            pieces += _encoded(column.dictionary, stored(input_column.type))
        at += sizes
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    offsets = np.cumsum(lengths) - lengths
    blob = np.frombuffer(b"".join(pieces), np.uint8)
    sizes = lengths[order]
    total = np.concatenate(([0], np.cumsum(sizes)))
    return blob[_spread(offsets[order], sizes)], total[ends] - total[ends - counts]


def _encoded(dictionary: Any, convert: Any) -> list[bytes]:
    values = dictionary.to_pylist()
    return [_encode(value if convert is None else convert(value)) for value in values]


def _array_head(size: int) -> bytes:
    """The msgpack head of an array."""
    if size < 16:
        return bytes([0x90 | size])
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")


def _spread(starts: Words, sizes: Words) -> Words:
    """All indices of many ranges, one range after the other."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)


@dataclass(frozen=True)
class Row:
    """What a row holds, in plain Python, for tests and for looking at.

    `columns` follow the layout: words of numbers as int64, decimals as unscaled integers, values
    in place of codes; None is null.
    """

    floor: int
    until: int
    time: list[int]
    known: list[int]
    ended: list[int]
    columns: list[list[Any]]
    filters: list[list[bool]]


def unpack(layout: Layout, row: bytes) -> Row:
    """Read a row back; raises `StoreUnavailable` for bytes that are not a row of this format."""
    if not row.startswith(PREAMBLE):
        refuse(row)
    words = np.frombuffer(row, np.int64)
    n, heap_at, heap_size = int(words[1]), int(words[4]), int(words[5])
    flags = int(words[0]) >> 48
    position = HEADER

    def take() -> list[int]:
        nonlocal position
        position += n
        return [int(word) for word in words[position - n : position]]

    time = take()
    known = take() if flags & HAS_KNOWN else time
    ended = take() if flags & HAS_UNTIL else [NEVER] * n
    raw = [
        [low & (2**64 - 1) | high << 64 for low, high in zip(take(), take(), strict=True)]
        if column.form == "decimal"
        else take()
        for column in layout.columns
    ]
    padded = (n + 7) // 8 * 8
    flags_at = range(position * 8, heap_at, padded) if n else ()
    flags_of = [[bool(byte) for byte in row[at : at + n]] for at in flags_at] or [
        [] for _ in range(int(words[3]))
    ]
    heaps: list[Any] = (
        _decode(row[heap_at : heap_at + heap_size]) if heap_size else [None] * len(raw)
    )
    columns: list[list[Any]] = []
    for column, values, valid, heap in zip(layout.columns, raw, flags_of, heaps, strict=False):
        convert = restored(column.type)
        own = heap if heap is None or convert is None else [convert(value) for value in heap]
        columns.append(
            [
                None if not there else value if own is None else own[value]
                for value, there in zip(values, valid, strict=True)
            ]
        )
    return Row(int(words[6]), int(words[7]), time, known, ended, columns, flags_of[len(raw) :])


def refuse(row: bytes) -> NoReturn:
    """Say why a row that does not start with `PREAMBLE` cannot be read."""
    if row.startswith(PREAMBLE[:4]):
        raise other_format(int.from_bytes(row[4:6], "little"))
    raise StoreUnavailable(
        "The online state holds bytes that are not a row.",
        remedy="Materialize again: store.materialize().",
    )


def other_format(version: int) -> StoreUnavailable:
    """The error of rows that this release cannot read."""
    return StoreUnavailable(
        f"The online state has rows of format {version}; this release reads format {FORMAT}.",
        remedy="Materialize again with this release: store.materialize().",
    )
