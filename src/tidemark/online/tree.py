"""New events in the rows and trees of entities (`cutting` says what a tree is)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.layout import Layout
from tidemark.online import codec, directories, sketches
from tidemark.online.codec import Events, Unpacked
from tidemark.online.cutting import Cutter
from tidemark.online.directories import (
    CHUNKS,
    DIRECTORIES,
    TILES,
    Children,
    Item,
    child_key,
    is_directory,
    joined,
    under,
)
from tidemark.online.merging import combine, part, pick, recut
from tidemark.online.retention import Retention
from tidemark.online.tiles import Tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

Fetch = Callable[[Sequence[bytes]], list[bytes | None]]


class Merged(NamedTuple):
    """What is to be written, the roots last, and deleted.

    `undecided` are the numbers of the entities that are in neither: a new event of theirs has the
    time and the moment of being known of an old one, or its identity.
    """

    puts: list[Item]
    deletes: list[bytes]
    undecided: Words


def write(layout: Layout, keys: Sequence[bytes], events: Events) -> list[Item]:
    """What is to be written for entities, a segment of the timeline for each."""
    puts = Cutter(layout).written(keys, events)
    none: list[bytes | None] = [None] * len(keys)
    more, _ = sketches.changes(layout, keys, none, puts, (), _nothing)
    return more + puts


def _nothing(keys: Sequence[bytes]) -> list[bytes | None]:
    return [None] * len(keys)


def merge(
    layout: Layout,
    keys: Sequence[bytes],
    old: Sequence[bytes | None],
    new: Events,
    fetch: Fetch,
    retention: Retention | None = None,
    *,
    told_apart: bool = False,
) -> Merged:
    """Put new events into the rows and trees of entities, a segment of the timeline for each.

    `keys` are those of the rows, `old` what is there now.  `told_apart` says that no new event has
    the identity of one that is there.
    """
    told = np.flatnonzero(np.diff(new.timeline.starts) > 0)
    if len(told) < len(keys):  # nothing is new of the others
        mine = [keys[place] for place in told.tolist()]
        theirs = [old[place] for place in told.tolist()]
        some = pick(new, told)
        merged = merge(layout, mine, theirs, some, fetch, retention, told_apart=told_apart)
        return merged._replace(undecided=told[merged.undecided])
    cutter = Cutter(layout)
    large = np.array([row is not None and is_directory(row) for row in old], np.bool_)
    plain = np.flatnonzero(~large)
    arrived = new if len(plain) == len(old) else pick(new, plain)
    rows = codec.unpack_rows(layout, [old[place] for place in plain.tolist()])
    events, undecided = combine(layout, rows, arrived, told_apart=told_apart)
    if undecided.any():
        events = pick(events, np.flatnonzero(~undecided))
    if retention is not None:
        events = retention.retained(events)
    decided: list[int] = plain[~undecided].tolist()
    puts = cutter.written([keys[place] for place in decided], events)
    deletes: list[bytes] = []
    failed: list[int] = plain[undecided].tolist()
    for place in np.flatnonzero(large).tolist():
        root = old[place] or b""
        tree: _Tree | Tiles
        if layout.step:
            tree = Tiles(layout, cutter.sizes.fanout, keys[place], root, fetch, told_apart)
        else:
            tree = _Tree(cutter, keys[place], root, fetch, told_apart)
        if not tree.insert(pick(new, np.array([place])), retention):
            failed.append(place)
            continue
        puts += tree.puts
        deletes += tree.deletes
    more, dropped = sketches.changes(layout, keys, old, puts, deletes, fetch)
    return Merged(more + puts, deletes + dropped, np.array(sorted(failed), np.int64))


def replace(
    layout: Layout,
    keys: Sequence[bytes],
    old: Sequence[bytes | None],
    events: Events,
    fetch: Fetch,
) -> Merged:
    """Write entities anew, whatever is there now; one without events is deleted."""
    puts = Cutter(layout).written(keys, events)
    written = {key for key, _ in puts}
    there: list[bytes] = []
    for key, row in zip(keys, old, strict=True):
        if row is not None:
            there.append(key)
            there += stored_children(key, row, fetch)
    deletes = [key for key in there if key not in written]
    more, dropped = sketches.changes(layout, keys, old, puts, deletes, fetch)
    return Merged(more + puts, deletes + dropped, np.zeros(0, np.int64))


def stored_children(key: bytes, root: bytes, fetch: Fetch) -> list[bytes]:
    """The keys of everything below a root; none for a row of events."""
    if not is_directory(root) or directories.level_of(root) == TILES:
        return []
    keys = [child_key(key, each) for each in directories.read(root).ids.tolist()]
    if directories.level_of(root) == CHUNKS:
        return keys
    inner = [row for row in fetch(keys) if row is not None]
    return keys + [each for row in inner for each in stored_children(key, row, fetch)]


Place = tuple[int, int]
"""A directory of chunks by its number, and the number of a chunk in it."""


class _Tree:
    """A tree while events are put into it; only what they touch is read.

    `groups` are the directories of chunks, where they have been read; a root of level 1 is the only
    one.  `puts` and `deletes` are what the change comes to.
    """

    def __init__(
        self, cutter: Cutter, key: bytes, root: bytes, fetch: Fetch, told_apart: bool
    ) -> None:
        self._cutter, self._key, self._fetch = cutter, key, fetch
        self._told_apart = told_apart
        self._top = directories.read(root)
        self._deep = directories.level_of(root) == DIRECTORIES
        count = len(self._top) if self._deep else 1
        self._groups: list[Children | None] = [None] * count
        if not self._deep:
            self._groups = [self._top]
        self._chunks: dict[Place, bytes] = {}
        self._gone: dict[int, tuple[int, int]] = {}
        self._alive: set[int] = set()
        self.puts: list[Item] = []
        self.deletes: list[bytes] = []

    def insert(self, new: Unpacked, retention: Retention | None) -> bool:
        """Put in the events of the entity; False, and nothing else, if they are undecided."""
        located = self._located(new)
        runs = self._runs(sorted(set(located)))
        number = {place: n for n, run in enumerate(runs) for place in run}
        of_event = np.array([number[place] for place in located], np.int64)
        starts = np.searchsorted(of_event, np.arange(len(runs) + 1))
        layout, places = self._cutter.layout, [place for run in runs for place in run]
        self._open(places)
        old = codec.unpack_rows(layout, [self._chunks[place] for place in places])
        begins = np.cumsum([0, *map(len, runs)])
        old = recut(old, old.timeline.starts[begins])
        events, undecided = combine(layout, old, part(new, starts), told_apart=self._told_apart)
        if undecided.any():
            return False
        rows, children, begins = self._cutter.chunks(events)
        self.puts += under(self._key, children, rows)
        bounds = zip(runs, begins[:-1].tolist(), begins[1:].tolist(), strict=True)
        cuts = [(run, children.part(first, stop)) for run, first, stop in bounds]
        self._splice(cuts, retention)
        # What is written again as it was is neither written nor deleted.
        before = {child_key(self._key, each) for each in self._gone}
        gone = [child_key(self._key, each) for each in self._gone if self._deletable(each)]
        written = {key for key, _ in self.puts}
        self.puts = [item for item in self.puts if item[0] not in before]
        self.deletes = [key for key in gone if key not in written]
        return True

    def _deletable(self, child: int) -> bool:
        """Whether a child that was replaced is nowhere else in the tree.

        Only one whose events all have the same time can be there twice, with the same bytes.
        """
        first, last = self._gone[child]
        known = self._top.known
        for group, each in enumerate(self._groups):
            if each is None and first == last and known.first[group] <= first <= known.last[group]:
                self._alive.update(self._group(group).ids.tolist())
        return child not in self._alive

    def _located(self, new: Unpacked) -> list[Place]:
        """The chunk that each new event falls into: the last one that begins no later."""
        time = new.timeline.time
        known = time if new.timeline.known is None else np.maximum(new.timeline.known, time)
        groups: list[int] = [0] * len(time)
        if self._deep:
            firsts = self._top.known.first
            groups = np.maximum(np.searchsorted(firsts, time, "right") - 1, 0).tolist()
            self._read(groups)
        places = [
            (group, _last_before(self._group(group).known.first, t))
            for group, t in zip(groups, time.tolist(), strict=True)
        ]
        self._open(set(places))
        for i, moment in enumerate(zip(time.tolist(), known.tolist(), strict=True)):
            # Of several that begin at the same time, one may begin with an event known later.
            while self._first(places[i]) > moment and (before := self._before(places[i])):
                places[i] = before
        return places

    def _first(self, place: Place) -> tuple[int, int]:
        """The time of the first event of a chunk, and the moment at which it became known."""
        self._open([place])
        words: Words = np.frombuffer(self._chunks[place], np.int64)
        time = int(words[codec.HEADER])
        late = int(words[0]) >> 48 & codec.HAS_KNOWN
        return time, int(words[codec.HEADER + int(words[1])]) if late else time

    def _runs(self, places: list[Place]) -> list[list[Place]]:
        """The chunks that are cut anew together: a full one may move where the next begins."""
        full = 2 * self._cutter.sizes.chunk
        runs: list[list[Place]] = []
        for place in places:
            if runs and place in runs[-1]:
                continue
            runs.append([place])
            last: Place | None = place
            while last and int(self._group(last[0]).known.events[last[1]]) >= full:
                if last := self._after(last):
                    runs[-1].append(last)
        return runs

    def _splice(
        self, cuts: list[tuple[list[Place], Children]], retention: Retention | None
    ) -> None:
        """Put the new chunks in the place of the old ones, and write all directories above."""
        edits: dict[int, list[tuple[int, int, Children | None]]] = {}
        for run, children in cuts:
            fresh: Children | None = children
            for group in dict.fromkeys(group for group, _ in run):
                mine = [chunk for at, chunk in run if at == group]
                self._forget(self._group(group), mine)
                edits.setdefault(group, []).append((mine[0], mine[-1] + 1, fresh))
                fresh = None
        changed = {group: _edited(self._group(group), each) for group, each in edits.items()}
        if retention is not None:
            self._expire(changed, retention)
        events = sum(
            sum(part.events for part in changed[group])
            if group in changed
            else int(self._top.known.events[group])
            for group in range(len(self._groups))
        )
        if self._deep and events > self._cutter.sizes.deep:
            self._write_inner(changed)
            return
        if self._deep:
            self._forget(self._top, range(len(self._top)))
            self._read(range(len(self._groups)))
        children = joined(
            [
                part
                for group in range(len(self._groups))
                for part in changed.get(group, [self._group(group)])
            ]
        )
        if events > self._cutter.sizes.split:
            self._alive.update(children.ids.tolist())
            self.puts += self._cutter.root(self._key, children)
        else:
            self._write_row(children)

    def _write_inner(self, changed: dict[int, list[Children]]) -> None:
        """Write the directories that change, and the root above them."""
        edits: list[tuple[int, int, Children | None]] = []
        for first, stop in self._group_runs(changed):
            self._forget(self._top, range(first, stop))
            self._read(range(first, stop))
            parts = [
                part
                for group in range(first, stop)
                for part in changed.get(group, [self._group(group)])
            ]
            fresh = None
            if parts:
                rows, fresh = self._cutter.inner(joined(parts))
                self.puts += under(self._key, fresh, rows)
            edits.append((first, stop, fresh))
        top = joined(_edited(self._top, edits))
        self._alive.update(top.ids.tolist())
        for group, children in enumerate(self._groups):
            for each in changed.get(group, [children] if children else []):
                self._alive.update(each.ids.tolist())
        self.puts.append((self._key, directories.pack(DIRECTORIES, top)))

    def _group_runs(self, changed: dict[int, list[Children]]) -> list[tuple[int, int]]:
        """The directories that are cut anew together, as those of `_runs` for chunks.

        One whose first chunk is another now may no longer begin there.
        """
        sizes = self._cutter.sizes
        runs: list[tuple[int, int]] = []
        for group in sorted(changed):
            first, stop = group, group + 1
            while first and first in changed and not _begins(changed[first], sizes.fanout):
                first -= 1
            while stop < len(self._groups) and len(self._group(stop - 1)) >= 2 * sizes.fanout:
                stop += 1
            while runs and runs[-1][1] >= first:
                before = runs.pop()
                first, stop = min(first, before[0]), max(stop, before[1])
            runs.append((first, stop))
        return runs

    def _write_row(self, children: Children) -> None:
        """Write the events that are left as one row."""
        written = dict(self.puts)
        keys = [child_key(self._key, each) for each in children.ids.tolist()]
        rows = [written.get(key) or self._got([key])[0] for key in keys]
        layout = self._cutter.layout
        events = codec.unpack_rows(layout, rows)
        whole = recut(events, events.timeline.starts[[0, -1]])
        self.puts = [(self._key, codec.pack(layout, whole)[0])]
        self._forget(children, range(len(children)))

    def _expire(self, changed: dict[int, list[Children]], retention: Retention) -> None:
        """Leave out the chunks at the beginning whose events matter no more."""
        top = self._top.known
        for group in range(len(self._groups)):
            if self._deep and int(top.first[group]) >= retention.low:
                return
            self._read([group])
            parts = changed.get(group, [self._group(group)])
            if not parts:
                continue
            mine = joined(parts)
            old = mine.known.last < retention.low
            lasting = _lasting(mine, retention)
            later = self._deep and _lasting(self._top, retention)[group + 1 :].any()
            count = int(np.argmin(np.append(old, False)))
            while count and not (later or lasting[count:].any()):
                count -= 1
            if not count:
                return
            self._forget(mine, range(count))
            changed[group] = [mine.part(count, len(mine))] if count < len(mine) else []
            if count < len(mine):
                return

    def _forget(self, children: Children, places: Iterable[int]) -> None:
        """Note that children of a directory are replaced."""
        known = children.known
        for place in places:
            bounds = int(known.first[place]), int(known.last[place])
            self._gone[int(children.ids[place])] = bounds

    def _group(self, group: int) -> Children:
        self._read([group])
        found = self._groups[group]
        assert found is not None  # noqa: S101 - it has just been read
        return found

    def _read(self, groups: Iterable[int]) -> None:
        """Read directories of chunks that have not been read yet."""
        wanted = sorted({group for group in groups if self._groups[group] is None})
        keys = [child_key(self._key, int(self._top.ids[group])) for group in wanted]
        for group, row in zip(wanted, self._got(keys), strict=True):
            self._groups[group] = directories.read(row)

    def _open(self, places: Iterable[Place]) -> None:
        """Read chunks that have not been read yet."""
        wanted = sorted({place for place in places if place not in self._chunks})
        keys = [child_key(self._key, int(self._group(group).ids[chunk])) for group, chunk in wanted]
        self._chunks.update(zip(wanted, self._got(keys), strict=True))

    def _got(self, keys: Sequence[bytes]) -> list[bytes]:
        found = [row for row in self._fetch(keys) if row is not None] if keys else []
        if len(found) != len(keys):
            raise directories.torn()
        return found

    def _before(self, place: Place) -> Place | None:
        group, chunk = place
        if chunk:
            return group, chunk - 1
        return (group - 1, len(self._group(group - 1)) - 1) if group else None

    def _after(self, place: Place) -> Place | None:
        group, chunk = place
        if chunk + 1 < len(self._group(group)):
            return group, chunk + 1
        return (group + 1, 0) if group + 1 < len(self._groups) else None


def _last_before(firsts: Words, time: int) -> int:
    """The last child that begins no later; the first one where none does."""
    return max(int(np.searchsorted(firsts, time, "right")) - 1, 0)


def _edited(
    children: Children, edits: Sequence[tuple[int, int, Children | None]]
) -> list[Children]:
    """Children of which some ranges, in order, are replaced."""
    parts: list[Children] = []
    at = 0
    for first, stop, fresh in edits:
        parts += [children.part(at, first)] if at < first else []
        parts += [fresh] if fresh is not None else []
        at = stop
    return parts + ([children.part(at, len(children))] if at < len(children) else [])


def _begins(parts: Sequence[Children], fanout: int) -> bool:
    """Whether a directory begins with the first of these children."""
    return bool(parts) and int(parts[0].ids[0]) & (fanout - 1) == 0


def _lasting(children: Children, retention: Retention) -> Flags:
    """Which children hold an event that is visible from the earliest moment on, for ever."""
    known = children.known
    cells = (len(known.starts) - 1) // len(children)
    counts = known.words[known.starts[:-1:cells]]
    return (known.settled <= retention.floor) & (counts > 0)
