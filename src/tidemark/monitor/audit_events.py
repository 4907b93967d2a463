"""The events behind a few rows of the serving log, and features computed from altered ones.

Every trial is a case: some events of one entity and one moment.  All cases of a call become one
frame whose only key is the number of the case, and go through the same code as training does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec.structs import replace
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines.arrow import arrow_type
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.histories import LOGGED, SEEN
from tidemark.engines.inventory import glance
from tidemark.engines.sources import open_source
from tidemark.engines.training import training_set
from tidemark.errors import TidemarkError
from tidemark.model.expr import Call
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
from tidemark.model.window import HOUR, Window, format_moment
from tidemark.online.values import instant

CANDIDATES = 100
"""Events of an entity that are left out or doubled one by one, the newest."""

_CASE, _COPY, _KNOWN = "tidemark_case", "tidemark_copy", "tidemark_known"
_FRAME = "tidemark trials"

# Zones differ from UTC by whole hours, some by halves, those of Nepal and the Chathams by quarters.
_QUARTERS = [k for k in range(-56, 57) if k and (k % 2 == 0 or abs(k) in {23, 51})]
_SHIFTS = [k * HOUR // 4 for k in sorted(_QUARTERS, key=lambda k: (k % 4 != 0, abs(k)))]
Trial = tuple[int, Sequence[int], Sequence[int]]
"""A row, the places of its events, and of those that count twice."""


@dataclass(frozen=True)
class Entities:
    """The events of the entities of some rows; an event is its place in `table`.

    `time` and `seen` are microseconds; `logged` says that the event log has the event.  `of_row`
    has for each row its entity, its moment, and the moments up to which the online state knew
    history and the log.
    """

    table: pa.Table
    time: NDArray[np.int64]
    seen: NDArray[np.int64]
    logged: NDArray[np.bool_]
    of_entity: Mapping[int, NDArray[np.int64]]
    of_row: Mapping[int, tuple[int, int, int, int]]
    source: Source
    before: bool

    @classmethod
    def of(
        cls, engine: DuckDB, definitions: Definitions, view: FeatureView, moments: pa.Table
    ) -> Entities:
        """Read the events of whoever `moments` names."""
        source = definitions.source(view.source)
        names = [name for name in moments.column_names if name.startswith("key_")]
        keys = list(zip(*(moments[name].to_pylist() for name in names), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        types = [moments.schema.field(name).type for name in names]
        columns = {
            name: pa.array([key[i] for key in numbers], type_)
            for i, (name, type_) in enumerate(zip(names, types, strict=True))
        }
        asked = pa.table(
            {**columns, "tidemark_entity": pa.array(list(numbers.values()), pa.int64())}
        )
        table = _joined(engine, source, view, asked)
        entity = table["tidemark_entity"].to_numpy()
        order = np.argsort(entity, kind="stable")
        starts = np.searchsorted(entity[order], np.arange(len(numbers) + 1))
        taken = {number: order[starts[number] : starts[number + 1]] for number in numbers.values()}
        known_log = _seen_at(engine, source, moments["position"].to_pylist())
        of_row = {
            row: (numbers[key], at, known or 0, known_log[position or 0])
            for row, key, at, known, position in zip(
                moments["row"].to_pylist(),
                keys,
                moments["at"].to_pylist(),
                moments["known"].to_pylist(),
                moments["position"].to_pylist(),
                strict=True,
            )
        }
        time = table[source.time].cast(pa.int64()).to_numpy()
        seen = table[SEEN].to_numpy()
        logged = table[LOGGED].to_numpy()
        before = view.bound == "before"
        return cls(table, time, seen, logged, taken, of_row, source, before)

    def events(self, row: int) -> list[int]:
        """All events of the entity of a row, oldest first."""
        return [int(each) for each in self.of_entity[self.of_row[row][0]]]

    def at(self, row: int) -> int:
        """The moment of a row."""
        return self.of_row[row][1]

    def unknown(self, row: int) -> list[int]:
        """Events seen by the moment of a row that the online state had not taken in."""
        _, at, known, known_log = self.of_row[row]
        return [
            e
            for e in self.events(row)
            if self.seen[e] <= at and self.seen[e] > (known_log if self.logged[e] else known)
        ]

    def late(self, row: int) -> list[int]:
        """Events that happened by the moment of a row and were seen after it."""
        at = self.at(row) - self.before
        return [e for e in self.events(row) if self.time[e] <= at < self.seen[e]]

    def candidates(self, row: int) -> list[int]:
        """The newest events that were visible at the moment of a row."""
        at = self.at(row)
        visible = [e for e in self.events(row) if self.time[e] <= at and self.seen[e] <= at]
        return visible[-CANDIDATES:]

    def describe(self, event: int) -> str:
        """An event in words: what identifies it, and when it happened."""
        record = self.table.slice(event, 1).to_pylist()[0]
        shown = [f"{name}={record[name]!r}" for name in self.source.unique]
        return f"{' '.join(['the event', *shown])} of {format_moment(int(self.time[event]))}"


def _joined(engine: DuckDB, source: Source, view: FeatureView, asked: pa.Table) -> pa.Table:
    """The rows of a source whose keys are asked for, in the order of their times."""
    relation = open_source(engine, source)
    try:
        columns = ", ".join(f"r.{identifier(each.name)}" for each in source.columns)
        told = (
            f"r.{SEEN}, r.{LOGGED}"
            if relation.logged
            else f"r.tidemark_known_at AS {SEEN}, FALSE AS {LOGGED}"
        )
        seen = "" if relation.logged else f", {relation.seen} AS tidemark_known_at"
        parts = " UNION ALL ".join(f"(SELECT *{seen} FROM ({part}))" for part in relation.parts)
        on = " AND ".join(
            f"r.{identifier(name)} = asked.key_{i}" for i, name in enumerate(view.keys)
        )
        query = (
            f"SELECT {columns}, {told}, asked.tidemark_entity FROM ({parts}) AS r "
            f"JOIN asked ON {on} ORDER BY r.{identifier(str(source.time))}"
        )
        return _reconciled(relation.table(query, {"asked": asked}), source)
    finally:
        relation.close()


def _reconciled(table: pa.Table, source: Source) -> pa.Table:
    """Without what history tells of events that the log recorded."""
    if not source.unique or not table.num_rows:
        return table
    logged = table[LOGGED].to_pylist()
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
                found[position] = rows[SEEN].cast(pa.int64())[0].as_py()
    return found


@dataclass(frozen=True)
class Fault:
    """An error of a whole view; `values` computes its features for rows as if it had been made."""

    cause: str
    detail: str
    values: Callable[[Sequence[int]], list[dict[str, Any]]]


class Trials:
    """Computes some features of a view from altered events or under another definition.

    Close it: it owns an engine.
    """

    def __init__(
        self,
        definitions: Definitions,
        view: FeatureView,
        features: Sequence[Feature],
        entities: Entities,
    ) -> None:
        self._entities = entities
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
        self._view = replace(view, keys=(_CASE,), features=tuple(features))

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def of_events(self, trials: Sequence[Trial]) -> list[dict[str, Any]]:
        """The values of each trial, by feature."""
        return self._computed(trials, self._view)

    def in_hindsight(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The values of rows as if every event had been seen when it happened."""
        return self._computed(self._whole(rows), self._view, hindsight=True)

    def faults(self) -> Iterator[Fault]:
        """The faults of a whole view that are worth trying, the likeliest first."""
        yield from self._other_bounds()
        yield from self._other_filters()
        yield from self._shifted()
        yield from self._other_zones()

    def _other_bounds(self) -> Iterator[Fault]:
        other = "before" if self._view.bound == "at" else "at"
        yield self._redefined(
            "off-by-one bound",
            f"it is served as with bound={other!r}; the view says {self._view.bound!r}",
            replace(self._view, bound=other),
        )
        for micros in (1, -1):
            more = "longer" if micros > 0 else "shorter"
            yield self._redefined(
                "off-by-one bound",
                f"it is served as with windows that are a microsecond {more}",
                self._with_windows(partial(_longer, micros)),
            )

    def _other_filters(self) -> Iterator[Fault]:
        if any(feature.aggregate.where is not None for feature in self._view.features):
            for detail, negated in (
                ("without its filter", False),
                ("with its filter reversed", True),
            ):
                features = tuple(_unfiltered(each, negated) for each in self._view.features)
                view = replace(self._view, features=features)
                yield self._redefined("changed definition", f"it is served as {detail}", view)

    def _shifted(self) -> Iterator[Fault]:
        for shift in _SHIFTS:
            when = "later" if shift > 0 else "earlier"
            yield Fault(
                "shifted zone",
                f"it is served as if every event had happened {abs(shift) / HOUR:g} h {when}",
                partial(self._moved, shift),
            )

    def _other_zones(self) -> Iterator[Fault]:
        if all(each.aggregate.window.unit is None for each in self._view.features):
            return
        for zone in ("UTC", *(f"Etc/GMT{k:+d}" for k in range(-14, 13) if k)):
            yield self._redefined(
                "shifted zone",
                f"it is served as with calendar windows of {zone}",
                self._with_windows(partial(_in_zone, zone)),
            )

    def _with_windows(self, change: Callable[[Window], Window]) -> FeatureView:
        features = tuple(
            replace(each, aggregate=replace(each.aggregate, window=change(each.aggregate.window)))
            for each in self._view.features
        )
        return replace(self._view, features=features)

    def _redefined(self, cause: str, detail: str, view: FeatureView) -> Fault:
        return Fault(cause, detail, lambda rows: self._computed(self._whole(rows), view))

    def _moved(self, shift: int, rows: Sequence[int]) -> list[dict[str, Any]]:
        return self._computed(self._whole(rows), self._view, shift=shift)

    def _whole(self, rows: Sequence[int]) -> list[Trial]:
        return [(row, self._entities.events(row), ()) for row in rows]

    def _computed(
        self,
        trials: Sequence[Trial],
        view: FeatureView,
        *,
        shift: int = 0,
        hindsight: bool = False,
    ) -> list[dict[str, Any]]:
        if not trials:
            return []
        frame = self._frame(trials, shift)
        moments = [instant(self._entities.at(row)) for row, _, _ in trials]
        labels = pa.table(
            {
                _CASE: pa.array(range(len(trials)), pa.int64()),
                "at": pa.array(moments, pa.timestamp("us", "UTC")),
            }
        )
        outputs = [
            Output(each.name, Reference("feature", each.name, view.name, each.version))
            for each in view.features
        ]
        definitions = Definitions.of([self._entity, self._source, view])
        self._engine.frames[_FRAME] = frame
        table = training_set(
            self._engine, definitions, {}, outputs, labels, time="at", hindsight=hindsight
        ).to_arrow()
        records: list[dict[str, Any]] = table.select([each.name for each in outputs]).to_pylist()
        return records

    def _frame(self, trials: Sequence[Trial], shift: int) -> pa.Table:
        """The events of all cases, each with the number of its case."""
        entities = self._entities
        places = [[*events, *twice] for _, events, twice in trials]
        copies = [[0] * len(events) + [1] * len(twice) for _, events, twice in trials]
        where = np.array([e for each in places for e in each], np.int64)
        case = np.repeat(np.arange(len(trials)), [len(each) for each in places])
        table = entities.table.take(pa.array(where)).drop_columns([SEEN, LOGGED, "tidemark_entity"])
        micros = pa.timestamp("us", "UTC")
        seen = entities.seen[where]
        if shift:
            recorded = entities.logged[where] | (entities.source.seen is not None)
            seen = np.where(recorded, seen, seen + shift)
            place = table.schema.get_field_index(str(entities.source.time))
            moved = pa.array(entities.time[where] + shift).view(micros)
            table = table.set_column(place, str(entities.source.time), moved)
        copied = np.array([c for each in copies for c in each], np.int64)
        return (
            table.append_column(_CASE, pa.chunked_array([pa.array(case, arrow_type(INT64))]))
            .append_column(_COPY, pa.chunked_array([pa.array(copied)]))
            .append_column(_KNOWN, pa.chunked_array([pa.array(seen).view(micros)]))
        )


def _longer(micros: int, window: Window) -> Window:
    return replace(window, length=window.length + micros) if window.kind == "sliding" else window


def _in_zone(zone: str, window: Window) -> Window:
    return replace(window, zone=zone) if window.unit is not None else window


def _unfiltered(feature: Feature, negated: bool) -> Feature:
    where = feature.aggregate.where
    if where is None:
        return feature
    altered = Call("not", (where,)) if negated else None
    return replace(feature, aggregate=replace(feature.aggregate, where=altered))


def history_changed(engine: DuckDB, source: Source, since: int) -> str:
    """What of a history was written after a moment, in words; empty where nothing is known."""
    try:
        files = glance(engine, source).files
    except TidemarkError as error:
        return error.what
    for file in files:
        if file.changed > since:
            when = datetime.fromtimestamp(file.changed / 1e6, UTC).isoformat(timespec="seconds")
            return f"{Path(file.path).name} was written at {when.replace('+00:00', 'Z')}"
    return ""
