"""New events in many rows at once, by copying what stays; nothing is unpacked.

The bytes are those of `merging.combine` and `codec.pack`, in a small part of their time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.layout import Layout
from tidemark.online.rows.codec import HAS_IDENTITIES, NEVER, PREAMBLE, Events, refuse
from tidemark.online.rows.dictionaries import TEXTS, Codes, encoded, recode
from tidemark.online.rows.merging import part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.splice import New

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

AT_ONCE = 1 << 20
"""Words of rows that are in memory once more, beside what they become."""

_HEAD = int.from_bytes(PREAMBLE, "little")
_COUNT = slice(8, 16)


class Spliced(NamedTuple):
    """The rows; and of each whether it is undecided, and how many old events precede new ones."""

    rows: list[bytes]
    undecided: Flags
    first: Words


def can_splice(layout: Layout) -> bool:
    """Whether rows of a layout can be spliced: the order of all values is that of their bytes."""
    return all(each.form != "code" or each.type.name in TEXTS for each in layout.columns)


def count_of(row: bytes | None) -> int:
    """How many events a row has."""
    return int.from_bytes(row[_COUNT], "little") if row else 0


def splice(layout: Layout, rows: Sequence[bytes | None], new: Events) -> Spliced:
    """Put the new events of each entity into its row, which is empty bytes where undecided.

    No new event has the identity of an old one.  Raises `StoreUnavailable` for bytes that are not a
    row of this format.
    """
    from tidemark.kernel import splice as kernel  # compiled with the first use

    begins: Words = np.cumsum([0, *(len(row or b"") >> 3 for row in rows)])
    total = int(begins[-1])
    if len(rows) > 1 and total > AT_ONCE:
        half = min(max(int(np.searchsorted(begins, total // 2)), 1), len(rows) - 1)
        starts = new.timeline.starts
        one = splice(layout, rows[:half], part(new, starts[: half + 1]))
        other = splice(layout, rows[half:], part(new, starts[half:]))
        undecided = np.concatenate([one.undecided, other.undecided])
        first = np.concatenate([one.first, other.first])
        return Spliced(one.rows + other.rows, undecided, first)
    for row in rows:
        if row and not row.startswith(PREAMBLE):
            refuse(row)
    words = np.frombuffer(b"".join([row for row in rows if row]), np.int64)
    done = kernel.splice(words, begins, _new(layout, new))
    ends = (done.ends * 8).tolist()
    whole = done.words.view(np.uint8).data
    spliced = [bytes(whole[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    return Spliced(spliced, done.undecided, done.first)


def _new(layout: Layout, new: Events) -> New:
    """New events as the kernel takes them."""
    from tidemark.kernel.splice import Items, New

    timeline, count = new.timeline, len(new.timeline.time)
    words: list[Words] = []
    columns: list[tuple[int, int]] = []
    codes: list[Codes] = []
    pieces: list[bytes] = []
    used: list[Words] = []
    for each, column in zip(layout.columns, new.columns, strict=True):
        if each.form == "code":
            columns.append((len(words), len(codes)))
            codes.append(recode(column, timeline.starts))
            used.append(codes[-1].used + len(pieces))
            pieces += encoded(column.dictionary, each.type).items
            words.append(codes[-1].ranks)
            continue
        columns.append((len(words), -1))
        words.append(np.where(column.valid, column.words, 0))
        if column.high is not None:
            words.append(np.where(column.valid, column.high, 0))
    head = _HEAD
    if new.identities is not None:
        words.append(new.identities)
        head |= HAS_IDENTITIES << 48
    flags = [*(column.valid for column in new.columns), *new.filters]
    known, until = timeline.known, timeline.until
    return New(
        np.ascontiguousarray(timeline.starts),
        np.ascontiguousarray(timeline.time),
        timeline.time if known is None else np.maximum(known, timeline.time),
        np.full(count, NEVER) if until is None else until,
        np.array(words, np.int64).reshape(len(words), count),
        np.array(flags, np.uint8).reshape(len(flags), count),
        np.array(columns, np.int64).reshape(len(columns), 2),
        Items(
            np.frombuffer(b"".join(pieces), np.uint8),
            np.cumsum([0, *map(len, pieces)]),
            used,
            [each.starts for each in codes],
        ),
        head,
    )
