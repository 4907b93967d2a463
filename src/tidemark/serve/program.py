"""What a list of outputs needs, and how results become values; resolved once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from tidemark.engines.arrow import arrow_type, scalar_of
from tidemark.errors import RequestInvalid
from tidemark.kernel.layout import Layout, LayoutFeature
from tidemark.kernel.rows import Program as Kernel
from tidemark.model.fingerprint import state_id
from tidemark.model.graph import Definitions, Entity, FeatureView, Field, Output, Reference
from tidemark.model.types import FLOAT64, Type
from tidemark.online.keys import key_encoder, record_key
from tidemark.online.values import Convert, converted, restored
from tidemark.serve.inputs import Inputs


@dataclass(frozen=True)
class View:
    """A view that is read.

    `entity` is the place of its entity in the program, `record` the key of its record.
    """

    view: FeatureView
    layout: Layout
    state: str
    record: bytes
    entity: int


@dataclass(frozen=True)
class Computed:
    """A feature that the kernel computes.

    `nothing` is its value where the kernel found nothing.  `coded` says that words are places in
    the dictionary of the column, `several` that the value is a list.  `convert` makes a Python
    value of what is stored; None where that is the value.
    """

    reference: Reference
    feature: LayoutFeature
    nothing: Any
    coded: bool
    several: bool
    convert: Convert | None

    @property
    def type(self) -> Type:
        """The type of its values."""
        return self.feature.type

    @property
    def plain(self) -> bool:
        """Whether a value is one word that says it all."""
        return not (self.coded or self.several or self.type.name == "decimal")

    @property
    def double(self) -> bool:
        """Whether words are the bits of doubles."""
        return self.plain and self.type == FLOAT64

    @property
    def number(self) -> bool:
        """Whether numpy makes Python values of the words."""
        return self.plain and (self.convert is None or self.double)


class Program:
    """A list of outputs, resolved once and answered many times.

    `features` are in the order in which their values are decoded: `doubles` of them first, then the
    other numbers, `numbers` in all, then what is converted value by value.
    """

    def __init__(
        self, definitions: Definitions, outputs: Sequence[Output], *, project: str
    ) -> None:
        self.definitions = definitions
        self.reference = {output.name: output.reference for output in outputs}
        self.names = tuple(self.reference)
        asked = list(self.reference.values())
        references = _closure(definitions, asked)
        self.on_demand = [str(each) for each in asked if each.kind == "on_demand"]
        self.requests = [each for each in references if each.kind == "request"]
        self.entities: list[Entity] = []
        views: dict[str, View] = {}
        for each in references:
            if each.kind == "feature" and each.owner not in views:
                views[each.owner] = self._view(definitions.view(each.owner), project)
        self.features = sorted(
            (_computed(each, views[each.owner]) for each in references if each.kind == "feature"),
            key=lambda each: (not each.double, not each.number),
        )
        self.place = {each.reference: place for place, each in enumerate(self.features)}
        self.doubles = sum(each.double for each in self.features)
        self.numbers = sum(each.number for each in self.features)
        self.pick = _picking([self.place.get(each, 0) for each in asked])
        owners = [each.reference.owner for each in self.features]
        # The kernel numbers views as it meets them.
        self.views = [views[owner] for owner in dict.fromkeys(owners)]
        self.view_of = [self.views.index(views[owner]) for owner in owners]
        self.kernel = Kernel.of(
            [
                (views[owner].view, views[owner].layout, each.feature.name)
                for owner, each in zip(owners, self.features, strict=True)
            ]
        )
        self.keys = Inputs("key", self._key_fields(), null=False)
        self.request = self._request_inputs()
        places = {field.name: place for place, field in enumerate(self.keys.fields)}
        self.key_encoders = [
            (key_encoder(entity), [places[field.name] for field in entity.keys])
            for entity in self.entities
        ]

    def key_bytes(self, keys: Sequence[Sequence[Any]]) -> list[list[bytes]]:
        """For each entity, what names it in the keys of rows; `keys` has a column for each key."""
        return [encode([keys[place] for place in places]) for encode, places in self.key_encoders]

    def _view(self, view: FeatureView, project: str) -> View:
        source = self.definitions.source(view.source)
        entity = self.definitions.entity(view.entity)
        if entity not in self.entities:
            self.entities.append(entity)
        state = state_id(view, source)
        return View(
            view,
            Layout.of(view, source.types),
            state,
            record_key(project, view.name, state),
            self.entities.index(entity),
        )

    def _key_fields(self) -> list[Field]:
        fields: dict[str, Field] = {}
        for entity in self.entities:
            for field in entity.keys:
                known = fields.setdefault(field.name, field)
                if known.type != field.type:
                    raise RequestInvalid(
                        f"Two entities have a key {field.name!r}: {known.type} and {field.type}.",
                        where=", ".join(each.name for each in self.entities),
                        remedy="Read them in two requests, or rename one key.",
                    )
        return list(fields.values())

    def _request_inputs(self) -> Inputs:
        fields: dict[str, Field] = {}
        declared: set[str] = set()
        for reference in self.requests:
            request = self.definitions.request(reference.owner)
            declared |= {field.name for field in request.fields}
            field = next(each for each in request.fields if each.name == reference.name)
            known = fields.setdefault(field.name, field)
            if known.type != field.type:
                raise RequestInvalid(
                    f"Two requests have a field {field.name!r}: {known.type} and {field.type}.",
                    remedy="Rename one of them.",
                )
        return Inputs("request field", list(fields.values()), null=True, optional=sorted(declared))


def _computed(reference: Reference, view: View) -> Computed:
    feature = view.layout.feature(reference.name)
    rule, default = feature.aggregate.rule, feature.aggregate.default
    nothing: Any = 0 if rule.zero else None
    if default is not None and not rule.zero:
        nothing = scalar_of(default).cast(arrow_type(feature.type)).as_py()
    column = None if feature.column < 0 else view.layout.columns[feature.column]
    coded = column is not None and column.form == "code" and rule.gives in {"same", "list"}
    several = rule.gives == "list"
    item = column.type if column is not None and several else feature.type
    convert = restored(item) if coded else converted(item)
    return Computed(reference, feature, nothing, coded, several, convert)


def _picking(places: list[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    """The function that takes the items at these places from a list."""
    if len(places) == 1:
        return lambda values: (values[places[0]],)
    return itemgetter(*places) if places else lambda _: ()


def _closure(definitions: Definitions, asked: Sequence[Reference]) -> list[Reference]:
    """Everything that is asked for and everything that on-demand functions read, each once."""
    found: dict[Reference, None] = {}

    def visit(reference: Reference) -> None:
        if reference in found:
            return
        found[reference] = None
        if reference.kind == "on_demand":
            for each in definitions.on_demand_feature(reference.name).inputs:
                visit(each.reference)

    for reference in asked:
        visit(reference)
    return list(found)
