"""What the store knows of what it served."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.window import parse_duration

if TYPE_CHECKING:
    from tidemark.serve.log import ServingLog
    from tidemark.store.project import Project
    from tidemark.store.reading import Readers
    from tidemark.store.registry import ProjectRegistry


class Observing:
    """The serving log of a store; nothing is opened before it is needed."""

    def __init__(self, project: Project, registry: ProjectRegistry, readers: Readers) -> None:
        self._project, self._registry, self._readers = project, registry, readers
        self._log: ServingLog | None = None
        config = project.config
        registry.recently_read = self._recently_read
        if not 0 < config.serving_log_sample <= 1:
            raise RequestInvalid(
                f"serving_log_sample is {config.serving_log_sample}: a share of all keys, "
                "more than 0 and at most 1.",
                remedy='To keep no serving log: serving_log = "".',
            )
        self._retention = 0
        if config.serving_log_retention:
            self._retention = parse_duration(config.serving_log_retention)
        if config.serving_log and config.serving_log_in_process:
            readers.log = self.log

    @property
    def kept(self) -> bool:
        """Whether a serving log is kept."""
        return bool(self._project.config.serving_log)

    @property
    def log(self) -> ServingLog:
        """The serving log; raises `NotFound` where none is kept."""
        config = self._project.config
        if not config.serving_log:
            raise NotFound(
                "No serving log is kept.",
                remedy='Name a folder for it in tidemark.toml: serving_log = ".tidemark/served".',
            )
        if self._log is None:
            from tidemark.serve.log import ServingLog

            self._log = ServingLog(
                config.root / config.serving_log,
                sample=config.serving_log_sample,
                retention=self._retention,
                definitions=lambda revision: self._registry.snapshot(revision).definitions,
            )
        return self._log

    def close(self) -> None:
        """Write what waits to be."""
        if self._log is not None:
            self._log.close()

    def _recently_read(self, since: datetime) -> Mapping[str, datetime]:
        return self.log.recent_features(since) if self.kept else {}
