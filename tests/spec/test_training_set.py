"""Training sets: what the caller's label rows become, and what is said when they cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tidemark as tm
from tidemark.errors import EngineError, RequestInvalid, SchemaMismatch

ZONED = pa.timestamp("us", "UTC")


def moment(day: int, hour: int = 0) -> datetime:
    """A moment in March 2026."""
    return datetime(2026, 3, day, hour, tzinfo=UTC)


PURCHASES = pa.table(
    {
        "user_id": ["ada", "ada", "bob", "ada", None],
        "shop": ["x", "y", "x", "x", "x"],
        "at": pa.array([moment(1), moment(2), moment(2), moment(4), moment(1)], ZONED),
        "amount": [1.5, None, 3.0, 4.0, 9.0],
        "points": pa.array([2**53 + 1, 2, None, 4, 9], pa.int64()),
    }
)


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Visit(tm.Entity):
    """A person in a shop."""

    user_id: tm.Key[str]
    shop: tm.Key[str]


class Purchase(tm.Source, history=tm.frame(PURCHASES), time="at"):
    """What was bought."""

    user_id: tm.Col[str]
    shop: tm.Col[str]
    at: tm.Col[datetime]
    amount: tm.Col[float | None]
    points: tm.Col[int | None]


class Spending(tm.FeatureView, entity=User, source=Purchase):
    """What a user has bought."""

    purchases = tm.count()
    spend = tm.sum(Purchase.amount)
    points = tm.max(Purchase.points)


class Visits(tm.FeatureView, entity=Visit, source=Purchase):
    """What a user has bought in one shop."""

    visits = tm.count()


class Checkout(tm.Request):
    """What the till knows."""

    price: tm.Col[float]


@tm.on_demand(price=Checkout.price, spend=Spending.spend)
def share(price: float, spend: float | None) -> float:
    """This purchase against all before it."""
    return price / spend if spend else 1.0


class Model(tm.FeatureService):
    """What a model reads."""

    price = Checkout.price
    bought = Spending.purchases
    here = Visits.visits
    share = share


@pytest.fixture
def store() -> Iterator[tm.Store]:
    """A store with the definitions of this page applied."""
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Model, Spending, Visits]))
        yield opened


def labels(users: Sequence[str | None], days: Sequence[int], **more: Any) -> pa.Table:
    """Label rows at midnight of days in March 2026."""
    at = pa.array([moment(day) for day in days], ZONED)
    return pa.table({"user_id": pa.array(users, pa.string()), "t": at} | more)


def test_each_label_row_gives_one_row_in_its_place(store: tm.Store) -> None:
    """Disorder, duplicates and users without a purchase are the caller's business."""
    asked = labels(["bob", "ada", "cyd", "ada", "ada"], [3, 2, 3, 9, 9])
    found = store.training_set(Spending, asked).to_arrow()
    assert found.column_names == ["user_id", "t", "purchases", "spend", "points"]
    assert found.select(["user_id", "t"]) == asked
    assert found.column("purchases").to_pylist() == [1, 2, 0, 3, 3]
    assert found.column("spend").to_pylist() == [3.0, 1.5, None, 5.5, 5.5]


def test_a_large_integer_beside_a_null_stays_the_integer_that_it_is(store: tm.Store) -> None:
    training = store.training_set(Spending, labels(["ada", "bob"], [2, 3]))
    assert training.to_arrow().column("points").to_pylist() == [2**53 + 1, None]
    assert training.to_pandas()["points"].tolist() == [2**53 + 1, pd.NA]
    assert training.to_polars()["points"].to_list() == [2**53 + 1, None]


def test_label_columns_pass_through_untouched(store: tm.Store) -> None:
    """Also those of types that no feature has, and with the names that they had."""
    odd = pa.array([[1], None], pa.list_(pa.uint8()))
    asked = labels(["ada", "bob"], [3, 3], odd=odd, Odd=pa.array([1, 2], pa.int8()))
    found = store.training_set([Spending.purchases], asked).to_arrow()
    assert found.drop_columns(["purchases"]) == asked


@pytest.mark.parametrize("kind", ["pandas", "polars", "batch", "dictionary", "seconds"])
def test_labels_come_in_any_frame(store: tm.Store, kind: str) -> None:
    table = labels(["ada", "bob"], [3, 3])
    frames: dict[str, object] = {
        "pandas": table.to_pandas(),
        "polars": pl.DataFrame(table),
        "batch": table.to_batches()[0],
        "dictionary": table.set_column(0, "user_id", table["user_id"].dictionary_encode()),
        "seconds": table.set_column(1, "t", table["t"].cast(pa.timestamp("s", "Asia/Tokyo"))),
    }
    found = store.training_set(Spending, frames[kind]).to_arrow()
    assert found.column("purchases").to_pylist() == [2, 1]


def test_a_filtered_pandas_frame_brings_no_column_of_row_numbers(store: tm.Store) -> None:
    frame = labels(["ada", "bob", "cyd"], [3, 3, 3]).to_pandas()
    found = store.training_set([Spending.purchases], frame[frame.user_id != "ada"]).to_arrow()
    assert found.column_names == ["user_id", "t", "purchases"]


def test_one_call_joins_views_entities_requests_and_functions(store: tm.Store) -> None:
    asked = labels(["ada", "ada"], [5, 5], shop=["x", "y"], price=[11.0, 5.5])
    found = store.training_set(Model, asked).to_arrow()
    assert found.column_names == ["user_id", "t", "shop", "price", "bought", "here", "share"]
    assert found.select(["bought", "here", "share"]).to_pylist() == [
        {"bought": 3, "here": 2, "share": 2.0},
        {"bought": 3, "here": 1, "share": 1.0},
    ]


def test_no_labels_give_no_rows_but_all_columns(store: tm.Store) -> None:
    found = store.training_set(Spending, labels([], [])).to_arrow()
    assert found.num_rows == 0
    assert [str(field.type) for field in found.schema][2:] == ["int64", "double", "int64"]


def test_the_report_counts_what_deserves_a_look(store: tm.Store) -> None:
    """A label at the very moment of an event of its user; events that belong to nobody; nulls."""
    report = store.training_set(Spending, labels(["ada", "ada", "cyd"], [2, 3, 3])).report
    assert report.rows == 3
    assert report.coincident == {"spending": 1}
    assert report.unattributed == {"spending": 1}
    assert report.nulls == {"purchases": 0, "spend": 1, "points": 1}
    assert "1 label at the very moment of an event" in str(report)


def test_a_parquet_file_appears_whole_or_not_at_all(store: tm.Store, tmp_path: Path) -> None:
    training = store.training_set(Spending, labels(["ada"], [3]))
    written = training.write_parquet(tmp_path / "training.parquet")
    assert pq.read_table(written) == training.to_arrow()
    assert list(tmp_path.iterdir()) == [written]


def test_a_folder_that_is_not_there(store: tm.Store, tmp_path: Path) -> None:
    training = store.training_set(Spending, labels(["ada"], [3]))
    with pytest.raises(RequestInvalid, match="There is no directory"):
        training.write_parquet(tmp_path / "nowhere" / "training.parquet")
    assert list(tmp_path.iterdir()) == []


def test_its_text_shows_the_report_and_the_columns(store: tm.Store) -> None:
    shown = repr(store.training_set(Spending, labels(["ada", "cyd"], [3, 3])))
    assert shown.startswith("TrainingSet: 2 rows x 3 features in ")
    assert "labels: user_id, t" in shown
    assert "spend: 1 null (50.0%)" in shown


def test_two_timestamp_columns_are_listed(store: tm.Store) -> None:
    asked = labels(["ada"], [3], paid=pa.array([moment(4)], ZONED))
    with pytest.raises(RequestInvalid) as error:
        store.training_set(Spending, asked)
    assert error.value.what == "The labels have 2 timestamp columns: t, paid."
    found = store.training_set(Spending, asked, time="paid").to_arrow()
    assert found.column("purchases").to_pylist() == [3]


def test_labels_without_a_moment(store: tm.Store) -> None:
    with pytest.raises(RequestInvalid, match="no timestamp column"):
        store.training_set(Spending, labels(["ada"], [3]).drop_columns(["t"]))
    with pytest.raises(RequestInvalid, match="no column 'when'"):
        store.training_set(Spending, labels(["ada"], [3]), time="when")
    with pytest.raises(RequestInvalid, match="'user_id' holds string, not timestamps"):
        store.training_set(Spending, labels(["ada"], [3]), time="user_id")


def test_a_naive_label_time_needs_a_zone(store: tm.Store) -> None:
    naive = pa.array([datetime(2026, 3, 1, 19)], pa.timestamp("us"))
    asked = labels(["ada"], [3]).set_column(1, "t", naive)
    with pytest.raises(RequestInvalid, match="'t' carries no time zone"):
        store.training_set(Spending, asked)
    found = store.training_set(Spending, asked, timezone="America/New_York").to_arrow()
    assert found.column("purchases").to_pylist() == [2]
    with pytest.raises(RequestInvalid, match="'Mars' is not a time zone"):
        store.training_set(Spending, asked, timezone="Mars")


def test_a_null_key_or_time_is_counted_and_placed(store: tm.Store) -> None:
    with pytest.raises(RequestInvalid) as error:
        store.training_set(Spending, labels(["ada", None, None], [3, 3, 3]))
    assert error.value.what == "The label column 'user_id' is null in 2 of 3 rows."
    assert error.value.where == "first in row 1, counted from 0"


def test_labels_without_the_entitys_key(store: tm.Store) -> None:
    with pytest.raises(RequestInvalid, match="no column 'shop', the key 'shop' of 'visit'"):
        store.training_set(Visits, labels(["ada"], [3]))


def test_a_key_of_another_type(store: tm.Store) -> None:
    asked = labels(["ada"], [3]).set_column(0, "user_id", pa.array([7]))
    with pytest.raises(RequestInvalid) as error:
        store.training_set(Spending, asked)
    assert error.value.what == (
        "The label column 'user_id' holds int64, but the key 'user_id' of 'user' is string."
    )


def test_a_name_that_would_occur_twice(store: tm.Store) -> None:
    asked = labels(["ada"], [3], spend=[1.0])
    with pytest.raises(RequestInvalid, match="already have a column 'spend'"):
        store.training_set(Spending, asked)
    found = store.training_set(Spending, asked, full_names=True).to_arrow()
    assert found.column("spending__spend").to_pylist() == [1.5]


def test_a_request_value_that_the_labels_lack(store: tm.Store) -> None:
    asked = labels(["ada"], [3], shop=["x"])
    with pytest.raises(RequestInvalid, match="no column 'price', the value 'price' of the request"):
        store.training_set(Model, asked)


def test_a_function_that_fails_on_one_row_shows_its_values(store: tm.Store) -> None:
    @tm.on_demand(price=Checkout.price, spend=Spending.spend)
    def inverse(price: float, spend: float | None) -> float:
        return (spend or 0.0) / price

    asked = labels(["ada"], [5], price=[0.0])
    with pytest.raises(EngineError) as error:
        store.training_set(inverse, asked)
    assert error.value.where == "row 0: price=0.0, spend=5.5"


def test_an_event_without_a_time_is_an_error() -> None:
    history = PURCHASES.set_column(
        2, "at", pa.array([None, *PURCHASES["at"].to_pylist()[1:]], ZONED)
    )

    class Undated(tm.Source, history=tm.frame(history), time="at"):
        """Purchases, one without a time."""

        user_id: tm.Col[str]
        at: tm.Col[datetime]

    class Counted(tm.FeatureView, entity=User, source=Undated):
        """How many."""

        n = tm.count()

    with tm.connect(":memory:") as store:
        store.apply(store.plan([Counted]))
        with pytest.raises(EngineError, match=r"undated\.at is null in 1 "):
            store.training_set(Counted, labels(["ada"], [3]))


def test_a_history_that_lost_a_column_is_said_before_anything_is_written() -> None:
    class Narrow(tm.Source, history=tm.frame(PURCHASES.drop_columns(["amount"])), time="at"):
        """Purchases without their amounts."""

        user_id: tm.Col[str]
        at: tm.Col[datetime]
        amount: tm.Col[float | None]

    class Spent(tm.FeatureView, entity=User, source=Narrow):
        """How much."""

        spent = tm.sum(Narrow.amount)

    with tm.connect(":memory:") as store:
        store.apply(store.plan([Spent]))
        with pytest.raises(SchemaMismatch, match="declares the column 'amount'"):
            store.training_set(Spent, labels(["ada"], [3]))
