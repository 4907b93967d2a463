"""What the log of the HTTP service says while a store is away."""

from __future__ import annotations

import pytest
from tests.spec.http_server import Direct  # skips where the extra is not installed

from tidemark.apps.http import problems
from tidemark.apps.http.problems import Failing, problem
from tidemark.errors import EngineError, StoreConflict, StoreUnavailable

assert Direct  # the extra is there
AWAY = StoreUnavailable("Redis is away.")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, as the test says."""
    now = [0.0]
    monkeypatch.setattr(problems, "failing", Failing(lambda: now[0]))
    return now


def test_an_outage_is_said_once_and_then_counted(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """One line at once, one every ten seconds; when it comes again, that is said again."""
    for second in range(25):
        for number in range(100):
            assert problem(AWAY, f"r{second}-{number}")[0] == 503
        problems.failing.settle()
        clock[0] += 1.0
    assert [record.getMessage() for record in caplog.records] == [
        "request r0-0: Redis is away.",
        "1099 more requests failed: store-unavailable",
        "1000 more requests failed: store-unavailable",
    ]
    caplog.clear()
    for _ in range(20):
        clock[0] += 1.0
        problems.failing.settle()
    problem(AWAY, "again")
    assert [record.getMessage() for record in caplog.records] == [
        "400 more requests failed: store-unavailable",
        "request again: Redis is away.",
    ]


def test_what_is_no_outage_is_said_each_time(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Another kind is said besides, and what no waiting mends is found under its request."""
    problem(AWAY, "r1")
    problem(StoreConflict("Somebody else wrote."), "r2")
    problem(EngineError("A sum overflows."), "r3")
    problem(EngineError("A sum overflows."), "r4")
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert said == ["request r1", "request r2", "request r3", "request r4"]
