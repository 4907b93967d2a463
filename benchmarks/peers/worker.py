"""A contender's process: it prepares, says that it is ready, then does each job as often as asked.

Contenders stay alive and take turns, so a busy moment of the machine hits all of them.  This file
imports nothing but Python: every contender has an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO


def channel() -> TextIO:
    """Standard output, for answers alone: what a library prints from now on is no answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def work(answers: TextIO, jobs: Mapping[str, Callable[[int], object]]) -> None:
    """Answer each line of standard input with the microseconds of each call, until it ends."""
    print(json.dumps(sorted(jobs)), file=answers, flush=True)
    done = dict.fromkeys(jobs, 0)
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked["job"]
        clock: list[float] = []
        for _ in range(asked["calls"]):
            start = time.perf_counter_ns()
            jobs[name](done[name])
            clock.append((time.perf_counter_ns() - start) / 1e3)
            done[name] += 1
        print(json.dumps(clock), file=answers, flush=True)
