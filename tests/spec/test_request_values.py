"""What a caller knows and passes on: taken and refused alike in training and online."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tidemark as tm
from tidemark import define
from tidemark.errors import DefinitionError, RequestInvalid
from tidemark.model.graph import Field
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP, list_of
from tidemark.serve.inputs import Inputs

ZONED = pa.timestamp("us", "UTC")
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
BOOKED = pa.table({"guest": ["ada"], "at": pa.array([NOON], ZONED)})


class Guest(tm.Entity):
    """Somebody who stays."""

    guest: tm.Key[str]


class Booking(tm.Source, history=tm.frame(BOOKED), time="at"):
    """A room that was booked."""

    guest: tm.Col[str]
    at: tm.Col[datetime]


class Bookings(tm.FeatureView, entity=Guest, source=Booking):
    """What a guest has booked."""

    last_at = tm.last(Booking.at)
    recent = tm.last_n(Booking.at, n=2)


class Offer(tm.Request):
    """What is asked for."""

    price: tm.Col[float]
    code: tm.Col[str | None]
    start: tm.Col[datetime | None]


@tm.on_demand(price=Offer.price, code=Offer.code)
def offered(price: float, code: str | None) -> str:
    """The values as a function gets them."""
    return f"{price!r} {code!r}"


@tm.on_demand(start=Offer.start, last=Bookings.last_at, recent=Bookings.recent)
def zones(start: datetime | None, last: datetime | None, recent: list[datetime] | None) -> str:
    """The zones of the moments that a function gets."""
    return " ".join(repr(each and each.tzinfo) for each in (start, last, *(recent or [])))


class Pricing(tm.FeatureService):
    """Inputs of a model."""

    offered = offered
    last_at = Bookings.last_at


@pytest.fixture
def store() -> Iterator[tm.Store]:
    """A store whose online state is written."""
    with tm.connect(":memory:") as opened:
        opened.apply(opened.plan([Pricing, zones]))
        opened.materialize()
        yield opened


def labels(**columns: Any) -> pa.Table:
    """Label rows of one guest."""
    n = len(next(iter(columns.values())))
    return pa.table({"guest": ["ada"] * n, "t": pa.array([NOON] * n, ZONED)} | columns)


def test_a_definition_says_whether_a_value_may_be_null() -> None:
    """`Col[str | None]` in a class; sources take nulls whatever they say."""
    definitions = define.lower(Pricing, Bookings, zones).definitions
    assert definitions.request("offer").fields == (
        Field("price", FLOAT64),
        Field("code", STRING, optional=True),
        Field("start", TIMESTAMP, optional=True),
    )
    assert not any(column.optional for column in definitions.source("booking").columns)


def test_a_document_says_whether_a_value_may_be_null() -> None:
    """`optional: true`, of a request's field only."""
    code = {"type": "string", "optional": True}
    document = {"requests": {"offer": {"fields": {"price": "float64", "code": code}}}}
    (request,) = tm.load(document)
    assert request.fields == (Field("price", FLOAT64), Field("code", STRING, optional=True))
    with pytest.raises(DefinitionError, match="optional"):
        tm.load({"entities": {"guest": {"keys": {"guest": code}}}})


def test_a_null_where_a_value_is_needed_is_refused_online(store: tm.Store) -> None:
    """Whether for one, for all, or in a row of many."""
    one, many = {"guest": "ada"}, [{"guest": "ada"}, {"guest": "ada"}]
    null = {"price": None, "code": None}
    rows = pa.table({"price": [1.0, None], "code": ["x", None]})
    for ask in (
        lambda: store.online("pricing", one, request=null),
        lambda: store.online_many("pricing", many, request=null),
        lambda: store.online_many("pricing", many, request=rows),
    ):
        with pytest.raises(RequestInvalid, match="The request field 'price' is null") as error:
            ask()
        assert error.value.remedy == "Expected: price: float64, code: string or null."


def test_a_null_where_a_value_is_needed_is_refused_in_labels(store: tm.Store) -> None:
    """How many there are, and where the first one is."""
    with pytest.raises(RequestInvalid) as error:
        store.training_set("pricing", labels(price=[1.0, None, None], code=["x", None, "y"]))
    assert error.value.what == "The label column 'price' is null in 2 of 3 rows."
    assert error.value.where == "first in row 1, counted from 0"


def test_a_null_that_is_allowed_is_none(store: tm.Store) -> None:
    """In training and online alike."""
    training = store.training_set("pricing", labels(price=[1.5], code=pa.array([None], "string")))
    assert training.to_arrow()["offered"].to_pylist() == ["1.5 None"]
    vector = store.online("pricing", {"guest": "ada"}, request={"price": 1.5, "code": None})
    assert vector["offered"] == "1.5 None"


def test_whole_numbers_are_floats_where_floats_are_declared(store: tm.Store) -> None:
    """A column of integers, as pandas gives it, and an int online."""
    frame = pd.DataFrame({"guest": ["ada"], "t": [NOON], "price": [2**60], "code": ["x"]})
    training = store.training_set("pricing", frame)
    assert training.to_arrow()["offered"].to_pylist() == ["1.152921504606847e+18 'x'"]
    vector = store.online("pricing", {"guest": "ada"}, request={"price": 2**60, "code": "x"})
    assert vector["offered"] == "1.152921504606847e+18 'x'"


def test_a_whole_number_that_no_float_is_is_refused(store: tm.Store) -> None:
    """Nothing is rounded silently."""
    with pytest.raises(RequestInvalid) as error:
        store.training_set("pricing", labels(price=[1, 2**53 + 1], code=["x", "y"]))
    assert error.value.what == (
        "The label column 'price' holds 9007199254740993, which a float64 does not hold exactly."
    )
    assert error.value.where == "in row 1, counted from 0"
    with pytest.raises(RequestInvalid, match="it must be float64, exactly"):
        store.online("pricing", {"guest": "ada"}, request={"price": 2**53 + 1, "code": "x"})


def test_moments_are_in_utc_wherever_a_function_gets_them(store: tm.Store) -> None:
    """`datetime.UTC`, whatever gave the moment: a caller, labels, history or the online state."""
    training = store.training_set(zones, labels(start=pa.array([NOON], ZONED)), time="t")
    expected = " ".join([repr(UTC)] * 3)
    assert training.to_arrow()["zones"].to_pylist() == [expected]
    vector = store.online(zones, {"guest": "ada"}, request={"start": NOON})
    assert vector["zones"] == expected


class Plan(StrEnum):
    """Codes, as a program has them."""

    EARLY = "early"


def test_a_member_of_an_enumeration_is_its_text(store: tm.Store) -> None:
    """As a key and as a request value; a function gets plain text."""
    keyed = StrEnum("Guests", {"ADA": "ada"})
    request = {"price": 1.5, "code": Plan.EARLY}
    vector = store.online("pricing", {"guest": keyed["ADA"]}, request=request)
    assert dict(vector) == {"offered": "1.5 'early'", "last_at": NOON}


def test_a_moment_of_pandas_is_a_datetime(store: tm.Store) -> None:
    """To the microsecond, as in labels."""
    stamp = pd.Timestamp("2026-05-01T14:00:00.000001234", tz="Europe/Berlin")
    checked = Inputs("request field", [Field("start", TIMESTAMP)]).one({"start": stamp})
    assert [(type(each), each) for each in checked] == [
        (datetime, NOON + timedelta(microseconds=1))
    ]


def test_arrays_of_numpy_are_lists() -> None:
    """Also of one item, which is no number; a number of numpy is a number."""
    inputs = Inputs("request field", [Field("vector", list_of(FLOAT64)), Field("count", INT64)])
    assert inputs.one({"vector": np.array([0.5]), "count": np.int32(7)}) == [[0.5], 7]
    assert inputs.one({"vector": [np.float64(0.5)], "count": 7}) == [[0.5], 7]
    with pytest.raises(RequestInvalid, match="'count' is array"):
        inputs.one({"vector": [], "count": np.array([7])})


@pytest.mark.parametrize("text", ["\ud800", "ada\udfff"])
def test_text_that_is_no_text_is_refused(store: tm.Store, text: str) -> None:
    """Half a surrogate pair cannot be stored or sent."""
    request = {"price": 1.5, "code": text}
    for ask in (
        lambda: store.online("pricing", {"guest": text}, request=request | {"code": "x"}),
        lambda: store.online("pricing", {"guest": "ada"}, request=request),
        lambda: store.online_many("pricing", {"guest": ["ada", text]}, request=request),
    ):
        with pytest.raises(RequestInvalid, match="it must be text that UTF-8 can hold"):
            ask()


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 5, 1),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_a_moment_that_is_none_is_refused(store: tm.Store, moment: datetime) -> None:
    """One without a zone, and one outside the years that there are in UTC."""
    with pytest.raises(RequestInvalid, match="with a time zone, of the years 1 to 9999"):
        store.online(zones, {"guest": "ada"}, request={"start": moment})
