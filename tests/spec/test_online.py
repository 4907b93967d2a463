"""Vectors: the values of an entity at a moment, from online state, with what is known of each."""

from __future__ import annotations

import copy
import math
import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tests.spec.shop import DAY, HOUR, MICRO, NOON, bought, shop

from tidemark.errors import EngineError, NotFound, RequestInvalid, StaleSource
from tidemark.model.graph import Field
from tidemark.model.types import INT64, STRING, decimal
from tidemark.serve.inputs import Inputs

CHECKOUT = {"amount": 3.0, "hurry": False}


def test_a_vector_is_a_mapping_in_the_order_of_the_service():
    """Names are the service's own."""
    with shop(bought("u1", NOON - HOUR, amount=2.0)) as store:
        vector = store.online("fraud", {"user_id": "u1"}, request=CHECKOUT, at=NOON)
    assert dict(vector) == {"purchases": 1, "odd": True, "share": 1.5, "merchant": "a"}
    assert list(vector) == ["purchases", "odd", "share", "merchant"]
    assert len(vector) == 4
    assert vector.to_dict() == dict(vector)
    assert vector.at == NOON


def test_values_have_the_types_of_training():
    """Integers are int, floats float, decimals Decimal, timestamps aware datetimes in UTC."""
    rows = [bought("u1", NOON - HOUR, amount=0.5, price=Decimal("12.30"), items=2**53 + 1)]
    with shop(*rows) as store:
        vector = store.online("spending", {"user_id": "u1"}, at=NOON)
    assert {name: (value, type(value)) for name, value in vector.items()} == {
        "purchases_1h": (0, int),
        "purchases_7d": (1, int),
        "settled": (1, int),
        "spend_7d": (0.5, float),
        "spend_30d": (0.5, float),
        "paid": (Decimal("12.30"), Decimal),
        "items": (2**53 + 1, int),
        "today": (1, int),
        "merchants": (["a"], list),
        "last_merchant": ("a", str),
        "newest_merchant": ("a", str),
        "last_at": (NOON - HOUR, datetime),
    }
    assert vector["last_at"].tzinfo is UTC


@pytest.mark.parametrize(
    ("ago", "counted"), [(timedelta(0), 1), (HOUR - MICRO, 1), (HOUR, 0), (-MICRO, 0)]
)
def test_a_window_slides_with_the_moment_asked_for(ago, counted):
    """(t - 1h, t], to the microsecond, whatever was materialized when."""
    with shop(bought("u1", NOON - DAY)) as store:
        vector = store.online(["spending:purchases_1h"], {"user_id": "u1"}, at=NOON - DAY + ago)
    assert vector["purchases_1h"] == counted


def test_a_calendar_window_starts_at_local_midnight():
    """Noon in UTC is seven in New York; the day began at five."""
    midnight = NOON.replace(hour=5)
    with shop(bought("u1", midnight - MICRO), bought("u1", midnight)) as store:
        assert store.online(["spending:today"], {"user_id": "u1"}, at=NOON)["today"] == 1


def test_an_event_counts_from_the_moment_it_was_seen():
    """As of a moment before, it was not known."""
    with shop(bought("u1", NOON - 2 * HOUR, seen=NOON - HOUR)) as store:
        before = store.online("spending", {"user_id": "u1"}, at=NOON - HOUR - MICRO)
        after = store.online("spending", {"user_id": "u1"}, at=NOON - HOUR)
    assert (before["purchases_7d"], after["purchases_7d"]) == (0, 1)


def test_a_correction_replaces_from_the_moment_it_was_seen():
    """Both versions are kept, so that any moment is answered as it stood."""
    first = bought("u1", NOON - 2 * HOUR, amount=10.0, order_id="o")
    with shop(first, first | {"amount": 4.0, "seen": NOON - HOUR}) as store:
        before = store.online("spending", {"user_id": "u1"}, at=NOON - HOUR - MICRO)
        after = store.online("spending", {"user_id": "u1"}, at=NOON - HOUR)
    assert (before["spend_7d"], after["spend_7d"]) == (10.0, 4.0)
    assert (before["purchases_7d"], after["purchases_7d"]) == (1, 1)


def test_a_moment_is_a_datetime_or_text():
    """Both need a zone."""
    with shop(bought("u1", NOON)) as store:
        text = store.online("spending", {"user_id": "u1"}, at="2026-03-02T13:00:00+01:00")
        assert text.at == NOON
        with pytest.raises(RequestInvalid, match="no time zone"):
            store.online("spending", {"user_id": "u1"}, at=datetime(2026, 3, 2))


def test_without_a_moment_it_is_now():
    """Events of long ago are outside of every window by now."""
    with shop(bought("u1", NOON - 400 * DAY)) as store:
        vector = store.online("spending", {"user_id": "u1"})
    assert vector.at > NOON - 400 * DAY
    assert vector["purchases_7d"] == 0
    assert vector["last_merchant"] == "a"


def test_many_vectors_come_in_the_order_of_the_keys():
    """Duplicates and unknown entities are answered like any other."""
    with shop(bought("u1", NOON), bought("u2", NOON), bought("u2", NOON)) as store:
        keys = [{"user_id": name} for name in ("u2", "nobody", "u1", "u2")]
        vectors = store.online_many(["spending:purchases_7d"], keys, at=NOON)
    assert vectors.values("purchases_7d") == [2, 0, 1, 2]
    assert vectors.to_dicts() == [{"purchases_7d": n} for n in (2, 0, 1, 2)]
    assert list(vectors) == vectors.to_dicts()
    assert len(vectors) == 4
    assert vectors.names == ("purchases_7d",)


@pytest.mark.parametrize(
    "keys",
    [
        {"user_id": ["u1", "u2"]},
        [{"user_id": "u1"}, {"user_id": "u2"}],
        pa.table({"user_id": ["u1", "u2"]}),
        pa.table({"user_id": pa.array(["u1", "u2"]).dictionary_encode()}),
        pd.DataFrame({"user_id": ["u1", "u2"]}),
        pl.DataFrame({"user_id": ["u1", "u2"]}),
        {"user_id": pd.Series(["u1", "u2"])},
    ],
    ids=["columns", "dicts", "arrow", "dictionary", "pandas", "polars", "series"],
)
def test_keys_come_in_any_form(keys):
    """Dicts, columns, and whatever gives Arrow."""
    with shop(bought("u1", NOON)) as store:
        vectors = store.online_many(["spending:purchases_7d"], keys, at=NOON)
    assert vectors.values("purchases_7d") == [1, 0]


def test_many_vectors_are_an_arrow_table_of_the_declared_types():
    """The schema does not depend on which values are there."""
    with shop(bought("u1", NOON, amount=None, price=None)) as store:
        keys = {"user_id": ["u1", "nobody"]}
        table = store.online_many("spending", keys, at=NOON).to_arrow()
    assert [str(field.type) for field in table.schema] == [
        *["int64"] * 3,
        *["double"] * 2,
        "decimal128(38, 2)",
        *["int64"] * 2,
        "list<item: string>",
        *["string"] * 2,
        "timestamp[us, tz=UTC]",
    ]
    assert table.select(["purchases_7d", "spend_7d", "items", "merchants"]).to_pylist() == [
        {"purchases_7d": 1, "spend_7d": None, "items": 1, "merchants": ["a"]},
        {"purchases_7d": 0, "spend_7d": None, "items": -1, "merchants": None},
    ]


def test_no_keys_give_no_vectors():
    """An empty batch is a batch."""
    with shop(bought("u1", NOON)) as store:
        vectors = store.online_many("spending", [], at=NOON)
    assert vectors.to_dicts() == []
    assert vectors.to_arrow().num_rows == 0
    assert vectors.to_arrow().column_names[0] == "purchases_1h"


def test_request_values_of_many_are_columns_or_one_for_all():
    """One dict holds for every row; columns go row by row."""
    with shop(bought("u1", NOON, amount=2.0)) as store:
        keys = {"user_id": ["u1", "u1"]}
        same = store.online_many("fraud", keys, request=CHECKOUT, at=NOON)
        each = store.online_many("fraud", keys, request={"amount": [1.0, 4.0]}, at=NOON)
    assert same.values("share") == [1.5, 1.5]
    assert each.values("share") == [0.5, 2.0]


def test_on_demand_functions_see_none_for_null():
    """And what they return is a value like any other."""
    with shop() as store:
        vector = store.online("fraud", {"user_id": "nobody"}, request=CHECKOUT, at=NOON)
    assert dict(vector) == {"purchases": 0, "odd": False, "share": None, "merchant": None}


def test_what_needs_no_history_needs_no_keys():
    """On-demand features of request values alone, for one and for many."""
    with shop(until=None) as store:
        assert store.online(["doubled"], {}, request={"amount": 1.5}) == {"doubled": 3.0}
        many = store.online_many(["doubled"], [{}, {}], request={"amount": [1.0, 2.0]})
    assert many.values("doubled") == [2.0, 4.0]
    assert many.to_arrow().to_pylist() == [{"doubled": 2.0}, {"doubled": 4.0}]


def test_an_integer_is_taken_for_a_float():
    """As JSON writes 3.0 as 3."""
    with shop(bought("u1", NOON, amount=2.0)) as store:
        vector = store.online("fraud", {"user_id": "u1"}, request={"amount": 3}, at=NOON)
    assert vector["share"] == 1.5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "The key 'user_id' is missing."),
        ({"user_id": None}, "The key 'user_id' is null."),
        ({"user_id": 7}, "The key 'user_id' is 7 (int); it must be string."),
        ({"user_id": "u1", "item": 1}, "There is no key 'item' here."),
        ({"user": "u1"}, "The key 'user_id' is missing."),
        ("u1", "The keys are 'u1' (str), not a dict."),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, message):
    """The message says what was passed, and what is expected."""
    with shop(bought("u1", NOON)) as store, pytest.raises(RequestInvalid) as caught:
        store.online("spending", keys, at=NOON)
    assert caught.value.what == message
    given = " Given: user." if keys == {"user": "u1"} else ""
    assert caught.value.remedy == f"Expected: user_id: string.{given}"


def test_a_bad_key_among_many_is_named_by_its_row():
    """Counting from 0, as everywhere in Python."""
    with shop(bought("u1", NOON)) as store:
        for keys in ([{"user_id": "u1"}, {"user_id": None}], pa.table({"user_id": ["u1", None]})):
            with pytest.raises(RequestInvalid, match="'user_id' is null") as caught:
                store.online_many("spending", keys, at=NOON)
            assert caught.value.where == "row 1"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, "The request field 'amount' is missing."),
        ({"amount": True}, "The request field 'amount' is True (bool); it must be float64."),
        ({"amount": "3"}, "The request field 'amount' is '3' (str); it must be float64."),
        ({"amount": None}, "The request field 'amount' is null."),
        (
            {"amount": 2**53 + 1},
            "The request field 'amount' is 9007199254740993 (int); it must be float64, exactly.",
        ),
        ({"amount": 1.0, "amuont": 1.0}, "There is no request field 'amuont' here."),
    ],
)
def test_request_values_that_do_not_fit_are_refused(request_, message):
    """Only the fields that something reads are needed; the others may be passed."""
    with shop(bought("u1", NOON)) as store, pytest.raises(RequestInvalid) as caught:
        store.online("fraud", {"user_id": "u1"}, request=request_, at=NOON)
    assert caught.value.what == message


@pytest.mark.parametrize(
    ("value", "fits"),
    [("1.5", True), ("1.50", True), ("1.500", True), ("1.505", False), ("100", False)],
)
def test_a_decimal_is_not_rounded_into_its_type(value, fits):
    """Equal decimals are equal keys; one with more digits is no key at all."""
    inputs = Inputs("key", [Field("price", decimal(4, 2))])
    if fits:
        assert repr(inputs.one({"price": Decimal(value)})) == "[Decimal('1.50')]"
    else:
        with pytest.raises(RequestInvalid, match=r"it must be decimal\(4,2\)"):
            inputs.one({"price": Decimal(value)})


def test_integers_beyond_64_bits_are_refused():
    """In one request and in a column."""
    inputs = Inputs("key", [Field("n", INT64)])
    assert inputs.one({"n": -(2**63)}) == [-(2**63)]
    for given in ({"n": 2**63}, {"n": True}):
        with pytest.raises(RequestInvalid, match="it must be int64"):
            inputs.one(given)
    with pytest.raises(RequestInvalid, match="it must be int64"):
        inputs.many({"n": [1, 2**63]})


def test_values_of_numpy_are_values():
    """As rows of a data frame give them."""
    inputs = Inputs("key", [Field("n", INT64), Field("name", STRING)])
    assert inputs.one({"n": np.int64(7), "name": np.str_("a")}) == [7, "a"]
    assert inputs.many({"n": np.array([7, 8]), "name": np.array(["a", "b"])}) == (
        [[7, 8], ["a", "b"]],
        2,
    )


def test_columns_of_different_length_are_refused():
    """Keys and request values go row by row."""
    keys, request = {"user_id": ["u1", "u2"]}, [{"amount": 1.0}]
    with (
        shop(bought("u1", NOON)) as store,
        pytest.raises(RequestInvalid, match="request values for 1 rows and keys for 2"),
    ):
        store.online_many("fraud", keys, request=request, at=NOON)


def test_an_unknown_name_in_a_vector_is_suggested():
    """For statuses and ages; values are those of a mapping."""
    with shop(bought("u1", NOON)) as store:
        vector = store.online(["spending:spend_7d"], {"user_id": "u1"}, at=NOON)
    with pytest.raises(NotFound, match="Did you mean 'spend_7d'"):
        vector.status("spend_7")
    with pytest.raises(KeyError):
        vector["spend_7"]


def test_a_view_that_was_not_materialized_says_so():
    """Nothing is not the same as nothing known."""
    with (
        shop(bought("u1", NOON), until=None) as store,
        pytest.raises(StaleSource, match="no online state") as caught,
    ):
        store.online("spending", {"user_id": "u1"})
    assert "store.materialize(['spending'])" in caught.value.remedy


def test_a_function_that_fails_names_its_row_and_values():
    """Which function, which row, which values."""
    with shop(bought("u1", NOON, items=2), bought("u2", NOON, items=0)) as store:
        assert store.online("fragile", {"user_id": "u1"}, at=NOON)["each"] == 0.5
        with pytest.raises(EngineError, match="each raised ZeroDivisionError") as caught:
            store.online_many("fragile", {"user_id": ["u1", "u2"]}, at=NOON)
    assert caught.value.where == "row 1: items=0"


def test_a_sum_that_overflows_names_the_feature_and_the_entity():
    """A wrong number is never returned."""
    rows = [bought(user, NOON, items=2**62) for user in ("u1", "u2", "u2")]
    with shop(*rows) as store:
        assert store.online(["totals:items"], {"user_id": "u1"}, at=NOON)["items"] == 2**62
        with pytest.raises(EngineError, match="totals:items@1 does not fit into int64") as caught:
            store.online_many(["totals:items"], {"user_id": ["u1", "u2"]}, at=NOON)
    assert caught.value.where == "user_id='u2' at 2026-03-02T12:00:00Z"


def test_nan_is_a_value():
    """It is not null, and not hidden."""
    with shop(bought("u1", NOON, amount=math.nan)) as store:
        vector = store.online(["spending:spend_7d"], {"user_id": "u1"}, at=NOON)
    assert math.isnan(vector["spend_7d"])


def test_a_vector_shows_values_statuses_and_ages():
    """For notebooks and the command line; ages are shown without what is below a second."""
    with shop(bought("u1", NOON - HOUR - timedelta(microseconds=7))) as store:
        vector = store.online(
            ["spending:purchases_7d", "habits:shop", "spending:spend_30d"],
            {"user_id": "u1"},
            at=NOON,
        )
    assert [line.split() for line in repr(vector).splitlines()] == [
        ["Vector", "at", "2026-03-02T12:00:00Z"],
        ["purchases_7d", "1", "PRESENT", "1:00:00", "old"],
        ["shop", "'a'", "PRESENT", "1:00:00", "old"],
        ["spend_30d", "1.0", "PRESENT", "1:00:00", "old"],
    ]


def test_online_is_the_training_row():
    """The same labels through training and through serving."""
    rows = [
        bought("u1", NOON - n * HOUR, amount=0.1 * n, merchant="abc"[n % 3], settled=n % 2 == 0)
        for n in range(60)
    ]
    labels = pa.table(
        {"user_id": ["u1", "u2"], "at": [NOON, NOON], "amount": [1.0, 2.0], "hurry": [True, False]}
    )
    with shop(*rows) as store:
        for features in ("spending", "habits", "fraud"):
            trained = store.training_set(features, labels, time="at").to_arrow()
            served = store.online_many(
                features,
                labels.select(["user_id"]),
                request=labels.select(["amount", "hurry"]) if features == "fraud" else None,
                at=NOON,
            ).to_arrow()
            assert served.to_pylist() == trained.select(served.column_names).to_pylist()
            assert served.schema.types == trained.select(served.column_names).schema.types


def test_vectors_go_to_other_processes():
    """With their values, statuses, ages and types, which need the store no more."""
    with shop(bought("u1", NOON - HOUR, amount=2.0, price=Decimal("12.30"))) as store:
        vector = store.online("fraud", {"user_id": "u1"}, request=CHECKOUT, at=NOON)
        vectors = store.online_many("spending", [{"user_id": "u1"}, {"user_id": "eve"}], at=NOON)
        there, all_there = pickle.loads(pickle.dumps((vector, vectors)))  # noqa: S301
        again = pickle.loads(pickle.dumps(all_there))  # noqa: S301
    assert there == vector
    assert repr(there) == repr(vector)
    assert all_there.to_dicts() == vectors.to_dicts()
    assert all_there.to_arrow().equals(vectors.to_arrow())
    assert all_there.statuses("paid") == ["PRESENT", "MISSING"]
    assert again.ages("paid") == [HOUR, None]


def test_a_copied_vector_is_the_same():
    """Also where somebody changes a list in it."""
    with shop(bought("u1", NOON - HOUR)) as store:
        vector = store.online("spending", {"user_id": "u1"}, at=NOON)
        copied = copy.deepcopy(vector)
        copied["merchants"].append("b")
    assert vector["merchants"] == ["a"]
    assert copied["merchants"] == ["a", "b"]


def test_vectors_are_a_frame():
    """Whatever reads Arrow takes them."""
    with shop(bought("u1", NOON - HOUR, amount=2.0)) as store:
        vectors = store.online_many(["spending:spend_7d"], [{"user_id": "u1"}], at=NOON)
        assert pl.DataFrame(vectors).to_dicts() == [{"spend_7d": 2.0}]
