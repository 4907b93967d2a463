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
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Literal

from tests.redis_server import RedisServer, free_port
from tests.torture import actors, world
from tests.torture.check import Problem, check, refuses
from tests.torture.streams import KafkaStream, NdjsonStream, RedisEntries, Stream
from tests.torture.world import Name

import tidemark as tm
from tidemark.errors import TidemarkError

Store = Literal["lmdb", "redis"]

PRODUCERS = ("pusher", "client", "filer")
TOLD_LINES = 60
JUMPS = (-86_400, -7_200, -600, -3, 3, 600, 7_200, 86_400)


@dataclass(frozen=True)
class Blow:
    """What happens to a process after so many seconds: it is killed, or stands still a while."""

    at: float
    role: str
    still: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What one run does; it follows from the seed."""

    seed: int
    store: Store
    stream: Literal["kafka", "redis", "ndjson"]
    roles: tuple[str, ...]
    blows: tuple[Blow, ...]
    seconds: float
    jumps: str = ""
    jump_at: float = 0.0
    jump_by: float = 0.0
    emptied: bool = False

    @classmethod
    def of(cls, seed: int, store: Store) -> Plan:
        """The plan of a seed."""
        chance = Random(f"{store} {seed}")
        producers = chance.sample(PRODUCERS, 2)
        roles = ["consumer", "compactor", *producers]
        if "client" in roles or chance.random() < 0.5:
            roles.append("server")
        if chance.random() < 0.25:
            roles.append("materializer")
        seconds = chance.uniform(1.0, 2.0)
        blows: list[Blow] = []
        for _ in range(chance.randint(3, 8)):
            still = chance.choice([0, 0, 0, 0, 0.3, 2.0 if store == "redis" else 0.5])
            blows.append(Blow(chance.uniform(0.1, seconds), chance.choice(roles), still))
        emptied = False
        stream: Any = chance.choice(["kafka", "ndjson", "ndjson", "redis", "redis"])
        if store == "redis" and chance.random() < 0.5:
            blows.append(Blow(chance.uniform(0.2, seconds), "redis"))
            emptied = chance.random() < 0.4
            if emptied and stream == "redis":
                stream = "kafka"  # a stream whose messages are gone is no fault of its reader
        ordered = tuple(sorted(blows, key=lambda blow: blow.at))
        plan = cls(seed, store, stream, tuple(roles), ordered, seconds, emptied=emptied)
        if not seed % 2:
            return plan
        # What a client says has no time of its own, so its clock is nobody's concern.
        jumper = chance.choice([role for role in roles if role != "client"])
        by, at = chance.choice(JUMPS), chance.uniform(0, seconds)
        return replace(plan, jumps=jumper, jump_at=at, jump_by=by)


@dataclass
class Outcome:
    """What a run found; nothing in `problems` if all was well."""

    plan: Plan
    problems: list[str] = field(default_factory=list[str])
    events: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    retried: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        verdict = "ok" if not self.problems else "FAILED"
        plan = self.plan
        faults = f"{len(plan.blows)} blows"
        if plan.emptied:
            faults += ", Redis loses its data"
        if plan.jumps:
            faults += f", the clock of the {plan.jumps} jumps by {plan.jump_by:+,.0f} s"
        text = (
            f"{plan.store} seed {plan.seed} {verdict}: {plan.stream}, {', '.join(plan.roles)}; "
            f"{faults}; {self.acknowledged:,} of {self.events:,} events acknowledged; "
            f"{self.seconds:.1f} s"
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
        self.problems: list[str] = []
        self.lives: list[actors.Life] = []
        self.forgiven = False

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
        life = actors.Life(role, self._number, self.folder, self._base, self._port, clock)
        self._number += 1
        process = actors.PROCESSES.Process(target=actors.live, args=(life,))
        process.start()
        self._alive[role] = life, process
        self.lives.append(life)
        return process

    def strike(self, blow: Blow) -> None:
        """Kill a process and start it again, or have it stand still and go on later."""
        _, process = self._alive[blow.role]
        if blow.still:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
            return
        process.kill()
        process.join()
        self.start(blow.role)

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
        """Kill all that are left."""
        for _, process in self._alive.values():
            process.kill()
        for _, process in self._alive.values():
            process.join()
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
    """One run in a folder of its own."""
    began = time.monotonic()
    outcome = Outcome(Plan.of(seed, store))
    with tempfile.TemporaryDirectory(prefix="torture") as folder, ExitStack() as stack:
        try:
            _run(outcome, Path(folder), stack)
        except Exception:  # whatever it is: this run has failed, and the next one is made
            outcome.problems.append(traceback.format_exc())
    outcome.seconds = time.monotonic() - began
    return outcome


def _run(outcome: Outcome, folder: Path, stack: ExitStack) -> None:
    plan = outcome.plan
    world.as_runs_need_it()
    base = world.now()
    server = None
    online = "lmdb://.tidemark/online"
    if "redis" in (plan.store, plan.stream):
        own = folder / "redis"
        own.mkdir()
        server = RedisServer(own, "--dir", str(own), "--save", "", "--appendonly", "yes")
        server.start()
        stack.callback(server.kill)
        if plan.store == "redis":
            online = server.url
    stream = _stream(plan, folder, base, server)
    world.make_project(folder, online, stream.declared, base, stream.brokers)
    running = Running(plan, folder, base, free_port())
    stack.callback(running.end_all)
    _strike(plan, running, stream, server)
    running.end_all()
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
            if blow.role == "redis":
                assert server is not None
                running.forgiven = True
                server.kill()
                if plan.emptied:
                    shutil.rmtree(server.folder / "appendonlydir", ignore_errors=True)
                server.start()
                continue
            running.strike(blow)
            if blow.still:
                asleep = sorted([*asleep, (passed + blow.still, blow.role)])
        running.look()
        time.sleep(0.01)


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
        raise Problem(f"The stream is not read to its end: {running.tail('consumer_once')}")
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
