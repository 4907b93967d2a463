"""Where a project keeps its things: `tidemark.toml`, overridden by `TIDEMARK_...` variables."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tidemark.errors import DefinitionError, NotFound
from tidemark.model.defaults import BUILT_IN, Defaults
from tidemark.model.window import parse_duration

FILE = "tidemark.toml"
MEMORY = ":memory:"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one project.

    `definitions` are files or module names.  `registry` and `online` are URLs whose paths are
    relative to `root`, the directory that holds `tidemark.toml`, as is `datasets`, the folder of
    saved training sets (empty: one that goes with the store).  An empty `memory_limit` and 0
    `threads` leave the choice to the engine.  `retain` (a duration; empty: for ever) is how far
    back the online state can be asked about.  `log` is the folder of pushed and streamed events
    (empty: one that goes with the store), `future` how far ahead of the clock one of them may be.
    Events older than `log_retention` may be deleted from the log (empty: none).  `kafka` are
    settings of librdkafka, such as where the brokers are; `schedule` names jobs with their
    cadences.  `serving_log` is the folder of what was served (empty: none is kept): over HTTP, and
    with `serving_log_in_process` by `Store.online` too; the share `serving_log_sample` of all keys,
    for `serving_log_retention` (empty: for ever).  `administrators` may confirm plans for any
    model.  `defaults` hold where definitions do not say; another set has another name.
    """

    name: str = ""
    definitions: tuple[str, ...] = ()
    registry: str = "sqlite:///.tidemark/registry.db"
    online: str = "lmdb://.tidemark/online"
    datasets: str = ".tidemark/datasets"
    log: str = ".tidemark/log"
    log_retention: str = ""
    future: str = "5m"
    kafka: dict[str, str | int | bool] = {}
    schedule: dict[str, str] = {}
    serving_log: str = ".tidemark/served"
    serving_log_in_process: bool = False
    serving_log_sample: float = 1.0
    serving_log_retention: str = "30d"
    memory_limit: str = ""
    threads: int = 0
    retain: str = ""
    administrators: tuple[str, ...] = ()
    defaults: Defaults = BUILT_IN
    root: Path = Path()

    @property
    def namespace(self) -> str:
        """What tells the project's online rows from those of others in one store."""
        return self.name or "default"

    @property
    def in_memory(self) -> bool:
        """Whether the online state ends with the process that has it."""
        return self.online.startswith((":memory:", "memory:"))

    @property
    def registry_url(self) -> str:
        """The registry's URL with an absolute path."""
        prefix = "sqlite:///"
        path = self.registry.removeprefix(prefix)
        if not self.registry.startswith(prefix) or path in {"", MEMORY}:
            return self.registry
        return prefix + str(self.root / path)


_SETTINGS = tuple(field.name for field in msgspec.structs.fields(Config) if field.name != "root")

_DURATIONS = ("future", "log_retention", "retain", "serving_log_retention")


def read_config(path: str | Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """The settings of a project.

    `path` is a directory, a `tidemark.toml`, `":memory:"` for a project without files, or None for
    the nearest `tidemark.toml` from here upward.  Raises `NotFound` if there is no project.
    """
    if path == MEMORY:
        memory = {"name": "memory", "registry": "sqlite://", "online": "memory:"}
        limits = _overrides(environment, ("memory_limit", "threads", "retain", "future"))
        return _checked(
            {**memory, "datasets": "", "log": "", "serving_log": "", **limits},
            Path.cwd(),
            "the environment",
        )
    file = _find(path)
    try:
        settings: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(
            f"{file.name} is not TOML: {error}.",
            where=str(file),
            remedy='A setting is a line such as definitions = "features.py", with text in quotes.',
        ) from None
    for key in settings:
        if key not in _SETTINGS:
            raise NotFound.named("setting", key, _SETTINGS, where=str(file))
    settings |= _overrides(environment, _SETTINGS)
    if isinstance(settings.get("definitions"), str):
        settings["definitions"] = [settings["definitions"]]
    if isinstance(settings.get("kafka"), str):
        settings["kafka"] = {"bootstrap.servers": settings["kafka"]}
    if isinstance(settings.get("administrators"), str):
        settings["administrators"] = [
            each.strip() for each in settings["administrators"].split(",") if each.strip()
        ]
    return _checked(settings, file.parent, str(file))


def _checked(settings: Mapping[str, Any], root: Path, where: str) -> Config:
    try:
        if isinstance(settings.get("defaults"), dict):
            settings = {**settings, "defaults": _defaults(settings["defaults"])}
        config = msgspec.convert({**settings, "root": root}, Config, strict=False)
    except msgspec.ValidationError as error:
        name = re.search(r"at `\$\.?([^`]*)`", str(error))
        setting = f"The setting {name[1]}" if name else "A setting"
        raise DefinitionError(
            f"{setting} has the wrong type: {str(error).partition(' - at')[0]}.",
            where=where,
            remedy="docs/reference/configuration.md lists the settings.",
        ) from None
    said = {key: getattr(config, key) for key in _DURATIONS}
    said |= {f"schedule, {job}": cadence for job, cadence in config.schedule.items()}
    for key, duration in said.items():
        try:
            if duration:
                parse_duration(duration)
        except DefinitionError as error:
            raise DefinitionError(
                error.what, where=f"{key} in {where}", remedy=error.remedy
            ) from None
    return config


def _defaults(said: dict[str, Any]) -> dict[str, Any]:
    """A set of defaults as it is written: named, and with its delay as a duration."""
    known = [field.name for field in msgspec.structs.fields(Defaults)]
    for key in said:
        if key not in known:
            raise NotFound.named("default", key, known)
    if said.get("name", BUILT_IN.name) == BUILT_IN.name:
        raise msgspec.ValidationError("`defaults` need a name of their own, such as acme-1")
    return {**said, "delay": parse_duration(said["delay"])} if "delay" in said else said


def _overrides(environment: Mapping[str, str], keys: tuple[str, ...]) -> dict[str, Any]:
    names = {key: f"TIDEMARK_{key.upper()}" for key in keys}
    found: dict[str, Any] = {k: environment[n] for k, n in names.items() if n in environment}
    if "definitions" in found:
        found["definitions"] = found["definitions"].split(",")
    return found


def _find(path: str | Path | None) -> Path:
    if path is not None:
        file = Path(path)
        file = (file / FILE if file.is_dir() else file).resolve()
        if file.is_file():
            return file
        raise NotFound(f"There is no project at {path}.", remedy=f"tidemark init {path}")
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / FILE).is_file():
            return directory / FILE
    raise NotFound(
        f"There is no {FILE} here or in any directory above.",
        where=str(here),
        remedy="tidemark init makes a project; tidemark.connect(path) opens one elsewhere, and "
        'tidemark.connect(":memory:") one without files.',
    )
