"""The aggregates; what each means and gives of nothing is said in `tidemark.model.aggregates`."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar, Unpack

from tidemark.define.expressions import Expression
from tidemark.define.features import Feature, Options, feature

T = TypeVar("T")
Number = TypeVar("Number", int, float, Decimal)
Scalar = TypeVar("Scalar", bool, int, float, Decimal, str, bytes, datetime, date)


def count(value: Expression[Any] | None = None, **options: Unpack[Options[int]]) -> Feature[int]:
    """The number of rows, or of values that are not null."""
    return feature("count", value, options)


def sum(value: Expression[Number | None], **options: Unpack[Options[Number]]) -> Feature[Number]:
    """The exact sum, rounded once; an integer sum that overflows is an error."""
    return feature("sum", value, options)


def mean(value: Expression[Number | None], **options: Unpack[Options[float]]) -> Feature[float]:
    """The exact mean, rounded once."""
    return feature("mean", value, options)


def min(value: Expression[Scalar | None], **options: Unpack[Options[Scalar]]) -> Feature[Scalar]:
    """The smallest value; NaN if there is one."""
    return feature("min", value, options)


def max(value: Expression[Scalar | None], **options: Unpack[Options[Scalar]]) -> Feature[Scalar]:
    """The largest value; NaN if there is one."""
    return feature("max", value, options)


def variance(
    value: Expression[Number | None],
    *,
    ddof: int = 1,
    population: bool = False,
    **options: Unpack[Options[float]],
) -> Feature[float]:
    """The variance as of a sample (`ddof=1`), or as of the whole population (`ddof=0`)."""
    return feature("variance", value, options, ddof=0 if population else ddof)


def stddev(
    value: Expression[Number | None],
    *,
    ddof: int = 1,
    population: bool = False,
    **options: Unpack[Options[float]],
) -> Feature[float]:
    """The standard deviation as of a sample (`ddof=1`), or of the whole population (`ddof=0`)."""
    return feature("stddev", value, options, ddof=0 if population else ddof)


def first(value: Expression[T | None], **options: Unpack[Options[T]]) -> Feature[T]:
    """The oldest value that is not null."""
    return feature("first", value, options)


def last(value: Expression[T | None], **options: Unpack[Options[T]]) -> Feature[T]:
    """The newest value that is not null."""
    return feature("last", value, options)


def latest(value: Expression[T | None], **options: Unpack[Options[T]]) -> Feature[T]:
    """The value in the newest row, null included."""
    return feature("latest", value, options)


def first_n(
    value: Expression[Scalar | None], n: int, **options: Unpack[Options[list[Scalar]]]
) -> Feature[list[Scalar]]:
    """The oldest n values that are not null, oldest first."""
    return feature("first_n", value, options, n=n)


def last_n(
    value: Expression[Scalar | None], n: int, **options: Unpack[Options[list[Scalar]]]
) -> Feature[list[Scalar]]:
    """The newest n values that are not null, newest first."""
    return feature("last_n", value, options, n=n)


def count_distinct(
    value: Expression[Scalar | None], **options: Unpack[Options[int]]
) -> Feature[int]:
    """The number of different values."""
    return feature("count_distinct", value, options)


def approx_count_distinct(
    value: Expression[Scalar | None], **options: Unpack[Options[int]]
) -> Feature[int]:
    """The number of different values, estimated within about 2 % by HyperLogLog."""
    return feature("approx_count_distinct", value, options)


def quantile(
    value: Expression[Number | None], q: float, **options: Unpack[Options[float]]
) -> Feature[float]:
    """The exact quantile, 0.5 being the median, interpolated linearly."""
    return feature("quantile", value, options, q=q)


def approx_quantile(
    value: Expression[Number | None], q: float, **options: Unpack[Options[float]]
) -> Feature[float]:
    """The quantile within 0.4 % of the value, from logarithmic buckets."""
    return feature("approx_quantile", value, options, q=q)


def mode(value: Expression[Scalar | None], **options: Unpack[Options[Scalar]]) -> Feature[Scalar]:
    """The most frequent value; the smaller one of a tie."""
    return feature("mode", value, options)


def top_n(
    value: Expression[Scalar | None], n: int, **options: Unpack[Options[list[Scalar]]]
) -> Feature[list[Scalar]]:
    """The n most frequent values, most frequent first; the smaller one first in a tie."""
    return feature("top_n", value, options, n=n)


def any(value: Expression[bool | None], **options: Unpack[Options[bool]]) -> Feature[bool]:
    """Whether a value is true."""
    return feature("any", value, options)


def all(value: Expression[bool | None], **options: Unpack[Options[bool]]) -> Feature[bool]:
    """Whether no value is false."""
    return feature("all", value, options)
