"""What the store knows of what it served: the serving log, and the audits of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.records import Model
from tidemark.model.window import clock, parse_duration
from tidemark.store.reading import named

if TYPE_CHECKING:
    from tidemark.monitor.audit import Audit
    from tidemark.serve.log import ServingLog
    from tidemark.serve.log.masking import Mask
    from tidemark.store.project import Project
    from tidemark.store.reading import Readers
    from tidemark.store.registry import ProjectRegistry


_AUDITS = Path(".tidemark", "audits.jsonl")
"""Where audits are kept, a line each, where there is no serving log to keep them beside."""


class Observing:
    """The serving log of a store, and its audits; nothing is opened before it is needed."""

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
                remedy='Name a folder for it in tidemark.toml: serving_log = ".tidemark/served". '
                "An audit with probe=10 needs none.",
            )
        if self._log is None:
            from tidemark.serve.log import ServingLog

            self._log = ServingLog(
                config.root / config.serving_log,
                sample=config.serving_log_sample,
                retention=self._retention,
                definitions=lambda revision: self._registry.snapshot(revision).definitions,
                targets=self._targets,
            )
        return self._log

    def audit(
        self,
        *,
        since: datetime | str | None,
        until: datetime | str | None,
        service: str | None,
        sample: float,
        probe: int,
    ) -> Audit:
        """Compute again what was served and compare; see `Store.audit`."""
        from tidemark.monitor.audit import BATCH_ROWS, Blocks, audit
        from tidemark.serve.log import span
        from tidemark.serve.log.files import batches

        _check_audit(sample, probe, until)
        definitions = self._readers.snapshot().definitions
        left_out: dict[str, str] = {}
        damaged: set[str] = set()
        now = clock()
        period = (now, now) if probe else span(since, until)
        if period[0] > min(period[1], now):
            raise RequestInvalid(
                f"The time to audit ends before it begins: from {since} until {until or 'now'}.",
                remedy='since="24h", until="1h" is from a day ago until an hour ago.',
            )
        blocks: Blocks
        with self._project.engine() as engine:
            if probe:
                from tidemark.monitor import probe as probing

                mask = self._mask()
                blocks, left_out = probing.probe(
                    engine,
                    definitions,
                    self._readers.reader,
                    mask,
                    probe,
                    self._read_by(service),
                )
            else:
                mask = self.log.mask
                self.log.flush()
                self.log.check(service)
                blocks = batches(
                    self.log.folder, service, *period, rows=BATCH_ROWS, damaged=damaged
                )
            found = audit(
                engine,
                definitions,
                partial(self._project.functions, definitions),
                blocks,
                mask,
                span=period,
                service=service,
                sample=sample,
                probe=probe,
                left_out=left_out,
                damaged=damaged,
            )
        self._keep(found)
        return found

    def _targets(self) -> list[str]:
        snapshot = self._readers.snapshot()
        services = [each.name for each in snapshot.definitions.services]
        return services + [f"model:{each.reference}" for each in snapshot.models]

    def audits(self) -> list[dict[str, Any]]:
        """The audits that were made, oldest first, as `Audit.to_dict` tells them."""
        with suppress(FileNotFoundError):
            lines = self._history.read_bytes().splitlines()
            return [msgspec.json.decode(line) for line in lines if line.strip()]
        return []

    @property
    def _history(self) -> Path:
        config = self._project.config
        folder = Path(config.serving_log) if config.serving_log else _AUDITS.parent
        return config.root / folder / _AUDITS.name

    def _keep(self, found: Audit) -> None:
        if self._project.config.in_memory:
            return
        line = msgspec.json.encode(found.to_dict(), enc_hook=str) + b"\n"
        with suppress(OSError):  # an audit of a project that one may only read is one all the same
            self._history.parent.mkdir(parents=True, exist_ok=True)
            with self._history.open("ab") as out:
                out.write(line)

    def _mask(self) -> Mask:
        from tidemark.serve.log.masking import Mask

        return self.log.mask if self.kept else Mask(self._project.config.root / _AUDITS.parent)

    def _read_by(self, service: str | None) -> frozenset[str] | None:
        """The features that a service or a model reads, those behind on-demand features too."""
        if service is None:
            return None
        snapshot = self._readers.snapshot()
        definitions, model = snapshot.definitions, named(service, snapshot.records)
        reads = model if isinstance(model, Model) else definitions.service(service)
        needed = definitions.needed(each.reference for each in reads.outputs)
        return frozenset(str(each) for each in needed if each.kind == "feature")

    def close(self) -> None:
        """Write what waits to be."""
        if self._log is not None:
            self._log.close()

    def _recently_read(self, since: datetime) -> Mapping[str, datetime]:
        return self.log.recent_features(since) if self.kept else {}


def _check_audit(sample: float, probe: int, until: datetime | str | None) -> None:
    """Refuse what no audit can look at."""
    if not 0 < sample <= 1 or probe < 0:
        raise RequestInvalid(
            f"sample={sample} is no share of the requests."
            if probe >= 0
            else f"probe={probe} is no number of entities.",
            remedy="sample is more than 0 and at most 1, which is all; probe is a whole number.",
        )
    if probe and (sample < 1 or until is not None):
        raise RequestInvalid(
            "A probe reads entities now: there is nothing to take a sample of, and no until.",
            remedy=f"tidemark audit --probe {probe}, or leave --probe out.",
        )
