"""The fingerprint of the meaning against the values: equal exactly where these are equal.

Hundreds of random features with edits of each, all computed over the same hostile rows.  All
fingerprints call the view and the source by one name, so that nothing but what is defined tells
two features apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from msgspec.structs import replace
from tests.oracle import bits
from tests.property import worlds
from tests.property.definitions import (
    FIELDS as COLUMNS,
    USER,
    Defined,
    bases,
    described,
    edited,
    idle,
    spelled,
)

import tidemark as tm
from tidemark.define import Lowered
from tidemark.model.aggregates import Aggregate
from tidemark.model.diff import feature_name
from tidemark.model.expr import Column
from tidemark.model.graph import Definitions, Feature, FeatureView, Query, Source
from tidemark.model.types import STRING

ROUNDS = max(4, settings().max_examples // 12)
EVENTS, ASKED = 60, 40
WORLDS = range(4)
VARIED = 8
Values = tuple[str, ...]  # to the bit, in the order of the moments asked for
KINDS = {"told": described, "spelled": spelled, "idle": idle, "meant": edited}
# How many pairs of each kind the regular run compares at least.
FLOOR = {
    "told": 1_500,
    "spelled": 150,
    "idle": 250,
    "meant": 3_500,
    "equal": 8_000,
    "different": 1_500_000,
}
MEANT = {
    *("function", "value", "where", "n", "q", "ddof", "default"),
    *("window", "offset", "rows", "length", "unit", "zone"),
    *("bound", "keys", "max_age"),
    *("unique", "delay", "seen", "time", "timezone", "order of columns"),
}
STORED = Feature(name="stored", aggregate=Aggregate("latest", Column("user")), type=STRING)


@dataclass(frozen=True)
class Pair:
    """A feature and an edit of it, by their places."""

    kind: str
    edit: str
    one: int
    other: int


@dataclass(frozen=True)
class Measured:
    """Features with their fingerprints and their values."""

    features: Sequence[Defined]
    meanings: Sequence[str]
    values: Sequence[Values]
    pairs: Sequence[Pair]

    def of(self, kind: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.kind == kind]

    def same_meaning(self, pair: Pair) -> bool:
        return self.meanings[pair.one] == self.meanings[pair.other]

    def same_values(self, pair: Pair) -> bool:
        return self.values[pair.one] == self.values[pair.other]

    def said(self, pair: Pair) -> str:
        """What somebody needs to see of a pair that should not be."""
        one, two = self.features[pair.one], self.features[pair.other]
        return f"{pair.edit}: {one}\n  or {two}"


@dataclass(frozen=True)
class Rows:
    """The rows of several worlds side by side, with times in UTC and on a clock somewhere."""

    frames: dict[str, pa.Table]
    labels: pa.Table


def hostile_rows() -> Rows:
    """The same at every call; each world has users of its own."""
    found: list[dict[str, Any]] = []
    asked: list[tuple[str, int]] = []
    for seed in WORLDS:
        world = worlds.make(seed, events=EVENTS, asked=ASKED)
        for row in world.rows:
            named = {name: row[name] and f"{seed}/{row[name]}" for name in ("id", "user")}
            found.append(row | named)
        asked += [(f"{seed}/{key[-1]}", t) for key, t in world.asked]
    aware = worlds.table(COLUMNS, found)
    local = aware
    for name in ("at", "seen"):
        clock = aware[name].cast(pa.timestamp("us"))
        local = local.set_column(local.column_names.index(name), name, clock)
    times = pa.array([t for _, t in asked], pa.timestamp("us", tz="UTC"))
    labels = pa.table({"user": [user for user, _ in asked], "t": times})
    return Rows({"events": aware, "local": local}, labels)


def computed(features: Sequence[Defined], rows: Rows) -> list[Values]:
    """The values of each feature, to the bit; those of one view together."""
    sources: dict[Source, Source] = {}
    views: dict[FeatureView, list[int]] = defaultdict(list)
    for place, it in enumerate(features):
        sources.setdefault(it.source, replace(it.source, name=f"source_{len(sources)}"))
        views[replace(it.view, source=sources[it.source].name)].append(place)
    named = [
        replace(
            view,
            name=f"view_{number}",
            features=(*(replace(features[at].feature, name=f"f{at}") for at in places), STORED),
        )
        for number, (view, places) in enumerate(views.items())
    ]
    everything = [(view, feature) for view in named for feature in view.features]
    twins = [f"{view.name}:{feature.name}" for view, feature in everything]
    wanted = [feature_name(view, each) for view, each in everything if each is not STORED]
    store = tm.connect(":memory:")
    try:
        definitions = Definitions.of([USER, *sources.values(), *named])
        plan = store.plan(Lowered(definitions, frames=rows.frames))
        store.apply(plan, allow_duplicates=twins, reason="they are what is compared")
        table = store.training_set(wanted, rows.labels, time="t").to_arrow()
    finally:
        store.close()
    columns = [worlds.plain_values(table[f"f{place}"]) for place in range(len(features))]
    return [tuple(repr(bits(value)) for value in column) for column in columns]


@pytest.fixture(scope="module")
def measured() -> Measured:
    """Everything that is compared, computed once."""
    random = Random(1)
    rows = hostile_rows()
    features: list[Defined] = []
    pairs: list[Pair] = []
    values: list[Values] = []
    for number in range(ROUNDS):
        for it in bases(number):
            one = len(features)
            features.append(it)
            for kind, edits in KINDS.items():
                for edit, changed in edits(random, it):
                    pairs.append(Pair(kind, edit, one, len(features)))
                    features.append(changed)
        values += computed(features[len(values) :], rows)
    return Measured(features, [it.meaning for it in features], values, pairs)


@pytest.mark.parametrize("kind", ["told", "spelled", "idle"])
def test_what_alters_no_value_alters_no_meaning(measured: Measured, kind: str) -> None:
    """Owners, spellings, and fields that a function does not read: no fingerprint, no bit moves."""
    pairs = measured.of(kind)
    moved = [pair for pair in pairs if not measured.same_meaning(pair)]
    differ = [pair for pair in pairs if not measured.same_values(pair)]
    assert [measured.said(pair) for pair in [*moved, *differ][:3]] == []
    assert len(pairs) >= FLOOR[kind]


def test_every_edit_of_the_meaning_is_seen(measured: Measured) -> None:
    """One field of the meaning says something else: another fingerprint, always."""
    pairs = measured.of("meant")
    missed = [pair for pair in pairs if measured.same_meaning(pair)]
    assert [measured.said(pair) for pair in missed[:3]] == []
    assert len(pairs) >= FLOOR["meant"]


def test_no_field_of_the_meaning_is_idle(measured: Measured) -> None:
    """Whichever field is edited, values differ somewhere, and for most edits they do here."""
    made = Counter(pair.edit for pair in measured.of("meant"))
    differ = [pair for pair in measured.of("meant") if not measured.same_values(pair)]
    seen = Counter(pair.edit for pair in differ)
    assert {edit: count for edit, count in made.items() if seen[edit] < count / 5} == {}
    assert set(made) == MEANT
    assert len(differ) >= 0.75 * made.total()


def test_of_all_pairs_equal_fingerprints_mean_equal_values(measured: Measured) -> None:
    """Whatever two definitions are: what has one fingerprint has one value at every moment."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, each in enumerate(measured.meanings):
        found[each].append(place)
    compared = 0
    for places in found.values():
        first = places[0]
        for place in places[1:]:
            pair = Pair("any", "any", first, place)
            assert measured.same_values(pair), measured.said(pair)
        compared += len(places) * (len(places) - 1) // 2
    assert compared >= FLOOR["equal"]


def test_of_all_pairs_hardly_any_has_two_fingerprints_and_one_value(measured: Measured) -> None:
    """Two meanings with one value at every moment asked for are a coincidence of the rows."""
    # What hardly varies, because nearly every window is empty, tells nothing.
    telling = [
        (each, values)
        for each, values in zip(measured.meanings, measured.values, strict=True)
        if len(set(values)) >= VARIED
    ]
    by_values: dict[Values, Counter[str]] = defaultdict(Counter)
    for each, values in telling:
        by_values[values][each] += 1
    by_meaning = Counter(each for each, _ in telling)
    same_meaning = sum(map(_pairs, by_meaning.values()))
    same_values = sum(_pairs(each.total()) for each in by_values.values())
    compared = _pairs(len(telling)) - same_meaning
    assert compared >= FLOOR["different"]
    assert same_values - same_meaning <= compared / 1_000


def _pairs(number: int) -> int:
    return number * (number - 1) // 2


def test_what_a_query_selects_is_meaning(tmp_path: Path) -> None:
    """Another filter in the SQL of a source is another fingerprint and gives other values."""
    rows = hostile_rows()
    path = tmp_path / "events.parquet"
    pq.write_table(rows.frames["events"], path)
    it = next(each for each in bases(0) if each.aggregate.function == "sum")
    whole, part = (
        it.of_source(history=Query(f"select * from read_parquet('{path}') where {condition}"))
        for condition in ("true", "ok")
    )
    plain, all_of_it, some = computed([it, whole, part], rows)
    assert plain == all_of_it != some
    assert whole.meaning != part.meaning
