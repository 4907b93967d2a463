"""The processes beside an example: `tidemark serve`, and a Redis of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(project: Path) -> Generator[str]:
    """The address of `tidemark serve` for a project, until the block ends."""
    command = ["-m", "tidemark", "serve", "--project", str(project), "--port", "0", "--json"]
    with _running([sys.executable, *command], "}") as said:
        yield json.loads(said)["address"]


@contextmanager
def own_redis(folder: Path) -> Generator[str | None]:
    """The address of a Redis that keeps nothing; None where `redis-server` is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    with _running([binary, *options], "Ready to accept connections"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _running(command: list[str], ready: str) -> Generator[str]:
    """A process, from when it has said that it is ready; gives what it said until then."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        said = ""
        while ready not in said:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise SystemExit(f"{command[0]} did not start:\n{said}")
            said += line
        yield said
    finally:
        process.terminate()
        process.communicate()
