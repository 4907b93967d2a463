"""Each difference that an audit finds has its cause, also where there are many, or several."""

from __future__ import annotations

import itertools
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet
from tests.spec.audited import (
    HOUR,
    START,
    USERS,
    Shop,
    causes,
    features,
    make_shop,
    payments,
    served_by_another,
    write,
)

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.monitor import audit as auditing, audit_differences

OLD = (START - HOUR).timestamp()
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    return make_shop(tmp_path)


def without(*ids: str) -> list[dict]:
    return [each for each in payments() if each["payment_id"] not in ids]


def moved(rows: list[dict], hours: int) -> list[dict]:
    return [each | {"at": each["at"] + hours * HOUR} for each in rows]


def counted(audit, feature: str) -> dict[str, int]:
    return next(each.causes for each in audit.features if each.feature == feature)


def write_seen(shop: Shop, rows: list[dict]) -> None:
    """A history that tells when each payment was seen, older than any online state."""
    table = pa.Table.from_pylist(rows)
    for name in ("at", "seen"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(pa.timestamp("us", "UTC")))
    parquet.write_table(table, shop.folder / "payments.parquet")
    os.utime(shop.folder / "payments.parquet", (OLD, OLD))


def test_an_event_that_was_served_before_it_was_seen_is_late_data(shop):
    """The online state had it at a moment at which, as history tells, nobody could know it."""
    shop.define(features(seen='\n    seen="seen",', column="seen: tm.Col[datetime]"))
    in_time = [each | {"seen": each["at"]} for each in payments()]
    write_seen(shop, in_time)
    shop.apply()
    late = {"bob-20", "eve-21"}
    write_seen(
        shop,
        [
            each | {"seen": each["at"] + (5 if each["payment_id"] in late else 0) * HOUR}
            for each in in_time
        ],
    )
    shop.serve(5, 21, 24, 30)
    found = shop.audit()
    assert set(found.causes) == {"late data"}
    assert counted(found, "paying:payments@1") == {"late data": 4}
    told = next(each for each in found.first if each.feature == "paying:payments@1")
    assert "1 events happened before the moment and were seen after it" in told.detail
    assert "payment_id='bob-20'" in told.detail


FACTS = '''
import tidemark as tm


class User(tm.Entity):
    """A person."""

    user_id: tm.Key[str]


class Profile(tm.Source, history=tm.parquet("profiles.parquet"), time=None):
    """What is known of a person, whenever one asks."""

    user_id: tm.Col[str]
    level: tm.Col[int]
    city: tm.Col[str]


class Known(tm.FeatureView, entity=User, source=Profile):
    """A profile."""

    level = tm.latest(Profile.level, default=3)
    city = tm.latest(Profile.city, default="nowhere")
'''


def test_the_value_of_nothing_is_a_default(shop):
    """Served instead of a value, or computed instead of one; facts without a time tell no more."""
    everybody = [{"user_id": user, "level": n + 5, "city": user} for n, user in enumerate(USERS)]

    def keep(users: list[str]) -> None:
        rows = [each for each in everybody if each["user_id"] in users]
        parquet.write_table(pa.Table.from_pylist(rows), shop.folder / "profiles.parquet")
        os.utime(shop.folder / "profiles.parquet", (OLD, OLD))

    shop.define(FACTS)
    keep(["ada", "bob"])
    shop.apply()
    with tm.connect(shop.folder) as store:
        store.online_many(["known:level", "known:city"], {"user_id": USERS})
    keep(["ada", "eve"])
    found = shop.audit()
    assert found.causes == {"default": 4}
    assert sorted(each.detail for each in found.first if each.feature == "known:level@1") == [
        "3, the value of nothing, was computed offline",
    ]
    assert {each.feature: each.causes for each in found.features} == {
        "known:level@1": {"default": 2},
        "known:city@1": {"default": 2},
    }


def test_values_that_were_rounded_on_their_way_are_told(shop):
    """An online state that was made from amounts of single precision."""
    rows = [each | {"amount": each["amount"] / 7} for each in payments()]
    write(shop.folder, [each | {"amount": float(np.float32(each["amount"]))} for each in rows])
    shop.apply()
    write(shop.folder, rows)
    os.utime(shop.folder / "payments.parquet", (OLD, OLD))
    shop.serve(5, 24)
    assert set(shop.audit().causes) == {"precision"}


def test_a_small_event_that_was_lost_is_no_matter_of_precision(shop):
    """Sums of a million differ by a cent: the same in single precision, and not rounded."""
    rows = [each | {"amount": 2.0**26 + n, "settled": True} for n, each in enumerate(payments())]
    rows += [rows[20] | {"payment_id": "small", "amount": 1 / 64, "at": START + 23.5 * HOUR}]
    write(shop.folder, rows[:-1])
    shop.apply()
    write(shop.folder, rows)
    os.utime(shop.folder / "payments.parquet", (OLD, OLD))
    shop.serve(24, 26)
    found = shop.audit()
    assert counted(found, "paying:paid@1") == {"lost event": 2}
    told = next(each for each in found.first if each.feature == "paying:paid@1")
    assert told.detail.startswith("not counted: the event payment_id='small'")


def test_lag_and_a_lost_event_in_one_feature(shop):
    """Some rows have one, some the other, and some both."""
    write(shop.folder, without("bob-20"))
    shop.apply(until="2026-03-02T06:30:00Z")
    write(shop.folder, payments())
    os.utime(shop.folder / "payments.parquet", (OLD, OLD))
    shop.serve(24, 28, 31, 34)
    found = shop.audit()
    assert counted(found, "paying:payments@1") == {
        "lag": 5,
        "lost event": 2,
        "lost event and lag": 1,
    }


def test_a_shifted_zone_and_a_lost_event_in_one_feature(shop):
    """What the fault of the whole view leaves over is looked for under that fault."""
    served_by_another(shop, moved(without("bob-20"), 2))
    shop.serve(5, 19, 24, 30, 33)
    found = shop.audit()
    assert counted(found, "paying:payments@1") == {
        "shifted zone": 3,
        "shifted zone and lost event": 3,
    }
    both = next(each for each in found.first if each.cause == "shifted zone and lost event")
    assert "payment_id='bob-20'" in both.detail


def test_a_zone_is_found_across_the_change_of_its_clocks(shop):
    """Local times of Berlin that were read as UTC: two hours off in summer, one in winter."""
    berlin = ZoneInfo("Europe/Berlin")
    begins = datetime(2026, 3, 28, tzinfo=UTC)
    rows = [each | {"at": each["at"] - START + begins} for each in payments()]
    write(
        shop.folder,
        [each | {"at": each["at"].astimezone(berlin).replace(tzinfo=UTC)} for each in rows],
    )
    shop.apply()
    write(shop.folder, rows)
    os.utime(shop.folder / "payments.parquet", (OLD, OLD))
    shop.serve(*((begins - START) / HOUR + hour for hour in (10, 20, 24, 26, 30, 40)))
    found = shop.audit()
    assert found.differing > 20
    assert set(found.causes) == {"shifted zone"}
    assert "local times of Europe/Berlin were read as UTC" in found.first[0].detail


def test_each_online_state_has_its_own_fault(shop):
    """One that was written with a wrong zone, and a later one that lacks an event."""
    served_by_another(shop, moved(payments(), 2))
    shop.serve(5, 19, 24)
    served_by_another(shop, without("bob-20"))
    shop.serve(24, 30, 33)
    found = shop.audit()
    assert counted(found, "paying:payments@1") == {"shifted zone": 3, "lost event": 2}


def test_several_events_of_one_entity_come_apart(shop):
    """What was found at one moment is taken as a fact at the others."""
    served_by_another(shop, without("bob-20", "bob-24"))
    shop.serve(19, 22, 26, 33)
    found = shop.audit()
    assert counted(found, "paying:payments@1") == {"lost event": 3}
    assert found.causes.keys() == {"lost event"}


def twice(rows: list[dict], payment: str) -> list[dict]:
    return [
        *rows,
        next(each for each in rows if each["payment_id"] == payment) | {"payment_id": "x"},
    ]


PLANTED = {
    "changed definition": lambda rows: [each | {"settled": True} for each in rows],
    "shifted zone": lambda rows: moved(rows, 2),
    "off-by-one bound": lambda rows: [each | {"at": each["at"] + MICROSECOND} for each in rows],
    "lost event": lambda rows: [each for each in rows if each["payment_id"] != "bob-20"],
    "duplicated event": lambda rows: twice(rows, "eve-22"),
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(PLANTED, 2)))
def test_two_faults_at_once_are_told(shop, one, other):
    """Of a view, of an event, or of both; a value that shows one of them has that cause."""
    served_by_another(shop, PLANTED[other](PLANTED[one](payments())))
    shop.serve(5, 5.2, 14, 19.2, 24, 26, 30.2, 33)
    found = shop.audit()
    both = " and ".join(sorted((one, other)) if {one, other} <= OF_A_VIEW else (one, other))
    alone = {"lost event", "duplicated event"} == {one, other}  # of two entities
    assert found.causes.keys() <= {one, other, both}
    assert (both in found.causes) != alone
    assert found.differing == sum(found.causes.values()) > 8


OF_A_VIEW = {"changed definition", "shifted zone", "off-by-one bound"}


def test_two_events_that_no_row_has_apart(shop):
    """One is lost and one is there twice, of one entity and at every moment that was served."""
    served_by_another(shop, twice(without("bob-20"), "bob-22"))
    shop.serve(24, 26)
    found = shop.audit()
    assert counted(found, "paying:paid@1") == {"duplicated event and lost event": 2}
    told = next(each for each in found.first if each.feature == "paying:paid@1")
    assert "counted twice: the event payment_id='bob-22'" in told.detail
    assert "not counted: the event payment_id='bob-20'" in told.detail


def test_an_event_is_found_among_thousands(shop):
    """By what it adds to a sum: it is not among the newest hundred."""
    shop.define(features().replace('where=Payment.settled, over="12h"', 'over="60d"'))
    begins = START - timedelta(days=20)
    amounts = np.random.default_rng(7).random(3_000).tolist()
    many = [
        {
            "payment_id": f"p{n}",
            "user_id": "bob",
            "amount": amounts[n],
            "settled": True,
            "at": begins + timedelta(minutes=n),
        }
        for n in range(3_000)
    ]
    write(shop.folder, [each for each in many if each["payment_id"] not in {"p40", "p1400"}])
    shop.apply()
    write(shop.folder, many)
    os.utime(shop.folder / "payments.parquet", (OLD, OLD))
    shop.serve(24)
    found = shop.audit()
    assert counted(found, "paying:paid@1") == {"lost event": 1}
    told = next(each for each in found.first if each.feature == "paying:paid@1")
    assert "payment_id='p40'" in told.detail
    assert "payment_id='p1400'" in told.detail


def test_what_nothing_explains_is_counted_as_such(shop):
    """Three events that no row has apart are more than is tried."""
    served_by_another(shop, without("bob-20", "bob-21", "bob-22"))
    shop.serve(24)
    found = shop.audit()
    assert found.causes == {"unexplained": found.differing}
    assert "unexplained" in str(found)


def test_where_several_events_explain_as_much_that_is_said(shop):
    """A count tells that one event is there twice, a sum that it is none of the settled ones."""
    twice = next(each for each in payments() if each["payment_id"] == "ada-21")
    served_by_another(shop, [*payments(), twice | {"payment_id": "again", "settled": False}])
    shop.serve(24)
    found = shop.audit()
    assert counted(found, "paying:payments@1") == {"duplicated event": 1}
    assert "or another of 4 that explain as much" in found.first[0].detail


def test_every_difference_is_counted_under_a_cause(shop):
    """However many there are."""
    served_by_another(shop, without("bob-20"))
    with tm.connect(shop.folder) as store:
        for minute in range(180):
            at = START + 24 * HOUR + timedelta(minutes=minute)
            store.online_many(["paying:payments"], {"user_id": USERS}, at=at)
    found = shop.audit()
    assert (found.differing, found.causes) == (180, {"lost event": 180})
    assert len(found.first) == 1


@pytest.fixture
def mixed(shop):
    """A log with every kind of difference, in files of some rows."""
    served_by_another(shop, moved(without("bob-20"), 2))
    shop.serve(5, 19, 24)
    shop.serve(30, 33)
    write(shop.folder, without("eve-25"))
    shop.apply(until="2026-03-02T06:30:00Z")
    write(shop.folder, payments())
    os.utime(shop.folder / "payments.parquet", (OLD, OLD))
    shop.serve(20, 26)
    shop.serve(31, 34)
    with tm.connect(shop.folder) as store:
        store.online_many(["paying:last", "paying:payments"], {"user_id": USERS}, at=START + HOUR)
    return shop


def test_the_report_does_not_depend_on_how_the_log_is_cut(mixed, monkeypatch):
    """Batches of one row, of some, and all at once find the same."""

    def report(rows: int) -> dict:
        monkeypatch.setattr(auditing, "BATCH_ROWS", rows)
        facts = mixed.audit(since="2026-01-01T00:00:00Z").to_dict()
        return {name: facts[name] for name in facts if name not in {"at", "until", "seconds"}}

    whole = report(10**9)
    assert whole["requests"] == 10
    assert whole["differing"] > 30
    assert {"shifted zone", "lost event", "lag"} <= whole["causes"].keys()
    for rows in (1, 4):
        assert report(rows) == whole


def test_differences_are_explained_some_at_a_time(mixed, monkeypatch):
    """None is lost between two parts."""
    whole = mixed.audit()
    monkeypatch.setattr(audit_differences, "PART_ROWS", 4)
    parts = mixed.audit()
    assert (parts.differing, parts.equal) == (whole.differing, whole.equal)
    assert sum(parts.causes.values()) == parts.differing
    assert "unexplained" not in parts.causes


def audit_command(shop: Shop) -> Result:
    """What a process tells that has not imported the definitions before."""
    sys.modules.pop(f"paying_{shop.folder.name}", None)
    return CliRunner().invoke(main, ["audit", "--project", str(shop.folder), "--json"])


def test_code_that_was_edited_since_is_a_changed_definition(shop):
    """What served is computed with the code that is there now; where that differs, it is why."""
    shop.apply()
    shop.serve(5, 24)
    shop.define(features().replace("amount / paid if", "2 * amount / paid if"))
    result = audit_command(shop)
    facts = json.loads(result.output)
    assert (result.exit_code, facts["compared"], facts["differing"]) == (14, 24, 6)
    assert facts["causes"] == {"changed definition": 6}
    (told,) = facts["first"]
    assert told["feature"] == "share@1"
    assert told["detail"].endswith("its code has been edited since")


def test_code_that_was_edited_and_gives_the_same_is_no_difference(shop):
    """Values are compared, not code."""
    shop.apply()
    shop.serve(5, 24)
    shop.define(features().replace("amount / paid if", "1.0 * amount / paid if"))
    result = audit_command(shop)
    facts = json.loads(result.output)
    assert (result.exit_code, facts["compared"], facts["differing"]) == (0, 24, 0)


def test_an_input_that_differs_is_told_before_code_that_was_edited(shop):
    """It is what the function was given that has a cause of its own."""
    served_by_another(shop, without("bob-20"))
    shop.serve(24)
    shop.define(features().replace("amount / paid if", "2 * amount / paid if"))
    facts = json.loads(audit_command(shop).output)
    causes_of = {each["feature"]: each["causes"] for each in facts["features"]}
    assert causes_of["share@1"] == {"changed definition": 2, "lost event": 1}


def test_code_that_is_gone_is_told_and_ends_with_15(shop):
    """Nothing of it can be compared: the audit has not shown that it was right."""
    shop.apply()
    shop.serve(5, 24)
    shop.define(features().replace("def share(", "def part(").replace("share = share", "s = part"))
    result = audit_command(shop)
    facts = json.loads(result.output)
    assert (result.exit_code, facts["compared"], facts["differing"]) == (15, 18, 0)
    assert (facts["incomplete"], facts["lost"]) == (True, ["share@1"])
    assert facts["left_out"]["share@1"].startswith("changed definition: The function")


def test_what_is_masked_has_causes_too(shop):
    """Values are altered in plain and compared as they were logged."""
    text = features().replace("class User(tm.Entity)", 'class User(tm.Entity, tags=("pii",))')
    plain = "amount: tm.Col[float]\n    settled"
    shop.define(
        text.replace(plain, 'amount: tm.Col[float] = tm.column(tags=("pii",))\n    settled')
    )
    served_by_another(shop, without("bob-20"))
    shop.serve(5, 24, 30)
    found = shop.audit()
    assert causes(found) == {
        "paying:paid@1": {"lost event"},
        "paying:payments@1": {"lost event"},
        "share@1": {"lost event"},
    }
