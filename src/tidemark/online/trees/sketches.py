"""Sketches beside trees: what approximate aggregates need of many chunks at once.

A directory of M children has sketches of 2^k children each, from each multiple of 2^k on, as long
as all of them are there; in a directory of chunks from 8 chunks on.  A sketch is named by the ids
of its children.  So it follows from the tree, one of children that stay is not written again, and a
reader who finds none opens what is below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.cells import Cells
from tidemark.kernel.layout import Layout
from tidemark.online.rows import codec
from tidemark.online.rows.codec import HEADER, PREAMBLE, SKETCH
from tidemark.online.rows.merging import recut
from tidemark.online.trees import directories
from tidemark.online.trees.directories import Children, Fetch, Item, child_key, id_of, is_directory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.sketches import Part

    Words = NDArray[np.int64]

HEAD = np.array([int.from_bytes(PREAMBLE, "little") | SKETCH << 48, *(0,) * (HEADER - 1)])
LEAST = 3  # the level of the smallest groups of chunks, as `kernel.forest.GROUPED`


class Group(NamedTuple):
    """Children of a directory that follow each other; `first` and `last` are their times."""

    key: bytes
    ids: Words
    chunks: bool
    first: int
    last: int


def sketch_key(key: bytes, ids: Words) -> bytes:
    """Where the sketch of a group of children of an entity with this row key is."""
    return child_key(key, id_of(ids.tobytes())) + b"\xa1s"


def place_of(slot: int, children: int) -> tuple[int, int]:
    """The first child of a group and how many it has, of its number among those of a node.

    Groups of one child come first, then those of two, of four and so on.
    """
    level = 0
    while slot >= children >> level:
        slot -= children >> level
        level += 1
    return slot << level, 1 << level


def groups_of(key: bytes, children: Children, *, chunks: bool) -> Iterator[Group]:
    """The groups that have sketches, the largest first."""
    count = len(children)
    for level in range(count.bit_length() - 1, (LEAST if chunks else 0) - 1, -1):
        for first in range(0, count >> level << level, 1 << level):
            yield _group(key, children, first, 1 << level, chunks=chunks)


def _group(key: bytes, children: Children, first: int, size: int, *, chunks: bool) -> Group:
    ids, known = children.ids[first : first + size], children.known
    times = int(known.first[first]), int(known.last[first + size - 1])
    return Group(sketch_key(key, ids), ids, chunks, *times)


def changes(
    layout: Layout,
    keys: Sequence[bytes],
    old: Sequence[bytes | None],
    puts: Sequence[Item],
    deletes: Sequence[bytes],
    fetch: Fetch,
) -> tuple[list[Item], list[bytes]]:
    """The sketches to be written and deleted where rows and trees of entities change as given.

    `keys` are those of the entities' rows, `old` what is there now.
    """
    items: list[Item] = []
    dropped: list[bytes] = []
    if not Cells.of(layout).sketched:
        return items, dropped
    written, gone = dict(puts), set(deletes)
    for key, before in zip(keys, old, strict=True):
        if key in written or key in gone:
            change = _Change(layout, key, written, fetch)
            change.find(before, written.get(key))
            items += change.puts()
            dropped += change.deletes()
    return items, dropped


class _Change:
    """The sketches of one entity, before and after a change of its tree."""

    def __init__(
        self, layout: Layout, key: bytes, written: dict[bytes, bytes], fetch: Fetch
    ) -> None:
        self._layout, self._key, self._fetch = layout, key, fetch
        self._rows: dict[bytes, bytes | None] = {}
        self._written = written
        self._wanted: set[bytes] = set()
        self._bases: dict[bytes, Group] = {}
        self._made: dict[bytes, list[Part]] = {}
        self._old: dict[bytes, Group] = {}
        self._new: dict[bytes, Group] = {}
        self._kept: Children | None = None

    def find(self, before: bytes | None, after: bytes | None) -> None:
        """Find the groups of what changes, from both roots or rows."""
        roots = [
            directories.read(row) if row is not None and is_directory(row) else None
            for row in (before, after)
        ]
        for row, root, other, groups in zip(
            (before, after), roots, roots[::-1], (self._old, self._new), strict=True
        ):
            if row is None or root is None:
                continue
            deep = directories.level_of(row) == directories.DIRECTORIES
            groups.update((each.key, each) for each in groups_of(self._key, root, chunks=not deep))
            if not deep:
                continue
            stays = np.isin(root.ids, [] if other is None else other.ids)
            if groups is self._new and stays.any():
                self._kept = directories.joined(
                    [root.part(place, place + 1) for place in np.flatnonzero(stays).tolist()]
                )
            inner = [child_key(self._key, each) for each in root.ids[~stays].tolist()]
            for each in self._got(inner):
                mine = groups_of(self._key, directories.read(each), chunks=True)
                groups.update((group.key, group) for group in mine)

    def deletes(self) -> list[bytes]:
        """The sketches that nothing has any more."""
        gone = [group for key, group in self._old.items() if key not in self._new]
        # Chunks that are also in a directory that stays have but one time.
        doubtful = {group.first for group in gone if group.first == group.last}
        alive: set[bytes] = set()
        if self._kept is not None and doubtful:
            known = self._kept.known
            for place, each in enumerate(self._kept.ids.tolist()):
                if any(known.first[place] <= time <= known.last[place] for time in doubtful):
                    (row,) = self._got([child_key(self._key, each)])
                    inner = groups_of(self._key, directories.read(row), chunks=True)
                    alive.update(group.key for group in inner)
        return [group.key for group in gone if group.key not in alive]

    def puts(self) -> list[Item]:
        """The sketches that were not there."""
        from tidemark.kernel.sketches import write_parts

        fresh = [group for key, group in self._new.items() if key not in self._old]
        while True:
            found = [self._sketch(group) for group in fresh]
            if not self._wanted and not self._bases:
                break
            self._read()
            self._make_bases()
        return [
            (group.key, np.concatenate([HEAD, write_parts(self._layout, parts)]).tobytes())
            for group, parts in zip(fresh, found, strict=True)
            if parts is not None
        ]

    def _sketch(self, group: Group) -> list[Part] | None:
        """The sketch of a group; None if something has to be read before, which is noted."""
        from tidemark.kernel.sketches import merged, read_parts

        found = self._made.get(group.key)
        if found is not None:
            return found
        if group.key in self._old:
            row = self._row(group.key)
            if row is _PENDING:
                return None
            if row is not None:
                found = read_parts(self._layout, np.frombuffer(row, np.int64))
        if found is None:
            parts = self._below(group)
            if parts is None:
                return None
            below = [self._sketch(each) for each in parts]
            ready = [each for each in below if each is not None]
            if len(ready) < len(below):
                return None
            found = merged(ready)
        self._made[group.key] = found
        return found

    def _below(self, group: Group) -> list[Group] | None:
        """The groups that a group consists of; None if it is to be made of events."""
        size = len(group.ids)
        if group.chunks and size <= 1 << LEAST:
            self._bases[group.key] = group
            return None
        if size > 1:
            halves = group.ids[: size // 2], group.ids[size // 2 :]
            return [group._replace(key=sketch_key(self._key, ids), ids=ids) for ids in halves]
        row = self._row(child_key(self._key, int(group.ids[0])))
        if row is _PENDING:
            return None
        if row is None:
            raise directories.torn()
        children, at = directories.read(row), 0
        parts: list[Group] = []
        for level in range(len(children).bit_length() - 1, LEAST - 1, -1):
            if len(children) >> level & 1:
                parts.append(_group(self._key, children, at, 1 << level, chunks=True))
                at += 1 << level
        if at < len(children):
            parts.append(_group(self._key, children, at, len(children) - at, chunks=True))
        return parts

    def _make_bases(self) -> None:
        """Make sketches of events, all at once, if their chunks have been read."""
        from tidemark.kernel.sketches import sketch

        keys = [child_key(self._key, i) for each in self._bases.values() for i in each.ids.tolist()]
        rows = list(map(self._row, keys))
        if self._wanted or not keys:
            return
        if None in rows:
            raise directories.torn()
        events = codec.unpack_rows(self._layout, rows)
        ends = np.cumsum([0, *(len(each.ids) for each in self._bases.values())])
        events = recut(events, events.timeline.starts[ends])
        made = sketch(self._layout, events.timeline, events.columns, events.filters)
        self._made.update(zip(self._bases, made, strict=True))
        self._bases.clear()

    def _row(self, key: bytes) -> bytes | None:
        """A row; None if it is not there, `_PENDING` if it has yet to be read."""
        found = self._written.get(key)
        if found is None:
            found = self._rows.get(key, _PENDING)
        if found is _PENDING:
            self._wanted.add(key)
        return found

    def _read(self) -> None:
        """Read what is wanted, in one go."""
        wanted = sorted(self._wanted)
        if wanted:
            self._rows.update(zip(wanted, self._fetch(wanted), strict=True))
        self._wanted.clear()

    def _got(self, keys: Sequence[bytes]) -> list[bytes]:
        """Rows that are there."""
        for key in keys:
            self._row(key)
        self._read()
        rows = [row for row in map(self._row, keys) if row is not None]
        if len(rows) < len(keys):
            raise directories.torn()
        return rows


_PENDING = b"pending"
