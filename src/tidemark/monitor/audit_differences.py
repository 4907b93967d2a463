"""Values that differ, and the rows that have one: on the disk until their causes are looked for.

Whatever the size of the log, an audit holds one batch of it, and of what differs one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.serve.log.files import regrouped
from tidemark.serve.log.form import Column, Description

PART_ROWS = 20_000
"""Rows whose causes are looked for at once."""

EQUAL_ROWS = 40
"""Rows without a difference that a fault of a whole view must explain as well."""

STATES = 64
"""Online states (materializations of a view) whose faults are looked for."""

_WRITING = pa.ipc.IpcWriteOptions(compression="lz4")


class Differences:
    """The rows of one list of outputs that have a difference, and some that have none.

    A row has the columns of the log, and for each feature NAME also `offline.NAME`, what training
    computes, and `differs.NAME`.  `number` is its place among all rows that were compared.
    """

    def __init__(self, folder: Path, description: Description, columns: Sequence[Column]) -> None:
        self.description, self.columns = description, columns
        self.rows = 0
        self.seen = 0
        self._file = folder / f"{description.fingerprint}-{len(list(folder.iterdir()))}.arrow"
        self._out: pa.ipc.RecordBatchFileWriter | None = None
        self._closed = False
        self._right: list[pa.Table] = []
        self._rights: dict[str, dict[int | None, int]] = {each: {} for each in description.views}

    def add(
        self,
        rows: pa.Table,
        offline: Mapping[str, pa.ChunkedArray],
        differ: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Keep what differs of a batch; both mappings are by the column's name in the log."""
        wrong = np.logical_or.reduce(list(differ.values()))
        picked = np.flatnonzero(wrong)
        rights = self._picked(rows, ~wrong)
        if len(picked):
            table = self._table(rows, offline, differ, picked)
            out = self._out or pa.ipc.new_file(self._file, table.schema, options=_WRITING)
            out.write_table(table)
            self._out = out
            self.rows += len(picked)
        if len(rights):
            self._right.append(self._table(rows, offline, differ, rights))
        self.seen += len(rows)

    def parts(self) -> Iterator[pa.Table]:
        """The rows that differ, in their order, `PART_ROWS` at a time."""
        if self._out is None:
            return
        if not self._closed:
            self._out.close()
            self._closed = True
        with pa.memory_map(str(self._file)) as file, pa.ipc.open_file(file) as batches:
            read = (batches.get_batch(number) for number in range(batches.num_record_batches))
            tables = (pa.Table.from_batches([each]) for each in read)
            yield from regrouped(tables, PART_ROWS)

    def right(self) -> pa.Table | None:
        """The first rows without a difference, some of each online state."""
        return pa.concat_tables(self._right) if self._right else None

    def _table(
        self,
        rows: pa.Table,
        offline: Mapping[str, pa.ChunkedArray],
        differ: Mapping[str, NDArray[np.bool_]],
        picked: NDArray[np.int64],
    ) -> pa.Table:
        place = pa.array(picked)
        table = rows.take(place).append_column("number", _column(picked + self.seen))
        for name, values in offline.items():
            table = table.append_column(f"offline.{name}", values.take(place))
            table = table.append_column(f"differs.{name}", _column(differ[name][picked]))
        kept: pa.Table = table.replace_schema_metadata(None)
        return kept

    def _picked(self, rows: pa.Table, right: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Rows without a difference that are kept: the first ones of each state of each view."""
        picked: set[int] = set()
        for view, counted in self._rights.items():
            known = rows[f"known.{view}"].cast(pa.int64())
            for state in pc.unique(known).to_pylist():
                missing = EQUAL_ROWS - counted.get(state, 0)
                if missing <= 0 or (state not in counted and len(counted) >= STATES):
                    continue
                same = pc.is_null(known) if state is None else pc.equal(known, state)
                of_state = pc.fill_null(same, False).to_numpy()
                found = np.flatnonzero(right & of_state)[:missing].tolist()
                counted[state] = counted.get(state, 0) + len(found)
                picked.update(found)
        return np.array(sorted(picked), np.int64)


def _column(values: NDArray[Any]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


class Spool:
    """The differences of an audit, by list of outputs, in a folder that is removed at the end."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="tidemark-audit-")
        self.of: dict[Description, Differences] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._folder.cleanup()

    def differences(self, description: Description, columns: Sequence[Column]) -> Differences:
        """Where the differences of a list of outputs are kept."""
        if description not in self.of:
            self.of[description] = Differences(Path(self._folder.name), description, columns)
        return self.of[description]


def differing(served: pa.ChunkedArray, offline: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which values are not equal by their bits, bool[n]; nulls are equal, and so are NaNs."""
    here, there = valid(served), valid(offline)
    unequal: NDArray[np.bool_] = here != there
    both: NDArray[np.bool_] = here & there
    type_ = served.type
    if pa.types.is_floating(type_) and pa.types.is_floating(offline.type):
        left, right = (pc.fill_null(each, 0.0).to_numpy() for each in (served, offline))
        differ = (left.view(np.int64) != right.view(np.int64)) & ~(np.isnan(left) & np.isnan(right))
        other: NDArray[np.bool_] = differ.astype(np.bool_)
        return unequal | (both & other)
    if _is_list(type_) and _is_list(offline.type):
        return unequal | (both & _lists_differ(served, offline, both))
    if type_ != offline.type:  # it was of another type then: nothing of it is the same
        return unequal | both
    told = pc.fill_null(pc.not_equal(served, offline), False)
    flags: NDArray[np.bool_] = told.to_numpy(zero_copy_only=False)
    return unequal | flags


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_))


def _lists_differ(
    served: pa.ChunkedArray, offline: pa.ChunkedArray, both: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which lists differ, in their lengths or in an item."""
    lengths = [pc.fill_null(pc.list_value_length(each), 0).to_numpy() for each in (served, offline)]
    differ: NDArray[np.bool_] = lengths[0] != lengths[1]
    alike = np.flatnonzero(both & ~differ & (lengths[0] > 0))
    if len(alike):
        taken = pa.array(alike)
        items = [pc.list_flatten(each.take(taken)) for each in (served, offline)]
        ends = np.cumsum(lengths[0][alike])
        differ[alike] = np.logical_or.reduceat(differing(*items), ends - lengths[0][alike])
    return differ


def valid(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which values are not null, bool[n]."""
    flags: NDArray[np.bool_] = column.is_valid().to_numpy()
    return flags
