"""What is said now, beside what was published and is no longer said.

A published feature outlives its text.  It stays in the view that still computes it as it did, and
otherwise in a variant of that view beside the current one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from msgspec.structs import replace

from tidemark.model.graph import (
    Definitions,
    Entity,
    FeatureView,
    Request,
    Source,
)

_Named = TypeVar("_Named", Entity, Source, Request)


def merged(said: Definitions, applied: Definitions, dropped: Collection[str] = ()) -> Definitions:
    """The definitions as they are said, and of the applied ones every feature that left the text.

    With a feature stay the source, the entity, the requests and the features that it needs.
    `dropped` are references (`view:feature@1`) that do not stay.  Services do not stay.
    """
    views = tuple(_views(said, applied, frozenset(dropped)))
    known = {(each.name, each.version) for each in said.on_demand}
    functions = (
        *said.on_demand,
        *(
            each
            for each in applied.on_demand
            if (each.name, each.version) not in known
            and f"{each.name}@{each.version}" not in dropped
        ),
    )
    owners = {
        each.reference.owner
        for item in functions
        for each in item.inputs
        if each.reference.kind == "request"
    }
    return replace(
        said,
        entities=_with(said.entities, applied.entities, {view.entity for view in views}),
        sources=_with(said.sources, applied.sources, {view.source for view in views}),
        views=views,
        requests=_with(said.requests, applied.requests, owners),
        on_demand=tuple(sorted(functions, key=lambda each: (each.name, -each.version))),
    )


def kept(said: Definitions, whole: Definitions) -> tuple[str, ...]:
    """The references of what stays although it is not said."""
    named = set(references(said))
    return tuple(name for name in references(whole) if name not in named)


def references(definitions: Definitions) -> tuple[str, ...]:
    """The references of all features and on-demand features."""
    features = (f"{v.name}:{f.name}@{f.version}" for v in definitions.views for f in v.features)
    return (*features, *(f"{each.name}@{each.version}" for each in definitions.on_demand))


def _views(
    said: Definitions, applied: Definitions, dropped: frozenset[str]
) -> Iterator[FeatureView]:
    by_name: dict[str, list[FeatureView]] = {}
    for view in said.views:
        by_name.setdefault(view.name, []).append(view)
    there = {name for name in references(said) if ":" in name}
    for view in applied.views:
        variants = by_name.setdefault(view.name, [])
        for feature in view.features:
            reference = f"{view.name}:{feature.name}@{feature.version}"
            if reference in there or reference in dropped:
                continue
            alone = replace(view, features=(feature,))
            for place, variant in enumerate(variants):
                if _computes(variant) == _computes(view) and all(
                    each.name != feature.name for each in variant.features
                ):
                    variants[place] = replace(variant, features=(*variant.features, feature))
                    break
            else:
                variants.append(alone)
    for name in sorted(by_name):
        yield from by_name[name]


def _computes(view: FeatureView) -> tuple[object, ...]:
    """All of a view that its features mean something by."""
    return view.entity, view.source, view.keys, view.bound, view.max_age, view.step


def _with(
    said: tuple[_Named, ...], applied: Iterable[_Named], needed: Collection[str]
) -> tuple[_Named, ...]:
    found = {item.name: item for item in applied if item.name in needed}
    found |= {item.name: item for item in said}
    return tuple(found[name] for name in sorted(found))
