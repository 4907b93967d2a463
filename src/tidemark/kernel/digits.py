"""Big integers as digits in base 2^32, and the one rounding of their quotients and roots.

A number is a uint64 array of digits, least significant first, each below 2^32 so that a product of
two and two carries fit a word. Functions write into memory that the caller owns. All of it is
unsigned: numba turns the mixture of an int64 and a uint64 into a float64, so words never mix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tidemark.kernel.compiled import bits_float, compiled, leading_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Limbs = NDArray[np.int64]
    Digits = NDArray[np.uint64]

MASK = 0xFFFFFFFF
U0, U1 = np.uint64(0), np.uint64(1)
U32, U64 = np.uint64(32), np.uint64(64)
U_MASK = np.uint64(MASK)
LARGEST_FIVES = 13  # 5^13 is the largest power of five that is one digit
FIVES = np.array([5**k for k in range(LARGEST_FIVES + 1)], dtype=np.int64)


@compiled
def carry_limbs(acc: Limbs, digits: Digits) -> tuple[bool, int]:
    """Write the magnitude of the sum in base 2^32; return its sign and its number of digits."""
    size = len(acc) + 1
    carry = 0
    for i in range(len(acc)):
        limb = acc[i] + carry
        digits[i] = np.uint64(limb & MASK)
        carry = limb >> 32
    digits[size - 1] = np.uint64(carry & MASK)
    if carry < 0:
        borrow = U1
        for i in range(size):
            digit = (digits[i] ^ U_MASK) + borrow
            digits[i] = digit & U_MASK
            borrow = digit >> U32
    return carry < 0, significant(digits, size)


@compiled
def significant(digits: Digits, size: int) -> int:
    """The number of digits up to the highest one that is not zero."""
    while size > 0 and digits[size - 1] == U0:
        size -= 1
    return size


@compiled
def multiply_limbs(acc: Limbs, n: np.uint64, product: Digits) -> None:
    """Write `n` times a sum that is not negative, two digits longer than its limbs."""
    limb_carry = 0
    carry = U0
    for i in range(len(acc)):
        limb = acc[i] + limb_carry
        limb_carry = limb >> 32
        digit = np.uint64(limb & MASK) * n + carry
        product[i] = digit & U_MASK
        carry = digit >> U32
    digit = np.uint64(limb_carry) * n + carry
    product[len(acc)] = digit & U_MASK
    product[len(acc) + 1] = digit >> U32


@compiled
def square_digits(digits: Digits, square: Digits) -> None:
    """Write the square of a number over zeros."""
    size = len(digits)
    for i in range(size):
        carry = U0
        for j in range(size):
            digit = digits[i] * digits[j] + square[i + j] + carry
            square[i + j] = digit & U_MASK
            carry = digit >> U32
        square[i + size] = carry


@compiled
def divide(
    scratch: Digits, start: int, size: int, keep: int, a: int, b: int, fives: int
) -> tuple[Digits, int, bool]:
    """Divide a number by `a * b * 5^fives`: (digits, exponent, whether there is a remainder).

    At least `keep` digits of the quotient are right. Dividing by one digit after another is
    dividing by their product, since floor(floor(x / a) / b) is floor(x / (a * b)).
    """
    if a * b <= MASK:
        a, b = a * b, 1
    count = keep + (a > 1) + (b > 1) + (fives + LARGEST_FIVES - 1) // LARGEST_FIVES
    first = size - count
    digits = scratch[start + size : start + size + count]
    for i in range(count):
        digits[i] = scratch[start + first + i] if first + i >= 0 else U0
    sticky = False
    for i in range(start, start + first):
        sticky = sticky or scratch[i] != U0
    for divisor in (a, b):
        if divisor > 1:
            sticky = _divide_digit(digits, np.uint64(divisor)) or sticky
    while fives > 0:
        power = min(fives, LARGEST_FIVES)
        sticky = _divide_digit(digits, np.uint64(FIVES[power])) or sticky
        fives -= power
    return digits[: significant(digits, count)], 32 * first, sticky


@compiled
def _divide_digit(digits: Digits, divisor: np.uint64) -> bool:
    """Divide in place; return whether there is a remainder."""
    remainder = U0
    for i in range(len(digits) - 1, -1, -1):
        dividend = (remainder << U32) | digits[i]
        quotient = dividend // divisor
        digits[i] = quotient
        remainder = dividend - quotient * divisor
    return bool(remainder != U0)


@compiled
def round_digits(digits: Digits, exponent: int, sticky: bool, negative: bool) -> float:
    """Round `digits * 2^exponent`; `sticky` says that the true value is a little larger."""
    size = len(digits)
    if size == 0:
        return 0.0
    top = digits[size - 1]
    middle = digits[size - 2] if size > 1 else U0
    bottom = digits[size - 3] if size > 2 else U0
    zeros = leading_zeros(top) - 32
    shift = np.uint64(zeros)
    word = (top << (U32 + shift)) | (middle << shift) | (bottom >> (U32 - shift))
    sticky = sticky or (bottom << shift) & U_MASK != U0
    for i in range(size - 3):
        sticky = sticky or digits[i] != U0
    return _round_word(word, exponent + 32 * size - 64 - zeros, sticky, negative)


@compiled
def round_root(digits: Digits, exponent: int, sticky: bool) -> float:
    """Round the square root of `digits * 2^exponent`, of five digits or more.

    The root of the leading 111 or 112 bits has 56, three more than a double; it starts from the
    hardware's root, and one Newton step in integers makes it exact up to one unit.
    """
    size = len(digits)
    zeros = leading_zeros(digits[size - 1]) - 32
    shift = np.uint64(zeros)
    back = U32 - shift
    high = (digits[size - 1] << U32) | digits[size - 2]
    low = (digits[size - 3] << U32) | digits[size - 4]
    high = (high << shift) | (low >> U32 >> back)
    low = (low << shift) | (digits[size - 5] >> back)
    sticky = sticky or (digits[size - 5] << shift) & U_MASK != U0
    for i in range(size - 5):
        sticky = sticky or digits[i] != U0
    exponent += 32 * size - 128 - zeros
    odd = exponent & 1
    drop = np.uint64(16 + odd)
    exponent += 16 + odd
    sticky = sticky or low & ((U1 << drop) - U1) != U0
    low = (low >> drop) | (high << (U64 - drop))
    high >>= drop
    root = np.uint64(np.sqrt(np.float64(high) * 2.0**64 + np.float64(low)))
    # The true difference is small, so the low words alone give it.
    root += np.uint64(np.int64(low - root * root) // np.int64(root << U1))
    difference = np.int64(low - root * root)
    if difference < 0:
        root -= U1
    elif difference > np.int64(root << U1):
        root += U1
    sticky = sticky or low != root * root
    zeros = leading_zeros(root)
    return _round_word(root << np.uint64(zeros), exponent // 2 - zeros, sticky, False)


@compiled
def _round_word(word: np.uint64, exponent: int, sticky: bool, negative: bool) -> float:
    """Round `word * 2^exponent`, half to even; the highest bit of the word is one."""
    leading = exponent + 63
    drop = 11 + max(-1022 - leading, 0)
    if drop > 64:
        return -0.0 if negative else 0.0
    half = U1 << np.uint64(drop - 1)
    kept = (word >> np.uint64(drop - 1)) >> U1
    rest = word & (half | (half - U1))
    if rest > half or (rest == half and (sticky or kept & U1 != U0)):
        kept += U1
    if leading > 1023:
        kept, leading = U0, 1025
    # The hidden bit of a normal number, or the carry out of a subnormal one, raises the exponent.
    bits = np.int64(kept) + (max(leading + 1022, 0) << 52)
    return -bits_float(bits) if negative else bits_float(bits)
