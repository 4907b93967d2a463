"""What callers pass in unusual spellings or by mistake: read as meant, or refused clearly."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tidemark as tm
from tidemark.errors import DefinitionError, EngineError, NotFound, RequestInvalid, SchemaMismatch
from tidemark.testing import features_at

ZONED = pa.timestamp("us", "UTC")


def moment(day: int) -> datetime:
    """A midnight in May 2026."""
    return datetime(2026, 5, day, tzinfo=UTC)


VISITS = pa.table(
    {"guest": ["ada", "ada"], "nights": [2, 3], "at": pa.array([moment(1), moment(2)], ZONED)}
)
LABELS = pa.table({"guest": ["ada"], "decided": pa.array([moment(9)], ZONED)})


class Guest(tm.Entity):
    """Somebody who stays."""

    guest: tm.Key[str]


class Visit(tm.Source, history=tm.frame(VISITS), time="at"):
    """A stay."""

    guest: tm.Col[str]
    nights: tm.Col[int | None]
    at: tm.Col[datetime]


class Habits(tm.FeatureView, entity=Guest, source=Visit):
    """How somebody stays."""

    nights = tm.sum(Visit.nights)
    newest_year = tm.max(tm.sql("year(at)", int))


class Upsell(tm.FeatureService):
    """Inputs of a model."""

    spent = Habits.nights


@pytest.fixture
def store() -> Iterator[tm.Store]:
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Upsell]))
        yield opened


def column(store: tm.Store, features: object, name: str, labels: object = LABELS) -> list[Any]:
    values: list[Any] = store.training_set(features, labels).to_arrow()[name].to_pylist()
    return values


@pytest.mark.parametrize("features", [[Upsell], ["upsell"], (Upsell,)])
def test_a_list_of_one_service_is_that_service(store: tm.Store, features: object) -> None:
    """A list that holds one service asks for it."""
    assert column(store, features, "spent") == [5]


@pytest.mark.parametrize("service", [Upsell, "upsell"])
def test_a_service_among_features_is_told(store: tm.Store, service: object) -> None:
    """A list of several things holds features, and the message says so."""
    with pytest.raises(RequestInvalid, match=r"^'upsell' is a service, and a list holds features"):
        store.training_set([Habits.nights, service], LABELS)


def test_a_feature_listed_twice_is_told_to_be_named_once(store: tm.Store) -> None:
    """Longer names would not help there."""
    with pytest.raises(RequestInvalid, match="Ask for the feature once"):
        store.training_set([Habits.nights, "habits:nights"], LABELS)


def test_a_column_is_not_a_feature(store: tm.Store) -> None:
    """A column among the features is refused by its name."""
    with pytest.raises(DefinitionError, match=r"^<column Visit.guest: string> is not a definition"):
        store.training_set([Visit.guest], LABELS)


def test_a_feature_of_an_unknown_name_is_not_found(store: tm.Store) -> None:
    """A name that is nearly a service is suggested."""
    with pytest.raises(NotFound, match="Did you mean 'upsell'"):
        store.training_set("upsel", LABELS)


@pytest.mark.parametrize("version", ["x", "0", "-1", "", "²", "9" * 5_000])
def test_what_is_no_version_is_not_found(store: tm.Store, version: str) -> None:
    """Not taken for the first version, nor for the newest."""
    with pytest.raises(NotFound, match=r"whole numbers: habits:nights@1\."):
        store.training_set([f"habits:nights@{version}"], LABELS)


def test_a_name_without_its_window_is_told_the_windows(store: tm.Store) -> None:
    """Rather than another name that looks alike."""
    with pytest.raises(NotFound, match="Did you mean 'newest_year'"):
        store.training_set(["habits:newest"], LABELS)


@pytest.mark.parametrize("at", [5, 1.5, date(2026, 5, 9)])
def test_a_moment_is_a_datetime_or_text(store: tm.Store, at: Any) -> None:
    """A number or a date is no moment, since neither says when."""
    with pytest.raises(RequestInvalid, match="is not a moment"):
        store.online(Upsell, {"guest": "ada"}, at=at)


def test_a_categorical_key_of_polars_is_read(store: tm.Store) -> None:
    """Polars' categories are text."""
    labels = pl.DataFrame(LABELS).with_columns(pl.col("guest").cast(pl.Categorical))
    assert column(store, Upsell, "spent", labels) == [5]


def test_a_frame_with_two_columns_of_one_name_is_refused(store: tm.Store) -> None:
    """Which of the two is meant cannot be told."""
    labels = LABELS.to_pandas()
    twice = pd.concat([labels, labels[["guest"]]], axis=1)
    with pytest.raises(
        RequestInvalid, match=r"^The DataFrame does not convert to Arrow: Duplicate"
    ):
        store.training_set(Upsell, twice)


def test_a_reader_is_a_history_that_stays() -> None:
    """A reader gives its rows once; the source keeps them."""

    class Read(tm.Source, history=tm.frame(VISITS.to_reader()), time="at"):
        """A stay."""

        guest: tm.Col[str]
        nights: tm.Col[int | None]
        at: tm.Col[datetime]

    class Stays(tm.FeatureView, entity=Guest, source=Read):
        """How somebody stays."""

        nights = tm.sum(Read.nights)

    with tm.connect(":memory:") as store:
        assert [column(store, Stays, "nights") for _ in range(2)] == [[5], [5]]


@pytest.mark.parametrize("frame", [{"guest": ["ada"]}, "visits.parquet", pl.LazyFrame({"a": [1]})])
def test_a_history_that_is_no_frame_is_refused_where_it_is_declared(frame: object) -> None:
    """Not when it is first read."""
    with pytest.raises(DefinitionError, match="is not a table"):
        tm.frame(frame)


def test_sql_may_name_a_column_that_is_a_reserved_word(store: tm.Store) -> None:
    """`at` is a word of the database's own; the author need not know."""
    assert column(store, [Habits.newest_year], "newest_year") == [2026]


@pytest.mark.parametrize("text", ["at < now()", "random() > 0.5", "at > today()", "uuid() = a"])
def test_sql_that_changes_by_itself_is_refused(text: str) -> None:
    """Its value in training would not be its value when served."""
    with pytest.raises(DefinitionError, match="changes by itself"):
        tm.sql(text, bool)


def test_sql_that_does_not_read_is_told_without_names_of_the_parser() -> None:
    """A message holds the author's words and the reason."""
    with pytest.raises(DefinitionError, match=r"'a = = 1' does not read: [^<]*$"):
        tm.sql("a = = 1", bool)


def test_a_feature_in_a_document_may_name_an_entity_that_is_declared_elsewhere() -> None:
    """By the entity's name or by that of its only key."""
    week = {"source": "visit", "aggregation": {"function": "count", "window": "1w"}}
    month = {"source": "visit", "aggregation": {"function": "count", "window": "30d"}}
    by_name = {"name": "stays", "entity": "hotel_guest", **month}
    by_key = {"name": "visits", "entity": "guest", **week}
    entity = {"entities": [{"name": "hotel_guest", "keys": {"guest": "string"}}]}
    with tm.connect(":memory:") as store:
        store.apply(store.plan([tm.load(entity), Visit, tm.load(by_name), tm.load(by_key)]))
        assert column(store, ["stays", "visits"], "stays") == [2]


def read_csv(tmp_path: Path, value: str) -> list[Any]:
    """An int and a decimal of one row of CSV."""
    rows = f"guest,nights,price,at\nada,{value},2026-05-01T00:00:00Z\n"
    (tmp_path / "bills.csv").write_text(rows)

    class Bill(tm.Source, history=tm.csv(str(tmp_path / "bills.csv")), time="at"):
        """What somebody paid."""

        guest: tm.Col[str]
        nights: tm.Col[int | None]
        price: tm.Col[Decimal | None] = tm.decimal(9, 2)
        at: tm.Col[datetime]

    class Bills(tm.FeatureView, entity=Guest, source=Bill):
        """What somebody pays."""

        nights = tm.last(Bill.nights)
        price = tm.last(Bill.price)

    with tm.connect(":memory:") as store:
        row = store.training_set(Bills, LABELS).to_arrow().to_pylist()[0]
    return [row["nights"], row["price"]]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("9007199254740993,1.5", [2**53 + 1, Decimal("1.50")]),
        ("-3,2.500", [-3, Decimal("2.50")]),
        (",", [None, None]),
    ],
)
def test_numbers_of_a_csv_file_are_read_exactly(
    tmp_path: Path, value: str, read: list[Any]
) -> None:
    """Digits are kept; nothing is null."""
    assert read_csv(tmp_path, value) == read


@pytest.mark.parametrize("value", ["1.5,1", "1,1.239", "1e3,1", "x,1"])
def test_a_number_of_a_csv_file_that_would_be_rounded_is_refused(
    tmp_path: Path, value: str
) -> None:
    """A history that does not fit its declaration is an error, not a near value."""
    with pytest.raises(SchemaMismatch, match="does not read as its declared type"):
        read_csv(tmp_path, value)


@pytest.mark.parametrize("views", [Habits, "habits", [Habits], ("habits",)])
def test_one_view_is_materialized_without_a_list(store: tm.Store, views: object) -> None:
    """A view alone is that view, as a class or by name."""
    assert [view.view for view in store.materialize(views).views] == ["habits"]


def test_rows_of_a_test_may_say_their_moments_as_text() -> None:
    """ISO text is a moment everywhere."""
    rows = [{"guest": "ada", "nights": 2, "at": "2026-05-01T00:00:00Z"}]
    given = {"nights": 2, "newest_year": 2026}
    assert features_at(Habits, rows, {"guest": "ada"}, at="2026-05-01T00:00:00Z") == given


def test_an_error_of_the_database_says_whose_history_it_was() -> None:
    """A query that the database refuses is found again by the name of its source."""

    class Lost(tm.Source, history=tm.query("SELECT * FROM nowhere"), time="at"):
        """A table that is gone."""

        guest: tm.Col[str]
        at: tm.Col[datetime]

    class Losses(tm.FeatureView, entity=Guest, source=Lost):
        """How often."""

        losses = tm.count()

    with tm.connect(":memory:") as store, pytest.raises(EngineError) as caught:
        store.training_set(Losses, LABELS)
    assert caught.value.where == "the history of lost"
    assert "nowhere" in caught.value.sql


def test_a_request_field_that_is_a_list_may_be_shared_by_many(store: tm.Store) -> None:
    """One dict of values holds for all entities, also where a value is a list of text."""

    class Basket(tm.Request):
        """What is being bought."""

        items: tm.Col[list[str]]

    @tm.on_demand(items=Basket.items, nights=Habits.nights)
    def weight(items: list[str], nights: int | None) -> int:
        return len(items) + (nights or 0)

    store.apply(store.plan([Upsell, weight]))
    store.materialize()
    keys = [{"guest": "ada"}, {"guest": "bob"}]
    vectors = store.online_many(weight, keys, request={"items": ["tea", "ink"]})
    assert vectors.to_dicts() == [{"weight": 7}, {"weight": 2}]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A DuckDB file with a table, and a view of it in another schema."""
    file = tmp_path / "lake.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.register("visits", VISITS)
        connection.execute("CREATE TABLE stays AS SELECT * FROM visits")
        connection.execute("CREATE SCHEMA marts")
        connection.execute("CREATE VIEW marts.stays_seen AS SELECT * FROM stays")
    return file


def nights_of(history: Any) -> list[Any]:
    """The nights of one guest, read from a history."""

    class Read(tm.Source, history=history, time="at"):
        """A stay."""

        guest: tm.Col[str]
        nights: tm.Col[int | None]
        at: tm.Col[datetime]

    class Stays(tm.FeatureView, entity=Guest, source=Read):
        """How somebody stays."""

        nights = tm.sum(Read.nights)

    with tm.connect(":memory:") as store:
        return column(store, Stays, "nights")


def test_a_view_of_a_database_finds_its_own_tables(lake: Path) -> None:
    """A view names its tables as it was written, without the database."""
    assert nights_of(tm.table("marts.stays_seen", connection=str(lake))) == [5]


def test_a_query_may_end_in_a_comment(lake: Path) -> None:
    """And in a semicolon before it."""
    assert nights_of(tm.query("SELECT * FROM stays -- all of them", connection=str(lake))) == [5]


def test_a_database_that_somebody_writes_says_what_to_do(lake: Path) -> None:
    """A notebook often holds the connection that made the table."""
    with duckdb.connect(str(lake)), pytest.raises(EngineError, match="close the connection"):
        nights_of(tm.table("stays", connection=str(lake)))


def test_a_path_of_pathlib_is_a_path(tmp_path: Path) -> None:
    """Files are named by text or by pathlib's paths."""
    pq.write_table(VISITS, tmp_path / "visits.parquet")
    assert nights_of(tm.parquet(tmp_path / "visits.parquet")) == [5]


@pytest.mark.parametrize("address", ["registry.db", "mysql://somewhere/tidemark", ""])
def test_a_registry_is_named_by_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """A plain path is not one; the message shows how to write it."""
    (tmp_path / "tidemark.toml").write_text("")
    monkeypatch.setenv("TIDEMARK_REGISTRY", address)
    with pytest.raises(DefinitionError, match=r"Write it as \"sqlite:///registry.db\""):
        tm.connect(tmp_path)


MOMENT = datetime(2026, 2, 1, 12, 30, tzinfo=UTC)


def test_half_floats_of_a_frame_are_read() -> None:
    """Embeddings are often kept so; each is a double exactly."""
    half = pa.array(np.array([0.5, 1.5], np.float16))
    table = pa.table(
        {
            "guest": ["g1", "g1"],
            "score": half,
            "taste": pa.FixedSizeListArray.from_arrays(half, 1),
            "at": [MOMENT, MOMENT],
        }
    )

    class Seen(tm.Source, history=tm.frame(table), time="at"):
        guest: tm.Col[str]
        score: tm.Col[float]
        taste: tm.Col[list[float]] = tm.vector(1)
        at: tm.Col[datetime]

    class Scores(tm.FeatureView, entity=Guest, source=Seen):
        score = tm.sum(Seen.score)
        taste = tm.last(Seen.taste)

    with tm.connect(":memory:") as store:
        store.apply(store.plan([Scores]))
        labels = pa.table({"guest": ["g1"], "t": [MOMENT]})
        found = store.training_set(Scores, labels).to_arrow().select(["score", "taste"])
    assert found.to_pylist() == [{"score": 2.0, "taste": [1.5]}]
