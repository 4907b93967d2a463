"""Card-fraud features: edit them, then `tidemark plan` shows what would change.

`tidemark describe user_spend:spend_7d` says in English what a feature means; test_features.py shows
on a few rows what it gives.
"""

from __future__ import annotations

from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(
    tm.Source,
    history=tm.parquet("data/purchases/*.parquet"),
    time="purchased_at",
    unique=("order_id",),  # an event that is delivered twice counts once
):
    """Card purchases, as the payment gateway reported them."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float]
    merchant: tm.Col[str]
    status: tm.Col[str]
    purchased_at: tm.Col[datetime]


class UserSpend(tm.FeatureView, entity=User, source=Purchase, owner="risk@example.com"):
    """What a user has bought, counting settled purchases only."""

    settled = Purchase.status == "settled"

    purchases = tm.count(where=settled, over=("1h", "7d"))
    spend = tm.sum(Purchase.amount, where=settled, over=("7d", "30d"))
    typical = tm.mean(Purchase.amount, where=settled, over="30d")
    last_merchant = tm.last(Purchase.merchant)


class Checkout(tm.Request):
    """What the caller knows at decision time."""

    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount, typical=UserSpend.typical)
def amount_ratio(amount: float, typical: float | None) -> float:
    """This purchase against the user's 30-day mean; 1.0 for a new user."""
    return amount / typical if typical else 1.0


class Fraud(tm.FeatureService, owner="risk@example.com"):
    """Inputs of the fraud model."""

    purchases_1h = UserSpend.purchases["1h"]
    spend_7d = UserSpend.spend["7d"]
    last_merchant = UserSpend.last_merchant
    ratio = amount_ratio
