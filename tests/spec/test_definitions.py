"""What definitions mean: classes, and the same in YAML and as objects of the model."""

import sys
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

import tidemark as tm
from tidemark import define
from tidemark.errors import DefinitionError
from tidemark.model import graph, types
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Column, Literal
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP
from tidemark.model.window import DAY, HOUR, Window


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(
    tm.Source,
    history=tm.parquet("data/purchases/*.parquet"),
    time="purchased_at",
    timezone="UTC",
    unique=("order_id",),
):
    """Card purchases, as the payment gateway reported them."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    amount: tm.Col[float]
    merchant: tm.Col[str]
    status: tm.Col[str]
    purchased_at: tm.Col[datetime]


class UserSpend(
    tm.FeatureView, entity=User, source=Purchase, owner="risk@acme.com", freshness="5m"
):
    """What a user has bought, counting settled purchases only."""

    settled = Purchase.status == "settled"

    purchases = tm.count(where=settled, over=("1h", "7d"))
    spend = tm.sum(Purchase.amount, where=settled, over=("7d", "30d"))
    typical = tm.mean(Purchase.amount, where=settled, over="30d")
    last_merchant = tm.last(Purchase.merchant)


class Checkout(tm.Request):
    """What the caller knows at decision time."""

    amount: tm.Col[float]


@tm.on_demand(amount=Checkout.amount, typical=UserSpend.typical)
def amount_ratio(amount: float, typical: float | None) -> float:
    """This purchase against the user's 30-day mean; 1.0 for a new user."""
    return amount / typical if typical else 1.0


class Fraud(tm.FeatureService, owner="risk@acme.com"):
    """Inputs of the fraud model."""

    purchases_1h = UserSpend.purchases["1h"]
    spend_7d = UserSpend.spend["7d"]
    last_merchant = UserSpend.last_merchant
    ratio = amount_ratio


YAML = """
entities:
  user: {description: A person with an account., keys: {user_id: string}}
sources:
  purchase:
    description: Card purchases, as the payment gateway reported them.
    history: {parquet: data/purchases/*.parquet}
    time: purchased_at
    timezone: UTC
    unique: [order_id]
    columns:
      order_id: string
      user_id: string
      amount: float64
      merchant: string
      status: {type: string}
      purchased_at: timestamp
views:
  user_spend:
    description: What a user has bought, counting settled purchases only.
    owner: risk@acme.com
    entity: user
    source: purchase
    freshness: 5m
    features:
      purchases: {function: count, where: status = 'settled', over: [1h, 7d]}
      spend: {function: sum, value: amount, filter: status = 'settled', window: [7d, 30d]}
      typical: {function: mean, column: amount, where: status = 'settled', over: 30d}
      last_merchant: {aggregation: {function: last, value: merchant}}
requests:
  - name: checkout
    description: What the caller knows at decision time.
    fields: {amount: float64}
on_demand:
  amount_ratio:
    description: This purchase against the user's 30-day mean; 1.0 for a new user.
    function: MODULE:amount_ratio
    inputs: {amount: checkout.amount, typical: user_spend:typical}
    type: float64
services:
  fraud:
    description: Inputs of the fraud model.
    owner: risk@acme.com
    features:
      purchases_1h: user_spend:purchases_1h
      spend_7d: user_spend:spend_7d
      last_merchant: user_spend:last_merchant
      ratio: amount_ratio
"""

SETTLED = Call("eq", (Column("status"), Literal("settled", STRING)))
DESCRIPTION = "Card purchases, as the payment gateway reported them."

MODEL = [
    graph.Entity(
        name="user", description="A person with an account.", keys=(graph.Field("user_id", STRING),)
    ),
    graph.Source(
        name="purchase",
        description=DESCRIPTION,
        columns=(
            graph.Field("order_id", STRING),
            graph.Field("user_id", STRING),
            graph.Field("amount", FLOAT64),
            graph.Field("merchant", STRING),
            graph.Field("status", STRING),
            graph.Field("purchased_at", TIMESTAMP),
        ),
        time="purchased_at",
        history=graph.Parquet("data/purchases/*.parquet"),
        timezone="UTC",
        unique=("order_id",),
    ),
    graph.FeatureView(
        name="user_spend",
        description="What a user has bought, counting settled purchases only.",
        owner="risk@acme.com",
        entity="user",
        source="purchase",
        keys=("user_id",),
        freshness=300_000_000,
        features=(
            *(
                graph.Feature(
                    name=f"purchases_{label}",
                    aggregate=Aggregate("count", None, SETTLED, Window("sliding", length)),
                    type=INT64,
                    attribute="purchases",
                )
                for label, length in (("1h", HOUR), ("7d", 7 * DAY))
            ),
            *(
                graph.Feature(
                    name=f"spend_{label}",
                    aggregate=Aggregate(
                        "sum", Column("amount"), SETTLED, Window("sliding", length)
                    ),
                    type=FLOAT64,
                    attribute="spend",
                )
                for label, length in (("7d", 7 * DAY), ("30d", 30 * DAY))
            ),
            graph.Feature(
                name="typical",
                aggregate=Aggregate("mean", Column("amount"), SETTLED, Window("sliding", 30 * DAY)),
                type=FLOAT64,
                attribute="typical",
            ),
            graph.Feature(
                name="last_merchant",
                aggregate=Aggregate("last", Column("merchant")),
                type=STRING,
                attribute="last_merchant",
            ),
        ),
    ),
    graph.Request(
        name="checkout",
        description="What the caller knows at decision time.",
        fields=(graph.Field("amount", FLOAT64),),
    ),
    graph.OnDemand(
        name="amount_ratio",
        description="This purchase against the user's 30-day mean; 1.0 for a new user.",
        function=f"{__name__}:amount_ratio",
        inputs=(
            graph.Input("amount", graph.Reference("request", "amount", "checkout")),
            graph.Input("typical", graph.Reference("feature", "typical", "user_spend")),
        ),
        type=FLOAT64,
    ),
    graph.FeatureService(
        name="fraud",
        description="Inputs of the fraud model.",
        owner="risk@acme.com",
        outputs=(
            graph.Output("purchases_1h", graph.Reference("feature", "purchases_1h", "user_spend")),
            graph.Output("spend_7d", graph.Reference("feature", "spend_7d", "user_spend")),
            graph.Output(
                "last_merchant", graph.Reference("feature", "last_merchant", "user_spend")
            ),
            graph.Output("ratio", graph.Reference("on_demand", "amount_ratio")),
        ),
    ),
]


def view_of(cls: type[tm.FeatureView]) -> graph.FeatureView:
    return define.lower(cls).definitions.view(cls.__about__.name)


def test_the_three_spellings_are_the_same_objects(tmp_path: Path) -> None:
    """Classes, YAML and objects of the model give equal definitions."""
    file = tmp_path / "features.yaml"
    file.write_text(YAML.replace("MODULE", __name__))
    classes = define.lower(Fraud).definitions
    assert classes == define.lower(MODEL).definitions
    assert classes == define.lower(tm.load(file)).definitions
    assert sorted(tm.load(file), key=str) == sorted(MODEL, key=str)


def test_a_service_brings_everything_it_refers_to() -> None:
    """Planning one class plans its views, sources, entities, functions and requests."""
    everything = define.lower(User, Purchase, UserSpend, Checkout, amount_ratio, Fraud)
    assert define.lower(Fraud).definitions == everything.definitions
    assert define.lower(sys.modules[__name__]).definitions.service("fraud")


def test_an_on_demand_function_stays_a_function() -> None:
    """A unit test calls it with plain arguments; the registry keeps its importable name."""
    assert amount_ratio(30.0, 10.0) == 3.0
    assert amount_ratio(30.0, None) == 1.0
    lowered = define.lower(amount_ratio)
    assert lowered.functions["amount_ratio@1"] is amount_ratio.function
    assert lowered.definitions.on_demand[0].function == f"{__name__}:amount_ratio"


def test_several_windows_fan_out() -> None:
    """`over=("7d", "30d")` declares two features, and each is reached by its window."""
    names = [feature.name for feature in view_of(UserSpend).features]
    assert names[:4] == ["purchases_1h", "purchases_7d", "spend_7d", "spend_30d"]
    assert UserSpend.spend["7d"].name == "spend_7d"
    assert UserSpend.spend[timedelta(days=7)].name == "spend_7d"
    assert UserSpend.spend["1w"].name == "spend_7d"


def test_one_window_keeps_the_attributes_name() -> None:
    """`over="30d"` is one feature, and the attribute is the reference to it."""
    assert UserSpend.typical.name == "typical"
    assert UserSpend.typical["30d"].name == "typical"


def test_a_tuple_of_one_window_fans_out_too() -> None:
    """A second window may follow without renaming the first."""

    class One(tm.FeatureView, entity=User, source=Purchase):
        spend = tm.sum(Purchase.amount, over=("30d",))

    assert [feature.name for feature in view_of(One).features] == ["spend_30d"]


def test_an_undeclared_window_lists_those_there_are() -> None:
    """A typo in a window says what could be meant."""
    with pytest.raises(DefinitionError, match=r"Its windows: 7d, 30d\.") as caught:
        UserSpend.spend["90d"]
    assert caught.value.what == "UserSpend.spend has no window '90d'."
    assert 'UserSpend.spend["90d"]' in caught.value.where


def test_a_window_is_picked_by_its_part_of_the_name_too() -> None:
    """A calendar window and all time have no duration to say."""

    class View(tm.FeatureView, entity=User, source=Purchase):
        n = tm.count(over=("7d", tm.to_date("month"), None))

    class Picked(tm.FeatureService):
        month = View.n["month_to_date"]
        ever = View.n["all"]
        same = View.n[tm.to_date("month")]

    outputs = define.lower(Picked).definitions.service("picked").outputs
    assert [str(each.reference) for each in outputs] == [
        "view:n_month_to_date@1",
        "view:n_all@1",
        "view:n_month_to_date@1",
    ]


def test_every_kind_of_window_has_a_name() -> None:
    """All time is `all`, a calendar window `month_to_date`, a timedelta its shortest text."""

    class Kinds(tm.FeatureView, entity=User, source=Purchase):
        n = tm.count(over=(None, "12h", timedelta(hours=36), tm.to_date("month", "Asia/Tokyo")))
        lately = tm.count(over="7d", offset="1d")
        few = tm.mean(Purchase.amount, rows=3)

    assert {f.name: f.aggregate.window for f in view_of(Kinds).features} == {
        "n_all": Window(),
        "n_12h": Window("sliding", 12 * HOUR),
        "n_36h": Window("sliding", 36 * HOUR),
        "n_month_to_date": Window("to_date", unit="month", zone="Asia/Tokyo"),
        "lately": Window("sliding", 7 * DAY, DAY),
        "few": Window(rows=3),
    }


def test_expressions_in_a_view_are_not_features() -> None:
    """`settled` is a word for a filter."""
    assert "settled" not in {feature.name for feature in view_of(UserSpend).features}


class Profile(tm.Source, time=None, history=tm.csv("profiles.csv")):
    user_id: tm.Col[str]
    segment: tm.Col[str]
    plan: tm.Col[str | None]


def test_columns_are_short_for_latest_of_each() -> None:
    """A view of stored columns needs no aggregates."""

    class UserProfile(
        tm.FeatureView,
        entity=User,
        source=Profile,
        columns=[Profile.segment, Profile.plan],
        max_age="7d",
    ):
        """What a user told us."""

        segment: tm.Feature[str]

    assert view_of(UserProfile).features == tuple(
        graph.Feature(
            name=name, aggregate=Aggregate("latest", Column(name)), type=STRING, attribute=name
        )
        for name in ("segment", "plan")
    )
    assert view_of(UserProfile).max_age == 7 * DAY
    assert UserProfile.segment.name == "segment"


@pytest.mark.parametrize("columns", [Profile.segment, "segment", ("segment",), [Profile.segment]])
def test_one_column_needs_no_list(columns: Any) -> None:
    """And its name is enough, since the view says the source."""

    class Segment(tm.FeatureView, entity=User, source=Profile, columns=columns):
        """Who a user is to marketing."""

    assert [feature.name for feature in view_of(Segment).features] == ["segment"]


def test_a_window_that_is_asked_for_by_the_feature_s_name() -> None:
    """`spend_7d` is what it is called, not how it is written."""
    with pytest.raises(DefinitionError) as raised:
        _ = UserSpend.spend_7d  # type: ignore[attr-defined]
    assert raised.value.what == "UserSpend has no feature 'spend_7d'."
    assert raised.value.remedy == 'Write UserSpend.spend["7d"].'


def test_what_is_no_path_is_refused_where_it_is_written() -> None:
    """A connection that is open in this process is nothing that a registry could keep."""
    with pytest.raises(DefinitionError, match="is not a path") as raised:
        tm.table("stays", connection=object())  # type: ignore[arg-type]
    assert 'tm.table("stays"' in raised.value.where
    with pytest.raises(DefinitionError, match="Several paths are not a path"):
        tm.parquet(["a.parquet", "b.parquet"])  # type: ignore[arg-type]


def test_a_zone_is_its_name_or_python_s_object() -> None:
    """One definition, however its zone is written; so is the zone of labels."""
    newyork = ZoneInfo("America/New_York")
    clocks = pa.table({"user_id": ["ada"], "at": [datetime(2026, 1, 15, 23)]})

    def counted(zone: str | ZoneInfo) -> tuple[list[dict[str, Any]], object]:
        class Visit(tm.Source, history=tm.frame(clocks), time="at", timezone=zone):
            user_id: tm.Col[str]
            at: tm.Col[datetime]

        class Visits(tm.FeatureView, entity=User, source=Visit):
            today = tm.count(over=tm.to_date("day", zone))
            late = tm.count(where=Visit.at.hour(zone) > 22, over="1d")

        with tm.connect(":memory:") as store:
            store.apply(store.plan([Visits]))
            found = store.training_set(Visits, clocks, timezone=zone).to_arrow()
        return found.to_pylist(), define.lower(Visits).definitions

    assert counted(newyork) == counted("America/New_York")
    assert counted(newyork)[0] == [
        {"user_id": "ada", "at": datetime(2026, 1, 15, 23), "today": 1, "late": 1}
    ]


class Seat(tm.Entity):
    row: tm.Key[int]
    letter: tm.Key[str]


class Booking(tm.Source, time="at"):
    at: tm.Col[datetime]
    seat_row: tm.Col[int]
    seat_letter: tm.Col[str]
    row: tm.Col[int]


def test_keys_are_found_by_name_or_said_by_by() -> None:
    """`by=` takes a column, a tuple in the entity's order, or a mapping from keys."""

    class Renamed(tm.FeatureView, entity=User, source=Purchase, by=Purchase.merchant):
        n = tm.count()

    class Tuple(
        tm.FeatureView, entity=Seat, source=Booking, by=(Booking.seat_row, Booking.seat_letter)
    ):
        n = tm.count()

    class Mapped(tm.FeatureView, entity=Seat, source=Booking, by={"letter": Booking.seat_letter}):
        n = tm.count()

    assert view_of(Renamed).keys == ("merchant",)
    assert view_of(Tuple).keys == ("seat_row", "seat_letter")
    assert view_of(Mapped).keys == ("row", "seat_letter")


def test_abstract_classes_lend_columns_and_arguments() -> None:
    """What several sources share is declared once."""

    class Stamped(tm.Source, abstract=True, time="at", timezone="Europe/Paris"):
        at: tm.Col[datetime]

    class Visit(Stamped, history=tm.table("lake.visits")):
        user_id: tm.Col[str]

    class Counted(tm.FeatureView, abstract=True, entity=User):
        seen = tm.count(over="7d")

    class Visits(Counted, source=Visit):
        newest = tm.last(Visit.at)

    definitions = define.lower(Visits).definitions
    assert [source.name for source in definitions.sources] == ["visit"]
    assert definitions.source("visit").timezone == "Europe/Paris"
    assert list(definitions.source("visit").types) == ["at", "user_id"]
    assert [feature.name for feature in definitions.view("visits").features] == ["seen", "newest"]


def test_annotations_say_types() -> None:
    """Python's types, decimals and vectors by assignment or in `Annotated`, null where expected."""

    class Typed(tm.Source, time=None):
        price: tm.Col[Decimal] = tm.decimal(18, 2, description="In euros.")
        tax: tm.Col[Annotated[Decimal, tm.decimal(9, 4)]]
        taste: tm.Col[list[float]] = tm.vector(128)
        mood: tm.Col[Annotated[list[float], tm.vector(3)] | None]
        words: tm.Col[list[str]]
        raw: tm.Col[bytes | None] = tm.column(description="As sent.", tags=["pii"])

    columns = define.lower(Typed).definitions.source("typed").columns
    assert columns == (
        graph.Field("price", types.decimal(18, 2), "In euros."),
        graph.Field("tax", types.decimal(9, 4)),
        graph.Field("taste", types.vector(128)),
        graph.Field("mood", types.vector(3)),
        graph.Field("words", types.list_of(STRING)),
        graph.Field("raw", types.BYTES, "As sent.", ("pii",)),
    )


def test_a_column_may_have_a_name_that_python_cannot_spell() -> None:
    """The attribute is what Python says, `name=` what the file says."""

    class Order(tm.Source, time="Ordered At", history=tm.csv("orders.csv")):
        order_id: tm.Col[str] = tm.column(name="Order ID")
        ordered_at: tm.Col[datetime] = tm.column(name="Ordered At")
        user_id: tm.Col[str]

    class Orders(tm.FeatureView, entity=User, source=Order, columns=[Order.order_id]):
        n = tm.count(where=Order.order_id + "!" != "x!")

    assert [*define.lower(Order).definitions.source("order").types] == [
        "Order ID",
        "Ordered At",
        "user_id",
    ]
    order_id, _ = view_of(Orders).features
    assert order_id.aggregate.value == Column("Order ID")


def test_names_come_from_classes_unless_said() -> None:
    """`HTTPLog` is `http_log`."""

    class HTTPLog(tm.Entity):
        id: tm.Key[int]

    class Old(tm.Entity, name="legacy_user"):
        id: tm.Key[int]

    assert [e.name for e in define.lower(HTTPLog, Old).definitions.entities] == [
        "http_log",
        "legacy_user",
    ]


def test_frames_are_held_by_this_process_only() -> None:
    """The registry keeps that there was a frame; the object goes to the engine."""
    rows = pa.table({"user_id": ["u1"]})

    class Held(tm.Source, time=None, history=tm.frame(rows)):
        user_id: tm.Col[str]

    lowered = define.lower(Held)
    assert lowered.definitions.source("held").history == graph.Frame("held")
    assert lowered.frames["held"] is rows


def test_a_service_may_list_features_under_their_own_names() -> None:
    """The short form; a view stands for all of its features."""

    class Short(tm.FeatureService, features=[UserSpend.spend, amount_ratio, "user_spend:typical"]):
        pass

    outputs = define.lower(Short).definitions.service("short").outputs
    assert [output.name for output in outputs] == [
        "spend_7d",
        "spend_30d",
        "amount_ratio",
        "typical",
    ]


def test_a_reference_carries_the_version_of_its_feature() -> None:
    """Text without a version means the one that is defined."""

    class Second(tm.FeatureView, entity=User, source=Purchase):
        n = tm.count(version=2)

    class Reads(tm.FeatureService):
        by_object = Second.n
        by_text = "second:n"

    outputs = define.lower(Reads, Second).definitions.service("reads").outputs
    assert [output.reference.version for output in outputs] == [2, 2]


def test_importing_a_declaration_is_not_instantiating_it() -> None:
    """The class itself is the definition."""
    with pytest.raises(TypeError, match="use the class itself"):
        User()
