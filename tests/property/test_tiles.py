"""Large entities of stepped views are tiles: sums of whole steps, no events, the same values."""

from __future__ import annotations

from collections import defaultdict

import pytest
from tests.oracle import bits
from tests.property import worlds
from tests.property.test_online import forced, keys_table
from tests.property.worlds import World, moment, store_of

import tidemark as tm
from tidemark.errors import StaleSource
from tidemark.model.window import DAY, HOUR, SECOND
from tidemark.online.trees import directories
from tidemark.online.trees.cutting import Sizes

SIZES = [Sizes(1, 1, 1), Sizes(3, 2, 2), Sizes(1, 1, 16)]
CASES = [(seed, (HOUR, DAY, 7 * SECOND)[seed % 3]) for seed in range(6)]
MOST_EARLY = 4


def rows_of(store: tm.Store) -> list[bytes]:
    """The rows and directories of a store in memory."""
    return [each for each in store._online._rows.values() if each.startswith(b"TMRW")]


def compare(world: World, store: tm.Store) -> int:
    """Every vector is the training row; gives how many values.

    The state is as of the last moment; for some of those before an event came, it is written anew.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for place, (_, t) in enumerate(world.asked):
        places[t].append(place)
    trained = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
    wanted = {each.name: worlds.plain_values(trained[each.name]) for each in world.view.features}
    last = moment(max(places))
    store.materialize(until=last)
    compared = early = 0
    differ: list[str] = []
    for t, at_t in places.items():
        keys = keys_table(world, [world.asked[place][0] for place in at_t])
        try:
            served = store.online_many(world.names, keys, at=moment(t)).to_arrow()
        except StaleSource:
            early += 1
            if early > MOST_EARLY:
                continue
            store.materialize(until=moment(t))
            served = store.online_many(world.names, keys, at=moment(t)).to_arrow()
            store.materialize(until=last)
        for name, values in wanted.items():
            for place, value in zip(at_t, worlds.plain_values(served[name]), strict=True):
                compared += 1
                if bits(value) != bits(values[place]):
                    asked = f"{name} of {world.asked[place]}"
                    differ.append(f"{asked}: {value!r}, trained {values[place]!r}")
    assert differ[:5] == []
    return compared


@pytest.mark.parametrize(("seed", "step"), CASES)
def test_a_vector_of_tiles_is_the_training_row(seed, step, monkeypatch) -> None:
    """Grown event by event or written at once; asked at every moment that the state can answer."""
    world = worlds.stepped(seed, step)
    sizes = SIZES[seed % len(SIZES)]
    forced(monkeypatch, sizes, seed)
    with store_of(world) as store:
        compared = compare(world, store)
        levels = [directories.level_of(row) for row in rows_of(store) if row[6] & 8]
    assert compared > 1_000
    assert directories.TILES in levels
    assert directories.CHUNKS not in levels
