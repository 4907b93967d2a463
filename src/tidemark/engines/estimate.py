"""How much a view that was never materialized will be, without reading more than must be."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidemark.compile import identifier
from tidemark.engines.sources import open_source
from tidemark.errors import TidemarkError
from tidemark.model.graph import Csv, Query, Source

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB

KEYS_COUNTED = 20_000_000
"""Events of which the keys are looked at; of more only the events are counted."""

PAIRS_COUNTED = 64
"""Sources and keys that are counted for one plan: it is to come at once."""


@dataclass(frozen=True)
class Size:
    """About how many entities and events there are; None: that is not told without reading all."""

    entities: int | None = None
    events: int | None = None


class Sizes:
    """The sizes of sources by their keys, each counted once."""

    def __init__(self, engine: DuckDB) -> None:
        self._engine = engine
        self._known: dict[tuple[str, tuple[str, ...]], Size] = {}

    def of(self, source: Source, keys: Sequence[str]) -> Size:
        """What a source holds of some keys; unknown where it cannot be read, too."""
        pair = source.name, tuple(keys)
        if pair not in self._known:
            if len(self._known) >= PAIRS_COUNTED:
                return Size()
            self._known[pair] = self._count(source, keys)
        return self._known[pair]

    def _count(self, source: Source, keys: Sequence[str]) -> Size:
        if isinstance(source.history, Query | Csv):  # they are read whole by whoever opens them
            return Size()
        try:
            with closing(open_source(self._engine, source)) as relation:
                events = relation.count()
                if events > KEYS_COUNTED:
                    return Size(None, events)
                names = ", ".join(identifier(name) for name in keys)
                there = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in keys)
                query = (
                    f"SELECT approx_count_distinct(({names})) FROM {relation.rows} WHERE {there}"
                )
                return Size(int(self._engine.rows(query, relation.tables)[0][0]), events)
        except TidemarkError:  # a plan is made where history is not there yet, too
            return Size()
