"""Small worlds of hostile rows: a source, a view of many features, rows and moments to ask at.

A world follows from its seed alone.  Times lie on a lattice of window, hour, day, daylight-saving
and epoch boundaries and one microsecond either side; values are the ones that break arithmetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import structs
from tests.oracle import taken

import tidemark as tm
from tidemark.define.lowered import Lowered
from tidemark.model.aggregates import ADDITIVE, RULES, Aggregate, adds_up, result_type
from tidemark.model.expr import Call, Column, Expr, Literal, columns_of, type_of
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureView,
    Field,
    Frame,
    History,
    Source,
)
from tidemark.model.types import (
    BOOL,
    BYTES,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    Type,
    decimal,
    list_of,
    vector,
)
from tidemark.model.window import DAY, HOUR, MINUTE, SECOND, Bound, Window

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEW_YORK, LORD_HOWE = "America/New_York", "Australia/Lord_Howe"


def instant(text: str) -> int:
    """Microseconds since 1970 of ISO text in UTC."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    """The instant as callers pass it."""
    return EPOCH + timedelta(microseconds=micros)


CENTERS = [
    0,  # the epoch: times turn negative here
    instant("2024-03-10T07:00"),  # New York loses an hour
    instant("2024-11-03T06:00"),  # and gains it back
    instant("2024-04-06T15:00"),  # Lord Howe gains half an hour
    instant("2024-10-05T15:30"),  # and loses it
    instant("2024-01-01T05:00"),  # a year, quarter, month, week and day begin in New York
    instant("2024-03-31T13:00"),  # a quarter begins on Lord Howe
    instant("2024-02-29T05:00"),
    instant("1900-01-01T04:56"),  # local mean time was abolished only shortly before
    instant("2199-12-31T23:59:59"),
]
STEPS = [0, 1, SECOND, 30 * MINUTE, HOUR, 23 * HOUR, DAY, 25 * HOUR, 7 * DAY, 30 * DAY, 90 * DAY]
COLUMNS: dict[str, Type] = {
    "id": STRING,
    "part": INT64,
    "user": STRING,
    "shard": INT64,
    "at": TIMESTAMP,
    "seen": TIMESTAMP,
    "x": FLOAT64,
    "odd": FLOAT64,
    "n": INT64,
    "big": INT64,
    "price": decimal(18, 2),
    "wide": decimal(38, 10),
    "ok": BOOL,
    "text": STRING,
    "raw": BYTES,
    "then": TIMESTAMP,
    "day": DATE,
    "tags": list_of(STRING),
    "spot": vector(2),
}
HUGE, TINY = 1.7976931348623157e308, 5e-324
POOLS: dict[str, list[Any]] = {
    "x": [
        *(0.0, -0.0, 0.1, 0.2, 0.3, -2.25, 1.0, 3.0, 1 / 3, 1.0000000000000002, 1e16, -1e16),
        *(1e-16, 1e300, -1e300, HUGE, -HUGE, TINY, -TINY, 2.2250738585072014e-308),
    ],
    "odd": [0.0, -0.0, 1.0, 2.5, -7.5, 19.99, 19.99, 0.1, math.nan, math.inf, -math.inf],
    "n": [0, 1, -1, 2, 3, 7, 2**53 + 1, -(2**53) - 1],
    "big": [2**63 - 1, -(2**63), 2**63 - 2, 0, 1, -1, 2**62, 2**53 + 1],
    "price": [
        Decimal(v) for v in ("0.00", "0.01", "-0.01", "19.99", "9999999999999999.99", "1.10")
    ],
    "wide": [
        Decimal(v) for v in ("0E-10", "1E-10", "-1E-10", "123456789012345678901234567.0000000001")
    ],
    "ok": [True, False],
    "text": ["", "a", "A", "b", "a ", "é", "e\u0301", "日本", "\uffff", "😀", "zz"],
    "raw": [b"", b"\x00", b"\xff", b"a", b"a\x00", b"\x80\x7f"],
    "then": [0, 1, -1, 2**53 + 1, instant("2024-03-10T07:00"), instant("0001-01-01T00:00")],
    "day": [date(1970, 1, 1), date(1969, 12, 31), date(2024, 2, 29), date(1, 1, 1)],
    "tags": [[], ["a"], ["a", ""], ["b", None], ["é", "é"]],
    "spot": [[0.0, 1.0], [-0.0, math.inf], [0.1, 0.2]],
}

WINDOWS = [
    Window(),
    Window(offset=HOUR),
    Window(rows=1),
    Window(rows=5),
    Window("sliding", length=1),
    Window("sliding", length=HOUR),
    Window("sliding", length=DAY),
    Window("sliding", length=7 * DAY),
    Window("sliding", length=30 * DAY, rows=3),
    Window("sliding", length=DAY, offset=DAY),
    Window("sliding", length=HOUR, offset=1),
    Window("to_date", unit="day", zone=NEW_YORK),
    Window("to_date", unit="day", zone=LORD_HOWE),
    Window("to_date", unit="week", zone=NEW_YORK),
    Window("to_date", unit="month", zone=LORD_HOWE),
    Window("to_date", unit="quarter", zone=NEW_YORK),
    Window("to_date", unit="year", zone=LORD_HOWE),
    Window("to_date", unit="day", zone=NEW_YORK, offset=DAY),
    Window("to_date", unit="week", zone=LORD_HOWE, rows=2),
]


def col(name: str) -> Column:
    return Column(name)


def call(name: str, *args: Any) -> Call:
    return Call(name, args)


ZERO, ONE = Literal(0, INT64), Literal(1, INT64)
FILTERS: list[Expr] = [
    col("ok"),
    call("not", col("ok")),
    call("gt", col("n"), ZERO),
    call("is_null", col("odd")),
    call("gt", col("odd"), Literal(0.0, FLOAT64)),  # NaN is greater than every number
    call("eq", col("x"), Literal(-0.0, FLOAT64)),
    call("or", col("ok"), call("lt", col("n"), ZERO)),
    call("and", call("ne", col("text"), Literal("a", STRING)), call("is_not_null", col("raw"))),
    call("is_in", col("text"), Literal("a", STRING), Literal("😀", STRING)),
    call("ge", col("then"), Literal("1970-01-01T00:00:00+00:00", TIMESTAMP)),
    call("le", col("price"), Literal("0.01", decimal(18, 2))),
]
COMPUTED: list[Expr] = [
    call("when", col("ok"), col("n"), Literal(None, INT64)),
    call("coalesce", col("x"), Literal(-0.0, FLOAT64)),
    call("sub", col("n"), ONE),
    call("neg", col("odd")),
    call("lower", col("text")),
    call("is_null", col("text")),
]


def column_types(function: str) -> list[Expr]:
    """The values that a function can take, as expressions."""
    needs = RULES[function].needs
    fits = {
        "rows": lambda type_: True,
        "any": lambda type_: True,
        "scalar": lambda type_: type_.scalar,
        "ordered": lambda type_: type_.ordered,
        "number": lambda type_: type_.numeric,
        "bool": lambda type_: type_ == BOOL,
    }[needs]
    names = [name for name in POOLS if fits(COLUMNS[name])]
    if function == "sum":
        names.remove("big")  # its overflow has its own test
    computed = [expr for expr in COMPUTED if fits(type_of(expr, COLUMNS))]
    return [*map(col, names), *computed]


def parameters(function: str) -> list[dict[str, Any]]:
    """The variants of a function that are worth a combination of their own."""
    match RULES[function].parameters:
        case ("n",):
            return [{"n": 1}, {"n": 3}]
        case ("q",):
            return [{"q": 0.0}, {"q": 0.3}, {"q": 0.5}, {"q": 1.0}]
        case ("ddof",):
            return [{"ddof": 0}, {"ddof": 1}]
        case _:
            return [{}]


def default_for(type_: Type, random: Random) -> Literal | None:
    """Sometimes a default of the feature's own type."""
    values = {"int64": -7, "float64": -0.0, "string": "none", "bool": True}
    if random.random() < 0.3 and type_.name in values:
        return Literal(values[type_.name], type_)
    return None


COMBINATIONS = list(product(RULES, WINDOWS))
WORLDS_PER_BOUND = 6  # every combination occurs once in so many worlds of either bound


def features(seed: int, random: Random) -> Iterator[Feature]:
    """This world's share of aggregate x window, each with a value, filter and default at random."""
    shuffled = Random(seed // (2 * WORLDS_PER_BOUND)).sample(COMBINATIONS, len(COMBINATIONS))
    mine = shuffled[seed // 2 % WORLDS_PER_BOUND :: WORLDS_PER_BOUND]
    for number, (function, window) in enumerate(mine):
        value: Expr | None = random.choice(column_types(function))
        if function == "count" and random.random() < 0.4:
            value = None
        type_ = result_type(function, None if value is None else type_of(value, COLUMNS))
        aggregate = Aggregate(
            function,
            value=value,
            where=random.choice(FILTERS) if random.random() < 0.5 else None,
            window=window,
            default=default_for(type_, random) if not RULES[function].zero else None,
            **random.choice(parameters(function)),
        )
        yield Feature(name=f"{function}_{number}", aggregate=aggregate, type=type_)


@dataclass(frozen=True)
class World:
    """A view over a source, its rows, and the entities and moments to ask about."""

    entity: Entity
    source: Source
    view: FeatureView
    rows: list[dict[str, Any]]
    asked: list[tuple[tuple[Any, ...], int]]

    @property
    def names(self) -> list[str]:
        """The features as a caller names them."""
        return [f"{self.view.name}:{feature.name}" for feature in self.view.features]


def moments(random: Random) -> Iterator[int]:
    """Times on the lattice around a few neighbouring centres, for ever."""
    center = random.choice(CENTERS)
    while True:
        first = random.choice(STEPS[:8] if random.random() < 0.8 else STEPS)
        second = random.choice(STEPS[:3])
        yield center + random.choice((-1, 1)) * first + random.choice((-1, 1)) * second


def one_row(
    random: Random, number: int, times: Iterator[int], nulls: dict[str, float]
) -> dict[str, Any]:
    """A row with values from the pools."""
    time = next(times)
    late = random.choice((0, 0, 1, -1, HOUR, -HOUR, DAY, 7 * DAY, SECOND))
    row: dict[str, Any] = {
        "id": f"e{number}" if random.random() > 0.05 else None,
        "part": random.choice((0, 1, None)) if random.random() < 0.1 else 0,
        "user": random.choice(("ada", "ada", "bob", "")) if random.random() > 0.03 else None,
        "shard": random.choice((1, 1, 1, -(2**63))),
        "at": time,
        "seen": time + late,
    }
    for name, pool in POOLS.items():
        row[name] = None if random.random() < nulls[name] else random.choice(pool)
    return row


def correction(random: Random, row: dict[str, Any], times: Iterator[int]) -> dict[str, Any]:
    """The same event once more: delivered twice, or with another time, entity or value."""
    changed = dict(row)
    kind = random.random()
    if kind < 0.25:
        return changed
    if kind < 0.45:
        changed["at"] = next(times)
    if 0.4 < kind < 0.6:
        changed["user"] = random.choice(("ada", "bob", "", None))
    for name in random.sample(list(POOLS), 4):
        changed[name] = random.choice([*POOLS[name], None])
    changed["seen"] = row["seen"] + random.choice((0, 0, 1, -1, HOUR, -HOUR, DAY, 7 * DAY))
    return changed


def make(seed: int, *, events: int = 130, asked: int = 270) -> World:
    """The world of a seed; even seeds have `bound="at"`, odd ones `bound="before"`."""
    random = Random(seed)
    bound: Bound = ("at", "before")[seed % 2]  # type: ignore[assignment]
    keys = random.choice((("user",), ("user",), ("shard", "user")))
    seen = random.choice((None, "seen", "seen", "delay"))
    unique = random.choice(((), ("id",), ("id", "part")))
    times = moments(random)
    nulls = {name: random.choice((0.0, 0.1, 0.1, 0.5, 0.95)) for name in POOLS}
    rows: list[dict[str, Any]] = []
    for number in range(events):
        if rows and random.random() < 0.3:
            rows.append(correction(random, random.choice(rows), times))
        else:
            rows.append(one_row(random, number, times, nulls))
    entity = Entity(name="user", keys=tuple(Field(name, COLUMNS[name]) for name in keys))
    source = Source(
        name="events",
        columns=tuple(Field(name, type_) for name, type_ in COLUMNS.items()),
        time="at",
        history=Frame("events"),
        unique=unique,
        seen="seen" if seen == "seen" else None,
        delay=random.choice((1, HOUR, DAY)) if seen == "delay" else 0,
    )
    view = FeatureView(
        name="view",
        entity="user",
        source="events",
        keys=keys,
        features=tuple(features(seed, random)),
        bound=bound,
        max_age=random.choice((0, 0, 1, DAY, 7 * DAY)),
    )
    return World(entity, source, view, rows, list(_asked(random, rows, keys, times, asked)))


def stepped(seed: int, step: int) -> World:
    """The world of a seed with a view that moves in steps, and all that such a view may have."""
    world, random = make(seed), Random(seed)
    sizes = product((step, 2 * step, 9 * step), (0, step))
    windows = [Window("sliding", length=length, offset=offset) for length, offset in sizes]
    windows += [Window("all"), Window("all", offset=2 * step)]
    found: dict[Aggregate, Feature] = {}
    while len(found) < 40:
        function = random.choice([*ADDITIVE, "min", "max"])
        types = {each: type_of(each, COLUMNS) for each in column_types(function)}
        value = random.choice([each for each, type_ in types.items() if adds_up(function, type_)])
        where, window = random.choice([None, *FILTERS]), random.choice(windows)
        aggregate = Aggregate(function, value=value, where=where, window=window)
        name, type_ = f"{function}_{len(found)}", result_type(function, types[value])
        found.setdefault(aggregate, Feature(name=name, aggregate=aggregate, type=type_))
    view = structs.replace(world.view, features=tuple(found.values()), step=step, max_age=0)
    return replace(world, view=view)


def of_values(column: str, values: Sequence[Any], *functions: str) -> World:
    """A world of one entity whose column has these values, a second apart, asked after the last."""
    blank = dict.fromkeys(COLUMNS) | {"user": "ada"}
    rows = [
        blank | {"id": f"e{i}", "at": i * SECOND, "seen": i * SECOND, column: value}
        for i, value in enumerate(values)
    ]
    view = FeatureView(
        name="view",
        entity="user",
        source="events",
        keys=("user",),
        features=tuple(
            Feature(
                name=function,
                aggregate=Aggregate(function, value=col(column)),
                type=result_type(function, COLUMNS[column]),
            )
            for function in functions
        ),
    )
    entity = Entity(name="user", keys=(Field("user", STRING),))
    columns = tuple(Field(name, type_) for name, type_ in COLUMNS.items())
    source = Source(name="events", columns=columns, time="at", history=Frame("events"))
    return World(entity, source, view, rows, [(("ada",), len(values) * SECOND)])


def _asked(
    random: Random,
    rows: list[dict[str, Any]],
    keys: tuple[str, ...],
    times: Iterator[int],
    count: int,
) -> Iterator[tuple[tuple[Any, ...], int]]:
    edges = [w.length for w in WINDOWS if w.length] + [w.offset for w in WINDOWS] + [0]
    known = [row for row in rows if None not in (row[name] for name in keys)]
    for _ in range(count):
        row = random.choice(known)
        near = random.choice((row["at"], row["seen"])) + random.choice((0, 0, 1, -1))
        t = random.choice((next(times), near, near + random.choice(edges)))
        key = tuple(row[name] for name in keys)
        if random.random() < 0.03:
            key = ("nobody",) if keys == ("user",) else (1, "nobody")
        yield key, t


# --------------------------------------------------------------------------- history and log


@dataclass(frozen=True)
class Mixture:
    """A world whose events come through history, the log or both, and what a log is given.

    `world.rows` are those of history and those that the log takes; `batches` are when they came.
    """

    world: World
    history: list[dict[str, Any]]
    batches: list[tuple[int, list[dict[str, Any]]]]


def mixed(world: World, seed: int) -> Mixture:
    """The rows of a world dealt out: some to history, some to the log, some to both.

    They come to the log late or early, in batches of any size, some of them twice, by a clock that
    sometimes goes back.
    """
    random = Random(seed)
    only_log = random.random() < 0.2
    history, arriving = [], []
    for row in world.rows:
        place = "log" if only_log else random.choice(("history", "log", "both", "both"))
        if place != "log":
            history.append(row)
        if place != "history":
            arriving.append(row)
    arriving.sort(key=lambda row: row["seen"])
    batches: list[tuple[int, list[dict[str, Any]]]] = []
    while arriving:
        size = random.choice((1, 1, 2, 7, 40))
        batch, arriving = arriving[:size], arriving[size:]
        came = batch[-1]["seen"] + random.choice((0, 0, 0, 1, -1, HOUR, -DAY))
        batches.append((came, batch))
        if random.random() < 0.2:
            again = random.choice(batches)[1]
            batches.append((came + random.choice((0, 1, HOUR)), again))
    rows = [*history, *taken(world.source, batches)]
    source = world.source
    if only_log:
        source = msgspec.structs.replace(source, history=None)
    return Mixture(replace(world, source=source, rows=rows), history, batches)


# -------------------------------------------------------------------------------------- Arrow


def arrow_type(type_: Type) -> pa.DataType:
    """How a column of this type is written by somebody who does not know Tidemark."""
    match type_.name:
        case "decimal":
            return pa.decimal128(type_.precision, type_.scale)
        case "timestamp":
            return pa.timestamp("us", tz="UTC")
        case "list":
            return pa.list_(arrow_type(type_.item or STRING))
        case "vector":
            return pa.list_(pa.float64(), type_.size)
        case name:
            simple = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
            simple |= {"string": pa.string(), "bytes": pa.binary(), "date": pa.date32()}
            return simple[name]


def table(fields: Sequence[Field], rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Literal rows as an Arrow table."""
    return pa.table(
        {
            field.name: pa.array([row[field.name] for row in rows], arrow_type(field.type))
            for field in fields
        }
    )


def labels(world: World) -> pa.Table:
    """The label rows of a world: keys, time, and a column that is none of Tidemark's business."""
    columns = {
        field.name: pa.array([key[i] for key, _ in world.asked], arrow_type(field.type))
        for i, field in enumerate(world.entity.keys)
    }
    columns["t"] = pa.array([t for _, t in world.asked], pa.timestamp("us", tz="UTC"))
    columns["place"] = pa.array(range(len(world.asked)))
    return pa.table(columns)


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """An Arrow column as the values that the oracle speaks: instants are integers."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_pylist()
    if pa.types.is_list(column.type) and pa.types.is_timestamp(column.type.value_type):
        return column.cast(pa.list_(pa.int64())).to_pylist()
    return column.to_pylist()


def only_columns(world: World, names: Sequence[str]) -> World:
    """The world with these columns, and the features that need no other."""
    kept = []
    for feature in world.view.features:
        read = [e for e in (feature.aggregate.value, feature.aggregate.where) if e is not None]
        if all(columns_of(expr) <= set(names) for expr in read):
            kept.append(feature)
    columns = tuple(field for field in world.source.columns if field.name in names)
    return replace(
        world,
        source=msgspec.structs.replace(world.source, columns=columns),
        view=msgspec.structs.replace(world.view, features=tuple(kept)),
    )


def without_rows(world: World, unwanted: Callable[[dict[str, Any]], bool]) -> World:
    """The world without some of its rows."""
    return replace(world, rows=[row for row in world.rows if not unwanted(row)])


@contextmanager
def store_of(
    world: World, history: object | None = None, *, project: Path | None = None, **settings: Any
) -> Iterator[tm.Store]:
    """A store with the world applied; its history is a frame unless told otherwise.

    With a `project` directory it is a project of these settings, else an ephemeral store.
    """
    frame = table(world.source.columns, world.rows) if history is None else history
    source = world.source
    if isinstance(frame, History):
        source = msgspec.structs.replace(source, history=frame)
    definitions = Definitions.of([world.entity, source, world.view])
    if project is not None:
        lines = {"registry": "sqlite://", "online": "memory:", **settings}
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())
        (project / "tidemark.toml").write_text(text)
    store = tm.connect(":memory:" if project is None else project)
    try:
        store.apply(store.plan(Lowered(definitions, frames={"events": frame})))
        yield store
    finally:
        store.close()
