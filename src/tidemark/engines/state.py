"""The whole history of a view, entity by entity: what materialization writes online."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.kernel import Timeline
    from tidemark.kernel.layout import Layout
    from tidemark.model.graph import Definitions, FeatureView


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
    `layout.columns`, `filters` (bool[N]) follow `layout.filters`.
    """

    keys: pa.Table
    timeline: Timeline
    columns: tuple[StateColumn, ...]
    filters: tuple[NDArray[np.bool_], ...]


def entities(
    engine: DuckDB,
    definitions: Definitions,
    view: FeatureView,
    layout: Layout,
    *,
    until: int,
) -> Iterator[Partition]:
    """Every entity of the view's source with its events known by `until` (UTC microseconds).

    Events are in their total order.  Versions seen after `until` do not exist yet; an event whose
    time lies after `until` is left out.  A source larger than the engine's memory comes in several
    partitions, each with whole entities.
    """
    raise NotImplementedError
