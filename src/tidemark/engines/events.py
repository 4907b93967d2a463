"""The events of some entities in order, found by reading keys and times only.

Values are read afterwards, each column into its place (`Events.slots`) or, where only few are asked
for, by the number of their row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines import ordering
from tidemark.engines.duckdb import BATCH_ROWS
from tidemark.engines.histories import SEEN, Relation
from tidemark.engines.keys import Keys
from tidemark.engines.versions import IDENTITY, UNTIL, Versions
from tidemark.errors import EngineError
from tidemark.kernel import Timeline
from tidemark.model.graph import FeatureView

Words = NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
ALWAYS = -(2**63) + 1
"""The time of the facts of a timeless source."""


EVENT_BYTES = 48
"""What one event takes while it is being put in order."""

_TIED_COLUMNS = 2
_TAKEN_COLUMNS = 4  # each column that is read at once holds a share of a row group


@dataclass(frozen=True)
class Span:
    """Which events can matter: times in [low, high] and, if `seen`, seen by `known_by`."""

    low: int = ALWAYS
    high: int = NEVER
    known_by: int = NEVER
    seen: bool = True


@dataclass(frozen=True)
class Scan:
    """A reading of a relation that gives the same rows each time: its parts under a condition."""

    relation: Relation
    where: str = ""

    def read(
        self, columns: Mapping[str, str], rows: int = BATCH_ROWS
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of expressions with the number of their first row."""
        first = 0
        for batch in self.relation.read(columns, self.where, rows):
            yield first, batch
            first += batch.num_rows

    def take(
        self, rows: Sequence[NDArray[Any]], columns: Mapping[str, str]
    ) -> dict[str, pa.ChunkedArray]:
        """The values of columns in some rows: for each column, its own row numbers, ascending."""
        taken: dict[str, pa.ChunkedArray] = {}
        names = list(columns)
        for begin in range(0, len(names), _TAKEN_COLUMNS):
            together = names[begin : begin + _TAKEN_COLUMNS]
            wanted = rows[begin : begin + _TAKEN_COLUMNS]
            taken |= self._take(wanted, {name: columns[name] for name in together})
        return taken

    def _take(
        self, rows: Sequence[NDArray[Any]], columns: Mapping[str, str]
    ) -> dict[str, pa.ChunkedArray]:
        chunks: dict[str, list[pa.Array]] = {name: [] for name in columns}
        types: dict[str, pa.DataType] = {}
        for first, batch in self.read(columns):
            for place, (name, wanted) in enumerate(zip(columns, rows, strict=True)):
                types[name] = batch.schema.field(place).type
                low, high = np.searchsorted(wanted, [first, first + batch.num_rows])
                if low < high:
                    column = batch.column(place)
                    chunks[name].append(column.take(pa.array(wanted[low:high] - first)))
        return {
            name: pa.chunked_array(chunks[name], types.get(name, pa.null())) for name in columns
        }


@dataclass(frozen=True)
class Events:
    """Events in their total order, segment by segment.

    `rows` holds the number of each event's row in the scan, `scanned` the number of rows in it,
    `unattributed` how many events of the span belong to nobody, since a key is null.
    """

    scan: Scan
    timeline: Timeline
    rows: NDArray[Any]
    scanned: int
    unattributed: int

    def known(self) -> Words:
        """The moment from which each event counts."""
        known = self.timeline.known
        return self.timeline.time if known is None else known

    def slots(self) -> NDArray[Any]:
        """The place of each row of the scan in the timeline, -1 for a row that is not in it."""
        slots = np.full(self.scanned, -1, self.rows.dtype)
        slots[self.rows] = np.arange(len(self.rows), dtype=self.rows.dtype)
        return slots

    def check_unchanged(self, read: int) -> None:
        """Raise `EngineError` where a later pass did not see as many rows as the first."""
        if read != self.scanned:
            raise EngineError(
                f"The history of {self.scan.relation.source.name} changed while it was read.",
                where=f"{self.scanned:,} rows at first, {read:,} rows later",
                remedy="Try again when nothing writes to it.",
            )


@dataclass
class _Read:
    """What the first pass keeps of each event."""

    codes: NDArray[np.int32]
    rows: NDArray[Any]
    time: NDArray[np.int64]
    seen: NDArray[np.int64] | None
    until: NDArray[np.int64] | None
    scanned: int
    unattributed: int


def key_groups(view: FeatureView, count: int) -> list[str]:
    """Conditions on the keys of a view's source that deal its entities into `count` groups.

    Group g holds the entities whose keys have the hash g modulo `count`.
    """
    keys = ", ".join(identifier(name) for name in view.keys)
    return [f"hash({keys}) % {count} = {group}" for group in range(count)] if count > 1 else [""]


def read_events(
    relation: Relation,
    versions: Versions | None,
    view: FeatureView,
    keys: Keys,
    span: Span,
    *,
    where: str = "",
    total: bool,
) -> Events:
    """The events of the entities of `keys` within a span, in order.

    `where` limits the rows (it must not depend on anything but the keys), `total` says whether
    events of one instant must be told apart.  Raises `EngineError` for an event without a time.
    """
    scan = Scan(
        versions.relation if versions else relation, _pushed(relation, versions, span, where)
    )
    read = _first_pass(scan, versions, view, keys, span)
    starts, order = ordering.by_segment(read.codes, read.time, len(keys))
    if total:
        _order_tied(scan, view, read, starts, order)
    time = read.time[order]
    known = None
    if read.seen is not None and span.seen:
        known = np.maximum(read.seen[order], time)
        known = None if np.array_equal(known, time) else known
    until = None if read.until is None else read.until[order]
    timeline = Timeline(starts, time, known, until)
    return Events(scan, timeline, read.rows[order], read.scanned, read.unattributed)


def _pushed(relation: Relation, versions: Versions | None, span: Span, where: str) -> str:
    """The condition under which rows are read at all, so that files can skip what is outside."""
    source = relation.source
    conditions = [where] if where else []
    if source.time is not None and versions is None:
        time = identifier(source.time)
        limits = [f"{time} >= make_timestamptz({span.low})"] if span.low > -(10**17) else []
        limits += [f"{time} <= make_timestamptz({span.high})"] if span.high < 10**17 else []
        if limits:
            conditions.append(f"(({' AND '.join(limits)}) OR {time} IS NULL)")
    return " AND ".join(conditions)


def _first_pass(
    scan: Scan, versions: Versions | None, view: FeatureView, keys: Keys, span: Span
) -> _Read:
    source = scan.relation.source
    logged = scan.relation.logged
    has_seen = logged or source.seen is not None or (span.seen and source.delay > 0)
    columns = {f"key_{i}": identifier(name) for i, name in enumerate(view.keys)}
    if source.time is not None:
        columns["time"] = identifier(source.time)
    if logged:
        columns["seen"] = SEEN
    elif source.seen is not None:
        columns["seen"] = identifier(source.seen)
    if versions is not None:
        columns |= {"identity": IDENTITY, "until": UNTIL}
    kept: dict[str, list[NDArray[Any]]] = {
        "codes": [],
        "rows": [],
        "time": [],
        "seen": [],
        "until": [],
    }
    scanned, unattributed = 0, 0
    for first, batch in scan.read(columns, keys.batch_rows):
        scanned += batch.num_rows
        theirs = [batch.column(i) for i in range(len(view.keys))]
        codes = keys.find(theirs)
        keep = np.ones(batch.num_rows, np.bool_)
        time = np.full(batch.num_rows, ALWAYS, np.int64)
        if source.time is not None:
            time = _instants(batch.column("time"), source.name, source.time)
            keep &= (time >= span.low) & (time <= span.high)
        if "seen" in columns:
            seen = _instants(batch.column("seen"), source.name, source.seen or SEEN)
        elif source.delay:
            seen = time + source.delay
        else:
            seen = time
        if span.seen and source.time is not None:
            keep &= seen <= span.known_by
        if versions is not None:
            keep &= _current(batch.column("identity"), versions.replaced)
            until = batch.column("until").fill_null(NEVER).to_numpy()
            unattributed += _count_null(theirs, keep & (until > span.known_by))
            kept["until"].append(until[keep & (codes >= 0)])
        else:
            unattributed += _count_null(theirs, keep)
        keep &= codes >= 0
        kept["codes"].append(codes[keep])
        rows = np.flatnonzero(keep) + first
        kept["rows"].append(rows.astype(np.int32) if scanned < 2**31 else rows)
        kept["time"].append(time[keep])
        if has_seen:
            kept["seen"].append(seen[keep])
    row_type = np.int32 if scanned < 2**31 else np.int64
    return _Read(
        _joined(kept["codes"], np.int32),
        _joined(kept["rows"], row_type),
        _joined(kept["time"], np.int64),
        _joined(kept["seen"], np.int64) if has_seen else None,
        _joined(kept["until"], np.int64) if versions is not None else None,
        scanned,
        unattributed,
    )


def _joined(chunks: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """One array of the chunks, each of which is released as soon as it is copied."""
    whole = np.empty(sum(map(len, chunks)), dtype)
    end = len(whole)
    while chunks:
        chunk = chunks.pop()
        whole[end - len(chunk) : end] = chunk
        end -= len(chunk)
    return whole


def _count_null(columns: Sequence[pa.Array], among: NDArray[np.bool_]) -> int:
    """How many rows among some have a null in one of the columns."""
    if not any(column.null_count for column in columns):
        return 0
    nulls = [column.is_null().to_numpy(zero_copy_only=False) for column in columns]
    return int((np.logical_or.reduce(nulls) & among).sum())


def _instants(column: pa.Array, source: str, name: str) -> NDArray[np.int64]:
    if column.null_count:
        raise EngineError(
            f"{source}.{name} is null in {column.null_count} or more rows.",
            remedy="An event needs a time: leave such rows out in a query, or fill the column.",
        )
    micros: NDArray[np.int64] = column.view(pa.int64()).to_numpy()
    return micros


def _current(identity: pa.Array, replaced: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows are not replaced by the versions of their event."""
    hashes: NDArray[np.uint64] = identity.fill_null(0).to_numpy()
    places = np.minimum(np.searchsorted(replaced, hashes), len(replaced) - 1)
    own: NDArray[np.bool_] = identity.is_null().to_numpy(zero_copy_only=False)
    superseded: NDArray[np.bool_] = replaced[places] == hashes
    return ~superseded | own


def _order_tied(
    scan: Scan,
    view: FeatureView,
    read: _Read,
    starts: NDArray[np.int64],
    order: NDArray[Any],
) -> None:
    """Order the events of one entity and instant by what else tells them apart, in place.

    Columns are read a few at a time, as long as there are events that all before them leave equal.
    """
    source = scan.relation.source
    places, groups = ordering.tied(starts, read.time[order])
    if read.seen is not None and len(places):
        places, groups = _split(order, places, groups, [read.seen[order[places]]])
    # In the log, an event was seen when it came, whatever its own column says.
    same = {*view.keys, source.time, None if scan.relation.logged else source.seen}
    names = dict.fromkeys([*source.unique, *(column.name for column in source.columns)])
    left = [name for name in names if name not in same]
    while left and len(places):
        columns = {name: identifier(name) for name in left[:_TIED_COLUMNS]}
        left = left[_TIED_COLUMNS:]
        ascending, back = np.unique(read.rows[order[places]], return_inverse=True)
        values = scan.take([ascending] * len(columns), columns)
        keys = [
            key[back]
            for column in values.values()
            for key in ordering.sort_keys(column.combine_chunks())
        ]
        places, groups = _split(order, places, groups, keys)


def _split(
    order: NDArray[Any], places: Words, groups: Words, keys: Sequence[NDArray[Any]]
) -> tuple[Words, Words]:
    """Sort the events at `places` by keys within their groups; gives those that are still equal."""
    sorting = np.lexsort([*keys[::-1], groups])
    order[places] = order[places][sorting]
    changes = np.zeros(len(places), np.bool_)
    changes[0] = True
    for key in [groups, *keys]:
        ordered = key[sorting]
        changes[1:] |= ordered[1:] != ordered[:-1]
    finer = np.cumsum(changes, dtype=np.int64)
    alone = changes & np.append(changes[1:], True)
    return places[~alone], finer[~alone]
