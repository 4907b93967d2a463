"""Workers of the HTTP service that are killed: others take their place, and soon."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.spec.http_server import Server, serving  # skips where the extra is not installed
from tests.spec.served import make_project

PATIENCE = 600.0
"""Seconds: a sixth of what a silent worker is given here, many times what a new one needs."""

if not Path("/proc/self/task").exists():
    pytest.skip("children of a process are listed in /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("workers"))


def workers(server: Server) -> set[int]:
    """The processes that answer."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()
    return {int(child) for child in children if b"spawn_main" in command(child)}


def command(child: str) -> bytes:
    try:
        return Path(f"/proc/{child}/cmdline").read_bytes()
    except OSError:
        return b""


def replaced(server: Server, worker: int) -> None:
    """Wait until there are two workers again, without the one that was killed."""
    began = time.monotonic()
    while worker in (found := workers(server)) or len(found) < 2:
        assert time.monotonic() - began < PATIENCE
        assert server.ask("GET", "/healthz")[0] == 200  # by the other one


def test_killed_again_and_again(project: Path) -> None:
    """Whenever it happens, between two questions of the parent or before an answer."""
    with serving(project, "--workers", "2") as server:
        assert server.ask("GET", "/healthz")[0] == 200
        for _ in range(5):
            worker = max(workers(server))
            os.kill(worker, signal.SIGKILL)
            replaced(server, worker)


def test_killed_while_it_owes_an_answer(project: Path) -> None:
    """The parent does not wait for who is dead: it is stopped, asked, and then killed."""
    with serving(project, "--workers", "2") as server:
        assert server.ask("GET", "/healthz")[0] == 200
        worker = max(workers(server))
        os.kill(worker, signal.SIGSTOP)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:  # the parent asks every half second
            assert server.ask("GET", "/healthz")[0] == 200
        os.kill(worker, signal.SIGKILL)
        replaced(server, worker)


def test_others_are_replaced_while_one_is_silent(project: Path) -> None:
    """One that hangs is given time; one that died meanwhile need not wait for that."""
    with serving(project, "--workers", "3") as server:
        while len(found := workers(server)) < 3:
            assert server.ask("GET", "/healthz")[0] == 200
        silent, dying, _ = sorted(found)
        os.kill(silent, signal.SIGSTOP)
        try:
            os.kill(dying, signal.SIGKILL)
            began = time.monotonic()
            while dying in (found := workers(server)) or len(found) < 3:
                assert time.monotonic() - began < PATIENCE
            assert silent in found
        finally:
            os.kill(silent, signal.SIGCONT)
