"""Does the served vector equal the training row?  Read both at thousands of moments and compare."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

import tidemark as tm

SERVICE = "flight_delay"
KEYS = ("carrier", "origin", "dest", "tailnum")
REQUEST = ("scheduled_departure", "distance")


class Difference(NamedTuple):
    """A value that was served otherwise than trained on."""

    row: Mapping[str, Any]
    feature: str
    trained: Any
    served: Any


class Compared(NamedTuple):
    """What reading the vectors of many training rows showed; `seconds` has one entry a read."""

    rows: int
    values: int
    differences: list[Difference]
    seconds: list[float]


def compare(store: tm.Store, training: pa.Table, features: Sequence[str], n: int) -> Compared:
    """Read `n` training rows, chosen at random by a fixed seed, at their own moments.

    A difference is anything that `==` calls one, NaN being equal to NaN, or another type.
    """
    rows = sample(training, n).to_pylist()
    ask(store, rows[0])  # opens the store
    differences: list[Difference] = []
    seconds: list[float] = []
    for row in rows:
        began = time.perf_counter()
        vector = ask(store, row)
        seconds.append(time.perf_counter() - began)
        differences += [
            Difference(row, name, row[name], vector[name])
            for name in features
            if not same(row[name], vector[name])
        ]
    return Compared(len(rows), len(rows) * len(features), differences, seconds)


def ask(store: tm.Store, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The vector of one flight, as it stood when its delay was predicted."""
    return store.online(
        SERVICE,
        {name: row[name] for name in KEYS},
        request={name: row[name] for name in REQUEST},
        at=row["predict_at"],
    )


def ask_many(
    store: tm.Store, rows: Sequence[Mapping[str, Any]], at: datetime, times: int
) -> list[float]:
    """How long one call for all rows takes, time after time, in seconds."""
    keys = [{name: row[name] for name in KEYS} for row in rows]
    request = [{name: row[name] for name in REQUEST} for row in rows]
    seconds: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        store.online_many(SERVICE, keys, request=request, at=at)
        seconds.append(time.perf_counter() - began)
    return seconds


def sample(training: pa.Table, n: int) -> pa.Table:
    """`n` rows, the same ones every time."""
    chosen = np.random.default_rng(2013).choice(len(training), min(n, len(training)), replace=False)
    return training.take(pa.array(chosen))


def same(trained: Any, served: Any) -> bool:
    """Whether two values are one, NaN included."""
    if type(trained) is not type(served):
        return False
    return bool(trained == served) or (trained != trained and served != served)  # noqa: PLR0124
