"""The oracle itself, against the standard library and numpy: nobody else checks it."""

import math
import statistics
from fractions import Fraction

import numpy as np
from hypothesis import given, strategies as st
from tests import oracle

from tidemark.model.aggregates import Aggregate
from tidemark.model.types import FLOAT64, INT64
from tidemark.model.window import HOUR

finite = st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=30)
numbers = st.lists(st.floats(allow_nan=False), min_size=1, max_size=30)


@given(finite)
def test_a_sum_is_what_fsum_returns(values: list[float]) -> None:
    assert oracle.sum_of(values, Aggregate("sum"), FLOAT64) == math.fsum(values)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=30))
def test_a_deviation_is_what_the_standard_library_returns(values: list[int]) -> None:
    exact = list(map(Fraction, values))
    assert oracle.stddev_of(values, Aggregate("stddev"), INT64) == statistics.stdev(exact)
    found = oracle.variance_of(values, Aggregate("variance", ddof=0), INT64)
    assert found == float(statistics.pvariance(exact))


@given(numbers, st.floats(0, 1))
def test_a_quantile_is_what_numpy_returns(values: list[float], q: float) -> None:
    found = oracle.quantile_of(values, Aggregate("quantile", q=q), FLOAT64)
    with np.errstate(all="ignore"):
        expected = float(np.quantile(np.array(values), q))
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@given(st.floats(2.3e-308, 1e308), st.booleans())
def test_a_bucket_is_at_most_one_part_in_256_off(magnitude: float, negative: bool) -> None:
    value = -magnitude if negative else magnitude
    assert abs(oracle.bucket(value) - value) <= abs(value) / 256


def test_a_local_day_may_have_25_hours() -> None:
    """New York, 3 November 2024: midnight is 04:00 UTC, and the next midnight 05:00 UTC."""
    midnight = 1_730_606_400_000_000
    for u, start in (
        (midnight - 1, midnight - 24 * HOUR),
        (midnight, midnight),
        (midnight + 25 * HOUR - 1, midnight),
        (midnight + 25 * HOUR, midnight + 25 * HOUR),
    ):
        assert oracle.period_start(u, "day", "America/New_York") == start
