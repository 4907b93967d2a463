"""The projects that `tidemark init` makes: a folder here for each, with its data in `__init__`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from tidemark.apps.cli.example import fraud, recommender
from tidemark.errors import NotFound, RequestInvalid

TEMPLATES: Mapping[str, ModuleType] = {"fraud": fraud, "recommender": recommender}
_FILES = {
    "tidemark.toml": "tidemark.toml",
    "features.py": "features.py",
    "test_features.py": "test_features.py.txt",
}
_IGNORED = ".tidemark/\n"


class Made(NamedTuple):
    """The files that were written, and the commands to try next."""

    files: tuple[str, ...]
    commands: tuple[str, ...]


def create(path: Path, template: str = "fraud") -> Made:
    """Write an example project; raises `RequestInvalid` rather than overwrite a file.

    A template that is not there is `NotFound`.
    """
    if template not in TEMPLATES:
        there = ", ".join(f"{name} ({each.ABOUT})" for name, each in TEMPLATES.items())
        raise NotFound(f"There is no template {template!r}.", remedy=f"There are: {there}.")
    project = TEMPLATES[template]
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    data: dict[str, list[dict[str, Any]]] = project.tables(now)
    present = [name for name in (*_FILES, ".gitignore", *data) if _exists(path / name)]
    if present:
        raise RequestInvalid(
            f"{path} already has {', '.join(present)}.",
            remedy="Choose another directory: tidemark init my-features",
        )
    texts = {
        name: resources.files(project).joinpath(kept).read_text("utf-8")
        for name, kept in _FILES.items()
    }
    try:
        for name, text in {**texts, ".gitignore": _IGNORED}.items():
            _place(path / name).write_text(text, "utf-8")
        for name, rows in data.items():
            _WRITERS[Path(name).suffix](_place(path / name), rows)
    except OSError as error:
        raise RequestInvalid(
            f"{path} cannot be written: {error.strerror}.",
            remedy="Choose a directory that you may write to.",
        ) from error
    return Made((*texts, ".gitignore", *data), project.COMMANDS)


def _exists(file: Path) -> bool:
    """Whether a file is there, as far as we may look; writing it tells of the rest."""
    try:
        return file.exists()
    except PermissionError:
        return False


def _place(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    parquet.write_table(pa.table(columns), file)


def _write_ndjson(file: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, default=datetime.isoformat) + "\n" for row in rows]
    file.write_text("".join(lines), "utf-8")


_WRITERS: Mapping[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    ".parquet": _write_parquet,
    ".ndjson": _write_ndjson,
}
