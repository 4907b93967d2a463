"""Functions of several expressions: choices, constants and SQL text."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from tidemark.define.expressions import (
    Expression,
    Number,
    call,
    is_expression,
    type_if_known,
    unknown,
)
from tidemark.define.problems import here, report
from tidemark.define.python_types import as_type, literal
from tidemark.errors import DefinitionError
from tidemark.model.expr import Literal
from tidemark.model.types import STRING

T = TypeVar("T")


class When(Generic[T]):
    """A choice that still needs its last value; `tm.when(...).otherwise(...)` ends it."""

    def __init__(self, parts: tuple[object, ...]) -> None:
        self._parts = parts

    def __repr__(self) -> str:
        return "tm.when(...) without .otherwise(...)"

    def when(self, condition: Expression[bool | None], then: T | Expression[T]) -> When[T]:
        """The value `then` where no condition before was true and this one is."""
        return When((*self._parts, condition, then))

    def otherwise(self, value: T | Expression[T] | None) -> Expression[T]:
        """The value where no condition was true; None is null."""
        if value is None:
            return call("when", *self._parts, self._null())
        return call("when", *self._parts, value)

    def _null(self) -> Expression[Any]:
        sample = next((part for part in self._parts[1::2] if part is not None), None)
        value = sample if is_expression(sample) else lit(sample)
        return Expression(Literal(None, type_if_known(value) or STRING))


def when(condition: Expression[bool | None], then: T | Expression[T]) -> When[T]:
    """Choose by conditions: `tm.when(c, x).when(d, y).otherwise(z)`; the first true one decides."""
    return When((condition, then))


def coalesce(value: Expression[T | None], *others: Expression[T | None] | T) -> Expression[T]:
    """The first value that is not null."""
    return call("coalesce", value, *others)


def least(*values: Expression[Number | None] | Number) -> Expression[Number]:
    """The smallest of the numbers of a row."""
    return call("least", *values)


def greatest(*values: Expression[Number | None] | Number) -> Expression[Number]:
    """The largest of the numbers of a row."""
    return call("greatest", *values)


def lit(value: T) -> Expression[T]:
    """A constant as an expression, where Python would compute before a column is met."""
    place = here()
    try:
        return Expression(literal(value), place=place)
    except DefinitionError as error:
        report(error.what, place, error.remedy)
        return unknown(Expression[T])


def sql(text: str, type: type[T] | str | None = None) -> Expression[T]:
    """A fragment of DuckDB's SQL as an expression; it is parsed for the columns it reads.

    Without `type`, it is read into the same expression that Python would spell, and a comparison
    that cannot be is a bool.  With `type` (`float`, `"decimal(18,2)"`), the text is kept as it is.
    """
    from tidemark.define.fragments import parse_sql

    place = here()
    try:
        declared = as_type(type) if type is not None else None
        return Expression(parse_sql(text, declared), place=place)
    except DefinitionError as error:
        report(error.what, place, error.remedy)
        return unknown(Expression[T])
