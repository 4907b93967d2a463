"""Tidemark and Feast: `python -m benchmarks.peers`, about five minutes, prints Markdown.

The same 50 features of 5 views for the same entities, and the same requests, in process and over
HTTP with one worker; each with its embedded store and with one Redis.  Contenders take turns in
each round; figures are medians over rounds, ratios are those of one round each.  Feast is installed
into an environment of its own, on first use.  `wrk` and `redis-server` are Debian packages.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.online import AT, VIEWS, own_redis, write
from benchmarks.peers import report, served
from benchmarks.peers.install import feast
from benchmarks.peers.tidemark_side import tables

OURS = ("Tidemark, LMDB", "Tidemark, Redis")
THEIRS = ("Feast, SQLite", "Feast, Redis")
CALLS = {"1 x 10": 200, "1 x 50": 200, "100 x 50": 20, "push 1": 20, "push 100": 5}


class Contender:
    """A process that does jobs when it is asked to."""

    def __init__(self, command: list[str], config: Mapping[str, Any]) -> None:
        file = Path(config["folder"]).with_suffix(".json")
        file.write_text(json.dumps(config))
        self.folder = Path(config["folder"])
        self.log = file.with_suffix(".log").open("w+")
        self.process = subprocess.Popen(
            [*command, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def ready(self) -> None:
        """Wait until it has prepared."""
        self._answer()

    def do(self, job: str, calls: int) -> list[float]:
        """Microseconds of each call."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"job": job, "calls": calls}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.folder.name} ended:\n{self.log.read()[-4_000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()
        self.log.close()


@contextmanager
def prepared(options: Namespace, folder: Path, python: Path) -> Iterator[dict[str, Contender]]:
    """All four contenders, with their state written."""
    events = {str(number): str(folder / f"events_{number}.parquet") for number in range(VIEWS + 1)}
    counts = dict.fromkeys(events, options.entities) | {str(VIEWS): options.materialized}
    for number, path in events.items():
        each = 5 if number == str(VIEWS) else 30
        write(Path(path), int(number), counts[number], each)
    tables(folder, events, counts, AT.isoformat())
    with ExitStack() as stack:
        redis = stack.enter_context(own_redis(folder))
        where = redis.removeprefix("redis://").removesuffix("/0")
        common = {"entities": options.entities, "at": AT.isoformat()}
        *ours, many = events.values()
        theirs = [str(folder / f"view_{number}.parquet") for number in events]
        tidemark = [sys.executable, "-m", "benchmarks.peers.tidemark_side"]
        peer = [str(python), str(Path(__file__).with_name("feast_side.py"))]
        online: dict[str, Any] = {
            OURS[0]: "lmdb://online",
            OURS[1]: redis,
            THEIRS[0]: {"type": "sqlite", "path": str(folder / "feast.db")},
            THEIRS[1]: {"type": "redis", "connection_string": f"{where},db=1"},
        }
        contenders: dict[str, Contender] = {}
        for name, store in online.items():
            place = {"folder": str(folder / name.replace(", ", "-")), "online": store}
            inputs = (
                {"events": ours, "many": many}
                if name in OURS
                else {"tables": theirs[:-1], "many": theirs[-1]}
            )
            contenders[name] = Contender(
                tidemark if name in OURS else peer, {**common, **place, **inputs}
            )
            stack.callback(contenders[name].close)
            contenders[name].ready()
        yield contenders


def run(options: Namespace, folder: Path) -> None:
    """Everything, in turns."""
    python, version = feast(options.data)
    print(f"Feast {version}; {options.rounds} rounds\n", flush=True)
    chosen = {job: calls for job, calls in CALLS.items() if job in options.jobs}
    with prepared(options, folder, python) as contenders:
        clocks: report.Clocks = {}
        for contender in contenders.values():
            for job, calls in chosen.items():
                contender.do(job, max(calls // 10, 1))
        for _ in range(options.rounds):
            for job, calls in chosen.items():
                for name, contender in contenders.items():
                    clocks.setdefault(job, {}).setdefault(name, []).append(
                        contender.do(job, max(calls * options.effort // 100, 2))
                    )
        for _ in range(2 if options.rounds > 1 else 1):
            for name, contender in contenders.items():
                clocks.setdefault("materialize", {}).setdefault(name, []).append(
                    contender.do("materialize", 1)
                )
        print(report.in_process(clocks, options.materialized))
        folders = {name: contender.folder for name, contender in contenders.items()}
        print(served.compare(folders, python, options), flush=True)


if __name__ == "__main__":
    for program in ("wrk", "redis-server"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed; it is a Debian package")
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--entities", type=int, default=5_000)
    parser.add_argument("--materialized", type=int, default=50_000, help="entities written at once")
    parser.add_argument("--seconds", type=int, default=3, help="of each load over HTTP")
    parser.add_argument("--effort", type=int, default=100, help="percent of the calls of a round")
    parser.add_argument("--jobs", nargs="*", choices=CALLS, default=list(CALLS), help="in process")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        run(parser.parse_args(), Path(temporary))
    print(f"It took {time.monotonic() - began:.0f} s.")
