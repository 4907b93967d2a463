"""Reading an entity with three million events in its window, against one with a hundred.

From LMDB, or with `--redis` from a `redis-server` that is started for it.  One line for each
aggregate, read alone, over 30 days that hold all events; the reads of both entities alternate.
`ratio` is that of the medians.  What grows with the events (exact distinct counts, quantiles) is
read with `--growing`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks import harness
from benchmarks.online import own_redis

import tidemark as tm
from tidemark.online.states.keys import generation_prefix, key_encoder, read_record, record_key
from tidemark.online.trees.tree import stored_children

HOT, QUIET, OTHERS = 3_000_000, 100, 1_000
AT = datetime(2026, 1, 31, tzinfo=UTC)
MONTH = 30 * 86_400 * 1_000_000


class Merchant(tm.Entity):
    """Somebody who sells."""

    merchant_id: tm.Key[int]


def views(events: Path) -> list[type[tm.FeatureView]]:
    """Every aggregate over the same window, and some in a view that moves by the hour."""

    class Sale(tm.Source, name="sale", history=tm.parquet(str(events)), time="at"):
        merchant_id: tm.Col[int]
        amount: tm.Col[float]
        items: tm.Col[int]
        card: tm.Col[str]
        paid: tm.Col[bool]
        at: tm.Col[datetime]

    class Sales(tm.FeatureView, name="sales", entity=Merchant, source=Sale):
        count = tm.count(over="30d")
        count_where = tm.count(where=Sale.paid, over="7d")
        sum = tm.sum(Sale.amount, over="30d")
        sum_int = tm.sum(Sale.items, over="30d")
        mean = tm.mean(Sale.amount, over="30d")
        stddev = tm.stddev(Sale.amount, over="30d")
        min = tm.min(Sale.amount, over="30d")
        max = tm.max(Sale.amount, over="30d")
        any = tm.any(Sale.paid, over="30d")
        first = tm.first(Sale.amount, over="30d")
        last = tm.last(Sale.card, over="30d")
        last_n = tm.last_n(Sale.amount, 10, over="30d")
        newest_100 = tm.sum(Sale.amount, over="30d", rows=100)
        approx_count_distinct = tm.approx_count_distinct(Sale.card, over="30d")
        approx_quantile = tm.approx_quantile(Sale.amount, 0.5, over="30d")
        count_distinct = tm.count_distinct(Sale.card, over="30d")
        quantile = tm.quantile(Sale.amount, 0.5, over="30d")

    class Hourly(tm.FeatureView, name="hourly", entity=Merchant, source=Sale, step="1h"):
        hourly_count = tm.count(over="30d")
        hourly_sum = tm.sum(Sale.amount, over="30d")
        hourly_max = tm.max(Sale.amount, over="30d")

    return [Sales, Hourly]


GROWING = ("count_distinct", "quantile")


def write(path: Path, hot: int) -> None:
    """Merchant 0 has very many events, merchant 1 a hundred, others thirty each."""
    random = np.random.default_rng(0)
    merchants = np.concatenate(
        [np.zeros(hot, int), np.ones(QUIET, int), 2 + np.arange(OTHERS * 30) % OTHERS]
    )
    n = len(merchants)
    at = int(AT.timestamp()) * 1_000_000 - random.integers(0, MONTH, n)
    columns = {
        "merchant_id": merchants,
        "amount": random.lognormal(3, 1, n).round(2),
        "items": random.integers(1, 10, n),
        "card": pa.DictionaryArray.from_arrays(
            pa.array(random.integers(0, 4_000, n)), pa.array([f"card{i}" for i in range(4_000)])
        ).cast(pa.string()),
        "paid": random.random(n) < 0.9,
        "at": pa.array(at, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), path)


def clock(work: Callable[[], object]) -> float:
    """Microseconds of one call."""
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) / 1e3


def run(folder: Path, url: str, *, hot: int, calls: int, growing: bool) -> None:
    """Materialize, and read each aggregate of both entities."""
    (folder / "tidemark.toml").write_text(f'name = "hot"\nonline = "{url}"\n')
    write(folder / "sales.parquet", hot)
    with tm.connect(folder) as store:
        store.apply(store.plan(views(folder / "sales.parquet")))
        print(store.materialize(until=AT))
        print(f"Bytes of the large entity: {bytes_of(store)}")
        print(f"{'':24}{hot:>14,} us{QUIET:>10,} us{'ratio':>8}")
        for feature in features(store):
            name = feature.split(":")[1]
            if name in GROWING and not growing:
                continue
            asked = [feature]
            works = [
                lambda key=key, asked=asked: store.online(asked, {"merchant_id": key}, at=AT)
                for key in (0, 1)
            ]
            times: list[list[float]] = [[], []]
            for turn in range(calls if name not in GROWING else 3):
                for mine, work in zip(times, works, strict=True):
                    taken = clock(work)
                    if turn:  # the first one compiles and fills caches
                        mine.append(taken)
            large, small = map(median, times)
            print(f"{name:24}{large:>17.1f}{small:>13.1f}{large / small:>8.2f}", flush=True)


def bytes_of(store: tm.Store) -> dict[str, int]:
    """How many bytes the state of merchant 0 has in each view."""
    online, project = store._online, store.config.namespace  # noqa: SLF001
    definitions = store.registry.snapshot().definitions
    (key,) = key_encoder(definitions.entity("merchant"))([[0]])
    found: dict[str, int] = {}
    for view in ("sales", "hourly"):
        (stored,) = online.get_many([record_key(project, view)])
        state = read_record(stored).states[0]
        place = generation_prefix(project, view, state.state, state.generation) + key
        (root,) = online.get_many([place])
        rows = online.get_many([place, *stored_children(place, root or b"", online.get_many)])
        found[view] = sum(len(row) for row in rows if row is not None)
    return found


def features(store: tm.Store) -> list[str]:
    """The names of all features, in the order of the views."""
    definitions = store.registry.snapshot().definitions
    return [
        f"{view}:{feature.name}"
        for view in ("sales", "hourly")
        for feature in definitions.view(view).features
    ]


if __name__ == "__main__":
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--redis", action="store_true", help="measure Redis, not LMDB")
    parser.add_argument("--hot", type=int, default=HOT, help="events of the large entity")
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--growing", action="store_true", help="what grows with the events, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place, sizes = Path(temporary), {"hot": options.hot, "calls": options.calls}
        if options.redis:
            with own_redis(place) as address:
                run(place, address, **sizes, growing=options.growing)
        else:
            run(place, "lmdb://online", **sizes, growing=options.growing)
