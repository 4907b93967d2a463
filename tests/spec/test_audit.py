"""The audit: what was served is computed again and compared, and what differs is given its cause.

Faults are planted in the online state: it is written by a store that is wrong about one thing, and
read by one that is right.
"""

from __future__ import annotations

import io
import json
import re
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests.spec.audited import (
    HOUR,
    START,
    Shop,
    causes,
    features,
    make_shop,
    payments,
    served_by_another,
    write,
)  # fmt: skip
from tests.spec.served import ASKED, make_project
from tests.spec.watched import Person, Watch

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.errors import NotFound, TidemarkError
from tidemark.model.window import clock
from tidemark.monitor.audit_differences import differing
from tidemark.serve import log as serving_log
from tidemark.serve.log import files

NAN = float("nan")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    return make_shop(tmp_path)


def test_what_was_served_is_what_training_computes(shop):
    """On window bounds and a microsecond beside them, on-demand features among them: 0 differ."""
    shop.apply()
    for micro in (-1, 0, 1):
        shop.serve(5, 12, 13, 24.5, 47, at_offset=timedelta(microseconds=micro))
    found = shop.audit()
    assert (found.compared, found.differing) == (3 * 5 * 3 * 4, 0)
    assert str(found).startswith("180 values of 15 requests, 0 differ")
    assert found.causes == {}
    assert [each.feature for each in found.features] == [
        "paying:last@1", "paying:paid@1", "paying:payments@1", "share@1",
    ]  # fmt: skip


def test_a_lost_event_is_found_and_named(shop):
    """An event that the online state never counted."""
    rows = [each for each in payments() if each["payment_id"] != "bob-20"]
    served_by_another(shop, rows)
    shop.serve(5, 19, 24, 30)
    found = shop.audit()
    assert causes(found)["paying:payments@1"] == {"lost event"}
    assert all(kinds == {"lost event"} for kinds in causes(found).values())
    first = next(each for each in found.first if each.feature == "paying:payments@1")
    assert first.keys == {"user_id": "bob"}
    assert (first.served, first.offline) == (11, 12)
    assert "payment_id='bob-20'" in first.detail


def test_a_duplicated_event_is_found_and_named(shop):
    """An event that the online state counted twice."""
    twice = next(each for each in payments() if each["payment_id"] == "eve-20")
    rows = [*payments(), twice | {"payment_id": "eve-20 again"}]
    served_by_another(shop, rows)
    shop.serve(5, 19, 24, 30)
    found = shop.audit()
    assert all(kinds == {"duplicated event"} for kinds in causes(found).values())
    first = next(each for each in found.first if each.feature == "paying:payments@1")
    assert "counted twice: the event payment_id='eve-20'" in first.detail


def test_a_shifted_zone_is_found_and_measured(shop):
    """Times that were read as those of another zone: every event is hours away."""
    rows = [each | {"at": each["at"] + 5 * HOUR} for each in payments()]
    served_by_another(shop, rows)
    shop.serve(4, 6, 14, 20, 30)
    found = shop.audit()
    assert found.differing > 10
    assert all(kinds == {"shifted zone"} for kinds in causes(found).values())
    assert "5 h later" in found.first[0].detail


def test_an_off_by_one_bound_is_found(shop):
    """Events at the very bound that counted as if the bound were the other one."""
    rows = [each | {"at": each["at"] + timedelta(microseconds=1)} for each in payments()]
    served_by_another(shop, rows)
    shop.serve(5, 14, 24, 30)
    found = shop.audit()
    assert found.differing > 0
    assert all(kinds == {"off-by-one bound"} for kinds in causes(found).values())
    assert "bound='before'" in found.first[0].detail


def test_a_changed_filter_is_found_by_its_fingerprint(shop):
    """A draft whose filter changed after it had served."""
    with tm.connect(shop.folder) as store:
        store.apply(store.plan(), draft=True)
        store.materialize()
    shop.serve(14, 24)
    shop.define(features(where="Payment.amount > 50"))
    sys.modules.pop(f"paying_{shop.folder.name}", None)
    with tm.connect(shop.folder) as store:
        store.apply(store.plan(), draft=True)
    found = shop.audit()
    assert causes(found)["paying:paid@1"] == {"changed definition"}
    assert causes(found)["share@1"] == {"changed definition"}
    assert set(causes(found)) == {"paying:paid@1", "share@1"}


def test_a_filter_that_the_state_did_not_apply_is_found(shop):
    """Served without the filter that the view has."""
    served_by_another(shop, [each | {"settled": True} for each in payments()])
    shop.serve(5, 14, 24, 30)
    found = shop.audit()
    assert causes(found)["paying:paid@1"] == {"changed definition"}
    assert "without its filter" in found.first[0].detail


def test_what_the_state_had_not_taken_in_is_lag(shop):
    """Events known by the moment of the request, newer than the state."""
    shop.apply(until="2026-03-02T06:30:00Z")
    shop.serve(28, 34)
    found = shop.audit()
    assert all(kinds == {"lag"} for kinds in causes(found).values())
    assert {each.feature for each in found.features if each.differing} >= {"paying:payments@1"}
    first = next(each for each in found.first if each.feature == "paying:payments@1")
    assert "4 events that were known by then" in first.detail


def test_history_that_was_rewritten_is_told(shop):
    """An amount that is another one today."""
    shop.apply()
    shop.serve(24)
    rows = [each | {"amount": each["amount"] * 2} for each in payments()]
    write(shop.folder, rows)
    found = shop.audit()
    assert causes(found)["paying:last@1"] == {"restated history"}
    assert "payments.parquet was written at" in found.first[0].detail


def test_only_one_service_a_time_and_a_sample(shop):
    """`service`, `since`, `until` and `sample` choose what is compared."""
    shop.apply()
    shop.serve(*range(1, 41))
    assert shop.audit(service="risk").requests == 40
    assert shop.audit(service="features").requests == 0
    past = shop.audit(until="1h")
    assert (past.requests, past.until < past.at) == (0, True)
    some = shop.audit(sample=0.5).requests
    assert 5 < some < 35
    assert shop.audit(sample=0.5).requests == some


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"service": "rsik"}, "There is no service 'rsik'"),
        ({"since": "1h", "until": "2h"}, "ends before it begins"),
        ({"since": "2999-01-01T00:00:00Z"}, "begins: from 2999-01-01T00:00:00Z until now"),
        ({"sample": 0.0}, "sample=0.0"),
        ({"sample": 1.5}, "sample=1.5"),
        ({"probe": -1}, "probe=-1"),
        ({"probe": 5, "sample": 0.5}, "nothing to take a sample of"),
        ({"probe": 5, "until": "1h"}, "no until"),
        ({"since": "yesterday"}, "or how long ago"),
    ],
)
def test_an_audit_that_could_find_nothing_is_refused(shop, asked, said):
    """It would pass for one that found nothing."""
    shop.apply()
    with pytest.raises(TidemarkError, match=said):
        shop.audit(**asked)


def test_an_audit_of_nothing_says_so(shop):
    """Zero values differ, of zero; what is logged, and what needs no log, is said with it."""
    shop.apply()
    assert "nothing was logged in that time" in str(shop.audit())
    assert "serving_log_in_process = true" in str(shop.audit())


def test_a_probe_needs_no_log(shop, monkeypatch):
    """Entities are read online now and compared with what training computes for now."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG", "")
    monkeypatch.delenv("TIDEMARK_SERVING_LOG_IN_PROCESS")
    shop.apply()
    found = shop.audit(probe=2)
    assert (found.rows, found.compared, found.differing) == (2, 6, 0)
    assert str(found).startswith(f"6 values of 2 rows read now, 0 differ ({found.since}, ")


def test_a_probe_of_a_model_reads_what_it_is_pinned_to(shop):
    """It is named as in the serving log; one that is not registered is refused."""
    shop.apply()
    with tm.connect(shop.folder) as store:
        store.registry.register_model("scorer", 1, service="risk")
        of_model = store.audit(probe=3, service="model:scorer@1")
        assert of_model.compared == store.audit(probe=3, service="risk").compared > 0
        assert store.audit(service="model:scorer@1").compared == 0
        with pytest.raises(NotFound, match="There is no model 'scorer@2'"):
            store.audit(probe=3, service="model:scorer@2")


def test_the_command_line_ends_with_14_if_values_differ(shop):
    """0 where all are equal; the history of audits is kept."""
    shop.apply()
    shop.serve(24)
    asked = ["audit", "--project", str(shop.folder)]
    assert CliRunner().invoke(main, asked).exit_code == 0
    write(shop.folder, [each | {"amount": 1.0} for each in payments()])
    result = CliRunner().invoke(main, [*asked, "--json"])
    assert result.exit_code == 14
    facts = json.loads(result.output)
    assert facts["differing"] == 9
    assert facts["causes"] == {"restated history": 9}
    kept = CliRunner().invoke(main, [*asked, "--history", "--json"])
    assert [each["differing"] for each in json.loads(kept.output)["audits"]] == [0, 9]
    CliRunner().invoke(main, [*asked, "--sample", "0.5", "--service", "risk"])
    CliRunner().invoke(main, [*asked, "--probe", "2"])
    lines = CliRunner().invoke(main, [*asked, "--history"]).output.splitlines()
    assert lines[1].endswith("12 values         9 differ  (restated history 9)")
    assert "  risk  a sample of 0.5" in lines[2]
    assert "  2 entities of each view" in lines[3]


def test_values_of_every_type_are_compared(tmp_path, monkeypatch):
    """Lists, decimals, bytes, dates, NaN and infinities; masked or not, 0 differ."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    folder = tmp_path / "types"
    folder.mkdir()
    make_project(folder)
    with tm.connect(folder) as store:
        for day in (1, 2, 3, 9):
            at = f"2026-03-0{day}T12:00:00.000007Z"
            store.online_many("everything", [{"user_id": u} for u in ("ada", "nan", "x")], at=at)
        store.online("asked", {"user_id": "ada"}, request=ASKED)
        found = store.audit()
    assert (found.compared, found.differing) == (4 * 3 * 10 + 2, 0)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, None, NAN, -0.0], [1.0, None, NAN, 0.0], [0, 0, 0, 1]),
        ([1, None, 3], [1, 2, None], [0, 1, 1]),
        (["a", None, ""], ["a", None, "b"], [0, 0, 1]),
        ([[1.0, NAN], [], None, [2.0]], [[1.0, NAN], [1.0], None, [3.0]], [0, 1, 0, 1]),
        ([["a", None], ["a"]], [["a", None], [None]], [0, 1]),
    ],
)  # fmt: skip
def test_values_are_equal_by_their_bits(one, other, expected):
    """NaN equals NaN and null equals null; nothing else is forgiven."""
    made = differing(pa.chunked_array([pa.array(one)]), pa.chunked_array([pa.array(other)]))
    assert made.astype(int).tolist() == expected


def test_a_damaged_file_of_the_log_is_named(shop, caplog):
    """A machine that stopped may leave one; the others are compared and read all the same."""
    shop.apply()
    shop.serve(5)
    shop.serve(24)
    first, second = sorted((shop.folder / ".tidemark").rglob("service=*/**/*.parquet"))
    second.write_bytes(second.read_bytes()[:-9])
    found = shop.audit()
    assert (found.rows, found.differing, found.damaged) == (3, 0, (second.name,))
    assert f"not read: {second.name}, it is damaged" in str(found)
    with tm.connect(shop.folder) as store:
        assert store.log.read().num_rows == 3
        assert files.merge(store.log.folder, 2**62) == 0
        assert store.log.recent_features(START)
    assert first.exists()
    assert f"{second} is damaged" in caplog.text


def test_rows_count_once_although_files_become_one_meanwhile(shop, monkeypatch):
    """Whoever reads has read some of the files of an hour when another process merges them."""
    answered = clock()
    monkeypatch.setattr(serving_log, "clock", lambda: answered)  # so that it is one hour
    shop.apply()
    for hour in (5, 6, 7, 8):
        shop.serve(hour)
    with tm.connect(shop.folder) as store:
        root, damaged = store.log.folder, set()
        expected = store.log.read()["request_id"].to_pylist()
        reading = files.batches(root, None, -(2**62), 2**62, rows=2, damaged=damaged)
        seen = next(reading)[1]["request_id"].to_pylist()
        assert files.merge(root, 2**62) == 4
        for _, rows in reading:
            assert len(rows) <= 2
            seen += rows["request_id"].to_pylist()
    assert sorted(seen) == sorted(expected)


class Terminal(io.StringIO):
    """Standard error, as it is on a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_long_audit_shows_how_far_it_is(shop, monkeypatch):
    """On a terminal: of which service, and how many rows of the log are compared."""
    shop.apply()
    shop.serve(5, 24)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tidemark.engines.progress._PATIENCE", 0.0)
    shop.audit()
    assert re.search(r"audit of risk.*6 rows", terminal.getvalue())


class Watching(tm.FeatureView, entity=Person, source=Watch):
    """What a person watches."""

    watched = tm.count(over="1h")
    minutes = tm.sum(Watch.minutes, over="1d")
    last = tm.last(Watch.minutes)


def watch(number: int, minutes_ago: int = 0) -> dict:
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    return {"watch_id": str(number), "user_id": "ada", "minutes": number / 7, "at": at}


@pytest.fixture
def live(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    (tmp_path / "tidemark.toml").write_text('name = "live"\n', "utf-8")
    with tm.connect(tmp_path) as store:
        store.apply(store.plan([Watching]))
        store.materialize()
        yield store


def read_watching(store: tm.Store) -> None:
    names = ["watching:watched", "watching:minutes", "watching:last"]
    store.online_many(names, {"user_id": ["ada", "bob"]})


def test_events_that_were_pushed_are_audited_as_they_were_known(live):
    """Late ones too: each request is computed from what had been seen by its moment."""
    for number in range(20):
        live.push(Watch, watch(number, minutes_ago=number * 13 % 50 if number % 3 else 0))
        read_watching(live)
    found = live.audit()
    assert (found.compared, found.differing) == (20 * 2 * 3, 0)


def test_what_the_log_had_and_the_state_had_not_is_lag(live):
    """A push whose event was durable, and not yet counted when somebody read."""
    live.push(Watch, watch(1))
    source = live.registry.snapshot().definitions.source("watch")
    rows = pa.Table.from_pylist([watch(2, minutes_ago=1)])
    at = rows.schema.get_field_index("at")
    rows = rows.set_column(at, "at", rows["at"].cast(pa.timestamp("us", "UTC")))
    live._project.log.append(source, rows, seen=int(datetime.now(UTC).timestamp() * 1e6))
    live.readers.reader(["watching:watched"]).online({"user_id": "ada"})
    found = live.audit()
    assert causes(found) == {"watching:watched@1": {"lag"}}
    assert "watch_id='2'" in found.first[0].detail


def test_what_masked_keys_were_given_is_audited_too(tmp_path, monkeypatch):
    """Who they are is found in the history; of whom it knows nothing is counted."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    folder = tmp_path / "masked"
    folder.mkdir()
    shop = Shop(folder)
    tagged = {"class User(tm.Entity)": 'class User(tm.Entity, tags=("pii",))'}
    tagged["amount: tm.Col[float]\n    settled"] = (
        'amount: tm.Col[float] = tm.column(tags=("pii",))\n    settled'
    )
    text = features()
    for plain, other in tagged.items():
        text = text.replace(plain, other)
    shop.define(text)
    write(folder, payments())
    shop.apply()
    shop.serve(5, 24)
    with tm.connect(folder) as store:
        store.online(["paying:payments"], {"user_id": "nobody"}, at=START + HOUR)
        logged = store.log.read(service="risk")
        assert all(len(each) == 32 for each in logged["value.paid"].to_pylist())
        found = store.audit()
    assert (found.rows, found.unread) == (6, 1)
    assert (found.compared, found.differing) == (6 * 4, 0)
