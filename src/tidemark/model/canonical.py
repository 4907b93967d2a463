"""One spelling of what can be spelled in several ways, so that equal meanings are equal objects.

Definitions are brought into this form once they are checked.  What follows, fingerprints, plans,
twins and the registry, compares them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Cast, Column, Expr, Literal, Sql, type_of
from tidemark.model.graph import Definitions, Feature, FeatureView, Source
from tidemark.model.types import FLOAT64, INT64, STRING, Type
from tidemark.model.zones import canonical_zone

# Functions that take whole numbers beside floats as floats.
_MIXING = frozenset(
    (
        *("eq", "ne", "lt", "le", "gt", "ge", "is_in"),
        *("add", "sub", "mul", "div", "least", "greatest", "when", "coalesce"),
    )
)

_IN_A_ZONE = frozenset(("year", "month", "day", "hour", "minute", "weekday", "day_of_year"))
_UTC = Literal("UTC", STRING)  # the zone where none is said


def canonical(definitions: Definitions) -> Definitions:
    """The definitions, which must have passed the checks, in their one spelling.

    A whole number beside a float column is a float (`amount > 0` is `amount > 0.0`), a time zone
    has the name that stands for it, and parts of a timestamp in UTC say no zone.
    """
    sources = tuple(_source(each) for each in definitions.sources)
    types = {source.name: source.types for source in sources}
    views = tuple(_view(view, types[view.source]) for view in definitions.views)
    return replace(definitions, sources=sources, views=views)


def _source(source: Source) -> Source:
    zone = canonical_zone(source.timezone)
    return source if zone == source.timezone else replace(source, timezone=zone)


def _view(view: FeatureView, types: Mapping[str, Type]) -> FeatureView:
    features = tuple(_feature(each, types) for each in view.features)
    return view if features == view.features else replace(view, features=features)


def _feature(feature: Feature, types: Mapping[str, Type]) -> Feature:
    aggregate = _aggregate(feature.aggregate, types)
    return feature if aggregate == feature.aggregate else replace(feature, aggregate=aggregate)


def _aggregate(aggregate: Aggregate, types: Mapping[str, Type]) -> Aggregate:
    window = aggregate.window
    return replace(
        aggregate,
        value=None if aggregate.value is None else _expression(aggregate.value, types),
        where=None if aggregate.where is None else _expression(aggregate.where, types),
        window=replace(window, zone=canonical_zone(window.zone)),
    )


def _expression(expr: Expr, types: Mapping[str, Type]) -> Expr:
    match expr:
        case Call(function, args):
            args = tuple(_expression(arg, types) for arg in args)
            if function in _IN_A_ZONE:
                args = (args[0], *(zone for zone in map(_zone, args[1:]) if zone != _UTC))
            elif function in _MIXING and any(type_of(arg, types) == FLOAT64 for arg in args):
                args = tuple(_as_float(arg) for arg in args)
            return replace(expr, args=args)
        case Cast(value, _):
            return replace(expr, value=_expression(value, types))
        case Column() | Literal() | Sql():
            return expr


def _zone(expr: Expr) -> Expr:
    if isinstance(expr, Literal) and isinstance(expr.value, str):
        return replace(expr, value=canonical_zone(expr.value))
    return expr


def _as_float(expr: Expr) -> Expr:
    """A whole number as the float that it is compared and computed with as."""
    if isinstance(expr, Literal) and expr.type == INT64:
        return Literal(float(expr.value) if isinstance(expr.value, int) else None, FLOAT64)
    return expr
