"""What the bytes of messages are, in each format, and what is said where they are none."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from google.protobuf import descriptor_pb2, timestamp_pb2

from tidemark.errors import NotFound, SchemaMismatch, StoreUnavailable
from tidemark.ingest.streams.decoding import Undecodable, decoder, json_of
from tidemark.model.graph import Kafka

RECORD = {
    "type": "record",
    "name": "Purchase",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "amount", "type": ["null", "double"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}
AT = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)


def avro(number: int, row: dict[str, Any]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(RECORD), row)
    return b"\0" + number.to_bytes(4, "big") + body.getvalue()


def proto_file() -> descriptor_pb2.FileDescriptorProto:
    """`Other`, then `Purchase` with an optional amount, an enum, a list and a time."""
    file = descriptor_pb2.FileDescriptorProto(
        name="purchase.proto",
        package="shop",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto"],
    )
    file.message_type.add(name="Other")
    purchase = file.message_type.add(name="Purchase")
    kind = descriptor_pb2.FieldDescriptorProto
    purchase.field.add(name="order_id", number=1, type=kind.TYPE_STRING, label=1)
    purchase.field.add(
        name="amount", number=2, type=kind.TYPE_DOUBLE, label=1, proto3_optional=True, oneof_index=0
    )
    purchase.field.add(
        name="status", number=3, type=kind.TYPE_ENUM, label=1, type_name=".shop.Status"
    )
    purchase.field.add(name="tags", number=4, type=kind.TYPE_STRING, label=3)
    purchase.field.add(
        name="at",
        number=5,
        type=kind.TYPE_MESSAGE,
        label=1,
        type_name=".google.protobuf.Timestamp",
    )
    purchase.oneof_decl.add(name="_amount")
    counts = purchase.nested_type.add(name="CountsEntry")
    counts.options.map_entry = True
    counts.field.add(name="key", number=1, type=kind.TYPE_STRING, label=1)
    counts.field.add(name="value", number=2, type=kind.TYPE_INT64, label=1)
    purchase.field.add(
        name="counts",
        number=6,
        type=kind.TYPE_MESSAGE,
        label=3,
        type_name=".shop.Purchase.CountsEntry",
    )
    status = file.enum_type.add(name="Status")
    status.value.add(name="UNKNOWN", number=0)
    status.value.add(name="SETTLED", number=1)
    return file


def protobuf(number: int, path: bytes) -> bytes:
    at = timestamp_pb2.Timestamp()
    at.FromDatetime(AT)
    moment = at.SerializeToString()
    body = b"\x0a\x02o1" + b"\x18\x01" + b"\x22\x01a\x22\x01b" + b"\x32\x05\x0a\x01c\x10\x07"
    body += b"\x2a" + bytes([len(moment)])
    return b"\0" + number.to_bytes(4, "big") + path + body + moment


SECOND = b"\x02\x02"  # one index, which is 1: `Purchase`; numbers are zigzag


class Schemas(BaseHTTPRequestHandler):
    """A schema registry with one schema of each kind, and a login."""

    def do_GET(self) -> None:
        """Answer as Confluent's does."""
        login = self.headers.get("Authorization")
        answers = {
            "/schemas/ids/7": msgspec.json.encode(RECORD).decode(),
            "/schemas/ids/8?format=serialized": base64.b64encode(
                proto_file().SerializeToString()
            ).decode(),
        }
        if login != "Basic " + base64.b64encode(b"me:secret").decode():
            self.send_error(401)
        elif self.path not in answers:
            self.send_error(404)
        else:
            body = msgspec.json.encode({"schema": answers[self.path]})
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def schemas() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Schemas)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://me:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_avro_finds_its_schema_in_a_folder(tmp_path: Path) -> None:
    """As `<id>.avsc`; moments keep their microseconds, nulls stay nulls."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "3.avsc").write_bytes(msgspec.json.encode(RECORD))
    decode = decoder(Kafka("x", format="avro", schema="schemas"), tmp_path)
    row = {"order_id": "o1", "amount": None, "at": AT}
    assert decode(avro(3, row)) == row


def test_avro_finds_its_schema_at_a_registry(schemas: str, tmp_path: Path) -> None:
    """Which may want a login."""
    decode = decoder(Kafka("x", format="avro", schema=schemas), tmp_path)
    row = {"order_id": "o1", "amount": 0.1, "at": AT}
    assert decode(avro(7, row)) == row


def test_protobuf_becomes_plain_values(tmp_path: Path) -> None:
    """Absent is null, enums are their names, timestamps moments; which message, the bytes say."""
    files = descriptor_pb2.FileDescriptorSet(file=[proto_file()])
    (tmp_path / "3.desc").write_bytes(files.SerializeToString())
    decode = decoder(Kafka("x", format="protobuf", schema="."), tmp_path)
    assert decode(protobuf(3, SECOND)) == {
        "order_id": "o1",
        "amount": None,
        "status": "SETTLED",
        "tags": ["a", "b"],
        "at": AT,
        "counts": {"c": 7},
    }


def test_protobuf_finds_its_schema_at_a_registry(schemas: str, tmp_path: Path) -> None:
    """In its serialized form, so no compiler is needed here."""
    decode = decoder(Kafka("x", format="protobuf", schema=schemas), tmp_path)
    assert decode(protobuf(8, SECOND))["order_id"] == "o1"


@pytest.mark.parametrize(
    ("format_", "value", "why"),
    [
        ("avro", b"{}", "schema id"),
        ("avro", b"\0\0\0\0\7\xff\xff", "schema 7"),
        ("protobuf", b"\0\0\0\0\10\x80", "path of its message type"),
        ("protobuf", b"\0\0\0\0\10\x02\x20", "no message type"),
        ("protobuf", protobuf(8, SECOND)[:-3], "schema 8"),
    ],
)
def test_bytes_that_are_no_message_are_told(
    schemas: str, tmp_path: Path, format_: str, value: bytes, why: str
) -> None:
    """They become dead letters, and reading goes on."""
    decode = decoder(Kafka("x", format=format_, schema=schemas), tmp_path)
    with pytest.raises(Undecodable, match=why):
        decode(value)


@pytest.mark.parametrize(
    ("format_", "value"),
    [
        ("avro", b"\0\0\0\0\7" + b"\x02o\0" + b"\xff" * 9 + b"\1"),
        ("protobuf", b"\0\0\0\0\10\x02\x02\x2a\x08\x08\xff\xff\xff\xff\xff\xff\x7f"),
    ],
)
def test_a_moment_that_there_is_not_is_the_fault_of_its_message(
    schemas: str, tmp_path: Path, format_: str, value: bytes
) -> None:
    """As is whatever else a library finds in bytes: one message does not stop the reading."""
    with pytest.raises(Undecodable, match="does not read as"):
        decoder(Kafka("x", format=format_, schema=schemas), tmp_path)(value)


@pytest.mark.parametrize(
    ("format_", "file", "schema"),
    [
        ("avro", "9.avsc", b"{ no json"),
        ("avro", "9.avsc", b'{"type": "record"}'),
        ("avro", "9.avsc", b'"somewhere.Else"'),
        ("protobuf", "9.desc", b"\xff\xff"),
    ],
)
def test_a_schema_that_is_none_is_named(
    tmp_path: Path, format_: str, file: str, schema: bytes
) -> None:
    """No message is lost: reading goes on once it is right."""
    (tmp_path / file).write_bytes(schema)
    with pytest.raises(SchemaMismatch, match="Schema 9 cannot be read") as caught:
        decoder(Kafka("x", format=format_, schema="."), tmp_path)(b"\0\0\0\0\x09\0")
    assert caught.value.where == str(tmp_path)


def test_an_event_that_was_decoded_is_text_as_a_push_takes_it() -> None:
    """So a dead letter can be read, and replayed."""
    row = {"id": 2**60, "at": AT, "share": float("-inf"), "sums": [float("nan")], "raw": b"\xff"}
    assert json_of(row) == (
        '{"id":1152921504606846976,"at":"2026-03-01T12:00:00.000005Z","share":"-Infinity",'
        '"sums":["NaN"],"raw":"/w=="}'
    )


def test_a_schema_that_nobody_has_stops_the_reading(schemas: str, tmp_path: Path) -> None:
    """No message is lost: it may be there in a moment."""
    with pytest.raises(NotFound, match="schema 9"):
        decoder(Kafka("x", format="avro", schema=schemas), tmp_path)(b"\0\0\0\0\x09x")
    with pytest.raises(NotFound, match="schema 9"):
        decoder(Kafka("x", format="avro", schema="here"), tmp_path)(b"\0\0\0\0\x09x")


def test_a_registry_that_does_not_answer_is_tried_again(tmp_path: Path) -> None:
    """It is a store that is away."""
    decode = decoder(Kafka("x", format="avro", schema="http://127.0.0.1:1"), tmp_path)
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        decode(b"\0\0\0\0\x09x")
    assert caught.value.retryable
