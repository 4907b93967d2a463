"""Reads vectors: one round trip to the store, one call of the kernel, on-demand functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from tidemark.errors import RequestInvalid
from tidemark.model.graph import Definitions, Output, Reference
from tidemark.model.window import parse_moment
from tidemark.online.states.underway import Look
from tidemark.online.stores.asking import Asking, answered
from tidemark.online.stores.protocol import OnlineStore
from tidemark.serve.answer import Answer, Functions, new_request_id
from tidemark.serve.evaluation import Found
from tidemark.serve.inputs import is_column
from tidemark.serve.program import Program
from tidemark.serve.rows import OtherStates, RowReader, Stored, restless
from tidemark.serve.vector import Vector, Vectors

if TYPE_CHECKING:
    from tidemark.serve.log import ServingLog

_ATTEMPTS = 20
"""How often a read follows states that come and go while it reads."""


class Reader:
    """Answers requests for one list of outputs, from any number of threads.

    What is called `asking` says what it needs of the online store and is sent it, see
    `online.stores.asking`; the other methods read it themselves.

    `functions` are the on-demand functions by reference; `project` is the namespace of the online
    state.  The serving log knows answers by `target` (a service, a model or "features") and
    `revision`; `online` and `online_many` are written to `log`, where there is one.  `look`
    says which events are accepted that reads may not count yet.
    """

    def __init__(
        self,
        online: OnlineStore,
        definitions: Definitions,
        functions: Functions,
        outputs: Sequence[Output],
        *,
        project: str,
        target: str = "features",
        revision: int = 0,
        log: ServingLog | None = None,
        look: Callable[[], Look] | None = None,
    ) -> None:
        self.target, self.revision = target, revision
        self._log = log
        self._functions = functions
        self._definitions = definitions
        self._outputs = tuple(outputs)
        self._project = project
        self._online = online
        self._rows = RowReader(online.name, project, look)
        self._program = answered(self._resolved(), online.get_many)

    def online(
        self, keys: object, *, request: object = None, at: datetime | str | None = None
    ) -> Vector:
        """The values for one dict of keys and one of request values, at a moment (None: now).

        Raises `RequestInvalid` for keys or request values that do not fit, `StaleSource` for views
        that are not materialized for that moment.
        """
        began = perf_counter()
        return Vector(self._logged(self.answer(keys, request=request, at=at), began))

    def online_many(
        self, keys: object, *, request: object = None, at: datetime | str | None = None
    ) -> Vectors:
        """The values for many sets of keys at one moment (None: now), in their order.

        `keys` are a list of dicts, a dict of columns, or anything that gives Arrow.  So is
        `request`, or it is one dict of values that holds for all.  Raises as `online` does.
        """
        began = perf_counter()
        return Vectors(self._logged(self.answer_many(keys, request=request, at=at), began))

    @property
    def program(self) -> Program:
        """What a request for the outputs needs, and how it is answered now."""
        return self._program

    def answer(
        self, keys: object, *, request: object = None, at: datetime | str | None = None
    ) -> Answer:
        """What `online` reads, not yet as a vector."""
        return answered(self.asking(keys, request=request, at=at), self._online.get_many)

    def answer_many(
        self, keys: object, *, request: object = None, at: datetime | str | None = None
    ) -> Answer:
        """What `online_many` reads, not yet as vectors."""
        return answered(self.asking_many(keys, request=request, at=at), self._online.get_many)

    def asking(
        self, keys: object, *, request: object = None, at: datetime | str | None = None
    ) -> Asking[Answer]:
        """What `answer` does."""
        program, moment = self._program, _moment(at)
        columns = [[value] for value in program.keys.one(keys)]
        values = [[value] for value in program.request.one({} if request is None else request)]
        return self._answered(columns, values, 1, moment)

    def asking_many(
        self, keys: object, *, request: object = None, at: datetime | str | None = None
    ) -> Asking[Answer]:
        """What `answer_many` does."""
        moment = _moment(at)
        columns, count = self._program.keys.many(keys)
        values = _request_columns(self._program, request, count)
        return self._answered(columns, values, count, moment)

    def _logged(self, answer: Answer, began: float) -> Answer:
        if self._log is not None:
            seconds = perf_counter() - began
            self._log.add(answer, self.target, self.revision, new_request_id(), seconds)
        return answer

    def _answered(
        self,
        keys: Sequence[Sequence[Any]],
        values: Sequence[Sequence[Any]],
        count: int,
        at: int | None,
    ) -> Asking[Answer]:
        began = perf_counter()
        program, stored = yield from self._stored(keys, count, at)
        read = perf_counter()
        found = Found(stored.words, stored.parts, stored.at, count)
        request: dict[Reference, Sequence[Any]] = {}
        if values:
            named = dict(zip((f.name for f in program.request.fields), values, strict=True))
            request = {each: named[each.name] for each in program.requests}
        answer = Answer(program, self._functions, found, stored, request, stored.at)
        answer.seconds = read - began, answer.decoded - read, perf_counter() - answer.decoded
        return answer

    def _resolved(self) -> Asking[Program]:
        """The outputs as the states that serve now can answer them."""
        references = self._definitions.needed(each.reference for each in self._outputs)
        views = {each.owner for each in references if each.kind == "feature"}
        available = yield from self._rows.available(views)
        return Program(self._definitions, self._outputs, available, project=self._project)

    def _stored(
        self, keys: Sequence[Sequence[Any]], count: int, at: int | None
    ) -> Asking[tuple[Program, Stored]]:
        """The rows of the keys, and the program that they were read for."""
        for _ in range(_ATTEMPTS):
            program = self._program
            try:
                stored = yield from self._rows.read(program, keys, count, at)
            except OtherStates:
                self._program = yield from self._resolved()
            else:
                return program, stored
        raise restless(self._online.name)


def _moment(at: datetime | str | None) -> int | None:
    return None if at is None else parse_moment(at)


def _request_columns(program: Program, given: object, count: int) -> list[list[Any]]:
    """Checked columns of request values; the values of one dict are repeated."""
    if given is None:
        given = {}
    if isinstance(given, Mapping):
        values = cast("Mapping[str, object]", given)
        if not any(is_column(field, values.get(field.name)) for field in program.request.fields):
            return [[value] * count for value in program.request.one(values)]
        given = values
    columns, length = program.request.many(given)
    if length != count:
        raise RequestInvalid(
            f"There are request values for {length} rows and keys for {count}.",
            remedy="Pass as many, or one dict of values that holds for all.",
        )
    return columns
