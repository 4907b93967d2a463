"""How aggregates are computed: one implementation of each, for training, serving and audit.

numpy in, numpy out.  `evaluate` answers many moments of many entities, `rows.evaluate_rows` one
moment of stored rows; both call `group.sweep_group`.  `Layout` says which columns a view needs.
numba loads with the first value that is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tidemark.kernel.layout import Form, InputColumn, Layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tidemark.model.aggregates import Aggregate
    from tidemark.model.window import Bound

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

Kind = Literal["float", "int", "decimal", "code", "hash", "none"]


@dataclass(frozen=True)
class Timeline:
    """Events, sorted by segment (an entity) and within it by their total order.

    Segment `s` is `[starts[s], starts[s + 1])`.  An event counts from `known` (None: its time) up
    to, and without, `until` (None: for ever).  Times are microseconds.
    """

    starts: Words
    time: Words
    known: Words | None = None
    until: Words | None = None


@dataclass(frozen=True)
class Moments:
    """The moments asked for, sorted by segment and within it by time.

    `places` says where the results of each go, a permutation; None leaves them in this order.
    """

    starts: Words
    t: Words
    places: Words | None = None


@dataclass(frozen=True)
class Column:
    """The values of the events of a timeline, one word each; only rows with `where` count.

    `float`    the bits of a double (a float64 array is taken as it is)
    `int`      an integer, bool, timestamp or date
    `decimal`  the low word here and the high word in `high`, of an integer over 10^`scale`
    `code`     the rank of the value in a dictionary sorted by value
    `hash`     `hashing.hash_bytes` of the value
    `none`     no value: rows are counted

    `valid` is False where the value is null (None: never); `where` None keeps all rows.
    """

    kind: Kind
    words: NDArray[np.int64] | NDArray[np.float64] | None = None
    high: Words | None = None
    valid: Flags | None = None
    where: Flags | None = None
    scale: int = 0


@dataclass(frozen=True)
class Numbers:
    """One number for each moment; where `valid` is False, the aggregate found nothing.

    `values` is float64 or int64: a double, an integer, 0 or 1 for a bool, a code, or the low word
    of a decimal, whose high word is in `high`.
    """

    values: NDArray[np.int64] | NDArray[np.float64]
    valid: Flags
    high: Words | None = None


@dataclass(frozen=True)
class Positions:
    """One event of the timeline for each moment; -1 where there is none."""

    at: Words


@dataclass(frozen=True)
class Lists:
    """A list for each moment: `at[starts[r]:starts[r + 1]]`; empty where there is nothing.

    The items are events of the timeline (`first_n`, `last_n`), or values in the words of the column
    (`top_n`).
    """

    starts: Words
    at: Words


Result = Numbers | Positions | Lists


class SumOverflow(OverflowError):
    """A sum of integers or decimals that does not fit its type, at this place of the results."""

    def __init__(self, aggregate: int, request: int) -> None:
        super().__init__(f"the sum of aggregate {aggregate} at moment {request} overflows")
        self.aggregate = aggregate
        self.request = request


def evaluate(
    timeline: Timeline,
    moments: Moments,
    column: Column,
    aggregates: Sequence[Aggregate],
    *,
    bound: Bound = "at",
    max_age: int = 0,
    step: int = 0,
    threads: int | None = None,
) -> list[Result]:
    """Compute aggregates of one column at many moments of many entities.

    All aggregates share the column and its filter; what they name as `value` and `where` is not
    looked at, and `default` is the caller's.  `first`, `last` and `latest` give `Positions` (for
    `latest` of a null: of the null), the `_n` functions `Lists`, the others `Numbers`.  The result
    does not depend on `threads` (None: one for each CPU).  Raises `SumOverflow`.
    """
    from tidemark.kernel import sweep

    return sweep.evaluate(
        timeline,
        moments,
        column,
        aggregates,
        bound=bound,
        max_age=max_age,
        step=step,
        threads=threads,
    )


def warm() -> None:
    """Compile what is not in the cache yet; logs a warning when it takes a moment."""
    from tidemark.kernel import compiled

    compiled.ready()


__all__ = [
    "Column",
    "Kind",
    "Lists",
    "Moments",
    "Numbers",
    "Positions",
    "Result",
    "SumOverflow",
    "Timeline",
    "evaluate",
    "warm",
    "Form",
    "InputColumn",
    "Layout",
]
