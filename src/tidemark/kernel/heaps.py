"""The heaps of rows while events come in: arrays of distinct text or bytes, as msgpack, in order.

UTF-8 sorts as text does, so the bytes of two values say which comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import apart, nested

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

_NIL = 0xC0


@nested
def write_heap(
    theirs: Bytes,
    begin: int,
    n: int,
    first: int,
    stop: int,
    places: Words,
    columns: NDArray[np.int64],
    used: Words,
    used_starts: NDArray[np.int64],
    r: int,
    items: Bytes,
    item_at: Words,
    scratch: Words,
    out: Words,
    to: int,
    valid_at: int,
    heap: int,
) -> int:
    """Write the dictionaries of a row, and make its codes places in them; returns the end."""
    mine = out.view(np.uint8)
    size, at = n + stop - first, begin
    if n:
        _, at = open_array(theirs, at)
    heap = write_head(mine, heap, len(columns))
    padded = (size + 7) & ~7
    for c in range(len(columns)):
        q: int = columns[c, 1]
        if q < 0:
            mine[heap] = _NIL
            heap += 1
            at += 1
            continue
        held = 0
        if n:
            held, at = open_array(theirs, at)
        some = used[used_starts[q, r] : used_starts[q, r + 1]]
        moved, ranks = scratch[:held], scratch[held:]
        total, after = rank(theirs, at, held, items, item_at, some, moved, ranks)
        codes = out[to + columns[c, 0] * size :][:size]
        valid = mine[valid_at + c * padded :][:size]
        _recode(codes, valid, first, stop, places, moved, ranks, total > held)
        heap = write_head(mine, heap, total)
        heap = write_items(theirs, at, items, item_at, some, moved, ranks, total, mine, heap)
        at = after
    return heap


@nested
def open_array(data: Bytes, at: int) -> tuple[int, int]:
    """How many items an array of msgpack has, and where the first one is."""
    kind: int = data[at]
    if kind < 0xDC:
        return kind & 15, at + 1
    count, after = 0, at + (3 if kind == 0xDC else 5)
    for i in range(at + 1, after):
        count = count << 8 | data[i]
    return count, after


@nested
def write_head(out: Bytes, at: int, count: int) -> int:
    """Write how msgpack begins an array; returns where its first item goes."""
    if count < 16:
        out[at] = 0x90 | count
        return at + 1
    bytes_ = 2 if count < 65_536 else 4
    out[at] = 0xDC if bytes_ == 2 else 0xDD
    for i in range(bytes_):
        out[at + bytes_ - i] = count >> 8 * i & 0xFF
    return at + bytes_ + 1


@nested
def _text(data: Bytes, at: int) -> tuple[int, int]:
    """Where the content of text or bytes in msgpack begins and ends."""
    kind: int = data[at]
    if kind & 0xE0 == 0xA0:
        return at + 1, at + 1 + (kind & 31)
    # 0xD9 to 0xDB is text of a length of 1, 2 or 4 bytes, and 0xC4 to 0xC6 are bytes.
    wide = 1 << (kind - (0xD9 if kind >= 0xD9 else 0xC4))
    size = 0
    for i in range(at + 1, at + 1 + wide):
        size = size << 8 | data[i]
    return at + 1 + wide, at + 1 + wide + size


@apart
def _compare(a: Bytes, a_at: int, b: Bytes, b_at: int) -> int:
    """Negative if the first of two texts or byte strings comes before the other, 0 if equal."""
    i, a_end = _text(a, a_at)
    k, b_end = _text(b, b_at)
    while i < a_end and k < b_end:
        if a[i] != b[k]:
            return 1 if a[i] > b[k] else -1
        i += 1
        k += 1
    return (a_end - i) - (b_end - k)


@apart
def rank(
    theirs: Bytes,
    at: int,
    held: int,
    items: Bytes,
    item_at: Words,
    some: Words,
    moved: Words,
    ranks: Words,
) -> tuple[int, int]:
    """The places of the items held and of those that come; how many there are, and the end."""
    total, u = 0, 0
    for i in range(held):
        order = 1
        while u < len(some):
            item: int = some[u]
            order = _compare(theirs, at, items, item_at[item])
            if order <= 0:
                break
            ranks[u] = total
            u += 1
            total += 1
        if u < len(some) and order == 0:
            ranks[u] = total
            u += 1
        moved[i] = total
        total += 1
        _, at = _text(theirs, at)
    while u < len(some):
        ranks[u] = total
        u += 1
        total += 1
    return total, at


@apart
def write_items(
    theirs: Bytes,
    at: int,
    items: Bytes,
    item_at: Words,
    some: Words,
    moved: Words,
    ranks: Words,
    total: int,
    out: Bytes,
    to: int,
) -> int:
    """Write the items of both in their order; returns the end."""
    i = u = 0
    for rank in range(total):
        same = u < len(some) and ranks[u] == rank
        if i < len(moved) and moved[i] == rank:
            _, end = _text(theirs, at)
            for k in range(at, end):
                out[to] = theirs[k]
                to += 1
            at = end
            i += 1
        else:
            for k in range(item_at[some[u]], item_at[some[u] + 1]):
                out[to] = items[k]
                to += 1
        u += 1 if same else 0
    return to


@apart
def _recode(
    codes: Words,
    valid: Bytes,
    first: int,
    stop: int,
    places: Words,
    moved: Words,
    ranks: Words,
    shifted: bool,
) -> None:
    """Make codes places in the dictionary that has both; `shifted` if those of old ones change."""
    i = 0
    for j in range(first, stop + 1):
        end = len(codes) if j == stop else places[j] + j - first
        if shifted:
            for k in range(i, end):
                if valid[k]:
                    codes[k] = moved[codes[k]]
        if j < stop and valid[end]:
            codes[end] = ranks[codes[end]]
        i = end + 1
