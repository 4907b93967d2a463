"""The life of a feature: published, deprecated, retired; and what must be so before each step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from msgspec.structs import replace

from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model.diff import consumers
from tidemark.model.graph import Definitions, FeatureView, parse_reference
from tidemark.model.merge import references
from tidemark.model.records import Lifecycle
from tidemark.model.window import moment_text
from tidemark.registry.consumers import reads
from tidemark.registry.snapshots import Snapshot


def deprecated(
    now: Snapshot, feature: str, *, replacement: str, sunset: str | date, reason: str
) -> Snapshot:
    """The registry in which a feature serves on, and says that it is to be left."""
    name = _exact(now, feature)
    life = Lifecycle(
        name,
        "deprecated",
        _exact(now, replacement) if replacement else "",
        _day(sunset),
        reason,
    )
    if life.replacement == name:
        raise RequestInvalid(f"{name} cannot replace itself.", remedy="Name another feature.")
    return replace(now, records=now.records.with_life(life))


def published(now: Snapshot, feature: str) -> Snapshot:
    """The registry in which a feature is simply published; a retired one may be said again."""
    retired = {each.feature for each in now.records.lifecycle if each.stage == "retired"}
    name = feature if feature in retired else _exact(now, feature)
    return replace(now, records=now.records.with_life(Lifecycle(name, "published")))


def retired(
    now: Snapshot,
    feature: str,
    *,
    replacement: str,
    reason: str,
    read: Mapping[str, datetime],
) -> Snapshot:
    """The registry without a feature, whose version number is never used for anything else.

    `read` says when features were read last, of those that were read lately.  Raises `PlanConflict`
    while anything uses it.
    """
    name = _exact(now, feature)
    users = users_of(now, name)
    remedy = f"Move them to another version first; tidemark deprecate {name} tells them so."
    if name in read:
        users.append(f"read last at {moment_text(read[name])}")
        remedy += (
            " Once they have moved, unread_for=None (--unread-for none) asks no more who read it."
        )
    if users:
        raise PlanConflict(f"{name} is still used.", where="\n".join(users), remedy=remedy)
    before = now.records.life(name)
    life = Lifecycle(
        name,
        "retired",
        _exact(now, replacement) if replacement else before.replacement,
        "",
        reason or before.reason,
    )
    return replace(
        now, definitions=_without(now.definitions, name), records=now.records.with_life(life)
    )


def users_of(now: Snapshot, name: str) -> list[str]:
    """The services, on-demand features and models that use a feature, one line each."""
    direct = [
        each if each.startswith("service ") else f"on-demand feature {each}"
        for each in consumers(now.definitions, name)
    ]
    models = [
        f"model {model.reference}{f' ({model.owner})' if model.owner else ''}"
        for model in now.models
        if model.stage != "retired" and name in reads(now.definitions, model)
    ]
    return direct + models


def _exact(now: Snapshot, feature: str) -> str:
    """The reference of a version; without one, the only or newest version."""
    known = references(now.definitions)
    if feature in known:
        return feature
    if "@" not in feature:
        reference = parse_reference(feature)
        for version in now.definitions.versions(reference.owner, reference.name):
            return f"{feature}@{version}"
    for life in now.records.lifecycle:
        if life.feature == feature and life.stage == "retired":
            raise NotFound(f"{feature} is retired.", remedy=f"tidemark publish {feature}")
    raise NotFound.named("feature", feature, known)


def _day(text: str | date) -> str:
    if not text:
        return ""
    try:
        return (text if isinstance(text, date) else date.fromisoformat(text)).isoformat()
    except ValueError:
        raise RequestInvalid(f"{text!r} is not a date.", remedy="Write it as 2027-01-31.") from None


def _without(definitions: Definitions, name: str) -> Definitions:
    reference = parse_reference(name)
    if not reference.owner:
        rest = tuple(each for each in definitions.on_demand if each.reference != name)
        return replace(definitions, on_demand=rest)
    found: list[FeatureView] = []
    for view in definitions.views:
        if view.name != reference.owner:
            found.append(view)
            continue
        features = tuple(
            each
            for each in view.features
            if (each.name, each.version) != (reference.name, reference.version)
        )
        if features:
            found.append(replace(view, features=features))
    return replace(definitions, views=tuple(found))
