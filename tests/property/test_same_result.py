"""What must not matter: threads, the order of rows, the number of files, the format."""

from pathlib import Path
from random import Random

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tests.oracle import bits
from tests.property import worlds
from tests.property.worlds import World, store_of

from tidemark.model.graph import Csv, Parquet, Query, Table

SEEDS = range(2 * worlds.WORLDS_PER_BOUND)


def trained(
    world: World, history: object | None = None, **settings: object
) -> dict[str, list[object]]:
    """Every feature's values, each spelled out to the bit."""
    with store_of(world, history, **settings) as store:
        found = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
    return {
        feature.name: [bits(value) for value in worlds.plain_values(found[feature.name])]
        for feature in world.view.features
    }


def frame(world: World, seed: int | None = None) -> pa.Table:
    """The world's rows as a table, shuffled if there is a seed."""
    rows = list(world.rows)
    if seed is not None:
        Random(seed).shuffle(rows)
    return worlds.table(world.source.columns, rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    """Sorted by time, backwards, and shuffled."""
    world = worlds.make(seed, asked=60)
    by_time = frame(world).sort_by("at")
    wanted = trained(world, by_time)
    assert trained(world, by_time.take(list(range(len(world.rows)))[::-1])) == wanted
    assert trained(world, frame(world, seed)) == wanted


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_the_number_of_files_does_not_matter(seed: int, tmp_path: Path) -> None:
    world = worlds.make(seed, asked=60)
    pq.write_table(frame(world).sort_by("at"), tmp_path / "one.parquet")
    shuffled = frame(world, seed)
    for part in range(7):
        rows = list(range(part, shuffled.num_rows, 7))
        pq.write_table(shuffled.take(rows), tmp_path / f"part-{part}.parquet")
    wanted = trained(world, Parquet(str(tmp_path / "one.parquet")))
    assert trained(world, Parquet(str(tmp_path / "part-*.parquet"))) == wanted


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_the_number_of_threads_does_not_matter(seed: int, tmp_path: Path) -> None:
    world = worlds.make(seed, asked=60)
    wanted = trained(world)
    assert trained(world, project=tmp_path, threads=1) == wanted
    assert trained(world, project=tmp_path, threads=4) == wanted


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_the_kind_of_history_does_not_matter(seed: int, tmp_path: Path) -> None:
    """A frame, Parquet, a table and a query of a database."""
    world = worlds.make(seed, asked=60)
    events = frame(world)
    wanted = trained(world)
    pq.write_table(events, tmp_path / "events.parquet")
    file = str(tmp_path / "events.duckdb")
    with duckdb.connect(file) as database:
        database.execute("create table history as select * from events")
    for history in (
        Parquet(str(tmp_path / "events.parquet")),
        Table("history", file),
        Query("select * from history", file),
    ):
        assert trained(world, history) == wanted, history


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_text_files_give_the_same(seed: int, tmp_path: Path) -> None:
    """CSV carries every scalar but bytes, and cannot tell an empty text from a null."""
    names = [
        "id",
        "part",
        "user",
        "shard",
        "at",
        "seen",
        *["x", "odd", "n", "big", "price", "wide", "ok", "then", "day"],
    ]
    world = worlds.only_columns(worlds.make(seed, asked=60), names)
    world = worlds.without_rows(world, lambda row: row["user"] == "")
    pa.csv.write_csv(frame(world), tmp_path / "events.csv")
    assert trained(world, Csv(str(tmp_path / "events.csv"))) == trained(world)
