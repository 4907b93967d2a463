"""Directories: what is known of the chunks of a large entity without opening them.

`docs/reference/row-format.md` shows the layout.  A child is a chunk or a directory of chunks; its
id is a hash of its bytes, so a changed child is another one, beside the one that readers may have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from tidemark.errors import StoreConflict
from tidemark.kernel.cells import Cells
from tidemark.kernel.layout import Layout
from tidemark.online.rows.codec import DIRECTORY, HEADER, PREAMBLE, refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.partials import Summaries

    Words = NDArray[np.int64]

_HEAD = int.from_bytes(PREAMBLE, "little") | DIRECTORY << 48

Item = tuple[bytes, bytes]

Fetch = Callable[[Sequence[bytes]], list[bytes | None]]
"""Reads the values of keys in their order; None for one that is not there."""

FIRST, LAST, SETTLED, EVENTS, IDS = range(5)
"""The columns of a directory, of a word for each child."""

COLUMNS = 5
"""What comes after them: where the summaries of each child begin."""

CHUNKS, DIRECTORIES, TILES = 1, 2, 3
"""Levels of a directory: what its children are.  Tiles have no bytes of their own."""

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Children:
    """Consecutive children of a directory: what is known of each, and its id, int64[M]."""

    known: Summaries
    ids: Words

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def events(self) -> int:
        """How many events they hold."""
        return int(self.known.events.sum())

    def part(self, first: int, stop: int) -> Children:
        """The children from `first` up to `stop`."""
        known = self.known
        cells = (len(known.starts) - 1) // max(len(self.ids), 1)
        starts = known.starts[first * cells : stop * cells + 1]
        words = known.words[int(starts[0]) : int(starts[-1])]
        columns = (each[first:stop] for each in known[2:])
        return Children(type(known)(starts - starts[0], words, *columns), self.ids[first:stop])


def joined(parts: Sequence[Children]) -> Children:
    """Children one after the other; there is at least one part."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part.known.words) for part in parts]
    offsets = np.cumsum(sizes) - sizes
    starts = [part.known.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=True)]
    columns = (np.concatenate([part.known[place] for part in parts]) for place in range(2, 6))
    known = type(parts[0].known)(
        np.concatenate([*starts, [sum(sizes)]]),
        np.concatenate([part.known.words for part in parts]),
        *columns,
    )
    return Children(known, np.concatenate([part.ids for part in parts]))


def edited(children: Children, edits: Iterable[tuple[int, int, Children | None]]) -> list[Children]:
    """Children of which some ranges, in order, are replaced: first, stop, and what comes there."""
    parts: list[Children] = []
    at = 0
    for first, stop, fresh in edits:
        parts += [children.part(at, first)] if at < first else []
        parts += [fresh] if fresh is not None else []
        at = stop
    return parts + ([children.part(at, len(children))] if at < len(children) else [])


def id_of(value: bytes) -> int:
    """What names a child: 64 bits of a cryptographic hash of its bytes."""
    digest = hashlib.blake2b(value, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def child_key(key: bytes, child: int) -> bytes:
    """Where a child of the entity with this row key is."""
    return key + _encode(child)


def under(key: bytes, children: Children, rows: Sequence[bytes]) -> list[Item]:
    """The children of an entity as they are to be written."""
    ids = children.ids.tolist()
    return [(child_key(key, each), row) for each, row in zip(ids, rows, strict=True)]


def above(
    layout: Layout, fanout: int, level: int, children: Children
) -> tuple[list[bytes], Children]:
    """The directories of consecutive children, and what is known of them."""
    from tidemark.kernel.partials import combine  # compiled with the first use

    runs = cut(children, fanout)
    rows = [
        pack(level, children.part(first, stop))
        for first, stop in zip(runs[:-1].tolist(), runs[1:].tolist(), strict=True)
    ]
    known = combine(Cells.of(layout), children.known, runs)
    return rows, Children(known, np.fromiter(map(id_of, rows), np.int64, len(rows)))


def is_directory(row: bytes) -> bool:
    """Whether a row holds not events but where they are."""
    return row[6] & DIRECTORY != 0


def torn() -> StoreConflict:
    """The error where a part of a tree is gone."""
    return StoreConflict(
        "A part of a large row is gone: something else writes to the online state.",
        remedy="Try again; if it stays, materialize: store.materialize().",
    )


def pack(level: int, children: Children) -> bytes:
    """The bytes of a directory of `CHUNKS`, `DIRECTORIES` or `TILES`."""
    known, count = children.known, len(children)
    cells = (len(known.starts) - 1) // count
    heap = HEADER + (COLUMNS + cells) * count
    head = [_HEAD, count, cells, level, heap, len(known.words), 0, 0]
    at = (known.starts[:-1] + heap).reshape(count, cells).T
    columns = [known.first, known.last, known.settled, known.events, children.ids]
    parts = [np.array(head, np.int64), *columns, at.ravel(), known.words]
    return np.concatenate(parts).tobytes()


def level_of(row: bytes) -> int:
    """The level of a directory."""
    return int.from_bytes(row[24:32], "little")


def read(row: bytes) -> Children:
    """The children of a directory; raises `StoreUnavailable` for bytes that are none."""
    if not row.startswith(PREAMBLE) or not is_directory(row):
        refuse(row)
    from tidemark.kernel.partials import Summaries

    words = np.frombuffer(row, np.int64)
    count, cells, heap, size = (int(words[place]) for place in (1, 2, 4, 5))
    columns = words[HEADER : HEADER + COLUMNS * count].reshape(COLUMNS, count)
    at = words[HEADER + COLUMNS * count : heap].reshape(cells, count)
    starts = np.append(at.T.ravel() - heap, size)
    return Children(Summaries(starts, words[heap : heap + size], *columns[:4]), columns[4])


def ids_of(row: bytes) -> Words:
    """The ids of the children of a directory."""
    words = np.frombuffer(row, np.int64)
    count = int(words[1])
    return words[HEADER + IDS * count : HEADER + (IDS + 1) * count]


class Shelf:
    """What has been read of the online store."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._rows: dict[bytes, bytes] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes]:
        """The values of keys that must be there; those not read before, in one go."""
        rows = self._rows
        wanted = [key for key in dict.fromkeys(keys) if key not in rows]
        if wanted:
            for key, row in zip(wanted, self._fetch(wanted), strict=True):
                if row is None:
                    raise torn()
                rows[key] = row
        return [rows[key] for key in keys]


class Groups:
    """The directories below the root of an entity, each read when it is first asked for.

    A root that is not `deep` has none, and stands for the only one.  `top` are its children.
    """

    def __init__(self, key: bytes, root: bytes, shelf: Shelf) -> None:
        self.top = read(root)
        self.deep = level_of(root) == DIRECTORIES
        self._key, self._shelf = key, shelf
        self._known: dict[int, Children] = {} if self.deep else {0: self.top}

    def __len__(self) -> int:
        return len(self.top) if self.deep else 1

    def __contains__(self, group: int) -> bool:
        """Whether a directory has been read."""
        return group in self._known

    def __getitem__(self, group: int) -> Children:
        if group not in self._known:
            self.load([group])
        return self._known[group]

    def load(self, groups: Iterable[int]) -> None:
        """Read those that have not been read yet, in one go."""
        wanted = sorted({*groups} - self._known.keys())
        keys = [child_key(self._key, int(self.top.ids[group])) for group in wanted]
        for group, row in zip(wanted, self._shelf.get(keys), strict=True):
            self._known[group] = read(row)


def cut(children: Children, fanout: int) -> Words:
    """Where directories of these children begin, and the end.

    An id with so many zeros begins one: that depends on no other child, so a change stays local.
    None has more than twice `fanout`.
    """
    begins = children.ids & (fanout - 1) == 0
    begins[0] = True
    return split_long(np.append(np.flatnonzero(begins), len(children)), 2 * fanout)


def split_long(starts: Words, most: int) -> Words:
    """The starts of runs, of which long ones are cut after every `most`."""
    pieces = -(-np.diff(starts) // most)
    ends = np.cumsum(pieces)
    number = np.arange(int(ends[-1])) - np.repeat(ends - pieces, pieces)
    return np.append(np.repeat(starts[:-1], pieces) + most * number, starts[-1])
