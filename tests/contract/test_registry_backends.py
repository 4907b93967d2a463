"""SQLite and Postgres keep the registry alike, whoever writes and whatever is killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.contract import postgres, writers

from tidemark.errors import EngineError, StoreUnavailable
from tidemark.registry import Registry, Writer
from tidemark.registry.sql import SqlRevisions
from tidemark.testing import RevisionsContract

PROCESSES, EACH = 8, 25
_databases = count()


@pytest.fixture(scope="module")
def server() -> Generator[str]:
    """A Postgres server; where there cannot be one, only the machines of CI insist."""
    why = postgres.missing()
    if why and os.environ.get("CI") != "true":
        pytest.skip(why)
    assert not why
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    server: str = request.getfixturevalue("server")
    name = f"registry_{os.getpid()}_{next(_databases)}"
    address = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"create database {name}"))
    engine.dispose()
    return server.removesuffix("postgres") + name


class TestRevisions(RevisionsContract):
    @pytest.fixture
    def connect(self, url: str) -> Generator[Callable[[], Writer]]:
        opened: list[SqlRevisions] = []

        def connect() -> SqlRevisions:
            opened.append(SqlRevisions(url))
            return opened[-1]

        yield connect
        for each in opened:
            each.close()


@pytest.fixture
def started(url: str) -> str:
    """A registry with something in it."""
    registry = Registry(url)
    registry.apply(registry.plan(writers.START))
    registry.close()
    return url


def start(*words: object) -> subprocess.Popen[str]:
    """A process of writers."""
    return subprocess.Popen(
        [sys.executable, writers.__file__, *map(str, words)], stdout=subprocess.PIPE, text=True
    )


def test_many_writers_lose_nothing(started: str):
    """Every acknowledged change is there, each in a revision of its own, and the chain holds."""
    processes = [start("many", started, f"m{number}", EACH) for number in range(PROCESSES)]
    acknowledged = [line for each in processes for line in each.communicate()[0].splitlines()]
    assert [each.returncode for each in processes] == [0] * PROCESSES
    assert len(acknowledged) == PROCESSES * EACH
    registry = Registry(started)
    assert registry.verify() == 1 + PROCESSES * EACH
    now = registry.snapshot()
    there = {f"model {model.reference}" for model in now.models}
    there |= {f"service {service.name}" for service in now.definitions.services}
    assert set(acknowledged) == there - {"service start"}
    registry.close()


def test_a_writer_may_be_killed_at_any_instant(started: str, request: pytest.FixtureRequest):
    """The registry is at the old or the new revision, and what was acknowledged is there."""
    thorough = request.config.getoption("--hypothesis-profile") == "thorough"
    times = 100 if thorough else 20
    process = start("killed", started, times, random.randrange(1_000_000))
    assert process.communicate()[0] == f"{times} times\n"


def test_a_database_of_another_schema(started: str):
    """What this release does not know it does not touch."""
    address = started.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.execute(sa.text("update tidemark_schema set version = 99"))
    engine.dispose()
    with pytest.raises(EngineError, match="is of schema 99"):
        Registry(started).snapshot()


def test_a_server_that_is_not_there():
    """It may be there later; the address is named without its password."""
    with pytest.raises(StoreUnavailable, match="cannot be used") as caught:
        Registry("postgresql://tidemark:secret@127.0.0.1:1/registry").snapshot()
    assert caught.value.retryable
    assert "secret" not in str(caught.value)


def test_a_standby_can_be_read(server: str):
    """Who writes is told to name the other server, and may try again after a failover."""
    url = f"{server}?options=-c%20default_transaction_read_only%3Don"
    leader = SqlRevisions(server)
    leader.head()  # makes the tables
    leader.close()
    standby = SqlRevisions(url)
    standby.head()
    with pytest.raises(StoreUnavailable, match="can only be read") as caught:
        standby.put_off("job", "somebody", lease=1)
    assert "standby" in caught.value.remedy
    standby.close()


def test_connections_that_are_all_busy(started: str):
    """More threads than connections wait for each other, and are told if that takes too long."""
    revisions = SqlRevisions(started)
    revisions.head()
    engine = revisions._engine
    assert engine is not None
    engine.pool._timeout = 0  # type: ignore[attr-defined]
    with ExitStack() as busy:
        with pytest.raises(sa.exc.TimeoutError):
            while True:
                busy.enter_context(engine.connect())
        with pytest.raises(StoreUnavailable, match="all connections of this process are busy"):
            revisions.head()
    assert revisions.head()
    revisions.close()
