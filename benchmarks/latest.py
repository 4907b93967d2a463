"""The newest value of 10 columns: 10 M events, 1 M labels.

python -m benchmarks.latest
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks import data, harness
from benchmarks.tidemark_jobs import training


def reading(options: argparse.Namespace) -> Callable[[], pa.Table]:
    """The floor: reading the columns with pyarrow, and nothing else."""
    events, labels = data.events_file(options), data.labels_file(options)
    pa.set_cpu_count(options.threads)

    def job() -> int:
        columns = ["entity", "happened", *data.VALUES]
        return pq.read_table(events, columns=columns).num_rows + pq.read_table(labels).num_rows

    return job


def asof(options: argparse.Namespace) -> Callable[[], pa.Table]:
    """DuckDB's ASOF join; among tied events it returns any."""
    import duckdb

    events, labels = data.events_file(options), data.labels_file(options)
    database = duckdb.connect(config={"threads": options.threads, "memory_limit": options.memory})
    values = ", ".join(f"e.{name}" for name in data.VALUES)
    return lambda: database.sql(f"""
        select l.entity, l.t, {values} from read_parquet('{labels}') l
        asof left join read_parquet('{events}') e on l.entity = e.entity and l.t >= e.happened
    """).to_arrow_table()


CONTENDERS = {
    "pyarrow reads the columns": reading,
    "Tidemark": lambda options: training(options, "latest"),
    "DuckDB ASOF": asof,
}

if __name__ == "__main__":
    options = harness.arguments(__doc__ or "").parse_args()
    data.events_file(options)
    data.labels_file(options)
    # Among tied events DuckDB takes any, so that its answer changes from run to run.
    harness.compare("benchmarks.latest", CONTENDERS, options, sys.argv[1:], same_answer=False)
