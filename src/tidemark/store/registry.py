"""The registry of a project: with its history, its online state and its datasets at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tidemark.ingest.tidying import Published
from tidemark.model.diff import feature_name
from tidemark.model.graph import Definitions
from tidemark.model.lineage import Consumer, Direction, Lineage
from tidemark.model.records import DatasetRecord
from tidemark.online.states.coverage import Unserved, standing, unserved
from tidemark.online.stores.protocol import OnlineStore
from tidemark.registry import Backfill, Plan, Registry
from tidemark.registry.plan import Alike
from tidemark.store.project import Project, listed, name_of, reference_of
from tidemark.store.verification import Verification, verify

if TYPE_CHECKING:
    from tidemark.engines.dataset import Dataset
    from tidemark.monitor.agreement import ValueTwin


class ProjectRegistry(Registry):
    """A registry that can ask history and online state what only they know.

    `Registry` says what is deployed from its own documents; this one also says what a plan would
    have to backfill, whether a dataset comes out again, and which features give the same values.
    """

    def __init__(self, project: Project, online: OnlineStore) -> None:
        config = project.config
        super().__init__(
            config.registry_url, administrators=config.administrators, defaults=config.defaults
        )
        self._project = project
        self._online = online

    def plan(
        self, definitions: Definitions, *, restated: Sequence[str] = (), values: bool = False
    ) -> Plan:
        """What applying the definitions would change, with missing rows and code that is gone.

        With `values`, features that are added are computed for a sample of entities and compared
        with those of other views of their entity.
        """
        self._project.check_open()
        plan = super().plan(definitions, restated=restated)
        plan = replace(plan, backfill=self._missing(plan), lost=self._project.lost(plan))
        return replace(plan, alike=self._alike(plan)) if values else plan

    def _alike(self, plan: Plan) -> tuple[Alike, ...]:
        """The features that the plan adds whose values are those of another one."""
        from tidemark.monitor.agreement import value_twins

        added = {change.name for change in plan.changes if change.what == "added"}
        found: list[Alike] = []
        with self._project.engine() as engine:
            for twin in value_twins(engine, plan.definitions):
                new, old = twin.first, twin.second
                if new not in added:
                    new, old = old, new
                if new in added:
                    found.append(Alike(new, old, twin.agreement, twin.rows))
        return tuple(found)

    def deprecate(
        self,
        feature: object,
        *,
        replacement: object = "",
        sunset: str | date = "",
        reason: str = "",
        author: str | None = None,
    ) -> None:
        """As `Registry.deprecate`, of features as objects or by their names."""
        super().deprecate(
            reference_of(feature),
            replacement=reference_of(replacement),
            sunset=sunset,
            reason=reason,
            author=author,
        )

    def retire(
        self,
        feature: object,
        *,
        replacement: object = "",
        reason: str = "",
        unread_for: str | timedelta | None = "7d",
        author: str | None = None,
    ) -> None:
        """As `Registry.retire`, of features as objects or by their names."""
        super().retire(
            reference_of(feature),
            replacement=reference_of(replacement),
            reason=reason,
            unread_for=unread_for,
            author=author,
        )

    def publish(self, feature: object, *, reason: str = "", author: str | None = None) -> None:
        """As `Registry.publish`, of features as objects or by their names."""
        super().publish(reference_of(feature), reason=reason, author=author)

    def lineage(
        self,
        ref: object,
        direction: Direction = "both",
        *,
        consumers: Iterable[Consumer] = (),
        as_of: int | str | datetime | None = None,
    ) -> Lineage:
        """As `Registry.lineage`, of whatever is defined, as an object or by its name."""
        return super().lineage(reference_of(ref), direction, consumers=consumers, as_of=as_of)

    def published(self) -> Published:
        """What this registry defines, for what keeps online rows of it."""
        return Published(
            self.identity, lambda: {view.name for view in self.snapshot().definitions.views}
        )

    def datasets(self, *, as_of: int | str | datetime | None = None) -> list[Dataset]:
        """The datasets that are kept, in the order of their names."""
        return [self._read(record) for record in self.snapshot(as_of).datasets]

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name; raises `NotFound`."""
        return self._read(self.snapshot().records.dataset(name))

    def verify_dataset(self, name: str) -> Verification:
        """Make a saved training set again, as it was defined, from the sources as they are now.

        It has the same content, or the inputs that changed are named, with what they altered.
        """
        with self._project.engine() as engine:
            return verify(engine, self, self._project, name)

    def value_twins(self, *, entities: int = 200, least: float = 0.95) -> tuple[ValueTwin, ...]:
        """Features of different views that give the same values, whatever their definitions say.

        Computed for up to `entities` entities of each kind, the same ones at every call, at three
        moments; pairs that agree on at least `least` of the rows are told.
        """
        from tidemark.monitor.agreement import value_twins

        with self._project.engine() as engine:
            return value_twins(engine, self.snapshot().definitions, entities=entities, least=least)

    def _read(self, record: DatasetRecord) -> Dataset:
        from tidemark.engines.dataset import read

        return read(record.name, self._project.config.root / record.path)

    def estimate(self, views: object = None) -> tuple[Backfill, ...]:
        """What materializing the views (None: all) will be like, before it is done."""
        definitions = self.snapshot().definitions
        asked = definitions.views if views is None else listed(views)
        names = {name_of(each) for each in asked}
        features = {
            feature_name(view, feature)
            for name in names
            for view in definitions.variants(name)
            for feature in view.features
        }
        found = standing(
            self._online, definitions, features, project=self._project.config.namespace
        )
        return self._sized(definitions, found)

    def _missing(self, plan: Plan) -> tuple[Backfill, ...]:
        """The features that the plan touches and that the online rows do not answer for."""
        altered = {
            name
            for change in plan.changes
            if change.what in {"added", "meaning"}
            for name in (change.name, *change.affects)
            if ":" in name
        }
        if not altered:
            return ()
        namespace = self._project.config.namespace
        found = unserved(self._online, plan.definitions, altered, project=namespace)
        return self._sized(plan.definitions, found)

    def _sized(self, definitions: Definitions, found: Sequence[Unserved]) -> tuple[Backfill, ...]:
        """How much each view is: as last time, or else as its source has now."""
        backfill = [
            Backfill(
                each.view,
                each.features,
                each.rows,
                each.events,
                each.seconds,
                each.largest,
                each.growing,
            )
            for each in found
        ]
        if all(each.events is not None for each in backfill):
            return tuple(backfill)
        from tidemark.engines.estimate import Sizes

        with self._project.engine() as engine:
            sizes = Sizes(engine)
            for number, each in enumerate(backfill):
                if each.events is None:
                    view = definitions.variants(each.view)[-1]
                    size = sizes.of(definitions.source(view.source), view.keys)
                    backfill[number] = replace(
                        each,
                        rows=size.entities,
                        events=size.events,
                        counted=size.events is not None,
                    )
        return tuple(backfill)
