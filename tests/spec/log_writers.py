"""Processes that write to an event log: children of a server that has loaded all they need."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import pyarrow as pa

from tidemark.engines.few import Few, plain
from tidemark.engines.identity import identity_words
from tidemark.engines.log import Batch, EventLog
from tidemark.errors import TidemarkError
from tidemark.model.graph import Field, Source
from tidemark.model.types import FLOAT64, STRING, TIMESTAMP

ORDERS = Source(
    name="orders",
    columns=(Field("id", STRING), Field("amount", FLOAT64), Field("at", TIMESTAMP)),
    time="at",
    unique=("id",),
)
DAY = 86_400_000_000
UTC = pa.timestamp("us", "UTC")


def orders(*rows: tuple[str | None, float | None, int]) -> pa.Table:
    """Rows of (id, amount, microseconds)."""
    ids, amounts, times = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "amount": pa.array(amounts, pa.float64()),
            "at": pa.array(times, UTC),
        }
    )


def numbered(numbers: Sequence[int]) -> pa.Table:
    """One order for each number, an hour apart."""
    return orders(*((f"o{i}", float(i), i * DAY // 24) for i in numbers))


def few(*rows: tuple[str | None, float | None, int]) -> Batch:
    """The same as a batch that a log keeps row by row."""
    layout = plain(ORDERS)
    assert layout is not None
    return Batch(Few(layout, [list(column) for column in zip(*rows, strict=True)]))


def few_numbered(numbers: Sequence[int]) -> Batch:
    """The same orders as `numbered`."""
    return few(*((f"o{i}", float(i), i * DAY // 24) for i in numbers))


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])

identity_words([pa.array(["loads what is compiled"])])


def append_for_ever(folder: Path, start: int, seed: int, told: Connection) -> None:
    """Append batches of orders, tell of each one that was acknowledged, compact now and then."""
    random = Random(seed)
    with EventLog(folder) as log:
        while True:
            end = start + random.choice((1, 1, 3, 40))
            if end - start < 40:
                log.append_all(ORDERS, [few_numbered(range(start, end))], seen=0)
            else:
                log.append(ORDERS, numbered(range(start, end)), seen=0)
            told.send(end)
            start = end
            if random.random() < 0.3:
                log.compact(ORDERS, keep_rows=random.choice((0, 10, 50)))


def append_some(folder: Path, start: int) -> None:
    """Append some orders, and some that others append as well."""
    with EventLog(folder) as log:
        for i in range(start, start + 60):
            log.append(ORDERS, numbered([i, 1_000 + i // 2]), seen=0)


def fill_the_disk(folder: Path, told: Connection) -> None:
    """Append until the system refuses, by a limit on the size of files."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    number = 0
    with EventLog(folder) as log:
        try:
            while True:
                log.append(ORDERS, numbered(range(number, number + 50)), seen=number)
                number += 50
        except TidemarkError as error:
            told.send((number, type(error).__name__, error.retryable))
