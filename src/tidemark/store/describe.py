"""What is defined, told to people: a dictionary of facts that prints as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tidemark.errors import NotFound
from tidemark.model import prose
from tidemark.model.diff import consumers, feature_name
from tidemark.model.graph import (
    Definition,
    Definitions,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Field,
    OnDemand,
    Request,
    Source,
)
from tidemark.model.lineage import columns_used
from tidemark.model.window import format_duration, format_moment
from tidemark.registry import Snapshot


class Description(dict[str, Any]):
    """Facts about one definition or about all; JSON values inside, text when printed."""

    def __repr__(self) -> str:
        return "\n".join(_lines(self, 0))

    __str__ = __repr__


def overview(snapshot: Snapshot, name: str) -> Description:
    """Everything in force, by kind, each with the first line of its description."""
    definitions = snapshot.definitions
    facts = Description(project=name, revision=snapshot.revision)
    if snapshot.revision:
        facts["applied"] = f"{format_moment(snapshot.at)} by {snapshot.author}"
    facts["entities"] = {item.name: _headline(item.description) for item in definitions.entities}
    facts["sources"] = {item.name: _headline(item.description) for item in definitions.sources}
    facts["views"] = {
        view.name: ", ".join(feature.name for feature in view.features)
        for view in definitions.views
    }
    facts["on_demand"] = {item.name: _headline(item.description) for item in definitions.on_demand}
    facts["services"] = {
        service.name: ", ".join(output.name for output in service.outputs)
        for service in definitions.services
    }
    return Description({key: value for key, value in facts.items() if value not in ({}, "")})


def describe(definitions: Definitions, name: str) -> Description:
    """One entity, source, view, feature (`view:feature`), request, on-demand feature or service.

    Raises `NotFound` with the nearest name.
    """
    bare = name.partition("@")[0]
    view_name, _, feature = bare.rpartition(":")
    if view_name:
        view = definitions.view(view_name)
        return _feature(definitions, view, view.feature(feature))
    for item in _by_likelihood(definitions):
        if item.name == bare:
            return _definition(definitions, item)
    owners = [view for view in definitions.views for each in view.features if each.name == bare]
    if len(owners) == 1:
        return _feature(definitions, owners[0], owners[0].feature(bare))
    known = {item.name for item in definitions}
    known |= {f"{view.name}:{each.name}" for view in definitions.views for each in view.features}
    raise NotFound.named("definition", name, known)


def _by_likelihood(definitions: Definitions) -> Iterable[Definition]:
    yield from definitions.services
    yield from definitions.views
    yield from definitions.on_demand
    yield from definitions.entities
    yield from definitions.sources
    yield from definitions.requests


def _definition(definitions: Definitions, item: Definition) -> Description:
    match item:
        case Entity():
            views = [view.name for view in definitions.views if view.entity == item.name]
            return _facts(item, "entity", keys=_fields(item.keys), views=views)
        case Source():
            readers = [view.name for view in definitions.views if view.source == item.name]
            return Description({**_source(item), "views": readers})
        case FeatureView():
            return _view(definitions, item)
        case Request():
            return _facts(item, "request", fields=_fields(item.fields))
        case OnDemand():
            return _facts(
                item,
                "on-demand feature",
                version=item.version,
                type=str(item.type),
                meaning=prose.on_demand_sentence(item),
                read_by=list(consumers(definitions, f"{item.name}@{item.version}")),
            )
        case FeatureService():
            outputs = {
                output.name: f"{definitions.type_of(output.reference)}  {output.reference}"
                for output in item.outputs
            }
            return _facts(item, "service", outputs=outputs)


def _source(source: Source) -> Description:
    if source.time is None:
        time = "none: facts that hold at every moment; their past is not known"
    else:
        zone = f", in {source.timezone} where the column carries no zone" if source.timezone else ""
        time = source.time + zone
    if source.seen:
        seen = f"when {source.seen} says"
    elif source.delay:
        seen = f"{prose.duration(source.delay)} after it happened"
    else:
        seen = "when it happened"
    identity = f"rows that agree on {', '.join(source.unique)}" if source.unique else "each row"
    return _facts(
        source,
        "source",
        history=prose.history(source.history),
        time=time,
        seen=seen if source.time else "",
        event=f"{identity}{' are versions of one event' if source.unique else ' is an event'}",
        columns=_fields(source.columns),
    )


def _view(definitions: Definitions, view: FeatureView) -> Description:
    source = definitions.source(view.source)
    features = {feature.name: prose.sentence(view, feature, source) for feature in view.features}
    return _facts(
        view,
        "view",
        entity=view.entity,
        source=f"{view.source}, by {', '.join(view.keys)}",
        bound=_bound(view),
        max_age=format_duration(view.max_age) if view.max_age else "none",
        freshness=format_duration(view.freshness) if view.freshness else "not promised",
        features=features,
    )


def _feature(definitions: Definitions, view: FeatureView, feature: Feature) -> Description:
    source = definitions.source(view.source)
    reference = feature_name(view, feature)
    facts = _facts(
        feature,
        "feature",
        name=reference,
        meaning=prose.sentence(view, feature, source),
        type=str(feature.type),
        entity=view.entity,
        source=view.source,
        columns=columns_used(source, view, feature),
        bound=_bound(view),
        zone=feature.aggregate.window.zone or "UTC; a day is 24 hours",
        read_by=list(consumers(definitions, reference)),
    )
    facts["owner"] = feature.owner or view.owner or "nobody"
    return facts


def _bound(view: FeatureView) -> str:
    if view.bound == "at":
        return "at: an event at the very moment asked for counts"
    return "before: an event at the very moment asked for does not count"


def _facts(item: Definition | Feature, kind: str, **facts: Any) -> Description:
    found = Description(kind=kind, name=item.name, description=item.description)
    found["owner"] = item.owner or "nobody"
    found["tags"] = list(item.tags)
    found.update(facts)
    return Description({key: value for key, value in found.items() if value not in ("", [], {})})


def _fields(fields: Iterable[Field]) -> dict[str, str]:
    return {field.name: f"{field.type}  {field.description}".rstrip() for field in fields}


def _headline(text: str) -> str:
    return text.partition("\n")[0]


def _lines(facts: dict[str, Any], depth: int) -> Iterable[str]:
    width = max((len(key) for key in facts), default=0)
    indent = "  " * depth
    for key, value in facts.items():
        label = key.replace("_", " ") if depth == 0 else key
        if isinstance(value, dict):
            yield f"{indent}{label}"
            yield from _lines(value, depth + 1)  # pyright: ignore[reportUnknownArgumentType]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            first, *rest = text.splitlines() or [""]
            yield f"{indent}{label:<{width}}  {first}"
            yield from (f"{indent}{'':<{width}}  {line}" for line in rest)
