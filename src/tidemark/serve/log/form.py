"""The columns of the serving log: what a list of outputs is written as, and how answers become it.

Answers are turned into columns some hundred at a time.  The thread that does it gives way to those
that answer requests after some columns, so that none of them waits for more than that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from tidemark.engines.arrow import arrow_type
from tidemark.errors import EngineError
from tidemark.model.fingerprint import meaning_of
from tidemark.model.types import Type, parse_type
from tidemark.serve.answer import Logged
from tidemark.serve.log.masking import Mask, is_masked, masked_keys
from tidemark.serve.program import ALWAYS, NULL, VALUE, Program
from tidemark.serve.vector import CODES, Status

FORMAT = 1
"""The version of the columns and of what is said of them; another one is refused."""

METADATA = b"tidemark"
"""Where the schema of a file says what its columns are."""

_WORK_SECONDS, _PAUSE_SECONDS = 50e-6, 150e-6
"""How long the thread works until it pauses; shorter pauses give the interpreter to nobody."""

_FREED = 32
"""Answers that are let go of at once: what they hold costs about a microsecond each."""

MOMENT = pa.timestamp("us", "UTC")
AGE = pa.duration("us")
STATUS = pa.dictionary(pa.uint8(), pa.string())

_STATUSES = pa.array([*map(str, Status)])
_PRESENT, _NULL = CODES[Status.PRESENT], CODES[Status.NULL]


class Entry(NamedTuple):
    """One answer as the queue holds it; `seconds` is what it took, `answered` when it was given."""

    target: str
    revision: int
    request_id: str
    answered: int
    seconds: float
    logged: Logged


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


class Description(msgspec.Struct, frozen=True):
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


def read_description(schema: pa.Schema, folder: Path) -> Description:
    """What a file in a folder says of its columns; raises `EngineError` for another format."""
    said: dict[bytes, bytes] = schema.metadata or {}
    found = msgspec.json.decode(said[METADATA], type=_Versioned).format
    if found != FORMAT:
        raise EngineError(
            f"The serving log has a file of format {found}, and this release of Tidemark knows "
            f"format {FORMAT} only.",
            where=str(folder),
            remedy="Read it with the release that wrote it, or move it away.",
        )
    return msgspec.json.decode(said[METADATA], type=Description)


class _Versioned(msgspec.Struct):
    format: int


class Courtesy:
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
                    meaning_of(definitions, each),
                    name not in self.outputs,
                    is_masked(definitions, each),
                )
                for name, each in names.items()
            ),
            tuple(dict.fromkeys(view.view.name for view in program.views)),
        )
        self.schema = self.description.schema
        self._view_of = {view.view.name: place for place, view in enumerate(program.views)}
        # What numbers are where the kernel found nothing, as words; [numbers, 1].
        nothing = [each.nothing for each in program.features[: program.numbers]]
        self._has_nothing = np.array([each is not None for each in nothing], bool).reshape(-1, 1)
        words = [np.array(each or 0.0).view(np.int64) for each in nothing[: program.doubles]]
        words += [np.array(each or 0, np.int64) for each in nothing[program.doubles :]]
        self._nothing = np.array(words, np.int64).reshape(-1, 1)

    def batch(self, entries: Sequence[Entry], courtesy: Courtesy) -> pa.RecordBatch:
        """The rows of some answers of the program, in their order."""
        columns: list[pa.Array] = []
        for column in self._columns(entries, courtesy):
            columns.append(column)
            courtesy.rest()
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _columns(self, entries: Sequence[Entry], courtesy: Courtesy) -> Iterator[pa.Array]:
        """The columns, in the order of the schema."""
        _, revisions, request_ids, answered, seconds, answers = zip(*entries, strict=True)
        found = _Found(answers, self._program, courtesy)
        yield found.spread(pa.array(request_ids, pa.string()))
        yield pa.array(found.row)
        yield found.spread(pa.array(answered, pa.int64()).view(MOMENT))
        yield pa.array(found.at).view(MOMENT)
        yield found.spread(pa.array(revisions, pa.int64()))
        yield found.spread(pa.array(seconds, pa.float64()))
        for place, key in enumerate(self.keys):
            yield self._written(key, [v for each in answers for v in each.keys[place]])
        yield from self._features(found, courtesy)
        for request in self.description.request:
            reference = self._requests[request.name]
            yield self._written(request, [v for each in answers for v in each.others[reference]])
        served = {id(each.states): each.states for each in answers}  # of a few materializations
        order = {key: place for place, key in enumerate(served)}
        which = found.spread(pa.array([order[id(each.states)] for each in answers], pa.int32()))
        for view in self.description.views:
            place = self._view_of[view]
            states = [each[place] if each else None for each in served.values()]
            known = [None if state is None else state.until for state in states]
            yield pa.array(known, pa.int64()).view(MOMENT).take(which)
            position = [None if state is None else state.position for state in states]
            yield pa.array(position, pa.int64()).take(which)

    def _features(self, found: _Found, courtesy: Courtesy) -> Iterator[pa.Array]:
        """Value, status and age of each feature; numbers are taken from all that were found."""
        program = self._program
        numbers = self._numbers(found)
        courtesy.rest()
        statuses = _columns(program.statuses(found.state, found.known), pa.uint8())
        courtesy.rest()
        never = found.time <= ALWAYS
        ages = _columns(np.where(never, 0, found.at - found.time), AGE, ~never)
        courtesy.rest()
        for column in self.description.features:
            reference = self._references[column.name]
            place = program.place.get(reference)
            if place is None:
                values = [v for each in found.answers for v in each.others[reference]]
                yield self._written(column, values)
                codes = np.array([_NULL if v is None else _PRESENT for v in values], np.uint8)
                yield _statuses(pa.array(codes))
                yield pa.nulls(len(values), AGE)
                continue
            if place >= program.numbers:
                yield self._written(column, found.values(place - program.numbers))
            elif column.masked:
                yield self._written(column, numbers[place].to_pylist())
            else:
                yield numbers[place]
            yield _statuses(statuses[place])
            yield ages[place]

    def _numbers(self, found: _Found) -> list[pa.Array]:
        """The columns of those features that are numbers."""
        doubles, numbers = self._program.doubles, self._program.numbers
        state = found.state[:numbers]
        valid = state == VALUE
        words = np.where(valid, found.words[:numbers], self._nothing)
        valid |= self._has_nothing & (state != NULL)
        return [
            *_columns(words[:doubles], pa.float64(), valid[:doubles]),
            *_columns(words[doubles:], pa.int64(), valid[doubles:]),
        ]

    def _written(self, column: Column, values: Sequence[Any]) -> pa.Array:
        type_: Type = parse_type(column.type)
        if column.masked:
            return pa.array(self._mask.values(values, type_), pa.string())
        return pa.array(values, arrow_type(type_))


class _Found:
    """What was found for N sets of keys, of several answers.

    `words`, `state` and `time` are [F, N], `known` is [V, N]; `at` is the moment and `row` the
    place in its answer of each.
    """

    def __init__(self, answers: Sequence[Logged], program: Program, courtesy: Courtesy) -> None:
        self.answers = answers
        self._counts = [each.rows for each in answers]
        self.rows = sum(self._counts)
        self.at = np.array([each.at for each in answers], np.int64)
        self.row = np.zeros(self.rows, np.int32)
        self._which: pa.Array | None = None
        if self._counts.count(1) < len(answers):
            counts = np.array(self._counts)
            which = np.repeat(np.arange(len(answers)), counts)
            first = np.cumsum(counts) - counts
            self.at, self.row = self.at[which], np.arange(self.rows, dtype=np.int32)
            self.row -= first[which].astype(np.int32)
            self._which = pa.array(which)
        features, views = len(program.features), len(program.views)
        courtesy.rest()
        self.words = self._together([each.words for each in answers], features, np.int64)
        courtesy.rest()
        self.state = self._together([each.state for each in answers], features, np.uint8)
        courtesy.rest()
        self.time = self._together([each.time for each in answers], features, np.int64)
        courtesy.rest()
        self.known = self._together([each.known for each in answers], views, np.int64)
        courtesy.rest()

    def spread(self, column: pa.Array) -> pa.Array:
        """What holds for each answer, for each of its rows."""
        return column if self._which is None else column.take(self._which)

    def values(self, place: int) -> list[Any]:
        """The values of a feature that are no numbers; `place` is among those."""
        return [
            value
            for each in self.answers
            for value in each.values[place * each.rows : (place + 1) * each.rows]
        ]

    def _together(self, texts: Sequence[bytes], height: int, kind: DTypeLike) -> NDArray[Any]:
        """One array [height, N] of those of the answers."""
        rows = self._counts[0]
        if self._counts.count(rows) == len(texts):
            shape = len(texts), height, rows
            joined = np.frombuffer(b"".join(texts), kind).reshape(shape)
            return np.ascontiguousarray(joined.transpose(1, 0, 2)).reshape(height, self.rows)
        arrays: list[NDArray[Any]] = [
            np.frombuffer(text, kind).reshape(height, rows)
            for text, rows in zip(texts, self._counts, strict=True)
        ]
        return np.concatenate(arrays, axis=1)


def _columns(
    rows: NDArray[Any], type_: pa.DataType, defined: NDArray[np.bool_] | None = None
) -> list[pa.Array]:
    """The rows of an array [F, N] as Arrow columns that share its memory; null if not `defined`."""
    count, size = rows.shape[1], rows.shape[1] * rows.itemsize
    items = pa.py_buffer(rows)
    columns = [items.slice(place * size, size) for place in range(len(rows))]
    if defined is None:
        return [pa.Array.from_buffers(type_, count, [None, each]) for each in columns]
    bits = np.packbits(defined, axis=1, bitorder="little")
    known, width = pa.py_buffer(bits), bits.shape[1]
    valid = [
        None if known_all else known.slice(place * width, width)
        for place, known_all in enumerate(np.all(defined, axis=1).tolist())
    ]
    return [
        pa.Array.from_buffers(type_, count, [mask, each])
        for mask, each in zip(valid, columns, strict=True)
    ]


def _statuses(codes: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes, _STATUSES)
