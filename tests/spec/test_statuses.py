"""Statuses and ages: what a caller can tell of a value besides the value itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.spec.shop import DAY, HOUR, MICRO, NOON, bought, shop

from tidemark.serve import Status

PRESENT, NULL, EXPIRED, MISSING = Status

U1 = {"user_id": "u1"}


def test_a_value_is_present():
    """An entity has events, and they give a value; a count of 0 is a value."""
    with shop(bought("u1", NOON - DAY)) as store:
        vector = store.online(["spending:spend_7d", "spending:purchases_1h"], U1, at=NOON)
    assert (vector["spend_7d"], vector.status("spend_7d")) == (1.0, PRESENT)
    assert (vector["purchases_1h"], vector.status("purchases_1h")) == (0, PRESENT)


def test_a_value_is_null():
    """The entity is known, but nothing in the window gives a value."""
    with shop(bought("u1", NOON - 8 * DAY)) as store:
        vector = store.online(["spending:spend_7d", "spending:spend_30d"], U1, at=NOON)
    assert (vector["spend_7d"], vector.status("spend_7d")) == (None, NULL)
    assert (vector["spend_30d"], vector.status("spend_30d")) == (1.0, PRESENT)


def test_a_stored_null_is_null():
    """The newest row has none; `last` looks further back, `latest` does not."""
    rows = [bought("u1", NOON - HOUR), bought("u1", NOON, merchant=None)]
    with shop(*rows) as store:
        vector = store.online(["habits:shop", "habits:newest_shop"], U1, at=NOON)
    assert (vector["newest_shop"], vector.status("newest_shop")) == (None, NULL)
    assert vector.age("newest_shop") == timedelta(0)
    assert (vector["shop"], vector.status("shop")) == ("a", PRESENT)
    assert vector.age("shop") == HOUR


@pytest.mark.parametrize(
    ("age", "value", "status"), [(DAY, "a", PRESENT), (DAY + MICRO, None, EXPIRED)]
)
def test_a_value_older_than_max_age_is_expired(age, value, status):
    """A value of exactly that age still counts."""
    with shop(bought("u1", NOON - age)) as store:
        vector = store.online(["habits:shop", "habits:newest_shop"], U1, at=NOON)
    assert (vector["shop"], vector.status("shop")) == (value, status)
    assert (vector["newest_shop"], vector.status("newest_shop")) == (value, status)
    assert vector.age("shop") == age


def test_a_list_expires_as_a_whole_or_in_part():
    """Each of its values has its own age."""
    old, new = bought("u1", NOON - 2 * DAY), bought("u1", NOON - HOUR, merchant="b")
    with shop(old, new) as store:
        half = store.online(["habits:shops"], U1, at=NOON)
        none = store.online(["habits:shops"], U1, at=NOON + DAY)
    assert (half["shops"], half.status("shops")) == (["b"], PRESENT)
    assert (none["shops"], none.status("shops")) == (None, EXPIRED)


def test_max_age_leaves_what_is_computed_alone():
    """A count is no stored value."""
    with shop(bought("u1", NOON - 2 * DAY)) as store:
        vector = store.online(["habits:visits"], U1, at=NOON)
    assert (vector["visits"], vector.status("visits")) == (1, PRESENT)


def test_an_expired_value_gives_its_default():
    """The value follows the definition whatever the status."""
    with shop(bought("u1", NOON - 2 * DAY)) as store:
        vector = store.online(["habits:recent"], U1, at=NOON)
        gone = store.online(["habits:recent"], U1, at=NOON + 6 * DAY)
    assert (vector["recent"], vector.status("recent")) == ("none", EXPIRED)
    assert (gone["recent"], gone.status("recent")) == ("none", PRESENT)


def test_an_unknown_entity_is_missing():
    """Its values are those of nothing: 0 for a count, the default where there is one, else null."""
    with shop(bought("u1", NOON)) as store:
        vector = store.online("spending", {"user_id": "nobody"}, at=NOON)
    assert {vector.status(name) for name in vector} == {MISSING}
    assert (vector["purchases_7d"], vector["items"], vector["spend_7d"]) == (0, -1, None)
    assert {vector.age(name) for name in vector} == {None}


@pytest.mark.parametrize(
    ("seen", "status"), [(NOON, PRESENT), (NOON + MICRO, MISSING), (NOON + HOUR, MISSING)]
)
def test_an_entity_is_missing_until_its_first_event_is_seen(seen, status):
    """As of a moment before, nothing was known of it."""
    with shop(bought("u1", NOON - DAY, seen=seen), until=NOON + DAY) as store:
        vector = store.online(["spending:purchases_7d"], U1, at=NOON)
    assert vector.status("purchases_7d") == status
    assert vector["purchases_7d"] == (1 if status == PRESENT else 0)


def test_the_age_is_that_of_the_newest_event_that_counted():
    """A filter and a null leave events out."""
    rows = [
        bought("u1", NOON - 3 * HOUR),
        bought("u1", NOON - 2 * HOUR, settled=False),
        bought("u1", NOON - HOUR, settled=False, amount=None),
    ]
    with shop(*rows) as store:
        vector = store.online("spending", U1, at=NOON)
    assert vector.age("purchases_7d") == HOUR
    assert vector.age("settled") == 3 * HOUR
    assert vector.age("spend_7d") == 2 * HOUR
    assert vector.age("purchases_1h") is None


def test_on_demand_values_are_present_or_null():
    """They come from no events of their own, so they have no age."""
    with shop(bought("u1", NOON)) as store:
        known = store.online("fraud", U1, request={"amount": 1.0}, at=NOON)
        unknown = store.online("fraud", {"user_id": "u2"}, request={"amount": 1.0}, at=NOON)
    assert (known.status("share"), unknown.status("share")) == (PRESENT, NULL)
    assert known.age("share") is None


def test_many_have_a_status_and_an_age_for_each():
    """By name, in the order of the keys."""
    rows = [bought("u1", NOON - HOUR), bought("u2", NOON - 2 * DAY)]
    with shop(*rows) as store:
        keys = {"user_id": ["u1", "u2", "nobody"]}
        vectors = store.online_many(["habits:shop"], keys, at=NOON)
    assert vectors.values("shop") == ["a", None, None]
    assert vectors.statuses("shop") == [PRESENT, EXPIRED, MISSING]
    assert vectors.ages("shop") == [HOUR, 2 * DAY, None]


def test_a_status_is_its_name():
    """As text, in JSON and in comparisons."""
    assert Status.EXPIRED == "EXPIRED"
    assert [str(status) for status in Status] == ["PRESENT", "NULL", "EXPIRED", "MISSING"]
