"""Tidemark: features defined once, computed in training and in serving with the same code.

The definition layer is light and imported at once; what computes is loaded when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tidemark import errors
from tidemark.define import load
from tidemark.define.aggregates import (
    all,
    any,
    approx_count_distinct,
    approx_quantile,
    count,
    count_distinct,
    first,
    first_n,
    last,
    last_n,
    latest,
    max,
    mean,
    min,
    mode,
    quantile,
    stddev,
    sum,
    top_n,
    variance,
)
from tidemark.define.columns import (
    column,
    csv,
    decimal,
    delta,
    frame,
    kafka,
    ndjson,
    parquet,
    query,
    redis_stream,
    table,
    vector,
)
from tidemark.define.declarations import Entity, Request, Source
from tidemark.define.expressions import Col, Expression, Key
from tidemark.define.features import Feature
from tidemark.define.functions import coalesce, greatest, least, lit, sql, when
from tidemark.define.on_demand import on_demand
from tidemark.define.views import FeatureService, FeatureView
from tidemark.define.windows import to_date

if TYPE_CHECKING:
    from tidemark import testing
    from tidemark.store import Store, connect

__version__ = "0.1.0"

__all__ = [
    # declarations
    "Col",
    "Entity",
    "Expression",
    "Feature",
    "FeatureService",
    "FeatureView",
    "Key",
    "Request",
    "Source",
    "column",
    "decimal",
    "on_demand",
    "vector",
    # histories
    "csv",
    "delta",
    "frame",
    "parquet",
    "query",
    "table",
    # streams
    "kafka",
    "ndjson",
    "redis_stream",
    # aggregates and windows
    "all",
    "any",
    "approx_count_distinct",
    "approx_quantile",
    "count",
    "count_distinct",
    "first",
    "first_n",
    "last",
    "last_n",
    "latest",
    "max",
    "mean",
    "min",
    "mode",
    "quantile",
    "stddev",
    "sum",
    "to_date",
    "top_n",
    "variance",
    # expressions
    "coalesce",
    "greatest",
    "least",
    "lit",
    "sql",
    "when",
    # data, the store, and the rest
    "Store",
    "connect",
    "errors",
    "load",
    "testing",
]

_ON_FIRST_USE = {"Store": "tidemark.store", "connect": "tidemark.store"}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(import_module(_ON_FIRST_USE[name]), name)
    if name == "testing":
        return import_module("tidemark.testing")
    what = f"module 'tidemark' has no attribute {name!r}"
    raise AttributeError(what, name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
