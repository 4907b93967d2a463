"""From what users wrote to the model: classes, functions, modules and documents alike."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec

from tidemark.define.code import Code, code_of
from tidemark.define.columns import HeldFrame
from tidemark.define.declarations import (
    About,
    Declaration,
    Entity,
    Request,
    Source,
    is_declared,
    is_unknown,
)
from tidemark.define.expressions import Col, Expression, is_column
from tidemark.define.features import Feature, is_feature
from tidemark.define.linking import NOTHING, completed, link, read_reference
from tidemark.define.lowered import Loaded, Lowered
from tidemark.define.on_demand import OnDemandFunction, is_function
from tidemark.define.parts import (
    checked_names,
    condition,
    default_literal,
    gives,
    key_columns,
    reads_elsewhere,
)
from tidemark.define.problems import Place, collecting, ordered, report
from tidemark.define.views import FeatureService, FeatureView, expanded
from tidemark.errors import DefinitionError, NotFound, Problem
from tidemark.model import graph
from tidemark.model.aggregates import Aggregate
from tidemark.model.canonical import canonical
from tidemark.model.check import check
from tidemark.model.defaults import BUILT_IN, Defaults
from tidemark.model.findings import Spelling, Subject


def lower(
    *objects: object,
    defaults: Defaults = BUILT_IN,
    root: str | Path = ".",
    applied: graph.Definitions | None = NOTHING,
) -> Lowered:
    """Lower modules, classes, functions, model objects and lists of them, with all they need.

    `defaults` are written where views and sources do not say; functions that are only named are
    imported from the project's root.  What is named by text may be `applied` already; None leaves
    it to whoever knows.  Raises `DefinitionError` with every problem.
    """
    lowering = _Lowering(defaults, Path(root).resolve(), applied)
    with collecting() as problems:
        for each in objects:
            lowering.add(each)
    return lowering.finish(problems)


class _Lowering:
    """Objects by kind and name; a class is lowered once, what it refers to with it."""

    def __init__(self, defaults: Defaults, root: Path, applied: graph.Definitions | None) -> None:
        self.defaults = defaults
        self.root = root
        self.applied = applied
        self.done: set[int] = set()
        self.objects: list[graph.Definition] = []
        self.functions: dict[str, Callable[..., Any]] = {}
        self.frames: dict[str, object] = {}
        self.spelled: dict[Subject, Spelling] = {}
        # References that need not be to something that is written here.
        self.pinned: set[graph.Reference] = set()
        # Classes of which nothing is left besides what has been reported.
        self.left_out: set[type] = set()

    def finish(self, problems: Sequence[Problem]) -> Lowered:
        """Check everything together."""
        applied = self.applied or NOTHING
        definitions = completed(link(graph.Definitions.of(self.objects), applied), applied)
        wrong = check(definitions, self.spelled, pinned=self.pinned, applied=applied)
        missing = list(self.importable(definitions))
        definitions, refused = self.coded(definitions)
        found = [*problems, *wrong, *missing, *refused]
        if found:
            raise DefinitionError(ordered(found))
        return Lowered(canonical(definitions), self.functions, self.frames)

    def coded(self, definitions: graph.Definitions) -> tuple[graph.Definitions, Sequence[Problem]]:
        """The definitions with the fingerprints of their functions; what these may not use."""
        found: list[Problem] = []
        features: list[graph.OnDemand] = []
        for feature in definitions.on_demand:
            function = self.functions.get(feature.reference)
            code = code_of(function) if function is not None else Code(feature.code, ())
            features.append(msgspec.structs.replace(feature, code=code.fingerprint))
            spelling = self.spelled.get(Subject("on_demand", feature.name))
            where = str(spelling.where) if spelling else feature.function
            found += [
                Problem(
                    f"{feature.name} gives different values for the same inputs: {why}.",
                    where,
                    "Make it an input: a request field, or a feature.",
                )
                for why in code.refused
            ]
        return msgspec.structs.replace(definitions, on_demand=tuple(features)), found

    def importable(self, definitions: graph.Definitions) -> Iterator[Problem]:
        """Import the functions that are named only; what cannot be is a problem."""
        from tidemark.define.modules import imported_function

        for feature in definitions.on_demand:
            if feature.reference not in self.functions:
                try:
                    self.functions[feature.reference] = imported_function(feature, self.root)
                except NotFound as error:
                    spelling = self.spelled.get(Subject("on_demand", feature.name))
                    yield Problem(error.what, str(spelling.where) if spelling else "", error.remedy)

    def add(self, item: object) -> None:
        """Take in one object and what it refers to."""
        if is_unknown(item) or id(item) in self.done:
            return
        if is_declared(item):
            self.done.add(id(item))
            if "__about__" in vars(item) and not item.__about__.abstract:
                self.declared(item)
        elif is_function(item):
            self.done.add(id(item))
            self.on_demand(item)
        elif is_feature(item):
            self.add(item.view)
        elif isinstance(item, Lowered):
            self.objects.extend(item.definitions)
            self.functions.update(item.functions)
            self.frames.update(item.frames)
        elif isinstance(item, graph.Definition):
            self.objects.append(item)
        elif isinstance(item, Loaded):
            self.spelled.update(item.spelled)
            self.frames.update(item.frames)
            self.pinned |= item.pinned
            self.objects.extend(self.completed(item))
        elif isinstance(item, ModuleType):
            self.module(item)
        elif isinstance(item, Mapping):
            from tidemark.define.document import load

            self.add(load(cast("Mapping[str, Any]", item)))
        elif isinstance(item, Iterable) and not isinstance(item, str | bytes | Expression):
            for each in cast("Iterable[object]", item):
                self.add(each)
        else:
            raise DefinitionError(
                f"{reprlib.repr(item)} is not a definition.",  # pyright: ignore[reportUnknownArgumentType]
                remedy="Definitions are classes, on-demand functions, modules of them, "
                "tm.load(...), and objects of the model.",
            )

    def completed(self, loaded: Loaded) -> Iterator[graph.Definition]:
        """The objects of a document, with the defaults where it does not say."""
        for item in loaded:
            if isinstance(item, graph.FeatureView):
                yield self.defaults.of_view(item, loaded.unsaid.get(("view", item.name), ()))
            elif isinstance(item, graph.Source):
                yield self.defaults.of_source(item, loaded.unsaid.get(("source", item.name), ()))
            else:
                yield item

    def module(self, module: ModuleType) -> None:
        for value in list(vars(module).values()):
            model = isinstance(value, graph.Definition | graph.Definitions | Loaded | Lowered)
            if is_declared(value) or model or is_function(value):
                self.add(value)

    def declared(self, cls: type[Declaration]) -> None:
        if issubclass(cls, Entity):
            self.entity(cls)
        elif issubclass(cls, Source):
            self.source(cls)
        elif issubclass(cls, Request):
            self.request(cls)
        elif issubclass(cls, FeatureView):
            self.view(cls)
        elif issubclass(cls, FeatureService):
            self.service(cls)

    def spell(self, kind: str, cls: type[Declaration], *names: str, of: str = "") -> None:
        """Note how a class, or one of its attributes (`of`), was written and where."""
        about = cls.__about__
        if not names:
            whole = Subject(kind, about.name)
            first = self.spelled.get(whole)
            where = f"{first.where}\n{about.place}" if first else about.place
            self.spelled[whole] = Spelling(first.label if first else cls.__name__, where)
        for name in names:
            place = about.place_of(of or name)
            label = f"{cls.__name__}.{of or name}"
            self.spelled[Subject(kind, about.name, name)] = Spelling(label, place)

    def entity(self, cls: type[Entity]) -> None:
        about = cls.__about__
        if about.partial and not cls.__keys__:
            self.left_out.add(cls)
            return
        self.spell("entity", cls)
        self.spell("entity", cls, *cls.__keys__)
        keys = tuple(graph.Field(name, key.type) for name, key in cls.__keys__.items())
        self.objects.append(graph.Entity(name=about.name, keys=keys, **_described(about)))

    def source(self, cls: type[Source]) -> None:
        about = cls.__about__
        if about.partial and not cls.__columns__:
            self.left_out.add(cls)
            return
        self.spell("source", cls)
        self.spell("source", cls, *cls.__columns__)
        said = about.arguments
        history = said.get("history")
        if isinstance(history, HeldFrame):
            self.frames[about.name] = history.frame
            history = graph.Frame(about.name)
        source = graph.Source(
            name=about.name,
            columns=_fields(cls.__columns__),
            time=said.get("time"),
            history=history,
            timezone=said.get("timezone", ""),
            unique=said.get("unique", ()),
            seen=said.get("seen"),
            delay=said.get("delay", 0),
            stream=said.get("stream"),
            **_described(about),
        )
        unsaid = {each for each in ("timezone", "delay") if not said.get(each) and each not in said}
        self.objects.append(self.defaults.of_source(source, unsaid))

    def request(self, cls: type[Request]) -> None:
        about = cls.__about__
        if about.partial and not cls.__columns__:
            self.left_out.add(cls)
            return
        self.spell("request", cls)
        self.spell("request", cls, *cls.__columns__)
        fields = tuple(
            msgspec.structs.replace(field, optional=cls.__columns__[field.name].optional)
            for field in _fields(cls.__columns__)
        )
        self.objects.append(graph.Request(name=about.name, fields=fields, **_described(about)))

    def view(self, cls: type[FeatureView]) -> None:
        about = cls.__about__
        said = about.arguments
        entity, source = said.get("entity"), said.get("source")
        if is_unknown(entity) or is_unknown(source):
            self.left_out.add(cls)
            return
        if not (isinstance(entity, type) and issubclass(entity, Entity)):
            report(
                f"{cls.__name__} does not say which entity it describes.",
                about.place,
                "Write entity=User, where User is a tm.Entity.",
            )
            return
        if not (isinstance(source, type) and issubclass(source, Source)):
            report(
                f"{cls.__name__} does not say which source it reads.",
                about.place,
                "Write source=Purchase, where Purchase is a tm.Source.",
            )
            return
        self.add(entity)
        self.add(source)
        if {entity, source} & self.left_out:
            self.left_out.add(cls)
            return
        self.spell("view", cls)
        features: list[graph.Feature] = []
        for feature in cls.__features__.values():
            features.extend(self.features(cls, source, feature))
        if not features and (cls.__features__ or about.partial):
            self.left_out.add(cls)
            return
        view = graph.FeatureView(
            name=about.name,
            entity=entity.__about__.name,
            source=source.__about__.name,
            keys=key_columns(cls, entity, source, said.get("by")),
            features=tuple(features),
            bound=said.get("bound", "at"),
            max_age=said.get("max_age", 0),
            freshness=said.get("freshness", 0),
            step=said.get("step", 0),
            **_described(about),
        )
        unsaid = () if said.get("bound") else ("bound",)
        self.objects.append(self.defaults.of_view(view, unsaid))

    def features(
        self, cls: type[FeatureView], source: type[Source], feature: Feature[Any]
    ) -> list[graph.Feature]:
        about = cls.__about__
        about.places[feature.attribute] = feature.place
        named = feature.named_windows()
        self.spell("view", cls, *named, of=feature.attribute)
        if any(
            reads_elsewhere(cls, source, feature, expression)
            for expression in (feature.value, feature.where)
        ):
            return []
        types = {name: column.type for name, column in source.__columns__.items() if column.type}
        type_ = gives(feature.function, feature.value, types)
        try:
            where = None if feature.where is None else condition(feature.where)
            default = default_literal(feature.default, type_)
        except DefinitionError as error:
            report(f"{feature}: {error.what}", feature.place, error.remedy)
            return []
        return [
            graph.Feature(
                name=name,
                aggregate=Aggregate(
                    feature.function,
                    value=feature.value.node if feature.value is not None else None,
                    where=where,
                    window=window,
                    default=default,
                    **feature.parameters,  # type: ignore[arg-type]
                ),
                type=type_,
                attribute=feature.attribute,
                version=feature.version,
                description=feature.description,
                owner=feature.owner,
                tags=feature.tags,
            )
            for name, window in checked_names(feature, named).items()
        ]

    def on_demand(self, function: OnDemandFunction[..., Any]) -> None:
        self.spelled[Subject("on_demand", function.name)] = Spelling(function.name, function.place)
        inputs: list[graph.Input] = []
        for parameter, given in function.inputs.items():
            reference = self.reference(given, f"{function.name}, {parameter}", function.place)
            if reference is not None:
                inputs.append(graph.Input(parameter, reference))
        self.functions[f"{function.name}@{function.version}"] = function.function
        if function.type is None:
            return
        self.objects.append(
            graph.OnDemand(
                name=function.name,
                function=function.path,
                inputs=tuple(inputs),
                type=function.type,
                version=function.version,
                description=function.description,
                owner=function.owner,
                tags=function.tags,
            )
        )

    def reference(self, given: object, label: str, place: Place) -> graph.Reference | None:
        """What a feature, field, function or text refers to; takes in what it belongs to."""
        if is_unknown(given):
            return None
        if isinstance(given, str):
            reference = read_reference(given)
            if "@" in given or self.applied is None:
                self.pinned.add(reference)
            return reference
        if is_function(given):
            self.add(given)
            return graph.Reference("on_demand", given.name, version=given.version)
        if is_column(given) and is_declared(given.owner) and issubclass(given.owner, Request):
            self.add(given.owner)
            if given.owner in self.left_out:
                return None
            return graph.Reference("request", given.name, given.owner.__about__.name)
        if is_feature(given) and given.view is not None:
            self.add(given.view)
            if given.view in self.left_out:
                return None
            names = list(given.named_windows())
            if len(names) == 1:
                view = cast("type[FeatureView]", given.view)
                return graph.Reference("feature", names[0], view.__about__.name, given.version)
            choices = ", ".join(f'{given}["{each.label}"]' for each in given.windows)
            report(f"{label}: {given} has several windows.", place, f"Choose one: {choices}.")
            return None
        report(
            f"{label}: {given!r} is not a feature.",
            place,
            'Features are attributes of a feature view, such as UserSpend.spend["7d"], '
            "on-demand functions, and fields of a request.",
        )
        return None

    def service(self, cls: type[FeatureService]) -> None:
        about = cls.__about__
        self.spell("service", cls)
        self.spell("service", cls, *cls.__outputs__)
        outputs: list[graph.Output] = []
        for name, given in cls.__outputs__.items():
            reference = self.reference(given, f"{cls.__name__}.{name}", about.place_of(name))
            if reference is not None:
                outputs.append(graph.Output(name, reference))
        for given in expanded(about.arguments.get("features", ())):
            reference = self.reference(given, cls.__name__, about.place)
            if reference is not None:
                outputs.append(graph.Output(reference.name, reference))
        if not outputs and (cls.__outputs__ or about.arguments["features"] or about.partial):
            return
        self.objects.append(
            graph.FeatureService(name=about.name, outputs=tuple(outputs), **_described(about))
        )


def _described(about: About) -> dict[str, Any]:
    return {"description": about.description, "owner": about.owner, "tags": about.tags}


def _fields(columns: Mapping[str, Col[Any]]) -> tuple[graph.Field, ...]:
    return tuple(
        graph.Field(name, column.type, column.description, column.tags)
        for name, column in columns.items()
        if column.type is not None
    )
