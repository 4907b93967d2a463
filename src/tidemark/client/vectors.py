"""Vectors as a server tells them, and values as it is told them: JSON and Python types.

| type | JSON | Python |
|---|---|---|
| float64 | a number, or `"NaN"`, `"Infinity"`, `"-Infinity"` | float |
| decimal | text | Decimal |
| bytes | text in base64 | bytes |
| timestamp, date | text in ISO 8601 | datetime in UTC, date |
| everything else | itself | itself |
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tidemark.errors import MissingExtra, NotFound, RequestInvalid

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")


class _Answer:
    """What a server says of an answer as a whole."""

    _body: Mapping[str, Any]

    @property
    def at(self) -> datetime:
        """The moment that was answered, in UTC."""
        return datetime.fromisoformat(self._body["at"])

    @property
    def request_id(self) -> str:
        """What the request is called in the logs of the server."""
        return str(self._body["request_id"])

    @property
    def features(self) -> dict[str, str]:
        """For each name the version of the feature that was read: `user_spend:spend_7d@1`."""
        return dict(self._body["features"])


class Vector(_Answer, Mapping[str, Any]):
    """The values of one set of keys, by name, in the order of the service."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        types: Mapping[str, str] = body["types"]
        self._values = {name: _read(value, types[name]) for name, value in body["values"].items()}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def status(self, name: str) -> str:
        """What the value of that name says: `PRESENT`, `NULL`, `EXPIRED` or `MISSING`."""
        return str(_of(self._body["statuses"], name))

    def age(self, name: str) -> timedelta | None:
        """How long before `at` the newest event that counted happened; None where none did."""
        return _age(_of(self._body["ages"], name))

    def to_dict(self) -> dict[str, Any]:
        """The values by name."""
        return dict(self._values)

    def __repr__(self) -> str:
        return f"<Vector at {self._body['at']}: {self._values!r}>"


class Vectors(_Answer):
    """The values of many sets of keys, in the order asked for, kept by column."""

    def __init__(self, body: Mapping[str, Any], count: int) -> None:
        self._body = body
        self._count = count
        types: Mapping[str, str] = body["types"]
        self._values: dict[str, list[Any]] = {
            name: [_read(each, types[name]) for each in column]
            for name, column in body["values"].items()
        }

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values, in the order of the service."""
        return tuple(self._values)

    def values(self, name: str) -> list[Any]:
        """The values of that name, one for each set of keys."""
        return list(_of(self._values, name))

    def statuses(self, name: str) -> list[str]:
        """What the values of that name say."""
        return list(_of(self._body["statuses"], name))

    def ages(self, name: str) -> list[timedelta | None]:
        """The ages of the values of that name; see `Vector.age`."""
        return [_age(each) for each in _of(self._body["ages"], name)]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary for each set of keys."""
        return [
            {name: column[row] for name, column in self._values.items()}
            for row in range(self._count)
        ]

    def to_arrow(self) -> pa.Table:
        """One column for each name, of the feature's type; needs pyarrow."""
        import pyarrow as pa

        types: Mapping[str, str] = self._body["types"]
        columns = {
            name: pa.array(column, _arrow_type(types[name]))
            for name, column in self._values.items()
        }
        return pa.table(columns)

    def to_pandas(self) -> Any:
        """A pandas frame with one column for each name; needs pandas and pyarrow."""
        return self.to_arrow().to_pandas()

    def __repr__(self) -> str:
        return f"<{self._count} vectors at {self._body['at']}: {', '.join(self._values)}>"


def to_json(value: Any) -> Any:
    """A Python value as the JSON that the server reads."""
    if isinstance(value, Mapping):
        return {name: to_json(each) for name, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in cast("Sequence[Any]", value)]
    if type(value).__module__ == "numpy":
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise RequestInvalid(f"{value} has no zone.", remedy="Pass an aware datetime.")
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if value is None or isinstance(value, str | int | float):
        return value
    raise RequestInvalid(f"{value!r} ({type(value).__name__}) cannot be sent.")


def columns_of(rows: object) -> dict[str, list[Any]] | list[dict[str, Any]]:
    """Columns of lists or rows of dicts as they are; of a frame, its columns as lists."""
    if isinstance(rows, Mapping):
        return {name: list(column) for name, column in cast("Mapping[str, Any]", rows).items()}
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return [dict(each) for each in cast("Sequence[Mapping[str, Any]]", rows)]
    return cast("dict[str, list[Any]]", batches_of(rows).read_all().to_pydict())


def batches_of(frame: object) -> pa.RecordBatchReader:
    """What a frame gives; needs pyarrow."""
    if not hasattr(frame, "__arrow_c_stream__"):
        raise RequestInvalid(
            f"A {type(frame).__name__} is not rows.",
            remedy="Pass dicts, columns, or a frame that gives Arrow.",
        )
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtra("server", "Sending a frame") from None
    return pa.RecordBatchReader.from_stream(frame)


def _of(values: Mapping[str, _T], name: str) -> _T:
    if name not in values:
        raise NotFound.named("value", name, values)
    return values[name]


def _age(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(microseconds=round(seconds * 1e6))


def _read(value: Any, type_: str) -> Any:
    """The Python value of the JSON of a type."""
    if value is None or type_ in {"int64", "bool", "string"}:
        return value
    if type_ == "float64":
        return float(value)
    if type_ == "bytes":
        return base64.b64decode(value)
    if type_ == "timestamp":
        return datetime.fromisoformat(value)
    if type_ == "date":
        return date.fromisoformat(value)
    if type_.startswith("decimal"):
        return Decimal(value)
    item = type_[5:-1] if type_.startswith("list<") else "float64"
    return [_read(each, item) for each in value]


def _arrow_type(type_: str) -> pa.DataType:
    import pyarrow as pa

    simple = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "string": pa.string(),
        "bytes": pa.binary(),
        "timestamp": pa.timestamp("us", "UTC"),
        "date": pa.date32(),
    }
    if type_ in simple:
        return simple[type_]
    inner = type_[type_.index("<" if "<" in type_ else "(") + 1 : -1]
    if type_.startswith("decimal"):
        return pa.decimal128(*map(int, inner.split(",")))
    if type_.startswith("list"):
        return pa.list_(_arrow_type(inner))
    return pa.list_(pa.float64(), int(inner))
