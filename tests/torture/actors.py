"""The processes of a run: each is killed at any instant, and says in a file what it was told.

They are children of a server that has loaded all they need, so that they start at once; in some
runs each is a new process that loads everything itself.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tests.torture.world import (
    Name,
    Sending,
    as_json,
    as_runs_need_it,
    content,
    patiently,
)

from tidemark.apps import cli
from tidemark.client import Client
from tidemark.errors import EventsRefused
from tidemark.online.stores import environment

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.spec.log_writers", "tests.torture.loaded"])
SPAWNED = multiprocessing.get_context("spawn")

T = TypeVar("T")

MOST = 12
"""Events in one push."""

TELL = signal.SIGUSR1
"""Has a process write down what each of its threads is doing."""


@dataclass(frozen=True)
class Clock:
    """A clock that jumps by so many seconds at a moment."""

    at: float = float("inf")
    by: float = 0.0

    def wind(self) -> None:
        """Have this process see this clock."""
        true_time, true_time_ns = time.time, time.time_ns
        time.time = lambda: true_time() + (self.by if true_time() >= self.at else 0)
        time.time_ns = lambda: (
            true_time_ns() + (int(self.by * 1e9) if true_time() >= self.at else 0)
        )


@dataclass(frozen=True)
class Life:
    """What a process is told at its start: `number` counts the processes of its run."""

    role: str
    number: int
    folder: Path
    base: datetime
    port: int
    clock: Clock = Clock()
    checkpoint_seconds: float = 0.2

    @property
    def said(self) -> Path:
        """Where it writes."""
        return self.folder / f"{self.role}-{self.number}.out"


def live(life: Life) -> None:
    """Do what the role does, until killed."""
    file = os.open(life.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.register(TELL)
    os.chdir(life.folder)
    life.clock.wind()
    as_runs_need_it()
    environment.CHECKPOINT_SECONDS = life.checkpoint_seconds
    ROLES[life.role](life)


def command(*arguments: str) -> None:
    """Run the command line."""
    cli.main([*arguments, "--debug"], standalone_mode=False)


def serve(life: Life) -> None:
    command("serve", "--port", str(life.port))


def consume(_: Life) -> None:
    command("stream", "--batch", "20")


def consume_once(_: Life) -> None:
    command("stream", "--batch", "1000", "--once")


def compact(life: Life) -> None:
    chance = random.Random(life.number)
    while True:
        command("compact")
        time.sleep(chance.random() * 0.05)


def materialize(_: Life) -> None:
    while True:
        retried(lambda: command("materialize"))


def push_in_process(life: Life) -> None:
    import tidemark as tm

    store = retried(lambda: tm.connect(life.folder))
    _send_for_ever(life, lambda names, key: store.push("order", _rows(names, life), key=key))


def push_over_http(life: Life) -> None:
    client = Client(f"http://127.0.0.1:{life.port}", timeout=3.0, retries=0)
    _send_for_ever(life, lambda names, key: client.push("order", _rows(names, life), key=key))


def push_files(life: Life) -> None:
    path = life.folder / f"{life.role}-{life.number}.ndjson"

    def push(names: Sequence[Name], key: str) -> None:
        path.write_bytes(b"\n".join(as_json(names, life.base)))
        command("push", "order", str(path), "--batch", "5", *(["--key", key] if key else []))

    _send_for_ever(life, push)


def _rows(names: Sequence[Name], life: Life) -> list[dict[str, object]]:
    return [content(name, life.base) for name in names]


def _send_for_ever(life: Life, push: Callable[[Sequence[Name], str], object]) -> None:
    """Push, each batch again until it is acknowledged, and say so."""
    sending = Sending(f"{life.role}-{life.number}", life.number)
    chance = random.Random(life.number)
    turn = 0
    while True:
        turn += 1
        key = f"{life.role}-{life.number}-{turn}" if chance.random() < 0.5 else ""
        # Without a key, two versions that are pushed again are two versions more.
        names = sending.batch(MOST, several=bool(key))

        def send(names: Sequence[Name] = names, key: str = key) -> bool:
            try:
                push(names, key)
            except EventsRefused as error:
                if "ahead of the clock" not in str(error):
                    raise
                return False
            return True

        if retried(send):
            said = " ".join(f"{order}:{version}" for order, version in names)
            os.write(1, f"ack {said}\n".encode())
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.02)


def retried(action: Callable[[], T]) -> T:
    """Do it until nothing that passes is in the way; that is said.  What does not ends this."""
    return patiently(
        action,
        within=float("inf"),
        told=lambda error: os.write(1, f"retry {' '.join(str(error).split())}\n".encode()),
    )


ROLES: dict[str, Callable[[Life], None]] = {
    "server": serve,
    "consumer": consume,
    "consumer_once": consume_once,
    "compactor": compact,
    "materializer": materialize,
    "pusher": push_in_process,
    "client": push_over_http,
    "filer": push_files,
}
