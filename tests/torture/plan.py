"""What a run does follows from its seed: who runs, what is killed when, whose clock jumps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

Store = Literal["lmdb", "redis"]

PRODUCERS = ("pusher", "client", "filer")
JUMPS = (-86_400, -7_200, -600, -3, 3, 600, 7_200, 86_400)

EVERYONE, MACHINE, REDIS = "everyone", "machine", "redis"
"""What is struck beside single processes: all of them at once, the disk with them, and Redis."""

SPAWNED = 25
"""One run in so many has processes that load everything themselves, not children of a server."""


@dataclass(frozen=True)
class Blow:
    """What happens to a process after so many seconds: it is killed, or stands still a while."""

    at: float
    role: str
    still: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What one run does."""

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
    stops: bool = False
    checkpoint_seconds: float = 0.2
    spawned: bool = False

    @classmethod
    def of(cls, seed: int, store: Store) -> Plan:
        """The plan of a seed."""
        chance = Random(f"{store} {seed}")
        roles = _roles(chance)
        spawned = seed % SPAWNED == SPAWNED - 1
        seconds = chance.uniform(6.0, 8.0) if spawned else chance.uniform(0.7, 1.4)
        stream: Any = chance.choice(["kafka", "ndjson", "ndjson", "redis", "redis"])
        blows: list[Blow] = []
        for _ in range(chance.randint(4, 9)):
            still = chance.choice([0, 0, 0, 0, 0.3, 1.5 if store == "redis" else 0.5])
            blows.append(Blow(chance.uniform(0.1, seconds), chance.choice(roles), still))
        if chance.random() < 0.4:
            blows.append(Blow(chance.uniform(0.3, seconds), EVERYONE))
        emptied = stops = False
        if store == "lmdb":
            for _ in range(chance.choice([0, 0, 1, 2])):
                blows.append(Blow(chance.uniform(0.3, seconds), MACHINE))
            stops = chance.random() < 0.5
        elif chance.random() < 0.5:
            blows.append(Blow(chance.uniform(0.2, seconds), REDIS))
            emptied = chance.random() < 0.4
            if emptied and stream == "redis":
                stream = "kafka"  # a stream whose messages are gone is no fault of its reader
        ordered = tuple(sorted(blows, key=lambda blow: blow.at))
        plan = cls(seed, store, stream, roles, ordered, seconds, emptied=emptied, stops=stops)
        # With rare checkpoints more is undone; frequent ones are under way more often.
        rare = chance.choice([0.05, 0.2, 2.0, 2.0])
        plan = replace(plan, checkpoint_seconds=rare, spawned=spawned)
        if not seed % 2:
            return plan
        # What a client says has no time of its own, so its clock is nobody's concern.
        jumper = chance.choice([role for role in roles if role != "client"])
        by, at = chance.choice(JUMPS), chance.uniform(0, seconds)
        return replace(plan, jumps=jumper, jump_at=at, jump_by=by)

    def __str__(self) -> str:
        parts = [f"{self.stream}, {', '.join(self.roles)}; {len(self.blows)} blows"]
        struck = {blow.role for blow in self.blows}
        if self.spawned:
            parts.append("each process loads everything itself")
        if EVERYONE in struck:
            parts.append("all are killed at once")
        if MACHINE in struck or self.stops:
            parts.append("the machine stops")
        if REDIS in struck:
            parts.append("Redis loses its data" if self.emptied else "Redis is killed")
        if self.jumps:
            parts.append(f"the clock of the {self.jumps} jumps by {self.jump_by:+,.0f} s")
        return ", ".join(parts)


def _roles(chance: Random) -> tuple[str, ...]:
    producers = chance.sample(PRODUCERS, 2)
    roles = ["consumer", "compactor", *producers]
    if "client" in roles or chance.random() < 0.5:
        roles.append("server")
    if chance.random() < 0.25:
        roles.append("materializer")
    return tuple(roles)
