"""New events in the rows and trees of entities (`cutting` says what a tree is).

Trees are read, put together and cut anew many at a time: a batch of events that reaches hundreds of
them costs a few round trips and a few passes over arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from tidemark.kernel.layout import Layout
from tidemark.online.rows import codec
from tidemark.online.rows.codec import Events, Unpacked
from tidemark.online.rows.merging import combine, pick, recut
from tidemark.online.rows.retention import Retention
from tidemark.online.rows.splicing import can_splice, count_of, splice
from tidemark.online.trees import directories, sketches
from tidemark.online.trees.cutting import Cutter
from tidemark.online.trees.directories import (
    CHUNKS,
    TILES,
    Fetch,
    Item,
    Shelf,
    child_key,
    is_directory,
)
from tidemark.online.trees.extending import extend
from tidemark.online.trees.growing import Cut, Tree
from tidemark.online.trees.tiles import Tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel import Timeline

    Words = NDArray[np.int64]

E = TypeVar("E", bound=Events)

_TOGETHER = 256
"""Trees whose events are in memory at the same time: some 400 events of each."""


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
    puts, deletes, failed = list[Item](), list[bytes](), list[int]()
    sketched: set[bytes] = set()
    if len(plain := np.flatnonzero(~large)):
        rows = _Into(
            [keys[place] for place in plain.tolist()],
            [old[place] for place in plain.tolist()],
            new if len(plain) == len(old) else pick(new, plain),
            told_apart,
        )
        grown = _in_rows(cutter, rows, retention)
        puts += grown.puts
        failed += plain[grown.undecided].tolist()
    if len(trees := np.flatnonzero(large)):
        into = _Into(
            [keys[place] for place in trees.tolist()],
            [old[place] for place in trees.tolist()],
            pick(new, trees),
            told_apart,
        )
        grow = _tiled if layout.step else _extended
        grown = grow(cutter, into, fetch, retention)
        puts += grown.puts
        deletes += grown.deletes
        sketched = grown.sketched
        failed += trees[grown.undecided].tolist()
    if sketched:
        rest = [pair for pair in zip(keys, old, strict=True) if pair[0] not in sketched]
        keys, old = [key for key, _ in rest], [row for _, row in rest]
    more, dropped = sketches.changes(layout, keys, old, puts, deletes, fetch)
    return Merged(more + puts, deletes + dropped, np.array(sorted(failed), np.int64))


def _in_rows(cutter: Cutter, into: _Into[Events], retention: Retention | None) -> _Grown:
    """Put events into rows, of which some become trees."""
    layout, keys = cutter.layout, into.keys
    if not into.told_apart or not can_splice(layout):
        old = codec.unpack_rows(layout, into.rows)
        events, undecided = combine(layout, old, into.new, told_apart=into.told_apart)
        decided = np.flatnonzero(~undecided)
        events = events if len(decided) == len(keys) else pick(events, decided)
        whole = events if retention is None else retention.retained(events)
        puts = cutter.written([keys[place] for place in decided.tolist()], whole)
        return _Grown(puts, [], np.flatnonzero(undecided).tolist())
    done = splice(layout, into.rows, into.new)
    puts, again = list[Item](), list[int]()
    for place, (key, row) in enumerate(zip(keys, done.rows, strict=True)):
        if count_of(row) > cutter.sizes.split or (row and retention and retention.touches(row)):
            again.append(place)
        elif row:
            puts.append((key, row))
    if again:
        events = codec.unpack_rows(layout, [done.rows[place] for place in again])
        whole = events if retention is None else retention.retained(events)
        puts += cutter.written([keys[place] for place in again], whole)
    return _Grown(puts, [], np.flatnonzero(done.undecided).tolist())


def _tiled(
    cutter: Cutter, into: _Into[Unpacked], fetch: Fetch, retention: Retention | None
) -> _Grown:
    """Put events into the tiles of entities, one after the other."""
    grown = _Grown([], [], [])
    for place, (key, root) in enumerate(zip(into.keys, into.rows, strict=True)):
        tiles = Tiles(cutter.layout, cutter.sizes.fanout, key, root or b"", fetch, into.told_apart)
        if tiles.insert(pick(into.new, np.array([place])), retention):
            grown.puts.extend(tiles.puts)
            grown.deletes.extend(tiles.deletes)
        else:
            grown.undecided.append(place)
    return grown


class _Into(NamedTuple, Generic[E]):
    """Entities by the keys of their rows or roots, what is there, and new events of each.

    `told_apart` says that no new event has the identity of one that is there.
    """

    keys: Sequence[bytes]
    rows: Sequence[bytes | None]
    new: E
    told_apart: bool


class _Grown(NamedTuple):
    """What is to be written and deleted.

    `undecided` are the numbers of the entities that stay as they are, since bytes do not tell what
    their events are together.  `sketched` are the keys of those whose sketches are in it already.
    """

    puts: list[Item]
    deletes: list[bytes]
    undecided: list[int]
    sketched: set[bytes] = set()  # noqa: RUF012 - nobody changes it


def _extended(
    cutter: Cutter, into: _Into[Unpacked], fetch: Fetch, retention: Retention | None
) -> _Grown:
    """Put events into trees: into chunks as they are, or else by cutting them anew."""
    if not into.told_apart or not can_splice(cutter.layout):
        return _grown(cutter, into, fetch, retention)
    roots = [row or b"" for row in into.rows]
    done = extend(cutter, into.keys, roots, into.new, fetch, retention)
    if not done.left:
        return _Grown(done.puts, done.deletes, [], done.sketched)
    rest = _Into(
        [into.keys[place] for place in done.left],
        [into.rows[place] for place in done.left],
        pick(into.new, np.array(done.left)),
        into.told_apart,
    )
    grown = _grown(cutter, rest, fetch, retention)
    undecided = [done.left[place] for place in grown.undecided]
    puts, deletes = done.puts + grown.puts, done.deletes + grown.deletes
    return _Grown(puts, deletes, undecided, done.sketched)


def _grown(
    cutter: Cutter, into: _Into[Unpacked], fetch: Fetch, retention: Retention | None
) -> _Grown:
    """Put events into trees."""
    grown = _Grown([], [], [])
    for first in range(0, len(into.keys), _TOGETHER):
        places = range(first, min(first + _TOGETHER, len(into.keys)))
        shelf = Shelf(fetch)
        trees = [Tree(cutter, into.keys[place], into.rows[place] or b"", shelf) for place in places]
        some = pick(into.new, np.array(places))
        cuts = _cuts(cutter, trees, some, shelf, told_apart=into.told_apart)
        for place, tree, mine in zip(places, trees, cuts, strict=True):
            if mine is None:
                grown.undecided.append(place)
                continue
            tree.replace(mine, retention)
            grown.puts.extend(tree.puts)
            grown.deletes.extend(tree.deletes)
    return grown


class _Chunks(NamedTuple):
    """What is cut anew of some trees, run after run: the trees that the runs of chunks are of.

    New events of a run begin at `begins`.
    """

    owners: Words
    runs: list[list[int]]
    begins: Words


def _cuts(
    cutter: Cutter, trees: Sequence[Tree], new: Unpacked, shelf: Shelf, *, told_apart: bool
) -> list[list[Cut] | None]:
    """For each tree, what is cut anew with its new events; None where they are undecided."""
    owners, runs, begins = _changed(trees, new.timeline, shelf)
    of_runs: list[int] = owners.tolist()
    chunks = shelf.get(
        [
            trees[owner].chunk_key(place)
            for owner, run in zip(of_runs, runs, strict=True)
            for place in run
        ]
    )
    old = codec.unpack_rows(cutter.layout, chunks)
    old = recut(old, old.timeline.starts[np.cumsum([0, *map(len, runs)])])
    events, undecided = combine(cutter.layout, old, recut(new, begins), told_apart=told_apart)
    failed = np.zeros(len(trees), np.bool_)
    failed[owners[undecided]] = True
    cuts: list[list[Cut] | None] = [None if each else [] for each in failed.tolist()]
    mine = np.flatnonzero(~failed[owners])
    if not len(mine):
        return cuts
    rows, children, ends = cutter.chunks(events if len(mine) == len(runs) else pick(events, mine))
    bounds = zip(mine.tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    for number, first, stop in bounds:
        if (of_tree := cuts[of_runs[number]]) is not None:
            of_tree.append(Cut(runs[number], children.part(first, stop), rows[first:stop]))
    return cuts


def _changed(trees: Sequence[Tree], timeline: Timeline, shelf: Shelf) -> _Chunks:
    """The chunks that new events change; the directories and chunks of all trees are read."""
    time, starts = timeline.time, timeline.starts.tolist()
    known = time if timeline.known is None else np.maximum(timeline.known, time)
    times = [time[a:b] for a, b in pairwise(starts)]
    pairs = list(zip(trees, times, strict=True))
    shelf.get([key for tree, mine in pairs for key in tree.above(mine)])
    shelf.get([key for tree, mine in pairs for key in tree.below(mine)])
    runs: list[list[int]] = []
    begins: list[int] = []
    owners: list[int] = []
    for number, (tree, mine) in enumerate(pairs):
        first = starts[number]
        places = tree.located(mine, known[first : first + len(mine)])
        of_tree = tree.runs(places)
        begins += (first + np.searchsorted(places, [run[0] for run in of_tree])).tolist()
        owners += [number] * len(of_tree)
        runs += of_tree
    return _Chunks(np.array(owners, np.int64), runs, np.array([*begins, len(time)], np.int64))


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
