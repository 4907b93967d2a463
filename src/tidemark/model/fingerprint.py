"""Fingerprints: short texts that are equal exactly when definitions are equal in some respect.

A feature has four, and every field of every definition is part of exactly one of them:

    meaning     what is computed: a change can alter values
    contract    what a reader relies on: names, types, keys, versions
    metadata    what people are told: descriptions, owners, tags
    operation   where data lies and how fresh it must be

The encoding is canonical JSON of the fields that differ from their defaults, so neither the
spelling of a definition nor a field that a later release adds changes a fingerprint.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec.structs import FieldInfo, fields, replace

from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import columns_of
from tidemark.model.graph import (
    Csv,
    Definition,
    Definitions,
    Delta,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Field,
    Frame,
    Input,
    Kafka,
    Ndjson,
    OnDemand,
    Output,
    Parquet,
    Query,
    RedisStream,
    Reference,
    Request,
    Source,
    Table,
)

ENCODING = 1
"""The version of the canonical encoding below; another one gives other fingerprints.

The one spelling of `tidemark.model.canonical`, its table of time zones included, belongs to it.
"""

ENGINE_EPOCH = 1
"""Raised by a release whose kernel gives another value for the same definition and data."""

Kind = Literal["meaning", "contract", "metadata", "operation"]
KINDS: tuple[Kind, ...] = ("meaning", "contract", "metadata", "operation")

_DESCRIBED: Mapping[str, Kind | None] = {
    "description": "metadata",
    "owner": "metadata",
    "tags": "metadata",
}

# The kind of each field; None: the kind of the field that holds the object.  Objects of types not
# listed (types, windows, expressions, aggregates, references) follow their holder as a whole.
FIELDS: Mapping[type[msgspec.Struct], Mapping[str, Kind | None]] = {
    Field: {
        "name": None,
        "type": None,
        "description": "metadata",
        "tags": "metadata",
        "optional": "contract",
    },
    Entity: {"name": "contract", "keys": "contract", **_DESCRIBED},
    Source: {
        "name": "meaning",
        "columns": "meaning",
        "time": "meaning",
        "timezone": "meaning",
        "unique": "meaning",
        "seen": "meaning",
        "delay": "meaning",
        "history": "operation",
        "stream": "operation",
        **_DESCRIBED,
    },
    # Moving files is operation; what a query selects is meaning.
    Parquet: {"path": None},
    Csv: {"path": None},
    Table: {"name": None, "connection": None},
    Query: {"sql": "meaning", "connection": None},
    Delta: {"path": None},
    Frame: {"name": None},
    Kafka: dict.fromkeys(("topic", "brokers", "format", "schema")),
    RedisStream: dict.fromkeys(("key", "url", "field")),
    Ndjson: {"path": None},
    Feature: {
        "name": "contract",
        "type": "contract",
        "version": "contract",
        "aggregate": "meaning",
        "attribute": "metadata",
        **_DESCRIBED,
    },
    FeatureView: {
        "name": "contract",
        "entity": "contract",
        "source": "meaning",
        "keys": "meaning",
        "features": None,
        "bound": "meaning",
        "max_age": "meaning",
        "step": "meaning",
        "freshness": "operation",
        **_DESCRIBED,
    },
    Request: {"name": "contract", "fields": "contract", **_DESCRIBED},
    Input: {"parameter": None, "reference": None},
    OnDemand: {
        "name": "contract",
        "type": "contract",
        "version": "contract",
        "inputs": "meaning",
        "code": "meaning",
        "function": "operation",
        **_DESCRIBED,
    },
    Output: {"name": None, "reference": None},
    FeatureService: {"name": "contract", "outputs": "contract", **_DESCRIBED},
}


class Fingerprints(msgspec.Struct, frozen=True):
    """The four fingerprints of one feature."""

    meaning: str
    contract: str
    metadata: str
    operation: str


def fingerprints(definitions: Definitions, view: FeatureView, feature: Feature) -> Fingerprints:
    """The four fingerprints of a feature with all it rests on: its view, its entity, its source."""
    source, entity = definitions.source(view.source), definitions.entity(view.entity)
    parts = _resting(view, feature, source, entity)
    return Fingerprints(*(_digest(kind, parts) for kind in KINDS))


def meaning(view: FeatureView, feature: Feature, source: Source) -> str:
    """The first of the four alone; the entity has no part in it."""
    return _digest("meaning", _resting(view, feature, source, None))


def on_demand_fingerprints(item: OnDemand) -> Fingerprints:
    """The four of an on-demand feature; its inputs count by name and version."""
    return Fingerprints(*(_digest(kind, (item,)) for kind in KINDS))


def on_demand_meaning(item: OnDemand) -> str:
    """The first of these alone."""
    return _digest("meaning", (item,))


def meaning_of(definitions: Definitions, reference: Reference) -> str:
    """The same of what a reference names, of either kind; raises `NotFound`."""
    if reference.kind == "on_demand":
        return on_demand_meaning(definitions.on_demand_feature(reference.name, reference.version))
    view, feature = definitions.locate(reference)
    return meaning(view, feature, definitions.source(view.source))


def state_id(view: FeatureView, source: Source) -> str:
    """The fingerprint of what online rows of the view hold; 16 characters.

    Equal for two views whose rows have the same bytes for the same events: names, descriptions and
    defaults do not count, the events kept and the columns packed do.
    """
    aggregates = [replace(feature.aggregate, default=None) for feature in view.features]
    held = [
        project(aggregates, "meaning", "meaning"),
        project(_without_features(view), "meaning"),
        project(_read_part(source, view, view.features), "meaning"),
    ]
    return _hash([ENGINE_EPOCH, held])[:16]


def held_id(view: FeatureView, feature: Feature, source: Source) -> str:
    """What rows must hold to answer for one feature; equal where the same rows answer for two."""
    return state_id(replace(view, features=(feature,)), source)


def project(value: Any, kind: Kind, held_as: Kind | None = None) -> Any:
    """The part of a definition that belongs to one fingerprint, as JSON values; None: nothing.

    `held_as` is the kind of the field in which the value was found.
    """
    if isinstance(value, msgspec.Struct):
        table = FIELDS.get(type(value), {})
        part: dict[str, Any] = {}
        for field in struct_fields(type(value)):
            item = getattr(value, field.name)
            if not _is_default(field, item):
                inner = project(item, kind, table.get(field.name) or held_as)
                if inner is not None:
                    part[field.name] = inner
        tag = type(value).__struct_config__.tag
        if tag is not None and held_as == kind:
            part["is"] = tag
        return part if part or held_as == kind else None
    if isinstance(value, tuple | list):
        items = cast("Sequence[object]", value)
        parts = [project(item, kind, held_as) for item in items]
        if held_as == kind:
            return parts
        return [[place, part] for place, part in enumerate(parts) if part is not None] or None
    return value if held_as == kind else None


@functools.cache
def struct_fields(type_: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    """The fields of a type; msgspec reads its annotations anew at every call."""
    return fields(type_)


def _is_default(field: FieldInfo, value: Any) -> bool:
    return field.default is not msgspec.NODEFAULT and bool(value == field.default)


def _without_features(view: FeatureView) -> FeatureView:
    return replace(view, features=())


def _read_part(source: Source, view: FeatureView, features: tuple[Feature, ...]) -> Source:
    """The source with those columns only that can matter to the features.

    Where ties are broken by content, that is every column up to the last one read: rows that agree
    on these agree on all that is read, so what follows cannot matter.
    """
    read = {*view.keys, *source.unique, source.time, source.seen}
    for feature in features:
        for expr in (feature.aggregate.value, feature.aggregate.where):
            read |= columns_of(expr) if expr is not None else set()
    places = [place for place, column in enumerate(source.columns) if column.name in read]
    if source.unique or any(feature.aggregate.needs_order for feature in features):
        return replace(source, columns=source.columns[: max(places, default=-1) + 1])
    columns = sorted((source.columns[place] for place in places), key=lambda column: column.name)
    return replace(source, columns=tuple(columns))


def _resting(
    view: FeatureView, feature: Feature, source: Source, entity: Entity | None
) -> tuple[Definition | Feature | None, ...]:
    """A feature and the parts of other definitions that it rests on."""
    aggregate = feature.aggregate
    bare = _without_features(view if aggregate.rule.stored else replace(view, max_age=0))
    read = _read_part(source, view, (feature,))
    if not aggregate.needs_order:
        # Which columns identify an event, not in which order ties are broken by them.
        read = replace(read, unique=tuple(sorted(read.unique)))
    if source.time is None:
        bare = replace(bare, bound="at", step=0)  # facts that hold always are on both sides of it
    return replace(feature, aggregate=_computed(aggregate)), bare, entity, read


def _computed(aggregate: Aggregate) -> Aggregate:
    """The aggregate without what may be said of it and is not read, numbers as one type."""
    window = aggregate.window
    return replace(
        aggregate,
        window=replace(window, rows=0) if aggregate.function == "latest" else window,
        q=float(aggregate.q),
        default=None if aggregate.rule.zero else aggregate.default,
    )


def _digest(kind: Kind, parts: tuple[Definition | Feature | None, ...]) -> str:
    epoch = ENGINE_EPOCH if kind == "meaning" else 0
    return _hash([epoch, kind, [project(part, kind) for part in parts]])


def _hash(value: Any) -> str:
    text = msgspec.json.encode([ENCODING, value], order="deterministic")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
