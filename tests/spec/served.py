"""A project on disk with values of every type, for the specs of the HTTP service."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

import tidemark as tm

DEFINITIONS = '''
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

import tidemark as tm


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Event(tm.Source, history=tm.parquet("events.parquet"), time="at"):
    """Whatever happened."""

    user_id: tm.Col[str]
    amount: tm.Col[float | None]
    price: tm.Col[Decimal | None] = tm.decimal(18, 2)
    items: tm.Col[int | None]
    blob: tm.Col[bytes | None]
    born: tm.Col[date | None]
    good: tm.Col[bool | None]
    at: tm.Col[datetime]


class Activity(tm.FeatureView, entity=User, source=Event):
    """What a user did."""

    events = tm.count(over="7d")
    spend = tm.sum(Event.amount, over="7d")
    paid = tm.sum(Event.price, over="7d")
    most = tm.max(Event.items, over="7d")
    blob = tm.last(Event.blob)
    born = tm.last(Event.born)
    good = tm.last(Event.good)
    amounts = tm.last_n(Event.amount, n=3)
    last_at = tm.last(Event.at)


class Recent(tm.FeatureView, entity=User, source=Event, columns=(Event.items,), max_age="1d"):
    """What was last heard of a user, for a day."""


class Checkout(tm.Request):
    """What the caller knows."""

    amount: tm.Col[float | None]
    price: tm.Col[Decimal | None] = tm.decimal(10, 2)
    day: tm.Col[date | None]
    moment: tm.Col[datetime | None]
    blob: tm.Col[bytes | None]
    count: tm.Col[int | None]


@tm.on_demand(
    amount=Checkout.amount,
    price=Checkout.price,
    day=Checkout.day,
    moment=Checkout.moment,
    blob=Checkout.blob,
    count=Checkout.count,
)
def told(
    amount: float | None,
    price: Annotated[Decimal, tm.decimal(10, 2)] | None,
    day: date | None,
    moment: datetime | None,
    blob: bytes | None,
    count: int | None,
) -> str:
    """What the function was given, as Python writes it."""
    return repr((amount, price, day, moment, blob, count))


class Everything(tm.FeatureService, owner="risk@acme.com"):
    """One value of each type."""

    events = Activity.events
    spend = Activity.spend
    paid = Activity.paid
    most = Activity.most
    blob = Activity.blob
    born = Activity.born
    good = Activity.good
    amounts = Activity.amounts
    last_at = Activity.last_at
    items = Recent.items


class Asked(tm.FeatureService):
    """What an on-demand function sees."""

    told = told
    events = Activity.events
'''

SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "amount": pa.float64(),
        "price": pa.decimal128(18, 2),
        "items": pa.int64(),
        "blob": pa.binary(),
        "born": pa.date32(),
        "good": pa.bool_(),
        "at": pa.timestamp("us", "UTC"),
    }
)

ROWS = [
    ("ada", 20.25, Decimal("12.50"), 2**62 + 1, b"\x00\xff", date(2000, 2, 29), True, 1),
    ("ada", 0.1, Decimal("0.05"), 3, None, None, None, 2),
    ("nan", math.nan, None, None, b"", None, False, 1),
    ("inf", math.inf, Decimal("-1.00"), -1, None, date(1, 1, 1), None, 1),
    ("low", -math.inf, None, 0, None, None, None, 1),
]

ASKED = {
    "amount": math.nan,
    "price": Decimal("3.50"),
    "day": date(2026, 3, 1),
    "moment": datetime(2026, 3, 1, 12, 30, 0, 1, tzinfo=UTC),
    "blob": b"\x00\x01",
    "count": 2**63 - 1,
}


def define(folder: Path, text: str) -> None:
    """Write the definitions; no two projects of a test run have a module of one name."""
    (folder / f"features_{folder.name}.py").write_text(text, "utf-8")


def make_project(folder: Path) -> Path:
    """Write the project, apply it and materialize it."""
    define(folder, DEFINITIONS)
    settings = f'name = "served"\ndefinitions = "features_{folder.name}.py"\n'
    (folder / "tidemark.toml").write_text(settings, "utf-8")
    rows = [
        dict(zip(SCHEMA.names, (*values, datetime(2026, 3, day, 12, 0, 0, 7, UTC)), strict=True))
        for *values, day in ROWS
    ]
    parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "events.parquet")
    with tm.connect(folder) as store:
        store.apply(store.plan())
        store.materialize()
    return folder
