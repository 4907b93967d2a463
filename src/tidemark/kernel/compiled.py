"""How this layer compiles Python to machine code, and four instructions that Python cannot say."""

from __future__ import annotations

import gc
import hashlib
import importlib
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("tidemark.kernel")


class Modules(NamedTuple):
    """Modules with entries that are compiled together, and about how long that takes."""

    names: tuple[str, ...]
    seconds: int


FOR_ALL = Modules(("segments", "rows", "hashing"), 15)
"""What every project needs."""
FOR_TREES = Modules(("partials", "sketches", "walk", "chunks"), 5)
"""What entities with very many events need, besides."""
FOR_PUSHES = Modules(("splice",), 3)
"""What takes new events into stored rows needs, besides."""

BIT, WORD, WIDE, DOUBLE = ir.IntType(1), ir.IntType(64), ir.IntType(128), ir.DoubleType()


SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


# Compiled code works in memory that its callers own. Without numba's runtime it cannot allocate
# and does not count references to arrays, which would cost more than what most loops here do.
_njit = partial(cast("Any", numba.njit), nogil=True, error_model="numpy", _nrt=False)


class _Part(JITCodeLibrary):
    """The code of a function that is optimized, and made machine code, within its callers only.

    numba would do both for every function with all that it calls, and then again for its callers.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:  # noqa: ARG002
        return 0

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, _name: str, _environment: object) -> None:
        """Do nothing, for what would be told to machine code."""


class _Apart(_Part):
    """The same for a function that does not become part of its callers' code."""

    def add_llvm_module(self, ll_module: Any) -> None:
        for function in ll_module.functions:
            if not function.is_declaration:
                function.add_function_attribute("noinline")
        cast("Any", super()).add_llvm_module(ll_module)


class _Nested(Compiler):
    """How functions are compiled that only compiled functions call."""

    library: type[_Part] = _Part

    def __init__(self, typing: Any, target: Any, _library: Any, *rest: Any) -> None:
        library = cast("Any", self.library)(target.codegen(), "nested")
        cast("Any", super()).__init__(typing, target, library, *rest)


class _NestedApart(_Nested):
    library = _Apart


# Without a word on `forceinline`, numba takes that of the caller that is just being compiled.
_nested = partial(
    _njit,
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    forceinline=False,
    pipeline_class=_Nested,
)


def nested(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only compiled functions call; it takes less time than `compiled`."""
    return cast("Callable[P, R]", _one_version(_nested()(function)))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Like `nested`, but its code becomes part of its callers'.

    That is for what is called for each segment or row with all of its arrays: they are a hundred
    arguments in machine code, and passing them on can take longer than the work.
    """
    return cast("Callable[P, R]", _one_version(_nested(forceinline=True)(function)))


def apart(function: Callable[P, R]) -> Callable[P, R]:
    """Like `nested`, but its code stays one function, however often it is called.

    That is for much code which does more than a call costs: a caller that has it all takes the
    compiler longer than the parts.
    """
    return cast("Callable[P, R]", _one_version(_nested(pipeline_class=_NestedApart)(function)))


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Like `nested`, for what Python calls as well: that is compiled, and cached, on its own."""
    return _both(function, nested(function))


def compiled_inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Like `inlined`, for what Python calls as well."""
    return _both(function, inlined(function))


def _both(function: Callable[P, R], inside: Callable[P, R]) -> Callable[P, R]:
    """A function for Python, and as it is inside of others."""
    dispatcher, nested = _cached(function), cast("Any", inside)
    dispatcher.get_call_template = nested.get_call_template
    dispatcher.get_overload = nested.get_overload
    return cast("Callable[P, R]", dispatcher)


def _cached(function: Callable[..., Any]) -> Any:
    """Compile a function for Python; the cache on disk is valid while no file here has changed.

    numba takes a cached function for current while its own source file is the same, but a function
    is compiled together with those that it calls.  Where no directory can be written, nothing is
    cached.
    """
    try:
        dispatcher = _njit(cache=True)(function)
    except RuntimeError:
        return _njit()(function)
    dispatcher._cache._cache_file._source_stamp = SOURCES  # noqa: SLF001
    return dispatcher


def _one_version(dispatcher: Any) -> Any:
    """Have numba compile a function for integers, not once more for each literal passed to it."""
    resolve, unliteral = dispatcher.get_call_template, cast("Any", types).unliteral

    def without_literals(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        return resolve(tuple(unliteral(arg) for arg in args), kws)

    dispatcher.get_call_template = without_literals
    return dispatcher


def entry(*arguments: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Like `compiled`, for what Python calls: only for arguments of these types.

    It can be called once `ready` has returned for its module.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        dispatcher: Any = _cached(function)
        module = function.__module__.rpartition(".")[2]
        _entries.setdefault(module, []).append((dispatcher, arguments))
        return cast("Callable[P, R]", dispatcher)

    return decorate


def ready(modules: Modules = FOR_ALL) -> None:
    """Compile the entries of modules, or load them; logs a warning if it takes a moment.

    All at once, since entries share most of what they call.
    """
    if modules in _done:
        return
    with _compiling:
        for name in modules.names:
            importlib.import_module(f"tidemark.kernel.{name}")
        notice = threading.Timer(NOTICE_AFTER, _announce, [modules.seconds])
        notice.daemon = True
        notice.start()
        collecting = gc.isenabled()
        gc.disable()  # the compiler's many small objects live until it ends: a tenth of its time
        try:
            for name in modules.names:
                while _entries.get(name):
                    dispatcher, arguments = _entries[name][-1]
                    dispatcher.compile(arguments)
                    dispatcher.disable_compile()
                    _entries[name].pop()
        finally:
            notice.cancel()
            if collecting:
                gc.enable()
        _done.add(modules)


def _announce(seconds: int) -> None:
    # A warning, as these are seen on stderr where nobody has set up logging.
    _log.warning("Compiling the kernel for this machine, once: about %d s", seconds)


NOTICE_AFTER = 1.5
_entries: dict[str, list[tuple[Any, tuple[Any, ...]]]] = {}
_done: set[Modules] = set()
_compiling = threading.Lock()


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


_Array = cast("Any", types.Array)
WORDS = _Array(types.int64, 1, "C", readonly=True)
BYTES = _Array(types.uint8, 1, "C", readonly=True)
NEW_WORDS, WORD_ROWS = types.int64[::1], types.int64[:, ::1]
SLICED_ROWS = types.int64[:, :]
BYTE_ROWS, NEW_BYTES = types.uint8[:, ::1], types.uint8[::1]
NEW_INTS, INTEGER = types.int32[::1], types.int64

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
