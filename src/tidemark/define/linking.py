"""References that are completed once everything is known: short names and versions left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

import msgspec

from tidemark.model import graph

_Named = TypeVar("_Named", graph.Entity, graph.Source)
_Kind = TypeVar("_Kind", graph.Entity, graph.Source, graph.Request)

# The version of a reference that says none, until `link` has seen all definitions.
NEWEST = 0

NOTHING = graph.Definitions()


def read_reference(text: str) -> graph.Reference:
    """Read `view:feature`, an on-demand feature, or `request.field`; `@2` says a version.

    Raises `NotFound` where what follows the `@` is no version.
    """
    if ":" not in text and "." in text:
        owner, _, name = text.partition(".")
        return graph.Reference("request", name, owner)
    reference = graph.parse_reference(text)
    return reference if "@" in text else msgspec.structs.replace(reference, version=NEWEST)


def completed(definitions: graph.Definitions, applied: graph.Definitions) -> graph.Definitions:
    """Definitions with the applied entities, sources and requests that they only name."""
    views = definitions.views
    inputs = (each.reference for item in definitions.on_demand for each in item.inputs)
    owners = {each.owner for each in inputs if each.kind == "request"}
    return msgspec.structs.replace(
        definitions,
        entities=_with(definitions.entities, applied.entities, {view.entity for view in views}),
        sources=_with(definitions.sources, applied.sources, {view.source for view in views}),
        requests=_with(definitions.requests, applied.requests, owners),
    )


def _with(
    said: tuple[_Kind, ...], applied: Iterable[_Kind], named: Collection[str]
) -> tuple[_Kind, ...]:
    there = {item.name for item in said}
    found = list(said)
    found += [item for item in applied if item.name in named and item.name not in there]
    return tuple(sorted(found, key=lambda item: item.name))


def link(definitions: graph.Definitions, applied: graph.Definitions = NOTHING) -> graph.Definitions:
    """Definitions in which views that say an entity's key, or a source's table, name both.

    References by name mean the newest version that is defined, or else the newest that is applied.
    """
    entities = {each.name: each for each in (*applied.entities, *definitions.entities)}
    sources = {each.name: each for each in (*applied.sources, *definitions.sources)}
    by_key = _unique(
        (entity.keys[0].name, entity) for entity in entities.values() if len(entity.keys) == 1
    )
    by_table = _unique(
        (source.history.name, source)
        for source in sources.values()
        if isinstance(source.history, graph.Table)
    )

    def linked(view: graph.FeatureView) -> graph.FeatureView:
        if view.entity not in entities and view.entity in by_key:
            view = msgspec.structs.replace(view, entity=by_key[view.entity].name)
        if view.source not in sources and view.source in by_table:
            view = msgspec.structs.replace(view, source=by_table[view.source].name)
        entity, source = entities.get(view.entity), sources.get(view.source)
        if entity is not None and source is not None and view.keys == (entity.name,):
            # A document alone could not tell the name of an entity from that of its key.
            named = entity.name in {column.name for column in source.columns}
            keys = view.keys if named else tuple(key.name for key in entity.keys)
            view = msgspec.structs.replace(view, keys=keys)
        return view

    views = tuple(linked(view) for view in definitions.views)
    services = tuple(_with_views(each, definitions, applied) for each in definitions.services)
    linked_all = msgspec.structs.replace(definitions, views=views, services=services)
    return _newest(linked_all, applied)


def _with_views(
    service: graph.FeatureService, definitions: graph.Definitions, applied: graph.Definitions
) -> graph.FeatureService:
    """A service in which the name of a view in its list stands for each of the view's features."""
    functions = {each.name for each in (*applied.on_demand, *definitions.on_demand)}
    views: dict[str, graph.FeatureView] = {}
    for view in (*definitions.views, *applied.views):  # of several variants the current one first
        views.setdefault(view.name, view)
    outputs: list[graph.Output] = []
    for output in service.outputs:
        said = output.reference
        listed = said.kind == "on_demand" and said.version == NEWEST and output.name == said.name
        if not listed or said.name in functions or said.name not in views:
            outputs.append(output)
            continue
        outputs += [
            graph.Output(each.name, graph.Reference("feature", each.name, said.name, NEWEST))
            for each in views[said.name].features
        ]
    return msgspec.structs.replace(service, outputs=tuple(outputs))


def _newest(definitions: graph.Definitions, applied: graph.Definitions) -> graph.Definitions:
    """Definitions in which references that said no version say the one that is defined."""
    versions: dict[tuple[str, str], int] = {
        (view.name, feature.name): feature.version
        for view in definitions.views
        for feature in view.features
    }
    for each in definitions.on_demand:  # the newest version of each comes first
        versions.setdefault(("", each.name), each.version)

    def newest(reference: graph.Reference) -> graph.Reference:
        if reference.version != NEWEST:
            return reference
        version = versions.get((reference.owner, reference.name), NEWEST)
        if version == NEWEST:
            version = max(applied.versions(reference.owner, reference.name), default=NEWEST)
        return msgspec.structs.replace(reference, version=version)

    replace = msgspec.structs.replace
    on_demand = tuple(
        replace(each, inputs=tuple(replace(i, reference=newest(i.reference)) for i in each.inputs))
        for each in definitions.on_demand
    )
    services = tuple(
        replace(
            each, outputs=tuple(replace(o, reference=newest(o.reference)) for o in each.outputs)
        )
        for each in definitions.services
    )
    return replace(definitions, on_demand=on_demand, services=services)


def _unique(pairs: Iterable[tuple[str, _Named]]) -> dict[str, _Named]:
    """The items whose name no other one has."""
    found: dict[str, list[_Named]] = {}
    for name, item in pairs:
        found.setdefault(name, []).append(item)
    return {name: items[0] for name, items in found.items() if len(items) == 1}
