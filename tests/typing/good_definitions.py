"""Definitions as users write them; every line must please pyright and mypy in strict mode."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, assert_type

import tidemark as tm


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Seat(tm.Entity):
    row: tm.Key[int]
    letter: tm.Key[str]


class Stamped(tm.Source, abstract=True, time="at", timezone="UTC"):
    at: tm.Col[datetime]


class Purchase(
    Stamped,
    history=tm.parquet("data/purchases/*.parquet"),
    unique=("order_id",),
    delay=timedelta(minutes=10),
    owner="risk@acme.com",
    tags=("payments",),
):
    """Card purchases, as the payment gateway reported them."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float] = tm.column(description="In euros.")
    items: tm.Col[int]
    merchant: tm.Col[str]
    status: tm.Col[str | None]
    refunded: tm.Col[bool]
    born: tm.Col[date]
    price: tm.Col[Decimal] = tm.decimal(18, 2)
    taste: tm.Col[list[float]] = tm.vector(4)
    words: tm.Col[list[str]]
    raw: tm.Col[bytes]
    tax: tm.Col[Annotated[Decimal, tm.decimal(18, 2)] | None]


class Profile(tm.Source, time=None, history=tm.table("lake.profiles", connection="lake.duckdb")):
    user_id: tm.Col[str]
    segment: tm.Col[str]
    plan: tm.Col[str | None]


assert_type(Purchase.amount, tm.Col[float])
assert_type(Purchase.at, tm.Col[datetime])
assert_type(Purchase.amount > 3, tm.Expression[bool])
assert_type(Purchase.status == "settled", tm.Expression[bool])
assert_type(Purchase.items + 1, tm.Expression[int])
assert_type(Purchase.amount * 2, tm.Expression[float])
assert_type(Purchase.items / Purchase.items, tm.Expression[float])
assert_type(Purchase.merchant + "!", tm.Expression[str])
assert_type(Purchase.merchant.length(), tm.Expression[int])
assert_type(Purchase.at.hour("America/New_York"), tm.Expression[int])
assert_type(Purchase.born.year(), tm.Expression[int])
assert_type(Purchase.amount.cast(int), tm.Expression[int])
assert_type(Purchase.amount.cast(tm.decimal(18, 2)), tm.Expression[Decimal])
assert_type(Purchase.status.fill_null("none"), tm.Expression[str])
assert_type(Purchase.price > Decimal("1.50"), tm.Expression[bool])
assert_type(Purchase.at >= datetime(2026, 1, 1, tzinfo=UTC), tm.Expression[bool])
assert_type(~Purchase.refunded & (Purchase.amount > 1), tm.Expression[bool])


class UserSpend(
    tm.FeatureView, entity=User, source=Purchase, owner="risk@acme.com", freshness="5m"
):
    """What a user has bought, counting settled purchases only."""

    settled = (Purchase.status == "settled") & ~Purchase.refunded
    size = tm.when(Purchase.amount > 100, "big").when(Purchase.amount > 10, "middle")
    big = size.otherwise("small") == "big"

    purchases = tm.count(where=settled, over=("1h", "7d"))
    spend = tm.sum(Purchase.amount, where=settled, over=("7d", "30d"))
    paid = tm.sum(Purchase.price, over=timedelta(days=7), default=Decimal(0))
    typical = tm.mean(Purchase.amount, where=settled, over="30d")
    lately = tm.mean(Purchase.amount * Purchase.items, offset="1d", over=tm.to_date("month", "UTC"))
    largest = tm.max(Purchase.amount, rows=10)
    spread = tm.stddev(Purchase.amount, population=True)
    last_merchant = tm.last(Purchase.merchant)
    merchants = tm.last_n(Purchase.merchant, 3)
    median = tm.quantile(Purchase.amount, 0.5)
    any_refund = tm.any(Purchase.refunded, where=big)
    kinds = tm.count_distinct(tm.coalesce(Purchase.status, Purchase.merchant))


assert_type(UserSpend.purchases, tm.Feature[int])
assert_type(UserSpend.spend["7d"], tm.Feature[float])
assert_type(UserSpend.paid, tm.Feature[Decimal])
assert_type(UserSpend.typical, tm.Feature[float])
assert_type(UserSpend.last_merchant, tm.Feature[str])
assert_type(UserSpend.merchants, tm.Feature[list[str]])
assert_type(UserSpend.any_refund, tm.Feature[bool])


class UserProfile(
    tm.FeatureView,
    entity=User,
    source=Profile,
    columns=(Profile.segment, Profile.plan),
    by=Profile.user_id,
):
    """What a user told us; the annotation says to the checker what `columns` declares."""

    segment: tm.Feature[str]


class Checkout(tm.Request):
    """What the caller knows at decision time."""

    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount, typical=UserSpend.typical)
def amount_ratio(amount: float, typical: float | None) -> float:
    """This purchase against the user's 30-day mean; 1.0 for a new user."""
    return amount / typical if typical else 1.0


@tm.on_demand(ratio=amount_ratio, segment=UserProfile.segment, owner="risk@acme.com")
def rated(ratio: float, segment: str | None) -> str | None:
    return None if segment is None else f"{segment}:{ratio:.1f}"


assert_type(amount_ratio(3.0, None), float)


class Fraud(tm.FeatureService, owner="risk@acme.com"):
    """Inputs of the fraud model."""

    purchases_1h = UserSpend.purchases["1h"]
    spend_7d = UserSpend.spend[timedelta(days=7)]
    last_merchant = UserSpend.last_merchant
    segment = UserProfile.segment
    ratio = amount_ratio
    rating = rated


class Short(tm.FeatureService, features=[UserSpend.typical, amount_ratio, "user_spend:paid"]):
    """The features under their own names."""
