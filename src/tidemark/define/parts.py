"""The parts of a view that several of its pieces decide: keys, filters, types and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Any, cast

from tidemark.define.declarations import Entity, Source, is_unknown
from tidemark.define.expressions import Expression, is_column, is_expression
from tidemark.define.features import Feature
from tidemark.define.problems import report
from tidemark.define.python_types import literal, literal_of
from tidemark.define.views import FeatureView
from tidemark.errors import DefinitionError
from tidemark.model.aggregates import result_type
from tidemark.model.expr import Expr, Literal, columns_of, type_of
from tidemark.model.types import FLOAT64, Type
from tidemark.model.window import Window


def key_columns(
    cls: type[FeatureView], entity: type[Entity], source: type[Source], by: object
) -> tuple[str, ...]:
    """The source's columns that hold the entity's keys, in the entity's order."""
    keys = list(entity.__keys__)
    if by is None or is_unknown(by):
        return tuple(keys)
    said: list[object]
    if isinstance(by, Mapping):
        named = dict(cast("Mapping[str, object]", by))
        for unknown in sorted(named.keys() - set(keys)):
            report(
                f"{cls.__name__}: by names {unknown!r}, which is not a key of {entity.__name__}.",
                cls.__about__.place,
                f"Keys of {entity.__name__}: {', '.join(keys)}.",
            )
        said = [named.get(key, key) for key in keys]
    else:
        several = isinstance(by, Sequence) and not isinstance(by, str)
        said = list(cast("Sequence[object]", by)) if several else [by]
    names: list[str] = []
    for column in said:
        if is_column(column) and not (column.owner and issubclass(source, column.owner)):
            report(
                f"{cls.__name__}: by={column!r} is not a column of {source.__name__}.",
                cls.__about__.place,
                f"Columns of {source.__name__}: {', '.join(source.__columns__)}.",
            )
        names.append(column.name if is_column(column) else str(column))
    return tuple(names)


def reads_elsewhere(
    cls: type, source: type[Source], feature: Feature[Any], expression: object
) -> bool:
    """Whether an expression reads another source than the view's; reported if so."""
    if not is_expression(expression):
        return False
    for owner in expression.owners:
        if not issubclass(source, owner):
            columns = ", ".join(sorted(columns_of(expression.node)))
            report(
                f"{cls.__name__}.{feature.attribute} reads {owner.__name__} ({columns}), "
                f"but {cls.__name__} is over {source.__name__}.",
                feature.place,
                "A view reads one source; put this feature into a view over the other one.",
            )
            return True
    return False


def condition(where: object) -> Expr:
    """The node of a filter, which may be given as a plain bool."""
    return where.node if is_expression(where) else literal(where)


def gives(function: str, value: Expression[Any] | None, types: Mapping[str, Type]) -> Type:
    """The type of a feature; any type where there is none, since the check says why."""
    try:
        return result_type(function, None if value is None else type_of(value.node, types))
    except DefinitionError:
        return FLOAT64


def default_literal(value: object, type_: Type) -> Literal | None:
    """A default as a constant of the feature's type, else of its own, which the check refuses.

    Raises `DefinitionError` for what is no constant.
    """
    if value is None:
        return None
    try:
        return literal_of(value, type_)
    except DefinitionError:
        if isinstance(value, list | tuple):
            raise DefinitionError(f"the default {value!r} is not {type_}.") from None
        return literal(value)


def spelled_out(value: object, type_: Type) -> object:
    """What a document says as text because YAML has no such values, as a value of the type.

    Decimals, dates and moments as they are written, bytes in base16; anything else as it is.
    """
    if isinstance(value, list | tuple) and not type_.scalar:
        item = type_.item or FLOAT64
        return [spelled_out(each, item) for each in cast("Sequence[object]", value)]
    read = _TEXTS.get(type_.name)
    if read is not None and isinstance(value, str):
        with suppress(ValueError, ArithmeticError):
            return read(value)
    return value  # pyright: ignore[reportUnknownVariableType]


_TEXTS: dict[str, Callable[[str], object]] = {
    "decimal": Decimal,
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "bytes": bytes.fromhex,
}


def checked_names(feature: Feature[Any], named: Mapping[str, Window]) -> Mapping[str, Window]:
    """The names, unless two windows give one name."""
    if not feature.single and len(named) < len(feature.windows):
        report(
            f"{feature} has two windows of one name.",
            feature.place,
            "Declare one of them under its own name.",
        )
    return named
