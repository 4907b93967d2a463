"""Purchases that are pushed, and what is counted of them: for the specs of the event log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import tidemark as tm

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, time="at", unique=("order_id",)):
    """Card purchases."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Habits(tm.FeatureView, entity=User, source=Purchase):
    """How much a user buys."""

    purchases = tm.count(over="30d")
    last = tm.latest(Purchase.order_id)
