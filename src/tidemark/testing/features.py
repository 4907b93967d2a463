"""Features of a few literal rows, computed by the engine and the kernel that compute everything."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa
from msgspec.structs import replace

from tidemark import define
from tidemark.define.features import is_feature
from tidemark.engines.arrow import arrow_type
from tidemark.engines.duckdb import DuckDB
from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.graph import Definitions, FeatureView, Field, Frame, Output, Reference, Source
from tidemark.model.types import TIMESTAMP
from tidemark.model.window import parse_moment

_TIME = "moment asked for"


def features_at(
    view: object,
    rows: object,
    keys: Mapping[str, object],
    *,
    at: str | datetime,
    hindsight: bool = False,
) -> dict[str, Any]:
    """The features of one entity at a moment, from literal rows of the view's source.

    `view` is a feature view, or features of one.  Rows are dictionaries, or any Arrow-capable
    frame; columns that they leave out are null.  Moments are datetimes or ISO text, `at` with a
    zone.  Needs no project, no files and no store.
    """
    from tidemark.engines.training import python_values, training_set

    definitions = define.lower(view).definitions
    if len(definitions.views) != 1 or definitions.services or definitions.on_demand:
        raise RequestInvalid(f"{view!r} is not one feature view.", remedy="Pass the view's class.")
    asked = definitions.views[0]
    source = definitions.source(asked.source)
    wanted = _named(view) or {feature.name for feature in asked.features}
    frame = _table(source, _read(rows))
    with DuckDB(threads=1, frames={source.name: frame}) as engine:
        training = training_set(
            engine,
            _reading_a_frame(definitions, source),
            {},
            tuple(_outputs(asked, wanted)),
            _labels(definitions, asked, keys, at),
            time=_TIME,
            hindsight=hindsight,
        )
    table = training.to_arrow()
    return {
        each.name: python_values(table[each.name], each.type)[0]
        for each in asked.features
        if each.name in wanted
    }


def _reading_a_frame(definitions: Definitions, source: Source) -> Definitions:
    others = [item for item in definitions if item is not source]
    return Definitions.of([*others, replace(source, history=Frame(source.name))])


def _named(asked: object) -> set[str]:
    """The features that are asked for alone; none where the whole view is."""
    several = cast("list[object]", asked) if isinstance(asked, list | tuple) else [asked]
    return {name for each in several if is_feature(each) for name in each.named_windows()}


def _read(rows: object) -> list[Mapping[str, object]]:
    """Rows as dictionaries, also those of a frame."""
    if hasattr(rows, "__arrow_c_stream__"):
        rows = pa.table(rows).to_pylist()
    return list(cast("Iterable[Mapping[str, object]]", rows))


def _outputs(view: FeatureView, wanted: Collection[str]) -> Iterable[Output]:
    for feature in view.features:
        if feature.name in wanted:
            reference = Reference("feature", feature.name, view.name, feature.version)
            yield Output(feature.name, reference)


def _labels(
    definitions: Definitions, view: FeatureView, keys: Mapping[str, object], at: str | datetime
) -> pa.Table:
    entity = definitions.entity(view.entity)
    names = [key.name for key in entity.keys]
    for name in keys:
        if name not in names:
            raise NotFound.named(f"key of {entity.name}", name, names)
    for name in names:
        if name not in keys:
            raise RequestInvalid(
                f"The key {name!r} is missing.", remedy=f"Expected: {', '.join(names)}."
            )
    columns = {key.name: _column(key, [keys[key.name]]) for key in entity.keys}
    moment = pa.array([parse_moment(at)], pa.int64()).cast(pa.timestamp("us", "UTC"))
    labels: pa.Table = pa.table({**columns, _TIME: moment})
    return labels


def _table(source: Source, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    names = [column.name for column in source.columns]
    for row in rows:
        for name in row:
            if name not in names:
                raise NotFound.named(f"column of {source.name}", name, names)
    columns = {
        column.name: _column(column, [row.get(column.name) for row in rows])
        for column in source.columns
    }
    table: pa.Table = pa.table(columns)
    return table


def _moment(value: object) -> object:
    """ISO text as the moment that it says; the zone may be left to the source."""
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _column(field: Field, values: list[object]) -> pa.Array:
    type_ = arrow_type(field.type)
    if field.type == TIMESTAMP:
        values = [_moment(value) for value in values]
        moments = [value for value in values if isinstance(value, datetime)]
        if moments and all(moment.tzinfo is None for moment in moments):
            type_ = pa.timestamp("us")  # the source says which zone they are in
        elif any(moment.tzinfo is None for moment in moments):
            raise RequestInvalid(f"Some values of {field.name} have a time zone, some have none.")
        else:
            values = [
                value.astimezone(UTC) if isinstance(value, datetime) else value for value in values
            ]
    try:
        array: pa.Array = pa.array(values, type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise RequestInvalid(f"{field.name} is {field.type}: {error}.") from None
    return array
