"""Views that move in steps: training against the oracle, vectors against training, by `==`."""

import pytest
from tests.property import worlds
from tests.property.test_online import compare
from tests.property.test_training import differences
from tests.property.worlds import store_of

from tidemark.model.window import DAY, HOUR, SECOND

CASES = [(seed, (HOUR, DAY, 7 * SECOND)[seed % 3]) for seed in range(6)]


@pytest.mark.parametrize(("seed", "step"), CASES)
def test_a_training_set_moves_in_steps(seed: int, step: int) -> None:
    """Moments and events on multiples of the step and a microsecond beside them."""
    world = worlds.stepped(seed, step)
    with store_of(world) as store:
        found = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
    compared, differ = differences(world, found)
    assert differ[:5] == []
    assert compared == len(world.asked) * len(world.view.features)


@pytest.mark.parametrize(("seed", "step"), CASES)
def test_a_vector_moves_in_steps(seed: int, step: int) -> None:
    """From the events of small entities; `test_tiles` has the large ones."""
    world = worlds.stepped(seed, step)
    with store_of(world) as store:
        compare(world, store)
