"""What is wrong with definitions: everything that can be said without looking at data.

A problem names its subject as its author spelled it, when `spelled` says how; classes are spelled
`UserSpend.spend` with a file and a line, documents `user_spend:spend` with the line of the document.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, get_args

from tidemark.errors import DefinitionError, NotFound, Problem
from tidemark.model.aggregates import Aggregate, result_type
from tidemark.model.expr import Column, Expr, type_of
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Field,
    OnDemand,
    Reference,
    Request,
    Source,
)
from tidemark.model.types import BOOL, DATE, FLOAT64, TIMESTAMP, Type
from tidemark.model.window import Bound, Unit, Window, check_zone


class Subject(NamedTuple):
    """What a problem is about: a definition, or one of its parts."""

    kind: str
    owner: str
    name: str = ""


class Spelling(NamedTuple):
    """How the author wrote a subject, and where (`file.py:24   the line`)."""

    label: str
    where: str = ""


def check(
    definitions: Definitions, spelled: Mapping[Subject, Spelling] | None = None
) -> list[Problem]:
    """Every problem of the definitions, in their order; none if they mean something."""
    checker = _Checker(definitions, spelled or {})
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
    return list(dict.fromkeys(checker.problems))


class _Checker:
    def __init__(self, definitions: Definitions, spelled: Mapping[Subject, Spelling]) -> None:
        self.definitions = definitions
        self.spelled = spelled
        self.problems: list[Problem] = []

    def label(self, subject: Subject) -> str:
        if subject in self.spelled:
            return self.spelled[subject].label
        separator = ":" if subject.kind == "view" else "."
        return f"{subject.owner}{separator}{subject.name}" if subject.name else subject.owner

    def say(self, subject: Subject, what: str, remedy: str = "") -> None:
        whole = Subject(subject.kind, subject.owner)
        spelling = self.spelled.get(subject) or self.spelled.get(whole)
        self.problems.append(Problem(what, spelling.where if spelling else "", remedy))

    def names(self) -> None:
        """Names are identifiers, and one thing of a kind has one."""
        for kind, items in (
            ("entity", self.definitions.entities),
            ("source", self.definitions.sources),
            ("view", self.definitions.views),
            ("request", self.definitions.requests),
            ("on_demand", self.definitions.on_demand),
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
                self.identifier(subject, name)

    def identifier(self, subject: Subject, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            self.say(
                subject,
                f"{name!r} cannot be a name.",
                "Names are letters, digits and underscores, and do not begin with a digit.",
            )

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
                    "Keys are compared exactly: use int64, string, bytes, bool, date, timestamp or decimal.",
                )

    def source(self, source: Source) -> None:
        self.fields("source", source.name, source.columns, "column")
        subject = Subject("source", source.name)
        label = self.label(subject)
        if source.time is not None:
            self.moment(source, "time", source.time, {TIMESTAMP, DATE})
        if source.seen is not None:
            self.moment(source, "seen", source.seen, {TIMESTAMP})
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
            self.zone(subject, source.timezone)
        for name in source.unique:
            if name not in source.types:
                self.unknown_column(subject, source, f"{label}: unique", name)
        if len(set(source.unique)) < len(source.unique):
            self.say(subject, f"{label}: unique names a column twice.")

    def moment(self, source: Source, role: str, column: str, types: set[Type]) -> None:
        subject = Subject("source", source.name)
        if column not in source.types:
            self.unknown_column(subject, source, f"{self.label(subject)}: {role}", column)
        elif source.types[column] not in types:
            named = Subject("source", source.name, column)
            self.say(
                subject,
                f"{self.label(named)} is the {role} of its source, but it is {_spoken(source.types[column])}.",
                f"Declare it as a {' or a '.join(sorted(map(str, types), reverse=True))}.",
            )

    def unknown_column(self, subject: Subject, source: Source, what: str, name: str) -> None:
        label = self.label(Subject("source", source.name))
        near = difflib.get_close_matches(name, source.types, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]!r}? " if near else ""
        remedy += f"Columns of {label}: {', '.join(source.types) or 'none'}."
        self.say(
            subject, f"{what} names the column {name!r}, which {label} does not declare.", remedy
        )

    def zone(self, subject: Subject, name: str) -> None:
        try:
            check_zone(name)
        except DefinitionError as error:
            self.say(subject, f"{self.label(subject)}: {error.what}", error.remedy)

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
        if view.max_age < 0 or view.freshness < 0:
            self.say(subject, f"{label}: max_age and freshness are positive durations.")
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
                self.feature(view, source, feature)

    def named(self, subject: Subject, kind: str, name: str) -> object:
        items: Mapping[str, object] = {
            item.name: item
            for item in (
                self.definitions.entities if kind == "entity" else self.definitions.sources
            )
        }
        if name in items:
            return items[name]
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

    def feature(self, view: FeatureView, source: Source, feature: Feature) -> None:
        subject = Subject("view", view.name, feature.name)
        self.identifier(subject, feature.name)
        if feature.version < 1:
            self.say(subject, f"{self.label(subject)}: versions are counted from 1.")
        found = self.aggregate(subject, source, feature.aggregate)
        if found is not None and found != feature.type:
            self.say(
                subject,
                f"{self.label(subject)} is declared {feature.type}, but it gives {found}.",
                f"Declare it as {found}.",
            )
        self.window(subject, feature.aggregate.window)
        if source.time is None:
            self.timeless(subject, source, feature.aggregate)

    def aggregate(self, subject: Subject, source: Source, aggregate: Aggregate) -> Type | None:
        """The type that an aggregate gives; None once what is wrong with it has been said."""
        label, function = self.label(subject), aggregate.function
        if aggregate.where is not None:
            where = self.expression(subject, source, aggregate.where)
            if where is not None and where != BOOL:
                self.say(
                    subject,
                    f"{label}: where is {_spoken(where)}, not true or false.",
                    'Write a comparison, such as where=Purchase.status == "settled".',
                )
        value = None
        if aggregate.value is not None:
            value = self.expression(subject, source, aggregate.value)
            if value is None:
                return None
        try:
            found = result_type(function, value)
        except DefinitionError as error:
            if value is not None and aggregate.value is not None and function in _VERBS:
                self.misfit(subject, source, aggregate.value, function, value)
            else:
                self.say(subject, f"{label}: {error.what}", error.remedy)
            return None
        self.parameters(subject, aggregate, found)
        return found

    def misfit(
        self, subject: Subject, source: Source, value: Expr, function: str, given: Type
    ) -> None:
        verb, need, fits = _VERBS[function]
        spoken = self.label(Subject("source", source.name))
        what = "a value"
        if isinstance(value, Column):
            what = self.label(Subject("source", source.name, value.name))
        names = [name for name, type_ in source.types.items() if fits(type_)]
        self.say(
            subject,
            f"{self.label(subject)} {verb} {what}, which is {_spoken(given)}.",
            f"{function.capitalize()} needs {need}. "
            f"Such columns of {spoken}: {', '.join(names) or 'none'}.".replace(
                "Such columns", "Numeric columns" if need == "a number" else "Such columns"
            ),
        )

    def expression(self, subject: Subject, source: Source, expression: Expr) -> Type | None:
        try:
            return type_of(expression, source.types)
        except DefinitionError as error:
            self.say(subject, f"{self.label(subject)}: {error.what}", error.remedy)
            return None

    def parameters(self, subject: Subject, aggregate: Aggregate, gives: Type) -> None:
        label, rule = self.label(subject), aggregate.rule
        if "n" in rule.parameters and aggregate.n < 1:
            self.say(subject, f"{label}: n={aggregate.n} keeps nothing.", "n is at least 1.")
        if "q" in rule.parameters and not 0 <= aggregate.q <= 1:
            self.say(
                subject,
                f"{label}: there is no quantile {aggregate.q}.",
                "q is 0 to 1; 0.5 is the median.",
            )
        if "ddof" in rule.parameters and aggregate.ddof not in {0, 1}:
            self.say(
                subject,
                f"{label}: ddof={aggregate.ddof}.",
                "It is 1 (a sample) or 0 (a population).",
            )
        default = aggregate.default
        if default is not None and default.type != gives:
            self.say(
                subject,
                f"{label}: the default {default.value!r} is {_spoken(default.type)}, "
                f"but the feature is {gives}.",
                f"Give a default of type {gives}.",
            )

    def window(self, subject: Subject, window: Window) -> None:
        label = self.label(subject)
        if window.kind == "sliding" and window.length <= 0:
            self.say(
                subject,
                f"{label}: a window of {window.length} microseconds holds nothing.",
                'Give a positive duration, such as "30d".',
            )
        if window.offset < 0:
            self.say(
                subject,
                f"{label}: a negative offset looks into the future.",
                "An offset moves the window back; it is positive.",
            )
        if window.rows < 0:
            self.say(subject, f"{label}: rows={window.rows} keeps nothing.", "It is at least 1.")
        if window.kind == "to_date":
            if window.unit not in get_args(Unit):
                self.say(
                    subject,
                    f"{label}: {window.unit!r} is not a unit of the calendar.",
                    f"Units: {', '.join(get_args(Unit))}.",
                )
            self.zone(subject, window.zone)

    def timeless(self, subject: Subject, source: Source, aggregate: Aggregate) -> None:
        label, spoken = self.label(subject), self.label(Subject("source", source.name))
        if aggregate.function != "latest":
            self.say(
                subject,
                f"{label} takes {aggregate.function} of {spoken}, whose rows have no time.",
                f"Timeless facts are read with latest only; or name the time= of {spoken}.",
            )
        elif aggregate.window != Window():
            self.say(
                subject,
                f"{label} has a window over {spoken}, whose rows have no time.",
                "Leave out over=, offset= and rows=.",
            )

    def request(self, request: Request) -> None:
        self.fields("request", request.name, request.fields, "field")

    def on_demand(self, feature: OnDemand) -> None:
        subject = Subject("on_demand", feature.name)
        label = self.label(subject)
        if not re.fullmatch(r"[\w.]+:[\w.<>]+", feature.function):
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
        if self.reaches(feature.name, feature.name, set()):
            self.say(
                subject,
                f"{label} needs itself.",
                "An on-demand feature cannot read what is computed from it.",
            )

    def reaches(self, start: str, wanted: str, seen: set[str]) -> bool:
        features = {each.name: each for each in self.definitions.on_demand}
        if start in seen or start not in features:
            return False
        seen.add(start)
        read = [each.reference for each in features[start].inputs]
        below = [reference.name for reference in read if reference.kind == "on_demand"]
        return wanted in below or any(self.reaches(name, wanted, seen) for name in below)

    def reference(self, subject: Subject, label: str, reference: Reference) -> None:
        try:
            self.definitions.type_of(reference)
        except NotFound as error:
            self.say(subject, f"{label}: {error.what}", error.remedy)
            return
        declared = 1
        if reference.kind == "feature":
            declared = self.definitions.view(reference.owner).feature(reference.name).version
        elif reference.kind == "on_demand":
            declared = self.definitions.on_demand_feature(reference.name).version
        if not 1 <= reference.version <= max(declared, 1):
            self.say(
                subject,
                f"{label}: there is no version {reference.version} of {reference.owner or ''}"
                f"{':' if reference.owner else ''}{reference.name}.",
                f"The newest is {declared}.",
            )

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


def _spoken(type_: Type) -> str:
    return {"string": "text", "bool": "true or false"}.get(type_.name, f"a {type_}")


def _is_numeric(type_: Type) -> bool:
    return type_.numeric


def _is_ordered(type_: Type) -> bool:
    return type_.ordered


def _is_bool(type_: Type) -> bool:
    return type_ == BOOL


_VERBS = {
    "sum": ("sums", "a number", _is_numeric),
    "mean": ("averages", "a number", _is_numeric),
    "variance": ("takes the variance of", "a number", _is_numeric),
    "stddev": ("takes the deviation of", "a number", _is_numeric),
    "quantile": ("takes a quantile of", "a number", _is_numeric),
    "approx_quantile": ("takes a quantile of", "a number", _is_numeric),
    "min": ("takes the smallest of", "a value that has an order", _is_ordered),
    "max": ("takes the largest of", "a value that has an order", _is_ordered),
    "any": ("asks whether any is true of", "a bool", _is_bool),
    "all": ("asks whether all are true of", "a bool", _is_bool),
}
