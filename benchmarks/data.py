"""The data of the benchmarks: skewed entities, whole-second times, some nulls, sorted by time.

Entity i has a weight of (i + 10)^-0.7, a year passes, and 5 % of the amounts are null.  Whole
seconds make ties and hits on window edges happen.  With 10 M events on 100,000 entities a label
sees about 75 events of its entity in 30 days.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = 1_704_067_200  # 2024-01-01
SPAN = 365 * 86_400
CHUNK = 10_000_000
VALUES = ["amount", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "n1", "n2"]


def entities_for(events: int) -> int:
    """How many entities share the events: 100 events each on average."""
    return max(1_000, events // 100)


class Draw:
    """Entities drawn by their weight."""

    def __init__(self, entities: int, random: np.random.Generator) -> None:
        weights = (np.arange(entities) + 10.0) ** -0.7
        self._edges = np.cumsum(weights) / weights.sum()
        # Names say nothing about weight, as in life.
        self._names = random.permutation(entities)
        self._random = random

    def __call__(self, count: int) -> np.ndarray:
        """So many of them."""
        places = np.searchsorted(self._edges, self._random.random(count))
        return self._names[np.minimum(places, len(self._names) - 1)]


def _times(random: np.random.Generator, count: int, part: int, parts: int) -> pa.Array:
    low, high = START + SPAN * part // parts, START + SPAN * (part + 1) // parts
    seconds = np.sort(random.integers(low, high, count))
    return pa.array(seconds * 1_000_000, pa.timestamp("us", tz="UTC"))


def _values(random: np.random.Generator, count: int, names: list[str]) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    for name in names:
        if name == "amount":
            cents = np.round(random.exponential(40.0, count), 2)
            columns[name] = pa.array(cents, mask=random.random(count) < 0.05)
        elif name.startswith("c"):
            columns[name] = pa.array(random.normal(size=count))
        else:
            columns[name] = pa.array(random.integers(0, 1_000, count))
    return columns


def events_file(
    options: argparse.Namespace, *, hot: bool = False, values: list[str] | None = None
) -> Path:
    """The events as Parquet, sorted by time; written on first use."""
    names = VALUES if values is None else values
    kind = "hot" if hot else "spread"
    path = options.data / f"events-{kind}-{options.events}-{len(names)}.parquet"
    if path.exists():
        return path
    options.data.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    draw = Draw(entities_for(options.events), random)
    parts = max(1, options.events // CHUNK)
    partial, writer = path.with_suffix(".partial"), None
    for part in range(parts):
        count = options.events // parts
        table = pa.table(
            {
                "entity": pa.array(np.zeros(count, np.int64) if hot else draw(count)),
                "happened": _times(random, count, part, parts),
                **_values(random, count, names),
                "settled": pa.array(random.random(count) < 0.8),
            }
        )
        writer = writer or pq.ParquetWriter(partial, table.schema)
        writer.write_table(table, row_group_size=1_000_000)
    if writer is not None:
        writer.close()
    partial.rename(path)
    return path


def labels_file(options: argparse.Namespace, *, hot: bool = False) -> Path:
    """The labels as Parquet, in no order: entity and time."""
    kind = "hot" if hot else "spread"
    path = options.data / f"labels-{kind}-{options.events}-{options.labels}.parquet"
    if path.exists():
        return path
    options.data.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    draw = Draw(entities_for(options.events), random)
    seconds = random.integers(START, START + SPAN, options.labels)
    table = pa.table(
        {
            "entity": pa.array(np.zeros(options.labels, np.int64) if hot else draw(options.labels)),
            "t": pa.array(seconds * 1_000_000, pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, path)
    return path
