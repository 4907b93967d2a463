"""A project whose events are pushed, and what its online state consists of, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

import tidemark as tm

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SCHEMA = pa.schema(
    {
        "order": pa.string(),
        "user_id": pa.string(),
        "shop": pa.int64(),
        "amount": pa.float64(),
        "status": pa.string(),
        "at": pa.timestamp("us", "UTC"),
    }
)


def moment(minutes: float) -> datetime:
    """So many minutes before noon of the day at which histories end."""
    return NOON - timedelta(minutes=minutes)


class User(tm.Entity):
    user_id: tm.Key[str]


class Shop(tm.Entity):
    shop: tm.Key[int]


def views(history: str | None, *, unique: bool) -> list[Any]:
    """Views of different entities over one source, with what pushes can get wrong.

    Sums and counts show an event that is lost or counted twice, `last` the order, `newest` nulls;
    `Hourly` keeps sums of hours instead of events where there are many.
    """
    told = {} if history is None else {"history": tm.parquet(history)}

    class Order(tm.Source, time="at", unique=("order",) if unique else (), **told):
        order: tm.Col[str | None]
        user_id: tm.Col[str | None]
        shop: tm.Col[int | None]
        amount: tm.Col[float | None]
        status: tm.Col[str | None]
        at: tm.Col[datetime]

    class OfUser(tm.FeatureView, entity=User, source=Order):
        paid = tm.sum(Order.amount, where=Order.status == "paid")
        orders = tm.count()
        recent = tm.count(over="1h")
        last = tm.last(Order.status)
        order = tm.latest(Order.order)

    class OfShop(tm.FeatureView, entity=Shop, source=Order):
        double = tm.sum(Order.amount * 2.0, where=Order.amount > 1.0)
        statuses = tm.count_distinct(Order.status)
        orders = tm.last_n(Order.order, n=3)

    class Hourly(tm.FeatureView, entity=User, source=Order, step="1h"):
        spent = tm.sum(Order.amount, over="3h")
        orders = tm.count(over="1d", offset="1h")
        spread = tm.stddev(Order.amount)
        dearest = tm.max(Order.amount, where=Order.status == "paid")

    return [OfUser, OfShop, Hourly]


def rows_of(store: tm.Store) -> dict[bytes, bytes]:
    """The rows that serve, with keys that do not tell their generation."""
    from tidemark.online.states.keys import generation_prefix, read_record, record_key

    online: Any = store._online
    project = store.config.namespace
    found: dict[bytes, bytes] = {}
    everything = _everything(online)
    for view in store.readers.snapshot().definitions.views:
        for state in read_record(everything.get(record_key(project, view.name))).states:
            prefix = generation_prefix(project, view.name, state.state, state.generation)
            named = view.name.encode() + state.state.encode()
            found |= {
                named + key[len(prefix) :]: row
                for key, row in everything.items()
                if key.startswith(prefix)
            }
    return found


def _everything(online: Any) -> dict[bytes, bytes]:
    kind = type(online).__name__
    if kind == "MemoryStore":
        return dict(online._rows)
    if kind == "RedisStore":
        import redis

        with redis.Redis.from_url(online.name) as client:
            return {key: client.get(key) for key in client.scan_iter(_type="string")}
    with online._opened().env.begin() as transaction:
        return dict(transaction.cursor())


def make_project(folder: Path, online: str = "lmdb://.tidemark/online") -> Path:
    """An empty project in a folder."""
    (folder / "tidemark.toml").write_text(f'name = "shop"\nonline = "{online}"\n', "utf-8")
    return folder


def everything_equal(store: tm.Store) -> None:
    """Online equals offline for every entity; rebuilt, the state has the same bytes."""
    now = datetime.now(UTC)
    for view, key, values in (
        ("of_user", "user_id", ["ada", "bob", "cyd", "dan"]),
        ("of_shop", "shop", [1, 2, 3]),
        ("hourly", "user_id", ["ada", "bob", "cyd", "dan"]),
    ):
        names = [
            f"{view}:{each.name}"
            for each in store.readers.snapshot().definitions.view(view).features
        ]
        labels = pa.table(
            {key: values, "t": pa.array([now] * len(values), SCHEMA.field("at").type)}
        )
        offline = store.training_set(names, labels).to_arrow().drop_columns([key, "t"])
        online = store.online_many(names, [{key: each} for each in values], at=now).to_arrow()
        # As text, since NaN is to equal NaN; floats are told in full.
        assert str(offline.to_pylist()) == str(online.select(offline.column_names).to_pylist())
    grown = rows_of(store)
    store.materialize()
    assert rows_of(store) == grown
