"""What a function does, as a short text that formatting, comments and annotations do not change.

It covers the syntax tree of the function, that of every function and class of the project that it
uses, and the constants that they use.  What a library does is that library's version, not ours.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import re
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

_CLOCK = "the clock: the same inputs would give another value later"
_CHANCE = "random numbers: the same inputs would give another value each time"
_NETWORK = "the network: what it answers is no input"
_MACHINE = "files or the machine: what they hold is no input"
_PROCESS = "what differs from process to process"

# The beginnings of names that a function of features cannot use, and what they ask.
_REFUSED: Mapping[str, str] = {
    "time.": _CLOCK,
    "datetime.datetime.now": _CLOCK,
    "datetime.datetime.utcnow": _CLOCK,
    "datetime.datetime.today": _CLOCK,
    "datetime.date.today": _CLOCK,
    "random.": _CHANCE,
    "secrets.": _CHANCE,
    "numpy.random.": _CHANCE,
    "uuid.uuid1": _CHANCE,
    "uuid.uuid4": _CHANCE,
    "os.urandom": _CHANCE,
    "socket.": _NETWORK,
    "_socket.": _NETWORK,
    "urllib.request.": _NETWORK,
    "http.client.": _NETWORK,
    "requests.": _NETWORK,
    "httpx.": _NETWORK,
    "aiohttp.": _NETWORK,
    "smtplib.": _NETWORK,
    "builtins.open": _MACHINE,
    "_io.open": _MACHINE,
    "io.open": _MACHINE,
    "pathlib.": _MACHINE,
    "os.": _MACHINE,
    "posix.": _MACHINE,
    "shutil.": _MACHINE,
    "tempfile.": _MACHINE,
    "subprocess.": _MACHINE,
    "sqlite3.": _MACHINE,
    "builtins.input": _MACHINE,
    "builtins.hash": _PROCESS,
    "builtins.id": _PROCESS,
}
# Fields of syntax trees that say nothing about what is computed, or that some Pythons lack.
_SILENT = frozenset({"annotation", "returns", "type_comment", "type_params", "kind", "ctx"})
_Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")})
_OWN = str(Path(__file__).parents[1])


class Code(NamedTuple):
    """The fingerprint of a function, empty where its source is not known; what it may not use."""

    fingerprint: str
    refused: tuple[str, ...]


def code_of(function: Callable[..., Any]) -> Code:
    """The fingerprint of a function with all of the project that it uses."""
    reading = _Reading()
    reading.function(function.__name__, function, decorated=False)
    if function.__name__ not in reading.parts:
        return Code("", ())
    whole = [reading.parts.pop(function.__name__), sorted(reading.parts.items())]
    digest = hashlib.blake2b(msgspec.json.encode(whole), digest_size=16).hexdigest()
    return Code(digest, tuple(dict.fromkeys(reading.refused)))


class _Reading:
    """The parts of the project that a function uses, by the names that it uses for them."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}
        self.refused: list[str] = []
        self._seen: set[int] = set()

    def function(self, name: str, function: Callable[..., Any], *, decorated: bool = True) -> None:
        """Take in a function or a class, and what it uses in turn; its decorators if so told."""
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        tree = _tree(function)
        if tree is None:
            return
        if not decorated:
            tree.decorator_list = []
        self.parts[name] = _plain(tree)
        known = _known(function)
        imported = dict(_imports(tree))
        for names in _chains(tree):
            dotted = ".".join(names)
            if names[0] in imported:
                self._refuse(".".join((imported[names[0]], *names[1:])), dotted)
            elif names[0] in known:
                self._use(names, known[names[0]])

    def _use(self, names: list[str], value: Any) -> None:
        """Take in what a name of the function's surroundings stands for."""
        for place, attribute in enumerate(names[1:], 1):
            if not isinstance(value, types.ModuleType):
                self._refuse(".".join((_dotted(value), *names[place:])), ".".join(names))
                break
            value = getattr(value, attribute, None)
        else:
            self._refuse(_dotted(value), ".".join(names))
        inner: Any = getattr(value, "function", value) if _is_on_demand(value) else value
        spelled = ".".join(names)
        if callable(inner) and hasattr(inner, "__qualname__"):
            if _of_project(inner):
                self.function(spelled, inner)
        elif not isinstance(inner, types.ModuleType):
            self.parts[spelled] = _constant(inner)

    def _refuse(self, dotted: str, spelled: str) -> None:
        for beginning, why in _REFUSED.items():
            if f"{dotted}.".startswith(beginning if beginning[-1] == "." else f"{beginning}."):
                self.refused.append(f"it uses {spelled}, which asks {why}")
                return


def _tree(function: Callable[..., Any]) -> _Defined | None:
    """The syntax tree of a function or class; None if its source is not known."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError):
        return None
    found = [node for node in ast.walk(tree) if isinstance(node, _Defined)]
    return found[0] if found else None


def _plain(node: Any) -> Any:
    """A tree as JSON values, without what says nothing about what is computed."""
    if isinstance(node, list):
        return [_plain(each) for each in _items(node)]
    if not isinstance(node, ast.AST):
        return node if node is None or isinstance(node, str | int | bool) else repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        fields.pop("name")
        documented = ast.get_docstring(node, clean=False) is not None
        fields["body"] = node.body[1:] if documented else node.body
    if isinstance(node, ast.AnnAssign):
        fields.pop("simple")
    parts = {
        name: _plain(value)
        for name, value in fields.items()
        if name not in _SILENT and value is not None and value != []
    }
    return [type(node).__name__, parts]


def _chains(tree: ast.AST) -> Iterator[list[str]]:
    """Every name that is read, with the attributes that follow: `np.random.rand`."""
    inner: set[int] = set()
    for node in _spoken(tree):
        names: list[str] = []
        at = node
        while isinstance(at, ast.Attribute):
            names.insert(0, at.attr)
            inner.add(id(at.value))
            at = at.value
        if isinstance(at, ast.Name) and id(node) not in inner:
            yield [at.id, *names]


def _spoken(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that say what is computed, outer ones first."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in _SILENT:
            for each in _items(value) if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    yield from _spoken(each)


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that are imported inside of a function, and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname or alias.name.partition(".")[0]), alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name), f"{node.module}.{alias.name}"


def _known(function: Callable[..., Any]) -> dict[str, Any]:
    """What the names of a function's surroundings stand for."""
    module = sys.modules.get(getattr(function, "__module__", ""), None)
    scope: dict[str, Any] = getattr(function, "__globals__", None) or vars(module or builtins)
    known: dict[str, Any] = {**vars(builtins), **scope}
    code = getattr(function, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                known[name] = cell.cell_contents
            except ValueError:
                continue  # not bound yet
        for name in code.co_varnames:
            known.pop(name, None)
    return known


def _dotted(value: Any) -> str:
    """The full name of a module, function, class or builtin."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        return f"{type(owner).__module__}.{getattr(value, '__name__', '')}"
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if module is None or name is None:
        return f"{type(value).__module__}.{type(value).__qualname__} value"
    return f"{module}.{name}"


def _is_on_demand(value: Any) -> bool:
    return type(value).__name__ == "OnDemandFunction" and hasattr(value, "function")


def _of_project(value: Any) -> bool:
    """Whether a function or class is neither a library's nor Tidemark's own."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file is None:
        return getattr(value, "__module__", None) == "__main__"
    path = str(Path(file).resolve())
    return "site-packages" not in path and not path.startswith((*_LIBRARIES, _OWN))


def _items(value: Any) -> Iterable[Any]:
    return value  # type: ignore[no-any-return]


def _constant(value: Any) -> Any:
    """A constant as JSON values; of any other object, only what kind it is."""
    kind = type(value).__name__
    match value:
        case None | bool() | int() | str():
            return [kind, str(value)]
        case float() | Decimal() | bytes() | date() | datetime() | time() | timedelta() | Enum():
            return [kind, repr(value)]
        case tuple() | list():
            return [kind, *(_constant(each) for each in _items(value))]
        case set() | frozenset():
            return ["set", *sorted((_constant(each) for each in _items(value)), key=str)]
        case dict():
            return ["dict", *(_constant(pair) for pair in _items(value.items()))]
        case re.Pattern():
            pattern = cast("re.Pattern[str]", value)
            return ["pattern", str(pattern.pattern), int(pattern.flags)]
        case _:
            return ["object", f"{type(value).__module__}.{type(value).__qualname__}"]
