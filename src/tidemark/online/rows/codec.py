"""The bytes of a row: all events of an entity that a view may need, as the kernel reads them.

`docs/reference/row-format.md` shows the layout.  Packing and unpacking are by column over many
entities at once.  The bytes depend on the events only, not on what else was packed with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from tidemark.errors import StoreUnavailable
from tidemark.kernel import Timeline
from tidemark.kernel.layout import Layout
from tidemark.online.rows.dictionaries import Dictionary, heaps, read_heaps, recode, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

FORMAT = 1
"""The version of the layout; a row of another version is refused."""

PREAMBLE = b"TMRW" + FORMAT.to_bytes(2, "little")
"""What every row starts with; two bytes of flags complete the first word."""

HAS_KNOWN, HAS_UNTIL, HAS_IDENTITIES, DIRECTORY, SKETCH = 1, 2, 4, 8, 16
HEADER = 8
NEVER = 2**63 - 1

_MAGIC = int.from_bytes(PREAMBLE, "little")


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
        """Of a column of codes: the distinct values that words are indices of, sorted.

        An Arrow array or a `Dictionary`; None where all values are null.
        """
        ...


class Events(Protocol):
    """The events of some entities, a segment of the timeline for each.

    `columns` and `filters` (bool[N]) follow the layout.  `identities` are 64-bit hashes of what
    identifies events, 0 for an event that nothing does; None where the source has no `unique`.
    """

    @property
    def timeline(self) -> Timeline:
        """The events in time."""
        ...

    @property
    def columns(self) -> Sequence[EventColumn]:
        """Their values."""
        ...

    @property
    def filters(self) -> Sequence[Flags]:
        """Which of them each filter keeps."""
        ...

    @property
    def identities(self) -> Words | None:
        """What identifies them."""
        ...


@dataclass(frozen=True)
class Column:
    """An `EventColumn` that was unpacked."""

    words: Words
    high: Words | None
    valid: Flags
    dictionary: Dictionary | None


@dataclass(frozen=True)
class Unpacked:
    """`Events` that were unpacked."""

    timeline: Timeline
    columns: tuple[Column, ...]
    filters: tuple[Flags, ...]
    identities: Words | None


def pack(layout: Layout, events: Events) -> list[bytes]:
    """One row for each segment of the timeline."""
    timeline, columns = events.timeline, events.columns
    starts = timeline.starts
    n = np.diff(starts)
    known = _differing(timeline.known, timeline.time, starts)
    ended = _differing(timeline.until, NEVER, starts)
    codes = [
        recode(column, starts) if each.form == "code" else None
        for each, column in zip(layout.columns, columns, strict=True)
    ]
    types, dictionaries = [each.type for each in layout.columns], [c.dictionary for c in columns]
    heap, heap_size = heaps(types, dictionaries, codes, len(n))

    words: list[Words] = []
    for column, code in zip(columns, codes, strict=True):
        words.append(np.where(column.valid, column.words if code is None else code.ranks, 0))
        if column.high is not None:
            words.append(np.where(column.valid, column.high, 0))
    if events.identities is not None:
        words.append(events.identities)
    flags = [column.valid for column in columns] + list(events.filters)

    padded = (n + 7) // 8 * 8
    heap_at = (HEADER + n * (1 + len(words) + known + ended)) * 8 + padded * len(flags)
    size = (heap_at + heap_size + 7) // 8
    ends = np.cumsum(size)
    out = np.zeros(int(ends[-1]) if len(ends) else 0, np.int64)
    row = ends - size
    options = known * HAS_KNOWN | ended * HAS_UNTIL
    if events.identities is not None:
        options |= HAS_IDENTITIES
    head: list[Words | int] = [_MAGIC | options << 48, n, len(words), len(flags)]
    head += [heap_at, heap_size]
    for i, value in enumerate(head):
        out[row + i] = value

    at = np.repeat(row + HEADER - starts[:-1], n) + np.arange(len(timeline.time))
    step = np.repeat(n, n)
    out[at] = timeline.time
    at += step
    for present, values in ((known, timeline.known), (ended, timeline.until)):
        if values is not None and present.any():
            there = np.repeat(present, n) > 0
            out[at[there]] = values[there]
            at += step * there
    for values in words:
        out[at] = values
        at += step
    narrow = out.view(np.uint8)
    at, step = _of_flags(row * 8 + heap_at - padded * len(flags), starts)
    for flag in flags:
        narrow[at] = flag
        at += step
    narrow[spread(row * 8 + heap_at, heap_size)] = heap
    packed = out.tobytes()
    return [packed[a:b] for a, b in zip((row * 8).tolist(), (ends * 8).tolist(), strict=True)]


def unpack_rows(layout: Layout, rows: Sequence[bytes | None]) -> Unpacked:
    """The events of rows, a segment for each; None is a row without events.

    Raises `StoreUnavailable` for bytes that are not a row of this format.
    """
    for each in rows:
        if each is not None and not each.startswith(PREAMBLE):
            refuse(each)
    present = np.array([row is not None for row in rows], np.bool_)
    sizes = np.array([0 if row is None else len(row) >> 3 for row in rows], np.int64)
    buffer = np.frombuffer(b"".join(row for row in rows if row is not None), np.int64)
    row = (np.cumsum(sizes) - sizes)[present]
    n = np.zeros(len(rows), np.int64)
    n[present] = buffer[row + 1]
    starts = np.concatenate(([0], np.cumsum(n)))
    counts = n[present]
    options = buffer[row] >> 48
    at: Words = np.repeat(row + HEADER - starts[:-1][present], counts) + np.arange(int(starts[-1]))
    step = np.repeat(counts, counts)

    def take() -> Words:
        nonlocal at
        taken: Words = buffer[at]
        at += step
        return taken

    time = take()
    bounds: list[Words | None] = []
    for flag, usual in ((HAS_KNOWN, time), (HAS_UNTIL, np.full(len(time), NEVER))):
        there = np.repeat(options & flag, counts) > 0
        values = usual.copy()
        values[there] = buffer[at[there]]
        at += step * there
        bounds.append(values if there.any() else None)
    timeline = Timeline(starts, time, *bounds)
    raw = [
        (take(), take()) if column.form == "decimal" else (take(), None)
        for column in layout.columns
    ]
    identities = take() if len(options) and options[0] & HAS_IDENTITIES else None
    narrow = buffer.view(np.uint8)
    heap_at = row * 8 + buffer[row + 4]
    padded = (counts + 7) // 8 * 8
    at, step = _of_flags(heap_at - padded * buffer[row + 3], starts, present)
    flags: list[Flags] = []
    for _ in range(len(layout.columns) + len(layout.filters)):
        flags.append(narrow[at] != 0)
        at += step
    heap_ends = heap_at + buffer[row + 5]
    found = _slices(narrow, heap_at, heap_ends) if len(row) else []
    columns = _coded(layout, raw, flags, found, starts[np.append(np.flatnonzero(present), -1)])
    return Unpacked(timeline, columns, tuple(flags[len(raw) :]), identities)


def _of_flags(first: Words, starts: Words, present: Flags | None = None) -> tuple[Words, Words]:
    """Where the first flag of each event is, in bytes, and how far it is to the next flag's."""
    n, begins = np.diff(starts), starts[:-1]
    if present is not None:
        n, begins = n[present], begins[present]
    at: Words = np.repeat(first - begins, n) + np.arange(int(starts[-1]))
    return at, np.repeat((n + 7) // 8 * 8, n)


def _slices(narrow: NDArray[np.uint8], begins: Words, ends: Words) -> list[bytes | None]:
    whole = narrow.data
    return [
        bytes(whole[a:b]) if a < b else None
        for a, b in zip(begins.tolist(), ends.tolist(), strict=True)
    ]


def _coded(
    layout: Layout,
    raw: Sequence[tuple[Words, Words | None]],
    valid: Sequence[Flags],
    found: Sequence[bytes | None],
    starts: Words,
) -> tuple[Column, ...]:
    """Columns of which those of codes have one dictionary for all rows."""
    types = [each.type if each.form == "code" else None for each in layout.columns]
    dictionaries = read_heaps(types, found)
    columns: list[Column] = []
    for (low, high), flags, held in zip(raw, valid, dictionaries, strict=False):
        words, dictionary = low, None
        if held is not None:
            dictionary, begins, places = held
            words = np.zeros(len(low), np.int64)
            own = np.repeat(begins, np.diff(starts))[flags] + low[flags]
            words[flags] = places[own]
        columns.append(Column(words, high, flags, dictionary))
    return tuple(columns)


def _differing(values: Words | None, usual: Words | int, starts: Words) -> Words:
    """For each segment, 1 where some value is not the usual one."""
    if values is None:
        return np.zeros(len(starts) - 1, np.int64)
    before = np.concatenate(([0], np.cumsum(values != usual)))
    return (before[starts[1:]] > before[starts[:-1]]).astype(np.int64)


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
