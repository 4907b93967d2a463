"""The audit: what was served, computed again by the path of training, and compared value by value.

The rows of the serving log are label rows: their keys and their moments are given to the same
function that makes training sets, a batch of them at a time.  Values are compared by their bits;
NaN equals NaN, and null null.  What differs is kept on the disk until the log is read, and given a
cause then (`audit_causes`), so that what is found does not depend on how the log was cut.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines.arrow import arrow_type
from tidemark.engines.progress import Progress
from tidemark.engines.sources import open_source
from tidemark.engines.training import training_set
from tidemark.errors import NotFound
from tidemark.model.graph import Definitions, Output, parse_reference
from tidemark.model.types import parse_type
from tidemark.model.window import clock, format_moment
from tidemark.monitor.audit_causes import explain
from tidemark.monitor.audit_differences import Spool, differing, valid
from tidemark.monitor.audit_part import Tally, masked
from tidemark.monitor.audit_report import Audit, Compared, Difference, Forgotten
from tidemark.monitor.audit_retention import Deletions
from tidemark.serve.log.form import Column, Description

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.serve.log.masking import Mask

__all__ = ["Audit", "Compared", "Difference", "audit"]

BATCH_ROWS = 250_000
"""Rows of the log that are held at once; each batch reads history anew."""

_TIME = "tidemark moment"


class Functions(Protocol):
    """Gives the functions of outputs; with `edited`, those in place of what is there no more."""

    def __call__(
        self, outputs: Sequence[Output], *, edited: bool = False
    ) -> Mapping[str, Callable[..., Any]]:
        """Raises `NotFound` for code that is not there, edited or not."""
        ...


Blocks = Iterable[tuple[Description, pa.Table]]


def audit(
    engine: DuckDB,
    definitions: Definitions,
    functions: Functions,
    blocks: Blocks,
    mask: Mask | None,
    *,
    span: tuple[int, int],
    service: str | None = None,
    sample: float = 1.0,
    probe: int = 0,
    left_out: Mapping[str, str] | None = None,
    damaged: set[str] | None = None,
) -> Audit:
    """Compute again what the rows of the log say was served, and compare.

    `blocks` are rows of the log, those of one list of outputs one after another; the report does
    not depend on where they are cut.  `functions` gives those of on-demand features.  `sample` is
    the share of requests, the same ones at every call; of a `probe`, rows are those that were just
    read of so many entities; `left_out` are features that could not even be read; `damaged` is
    filled with files while `blocks` are read.  A value that differs is not counted if its events
    are not all there any more, as retention deleted some.  Raises what reading history raises.
    """
    began, now = time.perf_counter(), clock()
    tally = Tally()
    with Spool() as spool, Progress() as progress:
        run = _Run(engine, definitions, functions, mask, spool)
        for description, rows in blocks:
            progress.begin(f"audit of {description.target}", run.rows)
            run.batch(description, rows if sample >= 1 else rows.filter(_chosen(rows, sample)))
            progress.rows(len(rows))
        for differences in (each for each in spool.of.values() if each.rows):
            progress.begin(f"causes, {differences.description.target}")
            explain(engine, definitions, differences, tally, mask, run.edited, progress.rows)
    features = tuple(
        msgspec.structs.replace(run.compared[name], causes=dict(tally.causes[name].most_common()))
        for name in sorted(run.compared)
    )
    return Audit(
        at=format_moment(clock()),
        since="the beginning" if span[0] <= -(2**62) else format_moment(span[0]),
        until=format_moment(min(span[1], now)),
        service=service,
        requests=run.requests,
        rows=run.rows,
        compared=sum(each.compared for each in features),
        equal=sum(each.equal for each in features),
        features=features,
        first=tally.first(),
        unread=run.unread,
        left_out={**(left_out or {}), **run.left_out},
        lost=tuple(sorted(run.lost)),
        forgotten=tuple(run.forgotten[name] for name in sorted(run.forgotten)),
        seconds=time.perf_counter() - began,
        damaged=tuple(sorted(damaged or ())),
        sample=sample,
        probe=probe,
    )


class _Run:
    """The comparison of all batches, added up."""

    def __init__(
        self,
        engine: DuckDB,
        definitions: Definitions,
        functions: Functions,
        mask: Mask | None,
        spool: Spool,
    ) -> None:
        self._engine, self._definitions, self._functions = engine, definitions, functions
        self._mask, self._spool = mask, spool
        self._computable: dict[Description, list[Column]] = {}
        self._plain: dict[Column, tuple[pa.Array, pa.Array]] = {}
        self._deletions = Deletions(engine, definitions)
        self._last: tuple[Description, str, int] | None = None
        self.compared: dict[str, Compared] = {}
        self.left_out: dict[str, str] = {}
        self.lost: set[str] = set()
        self.edited: set[str] = set()
        self.forgotten: dict[str, Forgotten] = {}
        self.requests = self.rows = self.unread = 0

    def batch(self, description: Description, rows: pa.Table) -> None:
        """Compare some rows of one list of outputs."""
        rows = self._plain_keys(description, rows)
        if not rows.num_rows:
            return
        self.rows += rows.num_rows
        self._count_requests(description, rows)
        if description not in self._computable:
            self._computable[description] = [
                each for each in description.features if self._can_compute(description, each)
            ]
        columns = self._computable[description]
        if not columns:
            return
        outputs = _outputs(columns)
        computed = training_set(
            self._engine,
            self._definitions,
            self._functions(outputs, edited=True),
            outputs,
            _labels(description, rows),
            time=_TIME,
            quiet=True,
        ).to_arrow()
        offline: dict[str, pa.ChunkedArray] = {}
        differ: dict[str, NDArray[np.bool_]] = {}
        for column, output in zip(columns, outputs, strict=True):
            again = computed[output.name]
            if column.masked and self._mask is not None:
                again = masked(self._mask, column, again)
            offline[column.name] = again
            differ[column.name] = self._compare(column, rows, again)
        self._spool.differences(description, columns).add(rows, offline, differ)

    def _compare(self, column: Column, rows: pa.Table, again: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Count the values of a column; gives which of them differ."""
        served = rows[f"value.{column.name}"]
        differ = differing(served, again)
        forgotten = differ & self._deletions.reaches(column, rows)
        if forgotten.any():
            known = self.forgotten.get(column.reference)
            count = int(forgotten.sum()) + (known.values if known is not None else 0)
            self.forgotten[column.reference] = self._deletions.told(column, count)
            differ &= ~forgotten
        here, there = valid(served), valid(again)
        missing, extra = (int((differ & each).sum()) for each in (~here & there, here & ~there))
        n, unequal = int((~forgotten).sum()), int(differ.sum())
        before = self.compared.get(column.reference, Compared(column.reference, 0, 0, 0, 0, 0))
        self.compared[column.reference] = Compared(
            column.reference,
            before.compared + n,
            before.equal + n - unequal,
            before.missing + missing,
            before.extra + extra,
            before.different + unequal - missing - extra,
        )
        return differ

    def _count_requests(self, description: Description, rows: pa.Table) -> None:
        """Count requests: the rows of one stand together, also where two have the same id."""
        names = rows["request_id"]
        answered = rows["answered"].cast(pa.int64()).to_numpy()
        changed = answered[1:] != answered[:-1]
        if len(rows) > 1:
            other = pc.not_equal(names.slice(1), names.slice(0, len(rows) - 1))
            changed = changed | other.to_numpy()
        first = description, names[0].as_py(), int(answered[0])
        self.requests += int(changed.sum()) + (first != self._last)
        self._last = description, names[len(rows) - 1].as_py(), int(answered[-1])

    def _can_compute(self, description: Description, column: Column) -> bool:
        """Whether a feature can be computed again; if not, why is kept."""
        reference = parse_reference(column.reference)
        try:
            needed = self._definitions.needed([reference])
            self._definitions.type_of(reference)
        except NotFound as error:
            self.left_out[column.reference] = f"it is defined no more: {error.what}"
            return False
        hidden = {each.reference for each in description.request if each.masked}
        masked_ones = [str(each) for each in needed if str(each) in hidden]
        if masked_ones:
            self.left_out[column.reference] = f"{masked_ones[0]} is masked"
            return False
        try:
            self._functions(_outputs([column]))
        except NotFound:
            try:
                self._functions(_outputs([column]), edited=True)
            except NotFound as error:
                self.left_out[column.reference] = f"changed definition: {error.what}"
                self.lost.add(column.reference)
                return False
            self.edited.add(column.reference)
        return True

    def _plain_keys(self, description: Description, rows: pa.Table) -> pa.Table:
        """The rows with their keys as they were given; those that nobody can be told are left."""
        for key in description.keys:
            if not key.masked or self._mask is None:
                continue
            if key not in self._plain:
                values = self._known(key)
                told = self._mask.values(values.to_pylist(), parse_type(key.type))
                self._plain[key] = values, pa.array(told, pa.string())
            values, names = self._plain[key]
            place = pc.index_in(rows[f"key.{key.name}"], value_set=names)
            known = place.is_valid()
            self.unread += rows.num_rows - int(pc.sum(known).as_py() or 0)
            rows = rows.filter(known)
            plain = values.take(place.filter(known).combine_chunks())
            at = rows.schema.get_field_index(f"key.{key.name}")
            rows = rows.set_column(at, f"key.{key.name}", plain)
        return rows

    def _known(self, key: Column) -> pa.Array:
        """The distinct values of a key in the histories of all views that have it."""
        found: list[pa.ChunkedArray] = []
        for view in self._definitions.views:
            entity = self._definitions.entity(view.entity)
            for field, name in zip(entity.keys, view.keys, strict=True):
                if field.name == key.name:
                    source, column = self._definitions.source(view.source), identifier(name)
                    with closing(open_source(self._engine, source)) as relation:
                        query = (
                            f"SELECT DISTINCT {column} FROM {relation.rows} "
                            f"WHERE {column} IS NOT NULL"
                        )
                        found.append(relation.table(query).column(0).cast(arrow_type(field.type)))
        chunks = [chunk for each in found for chunk in each.chunks]
        distinct: pa.Array = pa.chunked_array(chunks, arrow_type(parse_type(key.type))).unique()
        return distinct


def _outputs(columns: Sequence[Column]) -> list[Output]:
    return [
        Output(f"tidemark {place}", parse_reference(each.reference))
        for place, each in enumerate(columns)
    ]


def _labels(description: Description, rows: pa.Table) -> pa.Table:
    """The rows as label rows."""
    columns = {each.name: rows[f"key.{each.name}"] for each in description.keys}
    for each in description.request:
        if not each.masked:
            columns[each.name] = rows[f"request.{each.name}"]
    return pa.table({**columns, _TIME: rows["at"]})


def _chosen(rows: pa.Table, share: float) -> pa.Array:
    """Whether the request of a row is in the sample."""
    names = rows["request_id"].combine_chunks().dictionary_encode()
    told: list[str] = names.dictionary.to_pylist()
    chosen = pa.array([zlib.crc32(each.encode()) < share * 2**32 for each in told], pa.bool_())
    return chosen.take(names.indices)
