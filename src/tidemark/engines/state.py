"""The whole history of a view, entity by entity: what materialization writes online."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines import ordering
from tidemark.engines.arrow import arrow_type
from tidemark.engines.events import EVENT_BYTES, NEVER, Events, Span, key_groups, read_events
from tidemark.engines.histories import Relation
from tidemark.engines.identity import identity_words
from tidemark.engines.inputs import Loaded, Need, bytes_of, load
from tidemark.engines.keys import Keys
from tidemark.engines.sources import open_source
from tidemark.engines.versions import Versions, resolve
from tidemark.model.graph import Definitions, Entity, FeatureView

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.kernel import Timeline
    from tidemark.kernel.layout import Layout


ONLY = "asked_for"
"""The table of the keys of the entities that are asked for."""


@dataclass(frozen=True)
class StateColumn:
    """One input column of a layout for the events of a partition, in timeline order.

    `words` int64[N] (0 where null), `high` the upper words of decimals, `valid` bool[N].
    `dictionary` holds the values of a "code" column in rank order; the words are its indices.
    """

    words: NDArray[np.int64]
    high: NDArray[np.int64] | None
    valid: NDArray[np.bool_]
    dictionary: pa.Array | None


@dataclass(frozen=True)
class Partition:
    """Some entities with all their events.

    `keys` has one row per entity and one column per key, named and typed as the entity's keys; row
    s owns the events `timeline.starts[s]` to `timeline.starts[s + 1]`.  `columns` follow
    `layout.columns`, `filters` (bool[N]) follow `layout.filters`.  `identities` are the hashes of
    what identifies the events (`identity_words`), None where the source has no `unique`.
    `unattributed` events were met that belong to nobody, since a key is null.  It is number `group`
    of the `groups` into which all entities are dealt.
    """

    keys: pa.Table
    timeline: Timeline
    columns: tuple[StateColumn, ...]
    filters: tuple[NDArray[np.bool_], ...]
    unattributed: int = 0
    identities: NDArray[np.int64] | None = None
    group: int = 0
    groups: int = 1


def entities(
    engine: DuckDB,
    definitions: Definitions,
    view: FeatureView,
    layout: Layout,
    *,
    until: int,
    position: int | None = None,
    only: pa.Table | None = None,
    start: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Partition]:
    """Every entity of the view's source with its events known by `until` (UTC microseconds).

    Events are in their total order.  What was seen after `until` does not exist yet, and the event
    log is read up to `position` (None: its end); an event that was seen before it happened is
    there.  An entity without events is left out.  `only` has the keys of the entities that are
    asked for, as columns named and typed as the entity's keys (None: all).  A source larger than
    the engine's memory comes in several partitions, each with whole entities; one of rows that
    belong to nobody has none.  The same source and memory give the same ones; those before number
    `start` are not read.  `progress` is told how many rows have come.
    """
    relation = open_source(engine, definitions.source(view.source), progress, position=position)
    versions = None
    try:
        if only is not None:
            relation = _narrowed(relation, view, only)
        versions = resolve(relation, hindsight=False, known_by=until)
        needs, asked = needs_of(layout), "" if only is None else _among(view)
        size = EVENT_BYTES + sum(bytes_of(need) for need in needs)
        count = -(-relation.count() * size // max(1, engine.memory * 3 // 5))
        groups = key_groups(view, count)
        for group, where in enumerate(groups[start:], start):
            # Rows are read under conditions that keep their order; a join need not.
            named = " AND ".join(each for each in (where, asked) if each)
            entity = definitions.entity(view.entity)
            keys = _distinct_keys(versions.relation if versions else relation, entity, view, named)
            partition = _partition(view, relation, versions, needs, keys, where, until)
            if len(partition.keys) or partition.unattributed:
                yield replace(partition, group=group, groups=len(groups))
    finally:
        relation.close()
        if versions is not None:
            versions.close()


def _narrowed(relation: Relation, view: FeatureView, only: pa.Table) -> Relation:
    """The rows of some entities, and all versions of their events, which may belong to others."""
    engine, source = relation.engine, relation.source
    asked = only.rename_columns(list(view.keys))
    query = f"SELECT * FROM {relation.rows} WHERE {_among(view)}"
    if source.unique:
        names = ", ".join(identifier(name) for name in source.unique)
        nulls = " OR ".join(f"{identifier(name)} IS NULL" for name in source.unique)
        query = (
            f"SELECT * FROM {relation.rows} WHERE ({names}) IN (SELECT ({names}) FROM ({query})) "
            f"AND NOT ({nulls}) UNION ALL {query} AND ({nulls})"
        )
    name = engine.fresh_name("narrowed")
    tables = {name: relation.table(query, {ONLY: asked}), ONLY: asked}
    return replace(relation, parts=(f"SELECT * FROM {name}",), tables=tables)


def _among(view: FeatureView) -> str:
    """The condition that a row belongs to an entity that is asked for."""
    keys = ", ".join(identifier(name) for name in view.keys)
    return f"({keys}) IN (SELECT ({keys}) FROM {ONLY})"


def _partition(
    view: FeatureView,
    relation: Relation,
    versions: Versions | None,
    needs: list[Need],
    keys: pa.Table,
    where: str,
    until: int,
) -> Partition:
    index = Keys(keys.columns)
    # What a history without `seen` tells of was seen when it happened, or later.
    ahead = relation.logged or relation.source.seen is not None
    span = Span(high=NEVER if ahead else until, known_by=until)
    events = read_events(relation, versions, view, index, span, where=where, total=True)
    starts = events.timeline.starts
    occupied = np.flatnonzero(np.diff(starts) > 0)
    timeline = replace(events.timeline, starts=np.append(starts[occupied], starts[-1]))
    if relation.logged or relation.source.seen is not None or relation.source.delay:
        # Whether a row says when its events became known depends on the source alone, so that the
        # partition that an entity happens to be in does not show in its bytes.
        timeline = replace(timeline, known=events.known())
    n = len(timeline.time)
    loaded = load(events, needs) if needs else []
    columns, filters = parts_of(needs, loaded, n)
    present = keys.take(pa.array(index.first[occupied]))
    identities = _identities(events) if relation.source.unique else None
    return Partition(present, timeline, columns, filters, events.unattributed, identities)


def _identities(events: Events) -> NDArray[np.int64]:
    """The hashes of what identifies the events."""
    names = {name: identifier(name) for name in events.scan.relation.source.unique}
    identities, slots, read = np.zeros(len(events.rows), np.int64), events.slots(), 0
    for first, batch in events.scan.read(names):
        ordering.scatter(
            slots[first : first + batch.num_rows], identity_words(batch.columns), identities
        )
        read += batch.num_rows
    events.check_unchanged(read)
    return identities


def needs_of(layout: Layout) -> list[Need]:
    """What a layout needs of each event: its columns, then its filters."""
    needs = [Need(column.value, column.type, column.form) for column in layout.columns]
    return needs + [Need(condition, None, "flag") for condition in layout.filters]


def parts_of(
    needs: Sequence[Need], loaded: Sequence[Loaded], n: int
) -> tuple[tuple[StateColumn, ...], tuple[NDArray[np.bool_], ...]]:
    """The columns and the filters of a partition of n events."""
    both = list(zip(loaded, needs, strict=True))
    columns = tuple(
        StateColumn(
            np.zeros(n, np.int64) if each.words is None else each.words.view(np.int64),
            each.high,
            np.ones(n, np.bool_) if each.valid is None else each.valid,
            each.dictionary,
        )
        for each, need in both
        if need.type is not None
    )
    return columns, tuple(_flags(each, n) for each, need in both if need.type is None)


def _flags(loaded: Loaded, n: int) -> NDArray[np.bool_]:
    return np.zeros(n, np.bool_) if loaded.valid is None else loaded.valid


def _distinct_keys(relation: Relation, entity: Entity, view: FeatureView, where: str) -> pa.Table:
    """The keys that occur, in their order; one with a null belongs to no entity."""
    names = ", ".join(identifier(name) for name in view.keys)
    conditions = [f"{identifier(name)} IS NOT NULL" for name in view.keys]
    conditions += [where] if where else []
    condition = " AND ".join(conditions)
    table = relation.table(
        f"SELECT DISTINCT {names} FROM {relation.rows} WHERE {condition} ORDER BY {names}"
    )
    types = [arrow_type(key.type) for key in entity.keys]
    schema = pa.schema(list(zip((key.name for key in entity.keys), types, strict=True)))
    return table.rename_columns(schema.names).cast(schema)
