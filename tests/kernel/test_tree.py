"""Trees of events answer what one row of all of them answers."""

import numpy as np
import pyarrow as pa
import pytest
from tests.kernel.trees import Hand, History, Tree, Values, answer_rows, plain

from tidemark.kernel import Layout
from tidemark.kernel.rows import Program
from tidemark.kernel.tree import TreeProgram
from tidemark.model.aggregates import RULES, Aggregate, result_type
from tidemark.model.expr import Column
from tidemark.model.graph import Feature, FeatureView
from tidemark.model.types import BOOL, FLOAT64, INT64, STRING, decimal
from tidemark.model.window import DAY, HOUR, Window

NEVER = 2**63 - 1
TYPES = {
    "price": FLOAT64,
    "number": INT64,
    "cost": decimal(38, 2),
    "good": BOOL,
    "shop": STRING,
    "wanted": BOOL,
    "other": BOOL,
}
TAKES = {
    "price": [name for name in RULES if name not in {"any", "all"}],
    "number": [name for name in RULES if name not in {"any", "all"}],
    "cost": ["sum", "mean", "variance", "stddev", "quantile", "approx_quantile", "min", "last"],
    "good": ["any", "all", "count", "last", "first"],
    "shop": ["count", "count_distinct", "mode", "min", "max", "first", "last", "latest", "last_n",
             "first_n", "top_n", "approx_count_distinct"],
}  # fmt: skip
PRICES = [0.0, -0.0, 0.1, 0.2, 1e16, -1e16, 5e-324, 2.5, 1 / 3, 1e-9, -7.25, 19.99, 4096.0]
ODD = [np.nan, np.inf, -np.inf, 1.7e308, 1e308, -1.7e308]
ZONE = "America/New_York"
BASE = 1_730_606_400_000_000  # a day on which the clocks of New York are turned back
WINDOWS = [
    Window("sliding", length=HOUR),
    Window("sliding", length=HOUR + 1),
    Window("sliding", length=7 * HOUR),
    Window("sliding", length=DAY),
    Window("sliding", length=HOUR, offset=2 * HOUR),
    Window("sliding", length=1),
    Window("all"),
    Window("all", offset=HOUR),
    Window("to_date", unit="day", zone=ZONE),
    Window("to_date", unit="week", zone="UTC"),
    Window("to_date", unit="day", zone=ZONE, offset=HOUR),
]


def a_feature(random: np.random.Generator, i: int) -> Feature:
    """Any aggregate of any column over any window."""
    column = str(random.choice(list(TAKES)))
    function = str(random.choice(TAKES[column]))
    window = WINDOWS[random.integers(len(WINDOWS))]
    if random.random() < 0.2:
        rows = int(random.integers(1, 9))
        window = Window(
            window.kind, window.length, window.offset, window.unit, window.zone, rows=rows
        )
    value = None if function == "count" and random.random() < 0.4 else Column(column)
    where = [None, None, Column("wanted"), Column("other")][random.integers(4)]
    n, q, ddof = int(random.integers(1, 6)), float(random.random()), int(random.integers(2))
    aggregate = Aggregate(function, value, where, window, n=n, q=q, ddof=ddof)
    type_ = result_type(function, None if value is None else TYPES[column])
    return Feature(name=f"f{i}", aggregate=aggregate, type=type_)


def a_view(random: np.random.Generator, name: str, features: int) -> tuple[FeatureView, Layout]:
    view = FeatureView(
        name=name,
        entity="e",
        source="s",
        keys=("k",),
        features=tuple(a_feature(random, i) for i in range(features)),
        bound="before" if random.random() < 0.3 else "at",
        max_age=int(random.choice([0, 0, HOUR, 3 * HOUR])),
        step=int(random.choice([0, 0, HOUR, 7])),
    )
    return view, Layout.of(view, TYPES)


def a_history(random: np.random.Generator, layout: Layout, size: int) -> History:
    """Events on the hours and a microsecond beside them, many at once, some late or replaced."""
    marks = BASE + random.integers(-30, 31, size) * HOUR
    time = np.sort(marks + random.choice([-1, 0, 0, 0, 1, 1800 * 10**6], size))
    late = random.random(size) < random.choice([0.0, 0.0, 0.1, 0.6])
    known = np.where(late, time + random.choice([1, HOUR, 20 * HOUR], size), time)
    replaced = random.random(size) < random.choice([0.0, 0.0, 0.1, 0.5])
    until = np.where(replaced, known + random.choice([0, 1, HOUR, 9 * HOUR], size), NEVER)
    odd = random.choice([0.0, 0.02, 0.2])
    columns = []
    for column in layout.columns:
        valid = random.random(size) < random.choice([0.5, 0.9, 1.0])
        words, high, dictionary = random.integers(-3, 4, size), None, None
        if column.form == "hash":
            words = random.integers(-(2**62), 2**62, size)
        elif column.form == "code":
            distinct = [f"shop {i}" for i in range(5)]
            if column.type.name == "decimal":
                dictionary = pa.array([i - 2 for i in range(5)], pa.decimal128(38, 2))
            else:
                dictionary = pa.array(distinct)
            words = random.integers(0, 5, size)
        elif column.type == BOOL:
            words = random.integers(0, 2, size)
        elif column.form == "decimal":
            high = random.choice([0, -1, 0, 10**18 // 2, -(10**18) // 2], size)
        elif column.type == FLOAT64:
            prices = random.choice(PRICES, size)
            prices = np.where(random.random(size) < odd, random.choice(ODD, size), prices)
            words = prices.view(np.int64)
        elif random.random() < 0.5:
            words = random.choice([2**62, -(2**62), 5, 2**63 - 1, -(2**63)], size)
        columns.append(Values(words, valid, high, dictionary))
    filters = [random.random(size) < random.choice([0.2, 0.8]) for _ in layout.filters]
    return History(time, known, until, tuple(columns), tuple(filters))


def cuts(random: np.random.Generator, size: int, most: int) -> list[int]:
    """Where the parts of something begin, and its end; every part has something."""
    inner = random.choice(np.arange(1, size), min(size - 1, int(random.integers(most))), False)
    return [0, *sorted(inner.tolist()), size]


def a_tree(random: np.random.Generator, layout: Layout, history: History) -> Tree:
    starts = cuts(random, len(history.time), random.choice([12, 60]))
    levels, width = [], len(starts) - 1
    for _ in range(random.integers(0, 3)):
        levels.append(cuts(random, width, 5))
        width = len(levels[-1]) - 1
    levels.append([0, width])
    return Tree.of(layout, history, starts, levels)


def some_moments(random: np.random.Generator, history: History) -> list[int]:
    """Moments at which something happens, and a microsecond beside them."""
    marks = np.concatenate([history.time, history.known, history.until[history.until < NEVER]])
    shifts = [0, 0, HOUR, 7 * HOUR, DAY, 2 * HOUR, 3 * HOUR]
    chosen = random.choice(marks, 8) + random.choice(shifts, 8) + random.integers(-1, 2, 8)
    return [*chosen.tolist(), int(history.time[0]) - DAY, BASE + 90 * DAY, -(2**62)]


@pytest.mark.parametrize("seed", range(120))
def test_a_tree_answers_what_one_row_answers(seed: int) -> None:
    """Any aggregates, chunks, levels and moments; late, replaced, null, NaN, infinite, tied."""
    random = np.random.default_rng(seed)
    made = [a_view(random, name, int(random.integers(1, 16))) for name in ("v", "w")]
    views, layouts = [view for view, _ in made], [layout for _, layout in made]
    names = [(v, feature.name) for v, view in enumerate(views) for feature in view.features]
    program = Program.of([(views[v], layouts[v], name) for v, name in names])
    each = TreeProgram.of(program, layouts)
    histories = [a_history(random, layout, int(random.integers(1, 80))) for layout in layouts]
    trees = [a_tree(random, *pair) for pair in zip(layouts, histories, strict=True)]
    whole = [
        h.rows(layout, [0, len(h.time)])[0] for h, layout in zip(histories, layouts, strict=True)
    ]
    for t in some_moments(random, histories[0]) + some_moments(random, histories[1]):
        wanted = plain(answer_rows(whole, t, program), program, layouts, names, whole)
        hand = Hand(trees)
        folded = hand.read(t, each, [(0, 0), (1, 0)])
        joined = [hand.joined(h, folded.needed) for h in range(2)]
        answers = answer_rows(joined, t, program, folded)
        assert plain(answers, program, layouts, names, joined) == wanted


def test_few_nodes_are_opened_however_many_events_a_window_holds() -> None:
    """At each end of a window one node of every level, and the root: what bounds a read."""
    random = np.random.default_rng(5)
    size, chunk, fanout = 100_000, 128, 32
    lengths = [HOUR, 7 * HOUR, DAY, 7 * DAY, 30 * DAY]
    features = [
        Feature(
            name=f"{function}_{length}",
            aggregate=Aggregate(
                function, Column("price"), window=Window("sliding", length=length, offset=offset)
            ),
            type=FLOAT64,
        )
        for function, offset in (("sum", 0), ("stddev", 0), ("max", 0), ("mean", HOUR))
        for length in lengths
    ]
    view = FeatureView(name="v", entity="e", source="s", keys=("k",), features=tuple(features))
    layout = Layout.of(view, TYPES)
    time = BASE + np.sort(random.integers(0, 40 * DAY, size))
    price = Values(random.lognormal(3, 1, size).view(np.int64), np.ones(size, bool))
    history = History(time, time, np.full(size, NEVER), (price,), ())
    starts = [*range(0, size, chunk), size]
    nodes = [*range(0, len(starts) - 1, fanout), len(starts) - 1]
    tree = Tree.of(layout, history, starts, [nodes, [0, len(nodes) - 1]])
    names = [(0, feature.name) for feature in features]
    program = Program.of([(view, layout, name) for _, name in names])
    each = TreeProgram.of(program, [layout])
    whole = history.rows(layout, [0, size])
    for t in [*random.choice(time, 8).tolist(), BASE + 20 * DAY, BASE + 41 * DAY]:
        edges = {t - length - offset for length in lengths for offset in (0, HOUR)}
        edges |= {t, t - HOUR}
        hand = Hand([tree])
        folded = hand.read(t, each, [(0, 0)])
        assert len(hand.nodes) <= 1 + 2 * len(edges)
        assert not folded.needed.any()
        answers = answer_rows([None], t, program, folded)
        wanted = answer_rows(list(whole), t, program)
        found = [plain(each, program, [layout], names, [None]) for each in (answers, wanted)]
        assert found[0] == found[1]
