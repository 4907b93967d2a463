"""From what users wrote to the model: classes, functions, modules and documents alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, cast

import msgspec

from tidemark.define.columns import HeldFrame
from tidemark.define.declarations import About, Declaration, Entity, Request, Source, is_unknown
from tidemark.define.expressions import Col, Expression
from tidemark.define.features import Feature
from tidemark.define.linking import NEWEST, link
from tidemark.define.on_demand import OnDemandFunction
from tidemark.define.problems import Place, collecting, ordered, report
from tidemark.define.python_types import literal, literal_of
from tidemark.define.views import FeatureService, FeatureView
from tidemark.errors import DefinitionError, NotFound, Problem
from tidemark.model import graph
from tidemark.model.aggregates import Aggregate, result_type
from tidemark.model.check import check
from tidemark.model.expr import Expr, Literal, columns_of, type_of
from tidemark.model.findings import Spelling, Subject
from tidemark.model.types import FLOAT64, Type
from tidemark.model.window import Window


@dataclass(frozen=True)
class Lowered:
    """Definitions, with what of them lives in this process only."""

    definitions: graph.Definitions
    functions: Mapping[str, Callable[..., Any]] = field(
        default_factory=dict[str, Callable[..., Any]]
    )
    frames: Mapping[str, object] = field(default_factory=dict[str, object])


class Loaded(list[graph.Definition]):
    """The model objects of a document, with the lines that declared them."""

    def __init__(self) -> None:
        super().__init__()
        self.spelled: dict[Subject, Spelling] = {}
        self.frames: dict[str, object] = {}


def lower(*objects: object) -> Lowered:
    """Lower modules, classes, functions, model objects and lists of them, with all they need.

    Raises `DefinitionError` with every problem.
    """
    lowering = _Lowering()
    with collecting() as problems:
        for each in objects:
            lowering.add(each)
    return lowering.finish(problems)


class _Lowering:
    """Objects by kind and name; a class is lowered once, what it refers to with it."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.objects: list[graph.Definition] = []
        self.functions: dict[str, Callable[..., Any]] = {}
        self.frames: dict[str, object] = {}
        self.spelled: dict[Subject, Spelling] = {}

    def finish(self, problems: Sequence[Problem]) -> Lowered:
        """Check everything together."""
        definitions = link(graph.Definitions.of(self.objects))
        found = [*problems, *check(definitions, self.spelled), *self.importable(definitions)]
        if found:
            raise DefinitionError(ordered(found))
        return Lowered(definitions, self.functions, self.frames)

    def importable(self, definitions: graph.Definitions) -> Iterator[Problem]:
        """Import the functions that are named only; what cannot be is a problem."""
        from tidemark.define.modules import imported_function

        for feature in definitions.on_demand:
            if feature.name not in self.functions:
                try:
                    self.functions[feature.name] = imported_function(feature)
                except NotFound as error:
                    spelling = self.spelled.get(Subject("on_demand", feature.name))
                    yield Problem(error.what, spelling.where if spelling else "", error.remedy)

    def add(self, item: object) -> None:
        """Take in one object and what it refers to."""
        if is_unknown(item) or id(item) in self.done:
            return
        if isinstance(item, type) and issubclass(item, Declaration):
            self.done.add(id(item))
            if "__about__" in vars(item) and not item.__about__.abstract:
                self.declared(item)
        elif isinstance(item, OnDemandFunction):
            self.done.add(id(item))
            self.on_demand(item)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(item, Feature):
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
            self.objects.extend(item)
        elif isinstance(item, ModuleType):
            self.module(item)
        elif isinstance(item, graph.Definitions) or (
            isinstance(item, Iterable) and not isinstance(item, str | bytes | Mapping)
        ):
            for each in item:  # pyright: ignore[reportUnknownVariableType]
                self.add(each)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(item, Mapping):
            from tidemark.define.document import load

            self.add(load(item))  # pyright: ignore[reportUnknownArgumentType]
        else:
            raise DefinitionError(
                f"{item!r} is not a definition.",
                remedy="Definitions are classes, on-demand functions, modules of them, "
                "tm.load(...), and objects of the model.",
            )

    def module(self, module: ModuleType) -> None:
        for value in list(vars(module).values()):
            declared = isinstance(value, type) and issubclass(value, Declaration)
            model = isinstance(value, graph.Definition | graph.Definitions | Loaded | Lowered)
            if declared or model or isinstance(value, OnDemandFunction):
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
            self.spelled[Subject(kind, about.name)] = Spelling(cls.__name__, str(about.place))
        for name in names:
            place = about.place_of(of or name)
            label = f"{cls.__name__}.{of or name}"
            self.spelled[Subject(kind, about.name, name)] = Spelling(label, str(place))

    def entity(self, cls: type[Entity]) -> None:
        about = cls.__about__
        self.spell("entity", cls)
        self.spell("entity", cls, *cls.__keys__)
        keys = tuple(graph.Field(name, key.type) for name, key in cls.__keys__.items())
        self.objects.append(graph.Entity(name=about.name, keys=keys, **_described(about)))

    def source(self, cls: type[Source]) -> None:
        about = cls.__about__
        self.spell("source", cls)
        self.spell("source", cls, *cls.__columns__)
        said = about.arguments
        history = said.get("history")
        if isinstance(history, HeldFrame):
            self.frames[about.name] = history.frame
            history = graph.Frame(about.name)
        self.objects.append(
            graph.Source(
                name=about.name,
                columns=_fields(cls.__columns__),
                time=said.get("time"),
                history=history,
                timezone=said.get("timezone", ""),
                unique=said.get("unique", ()),
                seen=said.get("seen"),
                delay=said.get("delay", 0),
                **_described(about),
            )
        )

    def request(self, cls: type[Request]) -> None:
        about = cls.__about__
        self.spell("request", cls)
        self.spell("request", cls, *cls.__columns__)
        fields = _fields(cls.__columns__)
        self.objects.append(graph.Request(name=about.name, fields=fields, **_described(about)))

    def view(self, cls: type[FeatureView]) -> None:
        about = cls.__about__
        said = about.arguments
        entity, source = said.get("entity"), said.get("source")
        if is_unknown(entity) or is_unknown(source):
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
        self.spell("view", cls)
        features: list[graph.Feature] = []
        for feature in cls.__features__.values():
            features.extend(self.features(cls, source, feature))
        if not features and cls.__features__:
            return  # each of them has been reported
        self.objects.append(
            graph.FeatureView(
                name=about.name,
                entity=entity.__about__.name,
                source=source.__about__.name,
                keys=_keys(cls, entity, source, said.get("by")),
                features=tuple(features),
                bound=said.get("bound", "at"),
                max_age=said.get("max_age", 0),
                freshness=said.get("freshness", 0),
                **_described(about),
            )
        )

    def features(
        self, cls: type[FeatureView], source: type[Source], feature: Feature[Any]
    ) -> list[graph.Feature]:
        about = cls.__about__
        about.places[feature.attribute] = feature.place
        named = feature.named_windows()
        self.spell("view", cls, *named, of=feature.attribute)
        if any(
            _foreign(cls, source, feature, expression)
            for expression in (feature.value, feature.where)
        ):
            return []
        types = {name: column.type for name, column in source.__columns__.items() if column.type}
        try:
            where = None if feature.where is None else _condition(feature.where)
        except DefinitionError as error:
            report(f"{feature}: {error.what}", feature.place, error.remedy)
            return []
        type_ = _gives(feature.function, feature.value, types)
        return [
            graph.Feature(
                name=name,
                aggregate=Aggregate(
                    feature.function,
                    value=feature.value.node if feature.value is not None else None,
                    where=where,
                    window=window,
                    default=default_literal(feature.default, type_),
                    **feature.parameters,  # type: ignore[arg-type]
                ),
                type=type_,
                attribute=feature.attribute,
                version=feature.version,
                description=feature.description,
                owner=feature.owner,
                tags=feature.tags,
            )
            for name, window in _checked_names(feature, named).items()
        ]

    def on_demand(self, function: OnDemandFunction[..., Any]) -> None:
        self.spelled[Subject("on_demand", function.name)] = Spelling(
            function.name, str(function.place)
        )
        inputs: list[graph.Input] = []
        for parameter, given in function.inputs.items():
            reference = self.reference(given, f"{function.name}, {parameter}", function.place)
            if reference is not None:
                inputs.append(graph.Input(parameter, reference))
        self.functions[function.name] = function.function
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
            reference = graph.parse_reference(given)
            return reference if "@" in given else msgspec.structs.replace(reference, version=NEWEST)
        if isinstance(given, OnDemandFunction):
            self.add(given)  # pyright: ignore[reportUnknownArgumentType]
            return graph.Reference("on_demand", given.name, version=given.version)
        if isinstance(given, Col) and given.owner and issubclass(given.owner, Request):
            self.add(given.owner)
            return graph.Reference("request", given.name, given.owner.__about__.name)
        if isinstance(given, Feature) and given.view is not None:
            self.add(given.view)
            names = list(given.named_windows())
            if len(names) == 1:
                about = given.view.__about__  # type: ignore[attr-defined]
                return graph.Reference("feature", names[0], about.name, given.version)
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
        if not outputs and (cls.__outputs__ or about.arguments.get("features")):
            return  # each of them has been reported
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


def _keys(
    cls: type[FeatureView], entity: type[Entity], source: type[Source], by: object
) -> tuple[str, ...]:
    """The source's columns that hold the entity's keys, in the entity's order."""
    keys = list(entity.__keys__)
    if by is None:
        return tuple(keys)
    if isinstance(by, Mapping):
        named: dict[str, object] = {str(key): column for key, column in by.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        for unknown in sorted(named.keys() - set(keys)):
            report(
                f"{cls.__name__}: by names {unknown!r}, which is not a key of {entity.__name__}.",
                cls.__about__.place,
                f"Keys of {entity.__name__}: {', '.join(keys)}.",
            )
        said = [named.get(key, key) for key in keys]
    else:
        several = isinstance(by, Sequence) and not isinstance(by, str)
        said = list(by) if several else [by]  # type: ignore[call-overload]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    names: list[str] = []
    for column in said:  # pyright: ignore[reportUnknownVariableType]
        if isinstance(column, Col) and not (column.owner and issubclass(source, column.owner)):
            report(
                f"{cls.__name__}: by={column!r} is not a column of {source.__name__}.",
                cls.__about__.place,
                f"Columns of {source.__name__}: {', '.join(source.__columns__)}.",
            )
        names.append(column.name if isinstance(column, Col) else str(column))  # pyright: ignore[reportUnknownArgumentType]
    return tuple(names)


def _foreign(cls: type, source: type[Source], feature: Feature[Any], expression: object) -> bool:
    """Whether an expression reads another source than the view's; reported if so."""
    if not isinstance(expression, Expression):
        return False
    for owner in expression.owners:  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not issubclass(source, owner):
            columns = ", ".join(sorted(columns_of(expression.node)))  # pyright: ignore[reportUnknownMemberType]
            report(
                f"{cls.__name__}.{feature.attribute} reads {owner.__name__} ({columns}), "  # pyright: ignore[reportUnknownMemberType]
                f"but {cls.__name__} is over {source.__name__}.",
                feature.place,
                "A view reads one source; put this feature into a view over the other one.",
            )
            return True
    return False


def _condition(where: object) -> Expr:
    """The node of a filter, which may be given as a plain bool."""
    return where.node if isinstance(where, Expression) else literal(where)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _gives(function: str, value: Expression[Any] | None, types: Mapping[str, Type]) -> Type:
    """The type of a feature; any type where there is none, since the check says why."""
    try:
        return result_type(function, None if value is None else type_of(value.node, types))
    except DefinitionError:
        return FLOAT64


def default_literal(value: object, type_: Type) -> Literal | None:
    """A default as a constant of the feature's type, else of its own, which the check refuses."""
    if value is None:
        return None
    try:
        return literal_of(value, type_)
    except DefinitionError:
        return literal(value)


def _checked_names(feature: Feature[Any], named: Mapping[str, Window]) -> Mapping[str, Window]:
    """The names, unless two windows give one name."""
    if not feature.single and len(named) < len(feature.windows):
        report(
            f"{feature} has two windows of one name.",
            feature.place,
            "Declare one of them under its own name.",
        )
    return named


def expanded(features: Iterable[object]) -> list[object]:
    """A list of features, in which a view or several windows stand for each of their features."""
    found: list[object] = []
    for each in features:
        if isinstance(each, type) and issubclass(each, FeatureView):
            found.extend(expanded(each.__features__.values()))
        elif isinstance(each, Feature) and each.view is not None:
            chosen = cast("Feature[Any]", each)
            found.extend(chosen.only(window) for window in chosen.windows)
        else:
            found.append(each)
    return found
