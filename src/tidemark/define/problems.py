"""Where a definition stands in its file, and what becomes of a mistake in it.

While a definition file is loaded, mistakes are collected so that all of them are told at once; what
was asked for and does not exist is `Unknown`, which takes part in anything and is left out later.
Anywhere else (a notebook, a test, a plain import) a mistake is raised where it is made.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import linecache
import os
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tidemark.errors import DefinitionError, Problem

_ASKING = ("tidemark.define", "tidemark.store")
_collected: ContextVar[list[Problem] | None] = ContextVar("collected", default=None)


class Place(NamedTuple):
    """A line of a file, or the line that declares `attribute` in the class that stands there."""

    file: str
    line: int
    attribute: str = ""

    def __str__(self) -> str:
        if not self.file:
            return ""
        near = os.path.relpath(self.file) if Path(self.file).is_absolute() else self.file
        shown = self.file if near.startswith("..") else near
        line = self._attribute_line() if self.attribute else self.line
        return f"{shown}:{line}   {linecache.getline(self.file, line).strip()}".rstrip()

    def _attribute_line(self) -> int:
        """Found when a mistake is told: Python keeps no lines of annotations."""
        try:
            tree = ast.parse("".join(linecache.getlines(self.file)))
        except SyntaxError:
            return self.line
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and self._is_at(node):
                for statement in node.body:
                    match statement:
                        case (
                            ast.AnnAssign(target=ast.Name(id=found))
                            | ast.Assign(targets=[ast.Name(id=found)])
                        ) if found == self.attribute:
                            return statement.lineno
                        case _:
                            pass
        return self.line

    def _is_at(self, node: ast.ClassDef) -> bool:
        first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
        return first <= self.line <= node.lineno


NOWHERE = Place("", 0)


def caller() -> FrameType | None:
    """The innermost frame that neither defines nor asks for definitions: the user's own line."""
    frame = inspect.currentframe()
    while frame and str(frame.f_globals.get("__name__", "")).startswith(_ASKING):
        frame = frame.f_back
    return frame


def here() -> Place:
    """The user's line that is running."""
    frame = caller()
    return Place(frame.f_code.co_filename, frame.f_lineno) if frame else NOWHERE


def report(what: str, place: Place, remedy: str = "") -> None:
    """Collect a mistake while a file is loaded; raise `DefinitionError` anywhere else."""
    keep(Problem(what, str(place), remedy))


def keep(problem: Problem) -> None:
    """As `report`, for a problem that is spelled already."""
    collected = _collected.get()
    if collected is None:
        raise DefinitionError([problem]) from None
    collected.append(problem)


def ordered(problems: Iterable[Problem]) -> list[Problem]:
    """Problems without repetition, in the order of their lines; those without a line come last."""

    def line(problem: Problem) -> tuple[str, int]:
        found = re.match(r"(.*?):(\d+)(?: {3}|$)", problem.where)
        return (found[1], int(found[2])) if found else ("\uffff", 0)

    return sorted(dict.fromkeys(problems), key=line)


def collected_so_far() -> list[Problem] | None:
    """The mistakes of the definition file that is being loaded; None if none is."""
    return _collected.get()


@contextmanager
def collecting() -> Generator[list[Problem]]:
    """Collect the mistakes made inside instead of raising the first."""
    problems: list[Problem] = []
    token = _collected.set(problems)
    try:
        yield problems
    finally:
        _collected.reset(token)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all of them."""
    names = list(known)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"Did you mean {near[0]!r}?"
    return f"There are: {', '.join(names)}." if names else ""


class UnknownAttribute(DefinitionError, AttributeError):
    """A declared class has no such column, key or feature."""


class Unknown:
    """What does not exist because of a mistake that has been collected already."""

    def _absorb(self, *_: object, **__: object) -> Unknown:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __mro_entries__(self, _bases: tuple[object, ...]) -> tuple[type, ...]:
        """Let a class that derives from this one be read as well."""
        return (_OfUnknown,)

    def __eq__(self, other: object) -> Any:
        return self

    def __ne__(self, other: object) -> Any:
        return self

    __hash__ = object.__hash__
    __call__ = __getitem__ = __and__ = __or__ = __rand__ = __ror__ = __invert__ = _absorb
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = _absorb
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _absorb
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _absorb


class _OfUnknown:
    def __init_subclass__(cls, **_: object) -> None:
        super().__init_subclass__()
