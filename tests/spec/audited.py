"""A shop whose serving log is audited, and faults that are planted in its online state.

The state is written by a store that is wrong about one thing, and read by one that is right.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

import tidemark as tm

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
USERS = ["ada", "bob", "eve"]
NAN = float("nan")

FEATURES = '''
from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    """A person."""

    user_id: tm.Key[str]


class Payment(
    tm.Source,
    history=tm.parquet("payments.parquet"),
    time="at",
    {zone}unique=("payment_id",),{seen}
):
    """A payment."""

    payment_id: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float]
    settled: tm.Col[bool]
    at: tm.Col[datetime]
    {column}


class Paying(tm.FeatureView, entity=User, source=Payment{bound}):
    """What a user paid."""

    payments = tm.count(over="12h")
    paid = tm.sum(Payment.amount, where={where}, over="12h")
    last = tm.last(Payment.amount)


class Request(tm.Request):
    """What the caller knows."""

    amount: tm.Col[float]


@tm.on_demand(amount=Request.amount, paid=Paying.paid)
def share(amount: float, paid: float | None) -> float | None:
    """This payment against half a day."""
    return amount / paid if paid else None


class Risk(tm.FeatureService):
    """Inputs of a model."""

    payments = Paying.payments
    paid = Paying.paid
    last = Paying.last
    share = share
'''

RIGHT = {
    "zone": 'timezone="UTC", ',
    "seen": "",
    "column": "",
    "bound": "",
    "where": "Payment.settled",
}


def features(**other: str) -> str:
    return FEATURES.format(**(RIGHT | other))


def payments() -> list[dict]:
    """Three users, a payment in every hour of two days, at the full hour, some not settled."""
    rng = np.random.default_rng(7)
    return [
        {
            "payment_id": f"{user}-{hour}",
            "user_id": user,
            "amount": float(rng.integers(1, 10_000)) / 64,
            "settled": bool(rng.integers(0, 4)),
            "at": START + hour * HOUR,
        }
        for user in USERS
        for hour in range(48)
    ]


def write(folder: Path, rows: list[dict], *, zoned: bool = True) -> None:
    table = pa.Table.from_pylist(rows)
    at = table.schema.get_field_index("at")
    kind = pa.timestamp("us", "UTC" if zoned else None)
    parquet.write_table(
        table.set_column(at, "at", table["at"].cast(kind)), folder / "payments.parquet"
    )


class Shop:
    """A project whose features and history a test replaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = f'name = "audit"\ndefinitions = "paying_{folder.name}.py"\n'
        (folder / "tidemark.toml").write_text(settings, "utf-8")

    def define(self, text: str) -> None:
        (self.folder / f"paying_{self.folder.name}.py").write_text(text, "utf-8")

    def apply(self, *, materialize: bool = True, **options: str) -> None:
        sys.modules.pop(f"paying_{self.folder.name}", None)
        with tm.connect(self.folder) as store:
            store.apply(store.plan())
            if materialize:
                store.materialize(**options)

    def serve(self, *hours: float, at_offset: timedelta = timedelta()) -> None:
        with tm.connect(self.folder) as store:
            for hour in hours:
                store.online_many(
                    "risk",
                    {"user_id": USERS},
                    request={"amount": [1.0, 2.0, 3.0]},
                    at=START + hour * HOUR + at_offset,
                )

    def audit(self, **options):
        with tm.connect(self.folder) as store:
            return store.audit(**options)


def make_shop(folder: Path) -> Shop:
    """A project in a new folder below, whose definitions and history are right."""
    folder = folder / f"shop_{abs(hash(folder)) % 10**8}"
    folder.mkdir()
    made = Shop(folder)
    made.define(features())
    write(folder, payments())
    return made


def served_by_another(shop: Shop, rows: list[dict]) -> None:
    """Write the online state from another history, then put the right one back, as old as it is."""
    write(shop.folder, rows)
    shop.apply()
    write(shop.folder, payments())
    old = (START - HOUR).timestamp()
    os.utime(shop.folder / "payments.parquet", (old, old))


def causes(audit) -> dict[str, set[str]]:
    return {each.feature: set(each.causes) for each in audit.features if each.differing}
