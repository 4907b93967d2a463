"""Entities with many events: the tree follows from the events, whatever order they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from tests.property.stored import LAYOUT, TEXTUAL, Event, as_events, event
from tests.rows import unpack

from tidemark.kernel.layout import Layout
from tidemark.online.rows import codec
from tidemark.online.rows.codec import NEVER
from tidemark.online.rows.merging import recut
from tidemark.online.rows.retention import Retention
from tidemark.online.trees import cutting, directories, extending, sketches, tree
from tidemark.online.trees.cutting import Sizes

SIZES = [Sizes(1, 1, 1), Sizes(4, 2, 2), Sizes(5, 4, 2), Sizes(16, 8, 4), Sizes(1024, 512, 64)]
ENTITIES = 3
KEYS = [bytes([n]) for n in range(ENTITIES)]


class Store(dict[bytes, bytes]):
    """What an online store does, with its reads counted."""

    reads = 0

    def __init__(self, rows: Mapping[bytes, bytes] | None = None, layout: Layout = LAYOUT) -> None:
        super().__init__(rows or {})
        self.layout = layout

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads += sum(not _is_sketch(key) for key in keys)
        return [self.get(key) for key in keys]

    def apply(self, merged: tree.Merged) -> None:
        for key in merged.deletes:
            self.pop(key, None)
        self.update(merged.puts)

    def insert(self, events: Sequence[Event], *, told_apart: bool = False) -> list[int]:
        """Merge events; gives the entities that are undecided."""
        numbers = sorted({each.entity for each in events})
        moved = [_moved(each, numbers.index(each.entity)) for each in events]
        keys = [KEYS[number] for number in numbers]
        new = as_events(moved, len(numbers), layout=self.layout)
        merged = tree.merge(
            self.layout, keys, self.fetch(keys), new, self.fetch, told_apart=told_apart
        )
        self.apply(merged)
        return [numbers[place] for place in merged.undecided.tolist()]

    def rebuild(self, events: Sequence[Event], entities: Sequence[int]) -> None:
        """Write some entities anew from all their events."""
        mine = [
            _moved(each, entities.index(each.entity)) for each in events if each.entity in entities
        ]
        keys = [KEYS[entity] for entity in entities]
        all_ = as_events(mine, len(keys), layout=self.layout)
        self.apply(tree.replace(self.layout, keys, self.fetch(keys), all_, self.fetch))

    def reachable(self) -> dict[bytes, bytes]:
        """Everything that a reader can come to."""
        found: dict[bytes, bytes] = {}
        for key in KEYS:
            if key in self:
                keys = [key, *tree.stored_children(key, self[key], self.fetch)]
                found.update((each, self[each]) for each in keys)
                for each in keys:
                    found.update(self.sketches_of(key, self[each]))
        return found

    def sketches_of(self, key: bytes, row: bytes) -> dict[bytes, bytes]:
        """The sketches of a directory of the entity with this key."""
        if not directories.is_directory(row):
            return {}
        chunks = directories.level_of(row) == 1
        groups = sketches.groups_of(key, directories.read(row), chunks=chunks)
        return {each.key: self[each.key] for each in groups}


def _is_sketch(key: bytes) -> bool:
    return key.endswith(b"\xa1s")


def _moved(each: Event, entity: int) -> Event:
    return Event(
        entity, each.time, each.known, each.until, each.values, each.filters, each.identity
    )


def written(events: Sequence[Event], layout: Layout = LAYOUT) -> dict[bytes, bytes]:
    """What materializing all events at once gives."""
    return dict(tree.write(layout, KEYS, as_events(events, ENTITIES, layout=layout)))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_same_events_give_the_same_tree(sizes, seed, monkeypatch):
    """Merged in random order and portions, it is byte for byte what one materialization writes."""
    monkeypatch.setattr(cutting, "SIZES", sizes)
    random = Random(seed)
    times = random.choice((3, 30, 1000, 100_000))
    events = [
        event(random, min(random.randrange(5), 2), n + 1, times)
        for n in range(random.choice((20, 150, 600)))
    ]
    store, there = Store(), list[Event]()
    while len(there) < len(events):
        some = events[len(there) : len(there) + random.choice((1, 1, 3, 40, 200))]
        there += some
        undecided = store.insert(some)
        if undecided:
            store.rebuild(there, undecided)
        wanted = written(there)
        assert store.reachable() == wanted
        assert store.keys() == wanted.keys()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sizes", [*SIZES[:3], Sizes(24, 8, 8), Sizes(40, 32, 4)], ids=str)
def test_events_that_are_told_apart_give_the_same_tree(sizes, seed, monkeypatch):
    """What need not be unpacked is not; it is byte for byte what one materialization writes."""
    monkeypatch.setattr(cutting, "SIZES", sizes)
    random = Random(seed)
    monkeypatch.setattr(extending, "_TOGETHER", random.choice((1, 2, 1_024)))
    times, corrected = random.choice((3, 300, 100_000, 10**9)), random.random() < 0.3
    events = [
        replace(each, until=each.until if corrected else NEVER)
        for each in (
            event(random, min(random.randrange(5), 2), n + 1, times)
            for n in range(random.choice((20, 150, 400)))
        )
    ]
    if random.random() < 0.7:  # nearly in order, as live events are
        events.sort(key=lambda each: each.time + random.randrange(1 + times // 5))
    store, there = Store(layout=TEXTUAL), list[Event]()
    while len(there) < len(events):
        some = events[len(there) : len(there) + random.choice((1, 1, 3, 9, 40))]
        there += some
        undecided = store.insert(some, told_apart=True)
        if undecided:
            store.rebuild(there, undecided)
        if len(there) == len(events) or random.random() < 0.2:
            wanted = written(there, TEXTUAL)
            assert store.reachable() == wanted
            assert store.keys() == wanted.keys()


def test_a_sketch_that_is_not_there_is_made_of_what_is_below(monkeypatch):
    """It is a shortcut: where one is absent, those above it come from chunks and are right."""
    monkeypatch.setattr(cutting, "SIZES", Sizes(16, 8, 16))
    random = Random(5)
    events = [replace(event(random, 0, n + 1, 10**9), until=NEVER) for n in range(300)]
    store = Store(written(events[:200], TEXTUAL), TEXTUAL)
    made = 0
    for place in range(200, 300):
        if place % 5 == 0:
            del store[random.choice(sorted(filter(_is_sketch, store)))]
        before = {key for key in store if _is_sketch(key)}
        assert store.insert(events[place : place + 1], told_apart=True) == []
        wanted = written(events[: place + 1], TEXTUAL)
        assert store.items() <= wanted.items()
        assert all(key in store for key in wanted if not _is_sketch(key))
        made += sum(_is_sketch(key) for key in store.keys() - before)
    assert made > 100


@pytest.mark.parametrize("sizes", SIZES[1:4], ids=str)
def test_a_tree_holds_its_events_in_order(sizes, monkeypatch):
    """The chunks, one after the other, are the row that would hold them all."""
    monkeypatch.setattr(cutting, "SIZES", sizes)
    random = Random(7)
    events = [event(random, 0, n + 1, 400) for n in range(700)]
    store = Store(written(events))
    (row,) = codec.pack(LAYOUT, as_events(events, 1))
    root = directories.read(store[KEYS[0]])
    if directories.level_of(store[KEYS[0]]) == 2:
        inner = [directories.child_key(KEYS[0], each) for each in root.ids.tolist()]
        root = directories.joined([directories.read(store[key]) for key in inner])
    chunks = [store[directories.child_key(KEYS[0], each)] for each in root.ids.tolist()]
    whole = codec.unpack_rows(LAYOUT, chunks)
    assert codec.pack(LAYOUT, recut(whole, whole.timeline.starts[[0, -1]])) == [row]
    sizes_of = [len(unpack(LAYOUT, chunk).time) for chunk in chunks]
    assert max(sizes_of) <= 2 * sizes.chunk
    assert len(chunks) <= 3 * len(events) / sizes.chunk


def test_a_late_event_touches_little(monkeypatch):
    """One chunk and the directories above it are written, of hundreds.

    Where a chunk becomes two, the sketches of those after it are made anew from their events.
    """
    monkeypatch.setattr(cutting, "SIZES", Sizes(16, 8, 8))
    random = Random(3)
    events = [event(random, 0, n + 1, 10_000_000) for n in range(4_000)]
    store = Store(written(events))
    assert len(store) > 400
    for n in range(50):
        store.reads = 0
        keys = [KEYS[0]]
        merged = tree.merge(
            LAYOUT,
            keys,
            store.fetch(keys),
            as_events([event(random, 0, 5_000 + n, 10_000_000)], 1),
            store.fetch,
        )
        store.apply(merged)
        assert store.reads <= 60
        assert sum(not _is_sketch(key) for key, _ in merged.puts) <= 12
        assert sum(not _is_sketch(key) for key in merged.deletes) <= 10


@pytest.mark.parametrize("layout", [LAYOUT, TEXTUAL], ids=["unpacked", "spliced"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [*SIZES[1:4], Sizes(64, 32, 8)], ids=str)
def test_what_is_forgotten_matters_to_no_later_moment(sizes, seed, layout, monkeypatch):
    """Every event that a later moment needs stays, in the tree of exactly what is left."""
    monkeypatch.setattr(cutting, "SIZES", sizes)
    random = Random(seed)
    events = sorted(
        (event(random, 0, n + 1, 2_000) for n in range(400)), key=lambda each: each.known
    )
    store, there = Store(layout=layout), list[Event]()
    while len(there) < len(events):
        some = events[len(there) : len(there) + random.choice((1, 10, 60))]
        there += some
        floor = some[0].known - 500
        retention = Retention(floor, floor - 4_000)
        merged = tree.merge(
            layout,
            KEYS[:1],
            store.fetch(KEYS[:1]),
            as_events(some, 1, layout=layout),
            store.fetch,
            retention,
            told_apart=layout is TEXTUAL,
        )
        store.apply(merged)
        if len(merged.undecided):
            store.rebuild(there, [0])
        rows = store.reachable().values()
        chunks = [row for row in rows if not row[6] & (codec.DIRECTORY | codec.SKETCH)]
        held = [unpack(layout, row) for row in chunks]
        left = {identity for row in held for identity in row.identities or ()}
        assert {each.identity for each in there if needed(each, retention)} <= left
        kept = [each for each in there if each.identity in left]
        assert store.reachable() == written(kept, layout)
        lasting = [each for each in there if each.known <= floor and each.until == NEVER]
        assert not lasting or any(each.identity in left for each in lasting)
    assert len(left) < len(events) - 50


def needed(each: Event, retention: Retention) -> bool:
    return each.time >= retention.low and each.until > retention.floor
