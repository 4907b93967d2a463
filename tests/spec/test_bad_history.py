"""History that is not what its source declares: one clear error each, and nothing computed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemark.engines.duckdb import DuckDB
from tidemark.engines.histories import open_history
from tidemark.errors import EngineError, SchemaMismatch, StaleSource
from tidemark.model.graph import Csv, Delta, Field, Frame, History, Parquet, Query, Source, Table
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP, Type, decimal, list_of, vector

ZONED = pa.timestamp("us", "UTC")
NAIVE = pa.timestamp("us")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckDB]:
    """An engine whose project is the test's own folder."""
    with DuckDB(root=tmp_path, threads=2) as opened:
        yield opened


def source(history: History, timezone: str = "", **columns: Type) -> Source:
    """Purchases with a user, a time and these columns."""
    declared = {"user_id": STRING, "at": TIMESTAMP} | columns
    fields = tuple(Field(name, type_) for name, type_ in declared.items())
    return Source(name="purchase", columns=fields, time="at", history=history, timezone=timezone)


def rows(time_type: pa.DataType = ZONED, **columns: pa.Array) -> pa.Table:
    """Two purchases."""
    users = pa.array(["ada", "bob"])
    times = pa.array([datetime(2026, 1, 1), datetime(2026, 1, 2)], NAIVE)
    at = times.view(time_type) if pa.types.is_timestamp(time_type) else times.cast(time_type)
    return pa.table({"user_id": users, "at": at} | columns)


def read(engine: DuckDB, history: object, timezone: str = "", **columns: Type) -> dict[str, Any]:
    """The declared columns of a frame or history, as lists."""
    if not isinstance(history, History):
        engine.frames["rows"] = history
        history = Frame("rows")
    asked = source(history, timezone, **columns)
    relation = open_history(engine, asked)
    names = {field.name: f'"{field.name}"' for field in asked.columns}
    batches = [batch.to_pydict() for batch in relation.read(names)]
    relation.close()
    return {name: [value for batch in batches for value in batch[name]] for name in names}


def test_a_column_that_is_not_there_is_named_with_those_that_are(engine: DuckDB) -> None:
    with pytest.raises(SchemaMismatch) as error:
        read(engine, rows(), amount=FLOAT64)
    assert error.value.what == "purchase declares the column 'amount', which is not there."
    assert error.value.remedy == "Columns there: user_id, at."


@pytest.mark.parametrize(
    ("column", "declared", "said"),
    [
        (pa.array(["1", "2"]), FLOAT64, "declared as float64 but holds string"),
        (pa.array([1.5, 2.5]), INT64, "declared as int64 but holds float64"),
        (pa.array([1, 2]), STRING, "declared as string but holds int64"),
        (pa.array([[1.0], [2.0]]), list_of(STRING), "declared as list<string> but holds double[]"),
        (
            pa.array(["1.234", "2"]).cast(pa.decimal128(9, 3)),
            decimal(9, 2),
            "declared as decimal(9,2) but holds decimal(9,3)",
        ),
    ],
)
def test_a_column_of_another_type_is_named_with_both_types(
    engine: DuckDB, column: pa.Array, declared: Type, said: str
) -> None:
    with pytest.raises(SchemaMismatch, match=r"purchase\.value is ") as error:
        read(engine, rows(value=column), value=declared)
    assert said in error.value.what


@pytest.mark.parametrize(
    ("column", "declared", "values"),
    [
        (pa.array([1, 2], pa.int8()), INT64, [1, 2]),
        (pa.array([1, 2**32 - 1], pa.uint32()), INT64, [1, 2**32 - 1]),
        (pa.array([1.5, 2.5], pa.float32()), FLOAT64, [1.5, 2.5]),
        (pa.array([1, 2], pa.int32()), FLOAT64, [1.0, 2.0]),
        (pa.array([2**53, None]), FLOAT64, [2.0**53, None]),
        (pa.array([-(2**63), 2**60], pa.int64()), FLOAT64, [-(2.0**63), 2.0**60]),
        (pa.array([2**63, 1], pa.uint64()), FLOAT64, [2.0**63, 1.0]),
        (pa.array(["0.1", "-12.50"]).cast(pa.decimal128(38, 18)), FLOAT64, [0.1, -12.5]),
        (
            pa.array(["123456789012.5", None]).cast(pa.decimal128(18, 6)),
            FLOAT64,
            [123456789012.5, None],
        ),
        (pa.array(["a", "b"]).dictionary_encode(), STRING, ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), STRING, ["a", "b"]),
        (pa.array([None, None]), FLOAT64, [None, None]),
        (pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())), vector(2), None),
    ],
)
def test_what_loses_nothing_is_widened_silently(
    engine: DuckDB, column: pa.Array, declared: Type, values: list[Any] | None
) -> None:
    found = read(engine, rows(value=column), value=declared)["value"]
    assert found == (values or column.to_pylist())


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (pa.array([1, 2**53 + 1]), "9007199254740993"),
        (pa.array([1, 2**63 - 1]), "9223372036854775807"),
        (pa.array(["1", "1234567890.1234567"]).cast(pa.decimal128(18, 7)), "1234567890.1234567"),
    ],
)
def test_a_number_that_a_float_does_not_hold_is_an_error(
    engine: DuckDB, column: pa.Array, shown: str
) -> None:
    """Whole numbers and decimals are read as floats exactly or not at all."""
    with pytest.raises(EngineError) as error:
        read(engine, rows(value=column), value=FLOAT64)
    said = f"purchase.value holds {shown}, which a float64 does not hold exactly."
    assert error.value.what == said
    assert error.value.where == "the history of purchase"


def test_an_integer_that_does_not_fit_is_an_error_not_another_number(engine: DuckDB) -> None:
    column = pa.array([1, 2**64 - 1], pa.uint64())
    with pytest.raises(EngineError, match="out of range"):
        read(engine, rows(value=column), value=INT64)


def test_a_time_without_a_zone_needs_one_on_the_source(engine: DuckDB) -> None:
    with pytest.raises(SchemaMismatch) as error:
        read(engine, rows(NAIVE))
    assert error.value.what == "purchase.at carries no time zone."
    assert 'timezone="UTC"' in error.value.remedy


def test_a_naive_time_is_what_the_clocks_of_its_zone_showed(engine: DuckDB) -> None:
    found = read(engine, rows(NAIVE), timezone="America/New_York")["at"]
    assert [moment.isoformat() for moment in found] == [
        "2026-01-01T05:00:00+00:00",
        "2026-01-02T05:00:00+00:00",
    ]


def test_an_hour_that_occurs_twice_is_the_first_one(engine: DuckDB) -> None:
    """Half past one on the night when New York's clocks go back, as `fold=0` has it."""
    twice = pa.array([datetime(2024, 11, 3, 1, 30), datetime(2024, 3, 10, 2, 30)], NAIVE)
    table = rows().set_column(1, "at", twice)
    found = read(engine, table, timezone="America/New_York")["at"]
    assert [moment.isoformat() for moment in found] == [
        "2024-11-03T05:30:00+00:00",
        "2024-03-10T07:30:00+00:00",
    ]


def test_no_file_matches_the_pattern(engine: DuckDB, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as error:
        read(engine, Parquet("purchases/*.parquet"))
    assert error.value.what == "No file matches 'purchases/*.parquet', the history of purchase."
    assert str(tmp_path) in error.value.where


def test_a_truncated_file_is_named(engine: DuckDB, tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match="A file of purchase is not complete Parquet") as error:
        read(engine, Parquet("*.parquet"))
    assert error.value.where == str(tmp_path / "b.parquet")


def test_a_file_that_is_damaged_inside_is_named(engine: DuckDB, tmp_path: Path) -> None:
    """Its footer may be whole, as after a bad copy."""
    many = pa.concat_tables([rows(value=pa.array(["x" * 40, "y" * 50]))] * 50)
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(many, tmp_path / name, compression="gzip", use_dictionary=False)
    damaged = bytearray((tmp_path / "b.parquet").read_bytes())
    damaged[4:204] = b"\xfe" * 200
    (tmp_path / "b.parquet").write_bytes(damaged)
    with pytest.raises(EngineError, match="A file of purchase is damaged") as error:
        read(engine, Parquet("*.parquet"), value=STRING)
    assert error.value.where.splitlines()[0] == str(tmp_path / "b.parquet")


def test_parts_that_differ_in_width_are_one_history(engine: DuckDB, tmp_path: Path) -> None:
    narrow, wide = pa.array([1, 2], pa.int32()), pa.array([3, 2**40])
    pq.write_table(rows(value=narrow), tmp_path / "a.parquet")
    pq.write_table(rows(value=wide), tmp_path / "b.parquet")
    assert read(engine, Parquet("*.parquet"), value=INT64)["value"] == [1, 2, 3, 2**40]


def test_a_part_with_another_type_is_named(engine: DuckDB, tmp_path: Path) -> None:
    pq.write_table(rows(value=pa.array([1, 2])), tmp_path / "a.parquet")
    pq.write_table(rows(value=pa.array(["3", "4"])), tmp_path / "b.parquet")
    with pytest.raises(SchemaMismatch, match="declared as int64 but holds string") as error:
        read(engine, Parquet("*.parquet"), value=INT64)
    assert str(tmp_path / "b.parquet") in error.value.where
    assert str(tmp_path / "a.parquet") in error.value.where


def test_a_source_without_rows_is_no_error(engine: DuckDB, tmp_path: Path) -> None:
    pq.write_table(rows().slice(0, 0), tmp_path / "none.parquet")
    (tmp_path / "none.csv").write_text("user_id,at\n")
    assert read(engine, Parquet("none.parquet")) == {"user_id": [], "at": []}
    assert read(engine, Csv("none.csv")) == {"user_id": [], "at": []}


def test_decimals_in_csv_may_have_an_exponent(engine: DuckDB, tmp_path: Path) -> None:
    """As Arrow writes small ones; one with more places than declared is refused, not rounded."""
    (tmp_path / "a.csv").write_text("user_id,at,x\nada,2026-01-01T00:00:00Z,1.5E-3\n")
    assert str(read(engine, Csv("a.csv"), x=decimal(9, 4))["x"][0]) == "0.0015"
    with pytest.raises(SchemaMismatch, match="does not read as its declared type"):
        read(engine, Csv("a.csv"), x=decimal(9, 3))


def test_quoted_nothing_in_csv_is_text(engine: DuckDB, tmp_path: Path) -> None:
    """A field with nothing in it is null; a quoted one is the empty text."""
    (tmp_path / "a.csv").write_text(
        'user_id,at,note\nada,2026-01-01T00:00:00Z,""\nbob,2026-01-01T00:00:00Z,\n'
    )
    assert read(engine, Csv("a.csv"), note=STRING)["note"] == ["", None]


def test_csv_is_read_as_declared(engine: DuckDB, tmp_path: Path) -> None:
    """A code that looks like a number stays text, and a zone in the text is respected."""
    (tmp_path / "a.csv").write_text("at,user_id,amount\n2026-01-01T01:00:00+01:00,007,1.10\n")
    found = read(engine, Csv("*.csv"), amount=decimal(9, 2))
    assert found["user_id"] == ["007"]
    assert [str(amount) for amount in found["amount"]] == ["1.10"]
    assert found["at"][0].isoformat() == "2026-01-01T00:00:00+00:00"


def test_text_that_is_no_number_is_shown_with_its_line(engine: DuckDB, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,at,n\nada,2026-01-01T00:00:00Z,many\n")
    with pytest.raises(SchemaMismatch, match="does not read as its declared type") as error:
        read(engine, Csv("a.csv"), n=INT64)
    assert "many" in error.value.where


def test_a_table_of_a_database_file(engine: DuckDB, tmp_path: Path) -> None:
    _database(tmp_path / "shop.duckdb")
    assert read(engine, Table("purchases", "shop.duckdb"))["user_id"] == ["ada"]
    assert read(engine, Table("main.recent", "shop.duckdb"))["user_id"] == ["ada"]
    query = Query("SELECT * FROM purchases;", "shop.duckdb")
    assert read(engine, query, timezone="Asia/Tokyo")["user_id"] == ["ada"]


def test_a_database_or_a_table_that_is_not_there(engine: DuckDB, tmp_path: Path) -> None:
    _database(tmp_path / "shop.duckdb")
    with pytest.raises(EngineError, match="There is no database"):
        read(engine, Table("purchases", "shop.db"))
    with pytest.raises(EngineError, match="sales") as error:
        read(engine, Table("sales", "shop.duckdb"))
    assert '"sales"' in error.value.sql


def test_a_file_that_is_no_database(engine: DuckDB, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE purchases (user_id TEXT)")
    other.close()
    with pytest.raises(EngineError):
        read(engine, Table("purchases", "other.db"))


def test_a_delta_table(engine: DuckDB, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake(str(tmp_path / "purchases"), rows())
    assert read(engine, Delta("purchases"))["user_id"] == ["ada", "bob"]


def test_a_delta_table_that_is_not_there(engine: DuckDB) -> None:
    pytest.importorskip("deltalake")
    with pytest.raises(EngineError, match="The Delta table of purchase cannot be read"):
        read(engine, Delta("nowhere"))


def test_a_frame_of_another_process(engine: DuckDB) -> None:
    with pytest.raises(StaleSource, match="was a frame of another process"):
        open_history(engine, source(Frame("gone")))


def test_temporary_files_go_with_the_engine(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,at\nada,2026-01-01T00:00:00Z\n")
    with DuckDB(root=tmp_path, temporary=tmp_path) as engine:
        open_history(engine, source(Csv("a.csv")))
        assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def _database(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute('CREATE TABLE purchases (user_id VARCHAR, "at" TIMESTAMPTZ)')
        connection.execute("INSERT INTO purchases VALUES ('ada', '2026-01-01 00:00:00Z')")
        connection.execute("CREATE VIEW recent AS SELECT * FROM purchases")
