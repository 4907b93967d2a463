"""How the columns that a history has are read as the columns that its source declares.

What holds every value without loss is widened silently, and so are whole numbers and decimals that
a double may hold, where one that it does not hold is an error.  Everything else is an error that
names the column.  Afterwards a timestamp is an instant in UTC, whatever it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tidemark.compile import identifier, sql_type, text
from tidemark.errors import SchemaMismatch
from tidemark.model.graph import Source
from tidemark.model.types import Type

_SMALL = {"TINYINT": 3, "UTINYINT": 3, "SMALLINT": 5, "USMALLINT": 5, "INTEGER": 10, "UINTEGER": 10}
# Wide integers are what SQL's own sum and count give; a value that does not fit is an error.
_WHOLE = {*_SMALL, "BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT"}
_AWARE = {"TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMPTZ_NS"}
_NAIVE = {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}
_EXACT_DIGITS = 15  # decimals of so many digits survive as doubles

INEXACT = "which a float64 does not hold exactly."
"""How the message of the database ends at a number that would be rounded."""


def select(
    source: Source,
    observed: Mapping[str, str],
    to_utc: Callable[[str], str],
    *,
    where: str,
) -> str:
    """The select list that gives the declared columns, each in its declared type.

    `observed` are the SQL types of the columns that are there, `to_utc` names the SQL function from
    the naive microseconds of a zone to those of UTC, `where` is the file or table for messages.
    Raises `SchemaMismatch`.
    """
    items: list[str] = []
    for field in source.columns:
        name = identifier(field.name)
        if field.name not in observed:
            raise SchemaMismatch(
                f"{source.name} declares the column {field.name!r}, which is not there.",
                where=where,
                remedy=f"Columns there: {', '.join(observed)}.",
            )
        type_ = observed[field.name]
        if type_ in _NAIVE and field.type.name == "timestamp":
            if not source.timezone:
                raise SchemaMismatch(
                    f"{source.name}.{field.name} carries no time zone.",
                    where=where,
                    remedy='Say on the source which one its clocks show, such as timezone="UTC".',
                )
            micros = _micros(name, type_)
            if source.timezone != "UTC":
                micros = f"{to_utc(source.timezone)}({micros})"
            items.append(f"make_timestamptz({micros}) AS {name}")
            continue
        column = f"{source.name}.{field.name}"
        read = _read(name, type_, field.type) or _as_double(name, column, type_, field.type)
        if read is None:
            raise SchemaMismatch(
                f"{column} is declared as {field.type} but holds {_plain(type_)}.",
                where=where,
                remedy="Declare the type that the data has, or convert it in a query.",
            )
        items.append(f"{read} AS {name}")
    return ", ".join(items)


def _micros(name: str, observed: str) -> str:
    """Microseconds of a timestamp; nanoseconds are cut off downwards, before 1970 too."""
    if observed.endswith("_NS"):
        nanos = f"epoch_ns({name})"
        return f"(({nanos} - (({nanos} % 1000) + 1000) % 1000) // 1000)"
    return f"epoch_us(CAST({name} AS TIMESTAMP))"


def _read(name: str, observed: str, declared: Type) -> str | None:
    """SQL that reads a column as the declared type; None where that could lose something."""
    if observed.strip('"') == "NULL":
        return f"CAST({name} AS {sql_type(declared)})"
    if declared.name == "timestamp" and observed == "TIMESTAMPTZ_NS":
        return f"make_timestamptz({_micros(name, observed)})"
    if not _fits(observed, declared):
        return None
    return name if observed == sql_type(declared) else f"CAST({name} AS {sql_type(declared)})"


def _as_double(name: str, column: str, observed: str, declared: Type) -> str | None:
    """SQL that reads numbers as doubles and fails at one that no double holds; None for others.

    A decimal is held if all its digits can be had back from the double that is nearest to it.
    """
    whole = observed in _WHOLE
    if declared.name != "float64" or not (whole or observed.startswith("DECIMAL(")):
        return None
    double = f"CAST({name} AS DOUBLE)" if whole else f"CAST(CAST({name} AS VARCHAR) AS DOUBLE)"
    if whole:
        held = f"{name} BETWEEN {-(2**53)} AND {2**53} OR TRY_CAST({double} AS {observed}) = {name}"
    else:
        digits = f"trim(regexp_replace(CAST({name} AS VARCHAR), '[-.]', '', 'g'), '0')"
        held = f"length({digits}) <= {_EXACT_DIGITS}"
    said = f"format('{{}} holds {{}}, {INEXACT}', {text(column)}, CAST({name} AS VARCHAR))"
    return f"CASE WHEN {name} IS NULL OR {held} THEN {double} ELSE error({said}) END"


def _fits(observed: str, declared: Type) -> bool:
    found = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", observed)
    digits, scale = (int(found[1]), int(found[2])) if found else (0, 0)
    item = re.fullmatch(r"(.+)\[(\d*)\]", observed)
    match declared.name:
        case "int64":
            return observed in _WHOLE
        case "float64":
            return observed in {"DOUBLE", "FLOAT", *_SMALL} or 0 < digits <= _EXACT_DIGITS
        case "decimal":
            whole = digits - scale if found else _SMALL.get(observed, 99)
            return scale <= declared.scale and whole <= declared.precision - declared.scale
        case "string":
            return observed in {"VARCHAR", "UUID"} or observed.startswith("ENUM(")
        case "timestamp":
            return observed in _AWARE
        case "list":
            return bool(item and declared.item and _fits(item[1], declared.item))
        case "vector":
            sized = item is not None and item[2] in {"", str(declared.size)}
            return bool(item and sized and item[1] in {"DOUBLE", "FLOAT"})
        case _:
            return observed == sql_type(declared)


_PLAIN = {
    "BIGINT": "int64",
    "INTEGER": "int32",
    "DOUBLE": "float64",
    "FLOAT": "float32",
    "BOOLEAN": "bool",
    "VARCHAR": "string",
    "BLOB": "bytes",
    "DATE": "date",
}


def _plain(observed: str) -> str:
    """A type of the database in the words of definitions, as far as they reach."""
    if observed in _NAIVE:
        return "a timestamp without a zone"
    if observed in _AWARE:
        return "timestamp"
    return _PLAIN.get(observed, observed.lower())
