"""Label rows: who and when, read from whatever table the caller has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.engines.arrow import arrow_type
from tidemark.engines.histories import as_table
from tidemark.errors import DefinitionError, RequestInvalid
from tidemark.kernel import calendar
from tidemark.model.graph import Entity, Field
from tidemark.model.types import Type
from tidemark.model.window import check_zone


@dataclass(frozen=True)
class Labels:
    """The caller's table, untouched, and the moment of each of its rows in UTC microseconds.

    `time` is the column that holds the moments.
    """

    table: pa.Table
    t: NDArray[np.int64]
    time: str

    def keys(self, entity: Entity) -> tuple[pa.ChunkedArray, ...]:
        """The keys of an entity, in its types; raises `RequestInvalid`."""
        return tuple(self._key(entity, key) for key in entity.keys)

    def field(self, owner: str, field: Field) -> pa.ChunkedArray:
        """What the caller will know at serving time, taken from the labels."""
        wanted = f"the value {field.name!r} of the request {owner!r}"
        column = self._typed(self._column(field.name, wanted), field.name, field.type, wanted)
        if not field.optional:
            _refuse_nulls(column, field.name)
        return column

    def _key(self, entity: Entity, key: Field) -> pa.ChunkedArray:
        wanted = f"the key {key.name!r} of {entity.name!r}"
        column = self._typed(self._column(key.name, wanted), key.name, key.type, wanted)
        _refuse_nulls(column, key.name)
        return column

    def _column(self, name: str, wanted: str) -> pa.ChunkedArray:
        if name not in self.table.column_names:
            raise RequestInvalid(
                f"The labels have no column {name!r}, {wanted}.",
                remedy=f"Columns there: {', '.join(self.table.column_names) or 'none'}.",
            )
        return self.table.column(name)

    @staticmethod
    def _typed(column: pa.ChunkedArray, name: str, type_: Type, wanted: str) -> pa.ChunkedArray:
        target = arrow_type(type_)
        if column.type == target:
            return column
        problem = RequestInvalid(
            f"The label column {name!r} holds {column.type}, but {wanted} is {type_}.",
            remedy="Convert the column before the call.",
        )
        encoded = pa.types.is_dictionary(column.type)
        if not _readable(column.type.value_type if encoded else column.type, type_):
            raise problem
        try:
            return _decoded(column, target) if encoded else column.cast(target)
        except pa.ArrowInvalid as error:
            if target == pa.float64() and pa.types.is_integer(column.type):
                return _doubles(column, name)
            raise problem from error


def _doubles(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Whole numbers beyond 2**53 as doubles, if they are some."""
    doubles: pa.ChunkedArray = pc.cast(column, pa.float64(), safe=False)
    exact = pa.decimal128(38, 0)
    rounded = pc.not_equal(doubles.cast(exact), column.cast(exact)).to_numpy()
    if not rounded.any():
        return doubles
    row = int(np.argmax(rounded))
    raise RequestInvalid(
        f"The label column {name!r} holds {column[row].as_py()}, which a float64 does not hold "
        "exactly.",
        where=f"in row {row}, counted from 0",
        remedy="Declare the request's field as int, or round the column before the call.",
    )


def _decoded(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """Dictionary codes as values; the dictionary is cast first, since not all can be taken."""
    chunks = [
        pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(target))
        for chunk in column.chunks
    ]
    return pa.chunked_array([chunk.dictionary_decode() for chunk in chunks], target)


def _readable(given: pa.DataType, type_: Type) -> bool:
    """Whether values of an Arrow type are values of a type, perhaps stored otherwise."""
    match type_.name:
        case "int64":
            fits = pa.types.is_integer(given)
        case "float64":
            fits = pa.types.is_floating(given) or pa.types.is_integer(given)
        case "decimal":
            fits = pa.types.is_decimal(given) or pa.types.is_integer(given)
        case "bool":
            fits = pa.types.is_boolean(given)
        case "string":
            fits = any(
                test(given)
                for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
            )
        case "bytes":
            fits = any(
                test(given)
                for test in (
                    pa.types.is_binary,
                    pa.types.is_large_binary,
                    pa.types.is_fixed_size_binary,
                )
            )
        case "timestamp":
            fits = pa.types.is_timestamp(given) and given.tz is not None
        case "date":
            fits = pa.types.is_date(given)
        case "list" | "vector":
            fits = pa.types.is_nested(given)
    return bool(fits or pa.types.is_null(given))


def read_labels(frame: object, *, time: str | None, timezone: str | None) -> Labels:
    """The label rows of any Arrow-capable frame.

    `time` names the column of moments (None: the only timestamp column), `timezone` the zone of one
    that carries none.  Raises `RequestInvalid`.
    """
    table = as_table(frame)
    twice = {name for name in table.column_names if table.column_names.count(name) > 1}
    if twice:
        raise RequestInvalid(f"The labels have two columns named {min(twice)!r}.")
    name = time if time is not None else _only_time(table)
    if name not in table.column_names:
        raise RequestInvalid(
            f"The labels have no column {name!r}.",
            remedy=f"Columns there: {', '.join(table.column_names) or 'none'}.",
        )
    column = table.column(name)
    if not pa.types.is_timestamp(column.type):
        raise RequestInvalid(
            f"The label column {name!r} holds {column.type}, not timestamps.",
            remedy="A label is at a moment: convert the column to timestamps with a time zone.",
        )
    _refuse_nulls(column, name)
    try:
        zone = None if timezone is None else check_zone(timezone)  # also where times carry theirs
        return Labels(table, _instants(column, name, zone), name)
    except DefinitionError as error:
        raise RequestInvalid(error.what, remedy=error.remedy) from error


def _only_time(table: pa.Table) -> str:
    names: list[str] = [f.name for f in table.schema if pa.types.is_timestamp(f.type)]
    if len(names) == 1:
        return names[0]
    if names:
        raise RequestInvalid(
            f"The labels have {len(names)} timestamp columns: {', '.join(names)}.",
            remedy=f"Say which one is the moment of each label: time={names[0]!r}.",
        )
    raise RequestInvalid(
        "The labels have no timestamp column.",
        where=f"columns: {', '.join(f'{each.name} ({each.type})' for each in table.schema)}",
        remedy="Add the moment of each label, as timestamps with a zone; convert it from text.",
    )


def _instants(column: pa.ChunkedArray, name: str, timezone: str | None) -> NDArray[np.int64]:
    per_micro = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
    times, parts = per_micro[column.type.unit]
    values: NDArray[Any] = column.cast(pa.int64()).to_numpy()
    values = values * times if parts == 1 else values // parts
    if column.type.tz is not None:
        return values
    if timezone is None:
        raise RequestInvalid(
            f"The label column {name!r} carries no time zone.",
            remedy='Say which one its clocks show: timezone="UTC" or timezone="America/New_York".',
        )
    return calendar.to_utc(values, timezone)


def _refuse_nulls(column: pa.ChunkedArray, name: str) -> None:
    if not column.null_count:
        return
    missing = column.is_null().to_numpy()
    raise RequestInvalid(
        f"The label column {name!r} is null in {column.null_count} of {len(column)} rows.",
        where=f"first in row {int(np.argmax(missing))}, counted from 0",
        remedy="Leave such rows out, or fill them.",
    )
