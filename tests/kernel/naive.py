"""Every aggregate at one moment, computed the slow way from its definition in docs/semantics.md."""

import math
import struct
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from tidemark.model.aggregates import Aggregate
from tidemark.model.window import Bound


@dataclass(frozen=True)
class Event:
    """A row of a source: `value` None is null, `where` False or None keeps it out."""

    time: int
    value: float | int | bool | None
    where: bool | None = True
    known: int = -(2**63)
    until: int = 2**63 - 1


def counted(
    aggregate: Aggregate, events: list[Event], t: int, bound: Bound = "at", max_age: int = 0
) -> list[int]:
    """Positions of the events that count at `t`, oldest first; null values are among them."""
    window = aggregate.window
    u = t - window.offset
    strict = bound == "before"
    found = []
    for position, event in enumerate(events):
        late = event.time >= u if strict else event.time > u
        early = False
        if window.kind == "sliding":
            begin = u - window.length
            early = event.time < begin if strict else event.time <= begin
        if aggregate.rule.stored and max_age:
            early = early or t - event.time > max_age
        if not late and not early and event.known <= t < event.until and event.where:
            found.append(position)
    return found[-window.rows :] if window.rows else found


def compute(aggregate: Aggregate, events: list[Event], positions: list[int], scale: int = 0):
    """The result; None for nothing. Positional functions give positions, `Overflow` is a result."""
    function, n = aggregate.function, aggregate.n
    if function == "latest":
        return positions[-1] if positions else None
    positions = [p for p in positions if events[p].value is not None]
    values = [events[p].value for p in positions]
    match function:
        case "count":
            return len(values)
        case "count_distinct":
            return len({bits(normal(v)) for v in values})
        case "approx_count_distinct":
            return estimate(values)
    if not values:
        return None
    match function:
        case "first":
            return positions[0]
        case "last":
            return positions[-1]
        case "first_n":
            return positions[:n]
        case "last_n":
            return positions[::-1][:n]
        case "any":
            return any(values)
        case "all":
            return all(values)
        case "min" | "max":
            if any(isinstance(v, float) and math.isnan(v) for v in values):
                return math.nan
            return normal(min(values) if function == "min" else max(values))
        case "mode":
            return frequent(values)[0]
        case "top_n":
            return frequent(values)[:n]
        case "quantile" | "approx_quantile":
            return quantile(function, aggregate.q, values, scale)
    return total(aggregate, values, scale)


def total(aggregate: Aggregate, values: list, scale: int):
    function, count = aggregate.function, len(values)
    deviation = function in {"variance", "stddev"}
    odd = [v for v in values if isinstance(v, float) and not math.isfinite(v)]
    if deviation and count <= aggregate.ddof and not any(map(math.isnan, odd)):
        return None
    if odd:
        return math.nan if deviation else sum(odd)
    exact = [Fraction(v) for v in values]
    if function == "sum":
        return sum(values) if isinstance(values[0], int) else rounded(sum(exact))
    exact = [v / 10**scale for v in exact]
    mean = sum(exact) / count
    if function == "mean":
        return rounded(mean)
    variance = sum((v - mean) ** 2 for v in exact) / (count - aggregate.ddof)
    return rounded(variance) if function == "variance" else root(variance)


def rounded(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def root(exact: Fraction) -> float:
    with localcontext() as context:
        context.prec = 400
        return float((Decimal(exact.numerator) / Decimal(exact.denominator)).sqrt())


def quantile(function: str, q: float, values: list, scale: int) -> float:
    # Zeros of either sign are equal, so which of them numpy returns would depend on their order.
    doubles = [rounded(Fraction(v) / 10**scale) if scale else float(v) + 0.0 for v in values]
    if any(map(math.isnan, doubles)):
        return math.nan
    if function == "quantile":
        with np.errstate(all="ignore"):
            return float(np.quantile(np.array(doubles), q))
    chosen = sorted(doubles)[math.floor(q * (len(doubles) - 1))]
    if chosen == 0 or math.isinf(chosen):
        return chosen
    if abs(chosen) < 2.0**-1022:  # subnormal: buckets no longer shrink
        return math.copysign((abs(chosen) // 2.0**-1029 + 0.5) * 2.0**-1029, chosen)
    mantissa, exponent = math.frexp(abs(chosen))
    bucket = math.floor((2 * mantissa - 1) * 128)
    return math.copysign(math.ldexp(1 + (bucket + 0.5) / 128, exponent - 1), chosen)


def frequent(values: list) -> list:
    """The different values, the most frequent first, smaller ones first, NaN as the largest."""
    plain = {bits(normal(v)): normal(v) for v in values}
    counts = Counter(bits(normal(v)) for v in values)
    return sorted(plain.values(), key=lambda v: (-counts[bits(v)], key(v)))


def normal(value):
    """NaN as the only NaN, -0.0 as 0.0."""
    if isinstance(value, float):
        return math.nan if math.isnan(value) else value + 0.0
    return value


def bits(value) -> int:
    """The word of a value: of a float its bits."""
    if isinstance(value, float):
        return struct.unpack("<q", struct.pack("<d", value))[0]
    return int(value)


def mixed(word: int) -> int:
    mask = 2**64 - 1
    word = (word + 0x9E3779B97F4A7C15) & mask
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & mask
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & mask
    return word ^ (word >> 31)


def key(value) -> int:
    """The integer that stands for a value: doubles in the order of their values."""
    word = bits(normal(value))
    return word if word >= 0 or not isinstance(value, float) else word ^ (2**63 - 1)


def estimate(values: list) -> int:
    """HyperLogLog with 4096 registers and Ertl's improved estimator."""
    if not values:
        return 0
    registers = [0] * 4096
    for value in values:
        hashed = mixed(key(value) & (2**64 - 1))
        rest = hashed & (2**52 - 1)
        registers[hashed >> 52] = max(registers[hashed >> 52], 53 - rest.bit_length())
    histogram = Counter(registers)
    x = 1 - histogram[53] / 4096
    z = 0.0
    if 0 < x < 1:
        y, z, last = 1.0, 1 - x, -1.0
        while z != last:
            x, last, y = math.sqrt(x), z, y / 2
            z -= (1 - x) ** 2 * y
        z /= 3
    z *= 4096
    for rank in range(52, 0, -1):
        z = 0.5 * (z + histogram[rank])
    x, y, last = histogram[0] / 4096, 1.0, -1.0
    sigma = x
    while sigma != last:
        x, last = x * x, sigma
        sigma += x * y
        y += y
    return round(4096 * 4096 / (2 * math.log(2)) / (z + 4096 * sigma))
