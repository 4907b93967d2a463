"""What Tidemark does in the benchmarks, through its public interface."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks import data

import tidemark as tm
import tidemark.engines.training
from tidemark import kernel


class Entity(tm.Entity):
    """Somebody with events."""

    entity: tm.Key[int]


WINDOWS = ("1h", "1d", "7d", "30d")
AGGREGATES = ("purchases", "spend", "typical", "spread", "least", "most", "settled")
FEATURES = {
    "latest": [f"newest:{name}" for name in data.VALUES],
    "windows": [f"spend:{name}_{window}" for window in WINDOWS for name in AGGREGATES],
}


def definitions(events: Path, job: Literal["latest", "windows"]) -> type[tm.FeatureView]:
    """The view of a job over the events in a file."""
    if job == "latest":

        class Wide(tm.Source, history=tm.parquet(str(events)), time="happened"):
            """Events with ten values."""

            entity: tm.Col[int]
            happened: tm.Col[datetime]
            amount: tm.Col[float | None]
            c1: tm.Col[float]
            c2: tm.Col[float]
            c3: tm.Col[float]
            c4: tm.Col[float]
            c5: tm.Col[float]
            c6: tm.Col[float]
            c7: tm.Col[float]
            n1: tm.Col[int]
            n2: tm.Col[int]

        class Newest(
            tm.FeatureView,
            entity=Entity,
            source=Wide,
            columns=[getattr(Wide, name) for name in data.VALUES],
        ):
            """The newest of each."""

        return Newest

    class Narrow(tm.Source, history=tm.parquet(str(events)), time="happened"):
        """Events with an amount."""

        entity: tm.Col[int]
        happened: tm.Col[datetime]
        amount: tm.Col[float | None]
        settled: tm.Col[bool]

    class Spend(tm.FeatureView, entity=Entity, source=Narrow):
        """Seven aggregates over four windows."""

        purchases = tm.count(over=WINDOWS)
        spend = tm.sum(Narrow.amount, over=WINDOWS)
        typical = tm.mean(Narrow.amount, over=WINDOWS)
        spread = tm.stddev(Narrow.amount, over=WINDOWS)
        least = tm.min(Narrow.amount, over=WINDOWS)
        most = tm.max(Narrow.amount, over=WINDOWS)
        settled = tm.sum(Narrow.amount, where=Narrow.settled, over=WINDOWS)

    return Spend


def training(
    options: argparse.Namespace,
    job: Literal["latest", "windows"],
    *,
    hot: bool = False,
    values: list[str] | None = None,
) -> Callable[[], pa.Table]:
    """A training set of every feature of the job's view."""
    view = definitions(data.events_file(options, hot=hot, values=values), job)
    labels = data.labels_file(options, hot=hot)
    os.environ["TIDEMARK_THREADS"] = str(options.threads)
    os.environ["TIDEMARK_MEMORY_LIMIT"] = options.memory
    store = tm.connect(":memory:")
    store.apply(store.plan([Entity, view]))
    kernel.warm()  # `benchmarks.startup` measures this
    pa.array(np.zeros(1))  # pyarrow imports pandas at the first array, where there is a pandas
    return lambda: store.training_set(FEATURES[job], pq.read_table(labels), time="t").to_arrow()
