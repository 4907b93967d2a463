"""What is wrong with definitions: everything that can be said without looking at data.

A problem names its subject as its author spelled it, when `spelled` says how; classes are spelled
`UserSpend.spend` with a file and a line, documents `user_spend:spend` with a line of the document.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import get_args

from tidemark.errors import NotFound, Problem
from tidemark.model.check_feature import check_feature
from tidemark.model.findings import Findings, Spelling, Subject, spoken_type
from tidemark.model.graph import (
    Definitions,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    OnDemand,
    Reference,
    Request,
    Source,
)
from tidemark.model.types import FLOAT64, TIMESTAMP
from tidemark.model.window import Bound

_NOTHING = Definitions()


def check(
    definitions: Definitions,
    spelled: Mapping[Subject, Spelling] | None = None,
    *,
    pinned: Collection[Reference] = (),
    applied: Definitions = _NOTHING,
) -> list[Problem]:
    """Every problem of the definitions, in their order; none if they mean something.

    `pinned` are references to versions that the registry may hold although they are not said, as
    the references to what is `applied` are.
    """
    return _checked(_Checker(definitions, Findings(spelled or {}), pinned, applied), names=True)


def check_merged(definitions: Definitions) -> list[Problem]:
    """Every problem of what is said together with what the registry keeps."""
    return _checked(_Checker(definitions, Findings({}), None), names=False)


def _checked(checker: _Checker, *, names: bool) -> list[Problem]:
    definitions, findings = checker.definitions, checker.findings
    if names:
        checker.names()
    for entity in definitions.entities:
        checker.entity(entity)
    for source in definitions.sources:
        checker.source(source)
    for view in definitions.views:
        checker.view(view)
    for request in definitions.requests:
        checker.request(request)
    for on_demand in definitions.on_demand:
        checker.on_demand(on_demand)
    for service in definitions.services:
        checker.service(service)
    return list(dict.fromkeys(findings.problems))


def _versions(features: Iterable[OnDemand]) -> list[OnDemand]:
    """One of each name; the same version twice stays two."""
    names: set[str] = set()
    known: set[tuple[str, int]] = set()
    found: list[OnDemand] = []
    for each in features:
        if each.name not in names or (each.name, each.version) in known:
            found.append(each)
        names.add(each.name)
        known.add((each.name, each.version))
    return found


class _Checker:
    def __init__(
        self,
        definitions: Definitions,
        findings: Findings,
        pinned: Collection[Reference] | None,
        applied: Definitions = _NOTHING,
    ) -> None:
        self.definitions = definitions
        self.applied = applied
        self.pinned = pinned
        self.findings = findings
        self.label = findings.label
        self.say = findings.say

    def names(self) -> None:
        """Names are identifiers, and one thing of a kind has one."""
        for kind, items in (
            ("entity", self.definitions.entities),
            ("source", self.definitions.sources),
            ("view", self.definitions.views),
            ("request", self.definitions.requests),
            ("on_demand", _versions(self.definitions.on_demand)),
            ("service", self.definitions.services),
        ):
            for name, times in Counter(item.name for item in items).items():
                subject = Subject(kind, name)
                spoken = {"view": "feature view", "on_demand": "on-demand feature"}.get(kind, kind)
                if times > 1:
                    self.say(
                        subject,
                        f"There are {times} different definitions of the {spoken} {name!r}.",
                        "Rename one: every kind of definition has one namespace.",
                    )
                self.findings.identifier(subject, name)

    def fields(self, kind: str, owner: str, fields: Iterable[Field], part: str) -> None:
        counts = Counter(field.name for field in fields)
        if not counts:
            subject = Subject(kind, owner)
            self.say(subject, f"{self.label(subject)} declares no {part}.", f"Declare its {part}s.")
        for name, times in counts.items():
            if times > 1:
                subject = Subject(kind, owner, name)
                self.say(subject, f"{self.label(subject)} is declared {times} times.")

    def entity(self, entity: Entity) -> None:
        self.fields("entity", entity.name, entity.keys, "key")
        for key in entity.keys:
            if key.type == FLOAT64 or not key.type.scalar:
                subject = Subject("entity", entity.name, key.name)
                self.say(
                    subject,
                    f"{self.label(subject)} is a {key.type}, which cannot be a key.",
                    "Keys are compared exactly: int64, string, bytes, bool, date or timestamp.",
                )

    def source(self, source: Source) -> None:
        self.fields("source", source.name, source.columns, "column")
        subject = Subject("source", source.name)
        label = self.label(subject)
        if source.time is not None:
            self.moment(source, "time", source.time)
        if source.seen is not None:
            self.moment(source, "seen", source.seen)
        if source.time is None and (source.seen is not None or source.delay):
            self.say(
                subject,
                f"{label} has no time, so nothing of it is seen at some time.",
                "Leave out seen= and delay=, or name its time=.",
            )
        if source.seen is not None and source.delay:
            self.say(subject, f"{label} says both seen= and delay=.", "Keep one of them.")
        if source.delay < 0:
            self.say(subject, f"{label}: an event cannot be seen before it happens.")
        if source.timezone:
            self.findings.zone(subject, source.timezone)
        for name in source.unique:
            if name not in source.types:
                self.unknown_column(subject, source, f"{label}: unique", name)
        if len(set(source.unique)) < len(source.unique):
            self.say(subject, f"{label}: unique names a column twice.")

    def moment(self, source: Source, role: str, column: str) -> None:
        subject = Subject("source", source.name)
        if column not in source.types:
            self.unknown_column(subject, source, f"{self.label(subject)}: {role}", column)
        elif source.types[column] != TIMESTAMP:
            named = Subject("source", source.name, column)
            given = spoken_type(source.types[column])
            self.say(
                subject,
                f"{self.label(named)} is the {role} of its source, but it is {given}.",
                "Declare it as a timestamp. A day is no moment: a query says which, "
                "such as its end.",
            )

    def unknown_column(self, subject: Subject, source: Source, what: str, name: str) -> None:
        label = self.label(Subject("source", source.name))
        near = difflib.get_close_matches(name, source.types, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]!r}? " if near else ""
        remedy += f"Columns of {label}: {', '.join(source.types) or 'none'}."
        self.say(
            subject, f"{what} names the column {name!r}, which {label} does not declare.", remedy
        )

    def view(self, view: FeatureView) -> None:
        subject = Subject("view", view.name)
        label = self.label(subject)
        entity = self.named(subject, "entity", view.entity)
        source = self.named(subject, "source", view.source)
        if not view.features:
            self.say(
                subject,
                f"{label} has no features.",
                'Assign an aggregate, such as `purchases = tm.count(over="7d")`, or name columns=.',
            )
        for name, times in Counter(feature.name for feature in view.features).items():
            if times > 1:
                part = Subject("view", view.name, name)
                self.say(part, f"{label} declares {times} features named {name!r}.", "Rename one.")
        if view.bound not in get_args(Bound):
            self.say(subject, f"{label}: bound={view.bound!r}.", 'It is "at" or "before".')
        if view.max_age < 0 or view.freshness < 0 or view.step < 0:
            self.say(subject, f"{label}: max_age, freshness and step are positive durations.")
        if (
            view.max_age
            and view.features
            and not any(feature.aggregate.rule.stored for feature in view.features)
        ):
            self.say(
                subject,
                f"{label} has max_age, but no stored value that could be too old.",
                "max_age touches latest, last and last_n; a window says how old its events may be.",
            )
        if isinstance(source, Source):
            if isinstance(entity, Entity):
                self.keys(view, entity, source)
            for feature in view.features:
                check_feature(self.findings, view, source, feature)

    def named(self, subject: Subject, kind: str, name: str) -> object:
        """The entity or source of that name; None if there is not one, which is said."""
        listed = self.definitions.entities if kind == "entity" else self.definitions.sources
        items = {item.name: item for item in listed}
        if name in items:
            # Which of two is meant, nobody knows; that there are two has been said.
            return items[name] if len(items) == len(listed) else None
        error = NotFound.named(kind, name, items)
        self.say(subject, f"{self.label(subject)}: {error.what}", error.remedy)
        return None

    def keys(self, view: FeatureView, entity: Entity, source: Source) -> None:
        subject = Subject("view", view.name)
        label, spoken = self.label(subject), self.label(Subject("entity", entity.name))
        if len(view.keys) != len(entity.keys):
            self.say(
                subject,
                f"{label} names {len(view.keys)} key columns, but {spoken} has {len(entity.keys)}.",
                f"Keys of {spoken}: {', '.join(key.name for key in entity.keys)}.",
            )
            return
        for key, column in zip(entity.keys, view.keys, strict=True):
            if column not in source.types:
                where = self.label(Subject("source", source.name))
                self.say(
                    subject,
                    f"{label}: {where} has no column {column!r} for the key {spoken}.{key.name}.",
                    f"Say which column holds it, by={where}.<column>. "
                    f"Columns: {', '.join(source.types)}.",
                )
            elif source.types[column] != key.type:
                held = self.label(Subject("source", source.name, column))
                self.say(
                    subject,
                    f"{label}: the key {spoken}.{key.name} is {key.type}, "
                    f"but {held} is {source.types[column]}.",
                    "A key and the column that holds it have the same type; change one of them.",
                )

    def request(self, request: Request) -> None:
        self.fields("request", request.name, request.fields, "field")

    def on_demand(self, feature: OnDemand) -> None:
        subject = Subject("on_demand", feature.name)
        label = self.label(subject)
        if not re.fullmatch(r"[^:\s]+:[^:\s]+", feature.function):
            self.say(
                subject,
                f"{label}: {feature.function!r} does not name a function.",
                'Write it as "module:function".',
            )
        if feature.version < 1:
            self.say(subject, f"{label}: versions are counted from 1.")
        for name, times in Counter(each.parameter for each in feature.inputs).items():
            if times > 1:
                self.say(subject, f"{label} gives its parameter {name!r} {times} times.")
        for each in feature.inputs:
            self.reference(subject, f"{label}, {each.parameter}", each.reference)
        own = Reference("on_demand", feature.name, version=feature.version)
        if own in self.definitions.needed(each.reference for each in feature.inputs):
            self.say(
                subject,
                f"{label} needs itself.",
                "An on-demand feature cannot read what is computed from it.",
            )

    def reference(self, subject: Subject, label: str, reference: Reference) -> None:
        if reference.version in self.applied.versions(reference.owner, reference.name):
            return
        said = {view.name for view in self.definitions.views}
        elsewhere = {view.name for view in self.applied.views} - said
        try:
            known = self.applied if reference.owner in elsewhere else self.definitions
            known.type_of(reference)
        except NotFound as error:
            versions = self.definitions.versions(reference.owner, reference.name)
            older = bool(versions) and 1 <= reference.version < versions[0]
            # An older version, or one that is named, may be among those that the registry keeps.
            if self.pinned is None or not (older or reference in self.pinned):
                self.say(subject, f"{label}: {error.what}", error.remedy)

    def service(self, service: FeatureService) -> None:
        subject = Subject("service", service.name)
        label = self.label(subject)
        if not service.outputs:
            self.say(
                subject,
                f"{label} lists no features.",
                'For example `spend = UserSpend.spend["7d"]`.',
            )
        for name, times in Counter(output.name for output in service.outputs).items():
            if times > 1:
                self.say(
                    subject,
                    f"{label} has {times} columns named {name!r}.",
                    "Give each its own left-hand name.",
                )
        for output in service.outputs:
            part = Subject("service", service.name, output.name)
            self.reference(part, self.label(part), output.reference)
