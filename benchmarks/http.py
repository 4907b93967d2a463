"""Reading vectors over HTTP: 50 windowed features of 5 views, for 1 entity and for 100, from LMDB.

One worker is asked by `wrk` (a Debian package) over 1 and 16 connections, in turns with its floor:
the same server with an answer that is always the same bytes.  `CPU` is what the worker spends on a
request; requests a second and the quantiles depend on what else the machine does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import harness
from benchmarks.online import AT, ENTITIES, VIEWS, view, write

import tidemark as tm
from tidemark.define import lower
from tidemark.model.graph import FeatureService, Output, Reference

FLOOR = """
import asyncio, socket, sys, uvicorn

BODY = b"x" * int(sys.argv[1])

async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(BODY)).encode())]})
    await send({"type": "http.response.body", "body": BODY})

with socket.create_server(("127.0.0.1", 0)) as bound:
    print('{"address": "http://127.0.0.1:%d"}' % bound.getsockname()[1], flush=True)
    config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False)
    uvicorn.Server(config).run([bound])
"""

SCRIPT = """
local n = 0
request = function()
  local users = {}
  for i = 1, %(keys)d do
    n = (n + 7919) %% %(entities)d
    users[i] = n
  end
  local keys = %(keys)d == 1 and users[1] or "[" .. table.concat(users, ",") .. "]"
  return wrk.format("POST", "/v1/services/everything/online", nil,
    '{"keys": {"user_id": ' .. keys .. '}, "at": "%(at)s"}')
end
"""


@contextmanager
def serving(command: Sequence[str]) -> Iterator[tuple[int, str]]:
    """A server that prints its address as JSON; its process and its address."""
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        text = ""
        while "}" not in text:
            text += server.stdout.readline()
        yield server.pid, json.loads(text)["address"]
    finally:
        server.terminate()
        server.wait()


def cpu_seconds(process: int) -> float:
    """What a process has spent."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(process: int, address: str, script: Path, connections: int, seconds: int) -> Any:
    """Requests a second, p50 and p99 in microseconds, CPU microseconds of a request."""
    before = cpu_seconds(process)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
    done = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
    spent = cpu_seconds(process) - before
    assert "Non-2xx" not in done, done
    count = int(re.search(r"(\d+) requests in", done)[1])
    per_second = float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1])
    units = {"us": 1, "ms": 1e3, "s": 1e6}
    p50, p99 = (
        float(value) * units[unit]
        for value, unit in re.findall(r"(?:50|99)%\s+([\d.]+)(\w+)", done)
    )
    return per_second, p50, p99, spent / count * 1e6


def prepare(folder: Path) -> None:
    """Write history, and the state of one service with every feature."""
    for number in range(VIEWS):
        write(folder / f"{number}.parquet", number)
    (folder / "tidemark.toml").write_text('name = "bench"\nonline = "lmdb://online"\n')
    views = [view(number, folder / f"{number}.parquet") for number in range(VIEWS)]
    outputs = tuple(
        Output(f"{each.name}_{feature.name}", Reference("feature", feature.name, each.name))
        for each in lower(views).definitions.views
        for feature in each.features
    )
    with tm.connect(folder) as store:
        store.apply(store.plan([*views, FeatureService(name="everything", outputs=outputs)]))
        print(store.materialize(until=AT))


def run(folder: Path, rounds: int, seconds: int) -> None:
    """Ask both servers in turns."""
    prepare(folder)
    jobs: dict[str, list[Any]] = {}
    serve = ["-m", "tidemark", "serve", "--project", str(folder), "--port", "0", "--json"]
    at = AT.isoformat().replace("+00:00", "Z")
    with serving(serve) as ours, serving(["-c", FLOOR, "5000"]) as floor:
        for keys in (1, 100):
            script = folder / f"{keys}.lua"
            script.write_text(SCRIPT % {"keys": keys, "entities": ENTITIES, "at": at})
        for _ in range(rounds):
            for connections in (1, 16):
                for keys in (1, 100):
                    script = folder / f"{keys}.lua"
                    name = f"{keys} x 50, {connections} connections"
                    jobs.setdefault(name, []).append(load(*ours, script, connections, seconds))
                name = f"static answer of 5 kB, {connections} connections"
                script = folder / "1.lua"
                jobs.setdefault(name, []).append(load(*floor, script, connections, seconds))
    print(f"{'':40}{'requests/s':>11}{'p50 us':>9}{'p99 us':>9}{'CPU us':>9}")
    for name, found in jobs.items():
        per_second, p50, p99, cpu = (median(column) for column in zip(*found, strict=True))
        print(f"{name:40}{per_second:11,.0f}{p50:9,.0f}{p99:9,.0f}{cpu:9.0f}")


if __name__ == "__main__":
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(Path(temporary), options.rounds, options.seconds)
