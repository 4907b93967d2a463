"""What lives in this process and in no registry: definition files, functions, frames, engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, cast
from weakref import finalize

import msgspec

from tidemark import define
from tidemark.define import Loaded, Lowered
from tidemark.define.expressions import is_column
from tidemark.define.features import Feature, is_feature
from tidemark.define.modules import imported_function
from tidemark.define.on_demand import is_function
from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model.diff import consumers, diff
from tidemark.model.graph import Definition, Definitions, FeatureView, OnDemand, Output
from tidemark.model.merge import merged
from tidemark.registry import Lost, Plan
from tidemark.store.config import Config

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import EventLog

Function = Callable[..., Any]


class Project:
    """The definitions that `tidemark.toml` names, and the functions and frames met so far.

    Once closed, everything that would start work is a `RequestInvalid` error.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.frames: dict[str, object] = {}
        # By reference and code: definitions that are only planned may say another function.
        self._functions: dict[tuple[str, str], Function] = {}
        self._folders: dict[str, Path] = {}
        self._log: EventLog | None = None
        self._closed = False

    def engine(self) -> DuckDB:
        """An engine that reads the project's history within its limits; whoever asks closes it."""
        from tidemark.engines.duckdb import DuckDB

        self.check_open()
        limits: dict[str, Any] = {}
        if self.config.memory_limit:
            limits["memory_limit"] = self.config.memory_limit
        if self.config.threads:
            limits["threads"] = self.config.threads
        return DuckDB(root=self.config.root, frames=self.frames, log=self.log, **limits)

    @property
    def datasets(self) -> Path:
        """The folder of saved training sets; one that goes with the store if none is configured."""
        return self._place("datasets", self.config.datasets)

    @property
    def has_log(self) -> bool:
        """Whether there may be events of a log; looking creates nothing."""
        configured = self.config.log
        return self._log is not None or (
            bool(configured) and (self.config.root / configured).is_dir()
        )

    @property
    def shared_log(self) -> Path | None:
        """The folder of the log that other processes may use as well; None if there is none."""
        return self.config.root / self.config.log if self.config.log else None

    @property
    def log(self) -> EventLog:
        """The log of events that were pushed or came from streams."""
        if self._log is None:
            from tidemark.engines.log import EventLog

            self._log = EventLog(self._place("log", self.config.log))
        return self._log

    def _place(self, kind: str, configured: str) -> Path:
        if configured:
            return (self.config.root / configured).resolve()
        if kind not in self._folders:
            self._folders[kind] = Path(mkdtemp(prefix=f"tidemark-{kind}-"))
            # A notebook's store is often not closed; its folders go with it all the same.
            finalize(self, rmtree, self._folders[kind], ignore_errors=True)
        return self._folders[kind]

    def check_open(self) -> None:
        """Raise `RequestInvalid` once the store is closed."""
        if self._closed:
            raise RequestInvalid(
                "The store is closed.", remedy="Open it again: tidemark.connect(...)."
            )

    def close(self) -> None:
        """Let go of everything; closing twice is fine."""
        self._closed = True
        if self._log is not None:
            self._log.close()
        while self._folders:
            rmtree(self._folders.popitem()[1], ignore_errors=True)

    def lower(self, definitions: object, applied: Definitions) -> Lowered:
        """Definitions as the model; None: those that `tidemark.toml` names, which are whole.

        Others may name what is applied.
        """
        self.check_open()
        if definitions is None:
            return self._keep(self._load())
        return self._lowered(definitions, applied=applied)

    def functions(
        self, definitions: Definitions, outputs: Iterable[Output], *, edited: bool = False
    ) -> Mapping[str, Function]:
        """The functions that the outputs are computed with, imported where they are not known.

        With `edited`, one whose code is not there any more is the one that is in its place.
        """
        found: dict[str, Function] = {}
        for each in definitions.needed(output.reference for output in outputs):
            if each.kind == "on_demand":
                feature = definitions.on_demand_feature(each.name, each.version)
                try:
                    found[str(each)] = self._function(feature)
                except NotFound:
                    if not edited:
                        raise
                    found[str(each)] = imported_function(feature, self.config.root, edited=True)
        return found

    def _function(self, feature: OnDemand) -> Function:
        """The function of a feature, of just the code that the feature was defined with."""
        known = feature.reference, feature.code
        if known not in self._functions:
            self._functions[known] = imported_function(feature, self.config.root)
        return self._functions[known]

    def lost(self, plan: Plan) -> tuple[Lost, ...]:
        """The on-demand features that the plan keeps although their code is not there any more."""
        found: list[Lost] = []
        for feature in plan.definitions.on_demand:
            if feature.reference in plan.kept:
                try:
                    imported_function(feature, self.config.root)
                except NotFound as error:
                    readers = consumers(plan.definitions, feature.reference)
                    found.append(Lost(feature.reference, error.what, readers))
        return tuple(found)

    def beside(self, applied: Definitions, features: object) -> Definitions:
        """What is applied, and what the objects among `features` define on top of it.

        Raises `PlanConflict` where such an object means something else than what is applied.
        """
        own = self._own(features, applied)
        if not own:
            return applied
        mine = {(type(item), item.name) for item in own}
        rest = [
            item
            for item in applied
            if (type(item), item.name) not in mine and not isinstance(item, FeatureView | OnDemand)
        ]
        definitions = merged(Definitions.of([*own, *rest]), applied)
        for change in diff(applied, definitions):
            # A source may have grown by columns that nothing applied reads.
            if change.what == "meaning" or (change.what == "contract" and change.kind != "source"):
                where = [f"{each.field}: {each.before} -> {each.after}" for each in change.fields]
                raise PlanConflict(
                    f"The {change.title} differs from what is applied.",
                    where="\n".join(where) or f"because {change.through} changed",
                    remedy="Apply it first: store.apply(store.plan()); or name it by text.",
                )
        return definitions

    def _own(self, features: object, applied: Definitions) -> list[Definition]:
        """What the objects among `features` define; nothing if all of them are names."""
        if isinstance(features, Loaded):
            return list(self._lowered(features, applied=applied).definitions)
        several = listed(features)
        written = [item for item in several if not isinstance(item, str | msgspec.Struct)]
        own = list(self._lowered(*written, applied=applied).definitions) if written else []
        return own + [item for item in several if isinstance(item, Definition)]

    def _lowered(self, *written: object, applied: Definitions) -> Lowered:
        return self._keep(
            define.lower(
                *written, defaults=self.config.defaults, root=self.config.root, applied=applied
            )
        )

    def _keep(self, lowered: Lowered) -> Lowered:
        self.frames.update(lowered.frames)
        for feature in lowered.definitions.on_demand:
            function = lowered.functions.get(feature.reference)
            if function is not None:
                self._functions[feature.reference, feature.code] = function
        return lowered

    def _load(self) -> Lowered:
        if not self.config.definitions:
            raise NotFound(
                "There are no definitions to plan.",
                remedy="Pass them, store.plan([Fraud]), or name their file in tidemark.toml: "
                'definitions = "features.py"',
            )
        return define.load_modules(self.config.definitions, self.config.root, self.config.defaults)


def identity(features: object) -> tuple[object, ...]:
    """What tells one request for features from another; equal for the same features."""
    if isinstance(features, str):
        return (features,)
    return tuple(_identity(item) for item in listed(features))


def _identity(item: object) -> object:
    if not isinstance(item, Feature):
        return item
    # `UserSpend.spend["7d"]` is a new object at every mention.
    feature: Feature[Any] = item  # pyright: ignore[reportUnknownVariableType]
    return feature if feature.view is None else (feature.view, feature.name)


def listed(features: object) -> list[object]:
    """One thing or several as a list."""
    alone = isinstance(features, str | type) or not isinstance(features, Iterable)
    return [features] if alone else list(cast("Iterable[object]", features))


def reference_of(item: object) -> str:
    """As `name_of`, with the version that an object has; of a column with what it belongs to."""
    if is_function(item):
        return f"{item.name}@{item.version}"
    if is_feature(item) and item.view is not None:
        return f"{name_of(item)}@{item.version}"
    if is_column(item) and item.owner is not None:
        return f"{name_of(item.owner)}.{item.name}"
    return name_of(item)


def name_of(item: object) -> str:
    """The name of a class, a function, a feature or an object of the model; text is its own."""
    if isinstance(item, str):
        return item
    about = getattr(item, "__about__", None)
    if about is not None:
        return str(about.name)
    name = getattr(item, "name", None)
    if name is None:
        raise RequestInvalid(f"{item!r} is not a definition.", remedy="Pass it, or its name.")
    view = getattr(item, "view", None)
    return f"{name_of(view)}:{name}" if view is not None else str(name)
