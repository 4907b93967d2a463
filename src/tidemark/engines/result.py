"""What a training set is to its user: a table in the frame of their choice, and a report on it."""

from __future__ import annotations

import contextlib
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemark.engines.labels import read_labels
from tidemark.engines.splits import PARTS, By, Moments, SplitPlan, SplitReport, assign
from tidemark.errors import RequestInvalid
from tidemark.model.plural import counted

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    import polars as pl


@dataclass
class Report:
    """What was met while a training set was made.

    `nulls` counts by feature; by view, `coincident` counts label rows that fall exactly on an event
    of their own entity, `events` the rows that were read, and `unattributed` the events that belong
    to nobody, since a key is null.  These are counted in the time that the features' windows reach;
    what `materialize` returns counts them in the whole history.  `disagreeing` counts, by source,
    the events that history and event log both hold with different content in the end.  `seconds`
    are wall time by view and `in all`.
    """

    rows: int = 0
    nulls: dict[str, int] = field(default_factory=dict[str, int])
    coincident: dict[str, int] = field(default_factory=dict[str, int])
    events: dict[str, int] = field(default_factory=dict[str, int])
    unattributed: dict[str, int] = field(default_factory=dict[str, int])
    disagreeing: dict[str, int] = field(default_factory=dict[str, int])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __str__(self) -> str:
        lines = [f"{counted(self.rows, 'row')} x {counted(len(self.nulls), 'feature')}"]
        lines[0] += f" in {self.seconds.get('in all', 0.0):.1f} s"
        for view, events in self.events.items():
            line = f"  {view}: {counted(events, 'event')} read"
            if self.unattributed[view]:
                line += f", {self.unattributed[view]:,} without a key"
            if self.coincident[view]:
                line += (
                    f"; {counted(self.coincident[view], 'label')} at the very moment of an event"
                )
            lines.append(line)
        if any(self.coincident.values()):
            lines.append(
                '  Such an event counts in its own label; bound="before" on the view leaves it out.'
            )
        for source, count in self.disagreeing.items():
            what = counted(count, "event")
            lines.append(f"  {source}: history and event log disagree about {what}")
        for name, count in self.nulls.items():
            if count:
                lines.append(f"  {name}: {count:,} null ({count / max(self.rows, 1):.1%})")
        return "\n".join(lines)


@dataclass(frozen=True)
class Spine:
    """Where the rows of a training set say whom and when: by entity its key columns, and the time.

    `timezone` is the zone of a time that carries none.
    """

    time: str
    timezone: str | None
    entities: Mapping[str, tuple[str, ...]]


class Rows(ABC):
    """Label rows with their features, in the frame of the user's choice."""

    spine: Spine

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""

    def to_pandas(self) -> pd.DataFrame:
        """As a pandas frame; whole numbers and bools with nulls have pandas' nullable types."""
        table = self.to_arrow()
        frame = table.to_pandas()
        for name, column in zip(table.column_names, table.columns, strict=True):
            nullable = _nullable(column)
            if nullable is not None:
                frame[name] = column.to_pandas(types_mapper={column.type: nullable}.get)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """As a Polars frame."""
        import polars as pl

        return pl.DataFrame(self.to_arrow())

    def write_parquet(self, path: str | Path) -> Path:
        """Write a Parquet file, which appears whole or not at all; raises `RequestInvalid`."""
        target = Path(path)
        if not target.parent.is_dir():
            raise RequestInvalid(
                f"There is no directory {target.parent}.",
                remedy=f"Make it: mkdir -p {target.parent}",
            )
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            pq.write_table(self.to_arrow(), part)
            os.replace(part, target)  # noqa: PTH105 - the whole point
        except (OSError, pa.ArrowException) as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise RequestInvalid(f"{target} cannot be written: {error}") from error
        return target

    def split(
        self,
        fraction: float | tuple[float, float] | None = None,
        *,
        time: Moments | None = None,
        by: By = "time",
        gap: str | timedelta = "",
        seed: int = 0,
        entity: str | None = None,
    ) -> Split:
        """The rows as train, validation and test; each keeps the order of the rows.

        By `time`, test is the last `fraction` of the rows, or those from the moment `time` on;
        labels within `gap` before a cut are left out, as their outcome may lie after it.  By
        `entity`, all rows of one are in one part.  At `random`, rows of one entity and moment are.
        Pairs are of validation and test; a single number or moment is of test.  Raises
        `RequestInvalid`.
        """
        plan = SplitPlan.of(fraction, time=time, by=by, gap=gap, seed=seed, entity=entity)
        return split_rows(self.to_arrow(), self.spine, plan)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return self.to_arrow().num_rows


@dataclass(frozen=True, repr=False)
class TrainingSet(Rows):
    """Label rows, unchanged and in the caller's order, followed by their features."""

    table: pa.Table
    report: Report
    features: tuple[str, ...]
    spine: Spine

    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.table

    def __repr__(self) -> str:
        labels = [name for name in self.table.column_names if name not in self.features]
        return (
            f"TrainingSet: {self.report}\n"
            f"  labels: {', '.join(labels)}\n"
            f"  features: {', '.join(self.features)}"
        )


@dataclass(frozen=True, repr=False)
class Part(Rows):
    """Some rows of a training set, which can be split again."""

    table: pa.Table
    spine: Spine

    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.table

    def __repr__(self) -> str:
        return f"Part: {self.table.num_rows:,} rows"


@dataclass(frozen=True, repr=False)
class Split:
    """The parts of a training set, and what was found when they were compared."""

    train: Part
    validation: Part
    test: Part
    report: SplitReport

    def __repr__(self) -> str:
        return str(self.report)


def split_rows(table: pa.Table, spine: Spine, plan: SplitPlan) -> Split:
    """The parts of a table as planned; raises `RequestInvalid`."""
    t = read_labels(table, time=spine.time, timezone=spine.timezone).t
    keys = {
        name: [table.column(column) for column in columns]
        for name, columns in spine.entities.items()
    }
    codes, report = assign(t, keys, plan)
    train, validation, test = (
        Part(table.take(pa.array(np.flatnonzero(codes == place))), spine)
        for place in range(len(PARTS))
    )
    return Split(train, validation, test, report)


def _nullable(column: pa.ChunkedArray) -> Any:
    """The pandas type of a column that pandas would otherwise turn into floats or objects."""
    whole = pa.types.is_integer(column.type)
    if not column.null_count or not (whole or pa.types.is_boolean(column.type)):
        return None
    import pandas as pd

    if not whole:
        return pd.BooleanDtype()
    return getattr(pd, str(column.type).replace("i", "I").replace("u", "U") + "Dtype")()
