"""Sums, means, variances and standard deviations equal exact rational arithmetic, rounded once."""

import math
import random
import statistics
from decimal import Decimal
from fractions import Fraction
from unittest.mock import ANY

import numba
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tidemark.kernel import exact
from tidemark.kernel.sums import MAX_LIMBS

MAX, TINY = 1.7976931348623157e308, 5e-324
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
DECIMAL_MAX = 10**38 - 1

finite = st.floats(allow_nan=False, allow_infinity=False)
scaled = st.builds(
    math.ldexp,
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.integers(-1126, 970),
)
near_zero = st.integers(-4, 4).map(lambda k: k * TINY)
money = st.integers(-(10**7), 10**7).map(lambda cents: cents / 100)
floats = st.one_of(
    st.lists(finite, max_size=8),
    st.lists(scaled, max_size=8),
    st.lists(near_zero, max_size=8),
    st.lists(money, max_size=8),
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, 1 + 2**-52, 2.0**53, -(2.0**53), 2**-53]), max_size=8
    ),
    st.lists(st.sampled_from([MAX, -MAX, TINY, -TINY, 2.0**-1022, 1.0]), max_size=5),
)
ints = st.lists(
    st.one_of(
        st.integers(INT_MIN, INT_MAX), st.integers(-9, 9), st.sampled_from([INT_MIN, INT_MAX])
    ),
    max_size=8,
)
decimals = st.lists(
    st.one_of(
        st.integers(-DECIMAL_MAX, DECIMAL_MAX),
        st.integers(-(10**6), 10**6),
        st.sampled_from([-DECIMAL_MAX, DECIMAL_MAX, 2**64, -(2**64), 2**64 - 1, 2**63, -(2**63)]),
    ),
    max_size=8,
)


def float_window(values, valid=()):
    """The smallest window that covers the finite values; `valid` is False where a value is null."""
    bits = np.ascontiguousarray(values, np.float64).view(np.int64)
    return exact.Window(*exact.cover(bits, np.array(valid, np.bool_)))


def make_scratch():
    """The working memory of the finishing functions, as large as the kernel's."""
    return np.empty(8 * MAX_LIMBS, np.uint64)


@numba.njit  # not cached: the cache of this file would outlive a change of the kernel
def add_floats(acc, squares, base, square_base, values, sign):
    for x in values:
        exact.add_float(acc, base, x, sign)
        exact.add_float_square(squares, square_base, x, sign)


class Sums:
    """The accumulators of some values, over the smallest window or a given one."""

    def __init__(self, window):
        self.window = window
        self.acc = np.zeros(window.limbs, np.int64)
        self.squares = np.zeros(window.square_limbs, np.int64)
        self.scratch = make_scratch()
        self.n = 0

    @classmethod
    def of_floats(cls, values, window=None):
        column = np.array(values, np.float64)
        return cls(window or float_window(column)).floats(column, 1)

    @classmethod
    def of_ints(cls, values):
        sums = cls(exact.INT_WINDOW)
        for x in values:
            exact.add_int(sums.acc, 0, x, 1)
            exact.add_int_square(sums.squares, 0, x, 1)
        sums.n = len(values)
        return sums

    @classmethod
    def of_decimals(cls, values):
        return cls(exact.DECIMAL_WINDOW).decimals(values, 1)

    def floats(self, values, sign):
        column = np.array(values, np.float64)
        window = self.window
        add_floats(self.acc, self.squares, window.base, window.square_base, column, sign)
        self.n += sign * len(column)
        return self

    def decimals(self, values, sign):
        for x in values:
            high, low = x >> 64, x & (2**64 - 1)
            low -= (low >> 63) << 64
            exact.add_decimal(self.acc, 0, high, low, sign)
            exact.add_decimal_square(self.squares, 0, high, low, sign)
        self.n += sign * len(values)
        return self

    def sum(self):
        return exact.sum_float(self.acc, self.window.base, self.scratch)

    def mean(self, scale=0):
        return exact.mean(self.acc, self.window.base, self.n, scale, self.scratch)

    def variance(self, ddof, scale=0):
        return exact.variance(*self._moments(ddof, scale))

    def stddev(self, ddof, scale=0):
        return exact.stddev(*self._moments(ddof, scale))

    def _moments(self, ddof, scale):
        w = self.window
        return self.acc, self.squares, w.base, w.square_base, self.n, ddof, scale, self.scratch

    def held(self):
        """What the limbs add up to: the sum and the sum of squares."""
        w = self.window
        return limbs(self.acc, w.base), limbs(self.squares, w.square_base)


def limbs(acc, base):
    return sum(
        (int(limb) * Fraction(2) ** (32 * (base + i)) for i, limb in enumerate(acc)), Fraction()
    )


def rounded(x):
    """A rational as the nearest double, infinite where Python refuses."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def root(x):
    """The nearest double to the square root of a rational, from an integer root of 200 bits."""
    if x == 0:
        return 0.0
    shift = 200 + 2 * 1100
    scaled = (x.numerator << (2 * shift)) // x.denominator
    floor = math.isqrt(scaled)
    exact_root = floor * floor == scaled and scaled * x.denominator == x.numerator << (2 * shift)
    return rounded(Fraction(2 * floor + (not exact_root), 2 << shift))


def population(values, ddof):
    """The exact variance of rationals."""
    n, total = len(values), sum(values)
    return (n * sum(x * x for x in values) - total * total) / (n * (n - ddof))


def same(a, b):
    """Equal to the bit: also the sign of a zero."""
    return math.isnan(a) == math.isnan(b) and (a, math.copysign(1, a)) == (b, math.copysign(1, b))


# --- floats


@given(floats)
@settings(max_examples=400)
def test_a_float_sum_is_the_exact_sum_rounded_once(values):
    """Whatever the exponents, the cancellation and the order."""
    assert same(Sums.of_floats(values).sum(), rounded(sum(map(Fraction, values))))


@given(st.lists(finite.filter(lambda x: abs(x) < 1e300), max_size=40))
def test_a_float_sum_is_what_fsum_returns(values):
    assert Sums.of_floats(values).sum() == math.fsum(values)


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([], 0.0),
        ([-0.0], 0.0),
        ([-0.0, 0.0], 0.0),
        ([0.1] * 10, 1.0),
        ([1e100, 1.0, -1e100], 1.0),
        ([1.0, 2**-53], 1.0),
        ([1.0, 2**-53, TINY], 1.0 + 2**-52),
        ([1.0 + 2**-52, 2**-53], 1.0 + 2**-51),
        ([-1.0, -(2**-53), -TINY], -1.0 - 2**-52),
        ([TINY, TINY], 2 * TINY),
        ([2.0**-1022, -TINY], 2.0**-1022 - TINY),
        ([MAX, MAX], math.inf),
        ([-MAX, -MAX], -math.inf),
        ([MAX, MAX, -MAX], MAX),
        ([MAX, 2.0**969], MAX),
        ([MAX, 2.0**970], math.inf),
        ([MAX, 2.0**970, -TINY], MAX),
    ],
)
def test_rounding_is_half_to_even_up_to_infinity(values, total):
    """A tie is decided by the smallest double there is, 600 digits away."""
    assert same(Sums.of_floats(values).sum(), total)


@given(floats.filter(bool))
@settings(max_examples=400)
def test_a_float_mean_is_rounded_once(values):
    assert same(Sums.of_floats(values).mean(), rounded(sum(map(Fraction, values)) / len(values)))


@given(floats.filter(bool), st.integers(0, 1))
@settings(max_examples=400)
def test_a_float_variance_is_rounded_once(values, ddof):
    values = values * 2
    expected = population([Fraction(x) for x in values], ddof)
    assert same(Sums.of_floats(values).variance(ddof), rounded(expected))


@given(floats.filter(bool), st.integers(0, 1))
@settings(max_examples=400)
def test_a_float_stddev_is_the_root_of_the_exact_variance(values, ddof):
    """Not the root of the rounded variance, which may be one unit away."""
    values = [*values, 1.0, -3.5]
    expected = population([Fraction(x) for x in values], ddof)
    assert same(Sums.of_floats(values).stddev(ddof), root(expected))


@given(st.lists(money, min_size=2, max_size=20))
def test_variance_and_stddev_agree_with_the_statistics_module(values):
    """The standard library computes with fractions, too."""
    sums, fractions = Sums.of_floats(values), [Fraction(x) for x in values]
    assert sums.variance(1) == float(statistics.variance(fractions))
    assert sums.variance(0) == float(statistics.pvariance(fractions))
    assert sums.stddev(1) == statistics.stdev(fractions)
    assert sums.stddev(0) == statistics.pstdev(fractions)


@given(st.one_of(finite, scaled, near_zero), st.integers(2, 50))
def test_a_constant_has_no_variance(x, n):
    sums = Sums.of_floats([x] * n)
    assert same(sums.variance(1), 0.0)
    assert same(sums.stddev(0), 0.0)
    assert same(sums.mean(), x or 0.0)


def test_the_stddev_of_subnormal_values_is_subnormal():
    """Their variance is far below the smallest double; its root is not."""
    sums = Sums.of_floats([0.0, 10 * TINY])
    assert sums.variance(0) == 0.0
    assert sums.stddev(0) == 5 * TINY


def test_the_stddev_of_the_largest_values_is_finite_although_the_variance_is_not():
    sums = Sums.of_floats([MAX, -MAX])
    assert sums.variance(0) == math.inf
    assert sums.stddev(0) == MAX


# --- accumulators


@given(floats)
def test_limbs_hold_the_values_and_their_squares_without_error(values):
    fractions = [Fraction(x) for x in values]
    assert Sums.of_floats(values).held() == (sum(fractions), sum(x * x for x in fractions))


@given(floats, st.randoms())
def test_order_changes_no_limb(values, shuffle):
    shuffled = shuffle.sample(values, len(values))
    one, other = Sums.of_floats(values), Sums.of_floats(shuffled)
    assert one.acc.tolist() == other.acc.tolist()
    assert one.squares.tolist() == other.squares.tolist()


@given(floats, floats)
def test_taking_values_out_leaves_nothing_behind(kept, gone):
    """A window that slides for ever holds exactly what is in it, limb by limb."""
    window = float_window(np.array(kept + gone, np.float64))
    sums = Sums.of_floats(kept, window).floats(gone, 1).floats(gone[::-1], -1)
    assert sums.acc.tolist() == Sums.of_floats(kept, window).acc.tolist()
    assert sums.squares.tolist() == Sums.of_floats(kept, window).squares.tolist()
    sums.floats(kept, -1)
    assert not sums.acc.any()
    assert not sums.squares.any()


@given(floats.filter(lambda v: len(v) > 1), *[st.integers(0, 3)] * 4)
def test_results_do_not_depend_on_the_window(values, below, above, square_below, square_above):
    w = float_window(np.array(values))
    wider = exact.Window(
        w.base - below,
        w.limbs + below + above,
        w.square_base - square_below,
        w.square_limbs + square_below + square_above,
    )
    one, other = Sums.of_floats(values), Sums.of_floats(values, wider)
    assert same(one.sum(), other.sum())
    assert same(one.mean(), other.mean())
    assert same(one.variance(1), other.variance(1))
    assert same(one.stddev(0), other.stddev(0))


def test_accumulators_share_one_array_when_the_offset_is_taken_from_the_base():
    w = float_window(np.array([1.5, 4.25]))
    shared = np.zeros(3 * w.limbs, np.int64)
    for row in range(3):
        exact.add_float(shared, w.base - row * w.limbs, 1.5 + row, 1)
    rows = shared.reshape(3, w.limbs)
    assert [exact.sum_float(row, w.base, make_scratch()) for row in rows] == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("x", [1.0, -1.0, MAX, -MAX, TINY, 0.1, 123.45])
def test_limbs_hold_as_many_values_as_a_count_can(x):
    """Adding 2^31 - 1 equal values is multiplying their limbs; none of them overflows."""
    n = 2**31 - 1
    sums = Sums.of_floats([x])
    sums.acc *= n
    sums.squares *= n
    sums.n = n
    assert sums.held() == (n * Fraction(x), n * Fraction(x) ** 2)
    assert same(sums.sum(), rounded(n * Fraction(x)))
    assert same(sums.mean(), x)
    assert same(sums.variance(1), 0.0)


def test_full_limbs_finish_exactly():
    """Every limb at the bound of what 2^31 - 1 values can make of it, in either direction."""
    full = (2**31 - 1) * (2**32 - 1)
    scratch = make_scratch()
    for signs in ([1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, 1, -1], [-1, 1, -1, 1], [0, 0, -1, 1]):
        acc = np.array([full * sign for sign in signs], np.int64)
        assert exact.sum_float(acc, -2, scratch) == rounded(limbs(acc, -2))


def test_a_million_values_of_every_size_repeat_exactly():
    rng = random.Random(7)
    once = [math.ldexp(rng.uniform(-1, 1), rng.randrange(-1080, 1000)) for _ in range(1000)]
    sums = Sums(float_window(np.array(once)))
    sums.floats(np.tile(once, 1000), 1)
    fractions = [Fraction(x) for x in once]
    assert sums.sum() == float(1000 * sum(fractions))
    assert sums.mean() == float(sum(fractions) / 1000)
    assert sums.stddev(1) == root(
        (sum(x * x for x in fractions) * 10**9 - (1000 * sum(fractions)) ** 2)
        / (10**6 * (10**6 - 1))
    )


# --- windows


def test_the_window_of_money_is_small():
    assert float_window(np.array([0.01, 99_999.99])) == exact.Window(-2, 3, -4, 6)


def test_the_window_of_every_double_covers_every_double():
    window = float_window(np.array([TINY, MAX]))
    assert window == exact.Window(-34, 67, -68, 133)


@pytest.mark.parametrize("column", [[], [0.0, -0.0], [math.nan, math.inf, -math.inf]])
def test_a_column_without_finite_values_has_the_smallest_window(column):
    assert float_window(np.array(column)) == exact.Window(0, 3, 0, 5)


def test_nulls_do_not_widen_the_window():
    column, valid = np.array([1.0, MAX, TINY]), np.array([True, False, False])
    assert float_window(column, valid) == float_window(np.array([1.0]))


# --- integers


@given(ints)
def test_an_integer_sum_is_exact_or_says_that_it_does_not_fit(values):
    """Sums on the way may leave the range; only where they end counts."""
    total = sum(values)
    value, ok = exact.sum_int64(Sums.of_ints(values).acc)
    assert ok == (INT_MIN <= total <= INT_MAX)
    assert not ok or value == total


@pytest.mark.parametrize(
    ("values", "ok"),
    [
        ([INT_MAX, 1], False),
        ([INT_MAX, 1, -1], True),
        ([INT_MIN, -1], False),
        ([INT_MIN, -1, 1], True),
        ([INT_MAX, INT_MAX, 2, INT_MIN], False),
        ([INT_MAX, INT_MAX, 1, INT_MIN], True),
    ],
)
def test_an_integer_overflows_only_at_the_end(values, ok):
    assert exact.sum_int64(Sums.of_ints(values).acc) == (sum(values) if ok else ANY, ok)


@given(ints.filter(bool), st.integers(0, 1))
def test_integer_moments_are_exact_above_2_to_the_53(values, ddof):
    values = [*values, INT_MAX]
    fractions, sums = [Fraction(x) for x in values], Sums.of_ints(values)
    assert sums.held() == (sum(fractions), sum(x * x for x in fractions))
    assert same(sums.mean(), rounded(sum(fractions) / len(values)))
    assert same(sums.variance(ddof), rounded(population(fractions, ddof)))
    assert same(sums.stddev(ddof), root(population(fractions, ddof)))


def test_integers_are_taken_out_again():
    sums = Sums.of_ints([5, INT_MIN, INT_MAX])
    for x in (INT_MIN, 5, INT_MAX):
        exact.add_int(sums.acc, 0, x, -1)
        exact.add_int_square(sums.squares, 0, x, -1)
    assert not sums.acc.any()
    assert not sums.squares.any()


# --- decimals


@given(decimals)
def test_a_decimal_sum_is_exact_or_says_that_it_does_not_fit(values):
    total = sum(values)
    high, low, ok = exact.sum_int128(Sums.of_decimals(values).acc)
    assert ok == (abs(total) < 10**38)
    assert not ok or (high << 64) + low % 2**64 == total


@pytest.mark.parametrize("values", [[DECIMAL_MAX, 1], [-DECIMAL_MAX, -1], [DECIMAL_MAX] * 9])
def test_a_decimal_of_39_digits_does_not_fit(values):
    assert exact.sum_int128(Sums.of_decimals(values).acc)[2] is False


@given(decimals.filter(bool), st.integers(0, 38), st.integers(0, 1))
@settings(max_examples=200)
def test_decimal_moments_are_those_of_the_scaled_values(values, scale, ddof):
    values = [*values, DECIMAL_MAX]
    fractions, sums = [Fraction(x, 10**scale) for x in values], Sums.of_decimals(values)
    assert sums.held() == (sum(values), sum(x * x for x in values))
    assert same(sums.mean(scale), rounded(sum(fractions) / len(values)))
    assert same(sums.variance(ddof, scale), rounded(population(fractions, ddof)))
    assert same(sums.stddev(ddof, scale), root(population(fractions, ddof)))


def test_decimal_means_are_those_of_decimals():
    prices = [Decimal("19.99"), Decimal("0.01"), Decimal("-5.00")]
    sums = Sums.of_decimals([int(price.scaleb(2)) for price in prices])
    assert sums.mean(2) == 5.0
    assert sums.stddev(1, 2) == statistics.stdev(Fraction(price) for price in prices)


@given(decimals, decimals)
def test_decimals_are_taken_out_again(kept, gone):
    sums = Sums.of_decimals(kept).decimals(gone, 1).decimals(gone[::-1], -1)
    assert sums.acc.tolist() == Sums.of_decimals(kept).acc.tolist()
    assert sums.squares.tolist() == Sums.of_decimals(kept).squares.tolist()
