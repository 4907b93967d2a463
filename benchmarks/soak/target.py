"""A project that is served, what its answers must be, and how its parts are made to fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from benchmarks.online import AT, view, write

import tidemark as tm
from tidemark.define import lower
from tidemark.model.graph import FeatureService, Output, Reference
from tidemark.model.window import format_moment

USERS, EVENTS_EACH, VIEWS = 200, 30, 2
UNKNOWN = 5
"""Users that are asked for and have no events."""

AGES = ("0s", "1us", "1h", "1d", "10d", "29d")
"""How long before the newest moment the others are at which values are asked for."""


@dataclass(frozen=True)
class Expected:
    """What training says of each user at each moment: `rows[moment][user]` are values by name."""

    moments: tuple[str, ...]
    rows: dict[str, list[dict[str, Any]]]

    @property
    def users(self) -> int:
        """How many users can be asked for: 0, 1, 2 and so on."""
        return USERS + UNKNOWN


class Target:
    """One project on one online store."""

    def __init__(self, name: str, folder: Path, online: str) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir()
        (folder / "tidemark.toml").write_text(f'name = "{name}"\nonline = "{online}"\n')
        for number in range(VIEWS):
            write(folder / f"{number}.parquet", number, USERS, EVENTS_EACH)
        self.views = [view(number, folder / f"{number}.parquet") for number in range(VIEWS)]
        self.store = tm.connect(folder)
        self.revisions = 0
        self.address = ""
        self.process = 0

    def prepare(self) -> Expected:
        """Publish, materialize, and compute offline what is to be answered."""
        self.revise()
        self.store.materialize(until=AT)
        moments = [AT - _duration(age) for age in AGES]
        labels = pa.table(
            {
                "user_id": list(range(USERS + UNKNOWN)) * len(moments),
                "at": pa.array(
                    [moment for moment in moments for _ in range(USERS + UNKNOWN)],
                    pa.timestamp("us", "UTC"),
                ),
            }
        )
        trained = self.store.training_set("everything", labels, time="at").to_arrow()
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in trained.drop_columns(["user_id"]).to_pylist():
            moment = row.pop("at")
            rows.setdefault(format_moment(int(moment.timestamp() * 1e6)), []).append(row)
        return Expected(tuple(rows), rows)

    def revise(self) -> str:
        """Apply a revision with one more service; gives its name."""
        names = ["everything", *(f"extra_{n}" for n in range(1, self.revisions + 1))]
        self.revisions += 1
        outputs = tuple(
            Output(f"{each.name}_{feature.name}", Reference("feature", feature.name, each.name))
            for each in lower(self.views).definitions.views
            for feature in each.features
        )
        services = [FeatureService(name=name, outputs=outputs) for name in names]
        self.store.apply(self.store.plan([*self.views, *services]))
        return names[-1]

    @contextmanager
    def served(self, workers: int) -> Iterator[None]:
        """Answer in processes of its own."""
        command = [sys.executable, "-m", "tidemark", "serve", "--project", str(self.folder)]
        with (self.folder / "serve.log").open("w") as log:  # a line for each refused request
            server = subprocess.Popen(
                [*command, "--port", "0", "--json", "--workers", str(workers)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            told = ""
            while "}" not in told:
                assert server.stdout is not None
                line = server.stdout.readline()
                assert line, f"the service of {self.name} ended with {server.wait()}"
                told += line
            self.address = json.loads(told)["address"].removeprefix("http://")
            self.process = server.pid
            yield
        finally:
            server.terminate()
            server.communicate()

    def workers(self) -> list[int]:
        """The processes that answer, the oldest first."""
        children = Path(f"/proc/{self.process}/task/{self.process}/children").read_text("ascii")
        found: list[tuple[int, int]] = []
        for child in map(int, children.split()):
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                stat = Path(f"/proc/{child}/stat").read_text("utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if b"spawn_main" in command and stat[0] != "Z":
                found.append((int(stat[19]), child))
        return [child for _, child in sorted(found)]

    def kill_worker(self) -> bool:
        """End the youngest worker without warning, if another is left."""
        workers = self.workers()
        if len(workers) < 2:
            return False
        os.kill(workers[-1], signal.SIGKILL)
        return True

    def close(self) -> None:
        """Let go of the project."""
        self.store.close()


def memory(process: int) -> float | None:
    """Megabytes of a process that are its own, without mapped files; None if it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text("utf-8")
    except OSError:
        return None
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) / 1024 if found else None


class Redis:
    """A server that keeps what it was told, and can be lost and come back."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0?connect_timeout=60&read_timeout=60"
        self._command = [
            *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
        ]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Come up, with the data of before."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert any("Ready to accept connections" in line for line in self._process.stdout)

    def restart(self, away: float) -> None:
        """Be killed, and come back after some seconds."""
        self.kill()
        time.sleep(away)
        self.start()

    def kill(self) -> None:
        """Be gone at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _duration(text: str) -> timedelta:
    units = {"us": "microseconds", "s": "seconds", "h": "hours", "d": "days"}
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    return timedelta(**{units[text.removeprefix(number)]: int(number)})


def moment_of(text: str) -> datetime:
    """The moment that an answer says it is of."""
    return datetime.fromisoformat(text)
