"""Which events history holds, and whose they were: what a live event may repeat or correct.

A live event that history has as well is not to be counted twice, though the row of its entity need
not show it: the event may have moved.  So the hashes of all identities that went into online rows
from history are kept beside the log, sorted, in one file for each source.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines.arrow import arrow_type
from tidemark.engines.sources import open_source
from tidemark.errors import EngineError, StoreUnavailable
from tidemark.model.graph import Entity, FeatureView, Source

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB

Words = NDArray[np.int64]

_FILE = "recorded"
"""Sorted 64-bit words, and a last one that is their checksum."""

_NONE = np.empty(0, np.int64)


class Recorded:
    """The identities (`identity_words`) that history holds, source by source."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, tuple[tuple[int, int], Words]] = {}
        self._places: dict[str, Path] = {}

    def add(self, name: str, identities: Words) -> None:
        """Note identities of a source, for good; raises `StoreUnavailable` where it cannot."""
        place = self._place(name)
        known = np.unique(np.concatenate([self._known(name), identities[identities != 0]]))
        fresh = place.with_suffix(f".{os.getpid()}.new")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(np.append(known, zlib.crc32(known.data)).data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(place)
        except OSError as error:
            raise StoreUnavailable(
                f"What history holds of {name} cannot be noted beside its log: {error.strerror}.",
                where=str(place.parent),
                remedy="Free space or allow writing there, or set `log` to another folder.",
            ) from error

    def among(self, name: str, identities: Words) -> NDArray[np.bool_]:
        """Which identities are noted; a 0 is none."""
        return _among(self._known(name), identities)

    def any_of(self, name: str, identities: Words | Sequence[int]) -> bool:
        """Whether one of a few identities is noted."""
        known = self._known(name)
        return len(known) > 0 and bool(_among(known, np.asarray(identities, np.int64)).any())

    def _place(self, name: str) -> Path:
        if name not in self._places:
            self._places[name] = self._folder / quote(name, safe=" ") / _FILE
        return self._places[name]

    def _known(self, name: str) -> Words:
        place = self._place(name)
        # Asked at every push: an error that is raised, or the text of a path, would take longer.
        if not os.access(place, os.F_OK):
            return _NONE
        status = os.stat(place)  # noqa: PTH116
        stamp = status.st_mtime_ns, status.st_ino
        if self._open.get(name, (None,))[0] != stamp:
            self._open[name] = stamp, _read(place, name)
        return self._open[name][1]


def _among(known: Words, identities: Words) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(identities), np.bool_)
    places = np.minimum(np.searchsorted(known, identities), len(known) - 1)
    found: NDArray[np.bool_] = (known[places] == identities) & (identities != 0)
    return found


def _read(place: Path, name: str) -> Words:
    """The words of a file; raises `EngineError` where they are not what was written."""
    size = place.stat().st_size
    words = np.memmap(place, np.int64, "r") if size and size % 8 == 0 else np.zeros(1, np.int64)
    known: Words = words[:-1]
    if not size or size % 8 or zlib.crc32(known.data) != words[-1]:
        raise EngineError(
            f"What history holds of {name} is damaged, so events may be counted twice.",
            where=str(place),
            remedy="Delete the file, and materialize all views of the source anew.",
        )
    return known


def holders(
    engine: DuckDB, source: Source, view: FeatureView, entity: Entity, events: pa.Table
) -> pa.Table:
    """The keys of all entities to which any version of some events belongs, in history or log.

    `events` have the source's `unique` columns; the result is named and typed as the entity's keys.
    """
    keys = ", ".join(identifier(name) for name in view.keys)
    unique = ", ".join(identifier(name) for name in source.unique)
    present = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in view.keys)
    asked = events.select(list(source.unique))
    with closing(open_source(engine, source)) as relation:
        query = (
            f"SELECT DISTINCT {keys} FROM {relation.rows} WHERE {present} "
            f"AND ({unique}) IN (SELECT ({unique}) FROM asked)"
        )
        found = engine.table(query, {**relation.tables, "asked": asked})
    schema = pa.schema([(key.name, arrow_type(key.type)) for key in entity.keys])
    return found.rename_columns(schema.names).cast(schema)
