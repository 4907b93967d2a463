"""Datasets: training sets that were saved, each a folder of Parquet and a manifest beside it.

    NAME/rows.parquet     the label rows and their features
    NAME/manifest.json    what they were made from, and the hashes that prove it

A folder appears whole, by a rename, and is never written to again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemark.engines import content
from tidemark.engines.inventory import SourceState
from tidemark.engines.result import Rows, Spine, Split, split_rows
from tidemark.engines.splits import SplitPlan
from tidemark.errors import EngineError, NotFound, PlanConflict, StoreUnavailable
from tidemark.model.graph import Output
from tidemark.model.plural import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS, MANIFEST = "rows.parquet", "manifest.json"

FORMAT = 1
"""The version of the manifest; another one is refused."""

_ABANDONED_SECONDS = 24 * 3600
"""A folder that was being written so long ago belongs to a process that is gone."""


class Pin(msgspec.Struct, frozen=True, omit_defaults=True):
    """A feature that values came from, at its version, and the fingerprint of its meaning."""

    reference: str
    meaning: str


class ColumnContent(msgspec.Struct, frozen=True):
    """What one column holds."""

    name: str
    type: str
    nulls: int
    hash: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset was made from.

    `revision` and `registry` are the number and digest of the registry's revision, `epoch` that of
    the engine, `versions` those of the software.  `outputs` are the columns after `labels`, `pins`
    all features that their values came from.  `entities` are key columns by entity.  `split` is the
    plan that it was saved with, `parts` the rows that each part then has.
    """

    format: int = FORMAT
    name: str
    created: str
    author: str
    owner: str
    revision: int
    registry: str
    epoch: int
    versions: dict[str, str]
    outputs: tuple[Output, ...]
    pins: tuple[Pin, ...]
    sources: tuple[SourceState, ...]
    time: str
    timezone: str | None
    hindsight: bool
    entities: dict[str, tuple[str, ...]]
    labels: tuple[str, ...]
    rows: int
    content_hash: str
    label_hash: str
    columns: tuple[ColumnContent, ...]
    split: SplitPlan | None
    parts: dict[str, int]

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that are not the labels'."""
        return tuple(each.name for each in self.columns if each.name not in set(self.labels))


class Dataset(Rows):
    """A saved training set; nothing is read before it is asked for.

    `manifest` says what it was made from, `folder` where it lies.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.manifest = manifest
        self.folder = folder
        self.name = manifest.name
        self.revision = manifest.revision
        self.pins = manifest.pins
        self.sources = manifest.sources
        self.content_hash = manifest.content_hash
        self.label_hash = manifest.label_hash
        self.spine = Spine(manifest.time, manifest.timezone, manifest.entities)

    @property
    def parts(self) -> Split:
        """The parts that it was saved with; raises `NotFound` if it was saved with none."""
        if self.manifest.split is None:
            raise NotFound(
                f"The dataset {self.name!r} was saved without a split.",
                remedy="Split it: dataset.split(...).",
            )
        return split_rows(self.to_arrow(), self.spine, self.manifest.split)

    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self._table

    def labels(self) -> pa.Table:
        """The label rows that it was made for."""
        table: pa.Table = self._table.select(list(self.manifest.labels))
        return table

    @functools.cached_property
    def _table(self) -> pa.Table:
        try:
            table: pa.Table = pq.read_table(self.folder / ROWS, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise EngineError(
                f"The rows of the dataset {self.name!r} cannot be read: {error}",
                where=str(self.folder / ROWS),
                remedy="Restore the file from a copy.",
            ) from error
        return table

    def __len__(self) -> int:
        return self.manifest.rows

    def __repr__(self) -> str:
        manifest = self.manifest
        pins = ", ".join(pin.reference for pin in manifest.pins)
        of = f"{counted(manifest.rows, 'row')} x {counted(len(manifest.features), 'feature')}"
        lines = [
            f"Dataset {self.name}: {of}",
            f"  made      {manifest.created} by {manifest.author}, revision {manifest.revision}",
            f"  labels    {', '.join(manifest.labels)}",
            f"  features  {', '.join(manifest.features)}",
            f"  pins      {pins}",
        ]
        for state in manifest.sources:
            many = f", {len(state.files)} files" if state.files else ""
            lines.append(f"  source    {state.source}: {state.history}{many}")
        if manifest.split is not None:
            rows = ", ".join(f"{name} {count:,}" for name, count in manifest.parts.items())
            lines.append(f"  split     {manifest.split}: {rows}")
        lines += [f"  content   {self.content_hash}", f"  in        {self.folder}"]
        return "\n".join(lines)


def contents(table: pa.Table) -> tuple[ColumnContent, ...]:
    """What each column of a table holds."""
    hashes = content.column_hashes(table)
    return tuple(
        ColumnContent(name, str(column.type), column.null_count, hashes[name])
        for name, column in zip(table.column_names, table.columns, strict=True)
    )


def content_hash(columns: tuple[ColumnContent, ...]) -> str:
    """The hash of rows, whose order counts, from what their columns hold."""
    return content.rows_hash({column.name: column.hash for column in columns})


def write(manifest: Manifest, table: pa.Table, home: Path) -> Dataset:
    """Write a dataset into its folder, whole or not at all.

    A folder of the same content and revision that is there already is taken as it is: it was
    written by a process that ended before it could say so.  Raises `PlanConflict` if there is
    another one of this name, `StoreUnavailable` if the disk refuses.
    """
    folder = home / manifest.name
    part = home / f".{manifest.name}.{secrets.token_hex(4)}"
    try:
        part.mkdir(parents=True)
        _sweep(home, manifest.name)
        pq.write_table(table, part / ROWS)
        (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        for path in (part / ROWS, part / MANIFEST, part):
            _sync(path)
        try:
            part.rename(folder)
        except OSError:
            if not (folder / MANIFEST).is_file():
                raise
            return _adopted(manifest, folder)
        _sync(home)
    except (OSError, pa.ArrowException) as error:
        raise StoreUnavailable(
            f"The dataset {manifest.name!r} cannot be written: {error}", where=str(folder)
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Dataset(manifest, folder)


def read(name: str, folder: Path) -> Dataset:
    """The dataset in a folder; raises `EngineError` if there is none that can be understood."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        version = msgspec.json.decode(text, type=_Versioned).format
        if version != FORMAT:
            raise EngineError(
                f"The dataset {name!r} is of format {version}, and this release of Tidemark knows "
                f"format {FORMAT} only.",
                where=str(path),
                remedy="Use the release that made it.",
            )
        return Dataset(msgspec.json.decode(text, type=Manifest), folder)
    except (OSError, msgspec.MsgspecError) as error:
        raise EngineError(
            f"The manifest of the dataset {name!r} cannot be read: {error}",
            where=str(path),
            remedy="Restore the folder from a copy.",
        ) from error


def damage(dataset: Dataset) -> list[str]:
    """The columns whose stored values are not those that were saved; empty if all are."""
    known = {column.name: column.hash for column in dataset.manifest.columns}
    there = content.column_hashes(dataset.to_arrow())
    return [name for name in known | there if known.get(name) != there.get(name)]


def differences(dataset: Dataset, table: pa.Table) -> Mapping[str, int]:
    """In how many rows each column of a table, with the same rows, differs from the dataset's."""
    mine = dataset.to_arrow()
    counts = {
        name: content.differing(mine.column(name), table.column(name)) for name in mine.column_names
    }
    return {name: count for name, count in counts.items() if count}


class _Versioned(msgspec.Struct):
    format: int


def _adopted(manifest: Manifest, folder: Path) -> Dataset:
    there = read(manifest.name, folder)
    mine, theirs = ((m.content_hash, m.registry, m.outputs) for m in (manifest, there.manifest))
    if mine != theirs:
        raise PlanConflict(
            f"There is a folder of another dataset {manifest.name!r}, unknown to the registry.",
            where=str(folder),
            remedy="Choose another name, or move the folder away.",
        )
    return there


def _sweep(home: Path, name: str) -> None:
    """Remove what writers of this name left behind when they were killed."""
    for path in home.glob(f".{name}.????????"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Bring a file to the disk, and a folder where the system can."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
