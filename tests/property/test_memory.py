"""History larger than memory: worked through in groups of entities, with the same result."""

from __future__ import annotations

from typing import Any

import pytest
from tests.oracle import bits
from tests.property import worlds
from tests.property.worlds import World

from tidemark.engines import events, offline
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.state import Partition, entities
from tidemark.engines.training import training_set
from tidemark.kernel.layout import Layout
from tidemark.model.graph import Definitions, Output, Reference

SEEDS = range(4)
LITTLE = 12_000  # bytes: about ten groups of entities, and one value column at a time


def engine_of(world: World, memory: int | None) -> DuckDB:
    """An engine that plans with so many bytes; what it cannot do with less, it still does."""
    frame = worlds.table(world.source.columns, world.rows)
    engine = DuckDB(threads=2, frames={"events": frame})
    engine.memory = memory or engine.memory
    return engine


def trained(world: World, memory: int | None, *, hindsight: bool) -> dict[str, list[Any]]:
    """Every feature's values, each spelled out to the bit."""
    definitions = Definitions.of([world.entity, world.source, world.view])
    outputs = [
        Output(feature.name, Reference("feature", feature.name, "view"))
        for feature in world.view.features
    ]
    with engine_of(world, memory) as engine:
        labels = worlds.labels(world)
        training = training_set(
            engine, definitions, {}, outputs, labels, time="t", hindsight=hindsight
        )
    found = training.to_arrow()
    names = [feature.name for feature in world.view.features]
    columns = {name: [bits(v) for v in worlds.plain_values(found[name])] for name in names}
    reported = training.report
    return columns | {"met": [*reported.coincident.values(), *reported.unattributed.values()]}


@pytest.mark.parametrize("hindsight", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_set_in_groups_is_the_one_made_at_once(
    seed: int, *, hindsight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds.make(seed)
    seen: list[int] = []
    whole = trained(world, None, hindsight=hindsight)
    groups = events.key_groups
    monkeypatch.setattr(
        offline, "key_groups", lambda view, count: seen.append(count) or groups(view, count)
    )
    assert trained(world, LITTLE, hindsight=hindsight) == whole
    assert seen[0] > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_online_state_in_groups_is_the_one_made_at_once(seed: int) -> None:
    world = worlds.make(seed)
    until = sorted(t for _, t in world.asked)[-30]
    whole = _histories(world, None, until)
    in_groups = _histories(world, LITTLE, until)
    assert in_groups == whole
    assert len(whole) > 1


def _histories(world: World, memory: int | None, until: int) -> dict[Any, Any]:
    """By entity: the times of its events, and its values with codes looked up."""
    definitions = Definitions.of([world.entity, world.source, world.view])
    layout = Layout.of(world.view, world.source.types)
    found: dict[Any, Any] = {}
    with engine_of(world, memory) as engine:
        for part in entities(engine, definitions, world.view, layout, until=until):
            for entity, key in enumerate(zip(*part.keys.to_pydict().values(), strict=True)):
                assert key not in found
                found[key] = _history(part, entity)
    return found


def _history(part: Partition, entity: int) -> list[Any]:
    line = part.timeline
    mine = slice(line.starts[entity], line.starts[entity + 1])
    columns: list[Any] = [line.time[mine].tolist()]
    columns += [each[mine].tolist() for each in (line.known, line.until) if each is not None]
    for column in part.columns:
        values = column.words[mine].tolist()
        if column.dictionary is not None:
            known = column.dictionary.to_pylist() or [None]  # nulls only: there is no value
            values = [known[word] for word in values]
        flags = column.valid[mine]
        columns.append([bits(v) if ok else None for v, ok in zip(values, flags, strict=True)])
    return columns + [each[mine].tolist() for each in part.filters]
