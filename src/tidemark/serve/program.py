"""What a list of outputs needs, and how results become values; resolved once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemark.engines.arrow import arrow_type, scalar_of
from tidemark.errors import RequestInvalid
from tidemark.kernel.layout import Layout, LayoutFeature
from tidemark.kernel.rows import Program as Kernel
from tidemark.model.fingerprint import state_id
from tidemark.model.graph import (
    Definitions,
    Entity,
    FeatureView,
    Field,
    Output,
    Reference,
)
from tidemark.model.types import FLOAT64, Type
from tidemark.online.keys import record_key
from tidemark.online.values import Convert, converted, restored
from tidemark.serve.inputs import Inputs


@dataclass(frozen=True)
class View:
    """A view that is read, with the places of its features among all of the program.

    `entity` is the place of its entity among those of the program; `record` the key of its record.
    """

    view: FeatureView
    layout: Layout
    state: str
    record: bytes
    entity: int


@dataclass(frozen=True)
class Computed:
    """A feature that the kernel computes.

    `view` is a place among the views; `nothing` is its value where the kernel found nothing;
    `coded` that its words are places in the dictionary of its column, `several` that it is a list.
    `convert` makes a Python value of what is stored (None: it is the value).
    """

    reference: Reference
    view: int
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
        return not self.coded and not self.several and self.type.name != "decimal"


class Program:
    """A list of outputs, resolved once and answered many times."""

    def __init__(
        self, definitions: Definitions, outputs: Sequence[Output], *, project: str
    ) -> None:
        self.definitions = definitions
        self.outputs = tuple(outputs)
        self.names = tuple(output.name for output in outputs)
        references = _closure(definitions, [output.reference for output in outputs])
        self.on_demand = tuple(
            output.reference for output in outputs if output.reference.kind == "on_demand"
        )
        self.requests = tuple(each for each in references if each.kind == "request")
        features = [each for each in references if each.kind == "feature"]
        self.entities: list[Entity] = []
        self.views: list[View] = []
        for name in dict.fromkeys(each.owner for each in features):
            self.views.append(self._view(definitions.view(name), project))
        places = {view.view.name: place for place, view in enumerate(self.views)}
        self.features = tuple(
            self._computed(each, places[each.owner])
            for each in sorted(features, key=lambda each: places[each.owner])
        )
        self.place = {each.reference: place for place, each in enumerate(self.features)}
        self.reference = {output.name: output.reference for output in outputs}
        self.floats = [
            place for place, each in enumerate(self.features) if each.plain and each.type == FLOAT64
        ]
        self.others = [
            place
            for place, each in enumerate(self.features)
            if not each.plain or (each.convert is not None and each.type != FLOAT64)
        ]
        self.kernel = Kernel.of(
            [
                (self.views[each.view].view, self.views[each.view].layout, each.reference.name)
                for each in self.features
            ]
        )
        self.keys = Inputs("key", self._key_fields(), null=False)
        self.request = self._request_inputs()
        key_places = {field.name: place for place, field in enumerate(self.keys.fields)}
        self.entity_keys = [
            [key_places[field.name] for field in entity.keys] for entity in self.entities
        ]

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

    def _computed(self, reference: Reference, place: int) -> Computed:
        feature = self.views[place].layout.feature(reference.name)
        default = feature.aggregate.default
        nothing: Any = 0 if feature.aggregate.rule.zero else None
        if nothing is None and default is not None:
            nothing = scalar_of(default).cast(arrow_type(feature.type)).as_py()
        rule = feature.aggregate.rule
        column = None if feature.column < 0 else self.views[place].layout.columns[feature.column]
        coded = column is not None and column.form == "code" and rule.gives in {"same", "list"}
        several = rule.gives == "list"
        item = column.type if column is not None and several else feature.type
        convert = restored(item) if coded else converted(item)
        return Computed(reference, place, feature, nothing, coded, several, convert)

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
