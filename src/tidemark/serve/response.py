"""An answer as it goes over the wire: JSON by column, or an Arrow stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemark.model.window import instant, moment_text
from tidemark.serve.json import JsonInputs, writer
from tidemark.serve.vector import Status

if TYPE_CHECKING:
    from tidemark.serve.answer import Answer
    from tidemark.serve.program import Program

_encode = msgspec.json.Encoder().encode

Outcome = bytes | NDArray[np.int64]
"""Statuses of all outputs: of one set of keys `Answer.outcome`, of several `Told.counts`."""


class Encoder:
    """Writes the answers of one program; what does not change between them is written once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.keys = JsonInputs(program.keys.fields)
        self.request = JsonInputs(program.request.fields)
        references = {name: str(each) for name, each in program.reference.items()}
        self.read = tuple(references.values())
        types = {
            name: program.definitions.type_of(each) for name, each in program.reference.items()
        }
        self._features = msgspec.Raw(_encode(references))
        self._told = [
            [_encode({name: status})[1:-1] for status in map(str, Status)] for name in program.names
        ]
        self._types = msgspec.Raw(_encode({name: str(type_) for name, type_ in types.items()}))
        # Doubles of the kernel are looked at all at once; see `Answer.finite`.
        plain = {each.reference for each in program.features[: program.doubles]}
        self._writers = {
            name: found for name, type_ in types.items() if (found := writer(type_)) is not None
        }
        self._without_doubles = {
            name: found
            for name, found in self._writers.items()
            if program.reference[name] not in plain
        }

    def one(self, answer: Answer, head: Mapping[str, Any]) -> tuple[bytes, Outcome]:
        """The body for the first set of keys, and the statuses that it tells.

        `head` comes first in the body.
        """
        values = answer.first()
        for name, write in self._needed(answer).items():
            if values[name] is not None:
                values[name] = write(values[name])
        outcome = answer.outcome
        statuses = b",".join([of[code] for of, code in zip(self._told, outcome, strict=True)])
        told = {
            "values": values,
            "statuses": msgspec.Raw(b"{%s}" % statuses),
            "ages": dict(zip(self.program.names, answer.first_ages(), strict=True)),
        }
        return self._body(answer, head, told), outcome

    def many(self, answer: Answer, head: Mapping[str, Any]) -> tuple[bytes, Outcome]:
        """The body for all sets of keys, an array for each name; otherwise as `one`."""
        names = self.program.names
        values = dict(zip(names, answer.columns(), strict=True))
        for name, write in self._needed(answer).items():
            values[name] = [None if each is None else write(each) for each in values[name]]
        statuses, ages, counts = answer.told()
        told = {
            "values": values,
            "statuses": dict(zip(names, _written(statuses), strict=True)),
            "ages": dict(zip(names, _written(ages), strict=True)),
        }
        return self._body(answer, head, told), counts

    def arrow(self, answer: Answer, head: Mapping[str, Any]) -> tuple[bytes, Outcome]:
        """An Arrow stream of the values, then `NAME__status` and `NAME__age_seconds` of each.

        `head`, the moment and the features are in the metadata of its schema.
        """
        import pyarrow as pa

        statuses, ages, counts = answer.told()
        table = answer.to_arrow()
        for name, of in zip(self.program.names, statuses, strict=True):
            table = table.append_column(f"{name}__status", pa.chunked_array([of], pa.string()))
        for name, old in zip(self.program.names, ages, strict=True):
            seconds = pa.chunked_array([pa.array(old, pa.float64(), from_pandas=True)])
            table = table.append_column(f"{name}__age_seconds", seconds)
        facts = {**head, "at": _moment(answer.at)}
        table = table.replace_schema_metadata(
            {**{key: str(value) for key, value in facts.items()}, "features": bytes(self._features)}
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue().to_pybytes(), counts

    def _needed(self, answer: Answer) -> Mapping[str, Any]:
        return self._without_doubles if answer.finite else self._writers

    def _body(self, answer: Answer, head: Mapping[str, Any], told: Mapping[str, Any]) -> bytes:
        return _encode(
            {
                **head,
                "at": _moment(answer.at),
                "features": self._features,
                "types": self._types,
                **told,  # ages that are NaN become null
            }
        )


def _moment(micros: int) -> str:
    """As `moment_text`; most answers of a second are of now."""
    second, rest = divmod(micros, 1_000_000)
    text = _second(second)
    return f"{text[:-1]}.{rest:06d}Z" if rest else text


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return moment_text(instant(second * 1_000_000))


def _written(columns: Sequence[Sequence[Any]]) -> list[msgspec.Raw]:
    """JSON of columns; a list that several of them share is written once."""
    texts = {place: _encode(column) for place, column in {id(e): e for e in columns}.items()}
    return [msgspec.Raw(texts[id(column)]) for column in columns]
