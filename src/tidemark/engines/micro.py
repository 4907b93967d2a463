"""Micro-batches: events that have just arrived, as the partition that their history would be.

Nothing is read: the rows are there.  Columns are taken as they are, the commonest conditions are
evaluated where they stand, and all that is left is one query of the same SQL text as over history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines.arrow import arrow_type, words
from tidemark.engines.duckdb import DuckDB
from tidemark.engines.identity import identity_words
from tidemark.engines.inputs import Need, arrange, text_of
from tidemark.engines.keys import Keys
from tidemark.engines.log import SEEN
from tidemark.engines.ordering import ordered_words, sort_keys
from tidemark.engines.state import Partition, needs_of, parts_of
from tidemark.kernel import Timeline
from tidemark.kernel.layout import Layout
from tidemark.model.expr import Call, Column, Expr, Literal
from tidemark.model.graph import Definitions, FeatureView, Source

_PLAIN = {"int64", "float64", "string", "bool"}


def partition_of(
    engine: DuckDB,
    definitions: Definitions,
    view: FeatureView,
    layout: Layout,
    table: pa.Table,
    identities: NDArray[np.int64] | None = None,
) -> Partition:
    """The entities of some events, as `EventLog.read` gives them, with these events.

    Every row is an event of its own: none is a version of another one.  What identifies them
    (`identity_words`) need not be computed again.
    """
    source = definitions.source(view.source)
    entity = definitions.entity(view.entity)
    columns = dict(zip(table.column_names, map(_array, table.columns), strict=True))
    if source.unique and identities is None:
        identities = identity_words([columns[name] for name in source.unique])
    there = np.ones(table.num_rows, np.bool_)
    for name in view.keys:
        if columns[name].null_count:
            there &= columns[name].is_valid().to_numpy(zero_copy_only=False)
    unattributed = int(len(there) - there.sum())
    if unattributed:
        columns = {name: column.filter(pa.array(there)) for name, column in columns.items()}
        identities = None if identities is None else identities[there]
    keys = Keys([pa.chunked_array([columns[name]]) for name in view.keys])
    order, time, known = _ordered(source, view, columns, keys.codes)
    starts = np.concatenate(([0], np.cumsum(np.bincount(keys.codes, minlength=len(keys)))))
    slots = np.empty(len(order), np.int64)
    slots[order] = np.arange(len(order))
    needs = needs_of(layout)
    values = _values(engine, source, needs, columns)
    loaded = arrange(needs, values, slots, len(order))
    state_columns, filters = parts_of(needs, loaded, len(order))
    firsts = pa.array(keys.first)
    fields = [(key.name, arrow_type(key.type)) for key in entity.keys]
    present = [columns[name].take(firsts) for name in view.keys]
    return Partition(
        pa.table(present, schema=pa.schema(fields)),
        Timeline(starts.astype(np.int64), time[order], known[order], None),
        state_columns,
        filters,
        unattributed,
        None if identities is None else identities[order],
    )


def _array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        only: pa.Array = column.chunk(0)
        return only
    whole: pa.Array = pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    return whole


def _ordered(
    source: Source, view: FeatureView, columns: dict[str, pa.Array], codes: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The total order of events within their entities; their times and when they count."""
    time = np.asarray(columns[source.time or ""].view(pa.int64()))
    seen = np.asarray(columns[SEEN])
    order = np.lexsort([seen, time, codes])
    tied = np.ones(max(len(order) - 1, 0), np.bool_)
    for key in (codes, time, seen):
        ordered = key[order]
        tied &= ordered[1:] == ordered[:-1]
    if tied.any():
        names = dict.fromkeys([*source.unique, *(column.name for column in source.columns)])
        left = [name for name in names if name not in {*view.keys, source.time}]
        content = [key for name in left for key in sort_keys(columns[name])]
        order = np.lexsort([*content[::-1], seen, time, codes])
    return order, time, np.maximum(time, seen)


def _values(
    engine: DuckDB, source: Source, needs: Sequence[Need], columns: dict[str, pa.Array]
) -> list[pa.Array]:
    """What is needed of each event, in the order of the rows."""
    found = [_direct(need, source, columns) for need in needs]
    missing = [place for place, value in enumerate(found) if value is None]
    if missing and len(columns[SEEN]):
        names = [column.name for column in source.columns]
        rows = pa.table({name: columns[name] for name in names})
        items = ", ".join(
            f"{text_of(needs[place], source.types)} AS {identifier(f'value_{place}')}"
            for place in missing
        )
        result = engine.table(f"SELECT {items} FROM arrived", {"arrived": rows}).combine_chunks()
        for number, place in enumerate(missing):
            found[place] = result.column(number).chunk(0)
    nothing = pa.array([], pa.bool_())
    empties = [
        nothing if need.form == "flag" or need.type is None else pa.array([], arrow_type(need.type))
        for need in needs
    ]
    return [empty if each is None else each for each, empty in zip(found, empties, strict=True)]


def _direct(need: Need, source: Source, columns: dict[str, pa.Array]) -> pa.Array | None:
    """A value that needs no query; None: it needs one."""
    value = _evaluated(need.value, source, columns)
    if value is None or need.form != "flag":
        return value
    return value.is_valid() if need.type is not None else pc.fill_null(value, False)


def _evaluated(expr: Expr, source: Source, columns: dict[str, pa.Array]) -> pa.Array | None:
    """A column, or a condition on columns whose values both Arrow and SQL compare by their bits."""
    match expr:
        case Column(name):
            return columns[name]
        case Call(function, (Column(name), *others)) if function in _COMPARE:
            literals = [each for each in others if isinstance(each, Literal)]
            same = all(alike(source, name, each) for each in literals)
            if same and literals and len(literals) == len(others):
                values = pa.array([each.value for each in literals], columns[name].type)
                return _COMPARE[function](_comparable(columns[name]), _comparable(values))
        case Call(function, args) if function in _COMBINE:
            given = [_evaluated(arg, source, columns) for arg in args]
            if all(each is not None for each in given):
                return _COMBINE[function](given)
        case _:
            pass
    return None


def alike(source: Source, name: str, literal: Literal) -> bool:
    """Whether a constant has the type of a column, and is compared alike everywhere."""
    plain = literal.value is not None and literal.type.name in _PLAIN
    return plain and source.types[name] == literal.type


def _comparable(values: pa.Array) -> pa.Array:
    """Values that Arrow orders as SQL does: NaN is the greatest number and equals itself."""
    if not pa.types.is_floating(values.type):
        return values
    nulls = None if not values.null_count else values.is_null().to_numpy(zero_copy_only=False)
    return pa.array(ordered_words(words(values)), mask=nulls)


def _against(compare: Callable[[Any, Any], Any]) -> Callable[[pa.Array, pa.Array], pa.Array]:
    return lambda column, literals: compare(column, literals[0])


def _folded(combine: Callable[..., Any]) -> Callable[[list[Any]], pa.Array]:
    def fold(values: list[Any]) -> pa.Array:
        result: pa.Array = values[0]
        for value in values[1:]:
            result = combine(result, value)
        return result

    return fold


def _is_in(column: pa.Array, literals: pa.Array) -> pa.Array:
    """As SQL has it: null for a null."""
    inside = pc.is_in(column, value_set=literals)
    found: pa.Array = pc.if_else(column.is_valid(), inside, pa.scalar(None, pa.bool_()))
    return found


_COMPARE: dict[str, Callable[[pa.Array, pa.Array], pa.Array]] = {
    "eq": _against(pc.equal),
    "ne": _against(pc.not_equal),
    "lt": _against(pc.less),
    "le": _against(pc.less_equal),
    "gt": _against(pc.greater),
    "ge": _against(pc.greater_equal),
    "is_in": _is_in,
}
_COMBINE: dict[str, Callable[[list[Any]], pa.Array]] = {
    "and": _folded(pc.and_kleene),
    "or": _folded(pc.or_kleene),
    "not": lambda values: pc.invert(values[0]),
    "is_null": lambda values: values[0].is_null(),
    "is_not_null": lambda values: values[0].is_valid(),
}
