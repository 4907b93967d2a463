"""How this layer compiles Python to machine code, and four instructions that Python cannot say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")

BIT, WORD, WIDE, DOUBLE = ir.IntType(1), ir.IntType(64), ir.IntType(128), ir.DoubleType()


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function without the GIL, cached on disk, with C's rules for division by zero.

    numba keys a cached function on its own source file only: while working on this layer, remove
    `__pycache__/*.nb?` after changing a function that another file calls.
    """
    decorate = numba.njit(cache=True, nogil=True, error_model="numpy")
    return cast("Callable[P, R]", decorate(function))


def _float_bits(_context: Any, _x: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], WORD)

    return types.int64(types.float64), generate


def _bits_float(_context: Any, _bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], DOUBLE)

    return types.float64(types.int64), generate


def _leading_zeros(_context: Any, _word: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], BIT(1))

    return types.int64(types.uint64), generate


def _multiply(_context: Any, _a: Any, _b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.mul(builder.zext(args[0], WIDE), builder.zext(args[1], WIDE))
        low, high = builder.trunc(product, WORD), builder.lshr(product, WIDE(64))
        parts = (low, builder.trunc(high, WORD))
        return context.make_tuple(builder, signature.return_type, parts)

    pair: Any = types.UniTuple(types.uint64, 2)  # type: ignore[no-untyped-call]
    return pair(types.uint64, types.uint64), generate


# Each is known only inside compiled functions.
float_bits = cast("Callable[[float], int]", intrinsic(_float_bits))
"""The 64 bits of a double, as an int64."""
bits_float = cast("Callable[[int | np.int64], float]", intrinsic(_bits_float))
"""The double that an int64's bits are."""
leading_zeros = cast("Callable[[np.uint64], int]", intrinsic(_leading_zeros))
"""How many zero bits precede the first one of a word that is not zero."""
multiply = cast(
    "Callable[[np.uint64, np.uint64], tuple[np.uint64, np.uint64]]", intrinsic(_multiply)
)
"""The low and the high word of a product."""
