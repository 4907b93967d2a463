"""What is installed and what can be reached, for people who wonder why it does not work."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

from tidemark.errors import NotFound, TidemarkError
from tidemark.model.graph import Csv, Definitions, Delta, Parquet
from tidemark.model.plural import counted
from tidemark.store.config import Config, read_config


class Check(NamedTuple):
    """One thing looked at: what, whether it is well (None: neither), and what was found."""

    group: str
    name: str
    well: bool | None
    found: str


class Examination(NamedTuple):
    """Everything that was looked at."""

    checks: list[Check]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.well is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The checks as JSON values."""
        return {"healthy": self.healthy, "checks": [check._asdict() for check in self.checks]}

    def text(self) -> str:
        """The checks as text, by group."""
        marks = {True: "ok", False: "WRONG", None: "-"}
        width = max(len(check.name) for check in self.checks)
        lines: list[str] = []
        group = ""
        for check in self.checks:
            if check.group != group:
                lines += ["", check.group] if lines else [check.group]
                group = check.group
            lines.append(f"  {marks[check.well]:<5}  {check.name:<{width}}  {check.found}")
        return "\n".join(lines)


def examine(path: str | None) -> Examination:
    """Look at versions, extras, and the project at `path` or the nearest one."""
    checks = [*_versions(), *_extras()]
    try:
        config = read_config(path)
    except NotFound as error:
        checks.append(Check("project", "tidemark.toml", False if path else None, error.what))
        return Examination(checks)
    except TidemarkError as error:
        checks.append(Check("project", "tidemark.toml", False, error.what))
        return Examination(checks)
    checks.append(Check("project", "tidemark.toml", True, str(config.root)))
    return Examination([*checks, *_project(config)])


def _versions() -> list[Check]:
    found = [Check("versions", "python", True, platform.python_version())]
    for name in ("tidemark", *_requirements(extra=None)):
        version = _version(name)
        found.append(Check("versions", name, bool(version), version or f"pip install {name}"))
    return found


def _extras() -> list[Check]:
    extras = metadata.metadata("tidemark").get_all("Provides-Extra") or []
    found: list[Check] = []
    for extra in sorted(set(extras) - {"all"}):
        missing = [name for name in _requirements(extra) if not _version(name)]
        text = f"pip install 'tidemark[{extra}]'" if missing else "installed"
        found.append(Check("extras", extra, None if missing else True, text))
    return found


def _requirements(extra: str | None) -> list[str]:
    """The names of the packages that an extra (None: Tidemark itself) asks for."""
    names: list[str] = []
    for line in metadata.requires("tidemark") or []:
        head, _, marker = line.partition(";")
        found = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if (found[1] if found else None) == extra:
            names.append(re.split(r"[\s<>=!~\[(]", head.strip())[0])
    return names


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _project(config: Config) -> list[Check]:
    from tidemark.online.stores.address import redacted
    from tidemark.online.stores.protocol import open_store
    from tidemark.registry import Registry

    definitions = Definitions()

    def registry() -> str:
        nonlocal definitions
        opened = Registry(config.registry_url)
        try:
            snapshot = opened.snapshot()
        finally:
            opened.close()
        definitions = snapshot.definitions
        return f"revision {snapshot.revision}, {config.registry}"

    def online() -> str:
        opened = open_store(config.online, config.root)
        try:
            opened.get_many([b"doctor"])
        finally:
            opened.close()
        return redacted(config.online)

    checks = [_try("registry", registry), _try("online store", online), *_logs(config)]
    for source in definitions.sources:
        if isinstance(source.history, Parquet | Csv | Delta):
            files = list(config.root.glob(source.history.path))
            found = f"{counted(len(files), 'file')} at {source.history.path}"
            checks.append(Check("project", source.name, bool(files), found))
    return checks


def _logs(config: Config) -> list[Check]:
    """The event log of each source that has one: whether it is all that was acknowledged."""
    from tidemark.engines.log import EventLog

    if not config.log:
        return []

    def stands(name: str) -> str:
        letters = counted(log.count_buried(name), "dead letter")
        return f"up to position {log.last(name):,}, {letters}"

    with EventLog(config.root / config.log) as log:
        return [_try(f"log of {name}", partial(stands, name)) for name in sorted(log.names())]


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check("project", name, True, look())
    except TidemarkError as error:
        return Check("project", name, False, " ".join(str(error).split()))
