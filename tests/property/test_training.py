"""Training sets against the oracle: every aggregate, window and bound, hostile rows, by `==`."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.oracle import Oracle, approx_count_is_close, bits
from tests.property import worlds
from tests.property.worlds import World, store_of

from tidemark.errors import EngineError

WORLDS = max(2 * worlds.WORLDS_PER_BOUND, settings().max_examples // 4)
VALUES_PER_WORLD = 16_800
SEEDS = range(WORLDS)


def expected(world: World, *, hindsight: bool = False) -> Iterator[tuple[str, list[object]]]:
    """Each feature's name with its values, by the oracle."""
    oracle = Oracle(world.source, world.view, world.rows, hindsight=hindsight)
    seen = [oracle.visible(key, t) for key, t in world.asked]
    for feature in world.view.features:
        values = [
            oracle.value(feature, events, t)
            for events, (_, t) in zip(seen, world.asked, strict=True)
        ]
        yield feature.name, values


def differences(world: World, found: object, *, hindsight: bool = False) -> tuple[int, list[str]]:
    """How many values were compared, and a description of each one that differs."""
    compared, differ = 0, []
    features = {feature.name: feature for feature in world.view.features}
    for name, wanted in expected(world, hindsight=hindsight):
        feature = features[name]
        got = worlds.plain_values(found[name])
        close = feature.aggregate.function == "approx_count_distinct"
        for (key, t), a, b in zip(world.asked, got, wanted, strict=True):
            compared += 1
            equal = approx_count_is_close(a, b) if close else bits(a) == bits(b)
            if not equal:
                differ.append(f"{name} of {key} at {t}: {a!r}, not {b!r}; {feature.aggregate}")
    return compared, differ


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_set_holds_what_the_contract_says(seed: int) -> None:
    world = worlds.make(seed)
    with store_of(world) as store:
        found = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
    compared, differ = differences(world, found)
    assert differ[:5] == []
    assert compared >= VALUES_PER_WORLD
    assert found["place"].to_pylist() == list(range(len(world.asked)))


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_hindsight_reads_the_last_version_of_every_event(seed: int) -> None:
    world = worlds.make(seed)
    with store_of(world) as store:
        found = store.training_set(
            world.names, worlds.labels(world), time="t", hindsight=True
        ).to_arrow()
    _, differ = differences(world, found, hindsight=True)
    assert differ[:5] == []


def test_the_regular_run_compares_200_000_values() -> None:
    """Each world asserts its share."""
    assert WORLDS * VALUES_PER_WORLD >= 200_000


def test_every_aggregate_meets_every_window_under_both_bounds() -> None:
    met = {
        (feature.aggregate.function, feature.aggregate.window, world.view.bound)
        for world in map(worlds.make, SEEDS)
        for feature in world.view.features
    }
    assert len(met) == 2 * len(worlds.COMBINATIONS)


@pytest.mark.parametrize(("values", "function"), [([2**63 - 1, 1], "sum"), ([-(2**63), -1], "sum")])
def test_a_sum_that_does_not_fit_is_an_error(values: list[int], function: str) -> None:
    world = worlds.of_values("big", values, function)
    with store_of(world) as store, pytest.raises(EngineError, match=function):
        store.training_set(world.names, worlds.labels(world), time="t")
