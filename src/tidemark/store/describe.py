"""What is defined, told to people: a dictionary of facts that prints as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import asdict, replace

from tidemark.errors import NotFound
from tidemark.model import prose
from tidemark.model.diff import consumers, feature_name
from tidemark.model.fingerprint import fingerprints, on_demand_fingerprints
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
    parse_reference,
)
from tidemark.model.lineage import columns_used
from tidemark.model.records import Model, Records
from tidemark.model.window import format_duration, format_moment
from tidemark.registry import Snapshot
from tidemark.registry.consumers import reads


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
    views = {
        view.name: ", ".join(feature.name for feature in view.features)
        for view in reversed(definitions.views)  # of variants, the one that was said last
    }
    facts["views"] = dict(sorted(views.items()))
    facts["on_demand"] = {item.name: _headline(item.description) for item in definitions.on_demand}
    facts["services"] = {
        service.name: ", ".join(output.name for output in service.outputs)
        for service in definitions.services
    }
    return Description({key: value for key, value in facts.items() if value not in ({}, "")})


def describe(definitions: Definitions, name: str, records: Records) -> Description:
    """One definition: entity, source, view, feature, request, on-demand feature, service, or model.

    A feature is named `view:feature` or, of one version, `view:feature@2`; a model `model:fraud@3`.
    Raises `NotFound` with the nearest name.
    """
    if name.startswith("model:"):
        return _model(definitions, records.model(name.removeprefix("model:")))
    reference = parse_reference(name)
    if reference.owner:
        if "@" not in name:
            versions = definitions.versions(reference.owner, reference.name)
            reference = replace(reference, version=_usual(name, versions, records))
        view, feature = definitions.locate(reference)
        return _feature(definitions, view, feature, records)
    bare = reference.name
    if bare in {item.name for item in definitions.on_demand}:
        version = reference.version
        if "@" not in name:
            version = _usual(bare, definitions.versions("", bare), records)
        return _on_demand(definitions, definitions.on_demand_feature(bare, version), records)
    for item in _by_likelihood(definitions):
        if item.name == bare:
            facts = _definition(definitions, item)
            if "@" in name:
                raise _no_version(name, bare, facts["kind"], records)
            return facts
    owners = {
        view.name for view in definitions.views for each in view.features if each.name == bare
    }
    if len(owners) == 1:
        return describe(definitions, f"{owners.pop()}:{name}", records)
    known = {item.name for item in definitions}
    known |= {f"{view.name}:{each.name}" for view in definitions.views for each in view.features}
    raise NotFound.named("definition", name, known)


def _no_version(name: str, bare: str, kind: str, records: Records) -> NotFound:
    """What is said of a version of what has none; it may be that of a model of the same name."""
    models = {each.reference for each in records.models}
    remedy = f'The model is "model:{name}".' if name in models else f'Ask for "{bare}".'
    return NotFound(f"There is no {name!r}: a {kind} has no versions.", remedy=remedy)


def _usual(name: str, versions: Sequence[int], records: Records) -> int:
    """The version that a name without one means: the newest that is no draft."""
    stages = records.stages()
    published = [each for each in versions if stages.get(f"{name}@{each}") != "draft"]
    return next(iter(published or versions), 1)


def _names(views: Iterable[FeatureView]) -> list[str]:
    return list(dict.fromkeys(view.name for view in views))


def _by_likelihood(
    definitions: Definitions,
) -> Iterable[Entity | Source | FeatureView | Request | FeatureService]:
    yield from definitions.services
    yield from definitions.views
    yield from definitions.entities
    yield from definitions.sources
    yield from definitions.requests


def _definition(
    definitions: Definitions, item: Entity | Source | FeatureView | Request | FeatureService
) -> Description:
    match item:
        case Entity():
            views = _names(view for view in definitions.views if view.entity == item.name)
            return _facts(item, "entity", keys=_fields(item.keys), views=views)
        case Source():
            readers = _names(view for view in definitions.views if view.source == item.name)
            return Description({**_source(item), "views": readers})
        case FeatureView():
            return _view(definitions, item)
        case Request():
            return _facts(item, "request", fields=_fields(item.fields))
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
    identity = f"rows that agree on {', '.join(source.unique)}" if source.unique else "each row"
    return _facts(
        source,
        "source",
        history=prose.history(source.history),
        stream=prose.stream(source.stream) if source.stream is not None else "",
        time=time,
        seen=_seen(source) if source.time else "",
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
        step=format_duration(view.step) if view.step else "",
        features=features,
    )


def _on_demand(definitions: Definitions, item: OnDemand, records: Records) -> Description:
    return _facts(
        item,
        "on-demand feature",
        version=item.version,
        **_life(definitions, item.reference, records),
        type=str(item.type),
        meaning=prose.on_demand_sentence(item),
        read_by=_readers(definitions, item.reference, records),
        fingerprints=asdict(on_demand_fingerprints(item)),
    )


def _model(definitions: Definitions, model: Model) -> Description:
    outputs = {
        output.name: f"{definitions.type_of(output.reference)}  {output.reference}"
        for output in model.outputs
    }
    facts = Description(
        kind="model",
        name=model.reference,
        owner=model.owner or "nobody",
        stage=model.stage,
        service=model.service,
        dataset=model.dataset,
        outputs=outputs,
    )
    return Description({key: value for key, value in facts.items() if value not in ("", {})})


def _life(definitions: Definitions, reference: str, records: Records) -> dict[str, Any]:
    """Where a feature is in its life, and its other versions."""
    life = records.life(reference)
    parsed = parse_reference(reference)
    others = [
        f"{reference.rpartition('@')[0]}@{version}"
        for version in definitions.versions(parsed.owner, parsed.name)
        if version != parsed.version
    ]
    return {
        "lifecycle": life.stage,
        "reason": life.reason,
        "replacement": life.replacement,
        "sunset": life.sunset,
        "other_versions": others,
    }


def _readers(definitions: Definitions, reference: str, records: Records) -> list[str]:
    """Everything that reads a feature: on-demand features, services, models."""
    models = [
        f"model {model.reference}"
        for model in records.models
        if reference in reads(definitions, model)
    ]
    return [*consumers(definitions, reference), *models]


def _feature(
    definitions: Definitions, view: FeatureView, feature: Feature, records: Records
) -> Description:
    source = definitions.source(view.source)
    reference = feature_name(view, feature)
    facts = _facts(
        feature,
        "feature",
        name=reference,
        **_life(definitions, reference, records),
        meaning=prose.sentence(view, feature, source),
        type=str(feature.type),
        entity=view.entity,
        source=view.source,
        columns=columns_used(source, view, feature),
        bound=_bound(view),
        step=format_duration(view.step) if view.step else "",
        zone=feature.aggregate.window.zone or "UTC; a day is 24 hours",
        nulls=_nulls(feature),
        seen=_seen(source),
        defaults=records.defaults.name,
        read_by=_readers(definitions, reference, records),
        fingerprints=asdict(fingerprints(definitions, view, feature)),
    )
    facts["owner"] = feature.owner or view.owner or "nobody"
    return facts


def _seen(source: Source) -> str:
    if source.time is None:
        return "always"
    if source.seen:
        return f"when {source.seen} says"
    return (
        f"{prose.duration(source.delay)} after it happened" if source.delay else "when it happened"
    )


def _nulls(feature: Feature) -> str:
    """What a null among the values does, and what there is of nothing."""
    aggregate = feature.aggregate
    if aggregate.function == "latest":
        return "a null in the newest row is the value; without a row it is null"
    counted = "rows count whatever they hold" if aggregate.value is None else "skipped"
    return f"{counted}; of nothing the value is {prose.of_nothing(aggregate)}"


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


def _fields(fields: Sequence[Field]) -> dict[str, str]:
    types = {f.name: f"{f.type} or null" if f.optional else f"{f.type}" for f in fields}
    return {f.name: f"{types[f.name]}  {f.description}".rstrip() for f in fields}


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
