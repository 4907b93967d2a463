"""Reads vectors: one round trip to the store, one call of the kernel, on-demand functions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from tidemark.define.references import outputs
from tidemark.errors import RequestInvalid
from tidemark.kernel.rows import evaluate_rows
from tidemark.model.graph import Definitions, Reference
from tidemark.model.window import parse_moment
from tidemark.online.protocol import OnlineStore
from tidemark.serve.answer import Answer, Functions
from tidemark.serve.program import Program
from tidemark.serve.rows import RowReader
from tidemark.serve.vector import Vector, Vectors

_PROGRAMS = 256
"""Lists of features whose programs are kept; a server has few services."""


class Reader:
    """Answers requests from the online state of one project, from any number of threads.

    `functions` are the on-demand functions by name.
    """

    def __init__(
        self, online: OnlineStore, definitions: Definitions, functions: Functions, *, project: str
    ) -> None:
        self.definitions = definitions
        self.functions = functions
        self.project = project
        self._rows = RowReader(online, project)
        # The second item keeps what was asked for alive, so that nothing else gets its id.
        self._programs: dict[object, tuple[Program, object]] = {}

    def online(
        self,
        features: object,
        keys: Mapping[str, Any],
        *,
        request: Mapping[str, Any] | None = None,
        at: datetime | str | None = None,
    ) -> Vector:
        """The values of features for one set of keys at a moment (None: now).

        Raises `RequestInvalid` for keys or request values that do not fit, `StaleSource` for views
        that are not materialized for that moment.
        """
        program = self.program(features)
        moment = _moment(at)
        columns = [[value] for value in program.keys.one(keys)]
        values = [[value] for value in program.request.one({} if request is None else request)]
        return Vector(self._answer(program, columns, values, 1, moment))

    def online_many(
        self,
        features: object,
        keys: object,
        *,
        request: object = None,
        at: datetime | str | None = None,
    ) -> Vectors:
        """The values of features for many sets of keys at one moment (None: now).

        `keys` are a list of dicts, a dict of columns, or anything that gives Arrow.  So is
        `request`, or it is one dict of values that holds for all.  Raises as `online` does.
        """
        program = self.program(features)
        moment = _moment(at)
        columns, count = program.keys.many(keys)
        values = _request_columns(program, request, count)
        return Vectors(self._answer(program, columns, values, count, moment))

    def program(self, features: object) -> Program:
        """What a service or a list of features needs, resolved the first time it is asked for."""
        name = _identity(features)
        kept = self._programs.get(name)
        if kept is None:
            listed = outputs(features, self.definitions)
            kept = Program(self.definitions, listed, project=self.project), features
            if len(self._programs) >= _PROGRAMS:
                self._programs.clear()
            self._programs[name] = kept
        return kept[0]

    def _answer(
        self,
        program: Program,
        keys: Sequence[Sequence[Any]],
        values: Sequence[Sequence[Any]],
        count: int,
        at: int,
    ) -> Answer:
        stored = self._rows.read(program, keys, count, at)
        found = evaluate_rows(stored.words, stored.at, at, program.kernel)
        request: dict[Reference, Sequence[Any]] = {}
        if values:
            named = dict(zip((f.name for f in program.request.fields), values, strict=True))
            request = {each: named[each.name] for each in program.requests}
        return Answer(program, self.functions, found, stored, request, at)


def _moment(at: datetime | str | None) -> int:
    return time.time_ns() // 1_000 if at is None else parse_moment(at)


def _identity(features: object) -> object:
    """What distinguishes what is asked for: text by its value, objects by being themselves."""
    if isinstance(features, str):
        return features
    if isinstance(features, list | tuple):
        listed = cast("Sequence[object]", features)
        return tuple(each if isinstance(each, str) else id(each) for each in listed)
    return id(features)


def _request_columns(program: Program, request: object, count: int) -> list[list[Any]]:
    """Checked columns of request values; the values of one dict are repeated."""
    if request is None:
        request = {}
    if isinstance(request, Mapping):
        values = cast("Mapping[str, object]", request).values()
        if not any(
            hasattr(each, "__len__") and not isinstance(each, str | bytes) for each in values
        ):
            return [[value] * count for value in program.request.one(request)]
    columns, given = program.request.many(request)
    if given != count:
        raise RequestInvalid(
            f"There are request values for {given} rows and keys for {count}.",
            remedy="Pass as many, or one dict of values that holds for all.",
        )
    return columns
