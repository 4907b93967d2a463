"""Recurring work: each job in its cadence, by one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.spec.audited import Shop, make_shop, payments, served_by_another

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.window import DAY, HOUR, SECOND, instant
from tidemark.registry.protocol import Job
from tidemark.store import schedule

FILE = """
from datetime import datetime
import tidemark as tm


class User(tm.Entity):
    user_id: tm.Key[str]


class Watch(tm.Source, time="at"):
    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Habits(tm.FeatureView, entity=User, source=Watch, freshness="5m"):
    watched = tm.count(over="30d")
"""


def project(folder: Path, schedule: str) -> Path:
    text = f'definitions = "features.py"\nschedule = {{ {schedule} }}\n'
    (folder / "tidemark.toml").write_text(text)
    (folder / "features.py").write_text(FILE)
    with tm.connect(folder) as store:
        store.apply(store.plan())
    return folder


def test_what_is_due_is_done_once(tmp_path: Path) -> None:
    """And not again before its cadence has passed."""
    with tm.connect(project(tmp_path, 'materialize = "1h", freshness = "1h"')) as store:
        ran = store.schedule.run(once=True)
        assert [(each.job, each.error) for each in ran] == [
            ("materialize", None),
            ("freshness", None),
        ]
        assert ran[0].outcome == "0 entities, 0 events"
        assert store.schedule.run(once=True) == []


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop that is audited every day, and has served."""
    monkeypatch.setenv("TIDEMARK_SERVING_LOG_IN_PROCESS", "true")
    shop = make_shop(tmp_path)
    settings = shop.folder / "tidemark.toml"
    settings.write_text(settings.read_text() + 'schedule = { audit = "1d" }\n')
    return shop


def test_an_audit_of_the_schedule_is_kept(audited: Shop) -> None:
    """It compares what was served since its cadence began."""
    audited.apply()
    audited.serve(5, 24)
    with tm.connect(audited.folder) as store:
        (ran,) = store.schedule.run(once=True)
        assert (ran.outcome, ran.error) == ("24 values compared", None)
        (kept,) = store.audits()
    assert (kept["compared"], kept["differing"]) == (24, 0)
    began = datetime.fromisoformat(kept["since"])
    assert timedelta(days=1) <= datetime.fromisoformat(kept["at"]) - began < timedelta(days=1.1)


def test_an_audit_of_the_schedule_fails_where_something_differs(audited: Shop) -> None:
    """The job ends with an error, the command with 1; the audit and its causes are in history."""
    served_by_another(audited, [each for each in payments() if each["payment_id"] != "bob-20"])
    audited.serve(5, 24)
    arguments = ["run", "--once", "--json", "--project", str(audited.folder)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    ran = json.loads(result.output)
    assert ran["failed"]
    assert ran["outcome"] == (
        "3 of 24 values that were served differ from what would be trained on (lost event 3)."
    )
    with tm.connect(audited.folder) as store:
        (standing,) = store.schedule.standing()
        assert standing.outcome == ran["outcome"]
        (kept,) = store.audits()
    assert kept["causes"] == {"lost event": 3}
    assert "payment_id='bob-20'" in kept["first"][0]["detail"]


def test_an_audit_that_found_differences_is_made_again_in_its_cadence(audited: Shop) -> None:
    """It was done; at once it would find the same.  One that could not be made is tried again."""
    served_by_another(audited, [each for each in payments() if each["payment_id"] != "bob-20"])
    audited.serve(24)
    with tm.connect(audited.folder) as store:
        (ran,) = store.schedule.run(once=True)
        assert isinstance(ran.error, RequestInvalid)
        (standing,) = store.schedule.standing()
        assert standing.failures == 0
        assert (standing.due - ran.started) == timedelta(days=1)
        assert store.schedule.run(once=True) == []


def test_an_audit_looks_at_what_was_served_since_the_last_one(
    audited: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago that was, and a minute more: answers are in the log some seconds later."""
    audited.apply()
    audited.serve(24)
    now = time.time_ns() // 1_000
    monkeypatch.setattr("tidemark.store.schedule.clock", lambda: now - 3 * 86_400_000_000)
    with tm.connect(audited.folder) as store:
        assert [each.error for each in store.schedule.run(once=True)] == [None]
        monkeypatch.setattr("tidemark.store.schedule.clock", lambda: now)
        assert [each.error for each in store.schedule.run(once=True)] == [None]
        first, second = (datetime.fromisoformat(each["since"]) for each in store.audits())
    assert second - first == timedelta(days=1)


def days_later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Let the schedule, and the audits that it makes, believe that it is so much later."""
    later = int(days * 86_400_000_000)
    for module in ("schedule", "observing"):
        monkeypatch.setattr(
            f"tidemark.store.{module}.clock", lambda: time.time_ns() // 1_000 + later
        )


def since_of(store: tm.Store) -> list[datetime]:
    return [datetime.fromisoformat(each["since"]) for each in store.audits()]


def test_an_audit_begins_where_the_last_one_that_was_made_began(
    audited: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that could not be made left everything to it, however many cadences they were."""
    audited.apply()
    audited.serve(24)
    with tm.connect(audited.folder) as store:
        first = store.schedule.run(once=True)[0].started
        audit = store.audit
        monkeypatch.setattr(store, "audit", lambda **_: 1 / 0)
        for days in (1.5, 3, 4.5):
            days_later(monkeypatch, days)
            (failed,) = store.schedule.run(once=True)
            assert isinstance(failed.error, ZeroDivisionError)
        monkeypatch.setattr(store, "audit", audit)
        days_later(monkeypatch, 6)
        (made,) = store.schedule.run(once=True)
        assert made.error is None
        assert since_of(store)[-1] == first - timedelta(minutes=1)


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def audit_for_ever(folder: Path, other: Connection) -> None:
    """Do what is due with a lease of an hour; an audit says that it has begun, and never ends."""
    schedule.LEASE = HOUR
    with tm.connect(folder) as store:

        def hangs(**_: object) -> None:
            other.send("auditing")
            threading.Event().wait()

        store.audit = hangs  # type: ignore[method-assign]
        store.schedule.run(once=True)


def test_what_a_killed_audit_was_to_look_at_the_next_one_looks_at(
    audited: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is due as soon as the lease of the one that died ends, whatever the cadence is."""
    audited.apply()
    audited.serve(5, 24)
    ours, theirs = PROCESSES.Pipe()
    other = PROCESSES.Process(target=audit_for_ever, args=(audited.folder, theirs))
    other.start()
    assert ours.recv() == "auditing"
    other.kill()
    other.join()
    with tm.connect(audited.folder) as store:
        (standing,) = store.schedule.standing()
        assert standing.holder
        assert store.schedule.run(once=True) == []  # nobody knows yet that it died
        days_later(monkeypatch, (HOUR + SECOND) / DAY)
        (ran,) = store.schedule.run(once=True)
        assert (ran.outcome, ran.error) == ("24 values compared", None)
        assert store.schedule.run(once=True) == []
        days_later(monkeypatch, 2)
        assert [each.error for each in store.schedule.run(once=True)] == [None]
        first, second = since_of(store)
        assert second - first == ran.started - timedelta(minutes=1) - first


def test_whoever_lost_the_lease_meanwhile_says_nothing_of_how_it_went(
    audited: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is another process's by then, and how far it came is what that one says."""
    audited.apply()
    with tm.connect(audited.folder) as store:
        jobs = store.registry.jobs

        def overtaken(**_: object) -> None:
            now = time.time_ns() // 1_000
            jobs.put_off("audit", store.schedule._holder, lease=now)
            assert jobs.take_job("audit", "them", now=now + 1, lease=now + 60_000_000)
            raise OSError("the machine hung for a minute")

        monkeypatch.setattr(store, "audit", overtaken)
        store.schedule.run(once=True)
        (standing,) = store.schedule.standing()
        assert (standing.holder, standing.failures, standing.outcome) == ("them", 0, "")


def test_a_schedule_keeps_going_until_it_is_stopped(tmp_path: Path) -> None:
    """Each job in a thread of its own."""
    stop = threading.Event()
    done: list[str] = []
    with tm.connect(project(tmp_path, 'materialize = "1h", catch_up = "1s"')) as store:

        def told(ran: object) -> None:
            done.append(ran.job)  # type: ignore[attr-defined]
            if done.count("catch_up") == 2 and "materialize" in done:
                stop.set()

        thread = threading.Thread(target=store.schedule.run, kwargs={"told": told, "stop": stop})
        thread.start()
        thread.join()
    assert done.count("materialize") == 1


def test_a_job_that_fails_is_tried_again_more_and_more_slowly(tmp_path: Path) -> None:
    """What went wrong is kept beside it; nothing is materialized, so the promise is broken."""
    with tm.connect(project(tmp_path, 'freshness = "1h"')) as store:
        (ran,) = store.schedule.run(once=True)
        assert isinstance(ran.error, RequestInvalid)
        (standing,) = store.schedule.standing()
        assert standing.failures == 1
        assert "habits" in standing.outcome
        (kept,) = store.registry.jobs.jobs()
        assert standing.due == instant(kept.finished + 5 * SECOND)


def test_what_somebody_else_does_is_left_to_them(tmp_path: Path) -> None:
    """Until their lease ends; then it is taken over."""
    with tm.connect(project(tmp_path, 'compact = "1s"')) as store:
        now = time.time_ns() // 1_000
        theirs = store.registry.jobs.take_job("compact", "them", now=0, lease=now + 3_600_000_000)
        assert isinstance(theirs, Job)
        (standing,) = store.schedule.standing()
        assert standing.holder == "them"
        assert store.schedule.run(once=True) == []
        store.registry.jobs.put_off("compact", "them", lease=now)
        assert [each.job for each in store.schedule.run(once=True)] == ["compact"]


def test_freshness_knows_when_a_view_will_be_materialized(tmp_path: Path) -> None:
    """A promise that breaks before the next run is at risk."""
    with tm.connect(project(tmp_path, 'materialize = "1h"')) as store:
        store.schedule.run(once=True)
        (view,) = store.freshness().views
        assert view.verdict == "at risk"
        assert view.next_run is not None
        assert view.breaks_at is not None
        assert view.breaks_at < view.next_run
    with tm.connect(project(tmp_path, '"materialize habits" = "1m"')) as store:
        store.schedule.run(once=True)
        (view,) = store.freshness().views
        assert view.verdict == "kept"


def test_an_unknown_job_is_named(tmp_path: Path) -> None:
    """With what there is."""
    with (
        tm.connect(project(tmp_path, 'materialise = "1h"')) as store,
        pytest.raises(NotFound, match="materialize"),
    ):
        store.schedule.run(once=True)


def test_without_a_schedule_the_setting_is_shown(tmp_path: Path) -> None:
    """As it is written."""
    with (
        tm.connect(project(tmp_path, "")) as store,
        pytest.raises(RequestInvalid, match="There is no schedule"),
    ):
        store.schedule.run()


def test_the_command_does_what_is_due(tmp_path: Path) -> None:
    """As text, as a line of JSON for each job, and with an exit code."""
    arguments = ["run", "--project", str(project(tmp_path, 'freshness = "1h", compact = "1h"'))]
    result = CliRunner().invoke(main, [*arguments, "--once", "--json"])
    assert result.exit_code == 1
    assert [
        (each["job"], each["failed"]) for each in map(json.loads, result.output.splitlines())
    ] == [
        ("freshness", True),
        ("compact", False),
    ]
    listed = CliRunner().invoke(main, [*arguments, "--list"])
    assert "freshness every 1h" in listed.output
    assert ", 1 failure in a row" in listed.output


@pytest.mark.parametrize(
    ("options", "told"),
    [([], "compact: 0 events moved"), (["--json"], '{"job":"compact","started":"')],
)
def test_the_command_stops_when_it_is_told_to(
    tmp_path: Path, options: list[str], told: str
) -> None:
    """After the job that is under way; each job is told as soon as it is done."""
    project(tmp_path, 'compact = "1h"')
    command = [sys.executable, "-m", "tidemark", "run", "--project", str(tmp_path), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert told in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 0
    process.stdout.close()
