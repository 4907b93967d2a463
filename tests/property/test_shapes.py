"""The same rows in other Arrow types: what a value means does not depend on how it is carried."""

from collections.abc import Callable

import pyarrow as pa
import pytest
from tests.property import worlds
from tests.property.test_corners import COUNT, LAST_N, ada, world
from tests.property.worlds import World, store_of

from tidemark.model.aggregates import Aggregate
from tidemark.model.window import Window

ROWS = [
    {"at": -2_000_000, "n": 1, "text": "a", "shard": 1},
    {"at": -1, "n": 2, "text": "b", "shard": 2},
    {"at": 0, "n": 3, "text": "a", "shard": 1},
    {"at": 3_000_000, "n": 4, "text": "", "shard": -5},
]
FEATURES = [
    COUNT,
    LAST_N,
    Aggregate("last_n", value=worlds.col("text"), n=9),
    Aggregate("sum", value=worlds.col("shard"), window=Window("sliding", length=2_000_000)),
]


def small(*asked: int) -> World:
    return world(ROWS, *FEATURES, asked=ada(*asked))


def recast(table: pa.Table, **types: pa.DataType) -> pa.Table:
    """The table with some columns in other types."""
    for name, type_ in types.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(type_))
    return table


def answer(of: World, events: pa.Table | None = None, labels: pa.Table | None = None) -> list[dict]:
    with store_of(of, events) as store:
        asked = worlds.labels(of) if labels is None else labels
        found = store.training_set(of.names, asked, time="t").to_arrow()
    return found.select([feature.name for feature in of.view.features]).to_pylist()


EVENTS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "small integers": lambda t: recast(t, n=pa.int8(), shard=pa.int16()),
    "large text": lambda t: recast(t, text=pa.large_string(), user=pa.large_string()),
    "text in dictionaries": lambda t: recast(
        t, text=pa.dictionary(pa.int8(), pa.string()), user=pa.dictionary(pa.int32(), pa.string())
    ),
    "nanoseconds": lambda t: recast(t, at=pa.timestamp("ns", tz="UTC")),
    "another zone": lambda t: recast(t, at=pa.timestamp("us", tz="Australia/Lord_Howe")),
    "many chunks": lambda t: pa.concat_tables([t.slice(i, 1) for i in range(t.num_rows)]),
    "another order of columns": lambda t: t.select(t.column_names[::-1]),
    "a column too many": lambda t: t.append_column("extra", pa.nulls(t.num_rows)),
    "a slice": lambda t: pa.concat_tables([t.slice(0, 1), t]).combine_chunks().slice(1),
}


@pytest.mark.parametrize("kind", EVENTS)
def test_events_in_another_shape_give_the_same(kind: str) -> None:
    of = small(-1, 0, 2_999_999, 3_000_000)
    events = worlds.table(of.source.columns, of.rows)
    assert answer(of, EVENTS[kind](events)) == answer(of)


LABELS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "nanoseconds": lambda t: recast(t, t=pa.timestamp("ns", tz="UTC")),
    "another zone": lambda t: recast(t, t=pa.timestamp("us", tz="America/New_York")),
    "large text": lambda t: recast(t, user=pa.large_string()),
    "text in dictionaries": lambda t: recast(t, user=pa.dictionary(pa.int8(), pa.string())),
    "many chunks": lambda t: pa.concat_tables([t.slice(i, 1) for i in range(t.num_rows)]),
    "a slice": lambda t: pa.concat_tables([t.slice(0, 1), t]).combine_chunks().slice(1),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_in_another_shape_give_the_same(kind: str) -> None:
    of = small(-1, 0, 2_999_999, 3_000_000)
    assert answer(of, labels=LABELS[kind](worlds.labels(of))) == answer(of)


def test_nanoseconds_are_cut_towards_the_past() -> None:
    """One nanosecond before the epoch belongs to the microsecond before it."""
    of = small(-1)
    labels = pa.table({"user": ["ada"], "t": pa.array([-1], pa.timestamp("ns", tz="UTC"))})
    assert answer(of, labels=labels) == answer(of)
    events = worlds.table(of.source.columns, of.rows)
    later = pa.array([-2_000_000_000, -1, 0, 3], pa.timestamp("ns", tz="UTC"))
    events = events.set_column(events.column_names.index("at"), "at", later)
    assert answer(of, events) == answer(of)


def test_every_label_gives_one_row_in_its_place() -> None:
    """Duplicates and disorder are the caller's; columns that are not asked about are untouched."""
    of = small(0, -1, 0, 3_000_000, 0)
    labels = worlds.labels(of).append_column("note", pa.array([None, "x", "y", "x", None]))
    with store_of(of) as store:
        found = store.training_set(of.names, labels, time="t").to_arrow()
    assert found.select(labels.column_names).equals(labels)
    assert found["count_0"].to_pylist() == [3, 2, 3, 4, 3]


def test_no_labels_give_no_rows() -> None:
    of = small(0)
    labels = worlds.labels(of).slice(0, 0)
    with store_of(of) as store:
        found = store.training_set(of.names, labels, time="t").to_arrow()
    assert found.num_rows == 0
    assert found.schema.field("count_0").type == pa.int64()
