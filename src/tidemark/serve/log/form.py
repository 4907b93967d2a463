"""The columns of the serving log: what a list of outputs is written as, and how answers become it.

Answers are turned into columns some hundred at a time.  The thread that does it gives way to those
that answer requests after some columns, so that none of them waits for more than that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.arrow import arrow_type, column_of
from tidemark.model.fingerprint import meaning, on_demand_fingerprints
from tidemark.model.graph import Definitions, Reference
from tidemark.model.types import FLOAT64, INT64, Type, parse_type
from tidemark.serve.answer import ALWAYS, NEVER, Parts
from tidemark.serve.log.masking import Mask, is_masked, masked_keys
from tidemark.serve.program import NULL, VALUE, Program
from tidemark.serve.vector import Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
METADATA = b"tidemark"
"""Where the schema of a file says what its columns are."""

_WORK_SECONDS, _PAUSE_SECONDS = 50e-6, 150e-6
"""How long the thread works until it pauses; shorter pauses give the interpreter to nobody."""

_FREED = 8
"""Answers that are let go of at once: what they hold costs some 3 us each."""

MOMENT = pa.timestamp("us", "UTC")
AGE = pa.duration("us")
STATUS = pa.dictionary(pa.uint8(), pa.string())

_STATUSES = pa.array([*map(str, Status)])
_ORDER = list(Status)
_MISSING, _NULL = _ORDER.index(Status.MISSING), _ORDER.index(Status.NULL)
_PRESENT = _ORDER.index(Status.PRESENT)


class Entry(NamedTuple):
    """One answer as the queue holds it; `seconds` is what it took, `answered` when it was given."""

    target: str
    revision: int
    request_id: str
    answered: int
    seconds: float
    parts: Parts


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value that is logged: a key, a value of a request, or a feature.

    `reference` is the feature's (`user_spend:spend_7d@1`) or the request's (`checkout.amount`), and
    `means` the fingerprint of what a feature computes.  An `input` is no output: an on-demand
    feature read it.  What is `masked` is text, whatever its type.
    """

    name: str
    type: str
    reference: str = ""
    means: str = ""
    input: bool = False
    masked: bool = False

    @property
    def arrow(self) -> pa.DataType:
        """The type of its column."""
        return pa.string() if self.masked else arrow_type(parse_type(self.type))


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the files of one folder hold: they have the same columns, which mean the same."""

    target: str
    keys: tuple[Column, ...]
    request: tuple[Column, ...]
    features: tuple[Column, ...]
    views: tuple[str, ...]
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """Names the folder."""
        text = msgspec.json.encode(self)
        return hashlib.blake2b(text, digest_size=6).hexdigest()

    @property
    def schema(self) -> pa.Schema:
        """The columns of the files."""
        fields = [("request_id", pa.string()), ("row", pa.int32()), ("answered", MOMENT)]
        fields += [("at", MOMENT), ("revision", pa.int64()), ("seconds", pa.float64())]
        fields += [(f"key.{each.name}", each.arrow) for each in self.keys]
        for each in self.features:
            fields += [(f"value.{each.name}", each.arrow), (f"status.{each.name}", STATUS)]
            fields.append((f"age.{each.name}", AGE))
        fields += [(f"request.{each.name}", each.arrow) for each in self.request]
        for view in self.views:
            fields += [(f"known.{view}", MOMENT), (f"position.{view}", pa.int64())]
        return pa.schema(fields, metadata={METADATA: msgspec.json.encode(self)})


def read_description(schema: pa.Schema) -> Description:
    """What a file says of its columns."""
    said: dict[bytes, bytes] = schema.metadata or {}
    return msgspec.json.decode(said[METADATA], type=Description)


def means(definitions: Definitions, reference: Reference) -> str:
    """The fingerprint of what a feature computes."""
    if reference.kind == "on_demand":
        item = definitions.on_demand_feature(reference.name, reference.version)
        return on_demand_fingerprints(item).meaning
    view, feature = definitions.locate(reference)
    return meaning(view, feature, definitions.source(view.source))


class Pace:
    """How a thread gives way to those that answer requests; one in a `hurry` does not."""

    def __init__(self, *, hurry: bool = False) -> None:
        self._hurry = hurry
        self._since = time.perf_counter()

    def rest(self) -> None:
        """Let a thread that waits for the interpreter have it, after some work."""
        if not self._hurry and time.perf_counter() - self._since > _WORK_SECONDS:
            time.sleep(_PAUSE_SECONDS)
            self._since = time.perf_counter()

    def let_go(self, entries: list[Entry]) -> None:
        """Empty a list, some items at a time."""
        while entries:
            del entries[-_FREED:]
            self.rest()


class Form:
    """Writes the answers of one program that were given for one target."""

    def __init__(self, target: str, program: Program, mask: Mask) -> None:
        self._program = program
        self._mask = mask
        definitions = program.definitions
        self.outputs = {
            name: each for name, each in program.reference.items() if each.kind != "request"
        }
        shown = set(self.outputs.values())
        names = dict(self.outputs)
        names |= {str(each): each for each in program.place if each not in shown}
        hidden = masked_keys(program.entities)
        self.keys = tuple(
            Column(each.name, str(each.type), masked=each.name in hidden)
            for each in program.keys.fields
        )
        self._references = names
        self._requests = {each.name: each for each in program.requests}
        self.description = Description(
            target,
            self.keys,
            tuple(
                Column(
                    name,
                    str(definitions.type_of(each)),
                    str(each),
                    masked=is_masked(definitions, each),
                )
                for name, each in self._requests.items()
            ),
            tuple(
                Column(
                    name,
                    str(definitions.type_of(each)),
                    str(each),
                    means(definitions, each),
                    name not in self.outputs,
                    is_masked(definitions, each),
                )
                for name, each in names.items()
            ),
            tuple(dict.fromkeys(view.view.name for view in program.views)),
        )
        self.schema = self.description.schema
        self._view_of = {view.view.name: place for place, view in enumerate(program.views)}

    def batch(self, entries: Sequence[Entry], pace: Pace) -> pa.RecordBatch:
        """The rows of some answers of the program, in their order."""
        columns: dict[str, pa.Array] = {}
        for name, column in zip(self.schema.names, self._columns(entries, pace), strict=True):
            columns[name] = column
            pace.rest()
        return pa.RecordBatch.from_pydict(columns, schema=self.schema)

    def _columns(self, entries: Sequence[Entry], pace: Pace) -> Iterator[pa.Array]:
        """The columns, in the order of the schema."""
        counts = np.array([each.parts.rows for each in entries])
        repeat = np.repeat(np.arange(len(entries)), counts)
        which = pa.array(repeat)
        yield pa.array([each.request_id for each in entries]).take(which)
        first = np.cumsum(counts) - counts
        yield pa.array((np.arange(len(repeat)) - first[repeat]).astype(np.int32))
        yield pa.array([each.answered for each in entries], pa.int64()).view(MOMENT).take(which)
        at = np.array([each.parts.at for each in entries], np.int64)[repeat]
        yield pa.array(at).view(MOMENT)
        yield pa.array([each.revision for each in entries], pa.int64()).take(which)
        yield pa.array([each.seconds for each in entries], pa.float64()).take(which)
        for place, key in enumerate(self.keys):
            yield self._written(key, [v for each in entries for v in each.parts.keys[place]])
        yield from self._features(entries, at, pace)
        for request in self.description.request:
            reference = self._requests[request.name]
            given = [v for each in entries for v in each.parts.others[reference]]
            yield self._written(request, given)
        for view in self.description.views:
            place = self._view_of[view]
            states = [each.parts.states[place] if each.parts.states else None for each in entries]
            known = [None if state is None else state.until for state in states]
            yield pa.array(known, pa.int64()).view(MOMENT).take(which)
            position = [None if state is None else state.position for state in states]
            yield pa.array(position, pa.int64()).take(which)

    def _features(
        self, entries: Sequence[Entry], at: NDArray[np.int64], pace: Pace
    ) -> Iterator[pa.Array]:
        program = self._program
        found = [each.parts for each in entries]
        words = np.concatenate([each.words for each in found], axis=1)
        pace.rest()
        state = np.concatenate([each.state for each in found], axis=1)
        pace.rest()
        time_ = np.concatenate([each.time for each in found], axis=1)
        pace.rest()
        known = np.concatenate([each.known for each in found], axis=1)
        for column in self.description.features:
            reference = self._references[column.name]
            place = program.place.get(reference)
            if place is None:
                values = [v for each in entries for v in each.parts.others[reference]]
                yield self._written(column, values)
                codes = np.array([_NULL if v is None else _PRESENT for v in values], np.uint8)
                yield _statuses(codes)
                yield pa.nulls(len(values), AGE)
                continue
            yield self._values(column, place, words[place], state[place], entries)
            codes = program.status_of[state[place] + program.status_from[place]]
            codes[known[program.view_of[place]] == NEVER] = _MISSING
            yield _statuses(codes)
            never = time_[place] <= ALWAYS
            ages = np.where(never, 0, at - np.where(never, 0, time_[place]))
            yield pa.array(ages, pa.int64(), mask=never).view(AGE)

    def _values(
        self,
        column: Column,
        place: int,
        words: NDArray[np.int64],
        state: NDArray[np.uint8],
        entries: Sequence[Entry],
    ) -> pa.Array:
        feature = self._program.features[place]
        numeric = feature.type in {FLOAT64, INT64}
        if column.masked or not feature.plain or (feature.nothing is not None and not numeric):
            values = [
                value
                for each in entries
                for value in each.parts.values[
                    place * each.parts.rows : (place + 1) * each.parts.rows
                ]
            ]
            return self._written(column, values)
        numbers: NDArray[Any] = words.view(np.float64) if feature.type == FLOAT64 else words
        defined = state == VALUE
        if feature.nothing is not None:
            numbers = np.where(defined, numbers, feature.nothing)
            defined = state != NULL
        return column_of(numbers, defined, feature.type)

    def _written(self, column: Column, values: Sequence[Any]) -> pa.Array:
        type_: Type = parse_type(column.type)
        if column.masked:
            return pa.array(self._mask.values(values, type_), pa.string())
        return pa.array(values, arrow_type(type_))


def _statuses(codes: NDArray[np.uint8]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), _STATUSES)
