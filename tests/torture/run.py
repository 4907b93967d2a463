"""One run: processes are killed at random instants, and then it is looked what is left.

The seed decides who runs, what is killed when, and whose clock jumps.  How the processes interleave
is up to the machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from tests.redis_server import RedisServer, free_port
from tests.torture import actors, world
from tests.torture.check import Problem, check, refuses
from tests.torture.disk import Disk
from tests.torture.plan import EVERYONE, MACHINE, REDIS, Blow, Plan, Store
from tests.torture.streams import KafkaStream, NdjsonStream, RedisEntries, Stream
from tests.torture.world import Name

import tidemark as tm
from tidemark.errors import TidemarkError

TOLD_LINES = 60
STATE = ".tidemark"
LEFT = "left"
"""A copy of a project's state as it was before anything recovered, beside it."""

STOPS_WITHIN = 4.0
"""Seconds in which a machine stops that waits for something to be written, but not to the disk."""


@dataclass
class Outcome:
    """What a run found; nothing in `problems` if all was well."""

    plan: Plan
    folder: Path
    """Where all of it is, if there are problems; else it is removed."""
    problems: list[str] = field(default_factory=list[str])
    events: int = 0
    acknowledged: int = 0
    kills: int = 0
    stops: int = 0
    """How often the machine stopped while it was open which pages of a file are on the disk."""
    seconds: float = 0.0
    retried: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        verdict = "ok" if not self.problems else "FAILED"
        plan = self.plan
        text = (
            f"{plan.store} seed {plan.seed} {verdict}: {plan}; {self.kills} killed; "
            f"{self.acknowledged:,} of {self.events:,} events acknowledged; {self.seconds:.1f} s"
        )
        retried = [f"{count} x {said}" for said, count in self.retried.items()]
        return "\n".join([text, *(f"    {each}" for each in [*retried, *self.problems])])


class Running:
    """The processes of one run."""

    def __init__(self, plan: Plan, folder: Path, base: datetime, port: int) -> None:
        self._plan, self.folder, self._base, self._port = plan, folder, base, port
        self._number = 0
        self._alive: dict[str, tuple[actors.Life, Any]] = {}
        self._clock = actors.Clock()
        self._chance = Random(f"{plan.seed} {plan.store}")
        self._processes = actors.SPAWNED if plan.spawned else actors.PROCESSES
        self._disk = Disk(folder / STATE / "online")
        self.problems: list[str] = []
        self.lives: list[actors.Life] = []
        self.forgiven = False
        self.kills = self.stops = 0

    def start_all(self) -> None:
        """Start every role, and the clock that jumps."""
        if self._plan.jumps:
            self._clock = actors.Clock(time.time() + self._plan.jump_at, self._plan.jump_by)
        for role in self._plan.roles:
            self.start(role)

    def start(self, role: str, *, steady: bool = False) -> Any:
        """Start a process; `steady` ones see the true time."""
        jumps = role == self._plan.jumps and not steady
        clock = self._clock if jumps else actors.Clock()
        rare = self._plan.checkpoint_seconds
        life = actors.Life(role, self._number, self.folder, self._base, self._port, clock, rare)
        self._number += 1
        processes = actors.PROCESSES if steady else self._processes
        process = processes.Process(target=actors.live, args=(life,))
        process.start()
        self._alive[role] = life, process
        self.lives.append(life)
        return process

    def strike(self, blow: Blow) -> None:
        """Kill a process and start it again, or have it stand still and go on later."""
        if blow.role in {EVERYONE, MACHINE}:
            if blow.role == MACHINE:
                self.stop_machine()
            self.end_all()
            for role in self._chance.sample(self._plan.roles, len(self._plan.roles)):
                self.start(role)
            return
        _, process = self._alive[blow.role]
        if blow.still:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
            return
        process.kill()
        process.join()
        self.kills += 1
        self.start(blow.role)

    def stop_machine(self) -> None:
        """Kill all at a moment when it is open what is on the disk, and leave some of it there."""
        until = time.monotonic() + STOPS_WITHIN
        while not self._disk.is_open and time.monotonic() < until:
            self._disk.look()
            time.sleep(0.002)
        for _ in range(self._chance.choice([0, 5, 20])):
            self._disk.look()
            time.sleep(0.002)
        self.end_all()
        self.stops += self._disk.stop(self._chance) > 0

    def wake(self, role: str) -> None:
        """Have a process that stands still go on."""
        with suppress(ProcessLookupError):
            os.kill(self._alive[role][1].pid, signal.SIGCONT)

    def look(self) -> None:
        """Notice who ended by itself, and start it again."""
        for role, (life, process) in list(self._alive.items()):
            if not process.is_alive():
                self.judge(life, process)
                self.start(role)

    def judge(self, life: actors.Life, process: Any) -> None:
        """Nothing ends by itself, unless Redis is away."""
        said = life.said.read_text("utf-8", "replace") if life.said.exists() else ""
        if self.forgiven and "StoreUnavailable" in said:
            return
        tail = self.tail(life.role)
        self.problems.append(f"The {life.role} ended with {process.exitcode}:\n      {tail}")

    def tail(self, role: str) -> str:
        """What a process said last, but for acknowledgements; what it is doing, if it still is."""
        life, process = self._alive[role]
        said = life.said
        if process.is_alive():
            os.kill(process.pid, actors.TELL)
            process.join(1.0)
        lines = said.read_text("utf-8", "replace").splitlines() if said.exists() else []
        return "\n      ".join([line for line in lines if line[:4] != "ack "][-TOLD_LINES:])

    def has_acknowledged(self, role: str) -> bool:
        """Whether a producer was told that something is kept."""
        said = self._alive[role][0].said
        return said.exists() and "ack " in said.read_text("utf-8", "replace")

    def end_all(self) -> None:
        """Kill all that are left, at once."""
        for _, process in self._alive.values():
            process.kill()
        for _, process in self._alive.values():
            process.join()
        self.kills += len(self._alive)
        self._alive.clear()

    def retried(self) -> Counter[str]:
        """What kept producers waiting."""
        there = (life.said for life in self.lives if life.said.exists())
        texts = (said.read_text("utf-8", "replace") for said in there)
        lines = (line for text in texts for line in text.splitlines())
        return Counter(line[6:106] for line in lines if line.startswith("retry "))

    def acknowledged(self) -> set[Name]:
        """What the producers were told is kept."""
        found: set[Name] = set()
        for life in self.lives:
            if not life.said.exists():
                continue
            for line in life.said.read_text("utf-8", "replace").splitlines(keepends=True):
                if line.startswith("ack ") and line.endswith("\n"):
                    pairs = (each.rsplit(":", 1) for each in line.split()[1:])
                    found |= {(order, int(version)) for order, version in pairs}
        return found


def run(seed: int, store: Store) -> Outcome:
    """One run in a folder of its own, which is kept if the run fails."""
    began = time.monotonic()
    plan = Plan.of(seed, store)
    outcome = Outcome(plan, Path(tempfile.mkdtemp(prefix=f"torture-{store}-{seed}-")))
    with ExitStack() as stack:
        try:
            _run(outcome, stack)
        except Exception:  # whatever it is: this run has failed
            outcome.problems.append(traceback.format_exc())
        except KeyboardInterrupt:
            shutil.rmtree(outcome.folder, ignore_errors=True)
            raise
    if not outcome.problems:
        shutil.rmtree(outcome.folder)
    outcome.seconds = time.monotonic() - began
    return outcome


def _run(outcome: Outcome, stack: ExitStack) -> None:
    plan, folder = outcome.plan, outcome.folder
    world.as_runs_need_it()
    base = world.now()
    server = None
    online = f"lmdb://{STATE}/online"
    if "redis" in (plan.store, plan.stream):
        own = folder / "redis"
        own.mkdir()
        server = RedisServer(own, "--dir", str(own), "--save", "", "--appendonly", "yes")
        server.start()
        stack.callback(server.kill)
        if plan.store == "redis":
            online = server.name
    stream = _stream(plan, folder, base, server)
    world.make_project(folder, online, stream.declared, base, stream.brokers)
    running = Running(plan, folder, base, free_port())
    stack.callback(running.end_all)
    _strike(plan, running, stream, server)
    if plan.stops:
        running.stop_machine()
    running.end_all()
    shutil.copytree(folder / STATE, folder / LEFT)
    outcome.kills, outcome.stops = running.kills, running.stops
    stream.flush()
    try:
        _recover(plan, running)
        acknowledged = running.acknowledged()
        # A clock that went back takes events for future ones.
        late = plan.jumps == "consumer" and plan.jump_by < 0
        outcome.events = check(folder, base, acknowledged, stream.acknowledged, may_be_buried=late)
        outcome.acknowledged = len(acknowledged | stream.acknowledged)
    except (Problem, TidemarkError) as problem:
        running.problems.append(f"{type(problem).__name__}: {problem}")
    outcome.problems, outcome.retried = running.problems, running.retried()


def _strike(plan: Plan, running: Running, stream: Stream, server: RedisServer | None) -> None:
    """Let everything run for a while, under the blows."""
    running.start_all()
    began = time.monotonic()
    blows = list(plan.blows)
    asleep: list[tuple[float, str]] = []
    while (passed := time.monotonic() - began) < plan.seconds or blows or asleep:
        stream.step()
        while asleep and asleep[0][0] <= passed:
            running.wake(asleep.pop(0)[1])
        if blows and blows[0].at <= passed:
            blow = blows.pop(0)
            if blow.role == REDIS:
                assert server is not None
                running.forgiven = True
                _kill_redis(server, emptied=plan.emptied)
                continue
            running.strike(blow)
            if blow.still:
                asleep = sorted([*asleep, (passed + blow.still, blow.role)])
        running.look()
        time.sleep(0.01)


def _kill_redis(server: RedisServer, *, emptied: bool) -> None:
    server.kill()
    if emptied:
        shutil.rmtree(server.folder / "appendonlydir", ignore_errors=True)
    server.start()


def _recover(plan: Plan, running: Running) -> None:
    """Start everything once more, with true clocks, and let it catch up."""
    folder = running.folder
    if plan.emptied and "materializer" not in plan.roles and not refuses(folder):
        raise Problem("Redis has lost its data, and it is read as if nothing were.")
    if plan.emptied:
        with tm.connect(folder) as store:
            world.patiently(store.materialize)
    running.start("server", steady=True)
    running.start("client", steady=True)
    once = running.start("consumer_once", steady=True)
    once.join(world.PATIENCE)
    deadline = time.monotonic() + world.PATIENCE
    while not running.has_acknowledged("client") and time.monotonic() < deadline:
        time.sleep(0.02)
    if once.exitcode != 0:
        said = running.tail("consumer_once")
        raise Problem(f"The stream is not read to its end ({once.exitcode}): {said}")
    if not running.has_acknowledged("client"):
        raise Problem(f"The server does not come back: {running.tail('client')}")
    running.end_all()


def _stream(plan: Plan, folder: Path, base: datetime, server: RedisServer | None) -> Stream:
    name, number = f"{plan.stream}-stream", world.CORRECTED - 1
    if plan.stream == "kafka":
        topic = f"orders-{plan.store}-{plan.seed}-{secrets.token_hex(4)}"
        return KafkaStream(name, number, base, topic)
    if plan.stream == "redis":
        assert server is not None
        return RedisEntries(name, number, base, server)
    return NdjsonStream(name, number, base, folder / "events.ndjson")
