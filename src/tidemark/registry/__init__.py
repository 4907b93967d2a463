"""What is deployed: revisions of all definitions, who made them, and the way to the next one."""

from __future__ import annotations

import getpass
import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

import msgspec

from tidemark import define
from tidemark.errors import EngineError, NotFound, PlanConflict, RequestInvalid, StoreUnavailable
from tidemark.model.diff import diff
from tidemark.model.fingerprint import ENGINE_EPOCH
from tidemark.model.graph import Definitions
from tidemark.model.lineage import Consumer, Direction, Lineage
from tidemark.model.records import DatasetRecord, Model, ModelStage, Records
from tidemark.model.search import Results
from tidemark.model.twins import Twin, twins
from tidemark.model.window import format_moment, parse_moment
from tidemark.registry.consumers import registered, with_model
from tidemark.registry.discovery import Discovery
from tidemark.registry.plan import Applied, Plan
from tidemark.registry.protocol import NO_REVISION, Reader, Revision, Writer
from tidemark.registry.sql import SqlRevisions

__all__ = ["Applied", "Plan", "Reader", "Registry", "Revision", "Snapshot", "Writer", "whoami"]

_ATTEMPTS = 1_000
"""How often a change that commutes with others is tried; each time at least one writer got on."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is defined as of one revision; revision 0 is the empty registry.

    `records` are the lives of features, the models and the datasets.  `at` is in microseconds since
    1970 UTC; `epoch` is the engine epoch it was applied under.
    """

    revision: int = 0
    digest: str = NO_REVISION
    author: str = ""
    at: int = 0
    reason: str = ""
    epoch: int = ENGINE_EPOCH
    definitions: Definitions = Definitions()
    records: Records = Records()

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that are registered."""
        return self.records.models

    @property
    def datasets(self) -> tuple[DatasetRecord, ...]:
        """The datasets that are kept."""
        return self.records.datasets


class Registry:
    """The registry in a database named by a URL, such as `sqlite:///registry.db`.

    Nothing is opened before first use.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._revisions: Writer = SqlRevisions(url)
        self._newest = Snapshot()
        self._discovery = Discovery()

    def snapshot(self, as_of: int | str | datetime | None = None) -> Snapshot:
        """Everything that is defined, now or as of a revision number or a moment.

        Raises `NotFound` if there was no such revision, `EngineError` if it was tampered with.
        """
        if as_of is None:
            if self._revisions.head() != self._newest.digest:
                latest = self._revisions.latest()
                self._newest = _read(latest) if latest else Snapshot()
            return self._newest
        if isinstance(as_of, int):
            found = self._revisions.revision(as_of)
        else:
            found = self._revisions.revision_at(parse_moment(as_of))
        if found is None:
            raise NotFound(
                f"There is no revision as of {as_of}.",
                remedy="store.registry.history() lists them.",
            )
        return _read(found)

    def history(self) -> list[Snapshot]:
        """All revisions, oldest first, after checking that each follows from the one before."""
        revisions = self._revisions.revisions()
        _check_chain(revisions)
        return [_read(each) for each in revisions]

    def plan(self, definitions: Definitions) -> Plan:
        """What applying the definitions would change; changes nothing itself."""
        snapshot = self.snapshot()
        changes = diff(snapshot.definitions, definitions)
        features = {"feature", "on-demand feature"}
        added = {each.name for each in changes if each.what == "added" and each.kind in features}
        return Plan(
            revision=snapshot.revision,
            base=snapshot.digest,
            epoch=snapshot.epoch,
            definitions=definitions,
            changes=changes,
            twins=twins(definitions, added),
        )

    def apply(
        self,
        plan: Plan,
        *,
        reason: str = "",
        author: str | None = None,
        allow_duplicates: Collection[str] = (),
    ) -> Applied:
        """Make the plan's definitions the ones in force, in one step that happens or does not.

        `author` is otherwise `TIDEMARK_AUTHOR` or the user of the machine.  Raises `PlanConflict`
        when the registry has moved on since the plan was made, or when the plan is refused.  A
        feature named in `allow_duplicates` may mean the same as another one; the reason, which must
        then be given, records it.
        """
        plan.check(allow_duplicates)
        if allow_duplicates and plan.duplicates:
            if not reason:
                raise RequestInvalid(
                    "Two names for one meaning need a reason.",
                    where="\n".join(str(twin) for twin in plan.duplicates),
                    remedy="It is kept in the registry's history: reason=..., or --reason.",
                )
            pairs = "; ".join(f"{twin.first} = {twin.second}" for twin in plan.duplicates)
            reason = f"{reason} (duplicates allowed: {pairs})"
        current = self.snapshot()
        if current.digest != plan.base:
            raise _stale(plan, current.revision)
        if plan.empty:
            return _applied(current, plan)
        revision = self._revision(current, plan.definitions, current.records, reason, author)
        if not self._revisions.append(revision):
            raise _stale(plan, self.snapshot().revision)
        return _applied(_read(revision), plan)

    def register_model(
        self,
        name: str,
        version: int,
        *,
        service: object,
        dataset: str | None = None,
        owner: str = "",
        stage: ModelStage = "production",
        author: str | None = None,
    ) -> Model:
        """Say that a model exists and pin it to the exact versions of the features that it reads.

        `service` is a service, a list of features, or their names; `dataset` the name of the one
        that the model was trained on.  Owner, dataset and stage may be said anew, pins may not:
        `PlanConflict`.
        """
        by = author or whoami()
        model = Model(name, version, ())

        def edit(snapshot: Snapshot) -> Records:
            nonlocal model
            outputs = define.outputs(service, snapshot.definitions)
            services = {each.name for each in snapshot.definitions.services}
            about = getattr(service, "__about__", service)
            named = about if isinstance(about, str) else str(getattr(about, "name", ""))
            model = Model(
                name=name,
                version=version,
                outputs=outputs,
                service=named if named in services else "",
                dataset=dataset or "",
                owner=owner or by,
                stage=stage,
            )
            if dataset:
                snapshot.records.dataset(dataset)
            return with_model(snapshot.records, snapshot.definitions, model)

        self.record(edit, reason=f"model {name}@{version}", author=by)
        return model

    def register_dataset(self, dataset: DatasetRecord, *, author: str | None = None) -> None:
        """Keep a dataset for good; raises `PlanConflict` if there is another of its name."""

        def edit(now: Snapshot) -> Records:
            if any(each.name == dataset.name and each != dataset for each in now.datasets):
                raise PlanConflict(
                    f"There is a dataset {dataset.name!r}.",
                    remedy="Datasets never change: choose another name.",
                )
            return now.records.with_dataset(dataset)

        self.record(edit, reason=f"dataset {dataset.name}", author=author)

    def model(self, name: str, version: int | None = None) -> Model:
        """A model, the newest version if none is named; what reads features reads its pins."""
        reference = name if version is None else f"{name}@{version}"
        return self.snapshot().records.model(reference)

    def record(
        self,
        edit: Callable[[Snapshot], Records],
        *,
        reason: str = "",
        author: str | None = None,
    ) -> Snapshot:
        """Change what is kept beside the definitions, in a revision of its own.

        `edit` gives the records that follow from a snapshot, and is asked again when another writer
        came between: what it does must hold in whatever order such changes are made.
        """
        for _ in range(_ATTEMPTS):
            current = self.snapshot()
            records = edit(current)
            if records == current.records:
                return current
            revision = self._revision(current, current.definitions, records, reason, author)
            if self._revisions.append(revision):
                return _read(revision)
            time.sleep(random.uniform(0.001, 0.05))  # noqa: S311  # so that writers part
        raise StoreUnavailable(
            "Others kept changing the registry.", where=self.url, remedy="Try again."
        )

    def search(
        self,
        text: str = "",
        *,
        entity: str | None = None,
        owner: str | None = None,
        tag: str | None = None,
        type: str | None = None,  # noqa: A002
        source: str | None = None,
        kind: str | None = None,
        limit: int = 10,
        consumers: Iterable[Consumer] = (),
        as_of: int | str | datetime | None = None,
    ) -> Results:
        """What fits the words best, of all that fits the filters exactly.

        Words are looked for in names, descriptions, tags, entities, columns, owners and what the
        definitions say; `30 days` is `30d`.  `type` is that of the value (`int64`), `kind` a word
        such as `feature` or `source`.  `consumers` are others that count as use, beside the models
        and datasets that are registered.
        """
        snapshot = self.snapshot(as_of)
        readers = (*registered(snapshot.records), *consumers)
        index = self._discovery.index(snapshot.digest, snapshot.definitions, readers)
        return index.search(
            text,
            entity=entity,
            owner=owner,
            tag=tag,
            type=type,
            source=source,
            kind=kind,
            limit=limit,
        )

    def duplicates(self, *, as_of: int | str | datetime | None = None) -> tuple[Twin, ...]:
        """Pairs of features that mean the same, then those that nearly do and what differs."""
        snapshot = self.snapshot(as_of)
        return self._discovery.twins(snapshot.digest, snapshot.definitions)

    def lineage(
        self,
        ref: str,
        direction: Direction = "both",
        *,
        consumers: Iterable[Consumer] = (),
        as_of: int | str | datetime | None = None,
    ) -> Lineage:
        """What a definition comes from (`upstream`), goes to (`downstream`), or both.

        `ref` names a source, `source.column`, entity, view, feature, request, `request.field`,
        on-demand feature, service, model or dataset; `consumers` are others beside those that are
        registered.  Raises `NotFound`.
        """
        snapshot = self.snapshot(as_of)
        readers = (*registered(snapshot.records), *consumers)
        index = self._discovery.lineage(snapshot.digest, snapshot.definitions, readers)
        return index.of(ref, direction)

    def _revision(
        self,
        current: Snapshot,
        definitions: Definitions,
        records: Records,
        reason: str,
        author: str | None,
    ) -> Revision:
        """The revision that follows the current one."""
        return Revision(
            number=current.revision + 1,
            previous=current.digest,
            author=author or whoami(),
            at=max(time.time_ns() // 1_000, current.at),
            reason=reason,
            epoch=ENGINE_EPOCH,
            definitions=msgspec.json.encode(definitions).decode(),
            records=_text(records),
        ).sealed()

    def close(self) -> None:
        """Close the connections to the database."""
        self._revisions.close()


def _read(revision: Revision) -> Snapshot:
    if revision.digest != revision.expected_digest():
        raise _tampered(revision)
    return Snapshot(
        revision=revision.number,
        digest=revision.digest,
        author=revision.author,
        at=revision.at,
        reason=revision.reason,
        epoch=revision.epoch,
        definitions=msgspec.json.decode(revision.definitions, type=Definitions),
        records=msgspec.json.decode(revision.records or "{}", type=Records),
    )


def _text(records: Records) -> str:
    return "" if records == Records() else msgspec.json.encode(records).decode()


def _check_chain(revisions: Sequence[Revision]) -> None:
    previous = NO_REVISION
    for number, revision in enumerate(revisions, 1):
        if revision.number != number or revision.previous != previous:
            raise _tampered(revision)
        previous = revision.digest


def _tampered(revision: Revision) -> EngineError:
    return EngineError(
        f"Revision {revision.number} of the registry is not what was applied.",
        where=f"by {revision.author} at {format_moment(revision.at)}",
        remedy="Somebody edited the database; restore it from a copy.",
    )


def _stale(plan: Plan, current: int) -> PlanConflict:
    return PlanConflict(
        f"The plan was made against revision {plan.revision}; the registry is at {current}.",
        remedy="Plan again, look at it, and apply that.",
    )


def _applied(snapshot: Snapshot, plan: Plan) -> Applied:
    return Applied(
        revision=snapshot.revision,
        digest=snapshot.digest,
        author=snapshot.author,
        at=snapshot.at,
        reason=snapshot.reason,
        changes=plan.changes,
    )


def whoami() -> str:
    """Who changes are recorded for: `TIDEMARK_AUTHOR`, else the user of the machine."""
    if "TIDEMARK_AUTHOR" in os.environ:
        return os.environ["TIDEMARK_AUTHOR"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
