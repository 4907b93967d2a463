"""Every definition as a bag of words, each word with the place where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from tidemark.model import prose
from tidemark.model.diff import feature_name
from tidemark.model.expr import Expr, columns_of
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemand,
    Request,
    Source,
)
from tidemark.model.vocabulary import meanings, stem, windows, words

EntryKind = Literal[
    "feature", "on-demand feature", "view", "source", "entity", "request", "service"
]

Places = list[tuple[str, list[str]]]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A definition as it is found, before its sentence is written."""

    reference: str
    kind: EntryKind
    item: Feature | FeatureView | OnDemand | Source | Entity | Request | FeatureService
    view: FeatureView | None = None
    owner: str = ""
    entity: str = ""
    type: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()


class Wording:
    """The words of every definition, by place, the weightiest place first."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._sources = {item.name: item for item in definitions.sources}
        self._texts: dict[str, list[str]] = {}
        self._expressions: dict[tuple[Expr | None, ...], tuple[list[str], list[str]]] = {}
        # How a stem was first spelled.
        self.spelled: dict[str, str] = {}

    def entries(self) -> Iterator[tuple[Entry, Places]]:
        """Each definition with its words."""
        told: set[str] = set()  # of several variants of a view, the one that was said last
        for view in self._definitions.views:
            about = self._of_view(view)
            for feature in view.features:
                yield self._feature(view, feature, about)
            if view.name not in told:
                told.add(view.name)
                yield self._plain(view, "view", entity=view.entity, source=view.source)
        for item in self._definitions.on_demand:
            entry, places = self._plain(item, "on-demand feature", type=str(item.type))
            yield entry, [*places, ("definition", self._words(prose.on_demand_sentence(item)))]
        for source in self._definitions.sources:
            entry, places = self._plain(source, "source", source=source.name)
            names = " ".join(f"{column.name} {column.description}" for column in source.columns)
            yield entry, [*places, ("column", self._words(names))]
        for entity in self._definitions.entities:
            entry, places = self._plain(entity, "entity", entity=entity.name)
            yield entry, [*places, ("column", self._words(" ".join(k.name for k in entity.keys)))]
        for request in self._definitions.requests:
            entry, places = self._plain(request, "request")
            names = " ".join(f"{each.name} {each.description}" for each in request.fields)
            yield entry, [*places, ("column", self._words(names))]
        for service in self._definitions.services:
            entry, places = self._plain(service, "service")
            names = " ".join(output.name for output in service.outputs)
            yield entry, [*places, ("column", self._words(names))]

    def _of_view(self, view: FeatureView) -> Places:
        source = self._sources[view.source]
        return [
            ("entity", self._words(view.entity)),
            ("tag", self._words(" ".join(view.tags))),
            ("column", self._words(" ".join(view.keys))),
            ("view", self._words(f"{view.name} {view.description}")),
            ("source", self._words(f"{source.name} {source.description}")),
        ]

    def _feature(self, view: FeatureView, feature: Feature, about: Places) -> tuple[Entry, Places]:
        aggregate = feature.aggregate
        owner = feature.owner or view.owner
        entry = Entry(
            feature_name(view, feature),
            "feature",
            feature,
            view,
            owner,
            view.entity,
            str(feature.type),
            view.source,
            tuple(dict.fromkeys((*feature.tags, *view.tags))),
        )
        read, said = self._said(aggregate.value, aggregate.where)
        entity, tags, keys, of_view, of_source = about
        return entry, [
            ("name", self._words(feature.name)),
            ("window", windows(aggregate.window)),
            entity,
            ("tag", self._words(" ".join(feature.tags))),
            tags,
            ("aggregate", meanings(aggregate.function)),
            ("column", read),
            keys,
            ("description", self._words(feature.description)),
            of_view,
            of_source,
            ("definition", said),
            ("owner", self._words(owner)),
        ]

    def _plain(
        self,
        item: FeatureView | OnDemand | Source | Entity | Request | FeatureService,
        kind: EntryKind,
        **facts: str,
    ) -> tuple[Entry, Places]:
        name = f"{item.name}@{item.version}" if isinstance(item, OnDemand) else item.name
        entry = Entry(name, kind, item, None, item.owner, tags=item.tags, **facts)
        return entry, [
            ("name", self._words(item.name)),
            ("entity", self._words(facts.get("entity", ""))),
            ("tag", self._words(" ".join(item.tags))),
            ("description", self._words(item.description)),
            ("source", self._words(facts.get("source", ""))),
            ("owner", self._words(item.owner)),
        ]

    def _said(self, *expressions: Expr | None) -> tuple[list[str], list[str]]:
        """The words of the columns of expressions, and of the expressions as they read.

        The rest of a feature's sentence is the same in every one.
        """
        if expressions not in self._expressions:
            there = [each for each in expressions if each is not None]
            columns = sorted({name for each in there for name in columns_of(each)})
            said = " ".join(prose.expression(each) for each in there)
            self._expressions[expressions] = self._words(" ".join(columns)), self._words(said)
        return self._expressions[expressions]

    def _words(self, text: str) -> list[str]:
        """The words of a text; the same texts come again and again."""
        found = self._texts.get(text)
        if found is None:
            found = self._texts[text] = []
            for word in words(text):
                found.append(stem(word))
                self.spelled.setdefault(stem(word), word)
        return found
