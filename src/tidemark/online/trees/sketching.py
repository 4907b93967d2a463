"""Sketches beside trees of which some chunks only gain events: these are added to what is there.

`sketches` makes those of trees that were cut anew, of what is below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.kernel.layout import Layout
from tidemark.online.rows.codec import Unpacked
from tidemark.online.trees.directories import CHUNKS, Fetch, Item, ids_of, level_of
from tidemark.online.trees.sketches import HEAD, LEAST, sketch_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.sketches import Part

    Words = NDArray[np.int64]


class Gaining(NamedTuple):
    """Children of directories that gain events: run r is child `places[r]` of `owners[r]`.

    `keys` are those of the trees that the directories belong to, `before` and `after` their bytes,
    and `events` has a segment for each run.
    """

    keys: Sequence[bytes]
    before: Sequence[bytes]
    after: Sequence[bytes]
    owners: Words
    places: Words
    events: Unpacked


class _Group(NamedTuple):
    """A group of children that has a sketch: its key, then and now, and the runs that are in it."""

    tree: bytes
    old: bytes
    new: bytes
    runs: slice


class Gained(NamedTuple):
    """What is to be written and deleted.

    A tree of which a sketch is not there is `lacking`: none of its sketches are in these.
    """

    puts: list[Item]
    deletes: list[bytes]
    lacking: set[bytes]


def _groups_of(gaining: Gaining) -> list[_Group]:
    """The groups that have gained events."""
    found: list[_Group] = []
    several: list[int] = np.unique(gaining.owners).tolist()
    for owner in several:
        first, stop = np.searchsorted(gaining.owners, [owner, owner + 1]).tolist()
        places = gaining.places[first:stop]
        row, key = gaining.before[owner], gaining.keys[owner]
        old, new = ids_of(row), ids_of(gaining.after[owner])
        least = LEAST if level_of(row) == CHUNKS else 0
        for level in range(least, len(old).bit_length()):
            whole = places < len(old) >> level << level
            numbers, begins = np.unique((places >> level)[whole], return_index=True)
            ends = np.append(begins, np.count_nonzero(whole))[1:]
            for number, a, b in zip(numbers.tolist(), begins.tolist(), ends.tolist(), strict=True):
                mine = slice(number << level, number + 1 << level)
                keys = sketch_key(key, old[mine]), sketch_key(key, new[mine])
                found.append(_Group(key, *keys, slice(first + a, first + b)))
    return found


def gain(layout: Layout, levels: Sequence[Gaining], fetch: Fetch) -> Gained:
    """What becomes of the sketches of directories whose children gain events."""
    groups = [_groups_of(each) for each in levels]
    stored = iter(fetch([group.old for some in groups for group in some]))
    found = [[next(stored) for _ in some] for some in groups]
    lacking: set[bytes] = set()
    for some, rows in zip(groups, found, strict=True):
        lacking.update(group.tree for group, row in zip(some, rows, strict=True) if row is None)
    puts, deletes = list[Item](), list[bytes]()
    for level, some, rows in zip(levels, groups, found, strict=True):
        whole = [
            (group, row)
            for group, row in zip(some, rows, strict=True)
            if row is not None and group.tree not in lacking
        ]
        puts += _added(layout, whole, level.events)
        deletes += [group.old for group, _ in whole]
    return Gained(puts, deletes, lacking)


def _added(layout: Layout, found: Sequence[tuple[_Group, bytes]], events: Unpacked) -> list[Item]:
    """The sketches of groups, from those that were there and the events that come."""
    from tidemark.kernel.sketches import merged, read_parts, sketch, write_parts

    fresh = sketch(layout, events.timeline, events.columns, events.filters)
    puts: list[Item] = []
    for group, row in found:
        new = fresh[group.runs]
        more = new[0] if len(new) == 1 else merged(new)
        old = read_parts(layout, np.frombuffer(row, np.int64))
        parts = [_both(*pair) for pair in zip(old, more, strict=True)]
        words = np.concatenate([HEAD, write_parts(layout, parts)])
        puts.append((group.new, words.tobytes()))
    return puts


def _both(old: Part, new: Part) -> Part:
    """A part with another one added, which has few buckets."""
    from tidemark.kernel.sketches import COUNT_BITS, Part, merged

    registers = np.maximum(old.registers, new.registers)
    if not len(new.buckets):
        return Part(registers, old.buckets)
    wanted = new.buckets >> COUNT_BITS
    buckets = old.buckets >> COUNT_BITS
    places = np.searchsorted(buckets, wanted)
    if places[-1] == len(buckets) or (buckets[places] != wanted).any():
        return merged([[old], [new]])[0]
    counted = old.buckets.copy()
    counted[places] += new.buckets & ((1 << COUNT_BITS) - 1)
    return Part(registers, counted)
