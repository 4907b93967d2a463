"""Every aggregate equals its definition: many moments at once, one by one, and from stored rows."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.kernel import naive
from tests.kernel.naive import Event

from tidemark.kernel import (
    Column,
    Layout,
    Lists,
    Moments,
    Numbers,
    Positions,
    SumOverflow,
    Timeline,
    evaluate,
)
from tidemark.kernel.rows import Program, evaluate_rows
from tidemark.model.aggregates import RULES, Aggregate, result_type
from tidemark.model.expr import Column as ColumnExpr
from tidemark.model.graph import Feature, FeatureView
from tidemark.model.types import BOOL, FLOAT64, INT64, STRING, Type, decimal
from tidemark.model.window import Window

DECIMAL = decimal(38, 2)
KINDS: dict[str, Type] = {
    "float": FLOAT64,
    "int": INT64,
    "bool": BOOL,
    "decimal": DECIMAL,
    "code": STRING,
    "hash": STRING,
}
SUMS = {"sum", "mean", "variance", "stddev", "quantile", "approx_quantile"}
HOSTILE = [0.0, -0.0, 1.0, -1.0, 0.1, 0.2, 1e16, -1e16, 1e308, 5e-324, 2.5, math.nan]
HOSTILE += [math.inf, -math.inf, 1.7e308, 1 / 3]


def kinds_of(function: str) -> list[str]:
    if function in {"any", "all"}:
        return ["bool"]
    if function in SUMS:
        return ["float", "int", "decimal"]
    if function == "approx_count_distinct":
        return ["float", "int", "hash"]
    return ["float", "int", "code"]


VALUES = {
    "float": st.one_of(st.sampled_from(HOSTILE), st.floats(width=32)),
    "int": st.one_of(st.integers(-3, 3), st.integers(-(2**62), 2**62)),
    "bool": st.booleans(),
    "decimal": st.one_of(st.integers(-300, 300), st.integers(-(10**36), 10**36)),
    "code": st.integers(0, 5),
    "hash": st.integers(-(2**63), 2**63 - 1),
}


@dataclass(frozen=True)
class Case:
    kind: str
    aggregate: Aggregate
    segments: list[list[Event]]
    moments: list[list[int]]
    bound: str
    max_age: int
    late: bool


@st.composite
def events(draw, values, late: bool) -> list[Event]:
    times = sorted(draw(st.lists(st.integers(0, 14), max_size=12)))
    found = []
    for time in times:
        event = Event(time, draw(st.none() | values), draw(st.sampled_from([True, True, False])))
        if late:
            known = draw(st.sampled_from([time, time, time + 2, 9]))
            until = draw(st.sampled_from([2**63 - 1, 2**63 - 1, known + 1, known + 4, 10]))
            event = replace(event, known=max(known, time), until=until)
        found.append(event)
    return found


@st.composite
def cases(draw, function: str, kind: str) -> Case:
    late = draw(st.booleans())
    window = Window(
        kind=draw(st.sampled_from(["sliding", "all"])),
        length=draw(st.sampled_from([1, 2, 3, 5, 9])),
        offset=draw(st.sampled_from([0, 0, 1, 4])),
        rows=draw(st.sampled_from([0, 0, 1, 2, 3])),
    )
    aggregate = Aggregate(
        function,
        value=ColumnExpr("x"),
        where=ColumnExpr("w"),
        window=window,
        n=draw(st.sampled_from([1, 2, 5])) if function in {"first_n", "last_n", "top_n"} else 0,
        q=draw(st.sampled_from([0.0, 0.5, 1.0, 0.9, 1 / 3])),
        ddof=draw(st.sampled_from([0, 1])),
    )
    count = draw(st.integers(1, 3))
    return Case(
        kind,
        aggregate,
        [draw(events(VALUES[kind], late)) for _ in range(count)],
        [sorted(draw(st.lists(st.integers(-1, 20), max_size=9))) for _ in range(count)],
        draw(st.sampled_from(["at", "before"])),
        draw(st.sampled_from([0, 0, 3])),
        late,
    )


def starts_of(parts: list[list]) -> np.ndarray:
    return np.cumsum([0, *map(len, parts)]).astype(np.int64)


def words_of(case: Case, rows: list[Event]) -> tuple[np.ndarray, np.ndarray | None]:
    values = [0 if e.value is None else e.value for e in rows]
    if case.kind == "decimal":
        low = np.array([v & (2**64 - 1) for v in values], np.uint64).view(np.int64)
        return low, np.array([v >> 64 for v in values], np.int64)
    if case.kind == "float":
        return np.array(values, np.float64), None
    return np.array(values, np.int64), None


def run(case: Case, segments, moments, threads: int = 1):
    rows = [event for segment in segments for event in segment]
    timeline = Timeline(
        starts_of(segments),
        np.array([e.time for e in rows], np.int64),
        np.array([e.known for e in rows], np.int64) if case.late else None,
        np.array([e.until for e in rows], np.int64) if case.late else None,
    )
    words, high = words_of(case, rows)
    column = Column(
        "int" if case.kind == "bool" else case.kind,
        words,
        high,
        np.array([e.value is not None for e in rows], bool),
        np.array([bool(e.where) for e in rows], bool),
        2 if case.kind == "decimal" else 0,
    )
    asked = Moments(starts_of(moments), np.array([t for part in moments for t in part], np.int64))
    (result,) = evaluate(
        timeline,
        asked,
        column,
        [case.aggregate],
        bound=case.bound,
        max_age=case.max_age,
        threads=threads,
    )
    return read(case, result, starts_of(segments), starts_of(moments))


def read(case: Case, result, event_starts, moment_starts) -> list:
    """Results as words, positions within the segment, or None; one for each moment."""
    segment = np.searchsorted(moment_starts, np.arange(moment_starts[-1]), side="right") - 1
    origin = event_starts[segment]
    match result:
        case Positions(at):
            return [None if p < 0 else int(p - o) for p, o in zip(at, origin, strict=True)]
        case Lists(starts, at):
            shift = 0 if case.aggregate.function == "top_n" else 1
            parts = [at[a:b] for a, b in pairwise(starts)]
            return [
                (part - shift * o).tolist() or None for part, o in zip(parts, origin, strict=True)
            ]
        case Numbers(values, valid, high):
            words = values.view(np.int64).tolist()
            if high is not None:
                lows = values.view(np.uint64).tolist()
                words = [(int(h) << 64) + w for h, w in zip(high, lows, strict=True)]
            return [w if ok else None for w, ok in zip(words, valid, strict=True)]
    raise AssertionError(result)


def expected(case: Case) -> list:
    found = []
    for segment, moments in zip(case.segments, case.moments, strict=True):
        for t in moments:
            positions = naive.counted(case.aggregate, segment, t, case.bound, case.max_age)
            scale = 2 if case.kind == "decimal" else 0
            value = naive.compute(case.aggregate, segment, positions, scale)
            if case.aggregate.function == "top_n" and value is not None:
                value = [naive.bits(v) for v in value]
            elif isinstance(value, float):
                value = naive.bits(math.nan if math.isnan(value) else value)
            found.append(int(value) if isinstance(value, bool) else value)
    return found


def overflows(case: Case, values: list) -> bool:
    limit = {"int": 2**63, "decimal": 10**38}.get(case.kind)
    if case.aggregate.function != "sum" or limit is None:
        return False
    return any(v is not None and not -limit <= v < limit for v in values)


FUNCTIONS = [(function, kind) for function in RULES for kind in kinds_of(function)]


@pytest.mark.parametrize(("function", "kind"), FUNCTIONS)
def test_an_aggregate_is_what_its_definition_says(function: str, kind: str) -> None:
    """For hostile values, ties, nulls, filters, late and corrected events, windows and bounds."""

    @given(cases(function, kind))
    @settings(max_examples=40)
    def check(case: Case) -> None:
        values = expected(case)
        if overflows(case, values):
            with pytest.raises(SumOverflow):
                run(case, case.segments, case.moments)
            return
        assert run(case, case.segments, case.moments) == values
        one_by_one = [
            run(case, [segment], [[t]])[0]
            for segment, moments in zip(case.segments, case.moments, strict=True)
            for t in moments
        ]
        assert one_by_one == values
        assert from_rows(case) == values

    check()


def packed(case: Case, rows: list[Event], layout: Layout) -> np.ndarray:
    """The events of one entity in the format of stored rows."""
    size = len(rows)
    words, high = words_of(case, rows)
    columns = [words.view(np.int64)] if high is None else [words, high]
    flags = 3 if case.late else 0
    header = [int.from_bytes(b"TMRW\x01\x00" + bytes([flags, 0]), "little"), size, len(columns), 2]
    parts = [np.array([*header, 0, 0, 0, 0], np.int64), np.array([e.time for e in rows], np.int64)]
    if case.late:
        parts.append(np.array([e.known for e in rows], np.int64))
        parts.append(np.array([e.until for e in rows], np.int64))
    parts += columns
    for flag in ([e.value is not None for e in rows], [bool(e.where) for e in rows]):
        padded = np.zeros((size + 7) // 8 * 8, np.uint8)
        padded[:size] = flag
        parts.append(padded.view(np.int64))
    assert len(layout.columns) == len(layout.filters) == 1
    return np.concatenate(parts)


def from_rows(case: Case) -> list:
    """The same results from `evaluate_rows`, all entities of a moment in one call."""
    types = {"x": KINDS[case.kind], "w": BOOL}
    function = case.aggregate.function
    feature = Feature(
        name="f", aggregate=case.aggregate, type=result_type(function, KINDS[case.kind])
    )
    view = FeatureView(
        name="v",
        entity="e",
        source="s",
        keys=("k",),
        features=(feature,),
        bound=case.bound,
        max_age=case.max_age,
    )
    layout = Layout.of(view, types)
    program = Program.of([(view, layout, "f")])
    rows = [packed(case, segment, layout) for segment in case.segments]
    places = np.cumsum([0, *map(len, rows)])[:-1].reshape(1, -1).astype(np.int64)
    buffer = np.frombuffer(b"".join(row.tobytes() for row in rows), np.int64)
    found = []
    for k, (segment, moments) in enumerate(zip(case.segments, case.moments, strict=True)):
        for t in moments:
            answers = evaluate_rows(buffer, places, t, program)
            value = stored_value(case, answers, k)
            positions = naive.counted(case.aggregate, segment, t, case.bound, case.max_age)
            assert_state(case, answers, k, segment, t, positions)
            if value is not None and function in {"first", "last", "latest", "first_n", "last_n"}:
                wanted = naive.compute(case.aggregate, segment, positions)
                words = words_of(case, segment)[0].view(np.int64)[wanted]
                assert np.array_equal(words, value) or answers.state[0, k] == 2
                value = wanted
            found.append(value)
    return found


def stored_value(case: Case, answers, k: int):
    if answers.state[0, k] in {0, 4}:
        return None
    if case.aggregate.function in {"first_n", "last_n", "top_n"}:
        return answers.list(0, k).tolist()
    word = int(answers.words[0, k])
    if case.kind == "decimal" and case.aggregate.function == "sum":
        return (int(answers.high[0, k]) << 64) + (word & (2**64 - 1))
    return word


def assert_state(case: Case, answers, k: int, segment, t: int, positions: list[int]) -> None:
    if case.aggregate.function != "latest":
        positions = [p for p in positions if segment[p].value is not None]
    expired: list[int] = []
    if case.aggregate.rule.stored and case.max_age and not positions:
        expired = naive.counted(case.aggregate, segment, t, case.bound)
        if case.aggregate.function != "latest":
            expired = [p for p in expired if segment[p].value is not None]
        assert answers.state[0, k] == (4 if expired else 0)
    newest = max((segment[p].time for p in positions or expired), default=-(2**63))
    assert answers.time[0, k] == newest
    visible = [
        e.time for e in segment if e.time <= t - (case.bound == "before") and e.known <= t < e.until
    ]
    assert answers.known[0, k] == (max(visible) if visible else -(2**63))
