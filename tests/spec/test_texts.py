"""How definitions look in a notebook: one line that says what they are."""

from __future__ import annotations

from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, time="at"):
    """What was bought."""

    user_id: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Checkout(tm.Request):
    """What the caller knows."""

    amount: tm.Col[float]


class UserSpend(tm.FeatureView, entity=User, source=Purchase):
    """What a user has bought."""

    spend = tm.sum(Purchase.amount, over=("1h", "7d"))
    typical = tm.mean(Purchase.amount, version=2)


class Many(tm.FeatureView, entity=User, source=Purchase):
    """More than fits into a line."""

    n = tm.count(over=[f"{days}d" for days in range(1, 10)])


class Fraud(tm.FeatureService):
    """Inputs of the fraud model."""

    week = UserSpend.spend["7d"]
    amount = Checkout.amount


class Short(tm.FeatureService, features=[UserSpend.spend, UserSpend.typical]):
    """Features under their own names."""


class Base(tm.FeatureView, abstract=True, owner="risk@example.com"):
    """Lends its owner only."""


def test_a_class_says_its_kind_its_name_and_what_it_lists() -> None:
    """A view also says whom it describes."""
    assert [repr(each) for each in (User, Purchase, Checkout, UserSpend, Fraud, Short)] == [
        "<Entity user: user_id>",
        "<Source purchase: user_id, amount, at>",
        "<Request checkout: amount>",
        "<FeatureView user_spend of user: spend_1h, spend_7d, typical>",
        "<FeatureService fraud: week, amount>",
        "<FeatureService short: spend_1h, spend_7d, typical>",
    ]


def test_a_long_list_is_cut() -> None:
    """One line, however many features there are."""
    assert repr(Many) == (
        "<FeatureView many of user: n_1d, n_2d, n_3d, n_4d, n_5d, n_6d, n_7d, n_8d, ...>"
    )


def test_what_lists_nothing_says_so() -> None:
    """A class that only lends; the bases of Tidemark are classes as any other."""
    assert repr(Base) == "<FeatureView base: nothing>"
    assert repr(tm.Entity) == "<class 'tidemark.define.declarations.Entity'>"


def test_a_feature_is_its_reference() -> None:
    """With its version; an attribute of several windows is several features."""
    assert repr(UserSpend.typical) == "user_spend:typical@2"
    assert repr(UserSpend.spend["7d"]) == "user_spend:spend_7d@1"
    assert repr(UserSpend.spend) == "user_spend:spend_1h@1, user_spend:spend_7d@1"
