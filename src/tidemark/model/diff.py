"""What changed between two sets of definitions, and what follows from each change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, cast

import msgspec

from tidemark.model import prose
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Cast, Column, Expr, Literal as Literal_, Sql
from tidemark.model.fingerprint import FIELDS, Kind, meaning, struct_fields
from tidemark.model.graph import (
    Csv,
    Definition,
    Definitions,
    Delta,
    Feature,
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
    Source,
    Table,
)
from tidemark.model.window import Window, format_duration

What = Literal["added", "removed", "meaning", "contract", "metadata", "operation", "restated"]
Class = Literal[
    "additive", "metadata", "policy", "operational", "semantic", "source", "restatement", "alias",
    "retirement",
]  # fmt: skip
"""What kind of consequences a change has; `docs/reference/cli.md` explains each."""

POLICY_TAGS = frozenset({"pii", "sensitive", "confidential", "restricted", "gdpr"})
"""Tags that say how data must be treated; one that comes or goes is a change of policy."""

_DURATIONS = {"delay", "max_age", "freshness", "step"}
_WORDS = {
    "Entity": "entity",
    "Source": "source",
    "FeatureView": "view",
    "Feature": "feature",
    "Request": "request",
    "OnDemand": "on-demand feature",
    "FeatureService": "service",
}
_ORDER = tuple(_WORDS.values())

Item = Definition | Feature
_Footing = tuple[FeatureView, Feature, Source | None]


class FieldChange(msgspec.Struct, frozen=True):
    """One field before and after, as text; None: it was not there."""

    field: str
    before: str | None
    after: str | None


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object that was added, removed, or changed in one respect.

    `kind` is a word such as `feature`, `name` its name (`user_spend:spend_7d@1`).  `through` names
    what the change came from where the object's own text is unchanged.  `affects` names the
    features and services whose values can change.
    """

    what: What
    kind: str
    name: str
    fields: tuple[FieldChange, ...] = ()
    through: str = ""
    affects: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The kind and the name."""
        return f"{self.kind} {self.name}"

    @property
    def category(self) -> Class:
        """What kind of consequences the change has."""
        match self.what:
            case "added":
                return "additive"
            case "removed":
                return "retirement"
            case "restated":
                return "restatement"
            case "metadata":
                return "policy" if _is_policy(self.fields) else "metadata"
            case "operation":
                promised = {each.field for each in self.fields} == {"freshness"}
                return "policy" if promised else "operational"
            case "contract" | "meaning":
                if self.kind == "source" or self.through.startswith("source "):
                    return "source"
                return _of_service(self.fields) if self.kind == "service" else "semantic"


def _is_policy(fields: Iterable[FieldChange]) -> bool:
    tags = [
        set((text or "").lower().split(", "))
        for each in fields
        if each.field.rpartition(".")[2] == "tags"
        for text in (each.before, each.after)
    ]
    pairs = zip(tags[::2], tags[1::2], strict=True)
    return any(POLICY_TAGS & (before ^ after) for before, after in pairs)


def _of_service(fields: Iterable[FieldChange]) -> Class:
    """Whether a service reads something else under a name, or only gained names."""
    for each in fields:
        before, after = (
            dict(part.split(" = ") for part in (text or "").split(", ") if part)
            for text in (each.before, each.after)
        )
        if any(before[name] != after[name] for name in before.keys() & after.keys()):
            return "alias"
        if before.keys() - after.keys():
            return "semantic"
    return "additive"


def diff(old: Definitions, new: Definitions) -> tuple[Change, ...]:
    """Every change from `old` to `new`, in the order of kinds, then of names."""
    before, after = _objects(old), _objects(new)
    footings = _footings(old), _footings(new)
    moved = {
        name
        for name, footing in footings[0].items()
        if name in footings[1]
        and footing != footings[1][name]
        and _meaning(footing) != _meaning(footings[1][name])
    }
    changes: list[Change] = []
    for key in before.keys() | after.keys():
        if key not in before or key not in after:
            what: What = "added" if key not in before else "removed"
            changes.append(Change(what, *key))
        else:
            changes += _compare(key, before[key], after[key], moved, new)
    own = {change.name for change in changes if change.kind == "feature"}
    changes += [_through(name, footings[0][name][0], footings[1][name][0]) for name in moved - own]
    readers = _readers(new)
    named = [
        msgspec.structs.replace(change, affects=_affected(change, moved, new, readers))
        for change in changes
    ]
    return tuple(sorted(named, key=lambda each: (_ORDER.index(each.kind), each.name, each.what)))


def _objects(definitions: Definitions) -> dict[tuple[str, str], Item]:
    found: dict[tuple[str, str], Item] = {}
    for item in definitions:
        version = f"@{item.version}" if isinstance(item, OnDemand) else ""
        found.setdefault((_WORDS[type(item).__name__], item.name + version), item)
        if isinstance(item, FeatureView):
            for feature in item.features:
                found["feature", feature_name(item, feature)] = feature
    return found


def feature_name(view: FeatureView, feature: Feature) -> str:
    """`view:feature@version`."""
    return f"{view.name}:{feature.name}@{feature.version}"


def _footings(definitions: Definitions) -> dict[str, _Footing]:
    """For each feature, all that its fingerprint is made of: cheaper to compare than that."""
    sources = {item.name: item for item in definitions.sources}
    found: dict[str, _Footing] = {}
    for view in definitions.views:
        bare = msgspec.structs.replace(view, features=())
        for feature in view.features:
            found[feature_name(view, feature)] = bare, feature, sources.get(view.source)
    return found


def _meaning(footing: _Footing) -> str:
    view, feature, source = footing
    return meaning(view, feature, source) if source is not None else ""


def meaning_fields(item: Item) -> dict[str, str]:
    """The fields of a definition that can alter values, each as text, by their paths."""
    return {path: text for path, (kind, text) in _leaves(item) if kind == "meaning"}


def _compare(
    key: tuple[str, str], old: Item, new: Item, moved: set[str], definitions: Definitions
) -> Iterator[Change]:
    """One change for each respect in which two objects of one name differ."""
    if old == new:
        return
    before, after = dict(_leaves(old)), dict(_leaves(new))
    by_kind: dict[Kind, list[FieldChange]] = {}
    for path in [*before, *(path for path in after if path not in before)]:
        left, right = before.get(path), after.get(path)
        if left != right:
            kind = (left or right or ("meaning", ""))[0]
            change = FieldChange(path, left and left[1], right and right[1])
            by_kind.setdefault(kind, []).append(change)
    if isinstance(new, Source) and "meaning" in by_kind:
        # A column that no feature reads changes what can be read, not what is computed.
        features = {
            feature_name(view, feature)
            for view in definitions.views
            if view.source == new.name
            for feature in view.features
        }
        if not features & moved:
            by_kind.setdefault("contract", []).extend(by_kind.pop("meaning"))
    for kind, fields in by_kind.items():
        yield Change(kind, *key, fields=tuple(fields))


def _through(name: str, before: FeatureView, after: FeatureView) -> Change:
    """The change of a feature whose own text is the same: its view or its source differs."""
    fields = [
        FieldChange(path, str(getattr(before, path)), str(getattr(after, path)))
        for path in ("source", "keys", "bound", "max_age", "step")
        if getattr(before, path) != getattr(after, path)
    ]
    through = f"view {after.name}" if fields else f"source {after.source}"
    return Change("meaning", "feature", name, through=through)


def _readers(definitions: Definitions) -> dict[str, set[str]]:
    """For each feature and on-demand feature, everything that reads it directly."""
    readers: dict[str, set[str]] = {}
    for item in definitions.on_demand:
        for each in item.inputs:
            readers.setdefault(str(each.reference), set()).add(f"{item.name}@{item.version}")
    for service in definitions.services:
        for output in service.outputs:
            readers.setdefault(str(output.reference), set()).add(f"service {service.name}")
    return readers


def _affected(
    change: Change, moved: set[str], definitions: Definitions, readers: Mapping[str, set[str]]
) -> tuple[str, ...]:
    if change.what not in {"meaning", "removed"}:
        return ()
    start = {change.name}
    if change.kind in {"source", "view"}:
        start = {
            feature_name(view, feature)
            for view in definitions.views
            if change.name in {view.source, view.name}
            for feature in view.features
        } & moved
    return _in_order(_reached(start, readers) | (start - {change.name}))


def consumers(definitions: Definitions, name: str) -> tuple[str, ...]:
    """Everything that reads a feature (`view:feature@1`), directly or not; services last."""
    return _in_order(_reached({name}, _readers(definitions)))


def all_consumers(definitions: Definitions) -> dict[str, tuple[str, ...]]:
    """`consumers` of everything that has any, by name."""
    readers = _readers(definitions)
    return {name: _in_order(_reached({name}, readers)) for name in readers}


def _reached(start: set[str], readers: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    todo = list(start)
    while todo:
        new = readers.get(todo.pop(), set()) - reached
        reached |= new
        todo += new
    return reached


def _in_order(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (name.startswith("service "), name)))


def _leaves(
    item: msgspec.Struct, path: str = "", held_as: Kind = "meaning"
) -> Iterator[tuple[str, tuple[Kind, str]]]:
    """Each field that differs from nothing: its path, its kind and its text."""
    table = FIELDS.get(type(item), {})
    for field in struct_fields(type(item)):
        if field.name == "features":
            continue
        value: Any = getattr(item, field.name)
        kind = table.get(field.name) or held_as
        here = f"{path}{field.name}"
        match value:
            case None | "" | ():
                pass
            case (Field(), *_):
                columns = cast("tuple[Field, ...]", value)
                yield here, (kind, ", ".join(column.name for column in columns))
                for column in columns:
                    yield from _leaves(column, f"{here}.{column.name}.", kind)
            case Query():
                yield from _leaves(value, f"{here}.", kind)
            case Aggregate():
                yield from _leaves(value, "", kind)
            case _ if isinstance(value, Window) or value != field.default:
                yield here, (kind, _text(field.name, value))
            case _:
                pass


def _text(name: str, value: Any) -> str:
    if name in _DURATIONS:
        return format_duration(value)
    match value:
        case Column() | Literal_() | Call() | Cast() | Sql():
            expr: Expr = value
            return prose.expression(expr)
        case Parquet() | Csv() | Table() | Delta() | Frame():
            return prose.history(value)
        case Kafka() | RedisStream() | Ndjson():
            return prose.stream(value)
        case Window():
            return prose.window(value, "at")
        case Input():
            return f"{value.parameter} = {value.reference}"
        case Output():
            return f"{value.name} = {value.reference}"
        case tuple():
            return ", ".join(_text("", each) for each in cast("tuple[object, ...]", value))
        case _:
            return str(value)
