"""Training sets: label rows joined with features as they stood at the moment of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import pyarrow as pa

from tidemark.define import on_demand
from tidemark.define.python_types import stored
from tidemark.engines import offline
from tidemark.engines.arrow import arrow_type
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.histories import Relation
from tidemark.engines.labels import Labels, read_labels
from tidemark.engines.progress import Progress
from tidemark.engines.result import Report, Spine, TrainingSet
from tidemark.engines.sources import open_source
from tidemark.engines.versions import Versions, resolve
from tidemark.errors import EngineError, RequestInvalid, SchemaMismatch
from tidemark.model.graph import Definitions, Feature, FeatureView, Output, Reference, Source
from tidemark.model.types import TIMESTAMP, Type


def training_set(
    engine: DuckDB,
    definitions: Definitions,
    functions: Mapping[str, Callable[..., Any]],
    outputs: Sequence[Output],
    labels: object,
    *,
    time: str | None = None,
    timezone: str | None = None,
    hindsight: bool = False,
    quiet: bool = False,
) -> TrainingSet:
    """The label rows, unchanged and in their order, followed by one column for each output.

    `functions` are the on-demand functions by reference.  `labels` is any Arrow-capable frame;
    `time` names its column of moments (None: its only timestamp column), `timezone` the zone of one
    that carries none.  With `hindsight`, when an event became known is ignored and corrections
    count from the beginning.  `quiet`: no line on the terminal.  Raises `RequestInvalid`,
    `SchemaMismatch` and `EngineError`.
    """
    began = perf_counter()
    rows = read_labels(labels, time=time, timezone=timezone)
    _refuse_collisions(rows, outputs)
    needed = definitions.needed(output.reference for output in outputs)
    report = Report(rows=rows.table.num_rows)
    columns: dict[Reference, pa.ChunkedArray] = {}
    for reference in needed:
        if reference.kind == "request":
            request = definitions.request(reference.owner)
            field = next(f for f in request.fields if f.name == reference.name)
            columns[reference] = rows.field(request.name, field)
    with Progress(quiet=quiet) as progress:
        reading = _Reading(engine, definitions, rows, report, progress, hindsight=hindsight)
        columns |= reading.features([each for each in needed if each.kind == "feature"])
    columns |= _on_demand(definitions, functions, needed, columns, rows.table.num_rows)
    held = set(rows.table.column_names)  # requests' values among them, under their own names
    added = {each.name: columns[each.reference] for each in outputs if each.name not in held}
    report.nulls |= {name: column.null_count for name, column in added.items()}
    table = _with_columns(rows.table, added)
    report.seconds["in all"] = perf_counter() - began
    views = [definitions.locate(each)[0] for each in needed if each.kind == "feature"]
    entities = {view.entity: definitions.entity(view.entity) for view in views}
    keys = {name: tuple(key.name for key in entity.keys) for name, entity in entities.items()}
    spine = Spine(rows.time, timezone, keys)
    return TrainingSet(table, report, tuple(output.name for output in outputs), spine)


def _with_columns(table: pa.Table, added: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """The table and more columns, all at once: appended one by one, they cost their square."""
    fields = [*table.schema, *(pa.field(name, column.type) for name, column in added.items())]
    schema = pa.schema(fields, metadata=table.schema.metadata)
    return pa.table([*table.columns, *added.values()], schema)


def _refuse_collisions(rows: Labels, outputs: Sequence[Output]) -> None:
    for output in outputs:
        passed_on = output.reference.kind == "request" and output.reference.name == output.name
        if output.name in rows.table.column_names and not passed_on:
            raise RequestInvalid(
                f"The labels already have a column {output.name!r}.",
                where=f"it would also be the column of {output.reference}",
                remedy="Rename the label column, or pass full_names=True for a list of features.",
            )


class _Reading:
    """Features of several views; each source is opened once."""

    def __init__(
        self,
        engine: DuckDB,
        definitions: Definitions,
        rows: Labels,
        report: Report,
        progress: Progress,
        *,
        hindsight: bool,
    ) -> None:
        self._engine, self._definitions, self._rows = engine, definitions, rows
        self._report, self._progress, self._hindsight = report, progress, hindsight
        self._opened: dict[str, tuple[Relation, Versions | None]] = {}

    def features(self, references: Sequence[Reference]) -> dict[Reference, pa.ChunkedArray]:
        """The columns of features in label order."""
        by_view: dict[FeatureView, dict[Reference, Feature]] = {}
        for reference in references:
            view, feature = self._definitions.locate(reference)
            by_view.setdefault(view, {})[reference] = feature
        columns: dict[Reference, pa.ChunkedArray] = {}
        # Labels are checked against every view before the first history is read.
        asked = {view: self._asked(view) for view in by_view}
        try:
            for view, wanted in by_view.items():
                answers = self._evaluate(view, list(wanted.values()), asked[view])
                for reference, feature in wanted.items():
                    columns[reference] = answers.columns[feature.name]
        finally:
            for relation, versions in self._opened.values():
                relation.close()
                if versions is not None:
                    versions.close()
        return columns

    def _asked(self, view: FeatureView) -> offline.Asked:
        entity = self._definitions.entity(view.entity)
        source = self._definitions.source(view.source)
        for key, name in zip(entity.keys, view.keys, strict=True):
            if source.types.get(name, key.type) != key.type:
                raise SchemaMismatch(
                    f"{source.name}.{name} is {source.types[name]}, but the key {key.name!r} of "
                    f"{entity.name!r} is {key.type}.",
                    where=f"view {view.name}",
                )
        return offline.Asked(self._rows.keys(entity), self._rows.t)

    def _evaluate(
        self, view: FeatureView, features: Sequence[Feature], asked: offline.Asked
    ) -> offline.Answers:
        began = perf_counter()
        name = view.name
        self._progress.begin(name)
        relation, versions = self._open(self._definitions.source(view.source))
        answers = offline.evaluate(
            relation, versions, view, features, asked, hindsight=self._hindsight
        )
        self._report.coincident[name] = answers.coincident
        self._report.events[name] = answers.events
        self._report.unattributed[name] = answers.unattributed
        self._report.seconds[name] = perf_counter() - began
        return answers

    def _open(self, source: Source) -> tuple[Relation, Versions | None]:
        if source.name not in self._opened:
            relation = open_source(self._engine, source, self._progress.rows)
            self._opened[source.name] = (relation, None)
            versions = resolve(relation, hindsight=self._hindsight, known_by=None)
            self._opened[source.name] = (relation, versions)
            if versions is not None and versions.disagreeing:
                self._report.disagreeing[source.name] = versions.disagreeing
        return self._opened[source.name]


def _on_demand(
    definitions: Definitions,
    functions: Mapping[str, Callable[..., Any]],
    needed: Sequence[Reference],
    columns: Mapping[Reference, pa.ChunkedArray],
    n: int,
) -> dict[Reference, pa.ChunkedArray]:
    """The columns of on-demand features, over the Python values of what they read."""
    asked = [reference for reference in needed if reference.kind == "on_demand"]
    if not asked:
        return {}
    for reference in asked:
        if str(reference) not in functions:
            raise EngineError(
                f"The function of the on-demand feature {reference} is not loaded.",
                remedy="Import the module that defines it before the call.",
            )
    read = {
        given.reference
        for reference in asked
        for given in definitions.on_demand_feature(reference.name, reference.version).inputs
        if given.reference.kind != "on_demand"
    }
    values = {
        reference: python_values(columns[reference], definitions.type_of(reference))
        for reference in read
    }
    names = [str(reference) for reference in asked]
    results = on_demand.evaluate(definitions, functions, names, values, n)
    return {
        reference: pa.chunked_array(
            [pa.array(results[reference], arrow_type(definitions.type_of(reference)))]
        )
        for reference in asked
    }


def python_values(column: pa.ChunkedArray, type_: Type) -> list[Any]:
    """The values as serving has them: moments are in `datetime.UTC`."""
    values: list[Any] = column.to_pylist()
    if TIMESTAMP not in {type_, type_.item}:
        return values
    return [None if value is None else stored(value, type_) for value in values]
