"""Reading vectors over HTTP: 50 windowed features of 5 views, for 1 entity and for 100.

From LMDB, or with `--redis` from a `redis-server` that is started for it.

One worker with API keys, a limit of their rate and the serving log is asked in turns with one that
keeps no log, and with the floor: the same server with an answer that is always the same bytes.

`wrk` (a Debian package) asks over 1 and 16 connections as fast as it is answered.  `CPU` is what
the worker spends on a request; requests a second and the quantiles depend on what else the machine
does.  Then requests arrive at a fixed rate (`--rate`, well below what a worker can) at the server
with the log and the one without at the same time, in turns, for long enough that the log is written
many times: what else the machine does at a moment, all feel.  What the log costs is the difference
of their quantiles; that of two servers without the log says what such a difference is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks import harness
from benchmarks.online import AT, ENTITIES, VIEWS, own_redis, view, write
from benchmarks.peers.arrivals import arrive, arrive_at_all
from numpy.typing import NDArray

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

KEY = """
wrk.headers["Authorization"] = "Bearer %s"
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


BLOCK = 10
"""Seconds: in that time the log is written once."""

TITLES = f"{'p50 us':>9}{'p99 us':>9}{'CPU us':>9}"

PATH = "/v1/services/everything/online"
MOMENT = AT.isoformat().replace("+00:00", "Z")

Servers = Mapping[str, tuple[int, str]]
"""The process and the address of each."""


@contextmanager
def serving(command: Sequence[str], **settings: str) -> Iterator[tuple[int, str]]:
    """A server that prints its address as JSON; its process and its address."""
    server = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **settings},
    )  # fmt: skip
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


def prepare(folder: Path, online: str = "lmdb://online") -> str:
    """Write history, and the state of one service with every feature; gives a key that reads it."""
    for number in range(VIEWS):
        write(folder / f"{number}.parquet", number)
    (folder / "tidemark.toml").write_text(f'name = "bench"\nonline = "{online}"\n')
    views = [view(number, folder / f"{number}.parquet") for number in range(VIEWS)]
    outputs = tuple(
        Output(f"{each.name}_{feature.name}", Reference("feature", feature.name, each.name))
        for each in lower(views).definitions.views
        for feature in each.features
    )
    with tm.connect(folder) as store:
        store.apply(store.plan([*views, FeatureService(name="everything", outputs=outputs)]))
        print(store.materialize(until=AT))
        return store.registry.keys.create("benchmark", rate=1e6).secret


def run(folder: Path, online: str, options: argparse.Namespace) -> None:
    """Ask all servers in turns."""
    secret = prepare(folder, online)
    serve = ["-m", "tidemark", "serve", "--project", str(folder), "--port", "0", "--json"]
    for keys in (1, 100):
        script = SCRIPT % {"keys": keys, "entities": ENTITIES, "at": MOMENT}
        (folder / f"{keys}.lua").write_text(KEY % secret + script)
    with (
        serving(serve) as logging,
        serving(serve, TIDEMARK_SERVING_LOG="") as silent,
        serving(serve, TIDEMARK_SERVING_LOG="") as another,
        serving(["-c", FLOOR, "5000"]) as floor,
    ):
        servers = {"with the log": logging, "without": silent}
        three = {**servers, "without, another server": another}
        for _, address in three.values():  # until it answers
            arrive(address + PATH, body, 20, 1, authorization=secret)
        if options.rounds:
            closed(folder, servers, floor, options)
        arriving(three, secret, options)


def closed(
    folder: Path, servers: Servers, floor: tuple[int, str], options: argparse.Namespace
) -> None:
    """As fast as they answer."""
    jobs: dict[str, list[Any]] = {}
    for _ in range(options.rounds):
        for connections in (1, 16):
            for keys in (1, 100):
                for how, server in servers.items():
                    name = f"{keys} x 50, {connections} connections, {how}"
                    done = load(*server, folder / f"{keys}.lua", connections, options.seconds)
                    jobs.setdefault(name, []).append(done)
            name = f"static answer of 5 kB, {connections} connections"
            done = load(*floor, folder / "1.lua", connections, options.seconds)
            jobs.setdefault(name, []).append(done)
    print(f"{'':40}{'requests/s':>11}{TITLES}")
    for name, found in jobs.items():
        per_second, p50, p99, cpu = (median(column) for column in zip(*found, strict=True))
        print(f"{name:40}{per_second:11,.0f}{p50:9,.0f}{p99:9,.0f}{cpu:9.0f}")


def arriving(servers: Servers, secret: str, options: argparse.Namespace) -> None:
    """At a fixed rate: what the log adds to the quantiles of servers that are asked in turns."""
    before = [cpu_seconds(process) for process, _ in servers.values()]
    urls = [address + PATH for _, address in servers.values()]
    found = arrive_at_all(urls, body, options.rate, options.window, authorization=secret)
    assert not any(each.refused for each in found)
    print(f"\n{f'{options.rate:,} requests a second each':40}{TITLES}")
    for (name, (process, _)), each, spent in zip(servers.items(), found, before, strict=True):
        cpu = (cpu_seconds(process) - spent) / len(each.clock) * 1e6
        p50, p99 = each.quantile(0.5), each.quantile(0.99)
        print(f"{f'1 x 50, {name}':40}{p50:9,.0f}{p99:9,.0f}{cpu:9.0f}")
    logging, silent, another = (
        np.array(each.clock).reshape(-1, options.rate * BLOCK) for each in found
    )
    for q in (0.5, 0.99):
        low, high = interval(logging, silent, q)
        print(f"the log adds to p{q * 100:.0f}, us, in 95 of 100 cases: {low:,.0f} to {high:,.0f}")
        low, high = interval(another, silent, q)
        print(f"{'another server alike:':>48} {low:,.0f} to {high:,.0f}")


def interval(one: NDArray[np.float64], other: NDArray[np.float64], q: float) -> tuple[float, float]:
    """Between what the difference of two quantiles lies, were other blocks drawn of those seen.

    Blocks of the same time are drawn together: what else the machine did then is in both.
    """
    random = np.random.default_rng(0)
    drawn = (random.integers(0, len(one), len(one)) for _ in range(300))
    costs = [np.quantile(one[rows], q) - np.quantile(other[rows], q) for rows in drawn]
    low, high = np.quantile(costs, [0.025, 0.975])
    return float(low), float(high)


def body(number: int) -> bytes:
    """The content of the request of that number."""
    return json.dumps({"keys": {"user_id": number * 7919 % ENTITIES}, "at": MOMENT}).encode()


if __name__ == "__main__":
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--seconds", type=int, default=2, help="of each load by wrk")
    parser.add_argument("--rate", type=int, default=500, help="of arrivals, for each server")
    parser.add_argument("--window", type=int, default=200, help="seconds of arrivals")
    parser.add_argument("--redis", action="store_true", help="serve from Redis, not LMDB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with own_redis(folder) if options.redis else nullcontext("lmdb://online") as online:
            run(folder, online, options)
