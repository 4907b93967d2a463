"""What a feature means, computed the slow and obvious way: one moment, one window, every row read.

It works from the resolved model and literal rows with nothing but the standard library, and it
shares no code with the kernel or the engines.  Instants are integer microseconds since 1970 UTC;
every other value is the Python value that users see.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import structs

from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Cast, Column, Expr, Literal, Sql
from tidemark.model.graph import Feature, FeatureView, Source
from tidemark.model.types import Type
from tidemark.model.window import Bound, Unit, Window

Row = Mapping[str, Any]
ALWAYS = -(2**63) + 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Overflow(Exception):
    """A sum of integers or decimals that its type cannot hold."""


# ------------------------------------------------------------------------------ order of values


def order(value: Any) -> tuple[Any, ...]:
    """A key that sorts values as ties are broken: nulls first, NaN above all numbers."""
    match value:
        case None:
            return (0,)
        case float() if math.isnan(value):
            return (2,)
        case str():
            return (1, value.encode())
        case list() | tuple():
            return (1, tuple(map(order, value)))
        case _:
            return (1, value)


def plain(value: Any) -> Any:
    """The value with which equal values are represented: one zero, one NaN."""
    if isinstance(value, float):
        return math.nan if math.isnan(value) else value + 0.0
    return value


def identity(value: Any) -> Any:
    """Something hashable that is equal exactly for equal values; NaN equals NaN."""
    return order(plain(value))


# -------------------------------------------------------------------------------- which events


@dataclass(frozen=True)
class Event:
    """One version of an event, in force from `seen` until `until` (None: for good)."""

    row: Row
    time: int
    seen: int
    until: int | None


LOGGED = "when the log took it"
"""The key of a row from the event log under which it says when it was taken."""


def taken(source: Source, batches: Iterable[tuple[int, Iterable[Row]]]) -> Iterator[Row]:
    """The rows that a log keeps of batches that came at some moments, with when it took them.

    A row that says again what the log's newest version of its event says is not kept, nor is any
    version in a batch whose last one is that.
    """
    names = [column.name for column in source.columns]
    newest: dict[Any, Any] = {}
    now = 0
    for came, batch in batches:
        rows = list(batch)
        last, now = now, max(now + 1, came)
        here: set[Any] = set()
        kept = False
        keys = [tuple(identity(row[name]) for name in source.unique) for row in rows]
        contents = [[bits(row[name]) for name in names] for row in rows]
        ends = dict(zip(keys, contents, strict=True))
        through = {key for key, content in ends.items() if newest.get(key) == content}
        for row, key, content in zip(rows, keys, contents, strict=True):
            if source.unique and all(row[name] is not None for name in source.unique):
                if key in through or newest.get(key) == content:
                    continue
                if key in here:
                    now, here = now + 1, set()
                newest[key] = content
                here.add(key)
            kept = True
            yield {**row, LOGGED: now}
        now = now if kept else last


def bits(value: Any) -> Any:
    """The value with floats spelled out, so that `==` sees NaN, the sign of zero and every bit."""
    match value:
        case float():
            return "NaN" if math.isnan(value) else value.hex()
        case list() | tuple():
            return [bits(item) for item in value]
        case bool() | int() | str() | bytes():
            return type(value).__name__, value
        case Decimal():
            return value.as_tuple()
        case _:
            return value


def seen_of(source: Source, row: Row, time: int) -> int:
    """When a row became known."""
    if LOGGED in row:
        return row[LOGGED]
    if source.seen is not None:
        return row[source.seen]
    return time + source.delay


def events_of(source: Source, rows: Iterable[Row], *, hindsight: bool = False) -> list[Event]:
    """All versions of all events, in the total order that breaks ties."""
    names = [column.name for column in source.columns]
    versions: dict[Any, list[tuple[int, int, Row]]] = {}
    for number, row in enumerate(rows):
        time = ALWAYS if source.time is None else row[source.time]
        seen = ALWAYS if source.time is None else seen_of(source, row, time)
        key = tuple(identity(row[name]) for name in source.unique)
        if not source.unique or any(row[name] is None for name in source.unique):
            key = ("an event of its own", number)
        versions.setdefault(key, []).append((seen, time, row))
    events = []
    for of_one in versions.values():
        if source.seen is None and any(LOGGED in row for _, _, row in of_one):
            # When an event of the log became known was recorded; history assumes it.
            of_one[:] = [each for each in of_one if LOGGED in each[2]]
        of_one.sort(key=lambda v: (v[0], v[1], [order(v[2][name]) for name in names]))
        ends = [*(seen for seen, _, _ in of_one[1:]), None]
        first = len(of_one) - 1 if hindsight else 0
        for (seen, time, row), until in list(zip(of_one, ends, strict=True))[first:]:
            if until is None or seen < until:
                events.append(Event(row, time, seen, until))
    tied_by = [*source.unique, *names]
    events.sort(key=lambda e: (e.time, e.seen, [order(e.row[name]) for name in tied_by]))
    return events


def visible(event: Event, t: int, bound: Bound, *, hindsight: bool) -> bool:
    """Whether an event counts at t at all, whatever the window."""
    happened = event.time <= t if bound == "at" else event.time < t
    known = event.seen <= t and (event.until is None or t < event.until)
    return happened and (known or hindsight)


# -------------------------------------------------------------------------------- which window


def local(u: int, zone: str) -> datetime:
    """What a clock in the zone shows."""
    return (EPOCH + timedelta(microseconds=u)).astimezone(ZoneInfo(zone))


@cache
def dawn(day: date, zone: str) -> int:
    """The first instant of a local date, also of one that begins in a gap of the clock."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    before, u = ((midnight.replace(fold=f) - EPOCH) // timedelta(microseconds=1) for f in (1, 0))
    while before < u:  # only in a gap does the second reading come first
        middle = (before + u) // 2
        if local(middle, zone).date() >= day:
            u = middle
        else:
            before = middle + 1
    return u


@cache
def period_start(u: int, unit: Unit, zone: str) -> int:
    """The first instant of the local calendar unit that holds u.

    Where clocks go back across midnight, the unit that has begun goes on.
    """
    today = local(u, zone).date()
    tomorrow = today + timedelta(days=1)
    day = tomorrow if dawn(tomorrow, zone) <= u else today
    first = {
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
        "quarter": day.replace(month=day.month - (day.month - 1) % 3, day=1),
        "year": day.replace(month=1, day=1),
    }[unit]
    return dawn(first, zone)


def inside(window: Window, time: int, t: int, bound: Bound) -> bool:
    """Whether a time lies in the window that belongs to the moment t."""
    u = t - window.offset
    if bound == "at":
        not_after = time <= u
        not_before = {
            "all": lambda: True,
            "sliding": lambda: time > u - window.length,
            "to_date": lambda: time >= period_start(u, window.unit or "day", window.zone),
        }
    else:
        not_after = time < u
        not_before = {
            "all": lambda: True,
            "sliding": lambda: time >= u - window.length,
            "to_date": lambda: time >= period_start(u, window.unit or "day", window.zone),
        }
    return not_after and not_before[window.kind]()


# --------------------------------------------------------------------------------- expressions


def _compare(test: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    def compared(a: Any, b: Any) -> bool | None:
        if a is None or b is None:
            return None
        return test(order(plain(a)), order(plain(b)))

    return compared


def _and(*args: bool | None) -> bool | None:
    return False if False in args else None if None in args else True


def _or(*args: bool | None) -> bool | None:
    return True if True in args else None if None in args else False


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: None if None in args else function(*args)


def _when(*args: Any) -> Any:
    for condition, value in zip(args[:-1:2], args[1::2], strict=True):
        if condition is True:
            return value
    return args[-1]


EXPRESSIONS: dict[str, Callable[..., Any]] = {
    "eq": _compare(lambda a, b: a == b),
    "ne": _compare(lambda a, b: a != b),
    "lt": _compare(lambda a, b: a < b),
    "le": _compare(lambda a, b: a <= b),
    "gt": _compare(lambda a, b: a > b),
    "ge": _compare(lambda a, b: a >= b),
    "and": _and,
    "or": _or,
    "not": _strict(lambda a: not a),
    "is_null": lambda a: a is None,
    "is_not_null": lambda a: a is not None,
    "is_nan": _strict(math.isnan),
    "is_in": lambda a, *items: _or(*(EXPRESSIONS["eq"](a, item) for item in items)),
    "add": _strict(lambda a, b: a + b),
    "sub": _strict(lambda a, b: a - b),
    "mul": _strict(lambda a, b: a * b),
    "neg": _strict(lambda a: -a),
    "abs": _strict(abs),
    "coalesce": lambda *args: next((a for a in args if a is not None), None),
    "when": _when,
    "lower": _strict(str.lower),
    "length": _strict(len),
    "starts_with": _strict(str.startswith),
}


def literal(node: Literal) -> Any:
    """The Python value of a constant."""
    value = node.value
    match node.type.name:
        case _ if value is None:
            return None
        case "float64":
            return float(value)
        case "decimal":
            return Decimal(str(value))
        case "bytes":
            return bytes.fromhex(str(value))
        case "date":
            return date.fromisoformat(str(value))
        case "timestamp":
            return (datetime.fromisoformat(str(value)) - EPOCH) // timedelta(microseconds=1)
        case _:
            return value


def expression(node: Expr, row: Row) -> Any:
    """The value of an expression in one row."""
    match node:
        case Column(name):
            return row[name]
        case Literal():
            return literal(node)
        case Call(function, args):
            return EXPRESSIONS[function](*(expression(arg, row) for arg in args))
        case Cast() | Sql():
            raise NotImplementedError(node)


# ---------------------------------------------------------------------------------- arithmetic


def rounded(exact: Fraction) -> float:
    """The double nearest to a rational number, ties to even; infinite beyond the largest."""
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def rounded_root(exact: Fraction) -> float:
    """The double nearest to the square root of a rational number."""
    bits = max(0, 128 - exact.numerator.bit_length() + exact.denominator.bit_length())
    bits += bits % 2
    scaled = (exact.numerator << bits) // exact.denominator
    root = math.isqrt(scaled)
    if root * root != scaled or Fraction(scaled, 1 << bits) != exact:
        root = 2 * root + 1  # one bit more, odd, so that the final rounding sees "a little above"
        return rounded(Fraction(root, 2 << (bits // 2)))
    return rounded(Fraction(root, 1 << (bits // 2)))


def special(values: Sequence[Any]) -> float | None:
    """The sum of floats where infinities or NaN decide it, else None."""
    odd = {v for v in values if isinstance(v, float) and math.isinf(v)}
    if any(isinstance(v, float) and math.isnan(v) for v in values) or len(odd) == 2:
        return math.nan
    return odd.pop() if odd else None


def total(values: Sequence[Any]) -> Fraction:
    """The exact sum of finite values."""
    return sum(map(Fraction, values), Fraction(0))


def moment2(values: Sequence[Any], ddof: int) -> Fraction | float | None:
    """The exact variance; NaN beside infinities and NaN, None of too few values without NaN."""
    if any(map(math.isnan, values)):
        return math.nan
    if len(values) <= ddof:
        return None
    if special(values) is not None:
        return math.nan
    mean = total(values) / len(values)
    return sum(((Fraction(v) - mean) ** 2 for v in values), Fraction(0)) / (len(values) - ddof)


def as_double(value: Any) -> float:
    """A number as a double, rounded once; one zero."""
    return value + 0.0 if isinstance(value, float) else rounded(Fraction(value))


# ---------------------------------------------------------------------------------- aggregates
# Each takes the non-null values in order, oldest first, and answers None of nothing.

Values = list[Any]


def sum_of(values: Values, a: Aggregate, type_: Type) -> Any:
    if not values:
        return None
    if type_.name == "float64":
        decided = special(values)
        return rounded(total(values)) if decided is None else decided
    exact = total(values)
    if type_.name == "int64":
        if not -(2**63) <= exact < 2**63:
            raise Overflow
        return int(exact)
    units = int(exact * 10**type_.scale)
    if abs(units) >= 10**38:
        raise Overflow
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -type_.scale))


def mean_of(values: Values, a: Aggregate, type_: Type) -> float | None:
    if not values:
        return None
    decided = special(values)
    return rounded(total(values) / len(values)) if decided is None else decided


def variance_of(values: Values, a: Aggregate, type_: Type) -> float | None:
    exact = moment2(values, a.ddof)
    return rounded(exact) if isinstance(exact, Fraction) else exact


def stddev_of(values: Values, a: Aggregate, type_: Type) -> float | None:
    exact = moment2(values, a.ddof)
    return rounded_root(exact) if isinstance(exact, Fraction) else exact


def min_of(values: Values, a: Aggregate, type_: Type) -> Any:
    if any(order(v) == (2,) for v in values):
        return math.nan
    return plain(min(values, key=order)) if values else None


def max_of(values: Values, a: Aggregate, type_: Type) -> Any:
    return plain(max(values, key=order)) if values else None


def frequent(values: Values) -> Values:
    """Different values, most frequent first, the smaller ones first in a tie."""
    counts = Counter(map(identity, values))
    distinct = {identity(v): plain(v) for v in values}
    return [distinct[key] for key in sorted(counts, key=lambda key: (-counts[key], key))]


def quantile_of(values: Values, a: Aggregate, type_: Type) -> float | None:
    if not values:
        return None
    if any(order(v) == (2,) for v in values):
        return math.nan
    place = (len(values) - 1) * a.q
    doubles = sorted(map(as_double, values))
    if place >= len(values) - 1:
        return doubles[-1] + (doubles[-1] - doubles[-1])  # as numpy: of infinity, NaN
    low, high = doubles[int(place)], doubles[int(place) + 1]
    weight = place - int(place)
    # Numpy starts from the nearer end, so that both ends are met exactly.
    return high - (high - low) * (1 - weight) if weight >= 0.5 else low + (high - low) * weight


def bucket(value: float) -> float:
    """The middle of the value's logarithmic bucket: 7 bits of the mantissa count."""
    if value == 0 or math.isinf(value):
        return value
    (bits,) = struct.unpack("<q", struct.pack("<d", abs(value)))
    (middle,) = struct.unpack("<d", struct.pack("<q", (bits >> 45 << 45) | 1 << 44))
    return math.copysign(middle, value)


def approx_quantile_of(values: Values, a: Aggregate, type_: Type) -> float | None:
    if not values:
        return None
    if any(order(v) == (2,) for v in values):
        return math.nan
    buckets = sorted(bucket(as_double(v)) for v in values)
    return buckets[int(a.q * (len(values) - 1))]


AGGREGATES: dict[str, Callable[[Values, Aggregate, Type], Any]] = {
    "sum": sum_of,
    "mean": mean_of,
    "min": min_of,
    "max": max_of,
    "variance": variance_of,
    "stddev": stddev_of,
    "first": lambda values, a, _: values[0] if values else None,
    "last": lambda values, a, _: values[-1] if values else None,
    "first_n": lambda values, a, _: values[: a.n] or None,
    "last_n": lambda values, a, _: values[::-1][: a.n] or None,
    "count_distinct": lambda values, a, _: len(set(map(identity, values))),
    # What its estimate is compared with; `approx_count_is_close` says how far off it may be.
    "approx_count_distinct": lambda values, a, _: len(set(map(identity, values))),
    "quantile": quantile_of,
    "approx_quantile": approx_quantile_of,
    "mode": lambda values, a, _: frequent(values)[0] if values else None,
    "top_n": lambda values, a, _: frequent(values)[: a.n] or None,
    "any": lambda values, a, _: True in values if values else None,
    "all": lambda values, a, _: False not in values if values else None,
}


def approx_count_is_close(estimate: int, exact: int) -> bool:
    """Whether an estimate of 4,096 registers lies within five standard errors (and one value)."""
    return abs(estimate - exact) <= 1 + 5 * 1.04 / math.sqrt(4096) * exact


# ----------------------------------------------------------------------------------- features


class Oracle:
    """The features of one view, from the rows of its source."""

    def __init__(
        self, source: Source, view: FeatureView, rows: Sequence[Row], *, hindsight: bool = False
    ) -> None:
        self.view = view
        self.hindsight = hindsight
        self._events = events_of(source, rows, hindsight=hindsight)
        self._of_key: dict[tuple[Any, ...], list[Event]] = {}
        for event in self._events:
            key = tuple(event.row[name] for name in view.keys)
            if None not in key:
                self._of_key.setdefault(key, []).append(event)

    def visible(self, key: tuple[Any, ...], t: int) -> list[Event]:
        """The events of an entity that count at t, oldest first."""
        bound, hindsight, end = self.view.bound, self.hindsight, self.end(t)
        events = self._of_key.get(key, [])
        return [
            event
            for event in events
            if visible(event, t, bound, hindsight=hindsight)
            and (event.time <= end if bound == "at" else event.time < end)
        ]

    def end(self, t: int) -> int:
        """Where the windows of the moment t end, but for their offsets."""
        return t // self.view.step * self.view.step if self.view.step else t

    def rows(self, feature: Feature, seen: Sequence[Event], t: int) -> list[Row]:
        """The rows that the aggregate of a feature reads, oldest first."""
        aggregate, view = feature.aggregate, self.view
        window, max_age = aggregate.window, view.max_age if aggregate.rule.stored else 0
        rows = [
            event.row
            for event in seen
            if inside(window, event.time, self.end(t), view.bound)
            and (not max_age or event.time >= t - max_age)
            and (aggregate.where is None or expression(aggregate.where, event.row) is True)
        ]
        return rows[-window.rows :]

    def status(self, feature: Feature, seen: Sequence[Event], t: int) -> str:
        """What the online store says besides the value of a feature without a default."""
        if not seen:
            return "MISSING"
        if self.value(feature, seen, t) is not None:
            return "PRESENT"
        unlimited = Oracle.__new__(Oracle)
        unlimited.view = structs.replace(self.view, max_age=0)
        expired = len(unlimited.rows(feature, seen, t)) > len(self.rows(feature, seen, t))
        return "EXPIRED" if expired and unlimited.value(feature, seen, t) is not None else "NULL"

    def value(self, feature: Feature, seen: Sequence[Event], t: int) -> Any:
        """The feature of an entity whose visible events are `seen`, at t."""
        aggregate = feature.aggregate
        rows = self.rows(feature, seen, t)
        if aggregate.value is None:
            return len(rows)
        values = [expression(aggregate.value, row) for row in rows]
        if aggregate.function == "latest" and values:
            return values[-1]
        values = [value for value in values if value is not None]
        if aggregate.function == "count":
            return len(values)
        found = None
        if aggregate.function != "latest":
            found = AGGREGATES[aggregate.function](values, aggregate, feature.type)
        if found is None and aggregate.default is not None:
            return literal(aggregate.default)
        return found
