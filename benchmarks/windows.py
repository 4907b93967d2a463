"""28 windowed outputs (count, sum, mean, stddev, min, max, filtered sum over 1h, 1d, 7d, 30d).

python -m benchmarks.windows             # 10 M events, 1 M labels
python -m benchmarks.windows --hot       # the same with one entity that has every event
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks import data, harness
from benchmarks.tidemark_jobs import training

SECONDS = {"1h": 3_600, "1d": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
COLUMNS = ["entity", "happened", "amount", "n1", "settled"]
OUTPUTS = {
    "purchases": "count(*)",
    "spend": "sum(amount)",
    "typical": "avg(amount)",
    "spread": "stddev_samp(amount)",
    "least": "min(amount)",
    "most": "max(amount)",
}


def connect(options: argparse.Namespace):
    import duckdb

    return duckdb.connect(config={"threads": options.threads, "memory_limit": options.memory})


def floor(options: argparse.Namespace) -> Callable[[], int]:
    """Reading five columns and putting them in the order of (entity, time), and nothing else.

    The file is in time order, so two stable passes over halves of the entity's code are enough.
    """
    events = data.events_file(options)
    pa.set_cpu_count(options.threads)

    def job() -> int:
        table = pq.read_table(events, columns=COLUMNS).combine_chunks()
        codes = pc.dictionary_encode(table["entity"].chunk(0)).indices.to_numpy()
        order = np.argsort((codes & 0xFFFF).astype(np.uint16), kind="stable")
        order = order[np.argsort((codes >> 16).astype(np.uint16)[order], kind="stable")]
        taken = [
            np.take(table[name].chunk(0).to_numpy(zero_copy_only=False), order)
            for name in ("happened", "amount", "settled")
        ]
        return len(taken[0])

    return job


def by_windows(options: argparse.Namespace) -> Callable[[], pa.Table]:
    """DuckDB's window functions over the union of events and labels."""
    events, labels = data.events_file(options), data.labels_file(options)
    windows = ", ".join(
        f"w{name} as (partition by entity order by happened range between interval "
        f"{seconds * 1_000_000 - 1} microseconds preceding and current row)"
        for name, seconds in SECONDS.items()
    )
    outputs = ", ".join(
        f"{what.replace('*', 'event')} over w{name} as {output}_{name}"
        for name in SECONDS
        for output, what in {**OUTPUTS, "settled": "sum(kept)"}.items()
    )
    query = f"""
        with both_kinds as (
            select entity, happened, amount, case when settled then amount end as kept, 1 as event,
                   null::bigint as label
            from read_parquet('{events}')
            union all
            select entity, t, null, null, null, row_number() over () from read_parquet('{labels}'))
        select * exclude (entity, happened, amount, kept, event) from (
            select *, {outputs} from both_kinds window {windows})
        where label is not null
    """
    return lambda: connect(options).sql(query).to_arrow_table()


def by_join(options: argparse.Namespace) -> Callable[[], pa.Table]:
    """The best single SQL plan known to us: a range join bucketed by 30 days, then one group by."""
    events, labels = data.events_file(options), data.labels_file(options)
    outputs = ", ".join(
        f"{what} filter (where gap < {seconds} and entity is not null) as {output}_{name}"
        for name, seconds in SECONDS.items()
        for output, what in OUTPUTS.items()
    )
    outputs += "".join(
        f", sum(amount) filter (where gap < {seconds} and settled) as settled_{name}"
        for name, seconds in SECONDS.items()
    )
    month = SECONDS["30d"]
    query = f"""
        with l as (select row_number() over () as label, entity, epoch(t)::bigint as t,
                          epoch(t)::bigint // {month} as b from read_parquet('{labels}')),
             l2 as (select *, b as bucket from l union all select *, b - 1 from l),
             e as (select entity, epoch(happened)::bigint as s,
                          epoch(happened)::bigint // {month} as bucket, amount, settled
                   from read_parquet('{events}')),
             j as (select l2.label, l2.t - e.s as gap, e.entity, e.amount, e.settled
                   from l2 join e on l2.entity = e.entity and l2.bucket = e.bucket
                        and e.s <= l2.t and e.s > l2.t - {month})
        select label, {outputs} from j group by label
    """
    return lambda: connect(options).sql(query).to_arrow_table()


def hot(options: argparse.Namespace) -> Callable[[], pa.Table]:
    """One entity that has every event and every label."""
    return training(options, "windows", hot=True)


CONTENDERS = {
    "read and order": floor,
    "Tidemark": lambda options: training(options, "windows"),
    "DuckDB range join": by_join,
    "DuckDB window functions": by_windows,
}
HOT = {"Tidemark": CONTENDERS["Tidemark"], "Tidemark, one hot entity": hot}

if __name__ == "__main__":
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--hot", action="store_true")
    options = parser.parse_args()
    for kind in (False, True) if options.hot else (False,):
        data.events_file(options, hot=kind)
        data.labels_file(options, hot=kind)
    chosen = HOT if options.hot else CONTENDERS
    harness.compare(
        "benchmarks.windows", chosen, options, sys.argv[1:], same_answer=not options.hot
    )
