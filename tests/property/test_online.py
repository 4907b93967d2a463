"""Vectors against training sets: what is served at t is what is trained on at t, by `==`."""

from collections import defaultdict
from dataclasses import replace

import pyarrow as pa
import pytest
from msgspec import structs
from tests.oracle import Oracle
from tests.property import worlds
from tests.property.worlds import World, bits, moment, store_of

from tidemark.model.window import HOUR

SEEDS = range(2 * worlds.WORLDS_PER_BOUND)


def keys_table(world: World, keys: list[tuple[object, ...]]) -> pa.Table:
    return pa.table(
        {
            field.name: pa.array([key[i] for key in keys], worlds.arrow_type(field.type))
            for i, field in enumerate(world.entity.keys)
        }
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_vector_is_the_training_row(seed: int) -> None:
    """Asked as of every moment of the labels, from one materialization after the last of them."""
    world = worlds.make(seed)
    last = max(t for _, t in world.asked)
    places: dict[int, list[int]] = defaultdict(list)
    for place, (_, t) in enumerate(world.asked):
        places[t].append(place)
    with store_of(world) as store:
        trained = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
        store.materialize(until=moment(last))
        served: dict[int, pa.Table] = {}
        for t, at_t in places.items():
            keys = keys_table(world, [world.asked[place][0] for place in at_t])
            served[t] = store.online_many(world.names, keys, at=moment(t)).to_arrow()
    compared, differ = 0, []
    for feature in world.view.features:
        wanted = worlds.plain_values(trained[feature.name])
        for t, at_t in places.items():
            got = worlds.plain_values(served[t][feature.name])
            for place, value in zip(at_t, got, strict=True):
                compared += 1
                if bits(value) != bits(wanted[place]):
                    asked = f"{feature.name} of {world.asked[place]}"
                    differ.append(f"{asked}: {value!r}, trained {wanted[place]!r}")
    assert differ[:5] == []
    assert compared == len(world.asked) * len(world.view.features)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_one_vector_is_a_row_of_many(seed: int) -> None:
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


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_state_knows_nothing_seen_after_it_was_made(seed: int) -> None:
    """Materialized again and again as time passes, each state answers its own moment."""
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


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_statuses_and_ages_follow_from_the_events(seed: int) -> None:
    """An expired value is one that would be there without `max_age`; ages are those of events."""
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
