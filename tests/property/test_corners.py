"""Corners of the contract, one by one, as literal rows: what a random world rarely meets."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from tests.oracle import Oracle, bits
from tests.property import worlds
from tests.property.worlds import COLUMNS, World, col, store_of

from tidemark.errors import EngineError
from tidemark.model.aggregates import Aggregate, result_type
from tidemark.model.expr import type_of
from tidemark.model.graph import Entity, Feature, FeatureView, Field, Frame, Source
from tidemark.model.window import DAY, HOUR, SECOND, Window

BLANK = dict.fromkeys(COLUMNS) | {"user": "ada", "shard": 1}


def world(
    rows: Sequence[dict[str, Any]],
    *aggregates: Aggregate,
    asked: Sequence[tuple[tuple[Any, ...], int]] = (),
    view: dict[str, Any] | None = None,
    **source: Any,
) -> World:
    """A world of these rows (what they do not say is null) and one feature for each aggregate."""
    features = []
    for number, aggregate in enumerate(aggregates):
        value = aggregate.value
        type_ = result_type(aggregate.function, None if value is None else type_of(value, COLUMNS))
        name = f"{aggregate.function}_{number}"
        features.append(Feature(name=name, aggregate=aggregate, type=type_))
    assert {name for row in rows for name in row} <= set(COLUMNS)
    return World(
        Entity(name="user", keys=(Field("user", COLUMNS["user"]),)),
        Source(
            name="events",
            columns=tuple(Field(name, type_) for name, type_ in COLUMNS.items()),
            time="at",
            history=Frame("events"),
            **source,
        ),
        FeatureView(
            name="view",
            entity="user",
            source="events",
            keys=("user",),
            features=tuple(features),
            **(view or {}),
        ),
        [BLANK | row for row in rows],
        list(asked),
    )


def answers(world: World) -> list[list[Any]]:
    """The values of each label row, agreed upon by the oracle, training and serving."""
    oracle = Oracle(world.source, world.view, world.rows)
    names = [feature.name for feature in world.view.features]
    wanted = [
        [oracle.value(feature, oracle.visible(key, t), t) for feature in world.view.features]
        for key, t in world.asked
    ]
    with store_of(world) as store:
        found = store.training_set(world.names, worlds.labels(world), time="t").to_arrow()
        store.materialize(until=worlds.moment(max(t for _, t in world.asked)))
        served = [
            store.online_many(
                world.names, pa.table({"user": [key[0]]}), at=worlds.moment(t)
            ).to_arrow()
            for key, t in world.asked
        ]
    trained = list(zip(*(worlds.plain_values(found[name]) for name in names), strict=True))
    assert [list(map(bits, row)) for row in trained] == [list(map(bits, row)) for row in wanted]
    online = [[worlds.plain_values(one[name])[0] for name in names] for one in served]
    assert [list(map(bits, row)) for row in online] == [list(map(bits, row)) for row in wanted]
    return wanted


def ada(*times: int) -> list[tuple[tuple[str], int]]:
    return [(("ada",), t) for t in times]


LAST_N = Aggregate("last", value=col("n"))
COUNT = Aggregate("count")


def test_a_correction_to_no_entity_takes_the_event_away() -> None:
    """Versions belong to events, not to entities: a null key in the newest one leaves nothing."""
    rows = [
        {"id": "e", "at": 0, "seen": 0, "n": 1},
        {"id": "e", "at": 0, "seen": 10, "n": 2, "user": None},
    ]
    asked = ada(9, 10)
    assert answers(world(rows, COUNT, asked=asked, unique=("id",), seen="seen")) == [[1], [0]]


def test_a_correction_into_the_future_hides_the_event_until_then() -> None:
    """From the moment it is seen, the old version is not the event any more."""
    rows = [
        {"id": "e", "at": 0, "seen": 0, "n": 1},
        {"id": "e", "at": 20, "seen": 10, "n": 2},
    ]
    found = answers(world(rows, LAST_N, asked=ada(9, 10, 19, 20), unique=("id",), seen="seen"))
    assert found == [[1], [None], [None], [2]]


def test_a_correction_that_was_seen_first_is_no_correction() -> None:
    """The version seen last is the event, in whatever order the rows arrive."""
    rows = [
        {"id": "e", "at": 0, "seen": 10, "n": 1},
        {"id": "e", "at": 0, "seen": 5, "n": 2},
    ]
    found = answers(world(rows, LAST_N, asked=ada(4, 5, 10), unique=("id",), seen="seen"))
    assert found == [[None], [2], [1]]


def test_versions_seen_at_once_are_ordered_by_time_and_content() -> None:
    """Of versions seen at one instant the last in order is the event; the others never were."""
    rows = [
        {"id": "e", "at": 3, "seen": 10, "n": 1},
        {"id": "e", "at": 5, "seen": 10, "n": 0},
        {"id": "e", "at": 5, "seen": 10, "n": -1},
    ]
    found = answers(world(rows, LAST_N, COUNT, asked=ada(9, 10), unique=("id",), seen="seen"))
    assert found == [[None, 0], [0, 1]]


def test_events_without_an_identity_are_still_in_one_order() -> None:
    """A null among the unique columns: the order falls back on the content, not on the file."""
    rows = [{"id": None, "at": 0, "seen": 0, "n": n} for n in (3, 1, 2)]
    latest = Aggregate("first", value=col("n"))
    one = world(rows, latest, LAST_N, COUNT, asked=ada(0), unique=("id",))
    other = world(rows[::-1], latest, LAST_N, COUNT, asked=ada(0), unique=("id",))
    assert answers(one) == answers(other) == [[1, 3, 3]]


def test_a_late_event_of_an_offset_window_counts_once_it_is_seen() -> None:
    """The offset moves the window back, not what is known."""
    rows = [{"at": 0, "seen": HOUR, "n": 1}]
    window = Window("sliding", length=DAY, offset=HOUR)
    counted = Aggregate("count", window=window)
    found = answers(world(rows, counted, asked=ada(HOUR - 1, HOUR), seen="seen"))
    assert found == [[0], [1]]


def test_before_is_about_time_only() -> None:
    """An event seen exactly at t counts when it happened earlier."""
    rows = [{"at": 0, "seen": 5, "n": 1}, {"at": 7, "seen": 7, "n": 2}]
    found = answers(
        world(rows, COUNT, asked=ada(4, 5, 7, 8), seen="seen", view={"bound": "before"})
    )
    assert found == [[0], [1], [1], [2]]


def test_a_filter_comes_before_the_newest_rows_and_nulls_after() -> None:
    """rows=2 takes the newest two rows that pass, and a null value is a row."""
    rows = [
        {"at": 0, "n": 1, "ok": True},
        {"at": 1, "n": 2, "ok": True},
        {"at": 2, "n": None, "ok": True},
        {"at": 3, "n": 4, "ok": False},
        {"at": 4, "n": 5, "ok": None},
    ]
    two = Aggregate("sum", value=col("n"), where=col("ok"), window=Window(rows=2))
    assert answers(world(rows, two, asked=ada(9))) == [[2]]


def test_a_sum_may_leave_its_range_on_the_way() -> None:
    """Only the result has to fit, whatever the order of the addends."""
    values = [2**63 - 1, 2**63 - 1, -(2**63), -5]
    rows = [{"at": i, "big": value} for i, value in enumerate(values)]
    everything = Aggregate("sum", value=col("big"))
    assert answers(world(rows, everything, asked=ada(9))) == [[2**63 - 7]]


def test_a_sum_of_floats_may_leave_its_range_on_the_way() -> None:
    """And infinity is where the exact sum rounds to it."""
    rows = [{"at": i, "x": x} for i, x in enumerate((1e308, 1e308, -1e308))]
    everything = Aggregate("sum", value=col("x"))
    assert answers(world(rows, everything, asked=ada(0, 1, 2))) == [
        [1e308],
        [float("inf")],
        [1e308],
    ]


def test_a_deviation_may_be_finite_where_the_variance_is_not() -> None:
    """The root is taken of the exact variance."""
    rows = [{"at": i, "x": x} for i, x in enumerate((1e200, -1e200))]
    both = [Aggregate(name, value=col("x"), ddof=0) for name in ("variance", "stddev")]
    assert answers(world(rows, *both, asked=ada(1))) == [[float("inf"), 1e200]]


def test_what_falls_out_of_a_window_leaves_nothing_behind() -> None:
    """A huge value, an infinity and a NaN each pass through, and the rest is as it was."""
    values = [1e300, 0.1, float("inf"), float("nan"), 0.2]
    rows = [{"at": i * SECOND, "odd": x} for i, x in enumerate(values)]
    window = Window("sliding", length=SECOND)
    functions = ("sum", "mean", "max", "min", "variance", "quantile")
    each = [
        Aggregate(name, value=col("odd"), window=window, ddof=0 if name == "variance" else 1)
        for name in functions
    ]
    found = answers(world(rows, *each, asked=ada(*(i * SECOND for i in range(5)))))
    assert found[1] == [0.1, 0.1, 0.1, 0.1, 0.0, 0.1]
    assert found[4] == [0.2, 0.2, 0.2, 0.2, 0.0, 0.2]


def test_decimals_of_38_digits_are_exact() -> None:
    values = [Decimal("9999999999999999999999999999.9999999999"), Decimal("-0.0000000001")]
    rows = [{"at": i, "wide": v} for i, v in enumerate(values)]
    functions = ("sum", "min", "max", "mode", "last")
    each = [Aggregate(name, value=col("wide")) for name in functions]
    assert answers(world(rows, *each, asked=ada(1))) == [
        [
            Decimal("9999999999999999999999999999.9999999998"),
            values[1],
            values[0],
            values[1],
            values[1],
        ]
    ]


def test_a_decimal_sum_of_39_digits_is_an_error() -> None:
    rows = [{"at": i, "wide": Decimal("9" * 28)} for i in range(2)]
    bad = world(rows, Aggregate("sum", value=col("wide")), asked=ada(1))
    with store_of(bad) as store, pytest.raises(EngineError, match="sum_0"):
        store.training_set(bad.names, worlds.labels(bad), time="t")


def test_exactly_max_age_still_counts() -> None:
    """And it is measured from t, also where the window is offset."""
    rows = [{"at": 0, "n": 1}]
    aged = [
        Aggregate(name, value=col("n"), window=Window(offset=2), n=3 if name == "last_n" else 0)
        for name in ("last", "latest", "last_n", "first", "count")
    ]
    found = answers(world(rows, *aged, asked=ada(10, 11), view={"max_age": 10}))
    assert found == [[1, 1, [1], 1, 1], [None, None, None, 1, 1]]


def test_moments_far_from_now_have_windows_too() -> None:
    """Years 1 and 9999; nothing wraps around."""
    first, last = worlds.instant("0001-01-01T00:00"), worlds.instant("9999-12-30T00:00")
    rows = [{"at": first, "n": 1}, {"at": 0, "n": 2}, {"at": last, "n": 3}]
    windows = (Window(), Window("sliding", length=DAY), Window("sliding", length=900 * 366 * DAY))
    windows += (Window("to_date", unit="year", zone="UTC"),)
    each = [Aggregate("sum", value=col("n"), window=window) for window in windows]
    found = answers(world(rows, *each, asked=ada(first, first + DAY, last)))
    assert found == [[1, 1, 1, 1], [1, None, 1, 1], [6, 3, 3, 3]]


def test_zeros_are_one_value_but_a_stored_zero_keeps_its_sign() -> None:
    rows = [{"at": i, "x": x} for i, x in enumerate((0.0, -0.0))]
    functions = ("count_distinct", "mode", "min", "max", "last", "first", "sum", "quantile")
    each = [Aggregate(name, value=col("x")) for name in functions]
    found = answers(world(rows, *each, asked=ada(1)))
    assert [bits(v) for v in found[0]] == [bits(v) for v in (1, 0.0, 0.0, 0.0, -0.0, 0.0, 0.0, 0.0)]


def test_lists_and_vectors_are_counted_and_kept() -> None:
    """Alone in their view, so that nothing else brings their column along."""
    for name, value in (("tags", ["a", None]), ("spot", [0.5, float("nan")])):
        rows = [{"at": 0, name: None}, {"at": 1, name: value}]
        for function, wanted in (("count", 1), ("last", value)):
            aggregate = Aggregate(function, value=col(name))
            assert bits(answers(world(rows, aggregate, asked=ada(1)))[0]) == bits([wanted])


def test_a_text_may_hold_any_character() -> None:
    """Also the one that ends a text elsewhere, in keys too."""
    rows = [
        {"at": 0, "text": "a\0c", "user": "a\0b"},
        {"at": 0, "text": "a\0b", "user": "a\0b"},
        {"at": 0, "text": "a", "user": "a"},
    ]
    least = Aggregate("min", value=col("text"))
    asked = [(("a\0b",), 0), (("a",), 0), (("a\0",), 0)]
    assert answers(world(rows, least, asked=asked)) == [["a\0b"], ["a"], [None]]


def test_identities_are_compared_by_value() -> None:
    """NaN is one value and the zeros are one, in identities as everywhere."""
    rows = [
        {"at": 0, "odd": float("nan"), "n": 1},
        {"at": 1, "odd": float("nan"), "n": 2},
        {"at": 0, "odd": 0.0, "n": 3},
        {"at": 2, "odd": -0.0, "n": 4},
    ]
    found = answers(world(rows, COUNT, LAST_N, asked=ada(0, 1, 2), unique=("odd",)))
    assert found == [[2, 1], [2, 2], [2, 4]]
