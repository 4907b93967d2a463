"""Rows of the online state, read back the slow and obvious way: one value after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tidemark.kernel.layout import Layout
from tidemark.online.rows.codec import HAS_IDENTITIES, HAS_KNOWN, HAS_UNTIL, HEADER, NEVER, PREAMBLE
from tidemark.online.rows.values import restored


@dataclass(frozen=True)
class Row:
    """What a row holds.

    `columns` follow the layout: words of numbers as int64, decimals as unscaled integers, values
    in place of codes; None is null.
    """

    time: list[int]
    known: list[int]
    ended: list[int]
    columns: list[list[Any]]
    filters: list[list[bool]]
    identities: list[int] | None = None


def unpack(layout: Layout, row: bytes) -> Row:
    """Read a row back."""
    assert row.startswith(PREAMBLE)
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
    identities = take() if flags & HAS_IDENTITIES else None
    padded = (n + 7) // 8 * 8
    flags_at = range(position * 8, heap_at, padded) if n else ()
    flags_of = [[bool(byte) for byte in row[at : at + n]] for at in flags_at] or [
        [] for _ in range(int(words[3]))
    ]
    heaps: list[Any] = (
        msgspec.msgpack.decode(row[heap_at : heap_at + heap_size])
        if heap_size
        else [None] * len(raw)
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
    return Row(time, known, ended, columns, flags_of[len(raw) :], identities)
