"""What is pushed, checked against what the source declares: a table of good rows, and the bad ones.

Columns are taken as a whole where that can be seen to be right; only a column in which something
is odd is looked at value by value, so that every bad value is named with its row and a reason.
Nothing is coerced in silence: an integer may be a float64 that holds it exactly, text is never a
number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal, cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.arrow import arrow_type
from tidemark.engines.few import FEW, Few, plain
from tidemark.engines.histories import as_table
from tidemark.errors import BadValue, RequestInvalid
from tidemark.ingest.values import Refusal, column_of, micros_of, plain_reader, reader
from tidemark.model.graph import Field, Source
from tidemark.model.window import format_duration, format_moment, rough_duration

_ROW = "(row)"
"""What stands for the column where a whole row is wrong."""

_SHOWN = 60
"""Characters of a bad value that are told."""

Unknown = Literal["refuse", "ignore"]


@dataclass(frozen=True)
class Bounds:
    """The times that events may have, in microseconds: no later than `latest`, from `oldest` on.

    `now` is the moment of the check, for messages.
    """

    now: int = 0
    latest: int = 2**63 - 1
    oldest: int = -(2**63)


@dataclass
class Checked:
    """The good rows, in the declared columns and types, and what is wrong with the others.

    `rows` are the good ones, and `good` has their numbers (from 0) among all.
    """

    rows: pa.Table | Few
    good: NDArray[np.int64]
    bad: tuple[BadValue, ...]
    _given: _Given = field(repr=False)

    @property
    def table(self) -> pa.Table:
        """The good rows as a table."""
        return as_rows(self.rows)

    def content(self, row: int) -> str:
        """A row as it came, as JSON text."""
        return self._given.text(row)


def table_of(
    source: Source, rows: object, *, bounds: Bounds | None = None, unknown: Unknown = "refuse"
) -> Checked:
    """Check rows: a dict, dicts, a dict of columns, any Arrow-capable frame, or JSON as bytes.

    JSON is one object, an array of objects, or one object on each line; there a decimal and bytes
    are text, as `docs/reference/http.md` says.  A missing column is null; one that the source does
    not declare makes a row bad, and a frame a `RequestInvalid` error, unless such are ignored.
    """
    given = _Reader(source, strict=unknown == "refuse").given(rows)
    bounds = bounds or Bounds()
    few = _few(source, given, bounds)
    if few is not None:
        return Checked(few, np.arange(given.count), (), given)
    bad: dict[int, list[BadValue]] = {}
    for problem in given.problems:
        bad.setdefault(problem.row, []).append(problem)
    columns = [_checked(source, each, given, bad) for each in source.columns]
    table = pa.table(columns, schema=schema_of(source))
    if source.time is not None:
        _check_times(source, table.column(source.time), bounds, bad)
    if not bad:
        return Checked(table, np.arange(given.count), (), given)
    good = np.setdiff1d(np.arange(given.count), np.fromiter(bad, np.int64, len(bad)))
    ordered = tuple(each for row in sorted(bad) for each in bad[row])
    return Checked(table.take(pa.array(good)), good, ordered, given)


def as_rows(rows: pa.Table | Few) -> pa.Table:
    """Rows as a table, however they were kept."""
    if not isinstance(rows, Few):
        return rows
    table: pa.Table = cast("Any", pa.Table).from_batches([rows.batch])
    return table


def _few(source: Source, given: _Given, bounds: Bounds) -> Few | None:
    """The rows one by one, where they are few, plain and all right; None: look at the columns."""
    layout = plain(source)
    time = source.time
    if layout is None or time is None or given.problems or not 0 < given.count <= FEW:
        return None
    columns: list[list[Any]] = []
    try:
        for each in source.columns:
            values = given.columns.get(each.name)
            if values is None:
                columns.append([None] * given.count)
                continue
            if not isinstance(values, list):
                return None
            read = plain_reader(each.type, source.timezone, json=given.json)
            named = cast("list[object]", values)
            columns.append([None if value is None else read(value) for value in named])
    except (ValueError, OverflowError):
        return None
    few = Few(layout, columns)
    times = few.times
    if None in times or max(times) > bounds.latest or min(times) < bounds.oldest:
        return None
    return few


@lru_cache(maxsize=256)
def schema_of(source: Source) -> pa.Schema:
    """The declared columns as Arrow has them."""
    return pa.schema([(each.name, arrow_type(each.type)) for each in source.columns])


@dataclass
class _Given:
    """Rows as columns of whatever they hold; `problems` are of rows that are none."""

    count: int
    columns: Mapping[str, Any]
    row: Callable[[int], Any]
    json: bool = False
    problems: list[BadValue] = field(default_factory=list[BadValue])

    def text(self, row: int) -> str:
        """A row as it came, as JSON text."""
        content = self.row(row)
        if isinstance(content, bytes):
            return content.decode("utf-8", "replace")
        return msgspec.json.encode(content, enc_hook=str).decode("utf-8", "replace")


def _is_columns(source: Source, named: Mapping[str, Any]) -> bool:
    """Whether a dict is many events, column by column; else it is one."""
    for each in source.columns:
        value = named.get(each.name)
        if value is not None and each.type.scalar:
            return hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping)
    return False


def _array(name: str, values: Any) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise RequestInvalid(
            f"The column {name!r} does not convert to Arrow: {error}",
            remedy="Give it values of one type.",
        ) from error


def _plain(value: Any) -> Any:
    if not isinstance(value, pa.Scalar):
        return value
    try:
        return value.as_py()
    except (OverflowError, ValueError):  # a timestamp that Python has no datetime for
        return str(value.cast(pa.int64()))


def _suggestion(name: str, declared: Sequence[str]) -> str:
    near = get_close_matches(name, declared, n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


@lru_cache(maxsize=256)
def _decoders(source: Source, strict: bool) -> tuple[Any, Any, tuple[str, ...]]:
    """What reads JSON of events (an array, lines), and the names of what these are made of."""
    fields = [(f"c{i}", Any, None) for i in range(len(source.columns))]
    renamed = {f"c{i}": each.name for i, each in enumerate(source.columns)}
    event = msgspec.defstruct(
        "Event", fields, rename=renamed, forbid_unknown_fields=strict, gc=False
    )
    of_list: Any = msgspec.json.Decoder(list[event])  # type: ignore[valid-type]
    of_one: Any = msgspec.json.Decoder(event)
    return of_list.decode, of_one.decode_lines, tuple(each.name for each in source.columns)


@dataclass(frozen=True)
class _Reader:
    """Takes rows apart into columns; `strict` says whether there may be none but the declared."""

    source: Source
    strict: bool

    def given(self, rows: object) -> _Given:
        """Rows of any kind as columns."""
        if isinstance(rows, bytes | bytearray | memoryview):
            return self._json(bytes(cast("Any", rows)))
        if isinstance(rows, Mapping):
            named = cast("Mapping[str, Any]", rows)
            return self._columns(named) if _is_columns(self.source, named) else self._dicts([named])
        if isinstance(rows, Iterator):
            rows = list(cast("Iterator[object]", rows))
        if isinstance(rows, Sequence) and not isinstance(rows, str):
            return self._dicts(cast("Sequence[object]", rows))
        table = as_table(rows)
        twice = {name for name in table.column_names if table.column_names.count(name) > 1}
        if twice:
            raise RequestInvalid(f"The rows have two columns named {min(twice)!r}.")
        named = {name: table.column(name) for name in table.column_names}
        self._check_names(named)
        return _Given(table.num_rows, named, lambda row: table.slice(row, 1).to_pylist()[0])

    @property
    def declared(self) -> list[str]:
        """The names of the source's columns."""
        return [each.name for each in self.source.columns]

    def _check_names(self, named: Collection[str]) -> None:
        declared = self.declared
        for name in named:
            if self.strict and name not in declared:
                raise RequestInvalid(
                    f"{self.source.name} has no column {name!r}.",
                    remedy=_suggestion(str(name), declared)
                    + f"Its columns: {', '.join(declared)}.",
                )

    def _columns(self, named: Mapping[str, Any]) -> _Given:
        self._check_names(named)
        columns: dict[str, Any] = {}
        for name, values in named.items():
            if isinstance(values, pa.ChunkedArray | pa.Array | list):
                columns[name] = cast("Any", values)
            elif hasattr(values, "__array__") or hasattr(values, "__arrow_c_array__"):
                columns[name] = _array(name, values)
            else:
                columns[name] = list(values)
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) > 1:
            lengths = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise RequestInvalid("The columns differ in length.", where=lengths)

        def row(number: int) -> dict[str, Any]:
            return {name: _plain(values[number]) for name, values in columns.items()}

        return _Given(next(iter(sizes.values()), 0), columns, row)

    def _dicts(self, rows: Sequence[object], *, json: bool = False) -> _Given:
        declared = self.declared
        names = frozenset(declared)
        problems: list[BadValue] = []
        named: list[Mapping[str, Any]] = []
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                reason = "is not an object of columns" if json else "is not a dict"
                problems.append(BadValue(number, _ROW, shown(row), reason))
                named.append({})
                continue
            known = cast("Mapping[str, Any]", row)
            named.append(known)
            if not self.strict or names.issuperset(known):
                continue
            for name in known:
                if name not in names:
                    hint = _suggestion(str(name), declared).strip()
                    why = f"is not a column of {self.source.name}. {hint}".strip()
                    problems.append(BadValue(number, str(name), shown(known[name]), why))
        columns = {name: [row.get(name) for row in named] for name in declared}
        return _Given(len(rows), columns, lambda row: rows[row], json, problems)

    def _json(self, text: bytes) -> _Given:
        """JSON that is as declared is read at once; any other is looked at row by row."""
        stripped = text.strip()
        of_list, of_lines, names = _decoders(self.source, self.strict)
        try:
            events = of_list(stripped) if stripped.startswith(b"[") else of_lines(stripped)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._odd_json(stripped)
        values = map(list, zip(*map(msgspec.structs.astuple, events), strict=True))
        columns: dict[str, Any] = dict(zip(names, values, strict=bool(events)))
        return _Given(len(events), columns, lambda row: events[row], json=True)

    def _odd_json(self, text: bytes) -> _Given:
        try:
            whole: Any = msgspec.json.decode(text)
            several = cast("list[object]", whole) if isinstance(whole, list) else [whole]
            return self._dicts(several, json=True)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if text.startswith(b"["):
                raise RequestInvalid(
                    f"The rows are not JSON: {error}.",
                    remedy="Send an array of objects, or one object on each line.",
                ) from None
        lines = [line for line in text.splitlines() if line.strip()]
        rows: list[object] = []
        problems: list[BadValue] = []
        for number, line in enumerate(lines):
            try:
                rows.append(msgspec.json.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                rows.append({})
                told = shown(line.decode("utf-8", "replace"))
                problems.append(BadValue(number, _ROW, told, f"is not JSON: {error}"))
        given = self._dicts(rows, json=True)
        given.problems += problems
        given.row = lines.__getitem__
        return given


def _checked(source: Source, column: Field, given: _Given, bad: dict[int, list[BadValue]]) -> Any:
    """One column in its declared type; values that are none become null and are noted as bad."""
    target = arrow_type(column.type)
    values = given.columns.get(column.name)
    if values is None:
        return pa.nulls(given.count, target)
    zone = source.timezone
    whole: Any = column_of(values, column.type, zone, json=given.json)
    if whole is not None:
        return whole
    read = reader(column.type, zone, json=given.json)
    taken: list[Any] = []
    for number, value in enumerate(_listed(values)):
        if value is None:
            taken.append(None)
            continue
        try:
            taken.append(read(value))
        except Refusal as refusal:
            taken.append(None)
            problem = BadValue(number, column.name, shown(value), str(refusal))
            bad.setdefault(number, []).append(problem)
    return pa.array(taken, target)


def _listed(values: Any) -> list[Any]:
    return list(cast("Any", values)) if isinstance(values, list) else list(map(_plain, values))


def _check_times(
    source: Source,
    column: pa.ChunkedArray,
    bounds: Bounds,
    bad: dict[int, list[BadValue]],
) -> None:
    """Note rows without a time, and those too far ahead or too far back."""
    name = str(source.time)
    if column.null_count:
        for number in np.flatnonzero(column.is_null().to_numpy()).tolist():
            known = bad.setdefault(number, [])
            if not any(each.column in {name, _ROW} for each in known):
                known.append(BadValue(number, name, "null", "an event needs a time"))
    micros = micros_of(column, null=bounds.now)
    if not len(micros) or (micros.max() <= bounds.latest and micros.min() >= bounds.oldest):
        return
    for number in np.flatnonzero(micros > bounds.latest).tolist():
        ahead = rough_duration(int(micros[number]) - bounds.now)
        tolerance = format_duration(max(1, bounds.latest - bounds.now))
        why = f"is {ahead} ahead of the clock here; `future` allows {tolerance}"
        told = format_moment(int(micros[number]))
        bad.setdefault(number, []).append(BadValue(number, name, told, why))
    for number in np.flatnonzero(micros < bounds.oldest).tolist():
        why = f"is older than what the online state retains, {format_moment(bounds.oldest)}"
        told = format_moment(int(micros[number]))
        bad.setdefault(number, []).append(BadValue(number, name, told, why))


def shown(value: object) -> str:
    """A value as messages tell it."""
    try:
        text = repr(value) if not isinstance(value, str) else f'"{value}"'
    except ValueError:  # Python does not write integers of thousands of digits
        text = "a very large number"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
