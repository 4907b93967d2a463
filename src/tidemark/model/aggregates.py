"""The aggregates: what each needs, what it gives, and what it gives of nothing.

This page says what an aggregate means; `tidemark.kernel` is the one place that computes it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tidemark.errors import DefinitionError
from tidemark.model.expr import Expr, Literal as LiteralExpr
from tidemark.model.types import BOOL, FLOAT64, INT64, Type, decimal, list_of
from tidemark.model.window import Window

Input = Literal["rows", "any", "scalar", "ordered", "number", "bool"]


class Rule(msgspec.Struct, frozen=True, gc=False):
    """What holds for one aggregate function.

    `needs` is the input it takes: `rows` an optional value of any type, else a value of that kind.
    `gives` is the type of the result: `same` the input's own, `list` a list of it, `sum` as SQL's.
    `zero` means that of nothing the result is 0 rather than null.
    `ordered` means that ties matter: the result depends on the total order of the events.
    `stored` means that the result is a value that some event carried, which can expire (`max_age`).
    """

    needs: Input
    gives: Literal["int64", "float64", "bool", "same", "sum", "list"]
    zero: bool = False
    ordered: bool = False
    stored: bool = False
    parameters: tuple[str, ...] = ()


RULES: dict[str, Rule] = {
    "count": Rule("rows", "int64", zero=True),
    "sum": Rule("number", "sum"),
    "mean": Rule("number", "float64"),
    "min": Rule("ordered", "same"),
    "max": Rule("ordered", "same"),
    "variance": Rule("number", "float64", parameters=("ddof",)),
    "stddev": Rule("number", "float64", parameters=("ddof",)),
    "first": Rule("any", "same", ordered=True),
    "last": Rule("any", "same", ordered=True, stored=True),
    "latest": Rule("any", "same", ordered=True, stored=True),
    "first_n": Rule("scalar", "list", ordered=True, parameters=("n",)),
    "last_n": Rule("scalar", "list", ordered=True, stored=True, parameters=("n",)),
    "count_distinct": Rule("scalar", "int64", zero=True),
    "approx_count_distinct": Rule("scalar", "int64", zero=True),
    "quantile": Rule("number", "float64", parameters=("q",)),
    "approx_quantile": Rule("number", "float64", parameters=("q",)),
    "mode": Rule("ordered", "same"),
    "top_n": Rule("ordered", "list", parameters=("n",)),
    "any": Rule("bool", "bool"),
    "all": Rule("bool", "bool"),
}
"""What each aggregate computes is said where it is declared, in `define.aggregates`."""

ADDITIVE = ("count", "sum", "mean", "variance", "stddev", "any", "all")
"""Aggregates that follow from their values over parts of a window, for every type they take."""

APPROXIMATE = {"count_distinct": "approx_count_distinct", "quantile": "approx_quantile"}
"""Aggregates whose cost grows with the values in a window, and what costs the same for any."""


class Aggregate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One aggregate over one window of the events of an entity.

    `value` and `where` are expressions of the source's columns; `where` keeps rows for which it is
    true.  `n`, `q` and `ddof` belong to the functions whose rule names them.  `default` replaces
    the null of an aggregate that found nothing.
    """

    function: str
    value: Expr | None = None
    where: Expr | None = None
    window: Window = Window()
    n: int = 0
    q: float = 0.5
    ddof: int = 1
    default: LiteralExpr | None = None

    @property
    def rule(self) -> Rule:
        """What holds for the function."""
        return RULES[self.function]

    @property
    def needs_order(self) -> bool:
        """Whether events of one instant must be put into their total order for this result."""
        return self.rule.ordered or self.window.rows > 0


def adds_up(function: str, value: Type | None) -> bool:
    """Whether an aggregate follows from its values over parts of a window.

    The extremes of numbers and times do; of text, bytes and decimals they need the values.
    """
    ordered = value is not None and value.name in {"int64", "float64", "bool", "timestamp", "date"}
    return function in ADDITIVE or (function in {"min", "max"} and ordered)


def result_type(function: str, value: Type | None) -> Type:
    """The type of an aggregate of values of type `value` (None: rows).

    Raises `DefinitionError` when the function does not take such values.
    """
    if function not in RULES:
        raise DefinitionError(
            f"{function!r} is not an aggregate.", remedy=f"Aggregates: {', '.join(RULES)}."
        )
    rule = RULES[function]
    if value is None:
        if rule.needs != "rows":
            raise DefinitionError(
                f"{function} needs a value.", remedy=f"Give it a column: {function}(...)."
            )
        return INT64
    takes = {
        "rows": True,
        "any": True,
        "scalar": value.scalar,
        "ordered": value.ordered,
        "number": value.numeric,
        "bool": value == BOOL,
    }
    if not takes[rule.needs]:
        wanted = {
            "number": "a number",
            "ordered": "a value that has an order",
            "bool": "a bool",
            "scalar": "a single value",
        }
        raise DefinitionError(f"{function} needs {wanted[rule.needs]}, not {value}.")
    if rule.gives == "sum":
        return decimal(38, value.scale) if value.name == "decimal" else value
    if rule.gives == "same":
        return value
    if rule.gives == "list":
        return list_of(value)
    return {"int64": INT64, "float64": FLOAT64, "bool": BOOL}[rule.gives]
