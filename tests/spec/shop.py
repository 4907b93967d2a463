"""A small shop: what people bought, and when it became known; for the specs of online reads."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

import tidemark as tm
from tidemark.define import lower

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MICRO = timedelta(microseconds=1)

SCHEMA = pa.schema(
    {
        "order_id": pa.string(),
        "user_id": pa.string(),
        "amount": pa.float64(),
        "price": pa.decimal128(18, 2),
        "items": pa.int64(),
        "merchant": pa.string(),
        "settled": pa.bool_(),
        "at": pa.timestamp("us", "UTC"),
        "seen": pa.timestamp("us", "UTC"),
    }
)


def bought(user: str | None, at: datetime, **values: Any) -> dict[str, Any]:
    """One purchase; it was seen when it happened unless said otherwise."""
    row = dict.fromkeys(SCHEMA.names) | {"user_id": user, "at": at, "seen": at, "settled": True}
    return row | {"amount": 1.0, "price": Decimal("1.00"), "items": 1, "merchant": "a"} | values


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(
    tm.Source, history=tm.frame(SCHEMA.empty_table()), time="at", seen="seen", unique=("order_id",)
):
    """What was bought."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float | None]
    price: tm.Col[Decimal | None] = tm.decimal(18, 2)
    items: tm.Col[int | None]
    merchant: tm.Col[str | None]
    settled: tm.Col[bool]
    at: tm.Col[datetime]
    seen: tm.Col[datetime]


class Spending(tm.FeatureView, entity=User, source=Purchase):
    """What a user has bought."""

    purchases = tm.count(over=("1h", "7d"))
    settled = tm.count(where=Purchase.settled, over="7d")
    spend = tm.sum(Purchase.amount, over=("7d", "30d"))
    paid = tm.sum(Purchase.price, over="7d")
    items = tm.max(Purchase.items, over="7d", default=-1)
    today = tm.count(over=tm.to_date("day", "America/New_York"))
    merchants = tm.top_n(Purchase.merchant, n=2, over="7d")
    last_merchant = tm.last(Purchase.merchant)
    newest_merchant = tm.latest(Purchase.merchant)
    last_at = tm.last(Purchase.at)


class Habits(tm.FeatureView, entity=User, source=Purchase, max_age="1d"):
    """What was last heard of a user, for a day."""

    shop = tm.last(Purchase.merchant)
    newest_shop = tm.latest(Purchase.merchant)
    shops = tm.last_n(Purchase.merchant, n=2)
    recent = tm.last(Purchase.merchant, over="7d", default="none")
    visits = tm.count()


class Totals(tm.FeatureView, entity=User, source=Purchase):
    """Sums that can be too large."""

    items = tm.sum(Purchase.items)


@tm.on_demand(items=Totals.items)
def each(items: int | None) -> float:
    """A function that fails on 0 and on null."""
    return 1 / (items or 0)


class Fragile(tm.FeatureService):
    """What can fail."""

    each = each


class Checkout(tm.Request):
    """What the caller knows."""

    amount: tm.Col[float]
    hurry: tm.Col[bool]


@tm.on_demand(amount=Checkout.amount, spend=Spending.spend["7d"])
def share(amount: float, spend: float | None) -> float | None:
    """This purchase against the week."""
    return amount / spend if spend else None


@tm.on_demand(share=share)
def is_odd(share: float | None) -> bool:
    """Whether this purchase is larger than the week."""
    return share is not None and share > 1.0


class Fraud(tm.FeatureService):
    """Inputs of the fraud model."""

    purchases = Spending.purchases["7d"]
    odd = is_odd
    share = share
    merchant = Spending.last_merchant


@tm.on_demand(amount=Checkout.amount)
def doubled(amount: float) -> float:
    """What needs no history at all."""
    return 2 * amount


def history(rows: list[dict[str, Any]]) -> pa.Table:
    """Purchases as a table; each is an order of its own unless said otherwise."""
    numbered = [row | {"order_id": row["order_id"] or str(i)} for i, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, SCHEMA)


@contextmanager
def shop(*rows: dict[str, Any], until: datetime | None = NOON, **options: Any):
    """A store whose purchases are these rows, materialized as known at `until` (None: not)."""
    lowered = lower([Spending, Habits, Totals, Fraud, Fragile, doubled])
    with tm.connect(":memory:") as store:
        frames = {"purchase": history(list(rows))}
        store.apply(store.plan(replace(lowered, frames=frames)))
        if until is not None:
            store.materialize(until=until, **options)
        yield store
