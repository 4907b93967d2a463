"""Processes that write to one registry, for the contract of its backends.

python writers.py many URL NAME COUNT      registers and applies COUNT times, prints what was done
python writers.py killed URL TIMES SEED    kills writers at random instants, verifies after each
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from itertools import count

from msgspec.structs import replace

from tidemark.errors import PlanConflict
from tidemark.model.aggregates import Aggregate
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Field,
    Output,
    Reference,
    Source,
)
from tidemark.model.types import INT64, STRING, TIMESTAMP
from tidemark.registry import Registry

VISITS = Output("visits", Reference("feature", "visits", "activity"))
START = Definitions.of(
    [
        Entity(name="user", keys=(Field("user_id", STRING),)),
        Source(
            name="visit",
            columns=(Field("user_id", STRING), Field("at", TIMESTAMP)),
            time="at",
        ),
        FeatureView(
            name="activity",
            entity="user",
            source="visit",
            keys=("user_id",),
            features=(Feature(name="visits", aggregate=Aggregate("count"), type=INT64),),
        ),
        FeatureService(name="start", outputs=(VISITS,)),
    ]
)


def add_service(registry: Registry, name: str) -> None:
    """Apply the definitions in force and one service more, as often as somebody was faster."""
    while True:
        now = registry.snapshot()
        said = now.definitions
        services = {each.name: each for each in said.services}
        services[name] = FeatureService(name=name, outputs=(VISITS,))
        ordered = tuple(services[each] for each in sorted(services))
        plan = registry.plan(replace(said, services=ordered))
        if plan.base != now.digest:
            continue  # it would take away what somebody has added since
        try:
            registry.apply(plan)
        except PlanConflict:
            time.sleep(random.uniform(0, 0.05))
        else:
            return


def many(url: str, name: str, times: int) -> None:
    """Register and apply in turn; what was acknowledged is printed."""
    registry = Registry(url)
    for number in range(times):
        if number % 2:
            registry.register_model(name, number, service="start", owner=name)
            print(f"model {name}@{number}")
        else:
            add_service(registry, f"service_{name}_{number}")
            print(f"service service_{name}_{number}")
    registry.close()


def killed(url: str, times: int, seed: int) -> None:
    """Kill writers, and after each look whether all that was acknowledged is there, whole."""
    chance = random.Random(seed)
    for number in range(times):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            registry = Registry(url)
            for step in count():
                add_service(registry, f"service_{number}_{step}")
                os.write(writing, f"service_{number}_{step}\n".encode())
        os.close(writing)
        acknowledged = os.read(reading, 1_000)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reading, 100_000):
            acknowledged += more
        os.close(reading)
        registry = Registry(url)
        registry.verify()
        there = {each.name for each in registry.snapshot().definitions.services}
        missing = set(acknowledged.decode().split()) - there
        assert not missing, missing
        registry.close()
    print(f"{times} times")


if __name__ == "__main__":
    command, url, *words = sys.argv[1:]
    if command == "many":
        many(url, words[0], int(words[1]))
    else:
        killed(url, int(words[0]), int(words[1]))
