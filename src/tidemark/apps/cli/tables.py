"""Tables in files that a command reads or writes: Parquet or CSV, by their ending."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from tidemark.errors import NotFound, RequestInvalid, SchemaMismatch


def read_table(path: Path) -> pa.Table:
    """Read a Parquet or CSV file whole."""
    if path.is_dir():
        raise RequestInvalid(
            f"{path} is a directory.", remedy="Name one Parquet or CSV file in it."
        )
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", where=str(path.resolve()))
    _check_ending(path)
    try:
        rows: pa.Table = (
            parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaMismatch(f"{path} cannot be read: {error}.") from error
    return rows


def check_target(path: Path) -> None:
    """Refuse a place where no table can be written, before there is one."""
    _check_ending(path)
    if not path.parent.is_dir():
        raise RequestInvalid(
            f"There is no directory {path.parent}.",
            where=str(path.parent.resolve()),
            remedy=f"Make it first: mkdir -p {path.parent}",
        )
    if path.is_dir():
        raise RequestInvalid(f"{path} is a directory.")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet or CSV file, whole or not at all."""
    check_target(path)
    part = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".parquet":
            parquet.write_table(table, part)
        else:
            csv.write_csv(table, part)
        part.replace(path)
    except (OSError, pa.ArrowException) as error:
        part.unlink(missing_ok=True)
        raise RequestInvalid(f"{path} cannot be written: {error}.") from error


def _check_ending(path: Path) -> None:
    if path.suffix not in {".parquet", ".csv"}:
        raise RequestInvalid(
            f"{path.name} is neither .parquet nor .csv.",
            remedy="The ending of a file says its form: name.parquet or name.csv.",
        )
