"""From the bytes of a message that is not JSON to one event as a dict, or to why it is none.

    avro       Confluent's frame (a zero byte, four bytes of schema id), then the record
    protobuf   the same frame, then the path of the message type in its file, then the message

A schema is asked for once, at a schema registry (`http://...`) or in a folder with `<id>.avsc`
files, or `<id>.desc` ones as `protoc --descriptor_set_out` writes them.
"""

from __future__ import annotations

import base64
import io
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC
from math import isfinite
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import msgspec

from tidemark.errors import MissingExtra, NotFound, SchemaMismatch, StoreUnavailable
from tidemark.model.graph import Kafka, Stream

Decode = Callable[[bytes], dict[str, Any]]


class Undecodable(Exception):
    """Why the bytes of a message are no event."""


def decoder(stream: Stream, root: Path) -> Decode | None:
    """The function from the bytes of a message to a dict; it raises `Undecodable`.

    None for JSON, which is read many messages at a time (`tidemark.ingest.validate`).

    Raises `StoreUnavailable` where a schema registry does not answer, `NotFound` for a schema that
    is not there and `SchemaMismatch` for one that is none: no message is lost to these, since
    nothing goes on.  Whatever a library makes of the bytes of one message is that message's fault.
    """
    if not isinstance(stream, Kafka) or stream.format == "json":
        return None
    schemas = _Schemas(stream, root)
    return _avro(schemas) if stream.format == "avro" else _protobuf(schemas)


def json_of(row: dict[str, Any]) -> str:
    """An event that was decoded as a push would take it."""
    return msgspec.json.encode(_json_form(row), enc_hook=str).decode()


def _json_form(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    if isinstance(value, dict):
        return {str(name): _json_form(each) for name, each in cast("Any", value).items()}
    if isinstance(value, list | tuple):
        return [_json_form(each) for each in cast("Any", value)]
    return value


def _avro(schemas: _Schemas) -> Decode:
    try:
        import fastavro
    except ImportError:
        raise MissingExtra("kafka", "Reading Avro") from None
    read = cast("Any", fastavro).schemaless_reader
    parsed: dict[int, Any] = {}

    def decode(value: bytes) -> dict[str, Any]:
        number, body = _framed(value)
        if number not in parsed:
            text = schemas.text(number, "avsc")
            with schemas.understood(number):
                parsed[number] = fastavro.parse_schema(msgspec.json.decode(text))
        try:
            record = read(io.BytesIO(body), parsed[number], None)
        except Exception as error:  # noqa: BLE001
            raise Undecodable(f"It does not read as Avro of schema {number}: {error!r}.") from None
        if not isinstance(record, dict):
            raise Undecodable(f"Schema {number} is not of a record.")
        return cast("dict[str, Any]", record)

    return decode


def _protobuf(schemas: _Schemas) -> Decode:
    try:
        from google.protobuf.message_factory import GetMessageClass
    except ImportError:
        raise MissingExtra("kafka", "Reading Protobuf") from None
    files: dict[int, Any] = {}
    types: dict[tuple[int, tuple[int, ...]], Any] = {}

    def decode(value: bytes) -> dict[str, Any]:
        number, body = _framed(value)
        path, body = _message_path(body)
        if number not in files:
            text = schemas.text(number, "desc")
            with schemas.understood(number):
                files[number] = _descriptors(text)
        if (number, path) not in types:
            types[number, path] = GetMessageClass(_descriptor(files[number], path))
        message = types[number, path]()
        try:
            message.ParseFromString(body)
            return _fields(message)
        except Exception as error:  # noqa: BLE001
            raise Undecodable(
                f"It does not read as Protobuf of schema {number}: {error}."
            ) from None

    return decode


def _framed(value: bytes) -> tuple[int, bytes]:
    """The id of the schema, and what follows it."""
    if len(value) < 5 or value[0] != 0:
        raise Undecodable("It does not begin with a schema id, as Confluent's format does.")
    return int.from_bytes(value[1:5], "big"), value[5:]


def _message_path(body: bytes) -> tuple[tuple[int, ...], bytes]:
    """Which message of the file: zigzag numbers after their count; a lone 0 is the first."""
    count, at = _varint(body, 0)
    if count == 0:
        return (0,), body[at:]
    path: list[int] = []
    for _ in range(min(count, 64)):
        index, at = _varint(body, at)
        path.append(index)
    return tuple(path), body[at:]


def _varint(body: bytes, at: int) -> tuple[int, int]:
    shift = value = 0
    while at < len(body) and shift < 64:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise Undecodable("It ends within the path of its message type.")


def _descriptors(serialized: bytes) -> Any:
    """The file that a serialized descriptor is of; of a set, the last one, with the others."""
    from google.protobuf import descriptor_pb2, descriptor_pool
    from google.protobuf.message import DecodeError

    pool = descriptor_pool.DescriptorPool()
    known = ("timestamp", "duration", "wrappers", "struct", "any", "empty")
    for name in known:
        module = __import__(f"google.protobuf.{name}_pb2", fromlist=["DESCRIPTOR"])
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    given: Any = descriptor_pb2.FileDescriptorSet()
    try:
        given.ParseFromString(serialized)
        files = [each for each in given.file if not each.name.startswith("google/protobuf/")]
    except DecodeError:
        files = []
    if not files or not all(each.name for each in files):  # it reads as a set, and is none
        one: Any = descriptor_pb2.FileDescriptorProto()
        one.ParseFromString(serialized)
        files = [one]
    for each in files:
        pool.Add(each)
    return pool.FindFileByName(files[-1].name)


def _descriptor(file: Any, path: tuple[int, ...]) -> Any:
    """That of a message type of a file."""
    try:
        found = list(file.message_types_by_name.values())[path[0]]
        for index in path[1:]:
            found = found.nested_types[index]
    except IndexError:
        raise Undecodable(f"Its schema has no message type {path}.") from None
    return found


def _fields(message: Any) -> dict[str, Any]:
    """The fields as Python values; one that can be absent and is, is None."""
    row: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            row[field.name] = None
            continue
        value = getattr(message, field.name)
        repeated = (
            field.label == field.LABEL_REPEATED
            if not hasattr(field, "is_repeated")
            else (field.is_repeated)
        )
        if (
            repeated
            and field.message_type is not None
            and field.message_type.GetOptions().map_entry
        ):
            of = field.message_type.fields_by_name["value"]
            row[field.name] = {str(key): _value(of, value[key]) for key in value}
        elif repeated:
            row[field.name] = [_value(field, each) for each in value]
        else:
            row[field.name] = _value(field, value)
    return row


def _value(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named is not None else value
    if field.message_type is None:
        return value
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return value.ToDatetime(tzinfo=UTC)
    if field.message_type.full_name.endswith("Value") and hasattr(value, "value"):
        return value.value
    return _fields(value)


class _Schemas:
    """Where schemas are found by their id."""

    def __init__(self, stream: Kafka, root: Path) -> None:
        self.place = stream.schema
        self.remote = stream.schema.startswith(("http://", "https://"))
        self.folder = root / stream.schema
        self.format = stream.format
        self.name = urlsplit(self.place).netloc.rpartition("@")[2] or str(self.folder)

    @contextmanager
    def understood(self, number: int) -> Generator[None]:
        """What a library makes of a schema that is none, as `SchemaMismatch`."""
        try:
            yield
        except Exception as error:
            raise SchemaMismatch(
                f"Schema {number} cannot be read: {error}.",
                where=self.name,
                remedy=f"It must be whole, and {self.format}; other schemas that it refers to by "
                "name are not looked up.",
            ) from error

    def text(self, number: int, suffix: str) -> bytes:
        """The schema of an id, as text of Avro or as a serialized descriptor."""
        if not self.remote:
            file = self.folder / f"{number}.{suffix}"
            if not file.is_file():
                raise NotFound(
                    f"There is no schema {number}.", where=str(file), remedy="Put it there."
                )
            return file.read_bytes()
        form = "" if self.format == "avro" else "?format=serialized"
        address = f"{self.place.rstrip('/')}/schemas/ids/{number}{form}"
        answer = _asked(address, number)
        with self.understood(number):
            schema = msgspec.json.decode(answer, type=dict[str, Any])["schema"]
            return str(schema).encode() if self.format == "avro" else base64.b64decode(schema)


def _asked(address: str, number: int) -> bytes:
    parts = urlsplit(address)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    request = urllib.request.Request(urlunsplit(bare))  # noqa: S310 - http or https by `remote`
    if parts.username:
        login = base64.b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise NotFound(
                f"The schema registry has no schema {number}.", where=bare.netloc
            ) from None
        raise StoreUnavailable(
            f"The schema registry refuses: {error}.", where=bare.netloc
        ) from None
    except OSError as error:
        raise StoreUnavailable(
            f"The schema registry does not answer: {error}.",
            where=bare.netloc,
            remedy="Start it, or correct `schema` of the stream.",
        ) from None
