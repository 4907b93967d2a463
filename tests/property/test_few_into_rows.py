"""A few events, put in one by one, give rows and trees the bytes that arrays give them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from random import Random

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark.define import lower
from tidemark.engines.arrow import arrow_type
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.log import CORRECTS, POSITION, SEEN
from tidemark.engines.micro import partition_of
from tidemark.ingest.arrived import Arrived
from tidemark.ingest.few import Inserter
from tidemark.ingest.serving import Reading
from tidemark.model.graph import Definitions
from tidemark.online.trees import cutting, tree
from tidemark.online.trees.cutting import Sizes
from tidemark.online.trees.few import inserted

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOON_MICROS = int(NOON.timestamp()) * 1_000_000
TEXTS = [None, "", "a", "A", "b", "é", "日本", "\uffff", "😀", "z" * 40]
REALS = [None, 0.0, -0.0, 1.5, -2.25, 5e-324, 1e300, math.nan, math.inf, -math.inf]


class User(tm.Entity):
    user: tm.Key[str]
    shop: tm.Key[int]


def definitions(*, unique: bool) -> tuple[type[tm.Source], type[tm.FeatureView]]:
    """A source of every plain type, and features that need its columns in every plain form."""

    class Visit(tm.Source, time="at", unique=("order", "shop") if unique else ()):
        order: tm.Col[str]
        user: tm.Col[str | None]
        shop: tm.Col[int | None]
        x: tm.Col[float | None]
        n: tm.Col[int | None]
        ok: tm.Col[bool | None]
        text: tm.Col[str | None]
        raw: tm.Col[bytes | None]
        day: tm.Col[date | None]
        then: tm.Col[datetime | None]
        at: tm.Col[datetime]

    class Visits(tm.FeatureView, entity=User, source=Visit):
        total = tm.sum(Visit.x, where=Visit.x > 1.5)
        same = tm.count(where=(Visit.x == 0.0) | Visit.text.is_null())
        either = tm.count(where=~(Visit.text == "a") & Visit.ok)
        few = tm.mean(Visit.n, where=Visit.text.is_in(["a", "é"]))
        least = tm.min(Visit.x, where=Visit.x <= -2.25)
        text = tm.last(Visit.text)
        raw = tm.last_n(Visit.raw, n=2)
        days = tm.max(Visit.day)
        then = tm.latest(Visit.then)
        said = tm.count(Visit.text)
        some = tm.any(Visit.ok)
        about = tm.approx_count_distinct(Visit.raw)

    return Visit, Visits


def an_event(random: Random, number: int) -> dict[str, object]:
    """Any event; its time has few values, so that some tie."""
    return {
        "order": f"o{number}",
        "user": random.choice(["ada", "bob", None]),
        "shop": random.choice([1, 1, 2, None]),
        "x": random.choice(REALS),
        "n": random.choice([None, 0, -1, 2**63 - 1, -(2**63)]),
        "ok": random.choice([None, True, False]),
        "text": random.choice(TEXTS),
        "raw": random.choice([None, b"", b"\0", b"\xff", b"a"]),
        "day": random.choice([None, date(1969, 12, 31), date(2026, 3, 2)]),
        "then": random.choice([None, NOON, datetime(1969, 1, 1, tzinfo=UTC)]),
        "at": NOON + timedelta(microseconds=random.randrange(12)),
    }


def of_visits(seed: int) -> tuple[Definitions, Reading, Inserter, pa.Schema]:
    """What reads the events of one world, and their columns in the log."""
    lowered = lower(*definitions(unique=seed % 2 == 0)).definitions
    view = lowered.view("visits")
    source = lowered.source(view.source)
    reading = Reading.of(view, source, lowered.entity(view.entity))
    assert reading.inserter is not None
    added = [(SEEN, pa.int64()), (POSITION, pa.int64()), (CORRECTS, pa.bool_())]
    columns = [(each.name, arrow_type(each.type)) for each in source.columns]
    return lowered, reading, reading.inserter, pa.schema(columns + added)


@pytest.fixture(scope="module")
def engine() -> Iterator[DuckDB]:
    with DuckDB() as engine:
        yield engine


@pytest.mark.parametrize("seed", range(12))
def test_one_event_after_the_other(seed: int, engine: DuckDB) -> None:
    """Late and tied ones, nulls, NaN, values of codes that come between others, null keys."""
    random = Random(seed)
    lowered, reading, inserter, schema = of_visits(seed)
    view, source = reading.view, reading.source
    rows: dict[bytes, bytes | None] = {}
    for number in range(40):
        event = an_event(random, number)
        # Some are seen when they happen, others later or by a clock that is behind.
        event |= {SEEN: NOON_MICROS + random.choice([0, 5, 8, 20]), POSITION: number + 1}
        arrived = Arrived(source, pa.Table.from_pylist([event | {CORRECTS: False}], schema))
        partition = partition_of(engine, lowered, view, reading.layout, arrived.table)
        keys = reading.keys(b"", partition.keys)
        old = [rows.get(key) for key in keys]
        merged = tree.merge(reading.layout, keys, old, partition, lambda _: [], told_apart=True)
        (values,) = arrived.values
        key = inserter.key(values)
        assert ([] if key is None else reading.encode([[each] for each in key])) == keys
        if key is None:
            continue
        identity = None if arrived.identities is None else int(arrived.identities[0])
        found = inserted(reading.layout, old[0], inserter.event(values, identity))
        assert (found is None) == (len(merged.undecided) == 1)
        assert [(keys[0], found)] == merged.puts or found is None
        rows.update(merged.puts)
    assert all(row is not None for row in rows.values())


@pytest.mark.parametrize("seed", range(10))
def test_a_few_events_give_trees_their_bytes(seed: int, engine: DuckDB, monkeypatch) -> None:
    """Whatever they fall into: a row, one that becomes a tree, chunks that stay or are cut anew."""
    monkeypatch.setattr(cutting, "SIZES", Sizes(6, 8, 2))
    random = Random(seed)
    lowered, reading, inserter, schema = of_visits(seed)
    view, source = reading.view, reading.source
    store: dict[bytes, bytes] = {}
    events: list[dict[str, object]] = []

    def fetch(keys: Sequence[bytes]) -> list[bytes | None]:
        return [store.get(key) for key in keys]

    decided = 0
    while len(events) < 120:
        first = len(events)
        for number in range(first, first + random.choice([1, 1, 5])):
            late = timedelta(seconds=random.choice([0, 0, 60]))
            event = an_event(random, number) | {"at": NOON + timedelta(seconds=number) - late}
            seen = NOON_MICROS + number * 1_000_000 + random.choice([0, 5])
            events.append(event | {SEEN: seen, POSITION: number + 1, CORRECTS: False})
        arrived = Arrived(source, pa.Table.from_pylist(events[first:], schema))
        taken = inserter.events(arrived, lambda key: reading.encode([[each] for each in key])[0])
        old = dict(zip(places := [place for place, _ in taken], fetch(places), strict=True))
        merged = inserter.merged(taken, old, fetch)
        whole = pa.Table.from_pylist(events, schema)
        partition = partition_of(engine, lowered, view, reading.layout, whole)
        keys = reading.keys(b"", partition.keys)
        if merged is None:
            merged = tree.replace(reading.layout, keys, fetch(keys), partition, fetch)
        else:
            decided += 1
        for key in merged.deletes:
            store.pop(key, None)
        store.update(merged.puts)
        assert store == dict(tree.write(reading.layout, keys, partition))
    assert decided > 20
