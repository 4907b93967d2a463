"""What is wrong with one feature: its expressions, its window and its parameters."""

from __future__ import annotations

from typing import get_args

from msgspec.structs import fields

from tidemark.errors import DefinitionError
from tidemark.model.aggregates import ADDITIVE, RULES, Aggregate, adds_up, result_type
from tidemark.model.expr import Column, Expr, type_of
from tidemark.model.findings import Findings, Subject, spoken_type
from tidemark.model.graph import Feature, FeatureView, Source
from tidemark.model.types import BOOL, Type
from tidemark.model.window import Unit, Window, format_duration


def check_feature(findings: Findings, view: FeatureView, source: Source, feature: Feature) -> None:
    """Note every problem of one feature of a view over a known source."""
    subject = Subject("view", view.name, feature.name)
    checker = _FeatureChecker(findings, subject, source)
    checker.feature(feature)
    if view.step > 0:
        checker.stepped(feature.aggregate, view.step)


class _FeatureChecker:
    def __init__(self, findings: Findings, subject: Subject, source: Source) -> None:
        self.findings = findings
        self.subject = subject
        self.source = source
        self.label = findings.label(subject)
        self.source_label = findings.label(Subject("source", self.source.name))

    def say(self, what: str, remedy: str = "") -> None:
        self.findings.say(self.subject, what, remedy)

    def feature(self, feature: Feature) -> None:
        self.findings.identifier(self.subject, feature.name)
        if feature.version < 1:
            self.say(f"{self.label}: versions are counted from 1.")
        found = self.aggregate(feature.aggregate)
        if found is not None and found != feature.type:
            self.say(
                f"{self.label} is declared {feature.type}, but it gives {found}.",
                f"Declare it as {found}.",
            )
        self.window(feature.aggregate.window)
        if self.source.time is None:
            self.timeless(feature.aggregate)

    def aggregate(self, aggregate: Aggregate) -> Type | None:
        """The type that an aggregate gives; None once what is wrong with it has been said."""
        label, function = self.label, aggregate.function
        if aggregate.where is not None:
            where = self.expression(aggregate.where)
            if where is not None and where != BOOL:
                self.say(
                    f"{label}: where is {spoken_type(where)}, not true or false.",
                    'Write a comparison, such as where=Purchase.status == "settled".',
                )
        value = None
        if aggregate.value is not None:
            value = self.expression(aggregate.value)
            if value is None:
                return None
        try:
            found = result_type(function, value)
        except DefinitionError as error:
            if value is not None and aggregate.value is not None and function in _VERBS:
                self.misfit(aggregate.value, function, value)
            else:
                self.say(f"{label}: {error.what}", error.remedy)
            return None
        self.parameters(aggregate, found)
        return found

    def misfit(self, value: Expr, function: str, given: Type) -> None:
        verb, need, fits = _VERBS[function]
        spoken = self.source_label
        what = "a value"
        if isinstance(value, Column):
            what = self.findings.label(Subject("source", self.source.name, value.name))
        names = [name for name, type_ in self.source.types.items() if fits(type_)]
        self.say(
            f"{self.label} {verb} {what}, which is {spoken_type(given)}.",
            f"{function.capitalize()} needs {need}. "
            f"Such columns of {spoken}: {', '.join(names) or 'none'}.".replace(
                "Such columns", "Numeric columns" if need == "a number" else "Such columns"
            ),
        )

    def expression(self, expression: Expr) -> Type | None:
        try:
            return type_of(expression, self.source.types)
        except DefinitionError as error:
            self.say(f"{self.label}: {error.what}", error.remedy)
            return None

    def parameters(self, aggregate: Aggregate, gives: Type) -> None:
        label, rule = self.label, aggregate.rule
        for name, unsaid in _PARAMETERS.items():
            given = getattr(aggregate, name)
            if name not in rule.parameters and given != unsaid:
                takers = ", ".join(each for each in RULES if name in RULES[each].parameters)
                self.say(
                    f"{label}: {aggregate.function} takes no {name}, and {name}={given} is given.",
                    f"Leave it out; {name} belongs to {takers}.",
                )
        if "n" in rule.parameters and aggregate.n < 1:
            self.say(f"{label}: n={aggregate.n} keeps nothing.", "n is at least 1.")
        if "q" in rule.parameters and not 0 <= aggregate.q <= 1:
            self.say(
                f"{label}: there is no quantile {aggregate.q:g}.",
                "q is 0 to 1; 0.5 is the median.",
            )
        if "ddof" in rule.parameters and aggregate.ddof not in {0, 1}:
            self.say(
                f"{label}: ddof={aggregate.ddof}.",
                "It is 1 (a sample) or 0 (a population).",
            )
        default = aggregate.default
        if default is not None and default.type != gives:
            self.say(
                f"{label}: the default {default.value!r} is {spoken_type(default.type)}, "
                f"but the feature is {gives}.",
                f"Give a default of type {gives}.",
            )

    def window(self, window: Window) -> None:
        label = self.label
        if window.kind == "sliding" and window.length <= 0:
            self.say(
                f"{label}: a window of {window.length} microseconds holds nothing.",
                'Give a positive duration, such as "30d".',
            )
        if window.offset < 0:
            self.say(
                f"{label}: a negative offset looks into the future.",
                "An offset moves the window back; it is positive.",
            )
        if window.kind != "sliding" and window.length:
            self.say(
                f"{label}: a window of all time or of the calendar has no length.",
                "Leave the length out.",
            )
        if window.kind != "to_date" and (window.unit or window.zone):
            self.say(
                f"{label}: unit and zone belong to windows of the calendar.",
                'Leave them out, or write over=tm.to_date("day", "America/New_York").',
            )
        if window.rows < 0:
            self.say(f"{label}: rows={window.rows} keeps nothing.", "It is at least 1.")
        if window.kind == "to_date":
            if window.unit not in get_args(Unit):
                self.say(
                    f"{label}: {window.unit!r} is not a unit of the calendar.",
                    f"Units: {', '.join(get_args(Unit))}.",
                )
            self.findings.zone(self.subject, window.zone)

    def stepped(self, aggregate: Aggregate, step: int) -> None:
        """What summaries of whole steps cannot answer."""
        label, window, spoken = self.label, aggregate.window, format_duration(step)
        remedy = f"Define it in a view without step=; this one moves in steps of {spoken}."
        value = None
        if aggregate.value is not None:
            try:
                value = type_of(aggregate.value, self.source.types)
            except DefinitionError:
                return  # said already
        if not adds_up(aggregate.function, value):
            what = "rows" if value is None else spoken_type(value)
            self.say(
                f"{label}: {aggregate.function} of {what} does not follow from summaries of steps.",
                f"{remedy} What does: {', '.join(ADDITIVE)}; min and max of numbers and times.",
            )
        if window.rows:
            self.say(f"{label}: the newest {window.rows} rows need events, not steps.", remedy)
        if window.kind == "to_date":
            self.say(f"{label}: the calendar does not move in steps of {spoken}.", remedy)
        for name, duration in (("over", window.length), ("offset", window.offset)):
            if duration > 0 and duration % step:
                self.say(
                    f"{label}: {name}={format_duration(duration)!r} is not a multiple of the "
                    f"view's step, {spoken}.",
                    "Every window of a stepped view is a whole number of steps.",
                )

    def timeless(self, aggregate: Aggregate) -> None:
        label, spoken = self.label, self.source_label
        if aggregate.function != "latest":
            self.say(
                f"{label} takes {aggregate.function} of {spoken}, whose rows have no time.",
                f"Timeless facts are read with latest only; or name the time= of {spoken}.",
            )
        elif aggregate.window != Window():
            self.say(
                f"{label} has a window over {spoken}, whose rows have no time.",
                "Leave out over=, offset= and rows=.",
            )


def _is_numeric(type_: Type) -> bool:
    return type_.numeric


def _is_ordered(type_: Type) -> bool:
    return type_.ordered


def _is_bool(type_: Type) -> bool:
    return type_ == BOOL


# What the parameters of an aggregate are where they are not said.
_PARAMETERS: dict[str, object] = {
    field.name: field.default for field in fields(Aggregate) if field.name in {"n", "q", "ddof"}
}

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
