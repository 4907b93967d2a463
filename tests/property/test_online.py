"""Vectors against training sets: what is served at t is what is trained on at t, by `==`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from msgspec import structs
from tests.oracle import Oracle, bits
from tests.property import worlds
from tests.property.worlds import World, moment, store_of

import tidemark as tm
from tidemark.kernel.layout import Layout
from tidemark.model.window import HOUR
from tidemark.online.rows.codec import Events
from tidemark.online.rows.merging import kept, pick
from tidemark.online.trees import cutting, tree
from tidemark.online.trees.cutting import Sizes

SEEDS = range(2 * worlds.WORLDS_PER_BOUND)
TREES = [Sizes(1, 1, 1), Sizes(4, 2, 2), Sizes(8, 4, 2), Sizes(16, 8, 4), Sizes(30, 16, 16)]


def forced(monkeypatch: pytest.MonkeyPatch, sizes: Sizes, seed: int) -> None:
    """Make trees of few events, and let them grow from some events by merging in the others."""
    random, whole = Random(seed), tree.write

    def grown(layout: Layout, keys: list[bytes], events: Events) -> list[tuple[bytes, bytes]]:
        size = len(events.timeline.time)
        portion = np.array([random.randrange(4) for _ in range(size)])
        rows = dict(whole(layout, keys, kept(events, portion == 0)))

        def fetch(wanted: Sequence[bytes]) -> list[bytes | None]:
            return [rows.get(key) for key in wanted]

        for number in range(1, 4):
            old, new = fetch(keys), kept(events, portion == number)
            changed = tree.merge(layout, keys, old, new, fetch)
            there, tied = kept(events, portion <= number), changed.undecided
            anew = [keys[place] for place in tied.tolist()]
            rebuilt = tree.replace(layout, anew, fetch(anew), pick(there, tied), fetch)
            for merged in (changed, rebuilt):
                for key in merged.deletes:
                    rows.pop(key, None)
                rows.update(merged.puts)
        assert dict(whole(layout, keys, events)) == rows
        return list(rows.items())

    monkeypatch.setattr(cutting, "SIZES", sizes)
    monkeypatch.setattr(tree, "write", grown)


def keys_table(world: World, keys: list[tuple[object, ...]]) -> pa.Table:
    return pa.table(
        {
            field.name: pa.array([key[i] for key in keys], worlds.arrow_type(field.type))
            for i, field in enumerate(world.entity.keys)
        }
    )


def compare(world: World, store: tm.Store) -> int:
    """Every vector is the training row, asked as of every moment of the labels; gives how many.

    The state is materialized once, as of the last of these moments.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for place, (_, t) in enumerate(world.asked):
        places[t].append(place)
    trained = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
    store.materialize(until=moment(max(places)))
    compared, differ = 0, []
    wanted = {each.name: worlds.plain_values(trained[each.name]) for each in world.view.features}
    for t, at_t in places.items():
        keys = keys_table(world, [world.asked[place][0] for place in at_t])
        served = store.online_many(world.names, keys, at=moment(t)).to_arrow()
        for name, values in wanted.items():
            for place, value in zip(at_t, worlds.plain_values(served[name]), strict=True):
                compared += 1
                if bits(value) != bits(values[place]):
                    asked = f"{name} of {world.asked[place]}"
                    differ.append(f"{asked}: {value!r}, trained {values[place]!r}")
    assert differ[:5] == []
    assert compared == len(world.asked) * len(world.view.features)
    return compared


@pytest.mark.parametrize("seed", SEEDS)
def test_every_vector_is_the_training_row(seed: int) -> None:
    """For every aggregate over every kind of window."""
    world = worlds.make(seed)
    with store_of(world) as store:
        compare(world, store)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_vector_of_a_tree_is_the_training_row(seed, tmp_path, monkeypatch) -> None:
    """With chunks and directories of several sizes, and events that came in any order, in LMDB."""
    world = worlds.make(seed)
    forced(monkeypatch, TREES[seed % len(TREES)], seed)
    with store_of(world, project=tmp_path, name="world", online="lmdb://online") as store:
        compared = compare(world, store)
    assert compared * len(SEEDS) >= 200_000


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_one_vector_is_a_row_of_many(seed, large, monkeypatch) -> None:
    if large:
        forced(monkeypatch, TREES[1], seed)
    world = worlds.make(seed, asked=20)
    names = [feature.name for feature in world.view.features]
    with store_of(world) as store:
        store.materialize(until=moment(max(t for _, t in world.asked)))
        for key, t in world.asked:
            one = store.online(
                world.names, dict(zip(world.view.keys, key, strict=True)), at=moment(t)
            )
            many = store.online_many(world.names, keys_table(world, [key]), at=moment(t))
            row = many.to_dicts()[0]
            assert [bits(one[name]) for name in names] == [bits(row[name]) for name in names]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_state_knows_nothing_seen_after_it_was_made(seed, large, monkeypatch) -> None:
    """Materialized again and again as time passes, each state answers its own moment."""
    if large:
        forced(monkeypatch, TREES[2], seed)
    world = worlds.make(seed, asked=40)
    with store_of(world) as store:
        trained = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
        for place in sorted(range(len(world.asked)), key=lambda i: world.asked[i][1])[::8]:
            key, t = world.asked[place]
            store.materialize(until=moment(t))
            got = store.online_many(world.names, keys_table(world, [key]), at=moment(t)).to_arrow()
            for feature in world.view.features:
                wanted = worlds.plain_values(trained[feature.name])[place]
                assert bits(worlds.plain_values(got[feature.name])[0]) == bits(wanted), feature


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_statuses_and_ages_follow_from_the_events(seed, large, monkeypatch) -> None:
    """An expired value is one that would be there without `max_age`; ages are those of events."""
    if large:
        forced(monkeypatch, TREES[seed], seed)
    world = worlds.make(seed, asked=60)
    world = replace(world, view=structs.replace(world.view, max_age=HOUR))
    oracle = Oracle(world.source, world.view, world.rows)
    with store_of(world) as store:
        store.materialize(until=moment(max(t for _, t in world.asked)))
        for key, t in world.asked:
            keys = dict(zip(world.view.keys, key, strict=True))
            vector = store.online(world.names, keys, at=moment(t))
            seen = oracle.visible(key, t)
            for feature in world.view.features:
                if feature.aggregate.default is None:
                    wanted = oracle.status(feature, seen, t)
                    found = str(vector.status(feature.name))
                    # A null that expired is a matter of taste: it was a value, and it was null.
                    assert found == wanted or (found, wanted) == ("EXPIRED", "NULL"), feature
                if feature.aggregate.function == "count" and feature.aggregate.value is None:
                    rows = oracle.rows(feature, seen, t)
                    age = moment(t) - moment(max(row["at"] for row in rows)) if rows else None
                    assert vector.age(feature.name) == age, feature
