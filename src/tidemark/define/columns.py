"""Columns with more to say than their Python type, and the histories that sources read."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from os import PathLike, fspath
from typing import Any, cast

from tidemark.define.expressions import Col
from tidemark.define.problems import here
from tidemark.define.python_types import as_type
from tidemark.errors import DefinitionError
from tidemark.model.graph import Csv, Delta, Kafka, Ndjson, Parquet, Query, RedisStream, Table
from tidemark.model.types import decimal as decimal_type, vector as vector_type


def column(
    type: type | str | None = None,
    *,
    name: str = "",
    description: str = "",
    tags: Sequence[str] = (),
) -> Col[Any]:
    """A column with more to say: `amount: tm.Col[float] = tm.column(description="In euros")`.

    `name` is the column's own name where it cannot be the attribute's: `name="Order ID"`.
    """
    declared = as_type(type) if type is not None else None
    return Col(declared, name=name, description=description, tags=tags)


def decimal(
    precision: int, scale: int, *, description: str = "", tags: Sequence[str] = ()
) -> Col[Decimal]:
    """A column of exact decimals: `price: tm.Col[Decimal] = tm.decimal(18, 2)`."""
    declared = decimal_type(precision, scale)
    return Col(declared, description=description, tags=tags)


def vector(size: int, *, description: str = "", tags: Sequence[str] = ()) -> Col[list[float]]:
    """A column of embeddings: `taste: tm.Col[list[float]] = tm.vector(128)`."""
    return Col(vector_type(size), description=description, tags=tags)


class HeldFrame:
    """A frame of this process; `tidemark.model.graph.Frame` is what the registry keeps of it."""

    def __init__(self, frame: object) -> None:
        self.frame = frame


def parquet(path: str | PathLike[str]) -> Parquet:
    """Parquet files by a path or glob, relative to the project."""
    return Parquet(_path(path))


def csv(path: str | PathLike[str]) -> Csv:
    """CSV files with a header by a path or glob, relative to the project."""
    return Csv(_path(path))


def table(name: str, connection: str | PathLike[str] | None = None) -> Table:
    """A table, of the DuckDB file `connection` if one is named."""
    return Table(name, _path(connection or ""))


def query(sql: str, connection: str | PathLike[str] | None = None) -> Query:
    """A query in DuckDB's SQL, on the DuckDB file `connection` if one is named."""
    return Query(sql, _path(connection or ""))


def delta(path: str | PathLike[str]) -> Delta:
    """A Delta Lake table by its path or address."""
    return Delta(_path(path))


def _path(value: object) -> str:
    """A path as text; raises `DefinitionError` for what the registry could not keep."""
    if isinstance(value, str | PathLike):
        return fspath(cast("str | PathLike[str]", value))
    what = "Several paths are" if isinstance(value, list | tuple) else f"{value!r} is"
    raise DefinitionError(
        f"{what} not a path.",
        where=str(here()),
        remedy='One path or glob says where data lie, "data/*.parquet"; a DuckDB database is its '
        'file, connection="warehouse.duckdb".',
    )


def frame(frame: object) -> HeldFrame:
    """Any Arrow-capable object: a pandas, polars or pyarrow table, for notebooks and tests.

    A reader gives its rows once, so it is read here.
    """
    if not (hasattr(frame, "__arrow_c_stream__") or hasattr(frame, "__arrow_c_array__")):
        raise DefinitionError(
            f"A {type(frame).__name__} is not a table.",
            remedy="Pass a frame of pandas, Polars, pyarrow, DuckDB or anything else that gives "
            "Arrow; collect a lazy one first.",
        )
    read_all = getattr(frame, "read_all", None)
    return HeldFrame(frame if read_all is None else read_all())


FORMATS = ("json", "avro", "protobuf")


def kafka(
    topic: str, *, brokers: str = "", format: str = "json", schema: str | PathLike[str] = ""
) -> Kafka:
    """A Kafka topic with the events of a source.

    `format` is "json", "avro" or "protobuf".  `schema` is the URL of a schema registry, or a folder
    (relative to the project) with `<id>.avsc` files, or the descriptor set of Protobuf messages.
    Where the brokers are, and how to log in, the project's setting `kafka` says.
    """
    if format not in FORMATS:
        raise DefinitionError(
            f"A topic holds no messages in {format!r}.", remedy=f"One of {', '.join(FORMATS)}."
        )
    if format != "json" and not fspath(schema):
        raise DefinitionError(
            f"The schemas of {format} messages are not said.",
            remedy='schema="http://registry:8081", or schema="schemas/", a folder.',
        )
    return Kafka(topic, brokers, format, fspath(schema))


def redis_stream(key: str, *, url: str = "", field: str = "data") -> RedisStream:
    """A Redis stream whose entries hold one event as a JSON object in `field`."""
    return RedisStream(key, url, field)


def ndjson(path: str | PathLike[str]) -> Ndjson:
    """A file to which others append lines of JSON; "-" is standard input."""
    return Ndjson(fspath(path))
