"""What a list of outputs needs, and how results become values; resolved once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemark.define.python_types import stored
from tidemark.engines.arrow import value_of_nothing
from tidemark.errors import RequestInvalid
from tidemark.kernel.layout import Layout, LayoutFeature
from tidemark.model.fingerprint import held_id, state_id
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureView,
    Field,
    Output,
    Reference,
    Source,
)
from tidemark.model.types import FLOAT64, Type
from tidemark.online.rows.values import Convert, converted, restored
from tidemark.online.states.keys import key_encoder, record_key
from tidemark.serve.evaluation import Part
from tidemark.serve.inputs import Inputs
from tidemark.serve.vector import CODES, Status

NOTHING, VALUE, NULL, OVERFLOW, EXPIRED = range(5)
"""States of a result of the kernel."""

NO_EVENT = -(2**63)
"""When the newest event happened, where there is none."""

ALWAYS = NO_EVENT + 1
"""The time of facts that have none."""


class Available(NamedTuple):
    """A state that serves for a view: the view and the source as its rows hold them.

    `names` are those of its features by what answers for them.
    """

    state: str
    view: FeatureView
    source: Source
    names: Mapping[str, str]


@dataclass(frozen=True)
class View:
    """A view that is read, as its rows hold it.

    `record` is the place of its record in the program, `entity` that of its entity.
    """

    view: FeatureView
    layout: Layout
    state: str
    record: int
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

    `available` are the states that serve for each view, newest first.  A feature is read from the
    state of its own view, or from the newest one that holds it; those in none are `absent`.
    `features` are in the order in which their values are decoded: `doubles` of them first, then the
    other numbers, `numbers` in all, then what is converted value by value.  `places` are those
    of the outputs among them, -1 for what is no feature of a view.  `codes[f][s]` stands for the
    status of a feature of a known entity whose result has the state `s`.
    """

    def __init__(
        self,
        definitions: Definitions,
        outputs: Sequence[Output],
        available: Mapping[str, Sequence[Available]],
        *,
        project: str,
    ) -> None:
        self.definitions = definitions
        self.reference = {output.name: output.reference for output in outputs}
        self.names = tuple(self.reference)
        asked = list(self.reference.values())
        references = definitions.needed(asked)
        self.on_demand = [str(each) for each in asked if each.kind == "on_demand"]
        self.requests = [each for each in references if each.kind == "request"]
        self.entities: list[Entity] = []
        owners = dict.fromkeys(each.owner for each in references if each.kind == "feature")
        self.records = [record_key(project, owner) for owner in owners]
        self.states = [tuple(each.state for each in available.get(name, ())) for name in owners]
        self.absent: list[Reference] = []
        self.owners = list(owners)
        views: dict[tuple[str, str], View] = {}
        read = [
            self._feature(each, available.get(each.owner, ()), views)
            for each in references
            if each.kind == "feature"
        ]
        self.features = sorted(
            (computed for _, computed in read), key=lambda each: (not each.double, not each.number)
        )
        self.place = {each.reference: place for place, each in enumerate(self.features)}
        self.doubles = sum(each.double for each in self.features)
        self.numbers = sum(each.number for each in self.features)
        self.lists_of_nothing = [
            place for place, each in enumerate(self.features) if isinstance(each.nothing, list)
        ]
        self.codes = [bytes(_statuses(each.nothing)) for each in self.features]
        self._status_of = np.frombuffer(b"".join(self.codes), np.uint8)
        self._status_from = np.arange(0, 5 * len(self.codes), 5).reshape(-1, 1)
        self.places = [self.place.get(each, -1) for each in asked]
        self.pick = _picking(self.places)
        holding = {computed.reference: view for view, computed in read}
        held_by = [holding[each.reference] for each in self.features]
        # The kernel numbers views as it meets them.
        self.views = list({id(view): view for view in held_by}.values())
        self.view_of = [self.views.index(view) for view in held_by]
        self._computed = [
            (view.view, view.layout, each.feature.name)
            for view, each in zip(held_by, self.features, strict=True)
        ]
        every = range(len(self.features))
        self.whole = Part(self._computed, every, range(len(self.views)))
        self.keys = Inputs("key", self._key_fields())
        self.request = self._request_inputs()
        places = {field.name: place for place, field in enumerate(self.keys.fields)}
        self.key_encoders = [
            (key_encoder(entity), [places[field.name] for field in entity.keys])
            for entity in self.entities
        ]

    @cached_property
    def by_entity(self) -> list[Part]:
        """The program in parts, one for each entity, for reads in which entities repeat."""
        parts: list[Part] = []
        for number in range(len(self.entities)):
            views = [place for place, view in enumerate(self.views) if view.entity == number]
            places = [place for place, view in enumerate(self.view_of) if view in views]
            order = dict.fromkeys(self.view_of[place] for place in places)
            parts.append(Part(self._computed, places, list(order)))
        return parts

    def statuses(self, state: NDArray[np.uint8], known: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The codes of the statuses of the features [F, N], by the states of their results [F, N].

        `known` [V, N] is when the newest visible event of each view happened.
        """
        codes: NDArray[np.uint8] = self._status_of[state + self._status_from]
        missing = known == NO_EVENT
        if missing.any():
            codes[missing[self.view_of]] = CODES[Status.MISSING]
        return codes

    def key_bytes(self, keys: Sequence[Sequence[Any]]) -> list[list[bytes]]:
        """For each entity, what names it in the keys of rows; `keys` has a column for each key."""
        return [encode([keys[place] for place in places]) for encode, places in self.key_encoders]

    def _feature(
        self,
        reference: Reference,
        available: Sequence[Available],
        views: dict[tuple[str, str], View],
    ) -> tuple[View, Computed]:
        """How a feature is computed, and from the rows of which state."""
        own, feature = self.definitions.locate(reference)
        source = self.definitions.source(own.source)
        state, wanted = state_id(own, source), held_id(own, feature, source)
        holding = [each for each in available if wanted in each.names]
        holding.sort(key=lambda each: each.state != state)
        if not holding:
            self.absent.append(reference)
            names = {held_id(own, each, source): each.name for each in own.features}
            holding = [Available(state, own, source, names)]
        best = holding[0]
        view = views.get((reference.owner, best.state))
        if view is None:
            entity = self.definitions.entity(own.entity)
            if entity not in self.entities:
                self.entities.append(entity)
            view = views[reference.owner, best.state] = View(
                best.view,
                Layout.of(best.view, best.source.types),
                best.state,
                self.owners.index(reference.owner),
                self.entities.index(entity),
            )
        return view, _computed(reference, view.layout, best.names[wanted], feature)

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
            if not field.optional:
                fields[field.name] = field
            if known.type != field.type:
                raise RequestInvalid(
                    f"Two requests have a field {field.name!r}: {known.type} and {field.type}.",
                    remedy="Rename one of them.",
                )
        return Inputs("request field", list(fields.values()), ignored=sorted(declared))


def _statuses(nothing: object) -> list[int]:
    """For each state of a result of a known entity, the code of its status."""
    of_state = [CODES[Status.PRESENT]] * 5
    of_state[NULL] = CODES[Status.NULL]
    of_state[EXPIRED] = CODES[Status.EXPIRED]
    if nothing is None:
        of_state[NOTHING] = CODES[Status.NULL]
    return of_state


def _computed(reference: Reference, layout: Layout, name: str, defined: Feature) -> Computed:
    feature = layout.feature(name)
    rule, value = feature.aggregate.rule, value_of_nothing(defined)
    nothing = None if value is None else stored(value, feature.type)
    column = None if feature.column < 0 else layout.columns[feature.column]
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
