"""Mistakes that a type checker finds before anything runs; each is on a line marked `# wrong`."""

from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    user_id: tm.Key[str]


class Purchase(tm.Source, time="at"):
    user_id: tm.Col[str]
    amount: tm.Col[float]
    merchant: tm.Col[str]
    paid: tm.Col[bool]
    at: tm.Col[datetime]


class Wrong(tm.Source, tme="at"):  # wrong
    at: tm.Col[datetime]


class UserSpend(tm.FeatureView, entity=User, source=Purchase):
    misspelled = tm.mean(Purchase.amont)  # wrong
    text = tm.sum(Purchase.merchant)  # wrong
    number = tm.sum(3)  # wrong
    condition = tm.count(where=Purchase.amount)  # wrong
    compared = tm.count(where=Purchase.merchant > 3)  # wrong
    added = tm.sum(Purchase.amount + "1")  # wrong
    joined = tm.count(where=Purchase.paid & "yes")  # wrong
    negated = tm.count(where=~Purchase.amount)  # wrong
    upper = tm.last(Purchase.amount.upper())  # wrong
    hour = tm.last(Purchase.merchant.hour())  # wrong
    window = tm.count(over=7)  # wrong
    unknown = tm.count(window="7d")  # wrong
    default = tm.mean(Purchase.amount, default="none")  # wrong
    number_of = tm.last_n(Purchase.merchant, "3")  # wrong
    some = tm.any(Purchase.merchant)  # wrong
    right = tm.mean(Purchase.amount)


class Other(tm.FeatureView, entity=Purchase, source=Purchase):  # wrong
    right = tm.count()


class Aged(tm.FeatureView, entity=User, source=Purchase, bound="after"):  # wrong
    right = tm.count()


@tm.on_demand(right=3)  # wrong
def doubled(right: float) -> float:
    return right * 2


doubled("3")  # wrong


class Fraud(tm.FeatureService):
    absent = UserSpend.absent  # wrong
    window = UserSpend.right[7]  # wrong
