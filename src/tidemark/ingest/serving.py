"""Which states follow a source, and how their rows are read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa

from tidemark.ingest.few import Inserter
from tidemark.kernel.layout import Layout
from tidemark.model.graph import Definitions, Entity, FeatureView, Source
from tidemark.online.states.keys import (
    Record,
    State,
    generation_prefix,
    held_key,
    key_encoder,
    read_held,
    read_record,
    record_key,
)
from tidemark.online.stores.protocol import OnlineStore

Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Reading:
    """How the rows of a state are made: from which columns, and under which keys."""

    view: FeatureView
    definitions: Definitions
    layout: Layout
    encode: Callable[[Sequence[Sequence[object]]], list[bytes]]

    @cached_property
    def source(self) -> Source:
        """The source that the rows were written for."""
        return self.definitions.source(self.view.source)

    @cached_property
    def inserter(self) -> Inserter | None:
        """What puts a few events into rows one by one, where that can be done."""
        return Inserter.of(self.view, self.source, self.layout)

    @property
    def entity(self) -> Entity:
        """What the rows are of."""
        return self.definitions.entity(self.view.entity)

    @classmethod
    def of(cls, view: FeatureView, source: Source, entity: Entity) -> Reading:
        """The reading of rows that a view has over a source."""
        layout = Layout.of(view, source.types)
        return cls(view, Definitions.of([entity, source, view]), layout, key_encoder(entity))

    def keys(self, prefix: bytes, table: pa.Table) -> list[bytes]:
        """The keys of the rows of some entities."""
        return [prefix + key for key in self.encode([each.to_pylist() for each in table.columns])]

    def key(self, prefix: bytes, key: Sequence[object]) -> bytes:
        """The key of the row of one entity."""
        return prefix + self.encode([[value] for value in key])[0]


@lru_cache(maxsize=1024)
def _reading(held: bytes, entity: Entity) -> Reading:
    found, _ = read_held(held)
    return Reading.of(found.view, found.source, entity)


@dataclass(frozen=True)
class Serving:
    """The states of one view that read the source: `stored` are the bytes of its record."""

    place: bytes
    stored: bytes
    record: Record
    readings: Mapping[str, Reading]

    def prefix(self, project: str, state: State) -> bytes:
        """What the keys of a state's rows begin with."""
        view = self.readings[state.state].view.name
        return generation_prefix(project, view, state.state, state.generation)


@dataclass(frozen=True)
class Followers:
    """What follows the log of a source: `others` are records of its views without such states."""

    serving: Sequence[Serving]
    others: Sequence[tuple[bytes, bytes | None]]

    @property
    def reached(self) -> int | None:
        """The least position of all states; None where there is no state."""
        return reached(self.serving)


def reached(serving: Sequence[Serving]) -> int | None:
    """The least position of all states; None where there is no state."""
    positions = [
        state.position
        for each in serving
        for state in each.record.states
        if state.state in each.readings
    ]
    return min(positions, default=None)


class Finder:
    """Finds what follows the log of a source."""

    def __init__(self, online: OnlineStore, project: str) -> None:
        self._online, self._project = online, project
        self._known: tuple[Definitions, dict[str, dict[str, Entity]]] = (Definitions(), {})

    def of(self, definitions: Definitions, name: str) -> Followers:
        """What follows a source as the online store has it now."""
        views = self._views(definitions, name)
        places = [record_key(self._project, view) for view in views]
        serving: list[Serving] = []
        others: list[tuple[bytes, bytes | None]] = []
        for (view, entity), place, stored in zip(
            views.items(), places, self._online.get_many(places), strict=True
        ):
            record = read_record(stored)
            held = self._online.get_many(
                [held_key(self._project, view, each.state) for each in record.states]
            )
            readings: dict[str, Reading] = {}
            for state, text in zip(record.states, held, strict=True):
                if text is None:
                    continue
                about, _ = read_held(bytes(text))
                if about.source.name == name:
                    readings[state.state] = _reading(bytes(text), entity)
            if readings and stored is not None:
                serving.append(Serving(place, bytes(stored), record, readings))
            else:
                others.append((place, stored))
        return Followers(serving, others)

    def _views(self, definitions: Definitions, name: str) -> Mapping[str, Entity]:
        """The views that read a source, or have read it in a version that is kept."""
        known, views = self._known
        if known is not definitions:  # comparing or hashing thousands of definitions takes long
            self._known = definitions, (views := {})
        if name not in views:
            reading = (view for view in definitions.views if view.source == name)
            views[name] = {view.name: definitions.entity(view.entity) for view in reading}
        return views[name]
