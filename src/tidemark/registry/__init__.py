"""What is deployed: revisions of all definitions, who made them, and the way to the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from msgspec.structs import replace

from tidemark import define
from tidemark.errors import PlanConflict, RequestInvalid
from tidemark.model.defaults import BUILT_IN, Defaults
from tidemark.model.graph import Definitions
from tidemark.model.lineage import Consumer, Direction, Lineage
from tidemark.model.records import Confirmation, DatasetRecord, Model, ModelStage, Records
from tidemark.model.search import Results
from tidemark.model.twins import Twin
from tidemark.model.window import clock, parse_duration
from tidemark.registry.consumers import registered, with_model
from tidemark.registry.discovery import Discovery
from tidemark.registry.history import History, whoami
from tidemark.registry.keys import Keys, NewKey
from tidemark.registry.lives import deprecated, published, retired
from tidemark.registry.plan import Applied, Backfill, Lost, Plan, unconfirmed_error
from tidemark.registry.planning import make_plan, records_after
from tidemark.registry.protocol import Key, Reader, Revision, Writer
from tidemark.registry.snapshots import Snapshot
from tidemark.registry.sql import SqlRevisions

__all__ = [
    "Applied",
    "Backfill",
    "Key",
    "Keys",
    "Lost",
    "NewKey",
    "Plan",
    "Reader",
    "RecentReads",
    "Registry",
    "Revision",
    "Snapshot",
    "Writer",
    "whoami",
]


RecentReads = Callable[[datetime], Mapping[str, datetime]]
"""Which features (`view:feature@1`) were read from a moment on, and when last."""


class Registry(History):
    """The registry in a database named by a URL, such as `sqlite:///registry.db`.

    Nothing is opened before first use.  `administrators` may confirm for any model;
    `defaults` are those that definitions are completed with.  `keys` are those of its callers.
    `recently_read` tells which features were read; whoever has a log of reads sets it.
    """

    def __init__(
        self, url: str, *, administrators: Collection[str] = (), defaults: Defaults = BUILT_IN
    ) -> None:
        super().__init__(SqlRevisions(url), url)
        self.recently_read: RecentReads = _nothing_read
        self.keys = Keys(self._revisions, lambda: self.snapshot().definitions)
        self.defaults = defaults
        self.administrators = tuple(administrators)
        self._discovery = Discovery()

    def plan(self, definitions: Definitions, *, restated: Sequence[str] = ()) -> Plan:
        """What applying the definitions would change; changes nothing itself.

        `restated` names sources whose history was rewritten under unchanged definitions.  Raises
        `DefinitionError` if the definitions do not fit what the registry keeps.
        """
        made = make_plan(self.snapshot(), definitions, restated, self.defaults)
        if not made.models:
            return made
        return replace(made, confirmed=tuple(self._revisions.confirmations(made.digest)))

    def revert(self, as_of: int | str | datetime) -> Plan:
        """A plan that says again what was said then; versions published since are kept."""
        return self.plan(self.snapshot(as_of).definitions)

    def confirm(self, plan: Plan, *, model: str, by: str) -> None:
        """Record that somebody answerable for a model consents to exactly this plan.

        `by` is the model's owner or an administrator.  Raises `PlanConflict` for anybody else, for
        a model that the plan does not reach, and for a plan that is stale.
        """
        now = self.snapshot()
        if now.digest != plan.base:
            raise _stale(plan, now.revision)
        plan = self._remade(plan)
        found = {each.model: each for each in plan.models}
        if model not in found:
            raise PlanConflict(
                f"The plan does not need a confirmation for {model}.",
                where=f"It needs: {', '.join(found) or 'none'}.",
            )
        answerable = {found[model].owner, *self.administrators} - {""}
        if by not in answerable:
            raise PlanConflict(
                f"{by} cannot confirm for {model}.",
                where=f"It is confirmed by {', '.join(sorted(answerable)) or 'nobody yet'}.",
                remedy="Its owner or an administrator (administrators = [...] in tidemark.toml) "
                "confirms.",
            )
        moment = clock()
        self._revisions.confirm(Confirmation(plan.digest, model, by, moment))

    def apply(
        self,
        plan: Plan,
        *,
        reason: str = "",
        author: str | None = None,
        allow_duplicates: Collection[str] = (),
        draft: bool = False,
    ) -> Applied:
        """Make the plan's definitions the ones in force, in one step that happens or does not.

        `author` is otherwise `TIDEMARK_AUTHOR` or the user of the machine.  Raises `PlanConflict`
        when the registry has moved on since the plan was made, or when the plan is refused.  A
        feature named in `allow_duplicates` may mean the same as another one; the reason, which must
        then be given, records it.  With `draft`, the features that the plan adds may still change.
        """
        current = self.snapshot()
        if current.digest != plan.base:
            raise _stale(plan, current.revision)
        plan = self._remade(plan)
        plan.check(allow_duplicates)
        confirmed = self._revisions.confirmations(plan.digest) if plan.models else ()
        if lacking := plan.lacking(confirmed):
            raise unconfirmed_error(lacking, plan.digest)
        if allow_duplicates and plan.duplicates:
            if not reason:
                raise RequestInvalid(
                    "Two names for one meaning need a reason.",
                    where="\n".join(str(twin) for twin in plan.duplicates),
                    remedy="It is kept in the registry's history: reason=..., or --reason.",
                )
            pairs = "; ".join(f"{twin.first} = {twin.second}" for twin in plan.duplicates)
            reason = f"{reason} (duplicates allowed: {pairs})"
        if plan.empty:
            return _applied(current, plan)
        then = replace(
            current,
            definitions=plan.definitions,
            records=records_after(current.records, plan, confirmed, draft=draft),
        )
        made = self._append(current, then, reason, author)
        if made is None:
            raise _stale(plan, self.snapshot().revision)
        return _applied(made, plan)

    def deprecate(
        self,
        feature: str,
        *,
        replacement: str = "",
        sunset: str | date = "",
        reason: str = "",
        author: str | None = None,
    ) -> None:
        """Say that a feature is to be left: it serves on, and whoever reads it is warned once.

        `replacement` is the feature to read instead, `sunset` the day from which it may end.
        """
        why = reason or f"deprecate {feature}"
        self._change(
            lambda now: deprecated(
                now, feature, replacement=replacement, sunset=sunset, reason=reason
            ),
            why,
            author,
        )

    def retire(
        self,
        feature: str,
        *,
        replacement: str = "",
        reason: str = "",
        unread_for: str | timedelta | None = "7d",
        author: str | None = None,
    ) -> None:
        """End a feature: it serves no more, and its version is never used for anything else.

        Raises `PlanConflict` while a service, an on-demand feature or a model uses it, and if it
        was read within `unread_for`, as far as reads are logged; None does not ask.
        """
        read: Mapping[str, datetime] = {}
        if unread_for is not None:
            lately = timedelta(microseconds=parse_duration(unread_for))
            read = self.recently_read(datetime.now(UTC) - lately)
        self._change(
            lambda now: retired(now, feature, replacement=replacement, reason=reason, read=read),
            reason or f"retire {feature}",
            author,
        )

    def publish(self, feature: str, *, reason: str = "", author: str | None = None) -> None:
        """Publish a draft, take a deprecation back, or let a retired feature be defined again."""
        why = reason or f"publish {feature}"
        self._change(lambda now: published(now, feature), why, author)

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
            return with_model(snapshot.records, snapshot.definitions, model)

        self.record(edit, reason=f"model {name}@{version}", author=by)
        return model

    def register_dataset(self, dataset: DatasetRecord, *, author: str | None = None) -> None:
        """Keep a dataset for good; raises `PlanConflict` if there is one of its name."""

        def edit(now: Snapshot) -> Records:
            if any(each.name == dataset.name for each in now.datasets):
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
        return self._change(lambda now: replace(now, records=edit(now)), reason, author)

    def _remade(self, plan: Plan) -> Plan:
        """The plan with what it says made anew, so that no text of a file has to be trusted."""
        made = make_plan(self.snapshot(), plan.definitions, plan.restated, plan.defaults)
        if (made.digest, made.changes) != (plan.digest, plan.changes):
            raise PlanConflict(
                "The plan does not say what applying it would do.",
                remedy="Plan again, look at it, and apply that.",
            )
        return replace(plan, models=made.models, drafts=made.drafts, twins=made.twins)

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
        stages = snapshot.records.stages()
        index = self._discovery.index(snapshot.digest, snapshot.definitions, readers, stages)
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


def _nothing_read(_since: datetime) -> Mapping[str, datetime]:
    return {}


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
