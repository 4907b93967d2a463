"""A few events into their rows, one by one: the bytes that `merging` and `codec` give in arrays."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tidemark.kernel import Timeline
from tidemark.kernel.layout import Layout
from tidemark.online.rows.codec import (
    DIRECTORY,
    HAS_IDENTITIES,
    HAS_KNOWN,
    HAS_UNTIL,
    HEADER,
    PREAMBLE,
    Column,
    Unpacked,
)
from tidemark.online.rows.dictionaries import TEXTS, Dictionary
from tidemark.online.trees import cutting

_head = struct.Struct("<6sH7q")
_word = struct.Struct("<q").pack
_encode = msgspec.msgpack.Encoder().encode
_of_heap = msgspec.msgpack.Decoder(list[list[Any] | None]).decode
_OTHER = HAS_UNTIL | DIRECTORY
_NOTHING = _word(0)


class Event(NamedTuple):
    """An event as a row takes it in: `known` is no earlier than `time`, both in microseconds.

    `values` follow the columns of the layout: the bytes of a word, or the value of a code; None is
    null.  `kept` tells for each filter whether it keeps the event.
    """

    time: int
    known: int
    values: Sequence[Any]
    kept: Sequence[bool]
    identity: int | None


def gathered(layout: Layout, events: Sequence[Sequence[Event]]) -> Unpacked | None:
    """The events of some rows of a simple layout as arrays, a segment for each row.

    None where two of a row have the same time and moment of being known: more decides about them.
    """
    ordered = [sorted(each, key=_moment) for each in events]
    flat = [event for each in ordered for event in each]
    if any(_moment(a) == _moment(b) for each in ordered for a, b in pairwise(each)):
        return None
    columns: list[Column] = []
    for number, column in enumerate(layout.columns):
        values = [event.values[number] for event in flat]
        valid = np.array([value is not None for value in values], np.bool_)
        if column.form != "code":
            words = b"".join(_NOTHING if value is None else value for value in values)
            columns.append(Column(np.frombuffer(words, np.int64), None, valid, None))
            continue
        held = sorted({value for value in values if value is not None})
        ranks = [0 if value is None else bisect_left(held, value) for value in values]
        dictionary = Dictionary(tuple(map(_encode, held)))
        columns.append(Column(np.array(ranks, np.int64), None, valid, dictionary))
    identified = flat[0].identity is not None
    return Unpacked(
        Timeline(
            np.cumsum([0, *map(len, ordered)]),
            np.array([event.time for event in flat], np.int64),
            np.array([event.known for event in flat], np.int64),
        ),
        tuple(columns),
        tuple(
            np.array([event.kept[number] for event in flat], np.bool_)
            for number in range(len(layout.filters))
        ),
        np.array([event.identity for event in flat], np.int64) if identified else None,
    )


def _moment(event: Event) -> tuple[int, int]:
    return event.time, event.known


def is_simple(layout: Layout) -> bool:
    """Whether rows of a layout can be written event by event."""
    return all(
        each.form in {"word", "hash"} or (each.form == "code" and each.type.name in TEXTS)
        for each in layout.columns
    )


def inserted(layout: Layout, stored: bytes | None, event: Event) -> bytes | None:
    """The row with the event where it belongs; None where this takes more than the row's bytes.

    That is where an old event has the same time and moment of being known, or where the row is a
    tree, would become one, or holds what has ended.  The layout is a simple one.
    """
    row = stored or b""
    options, n, heap_at, heap_size = _opened(row, event)
    same = bool(options & HAS_IDENTITIES) == (event.identity is not None)
    if options & _OTHER or not same or n >= cutting.SIZES.split:
        return None
    place = _place(row, n, bool(options & HAS_KNOWN), event)
    if place is None:
        return None
    heap = _of_heap(row[heap_at : heap_at + heap_size]) if heap_size else []
    out = [b""]
    at = HEADER * 8
    cut = place * 8

    def insert(word: bytes, since: int | None = None) -> None:
        """Write the words of a column, those at `since` or the next ones, and the new one."""
        nonlocal at
        begin = at if since is None else since
        out.append(row[begin : begin + cut] + word + row[begin + cut : begin + 8 * n])
        at += 8 * n if since is None else 0

    insert(_word(event.time))
    if options & HAS_KNOWN:
        insert(_word(event.known))
    elif event.known != event.time:
        options |= HAS_KNOWN
        insert(_word(event.known), HEADER * 8)  # so far all were known when they happened
    padded = (n + 7) // 8 * 8
    flags_at = heap_at - padded * (len(layout.columns) + len(layout.filters))
    fresh: list[list[Any] | None] = []
    for number, (column, value) in enumerate(zip(layout.columns, event.values, strict=True)):
        if column.form != "code":
            fresh.append(None)
            insert(_NOTHING if value is None else value)
            continue
        held = (heap[number] if heap else None) or []
        fresh.append(held)
        if value is None:
            insert(_NOTHING)
            continue
        rank = bisect_left(held, value)
        if rank == len(held) or held[rank] != value:
            if rank < len(held):
                valid = row[flags_at + padded * number :][:n]
                row = row[:at] + _raised(row[at : at + 8 * n], rank, valid) + row[at + 8 * n :]
            held.insert(rank, value)
        insert(_word(rank))
    if event.identity is not None:
        insert(_word(event.identity))
    words = len(layout.columns) + (event.identity is not None)
    flags = [value is not None for value in event.values] + list(event.kept)
    tail = bytes(-(n + 1) % 8)
    for number, flag in enumerate(flags):
        begin = flags_at + padded * number
        byte = b"\1" if flag else b"\0"
        out.append(row[begin : begin + place] + byte + row[begin + place : begin + n] + tail)
    written = _encode(fresh) if any(each is not None for each in fresh) else b""
    heap_at = HEADER * 8 + sum(map(len, out))
    out[0] = _head.pack(PREAMBLE, options, n + 1, words, len(flags), heap_at, len(written), 0, 0)
    return b"".join((*out, written, bytes(-len(written) % 8)))


def _opened(row: bytes, event: Event) -> tuple[int, int, int, int]:
    """The options of a row, its events, and where its heap is and ends; a new row if empty."""
    if not row:
        return 0 if event.identity is None else HAS_IDENTITIES, 0, 0, 0
    magic, options, n, _, _, heap_at, heap_size, _, _ = _head.unpack_from(row)
    return options if magic == PREAMBLE else DIRECTORY, n, heap_at, heap_size


def _place(row: bytes, n: int, late: bool, event: Event) -> int | None:
    """How many events of a row come before another one; None where the row cannot tell."""
    if not n:
        return 0
    words = memoryview(row).cast("q")
    times = words[HEADER : HEADER + n]
    knowns = times
    if late:
        knowns = words[HEADER + n : HEADER + 2 * n]
        if (np.asarray(knowns) < np.asarray(times)).any():
            return None
    place = bisect_right(times, event.time)
    while place and times[place - 1] == event.time and knowns[place - 1] > event.known:
        place -= 1
    if place and times[place - 1] == event.time and knowns[place - 1] == event.known:
        return None
    return place


def _raised(ranks: bytes, rank: int, valid: bytes) -> bytes:
    """The ranks of a column after a value came in at one."""
    words = np.frombuffer(ranks, np.int64).copy()
    words[(words >= rank) & (np.frombuffer(valid, np.uint8) != 0)] += 1
    return words.tobytes()
