"""Versions side by side: whatever else is published meanwhile, each serves what it trains on."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace
from tests.oracle import bits
from tests.property import worlds
from tests.property.worlds import World, moment, store_of

import tidemark as tm
from tidemark.define import Lowered
from tidemark.model.graph import Definitions, FeatureView


def apply(store: tm.Store, world: World, view: FeatureView) -> None:
    """Say this view and nothing else; several names for one meaning are what a world is made of."""
    plan = store.plan(Lowered(Definitions.of([world.entity, world.source, view])))
    names = [feature.name for feature in view.features]
    allowed = [f"{view.name}:{name}" for name in names]
    store.apply(plan, allow_duplicates=allowed, reason="by chance")


def assert_served_as_trained(store: tm.Store, world: World, references: list[str]) -> None:
    """Every vector of these versions is the row of the training set, to the bit."""
    last = max(t for _, t in world.asked)
    keys = {
        field.name: [key[place] for key, _ in world.asked]
        for place, field in enumerate(world.entity.keys)
    }
    now = dataclasses.replace(world, asked=[(key, last) for key, _ in world.asked])
    trained = store.training_set(references, worlds.labels(now), time="t").to_arrow()
    served = store.online_many(references, keys, at=moment(last)).to_arrow()
    for name in served.column_names:
        wanted = [bits(value) for value in worlds.plain_values(trained[name])]
        assert [bits(value) for value in worlds.plain_values(served[name])] == wanted, name


@pytest.mark.parametrize("seed", range(6))
def test_every_version_serves_what_it_trains_on(seed: int) -> None:
    """Features come, go and are defined anew under another boundary; none stops another."""
    world = worlds.make(seed, events=60, asked=12)
    features = world.view.features
    middle = len(features) // 2
    first = replace(world.view, features=features[:middle])
    other = "before" if world.view.bound == "at" else "at"
    again = tuple(replace(each, version=2) for each in features[: middle // 2])
    second = replace(world.view, bound=other, features=(*again, *features[middle:]))
    until = moment(max(t for _, t in world.asked))
    ones = [f"{world.view.name}:{each.name}@1" for each in first.features]
    twos = [f"{world.view.name}:{each.name}@{each.version}" for each in second.features]
    with store_of(dataclasses.replace(world, view=first)) as store:
        store.materialize(until=until)
        assert_served_as_trained(store, world, ones)
        apply(store, world, second)
        assert_served_as_trained(store, world, ones)
        store.materialize(until=until)
        assert_served_as_trained(store, world, ones)
        assert_served_as_trained(store, world, twos)
