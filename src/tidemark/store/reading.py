"""What a read asks for, with what the registry says about it: models, lives, versions."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from tidemark import define
from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.graph import Definitions, Output
from tidemark.model.records import Lifecycle, Model, Records
from tidemark.online.states.underway import UnderWay
from tidemark.online.stores.protocol import OnlineStore
from tidemark.registry import Registry, Snapshot
from tidemark.store.project import Project, identity, listed, name_of

if TYPE_CHECKING:
    from tidemark.serve import Reader
    from tidemark.serve.log import ServingLog

REFRESH_SECONDS = 1.0
"""How long a read may go on with a revision after another process has applied the next one."""

READERS = 256
"""Prepared reads that are kept; more than any application names."""

_MODEL = "model:"

# Deprecations that were told in this process.
_told: set[str] = set()


class Readers:
    """The revision in force, and the readers that were prepared from it."""

    def __init__(self, registry: Registry, online: OnlineStore, project: Project) -> None:
        self._registry, self._project = registry, project
        self.online = online
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._read_at = float("-inf")
        self._lasts = REFRESH_SECONDS
        self._writes = 0
        self._prepared: dict[object, tuple[object, Reader]] = {}
        self.under_way = UnderWay(project.shared_log)
        self.log: ServingLog | None = None
        """Where reads in this process are logged."""
        self.before_reading: Callable[[Definitions, Sequence[Output]], object] = _nothing
        """What is done before outputs are read that were not read before."""

    def __len__(self) -> int:
        return len(self._prepared)

    def snapshot(self) -> Snapshot:
        """The revision in force, read again when it may have changed."""
        self._project.check_open()
        with self._lock:
            now = time.monotonic()
            if now - self._read_at >= self._lasts or self._writes != self._registry.writes:
                self._writes = self._registry.writes
                self._read_at = now
                self._follow(self._registry.snapshot())
            return self._snapshot

    def refresh(self) -> None:
        """Look for a newer revision; until `expire`, reads leave that to whoever calls this.

        What was read of the last revision, and every service, is prepared from the new one before
        reads see it, so that no read waits for that.
        """
        self._project.check_open()
        found = self._registry.snapshot()
        prepared = self._renewed(found) if found.digest != self._snapshot.digest else {}
        with self._lock:
            self._lasts, self._read_at = float("inf"), time.monotonic()
            self._follow(found, prepared)

    def _follow(
        self, found: Snapshot, prepared: dict[object, tuple[object, Reader]] | None = None
    ) -> None:
        if found.digest != self._snapshot.digest:
            self._prepared = prepared or {}
        self._snapshot = found

    def _renewed(self, found: Snapshot) -> dict[object, tuple[object, Reader]]:
        """The readers of a revision that will be asked for, each of which has answered nobody."""
        asked = {key: features for key, (features, _) in list(self._prepared.items())}
        asked |= {(service.name,): service.name for service in found.definitions.services}
        renewed: dict[object, tuple[object, Reader]] = {}
        for key, features in list(asked.items())[:READERS]:
            # Whoever asks for what cannot be read is told then, and it holds up no other.
            with suppress(Exception):
                reader = self._made(found, features)
                renewed[key] = features, reader
                reader.answer_many([])
        return renewed

    def expire(self) -> None:
        """Look for a newer revision at the next read, however short ago the last look was."""
        self._lasts, self._read_at = REFRESH_SECONDS, float("-inf")

    def check(self) -> int:
        """Ask the registry and the online store for something small; gives the revision in force.

        Raises `StoreUnavailable` if one of them does not answer.
        """
        self.online.get_many([b"\0"])
        return self._registry.snapshot().revision

    def prepared(self, features: object) -> Reader | None:
        """What `reader` gives, if the online store need not be asked for that."""
        self.snapshot()
        found = self._prepared.get(identity(features))
        return None if found is None else found[1]

    def reader(self, features: object) -> Reader:
        """What reads vectors of these features; made once for each revision."""
        snapshot = self.snapshot()
        key, prepared = identity(features), self._prepared
        found = prepared.get(key)
        if found is None:
            found = features, self._made(snapshot, features)
            if snapshot.digest == self._snapshot.digest:
                if len(prepared) >= READERS:
                    prepared.clear()
                prepared[key] = found
        return found[1]

    def _made(self, snapshot: Snapshot, features: object) -> Reader:
        from tidemark.serve import Reader

        definitions = snapshot.definitions
        features = named(features, snapshot.records)
        self._project.beside(definitions, features)  # refuses what means something else
        asked = outputs(features, definitions, snapshot.records)
        self.before_reading(definitions, asked)
        return Reader(
            self.online,
            definitions,
            self._project.functions(definitions, asked),
            asked,
            project=self._project.config.namespace,
            target=_target(features, definitions),
            revision=snapshot.revision,
            log=self.log,
            look=self.under_way.look,
        )


def _nothing(_definitions: Definitions, _outputs: Sequence[Output]) -> None:
    """Do nothing."""


def named(features: object, records: Records) -> object:
    """What is asked for; `model:fraud@3`, alone or in a list, is the model, whose pins are read.

    Raises `RequestInvalid` where that is a table: it was meant for labels or keys.
    """
    if isinstance(features, list | tuple):
        several = cast("Sequence[object]", features)
        return named(several[0], records) if _is_model(several) else several
    if isinstance(features, str) and features.startswith(_MODEL):
        return records.model(features.removeprefix(_MODEL))
    if hasattr(features, "__arrow_c_stream__"):
        raise RequestInvalid(
            f"A {type(features).__name__} is a table, not a service or features.",
            remedy="Features come first, labels or keys second: training_set(Fraud, labels).",
        )
    return features


def _is_model(several: Sequence[object]) -> bool:
    return len(several) == 1 and isinstance(several[0], str) and several[0].startswith(_MODEL)


def _target(features: object, definitions: Definitions) -> str:
    """What the serving log calls a read: the model or the service asked for, or `features`."""
    if isinstance(features, Model):
        return f"{_MODEL}{features.reference}"
    services = {each.name for each in definitions.services}
    alone = len(listed(features)) == 1 and name_of(listed(features)[0]) in services
    return name_of(listed(features)[0]) if alone else "features"


def outputs(
    features: object, definitions: Definitions, records: Records, *, full_names: bool = False
) -> tuple[Output, ...]:
    """The columns of what is asked for; warns once in a process of each that is deprecated.

    Raises as `define.outputs` does, and says of a retired feature that it is.
    """
    try:
        found = define.outputs(
            features, definitions, full_names=full_names, stages=records.stages()
        )
    except NotFound as error:
        names = {each for each in listed(features) if isinstance(each, str)}
        for life in records.lifecycle:
            asked = life.feature in error.what or names & {life.feature, _unversioned(life)}
            if life.stage == "retired" and asked:
                raise _retired(life) from None
        if isinstance(features, str) and features in {each.reference for each in records.models}:
            remedy = f'The model is "{_MODEL}{features}".'
            raise NotFound(f"There is no feature {features!r}.", remedy=remedy) from None
        raise
    _heed(definitions, records, found)
    return found


def _heed(definitions: Definitions, records: Records, found: Iterable[Output]) -> None:
    """Refuse what is retired, though its definition is at hand; warn of what is deprecated."""
    lives = {each.feature: each for each in records.lifecycle}
    if not lives:
        return
    for reference in definitions.needed(output.reference for output in found):
        life = lives.get(str(reference))
        if life is None:
            continue
        if life.stage == "retired":
            raise _retired(life)
        if life.stage == "deprecated" and life.feature not in _told:
            _told.add(life.feature)
            warnings.warn(_deprecation(life), FutureWarning, stacklevel=4)


def _deprecation(life: Lifecycle) -> str:
    why = f" ({life.reason})" if life.reason else ""
    end = f" It may end on {life.sunset}." if life.sunset else ""
    instead = f" Read {life.replacement} instead." if life.replacement else ""
    return f"{life.feature} is deprecated{why}.{end}{instead}"


def _unversioned(life: Lifecycle) -> str:
    return life.feature.partition("@")[0]


def _retired(life: Lifecycle) -> NotFound:
    why = f" ({life.reason})" if life.reason else ""
    instead = f"Read {life.replacement} instead." if life.replacement else "Read another version."
    return NotFound(
        f"{life.feature} is retired{why}.",
        remedy=f"{instead} What it meant is in the registry's history: tidemark log.",
    )
