"""What `evaluate` promises beside its values: threads, empty inputs, calendars, sketches."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tests.kernel import naive

from tidemark.kernel import (
    Column,
    Layout,
    Lists,
    Moments,
    Numbers,
    Positions,
    Result,
    SumOverflow,
    Timeline,
    evaluate,
    sweep,
)
from tidemark.kernel.calendar import period_start_one
from tidemark.kernel.hashing import hash_all, hash_bytes, hash_decimals
from tidemark.kernel.rows import Program, evaluate_rows
from tidemark.model.aggregates import RULES, Aggregate, result_type
from tidemark.model.expr import Column as ColumnExpr
from tidemark.model.graph import Feature, FeatureView
from tidemark.model.types import BOOL, FLOAT64, INT64, STRING, decimal
from tidemark.model.window import DAY, HOUR, Window

SLIDING = Window("sliding", length=50)


def same(one: Result, other: Result) -> bool:
    match one, other:
        case Numbers(), Numbers():
            words = [np.where(r.valid, r.values.view(np.int64), 0) for r in (one, other)]
            return np.array_equal(*words) and np.array_equal(one.valid, other.valid)
        case Positions(), Positions():
            return np.array_equal(one.at, other.at)
        case Lists(), Lists():
            return np.array_equal(one.starts, other.starts) and np.array_equal(one.at, other.at)
    return False


def every_aggregate(window: Window) -> list[Aggregate]:
    names = [name for name in RULES if name not in {"any", "all"}]
    return [Aggregate(name, window=window, n=3, q=0.3) for name in names]


@pytest.fixture
def skewed() -> tuple[Timeline, Moments, Column]:
    """Two hundred thousand events of entities of very different size, some of them late."""
    random = np.random.default_rng(3)
    segment = np.sort((random.pareto(0.7, 200_000) * 3).astype(np.int64) % 1000)
    asked = np.sort((random.pareto(0.7, 20_000) * 3).astype(np.int64) % 1000)
    time = random.integers(0, 1000, 200_000)
    time = time[np.lexsort((time, segment))]
    t = random.integers(0, 1000, 20_000)
    t = t[np.lexsort((t, asked))]
    segments = np.arange(1001)
    timeline = Timeline(np.searchsorted(segment, segments), time)
    moments = Moments(np.searchsorted(asked, segments), t)
    values = np.round(random.lognormal(3, 1, 200_000), 1)
    return timeline, moments, Column("float", values, valid=random.random(200_000) < 0.9)


@pytest.mark.parametrize("late", [False, True])
def test_the_result_does_not_depend_on_the_number_of_threads(skewed, late: bool) -> None:
    timeline, moments, column = skewed
    if late:
        timeline = replace(timeline, known=timeline.time + np.arange(200_000) % 7)
    aggregates = every_aggregate(SLIDING)
    one = evaluate(timeline, moments, column, aggregates, threads=1)
    four = evaluate(timeline, moments, column, aggregates, threads=4)
    assert all(same(a, b) for a, b in zip(one, four, strict=True))


def test_the_windows_of_one_hot_entity_are_dealt_out_to_threads(monkeypatch) -> None:
    """One entity is one segment: threads share its windows, and give what one of them gives."""
    monkeypatch.setattr(sweep, "LEAST_WORK", 100)
    events, asked = 3_000, 1_000
    timeline = Timeline(np.array([0, events]), np.arange(events))
    moments = Moments(np.array([0, asked]), np.arange(0, 3 * asked, 3))
    column = Column("float", np.linspace(-1.0, 1.0, events))
    windows = [Window("sliding", length=n) for n in (1, 7, 50, 400, 2_000)]
    aggregates = [each for window in windows for each in every_aggregate(window)]
    one = evaluate(timeline, moments, column, aggregates, threads=1)
    for threads in (2, 3, 8):
        several = evaluate(timeline, moments, column, aggregates, threads=threads)
        assert all(same(a, b) for a, b in zip(one, several, strict=True))


def test_events_that_are_known_at_once_and_for_ever_are_plain_events(skewed) -> None:
    """The sweep for late events and the one without them are different code."""
    timeline, moments, column = skewed
    forever = np.full(len(timeline.time), 2**63 - 1)
    late = replace(timeline, known=timeline.time, until=forever)
    for window in (SLIDING, Window("all"), Window("sliding", length=50, rows=4)):
        aggregates = every_aggregate(window)
        plain = evaluate(timeline, moments, column, aggregates)
        general = evaluate(late, moments, column, aggregates)
        assert all(same(a, b) for a, b in zip(plain, general, strict=True))


def test_several_windows_in_one_call_are_each_what_they_are_alone() -> None:
    timeline = Timeline(np.array([0, 4]), np.array([1, 2, 3, 9]))
    moments = Moments(np.array([0, 2]), np.array([3, 10]))
    column = Column("int", np.array([5, 6, 7, 8]))
    aggregates = [Aggregate("sum", window=Window("sliding", length=n)) for n in (1, 2, 10)]
    results = evaluate(timeline, moments, column, aggregates)
    assert [r.values.tolist() for r in results if isinstance(r, Numbers)] == [
        [7, 0],
        [13, 8],
        [18, 26],
    ]


def test_no_moments_and_no_events_are_fine() -> None:
    """The count of nothing is 0, everything else is nothing."""
    nothing = np.empty(0, np.int64)
    column = Column("int", nothing)
    aggregates = every_aggregate(Window())
    empty = Timeline(np.array([0, 0]), nothing)
    assert evaluate(empty, Moments(np.array([0, 0]), nothing), column, aggregates)
    results = evaluate(empty, Moments(np.array([0, 1]), np.array([7])), column, aggregates)
    for aggregate, result in zip(aggregates, results, strict=True):
        match result:
            case Numbers(values, valid):
                assert valid.tolist() == [aggregate.rule.zero]
                assert not aggregate.rule.zero or values[0] == 0
            case Positions(at):
                assert at.tolist() == [-1]
            case Lists(starts, at):
                assert (starts.tolist(), at.tolist()) == ([0, 0], [])


def test_an_overflowing_sum_names_the_aggregate_and_the_moment() -> None:
    """What overflows on the way and comes back is no overflow."""
    big = 2**62
    timeline = Timeline(np.array([0, 4]), np.array([1, 2, 3, 4]))
    column = Column("int", np.array([big, big, -big, 5]))
    total = Aggregate("sum")
    with pytest.raises(SumOverflow) as caught:
        evaluate(
            timeline, Moments(np.array([0, 2]), np.array([1, 2])), column, [Aggregate("max"), total]
        )
    assert (caught.value.aggregate, caught.value.request) == (1, 1)
    (fits,) = evaluate(timeline, Moments(np.array([0, 1]), np.array([4])), column, [total])
    assert isinstance(fits, Numbers)
    assert fits.values.tolist() == [big + 5]


@given(
    st.sampled_from(["day", "week", "month", "quarter", "year"]),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kathmandu"]),
    st.sampled_from(["at", "before"]),
    st.lists(st.tuples(st.integers(-2, 400), st.sampled_from([-1, 0, 1, HOUR])), min_size=1),
    st.sampled_from([0, DAY]),
)
def test_a_calendar_window_begins_with_the_local_period(unit, zone, bound, marks, offset) -> None:
    """Events and moments on the boundaries of days, and a microsecond beside them."""
    midnights = [period_start_one((15_770 + day) * DAY, "day", zone) + x for day, x in marks]
    times = sorted(midnights)
    window = Window("to_date", unit=unit, zone=zone, offset=offset)
    aggregate = Aggregate("count", window=window)
    (result,) = evaluate(
        Timeline(np.array([0, len(times)]), np.array(times)),
        Moments(np.array([0, len(times)]), np.array(times)),
        Column("none"),
        [aggregate],
        bound=bound,
    )
    expected = []
    for t in times:
        u = t - offset
        begin = period_start_one(u, unit, zone)
        expected.append(sum(begin <= x < u + (bound == "at") for x in times))
    assert isinstance(result, Numbers)
    assert result.values.tolist() == expected
    feature = Feature(name="f", aggregate=aggregate, type=INT64)
    view = FeatureView(
        name="v", entity="e", source="s", keys=("k",), features=(feature,), bound=bound
    )
    program = Program.of([(view, Layout.of(view, {}), "f")])
    magic = int.from_bytes(b"TMRW\x01\x00\x00\x00", "little")
    row = np.array([magic, len(times), 0, 0, 0, 0, 0, 0, *times], np.int64)
    served = [int(evaluate_rows(row, np.array([[0]]), t, program).words[0, 0]) for t in times]
    assert served == expected


def test_an_estimate_of_many_distinct_values_is_within_a_few_percent() -> None:
    values = np.random.default_rng(5).integers(0, 2**62, 300_000)
    counts = [10, 1_000, 30_000, 300_000]
    timeline = Timeline(np.array([0, len(values)]), np.arange(len(values)))
    moments = Moments(np.array([0, len(counts)]), np.array(counts) - 1)
    (result,) = evaluate(
        timeline, moments, Column("int", values), [Aggregate("approx_count_distinct")]
    )
    assert isinstance(result, Numbers)
    assert np.abs(result.values / counts - 1).max() < 0.05
    assert result.values[0] == 10


def test_hashes_of_bytes_are_fixed_for_ever() -> None:
    """Stored rows hold them; text of any length, and decimals as sixteen bytes."""
    absorbed = naive.mixed(naive.mixed(3) ^ int.from_bytes(b"abc", "little"))
    assert hash_bytes(b"abc") % 2**64 == absorbed
    texts = [b"", b"a", b"abcdefgh", b"abcdefghi", "é".encode() * 9]
    offsets = np.cumsum([0, *map(len, texts)])
    data = np.frombuffer(b"".join(texts), np.uint8)
    assert hash_all(offsets, data).tolist() == [hash_bytes(text) for text in texts]
    low, high = np.array([5, -1]), np.array([0, -1])
    wanted = [hash_bytes(x.to_bytes(16, "little", signed=True)) for x in (5, -1)]
    assert hash_decimals(low, high).tolist() == wanted


def test_a_layout_has_each_column_once_in_each_form_that_is_needed() -> None:
    """A count takes a column that is there; text is hashed only for estimates."""
    types = {"amount": decimal(18, 2), "shop": STRING, "paid": BOOL, "score": FLOAT64}
    wanted = [
        ("sum", "amount", True),
        ("max", "amount", False),
        ("count", "shop", False),
        ("mode", "shop", True),
        ("approx_count_distinct", "shop", False),
        ("mean", "score", False),
        ("quantile", "score", True),
    ]
    features = tuple(
        Feature(
            name=function,
            aggregate=Aggregate(
                function, ColumnExpr(column), ColumnExpr("paid") if filtered else None
            ),
            type=result_type(function, types[column]),
        )
        for function, column, filtered in wanted
    )
    view = FeatureView(name="v", entity="e", source="s", keys=("k",), features=features)
    layout = Layout.of(view, types)
    assert [(c.value, c.form) for c in layout.columns] == [
        (ColumnExpr("amount"), "decimal"),
        (ColumnExpr("amount"), "code"),
        (ColumnExpr("shop"), "code"),
        (ColumnExpr("shop"), "hash"),
        (ColumnExpr("score"), "word"),
    ]
    assert layout.filters == (ColumnExpr("paid"),)
    assert [(f.column, f.filter) for f in layout.features] == [
        (0, 0),
        (1, -1),
        (2, -1),
        (2, 0),
        (3, -1),
        (4, -1),
        (4, 0),
    ]


def test_an_entity_without_a_row_has_the_features_of_nothing() -> None:
    """Its count is the value 0, everything else is nothing, and no event of it is visible."""
    aggregates = every_aggregate(SLIDING)
    features = tuple(
        Feature(name=a.function, aggregate=a, type=INT64)
        for a in (Aggregate(a.function, ColumnExpr("x"), window=SLIDING, n=a.n) for a in aggregates)
    )
    view = FeatureView(name="v", entity="e", source="s", keys=("k",), features=features)
    layout = Layout.of(view, {"x": INT64})
    program = Program.of([(view, layout, feature.name) for feature in features])
    answers = evaluate_rows(np.empty(0, np.int64), np.array([[-1, -1]]), 7, program)
    zero = [int(a.rule.zero) for a in aggregates]
    assert answers.state.tolist() == [[state, state] for state in zero]
    assert not answers.words[np.array(zero) == 1].any()
    assert answers.known.tolist() == [[-(2**63)] * 2]
