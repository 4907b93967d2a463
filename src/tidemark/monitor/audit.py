"""The audit: what was served, computed again by the path of training, and compared value by value.

The rows of the serving log are label rows: their keys and their moments are given to the same
function that makes training sets.  Values are compared by their bits; NaN equals NaN, and null
null.  What differs is given a cause by `audit_causes`.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines.arrow import arrow_type
from tidemark.engines.sources import open_source
from tidemark.engines.training import training_set
from tidemark.errors import NotFound
from tidemark.model.graph import Definitions, Output, parse_reference
from tidemark.model.types import parse_type
from tidemark.model.window import format_moment
from tidemark.monitor.audit_causes import Block, Case, causes
from tidemark.serve.log.form import Column, Description

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.serve.log.masking import Mask

EXAMINED = 30
"""Differences of one feature whose causes are looked for; further ones are counted only."""

_TIME = "tidemark moment"


class Compared(msgspec.Struct, frozen=True):
    """A feature: how many values were compared, and how many are not equal, in which way.

    `missing` were served as null and are not, `extra` were served and are null, `different` are two
    values.
    """

    feature: str
    compared: int
    equal: int
    missing: int
    extra: int
    different: int
    causes: dict[str, int] = {}

    @property
    def differing(self) -> int:
        """Values that are not equal."""
        return self.compared - self.equal


class Difference(msgspec.Struct, frozen=True):
    """A value that was served and is computed otherwise, where, and why."""

    feature: str
    request_id: str
    service: str
    keys: dict[str, Any]
    at: str
    served: Any
    offline: Any
    cause: str
    detail: str

    def __str__(self) -> str:
        keys = ", ".join(f"{name}={value!r}" for name, value in self.keys.items())
        return (
            f"{self.feature} of {keys or 'nobody in particular'} at {self.at}: served "
            f"{self.served!r}, offline {self.offline!r}\n    {self.cause}: {self.detail}\n"
            f"    request {self.request_id} of {self.service}"
        )


class Audit(msgspec.Struct, frozen=True):
    """What an audit found.

    `first` is the first difference of each feature.  `unread` rows could not be computed again, as
    who a masked key is cannot be told; `left_out` features neither, each with the reason.
    """

    at: str
    since: str
    until: str
    service: str | None
    requests: int
    rows: int
    compared: int
    equal: int
    features: tuple[Compared, ...]
    first: tuple[Difference, ...]
    unread: int
    left_out: dict[str, str]
    seconds: float

    @property
    def differing(self) -> int:
        """Values that are not equal."""
        return self.compared - self.equal

    @property
    def causes(self) -> dict[str, int]:
        """How many differences have which cause."""
        counted: Counter[str] = Counter()
        for each in self.features:
            counted.update(each.causes)
        return dict(counted.most_common())

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        facts: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        return facts | {"differing": self.differing, "causes": self.causes}

    def __str__(self) -> str:
        lines = [
            f"{self.compared:,} values of {self.requests:,} requests, {self.differing:,} differ"
        ]
        lines[0] += f" ({self.since} to {self.until}, {self.seconds:.1f} s)"
        for each in self.features:
            if each.differing:
                ways = {"missing": each.missing, "extra": each.extra, "different": each.different}
                told = ", ".join(f"{count:,} {way}" for way, count in ways.items() if count)
                why = ", ".join(f"{cause} {count:,}" for cause, count in each.causes.items())
                lines.append(f"  {each.feature}: {told} of {each.compared:,} ({why})")
        lines += [f"  first: {each}" for each in self.first[:1]]
        if self.unread:
            lines.append(f"  {self.unread:,} rows have masked keys that no history holds")
        lines += [f"  not compared: {name}, {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)


def audit(
    engine: DuckDB,
    definitions: Definitions,
    functions: Callable[[Sequence[Output]], Mapping[str, Callable[..., Any]]],
    blocks: Sequence[tuple[Description, pa.Table]],
    mask: Mask | None,
    *,
    span: tuple[int, int],
    service: str | None = None,
    sample: float = 1.0,
    left_out: Mapping[str, str] | None = None,
) -> Audit:
    """Compute again what the rows of the log say was served, and compare.

    `functions` gives those of on-demand features.  `sample` is the share of requests, the same ones
    at every call; `left_out` are features that could not even be read.  Raises what reading
    history raises.
    """
    began = time.perf_counter()
    run = _Run(engine, definitions, functions, mask)
    for description, rows in blocks:
        run.block(description, rows if sample >= 1 else rows.filter(_chosen(rows, sample)))
    features = tuple(run.compared[name] for name in sorted(run.compared))
    return Audit(
        at=format_moment(time.time_ns() // 1_000),
        since=_said(span[0]),
        until=_said(span[1]),
        service=service,
        requests=len(run.requests),
        rows=run.rows,
        compared=sum(each.compared for each in features),
        equal=sum(each.equal for each in features),
        features=features,
        first=tuple(run.first.values()),
        unread=run.unread,
        left_out={**(left_out or {}), **run.left_out},
        seconds=time.perf_counter() - began,
    )


class _Run:
    """The comparison of all blocks, added up."""

    def __init__(
        self,
        engine: DuckDB,
        definitions: Definitions,
        functions: Callable[[Sequence[Output]], Mapping[str, Callable[..., Any]]],
        mask: Mask | None,
    ) -> None:
        self._engine, self._definitions, self._functions = engine, definitions, functions
        self._mask = mask
        self.compared: dict[str, Compared] = {}
        self.first: dict[str, Difference] = {}
        self.left_out: dict[str, str] = {}
        self.requests: set[str] = set()
        self.rows = self.unread = 0

    def block(self, description: Description, rows: pa.Table) -> None:
        """Compare the rows of one list of outputs."""
        rows = self._plain_keys(description, rows)
        if not rows.num_rows:
            return
        self.rows += rows.num_rows
        self.requests.update(rows["request_id"].unique().to_pylist())
        columns = [each for each in description.features if self._computable(description, each)]
        outputs = [
            Output(f"tidemark {place}", parse_reference(each.reference))
            for place, each in enumerate(columns)
        ]
        computed = training_set(
            self._engine,
            self._definitions,
            self._functions(outputs),
            outputs,
            _labels(description, rows),
            time=_TIME,
        ).to_arrow()
        differing: dict[str, NDArray[np.int64]] = {}
        offline: dict[str, pa.ChunkedArray] = {}
        for column, output in zip(columns, outputs, strict=True):
            again = computed[output.name]
            if column.masked and self._mask is not None:
                told = self._mask.values(again.to_pylist(), parse_type(column.type))
                again = pa.chunked_array([pa.array(told, pa.string())])
            offline[column.reference] = again
            differing[column.reference] = self._compare(column, rows, again)
        if any(len(each) for each in differing.values()):
            self._explain(Block(description, rows, columns, offline, differing))

    def _compare(self, column: Column, rows: pa.Table, again: pa.ChunkedArray) -> NDArray[np.int64]:
        """Count the values of a column; gives the rows that differ."""
        served = rows[f"value.{column.name}"]
        here, there = _valid(served), _valid(again)
        missing, extra = int((~here & there).sum()), int((here & ~there).sum())
        differ = differing(served, again)
        n = len(differ)
        unequal = int(differ.sum())
        before = self.compared.get(column.reference, Compared(column.reference, 0, 0, 0, 0, 0))
        self.compared[column.reference] = Compared(
            column.reference,
            before.compared + n,
            before.equal + n - unequal,
            before.missing + missing,
            before.extra + extra,
            before.different + unequal - missing - extra,
            before.causes,
        )
        return np.flatnonzero(differ)

    def _explain(self, block: Block) -> None:
        chosen = {name: rows[:EXAMINED] for name, rows in block.differing.items() if len(rows)}
        found = causes(self._engine, self._definitions, block, chosen)
        for reference, rows in chosen.items():
            counted = Counter(found[reference, row].cause for row in rows.tolist())
            rest = len(block.differing[reference]) - len(rows)
            if rest:
                counted["not examined"] += rest
            before = self.compared[reference]
            total = Counter(before.causes) + counted
            self.compared[reference] = msgspec.structs.replace(
                before, causes=dict(total.most_common())
            )
            if reference not in self.first:
                row = int(rows[0])
                self.first[reference] = _difference(block, reference, row, found[reference, row])

    def _computable(self, description: Description, column: Column) -> bool:
        """Whether a feature can be computed again; if not, why is kept."""
        reference = parse_reference(column.reference)
        try:
            needed = self._definitions.needed([reference])
            self._definitions.type_of(reference)
        except NotFound as error:
            self.left_out[column.reference] = error.what
            return False
        hidden = {each.reference for each in description.request if each.masked}
        masked = [str(each) for each in needed if str(each) in hidden]
        if masked:
            self.left_out[column.reference] = f"{masked[0]} is masked"
        return not masked

    def _plain_keys(self, description: Description, rows: pa.Table) -> pa.Table:
        """The rows with their keys as they were given; those that nobody can be told are left."""
        for key in description.keys:
            if not key.masked or self._mask is None:
                continue
            values = self._known(key)
            names = pa.array(self._mask.values(values.to_pylist(), parse_type(key.type)))
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
                    relation = open_source(self._engine, self._definitions.source(view.source))
                    parts = " UNION ALL ".join(f"({part})" for part in relation.parts)
                    column = identifier(name)
                    query = f"SELECT DISTINCT {column} FROM ({parts}) WHERE {column} IS NOT NULL"
                    found.append(relation.table(query).column(0).cast(arrow_type(field.type)))
                    relation.close()
        chunks = [chunk for each in found for chunk in each.chunks]
        distinct: pa.Array = pa.chunked_array(chunks, arrow_type(parse_type(key.type))).unique()
        return distinct


def differing(served: pa.ChunkedArray, offline: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which values are not equal by their bits, bool[n]; nulls are equal, and so are NaNs."""
    here, there = _valid(served), _valid(offline)
    unequal: NDArray[np.bool_] = here != there
    both: NDArray[np.bool_] = here & there
    type_ = served.type
    if pa.types.is_floating(type_):
        left, right = (pc.fill_null(each, 0.0).to_numpy() for each in (served, offline))
        differ = (left.view(np.int64) != right.view(np.int64)) & ~(np.isnan(left) & np.isnan(right))
        other: NDArray[np.bool_] = differ.astype(np.bool_)
        return unequal | (both & other)
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return unequal | (both & _lists_differ(served, offline, both))
    told = pc.fill_null(pc.not_equal(served, offline.cast(type_)), False)
    flags: NDArray[np.bool_] = told.to_numpy(zero_copy_only=False)
    return unequal | flags


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


def _valid(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = column.is_valid().to_numpy()
    return flags


def _labels(description: Description, rows: pa.Table) -> pa.Table:
    """The rows as label rows."""
    columns = {each.name: rows[f"key.{each.name}"] for each in description.keys}
    for each in description.request:
        if not each.masked:
            columns[each.name] = rows[f"request.{each.name}"]
    return pa.table({**columns, _TIME: rows["at"]})


def _chosen(rows: pa.Table, share: float) -> pa.Array:
    """Whether the request of a row is in the sample."""
    names: list[str] = rows["request_id"].to_pylist()
    return pa.array([zlib.crc32(each.encode()) < share * 2**32 for each in names])


def _difference(block: Block, reference: str, row: int, case: Case) -> Difference:
    column = next(each for each in block.columns if each.reference == reference)
    rows = block.rows
    return Difference(
        reference,
        rows["request_id"][row].as_py(),
        block.description.target,
        {each.name: rows[f"key.{each.name}"][row].as_py() for each in block.description.keys},
        format_moment(rows["at"].cast(pa.int64())[row].as_py()),
        rows[f"value.{column.name}"][row].as_py(),
        block.offline[reference][row].as_py(),
        case.cause,
        case.detail,
    )


def _said(moment: int) -> str:
    if moment <= -(2**62):
        return "the beginning"
    return "now" if moment >= 2**62 else format_moment(moment)
