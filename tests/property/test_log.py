"""History and event log together against the oracle: whatever way an event comes, it counts once.

The same events through history, the log or both, delivered twice, late, corrected and in batches of
any size, give the rows that the contract says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from tests.oracle import LOGGED, bits
from tests.property import worlds
from tests.property.test_training import differences
from tests.property.worlds import Mixture

from tidemark.engines.duckdb import DuckDB
from tidemark.engines.log import EventLog
from tidemark.engines.micro import partition_of
from tidemark.engines.state import Partition, entities
from tidemark.engines.training import training_set
from tidemark.kernel.layout import Layout
from tidemark.model.graph import Definitions, Output, Reference
from tidemark.online.rows import codec

SEEDS = range(2 * worlds.WORLDS_PER_BOUND)


def definitions(mixture: Mixture) -> Definitions:
    world = mixture.world
    return Definitions.of([world.entity, world.source, world.view])


@contextmanager
def filled(mixture: Mixture, folder: Path, seed: int) -> Iterator[DuckDB]:
    """An engine over the history and a log that was given the batches, compacted now and then."""
    random = Random(seed)
    source = mixture.world.source
    with EventLog(folder) as log:
        for came, rows in mixture.batches:
            log.append(source, worlds.table(source.columns, rows), seen=came)
            if random.random() < 0.1:
                log.compact(source, keep_rows=random.choice((0, 5, 50)))
        frames = {"events": worlds.table(source.columns, mixture.history)}
        with DuckDB(frames=frames, log=log, memory_limit="1GB") as engine:
            yield engine


def trained(engine: DuckDB, mixture: Mixture, *, hindsight: bool = False) -> pa.Table:
    view = mixture.world.view
    outputs = [Output(f.name, Reference("feature", f.name, view.name)) for f in view.features]
    labels = worlds.labels(mixture.world)
    return training_set(
        engine, definitions(mixture), {}, outputs, labels, time="t", hindsight=hindsight
    ).to_arrow()


@pytest.mark.parametrize("seed", SEEDS)
def test_history_and_log_give_what_the_contract_says(seed: int, tmp_path: Path) -> None:
    """However the events are dealt out, delayed, repeated and batched."""
    mixture = worlds.mixed(worlds.make(seed), seed)
    with filled(mixture, tmp_path, seed) as engine:
        found = trained(engine, mixture)
    _, differ = differences(mixture.world, found)
    assert differ[:5] == []


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_hindsight_reads_the_last_version_of_both(seed: int, tmp_path: Path) -> None:
    """When it was taken does not count then, but which version came last does."""
    mixture = worlds.mixed(worlds.make(seed), seed)
    with filled(mixture, tmp_path, seed) as engine:
        found = trained(engine, mixture, hindsight=True)
    _, differ = differences(mixture.world, found, hindsight=True)
    assert differ[:5] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_the_log_keeps_what_is_new(seed: int, tmp_path: Path) -> None:
    """In order, once, with a moment that no later one precedes."""
    mixture = worlds.mixed(worlds.make(seed), seed)
    source = mixture.world.source
    wanted = [row for row in mixture.world.rows if LOGGED in row]
    with filled(mixture, tmp_path, seed) as engine:
        assert engine.log is not None
        found = engine.log.read(source, 0, 10_000)
    assert found["tidemark_seen"].to_pylist() == [row[LOGGED] for row in wanted]
    assert found["tidemark_position"].to_pylist() == list(range(1, len(wanted) + 1))
    for column in source.columns:
        got = [bits(value) for value in worlds.plain_values(found[column.name])]
        assert got == [bits(row[column.name]) for row in wanted], column.name


def packed(layout: Layout, partition: Partition) -> dict[tuple[object, ...], bytes]:
    """The bytes of the row of each entity."""
    keys = list(zip(*(column.to_pylist() for column in partition.keys.columns), strict=True))
    return dict(zip(keys, codec.pack(layout, partition), strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_some_entities_are_as_they_are_among_all(seed: int, tmp_path: Path) -> None:
    """What is rebuilt for some keys has the bytes of the whole, at any position of the log."""
    random = Random(seed)
    mixture = worlds.mixed(worlds.make(seed, asked=20), seed)
    view, defined = mixture.world.view, definitions(mixture)
    layout = Layout.of(view, mixture.world.source.types)
    with filled(mixture, tmp_path, seed) as engine:
        assert engine.log is not None
        last = engine.log.last(mixture.world.source.name)
        position = random.choice((None, last, last // 2, 0))
        until = random.choice((2**62, mixture.world.asked[0][1]))
        pinned = {"until": until, "position": position}
        everything: dict[tuple[object, ...], bytes] = {}
        keys: list[pa.Table] = []
        for partition in entities(engine, defined, view, layout, **pinned):
            everything |= packed(layout, partition)
            keys.append(partition.keys)
        if not keys:
            return  # nothing was known yet
        some = pa.concat_tables(keys)
        some = some.filter(pa.array(np.arange(some.num_rows) % 2 == 0))
        found: dict[tuple[object, ...], bytes] = {}
        for partition in entities(engine, defined, view, layout, only=some, **pinned):
            found |= packed(layout, partition)
    names = list(zip(*(column.to_pylist() for column in some.columns), strict=True))
    assert found == {name: everything[name] for name in names}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_micro_batch_is_what_history_would_be(seed: int, tmp_path: Path) -> None:
    """The same bytes, by queries over the log or by none over what has just arrived."""
    world = worlds.make(seed, asked=20)
    fresh = {row["id"]: row for row in world.rows if row["id"] is not None}
    rows = list(fresh.values())  # each event once: corrections are made up for elsewhere
    mixture = Mixture(world, [], [(rows[-1]["seen"], rows[:40]), (rows[-1]["seen"] + 5, rows[40:])])
    view, defined = world.view, definitions(mixture)
    layout = Layout.of(view, world.source.types)
    with filled(mixture, tmp_path, seed) as engine:
        assert engine.log is not None
        arrived = engine.log.read(world.source, 0, 1_000)
        made = packed(layout, partition_of(engine, defined, view, layout, arrived))
        for partition in entities(engine, defined, view, layout, until=2**62):
            assert made == packed(layout, partition)
