"""A Redis of the tests' own, on a free port of this machine, that can be killed and started."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

BINARY = shutil.which("redis-server")


class RedisServer:
    """A server that keeps nothing on disk, unless `arguments` say what it is instead."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Come up, again on the port of the last time; on a free one at first."""
        for _ in range(10):
            port = self.port or free_port()
            if self._started(port):
                self.port = port
                return
        raise AssertionError("redis-server does not start")

    def _started(self, port: int) -> bool:
        own = self.arguments or ("--save", "", "--appendonly", "no", "--dir", str(self.folder))
        self.process = subprocess.Popen(
            [BINARY, *own, "--port", str(port), "--bind", "127.0.0.1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stdout:
            if "Ready to accept connections" in line or "+monitor master" in line:
                return True
        self.kill()
        return False

    def kill(self) -> None:
        """Go at once, as if the machine lost its power."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def pause(self) -> None:
        """Answer nobody, and keep the port."""
        self.process.send_signal(signal.SIGSTOP)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def required() -> None:
    """Skip where there is no Redis; continuous integration has one."""
    if BINARY is None:
        reason = "redis-server is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
