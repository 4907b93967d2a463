"""One meaning, one spelling: whole numbers beside floats, and time zones of several names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

import tidemark as tm
from tidemark import define
from tidemark.define.expressions import Expression
from tidemark.errors import DefinitionError
from tidemark.model.expr import Call, Column, Literal
from tidemark.model.fingerprint import meaning as fingerprint
from tidemark.model.graph import Definitions
from tidemark.model.types import FLOAT64, INT64, STRING
from tidemark.model.zones import LINKS, canonical_zone


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    pieces: tm.Col[int]
    at: tm.Col[datetime]


def lowered(**features) -> Definitions:
    """A view of these features."""
    view = type(
        "View",
        (tm.FeatureView,),
        {"__module__": __name__, **features},
        entity=User,
        source=Purchase,
    )
    return define.lower(view).definitions


def where(condition):
    """The filter of a count, lowered."""
    return lowered(count=tm.count(where=condition)).views[0].features[0].aggregate.where


def meaning(definitions: Definitions) -> str:
    """The fingerprint of the only feature."""
    (view,) = definitions.views
    return fingerprint(view, view.features[0], definitions.source(view.source))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Purchase.amount > 0, Purchase.amount > 0.0),
        (Purchase.amount != 3, Purchase.amount != 3.0),
        (Purchase.amount.is_in([1, 2.5]), Purchase.amount.is_in([1.0, 2.5])),
        (Purchase.amount + 1 > 2, Purchase.amount + 1.0 > 2.0),
        (Purchase.pieces / 2 > 1, Purchase.pieces / 2 > 1.0),
        (~(Purchase.amount > 0), ~(Purchase.amount > 0.0)),
        (tm.sql("amount > 0"), tm.sql("amount > 0.0e0")),
        (tm.sql("amount > 0"), Purchase.amount > 0.0),
    ],
)
def test_a_whole_number_beside_a_float_is_a_float(
    one: Expression[bool], other: Expression[bool]
) -> None:
    """However it is written, and wherever in the condition."""
    assert where(one) == where(other)
    assert meaning(lowered(f=tm.count(where=one))) == meaning(lowered(f=tm.count(where=other)))


def test_a_document_spells_the_same() -> None:
    """`amount > 0` in YAML is `Purchase.amount > 0.0` in Python."""
    document = {
        "entities": {"user": {"keys": {"user_id": "string"}}},
        "sources": {
            "purchase": {
                "time": "at",
                "columns": {
                    "user_id": "string",
                    "amount": "float64",
                    "pieces": "int64",
                    "at": "timestamp",
                },
            }
        },
        "views": {
            "view": {
                "entity": "user",
                "source": "purchase",
                "features": {"count": {"function": "count", "where": "amount > 0"}},
            }
        },
    }
    said = define.lower(tm.load(document)).definitions
    assert meaning(said) == meaning(lowered(count=tm.count(where=Purchase.amount > 0.0)))


def test_a_whole_number_beside_a_whole_number_stays_one() -> None:
    """Beyond 2**53, floats would tell fewer of them apart."""
    assert where(Purchase.pieces > 2**53 + 1) == Call(
        "gt", (Column("pieces"), Literal(2**53 + 1, INT64))
    )


def test_a_null_beside_a_float_is_a_float() -> None:
    """As in the branch of a choice that gives nothing."""
    value = tm.when(Purchase.amount > 1, Purchase.amount).otherwise(0)
    node = lowered(total=tm.sum(value)).views[0].features[0].aggregate.value
    assert node == Call(
        "when",
        (
            Call("gt", (Column("amount"), Literal(1.0, FLOAT64))),
            Column("amount"),
            Literal(0.0, FLOAT64),
        ),
    )


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("US/Eastern", "America/New_York"),
        ("Etc/UTC", "UTC"),
        ("Zulu", "UTC"),
        ("Etc/GMT", "UTC"),
        ("Asia/Calcutta", "Asia/Kolkata"),
        ("Europe/Kiev", "Europe/Kyiv"),
        ("Europe/Oslo", "Europe/Oslo"),
    ],
)
def test_a_zone_has_one_name(alias: str, name: str) -> None:
    """Links of the IANA database; zones that agree since 1970 only stay two."""
    assert canonical_zone(alias) == name


def test_a_window_of_the_calendar_means_the_same_under_both_names() -> None:
    """Fingerprint and definition are one."""
    one = lowered(f=tm.count(over=tm.to_date("day", "US/Eastern")))
    other = lowered(f=tm.count(over=tm.to_date("day", "America/New_York")))
    assert one == other
    assert meaning(one) == meaning(other)


def test_an_hour_means_the_same_under_both_names() -> None:
    """The zone of an expression; none is UTC."""
    assert where(Purchase.at.hour("US/Eastern") > 8) == where(
        Purchase.at.hour("America/New_York") > 8
    )
    assert where(Purchase.at.hour("Etc/UTC") > 8) == where(Purchase.at.hour() > 8)
    assert where(Purchase.at.hour("Asia/Calcutta") > 8) == Call(
        "gt",
        (
            Call("hour", (Column("at"), Literal("Asia/Kolkata", STRING))),
            Literal(8, INT64),
        ),
    )


def test_a_source_means_the_same_under_both_names() -> None:
    """The zone of a column that carries none."""

    def read(zone: str) -> str:
        source = type(
            "Local",
            (tm.Source,),
            {
                "__module__": __name__,
                "__annotations__": {"user_id": tm.Col[str], "at": tm.Col[datetime]},
            },
            time="at",
            timezone=zone,
        )
        view = type(
            "View",
            (tm.FeatureView,),
            {"__module__": __name__, "f": tm.count(over="1d")},
            entity=User,
            source=source,
        )
        return meaning(define.lower(view).definitions)

    assert read("US/Pacific") == read("America/Los_Angeles") != read("America/Denver")


def test_a_plan_sees_no_change_in_another_name_of_a_zone() -> None:
    """Spelling is not meaning."""

    class Today(tm.FeatureView, entity=User, source=Purchase, name="today"):
        visits = tm.count(where=Purchase.amount > 0, over=tm.to_date("day", "US/Eastern"))

    class Same(tm.FeatureView, entity=User, source=Purchase, name="today"):
        visits = tm.count(where=Purchase.amount > 0.0, over=tm.to_date("day", "America/New_York"))

    with tm.connect(":memory:") as store:
        store.apply(store.plan(Today))
        assert store.plan(Same).empty


def test_the_names_of_a_zone_tell_one_time() -> None:
    """Every link of the table, hour by hour in some years, where this machine knows the name."""
    known = available_timezones()
    moments = [
        datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
        for year in (1995, 2010, 2025)
        for hours in range(0, 8_760, 7)
    ]
    for alias, name in LINKS.items():
        if alias in known and name in known:
            one, other = ZoneInfo(alias), ZoneInfo(name)
            assert all(
                at.astimezone(one).utcoffset() == at.astimezone(other).utcoffset() for at in moments
            ), alias


def test_no_link_leads_to_a_link() -> None:
    """One step finds the name that stands for a zone."""
    assert not set(LINKS.values()) & set(LINKS)


@pytest.mark.parametrize(
    ("feature", "what"),
    [
        (
            {"function": "sum", "value": "amount", "n": 3},
            "sum takes no n, and n=3 is given.",
        ),
        (
            {"function": "mean", "value": "amount", "q": 0.9},
            "mean takes no q, and q=0.9 is given.",
        ),
        (
            {"function": "count", "ddof": 0},
            "count takes no ddof, and ddof=0 is given.",
        ),
    ],
)
def test_a_parameter_that_is_not_read_is_refused(feature: dict[str, object], what: str) -> None:
    """Else it would look like a meaning and have none."""
    document = {
        "entities": {"user": {"keys": {"user_id": "string"}}},
        "sources": {
            "purchase": {
                "time": "at",
                "columns": {"user_id": "string", "amount": "float64", "at": "timestamp"},
            }
        },
        "views": {"view": {"entity": "user", "source": "purchase", "features": {"f": feature}}},
    }
    with pytest.raises(DefinitionError, match=r"takes no") as caught:
        define.lower(tm.load(document))
    assert what in str(caught.value)
