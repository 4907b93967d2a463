"""Card purchases, and labels that say which were fraud."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Any

ABOUT = "card purchases, to train and serve from"
COMMANDS = (
    "tidemark plan",
    "tidemark apply --yes",
    "tidemark train fraud --labels data/labels.parquet --out training.parquet",
    "tidemark materialize",
    "tidemark online fraud --key user_id=u1 --request amount=42",
    "tidemark describe fraud",
)
_DAYS = 60
_USERS = 50
_MERCHANTS = ("bakery", "bookshop", "cinema", "garage", "grocer")


def tables(end: datetime) -> dict[str, list[dict[str, Any]]]:
    """The rows of each file, up to a moment."""
    random = Random(2026)  # noqa: S311 - the same users and amounts everywhere
    purchases = _purchases(end, random)
    return {
        "data/purchases/part-0.parquet": purchases,
        "data/labels.parquet": _labels(purchases, random),
    }


def _purchases(end: datetime, random: Random) -> list[dict[str, Any]]:
    """Purchases of the last weeks, so that windows that end now have something in them."""
    moments = sorted(
        end - timedelta(seconds=random.randrange(_DAYS * 86_400)) for _ in range(3_000)
    )
    return [
        {
            "order_id": f"o{number}",
            "user_id": f"u{random.randrange(_USERS)}",
            "amount": round(random.lognormvariate(3.3, 0.8), 2),
            "merchant": random.choice(_MERCHANTS),
            "status": "settled" if random.random() < 0.9 else "declined",
            "purchased_at": moment,
        }
        for number, moment in enumerate(moments, 1)
    ]


def _labels(purchases: list[dict[str, Any]], random: Random) -> list[dict[str, Any]]:
    """Every tenth purchase, one second before it happened, and whether it was fraud."""
    return [
        {
            "user_id": purchase["user_id"],
            "at": purchase["purchased_at"] - timedelta(seconds=1),
            "amount": purchase["amount"],
            "is_fraud": random.random() < min(0.9, purchase["amount"] / 400),
        }
        for purchase in purchases[::10]
    ]
