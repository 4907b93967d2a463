"""The two servers, with one worker each, under a closed and an open loop."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.http import KEY, SCRIPT, serving
from benchmarks.online import AT
from benchmarks.peers import report
from benchmarks.peers.arrivals import arrive

import tidemark as tm

OURS = "/v1/services/everything/online"
THEIRS = "/get-online-features"
MOMENT = AT.isoformat().replace("+00:00", "Z")
CONNECTIONS = 16
RATES = {1: (100, 2_000), 100: (5, 100)}
"""Arrivals a second of requests for so many entities: what both can answer, and what ours can."""


@contextmanager
def feast_server(folder: Path, python: Path) -> Iterator[str]:
    """Feast's own server with one worker that is not restarted after some requests."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        *(str(python.with_name("feast")), "serve", "--port", str(port)),
        *("--workers", "1", "--no-access-log", "--max-requests", "0", "-r", "3600"),
    ]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def body(path: str, keys: int, entities: int) -> Callable[[int], bytes]:
    """The content of the i-th request."""

    def content(i: int) -> bytes:
        users = [(i * keys + n) * 7919 % entities for n in range(keys)]
        if path == OURS:
            asked = {"keys": {"user_id": users if keys > 1 else users[0]}, "at": MOMENT}
        else:
            asked = {"feature_service": "everything", "entities": {"user_id": users}}
        return json.dumps(asked).encode()

    return content


class Asked(NamedTuple):
    """A server, the route that reads vectors, and the key that opens it."""

    address: str
    path: str
    secret: str = ""

    @property
    def url(self) -> str:
        """Where vectors are read."""
        return self.address + self.path


def closed(server: Asked, keys: int, options: Namespace, folder: Path) -> list[float]:
    """Requests a second, p50 and p99 in microseconds, as `wrk` sees them."""
    address, path, secret = server
    script = SCRIPT % {"keys": keys, "entities": options.entities, "at": MOMENT}
    if secret:
        script = KEY % secret + script
    if path == THEIRS:
        before, _, _ = script.partition("  local keys")
        script = before + (
            '  return wrk.format("POST", "/get-online-features", '
            '{["content-type"] = "application/json"},\n'
            '    \'{"feature_service": "everything", "entities": {"user_id": [\' .. '
            "table.concat(users, \",\") .. ']}}')\nend\n"
        )
    file = folder / f"{path.rpartition('/')[2]}-{keys}.lua"
    file.write_text(script)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{options.seconds}s", "--latency"]
    done = subprocess.run(
        [*command, "--timeout", "20s", "-s", str(file), address],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "Non-2xx" not in done, done
    units = {"us": 1.0, "ms": 1e3, "s": 1e6}
    p50, p99 = (
        float(value) * units[unit]
        for value, unit in re.findall(r"(?:50|99)%\s+([\d.]+)(\w+)", done)
    )
    found = re.search(r"Requests/sec:\s+([\d.]+)", done)
    assert found is not None, done
    return [float(found[1]), p50, p99]


def compare(folders: Mapping[str, Path], python: Path, options: Namespace) -> str:
    """Both loops over all servers in turns, as Markdown."""
    with ExitStack() as stack:
        servers: dict[str, Asked] = {}
        for name, folder in folders.items():
            if name.startswith("Tidemark"):
                command = ["-m", "tidemark", "serve", "--project", str(folder), "--port", "0"]
                with tm.connect(folder) as store:  # nobody else is asked who they are
                    secret = store.registry.keys.create("benchmark", rate=1e6).secret
                _, address = stack.enter_context(serving([*command, "--json"]))
                servers[name] = Asked(address, OURS, secret)
            else:
                servers[name] = Asked(stack.enter_context(feast_server(folder, python)), THEIRS)
        for each in servers.values():
            content = body(each.path, 1, options.entities)
            arrive(each.url, content, 20, 1, authorization=each.secret)
        return (
            _closed(servers, options, next(iter(folders.values())).parent)
            + "\n"
            + _open(servers, options)
        )


def _closed(servers: Mapping[str, Asked], options: Namespace, folder: Path) -> str:
    rows: list[list[str]] = []
    found: dict[int, dict[str, list[list[float]]]] = {1: {}, 100: {}}
    for _ in range(options.rounds):
        for keys, by_name in found.items():
            for name, server in servers.items():
                by_name.setdefault(name, []).append(closed(server, keys, options, folder))
    for keys, by_name in found.items():
        for place, label in enumerate(("requests/s", "p50 us", "p99 us")):
            column = {name: [one[place] for one in rounds] for name, rounds in by_name.items()}
            cells = report.versus(column, lambda v: f"{v:,.0f}", more_is_better=place == 0)
            rows.append([f"{keys} x 50, {label}", *cells])
    first = f"HTTP, {CONNECTIONS} connections, closed loop"
    return report.table(report.head(first, list(servers)), rows)


def _open(servers: Mapping[str, Asked], options: Namespace) -> str:
    rows: list[list[str]] = []
    for keys, rates in RATES.items():
        for rate in rates:
            asked = {
                name: each
                for name, each in servers.items()
                if rate == rates[0] or name.startswith("Tidemark")
            }
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
            for _ in range(options.rounds):
                for name, server in asked.items():
                    content, secret = body(server.path, keys, options.entities), server.secret
                    seconds = options.seconds
                    done = arrive(server.url, content, rate, seconds, authorization=secret)
                    assert not done.refused, (name, done.refused)
                    found[name].append((done.quantile(0.5), done.quantile(0.99)))
            for place, label in enumerate(("p50 us", "p99 us")):
                column = {name: [one[place] for one in rounds] for name, rounds in found.items()}
                first = f"{keys} x 50, {rate:,} a second, {label}"
                if len(column) == len(servers):
                    cells = report.versus(column, lambda v: f"{v:,.0f}", more_is_better=False)
                else:
                    cells = [f"{sorted(v)[len(v) // 2]:,.0f}" for v in column.values()] + [""] * 4
                rows.append([first, *cells])
    return report.table(report.head("HTTP, fixed rate of arrivals", list(servers)), rows)
