"""What a caller of the HTTP service may pass, and what the service says that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.spec.http_server import Direct, limits  # skips where the extra is not installed

import tidemark as tm
from tidemark.apps.http.service import Service
from tidemark.client.vectors import columns_of, to_json
from tidemark.errors import RequestInvalid

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
BOOKED = pa.table({"guest": ["ada"], "at": pa.array([NOON], pa.timestamp("us", "UTC"))})


class Guest(tm.Entity):
    """Somebody who stays."""

    guest: tm.Key[str]


class Booking(tm.Source, history=tm.frame(BOOKED), time="at"):
    """A room that was booked."""

    guest: tm.Col[str]
    at: tm.Col[datetime]


class Bookings(tm.FeatureView, entity=Guest, source=Booking):
    """What a guest has booked."""

    booked = tm.count()


class Offer(tm.Request):
    """What is asked for."""

    price: tm.Col[float]
    code: tm.Col[str | None]
    extras: tm.Col[list[str]]


@tm.on_demand(price=Offer.price, code=Offer.code, extras=Offer.extras)
def offered(price: float, code: str | None, extras: list[str]) -> str:
    """The values as a function gets them."""
    return f"{price!r} {code!r} {extras!r}"


class Pricing(tm.FeatureService):
    """Inputs of a model."""

    booked = Bookings.booked
    offered = offered


@pytest.fixture
def served() -> Iterator[Direct]:
    """The service of a store whose online state is written, and of one model."""
    with tm.connect(":memory:") as store:
        store.apply(store.plan([Pricing]))
        store.materialize()
        store.registry.register_model("upsell", 3, service=Pricing)
        service = Service(store, limits())
        service.access.refresh()
        yield Direct(service)


def test_the_contract_says_what_may_be_null(served: Direct) -> None:
    """Of the request, what its type says; keys never; items of lists always."""
    _, _, told = served.ask("GET", "/v1/services/pricing")
    assert {each["name"]: each["optional"] for each in told["request"]} == {
        "price": False, "code": True, "extras": False,
    }  # fmt: skip
    one = told["body"]["properties"]["request"]["anyOf"][0]["properties"]
    null = {"type": "null"}
    assert one["code"] == {"anyOf": [{"type": "string"}, null]}
    assert null not in one["price"]["anyOf"]
    assert one["extras"] == {"type": "array", "items": {"anyOf": [{"type": "string"}, null]}}


def test_a_model_is_read_by_its_pins(served: Direct) -> None:
    """As `store.online("model:upsell@3", ...)` reads it."""
    request = {"price": 1.5, "code": None, "extras": ["late"]}
    body = {"features": ["model:upsell@3"], "keys": {"guest": "ada"}, "request": request}
    status, _, told = served.ask("POST", "/v1/features/online", body)
    assert status == 200
    assert told["features"] == {"booked": "bookings:booked@1", "offered": "offered@1"}
    assert told["values"] == {"booked": 1, "offered": "1.5 None ['late']"}
    body["features"] = ["model:upsell@4"]
    assert served.ask("POST", "/v1/features/online", body)[0] == 404


Colour = StrEnum("Colour", {"RED": "red"})


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.int32(7), 7),
        (np.bool_(True), True),
        (np.array([0.5, np.nan]), [0.5, "NaN"]),
        (np.array([7]), [7]),
        (np.array([["a"], ["b"]]), [["a"], ["b"]]),
        ([np.float64(0.5)], [0.5]),
        (Colour["RED"], "red"),
        (pd.Timestamp("2026-05-01T14:00", tz="Europe/Berlin"), "2026-05-01T12:00:00+00:00"),
    ],
)
def test_values_of_numpy_and_pandas_are_sent(value: Any, sent: Any) -> None:
    """As the JSON of what they are; an array is a list, also of one item."""
    assert to_json(value) == sent


@pytest.mark.parametrize(
    "keys",
    [
        {"guest": pd.Series(["ada", "bob"])},
        pd.DataFrame({"guest": ["ada", "bob"]}),
        pa.table({"guest": ["ada", "bob"]}),
    ],
)
def test_keys_may_be_a_frame(keys: Any) -> None:
    """Whatever gives Arrow, as `store.online_many` takes it."""
    assert columns_of(keys) == {"guest": ["ada", "bob"]}


@pytest.mark.parametrize("keys", [7, "ada", b"ada", None])
def test_what_is_no_rows_is_refused(keys: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(RequestInvalid, match="is not rows"):
        columns_of(keys)
