"""The events behind rows of the serving log, and features computed from altered ones.

A case is the events of one entity, altered: without some, or with one twice.  The cases of a call
become one frame whose only key is the number of the case, the rows become its labels, and both go
through the same code as training does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from msgspec.structs import replace
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.histories import LOGGED, SEEN
from tidemark.engines.inventory import glance
from tidemark.engines.log import POSITION
from tidemark.engines.sources import open_source
from tidemark.engines.training import training_set
from tidemark.errors import TidemarkError
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureView,
    Field,
    Frame,
    Output,
    Reference,
    Source,
)
from tidemark.model.types import INT64, TIMESTAMP
from tidemark.model.window import format_moment
from tidemark.monitor.audit_faults import UNMOVED, Reading, Shift

EVENTS_AT_ONCE = 1_000_000
"""Events of one frame."""

_ENTITY, _CASE, _COPY, _KNOWN = (f"tidemark_{each}" for each in ("entity", "case", "copy", "known"))
_FRAME = "tidemark trials"
_MICROS = pa.timestamp("us", "UTC")


class Case(NamedTuple):
    """Events of an entity: those known by two moments, of history and of the log, or all (None).

    Without the events at some places, and with those at others twice; or `only` one of them.  All
    are moved by `shift`.
    """

    entity: int
    shift: Shift = UNMOVED
    known: tuple[int, int] | None = None
    without: frozenset[int] = frozenset()
    twice: frozenset[int] = frozenset()
    only: int | None = None


@dataclass(frozen=True)
class Entities:
    """The events of the entities of some rows; an event is its place in `table`.

    `time` and `seen` are microseconds; `logged` says that the event log has the event.  The events
    of entity e are those from `starts[e]` until before `starts[e + 1]`, oldest first.  `of_row`,
    `at` and `known` have for each row its entity, its moment, and the moments up to which the
    online state knew history and the log.
    """

    table: pa.Table
    time: NDArray[np.int64]
    seen: NDArray[np.int64]
    logged: NDArray[np.bool_]
    starts: NDArray[np.int64]
    of_row: NDArray[np.int64]
    at: NDArray[np.int64]
    known: NDArray[np.int64]
    source: Source
    before: bool

    @classmethod
    def of(
        cls, engine: DuckDB, definitions: Definitions, view: FeatureView, moments: pa.Table
    ) -> Entities:
        """Read the events of whoever `moments` names: `key_0`, ..., `at`, `known`, `position`."""
        source = definitions.source(view.source)
        names = [name for name in moments.column_names if name.startswith("key_")]
        keys = list(zip(*(moments[name].to_pylist() for name in names), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        types = [moments.schema.field(name).type for name in names]
        columns = {
            name: pa.array([key[i] for key in numbers], type_)
            for i, (name, type_) in enumerate(zip(names, types, strict=True))
        }
        asked = pa.table({**columns, _ENTITY: pa.array(list(numbers.values()), pa.int64())})
        table = _joined(engine, source, view, asked)
        table = table.take(pa.array(np.argsort(table[_ENTITY].to_numpy(), kind="stable")))
        known_log = _seen_at(engine, source, moments["position"].to_pylist())
        known = [
            (until or 0, known_log[position or 0])
            for until, position in zip(
                moments["known"].to_pylist(), moments["position"].to_pylist(), strict=True
            )
        ]
        return cls(
            table,
            table[source.time].cast(pa.int64()).to_numpy(),
            table[SEEN].to_numpy(),
            table[LOGGED].to_numpy(),
            np.searchsorted(table[_ENTITY].to_numpy(), np.arange(len(numbers) + 1)),
            np.array([numbers[key] for key in keys], np.int64),
            moments["at"].to_numpy(),
            np.array(known, np.int64).reshape(-1, 2),
            source,
            view.bound == "before",
        )

    def events(self, row: int) -> slice:
        """All events of the entity of a row."""
        entity = self.of_row[row]
        return slice(int(self.starts[entity]), int(self.starts[entity + 1]))

    def unknown(self, row: int) -> NDArray[np.int64]:
        """Events seen by the moment of a row that the online state had not taken in."""
        own = self.events(row)
        limit = self.known[row][self.logged[own].astype(np.int64)]
        missed = (self.seen[own] <= self.at[row]) & (self.seen[own] > limit)
        places: NDArray[np.int64] = own.start + np.flatnonzero(missed)
        return places

    def late(self, row: int) -> NDArray[np.int64]:
        """Events that happened by the moment of a row and were seen after it."""
        own = self.events(row)
        at = self.at[row] - self.before
        late = (self.time[own] <= at) & (self.seen[own] > at)
        places: NDArray[np.int64] = own.start + np.flatnonzero(late)
        return places

    def visible(self, row: int) -> NDArray[np.int64]:
        """The events that training counts for a row if their windows reach back to them."""
        own = self.events(row)
        at = self.at[row]
        then = (self.time[own] <= at) & (self.seen[own] <= at)
        places: NDArray[np.int64] = own.start + np.flatnonzero(then)
        return places

    def versions(self, row: int) -> bool:
        """Whether some event of the entity of a row has several versions."""
        if not self.source.unique:
            return False
        own = self.events(row)
        some = self.table.slice(own.start, own.stop - own.start).select(list(self.source.unique))
        return len(some.group_by(some.column_names).aggregate([])) < len(some)

    def lagging(self, row: int, entity_case: Case) -> Case:
        """A case as the online state had it that served a row."""
        history, log = self.known[row].tolist()
        return entity_case._replace(known=(history, log))

    def places(self, case: Case) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The events of a case, and which of them are copies."""
        if case.only is not None:
            return np.array([case.only], np.int64), np.zeros(1, np.int64)
        first, end = self.starts[case.entity : case.entity + 2].tolist()
        own: NDArray[np.int64] = np.arange(first, end, dtype=np.int64)
        if case.known is not None:
            history, log = case.known
            own = own[self.seen[own] <= np.where(self.logged[own], log, history)]
        if case.without:
            own = own[~np.isin(own, list(case.without))]
        twice = np.array(sorted(case.twice), np.int64)
        copies = np.repeat(np.array([0, 1], np.int64), [len(own), len(twice)])
        return np.concatenate([own, twice]), copies

    def describe(self, event: int) -> str:
        """An event in words: what identifies it, and when it happened."""
        record = self.table.slice(event, 1).to_pylist()[0]
        shown = [f"{name}={record[name]!r}" for name in self.source.unique]
        return f"{' '.join(['the event', *shown])} of {format_moment(int(self.time[event]))}"


def _joined(engine: DuckDB, source: Source, view: FeatureView, asked: pa.Table) -> pa.Table:
    """The rows of a source whose keys are asked for, in the order of their times."""
    columns = ", ".join(f"r.{identifier(each.name)}" for each in source.columns)
    on = " AND ".join(f"r.{identifier(name)} = asked.key_{i}" for i, name in enumerate(view.keys))
    with closing(open_source(engine, source)) as relation:
        query = (
            f"SELECT {columns}, r.{SEEN}, r.{LOGGED}, asked.{_ENTITY} FROM {relation.rows_seen} "
            f"AS r JOIN asked ON {on} ORDER BY r.{identifier(str(source.time))}"
        )
        return _reconciled(relation.table(query, {"asked": asked}), source)


def _reconciled(table: pa.Table, source: Source) -> pa.Table:
    """Without what history tells of events that the log recorded."""
    if not source.unique or not table.num_rows:
        return table
    logged = table[LOGGED].to_pylist()
    if not any(logged):
        return table
    names = list(zip(*(table[name].to_pylist() for name in source.unique), strict=True))
    recorded = {name for name, yes in zip(names, logged, strict=True) if yes}
    keep = [yes or name not in recorded for name, yes in zip(names, logged, strict=True)]
    kept: pa.Table = table.filter(pa.array(keep))
    return kept


def _seen_at(engine: DuckDB, source: Source, positions: Sequence[int | None]) -> dict[int, int]:
    """When the events at positions of the log were seen; before all, where it held nothing."""
    found = {0: -(2**63)}
    for position in {each for each in positions if each}:
        found[position] = -(2**63)
        if engine.log is not None:
            rows = engine.log.read(source, position - 1, 1)
            if rows.num_rows:
                # Where retention deleted that event, the next one was seen later.
                later = rows[POSITION][0].as_py() > position
                found[position] = rows[SEEN].cast(pa.int64())[0].as_py() - later
    return found


class Trials:
    """Computes some features of a view from altered events or in another way.

    Close it: it owns an engine.
    """

    def __init__(
        self, definitions: Definitions, view: FeatureView, features: Sequence[Feature]
    ) -> None:
        self._engine = DuckDB(threads=1)
        source = definitions.source(view.source)
        fields = (Field(_CASE, INT64), Field(_COPY, INT64), Field(_KNOWN, TIMESTAMP))
        self._source = replace(
            source,
            columns=(*source.columns, *fields),
            unique=(*source.unique, _CASE, _COPY) if source.unique else (),
            history=Frame(_FRAME),
            seen=_KNOWN,
            delay=0,
            timezone="",
        )
        self._entity = Entity(name=view.entity, keys=(Field(_CASE, INT64),))
        self.plain = Reading(replace(view, keys=(_CASE,), features=tuple(features)))

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def values(
        self, entities: Entities, rows: NDArray[np.int64], cases: Sequence[Case], reading: Reading
    ) -> list[pa.ChunkedArray]:
        """The values of rows, each computed from its case; a column for each feature."""
        numbers = {case: number for number, case in enumerate(dict.fromkeys(cases))}
        number = np.array([numbers[case] for case in cases], np.int64)
        order = np.argsort(number, kind="stable")
        at = entities.at[rows]
        tables: list[pa.Table] = []
        for first, frame, last in _frames(entities, list(numbers)):
            mine = order[slice(*np.searchsorted(number[order], [first, last]))]
            tables.append(self._computed(frame, number[mine], at[mine], reading))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        table = pa.concat_tables(tables).take(pa.array(back))
        return [table[feature.name] for feature in reading.view.features]

    def _computed(
        self,
        frame: pa.Table,
        case: NDArray[np.int64],
        at: NDArray[np.int64],
        reading: Reading,
    ) -> pa.Table:
        labels = pa.table({_CASE: pa.array(case), "at": pa.array(at).view(_MICROS)})
        view = reading.view
        outputs = [
            Output(each.name, Reference("feature", each.name, view.name, each.version))
            for each in view.features
        ]
        definitions = Definitions.of([self._entity, self._source, view])
        self._engine.frames[_FRAME] = frame
        made = training_set(
            self._engine,
            definitions,
            {},
            outputs,
            labels,
            time="at",
            hindsight=reading.hindsight,
            quiet=True,
        )
        table: pa.Table = made.to_arrow().select([each.name for each in outputs])
        return table


def _frames(entities: Entities, cases: Sequence[Case]) -> Iterator[tuple[int, pa.Table, int]]:
    """The events of cases, some cases at a time: the first, their frame, and the one behind."""
    begin = 0
    held: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    size = 0
    for number, case in enumerate(cases):
        held.append(entities.places(case))
        size += len(held[-1][0])
        if size >= EVENTS_AT_ONCE or number + 1 == len(cases):
            sizes = [len(each) for each, _ in held]
            where = np.concatenate([each for each, _ in held])
            shift = np.concatenate(
                [
                    each.shift.of(entities.time[places])
                    for each, (places, _) in zip(cases[begin : number + 1], held, strict=True)
                ]
            )
            frame = _moved(entities, where, shift)
            columns = {
                _CASE: np.repeat(np.arange(begin, number + 1), sizes),
                _COPY: np.concatenate([each for _, each in held]),
            }
            for name, values in columns.items():
                frame = frame.append_column(name, pa.chunked_array([pa.array(values)]))
            yield begin, frame, number + 1
            begin, size = number + 1, 0
            held.clear()


def _moved(entities: Entities, where: NDArray[np.int64], shift: NDArray[np.int64]) -> pa.Table:
    """The events at places, moved in time; one that was recorded was seen when it was."""
    table = entities.table.take(pa.array(where)).drop_columns([SEEN, LOGGED, _ENTITY])
    recorded = entities.logged[where] | (entities.source.seen is not None)
    seen = entities.seen[where] + np.where(recorded, 0, shift)
    if shift.any():
        place = table.schema.get_field_index(str(entities.source.time))
        moved = pa.chunked_array([pa.array(entities.time[where] + shift).view(_MICROS)])
        table = table.set_column(place, str(entities.source.time), moved)
    return table.append_column(_KNOWN, pa.chunked_array([pa.array(seen).view(_MICROS)]))


def written(engine: DuckDB, source: Source) -> Mapping[str, int]:
    """When the files of a history were last written, by name (microseconds); what is known."""
    try:
        return {Path(each.path).name: each.changed for each in glance(engine, source).files}
    except TidemarkError:
        return {}
