"""What lives in this process and in no registry: definition files, functions and frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from msgspec.structs import replace

from tidemark import define
from tidemark.define import Lowered
from tidemark.define.modules import importable_from, imported_function, load_module
from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model.diff import diff
from tidemark.model.graph import Definitions, FeatureView, Output
from tidemark.store.config import Config

Function = Callable[..., Any]


class Project:
    """The definitions that `tidemark.toml` names, and the functions and frames met so far."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.frames: dict[str, object] = {}
        self._functions: dict[str, Function] = {}

    def lower(self, definitions: object) -> Lowered:
        """Definitions as the model; None: those that `tidemark.toml` names."""
        if definitions is None:
            return self._keep(self._load())
        return self._keep(define.lower(definitions))

    def functions(
        self, definitions: Definitions, outputs: Iterable[Output]
    ) -> Mapping[str, Function]:
        """The functions that the outputs are computed with, imported where they are not known."""
        needed = definitions.needed(output.reference for output in outputs)
        names = {reference.name for reference in needed if reference.kind == "on_demand"}
        with importable_from(self.config.root):
            for name in names - self._functions.keys():
                self._functions[name] = imported_function(definitions.on_demand_feature(name))
        return {name: self._functions[name] for name in names}

    def beside(self, applied: Definitions, features: object) -> Definitions:
        """What is applied, and what the objects among `features` define on top of it.

        Raises `PlanConflict` where such an object means something else than what is applied.
        """
        own = self._own(features)
        if own is None:
            return applied
        mine = {(type(item), item.name): item for item in own}
        theirs = {(type(item), item.name): item for item in applied}
        shared = Definitions.of(item for key, item in theirs.items() if key in mine)
        for change in diff(shared, own):
            if change.what in {"meaning", "contract"}:
                where = [f"{each.field}: {each.before} -> {each.after}" for each in change.fields]
                raise PlanConflict(
                    f"The {change.title} differs from what is applied.",
                    where="\n".join(where) or f"because {change.through} changed",
                    remedy="Apply it first: store.apply(store.plan()); or name it by text.",
                )
        for key, item in mine.items():
            there = theirs.get(key)
            if isinstance(item, FeatureView) and isinstance(there, FeatureView):
                names = {feature.name for feature in item.features}
                rest = tuple(each for each in there.features if each.name not in names)
                item = replace(item, features=item.features + rest)  # noqa: PLW2901
            theirs[key] = item
        return Definitions.of(theirs.values())

    def _own(self, features: object) -> Definitions | None:
        """What the objects among `features` define; None if all of them are names."""
        alone = isinstance(features, str | type) or not isinstance(features, Iterable)
        listed: list[object] = [features] if alone else list(cast("Iterable[object]", features))
        objects = [item for item in listed if not isinstance(item, str)]
        return self._keep(define.lower(*objects)).definitions if objects else None

    def _keep(self, lowered: Lowered) -> Lowered:
        self.frames.update(lowered.frames)
        self._functions.update(lowered.functions)
        return lowered

    def _load(self) -> Lowered:
        if not self.config.definitions:
            raise NotFound(
                "There are no definitions to plan.",
                remedy="Pass them, store.plan([Fraud]), or name their file in tidemark.toml: "
                'definitions = "features.py"',
            )
        root = self.config.root
        return define.lower(*(load_module(name, root) for name in self.config.definitions))


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
