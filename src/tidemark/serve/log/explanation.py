"""What one request was given, in words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa

from tidemark.errors import NotFound
from tidemark.model.graph import Definitions, Reference, parse_reference
from tidemark.model.prose import on_demand_sentence, sentence
from tidemark.model.window import moment_text
from tidemark.serve.log.form import Column, Description


class Value(msgspec.Struct, frozen=True):
    """A value that was served, or that an on-demand feature was given.

    `definition` says in English what it is, as it was defined then; `inputs` are what an on-demand
    feature was computed from, by parameter.
    """

    name: str
    reference: str
    value: Any
    status: str
    age: timedelta | None
    definition: str
    masked: bool
    inputs: dict[str, Any]


class Row(msgspec.Struct, frozen=True):
    """What was answered for one set of keys; `read` are features that others were computed from."""

    keys: dict[str, Any]
    request: dict[str, Any]
    values: tuple[Value, ...]
    read: tuple[Value, ...]


class Explanation(msgspec.Struct, frozen=True):
    """One request: when it was answered, for which moment, by which revision, and with what."""

    request_id: str
    service: str
    answered: datetime
    at: datetime
    revision: int
    seconds: float
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values, ages in seconds."""
        facts: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        for row, own in zip(facts["rows"], self.rows, strict=True):
            for kind, values in (("values", own.values), ("read", own.read)):
                for shown, each in zip(row[kind], values, strict=True):
                    shown["age"] = None if each.age is None else each.age.total_seconds()
        return facts

    def __str__(self) -> str:
        lines = [f"Request {self.request_id} of {self.service}"]
        lines.append(f"  answered {moment_text(self.answered)} in {self.seconds * 1e3:.1f} ms")
        lines.append(f"  as of {moment_text(self.at)}, by revision {self.revision}")
        for row in self.rows:
            lines.append(f"  for {_listed(row.keys) or 'nobody in particular'}")
            if row.request:
                lines.append(f"  request: {_listed(row.request)}")
            for each in row.values:
                lines += _lines(each)
            if row.read:
                lines.append("  read by on-demand features:")
                for each in row.read:
                    lines += _lines(each)
        return "\n".join(lines)


def explained(description: Description, table: pa.Table, definitions: Definitions) -> Explanation:
    """The rows of one request of the log."""
    table = table.sort_by([("row", "ascending")])
    facts: dict[str, Any] = {name: table[name][0].as_py() for name in _FACTS}
    records: list[dict[str, Any]] = table.to_pylist()
    return Explanation(
        service=description.target,
        rows=tuple(_row(description, each, definitions) for each in records),
        **facts,
    )


_FACTS = ("request_id", "answered", "at", "revision", "seconds")


def _row(description: Description, record: dict[str, Any], definitions: Definitions) -> Row:
    by_reference: dict[str, Any] = {
        each.reference: record[f"request.{each.name}"] for each in description.request
    }
    by_reference |= {each.reference: record[f"value.{each.name}"] for each in description.features}
    values = [
        (each.input, _value(each, record, definitions, by_reference))
        for each in description.features
    ]
    return Row(
        {each.name: record[f"key.{each.name}"] for each in description.keys},
        {each.name: record[f"request.{each.name}"] for each in description.request},
        tuple(value for hidden, value in values if not hidden),
        tuple(value for hidden, value in values if hidden),
    )


def _value(
    column: Column,
    record: dict[str, Any],
    definitions: Definitions,
    by_reference: dict[str, Any],
) -> Value:
    reference = parse_reference(column.reference)
    inputs: dict[str, Any] = {}
    if reference.kind == "on_demand":
        item = definitions.on_demand_feature(reference.name, reference.version)
        inputs = {each.parameter: by_reference.get(str(each.reference)) for each in item.inputs}
    return Value(
        column.name,
        column.reference,
        record[f"value.{column.name}"],
        record[f"status.{column.name}"],
        record[f"age.{column.name}"],
        _definition(definitions, reference),
        column.masked,
        inputs,
    )


def _definition(definitions: Definitions, reference: Reference) -> str:
    try:
        if reference.kind == "on_demand":
            item = definitions.on_demand_feature(reference.name, reference.version)
            about = f"{item.description} " if item.description else ""
            return about + on_demand_sentence(item)
        view, feature = definitions.locate(reference)
    except NotFound:
        return "It is not in the registry any more."
    return sentence(view, feature, definitions.source(view.source))


def _lines(value: Value) -> list[str]:
    old = "" if value.age is None else f", {value.age} old"
    hidden = ", masked" if value.masked else ""
    lines = [f"    {value.name} = {value.value!r}  {value.status}{old}{hidden}"]
    lines.append(f"      {value.reference}: {value.definition}")
    if value.inputs:
        lines.append(f"      given {_listed(value.inputs)}")
    return lines


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
