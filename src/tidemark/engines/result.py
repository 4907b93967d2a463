"""What a training set is to its user: a table in the frame of their choice, and a report on it."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemark.errors import RequestInvalid

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    import polars as pl


@dataclass
class Report:
    """What was met while a training set was made.

    `nulls` counts by feature; by view, `coincident` counts label rows that fall exactly on an event
    of their own entity, `events` the rows that were read, and `unattributed` those among them that
    have a null key.  `seconds` are wall time by view and `in all`.
    """

    rows: int = 0
    nulls: dict[str, int] = field(default_factory=dict[str, int])
    coincident: dict[str, int] = field(default_factory=dict[str, int])
    events: dict[str, int] = field(default_factory=dict[str, int])
    unattributed: dict[str, int] = field(default_factory=dict[str, int])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __str__(self) -> str:
        lines = [f"{self.rows:,} rows x {len(self.nulls)} features"]
        lines[0] += f" in {self.seconds.get('in all', 0.0):.1f} s"
        for view, events in self.events.items():
            line = f"  {view}: {events:,} events read"
            if self.unattributed[view]:
                line += f", {self.unattributed[view]:,} without a key"
            if self.coincident[view]:
                line += f"; {self.coincident[view]:,} labels at the very moment of an event"
            lines.append(line)
        if any(self.coincident.values()):
            lines.append(
                '  Such an event counts in its own label; bound="before" on the view leaves it out.'
            )
        for name, count in self.nulls.items():
            if count:
                lines.append(f"  {name}: {count:,} null ({count / max(self.rows, 1):.1%})")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class TrainingSet:
    """Label rows, unchanged and in the caller's order, followed by their features."""

    table: pa.Table
    report: Report
    features: tuple[str, ...]

    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.table

    def to_pandas(self) -> pd.DataFrame:
        """As a pandas frame; whole numbers and bools with nulls have pandas' nullable types."""
        frame = self.table.to_pandas()
        for name, column in zip(self.table.column_names, self.table.columns, strict=True):
            nullable = _nullable(column)
            if nullable is not None:
                frame[name] = column.to_pandas(types_mapper={column.type: nullable}.get)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """As a Polars frame."""
        import polars as pl

        return pl.DataFrame(self.table)

    def write_parquet(self, path: str | Path) -> Path:
        """Write a Parquet file, which appears whole or not at all; raises `RequestInvalid`."""
        target = Path(path)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            pq.write_table(self.table, part)
            os.replace(part, target)  # noqa: PTH105 - the whole point
        except (OSError, pa.ArrowException) as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise RequestInvalid(f"{target} cannot be written: {error}") from error
        return target

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        labels = [name for name in self.table.column_names if name not in self.features]
        return (
            f"TrainingSet: {self.report}\n"
            f"  labels: {', '.join(labels)}\n"
            f"  features: {', '.join(self.features)}"
        )


def _nullable(column: pa.ChunkedArray) -> Any:
    """The pandas type of a column that pandas would otherwise turn into floats or objects."""
    whole = pa.types.is_integer(column.type)
    if not column.null_count or not (whole or pa.types.is_boolean(column.type)):
        return None
    import pandas as pd

    if not whole:
        return pd.BooleanDtype()
    return getattr(pd, str(column.type).replace("i", "I").replace("u", "U") + "Dtype")()
