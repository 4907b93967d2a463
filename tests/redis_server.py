"""A Redis of the tests' own, on a free port of this machine, that can be killed and started."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

BINARY = shutil.which("redis-server")

PATIENT = "?connect_timeout=300&read_timeout=300"
"""For a machine that is busy: a second is soon over there."""


class RedisServer:
    """A server that keeps nothing on disk, unless `arguments` say what it is instead."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments
        self.process: subprocess.Popen[str] | None = None
        self.port = self.bus = 0

    @property
    def name(self) -> str:
        """The address, whose client waits as long as it does if nothing is said."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        """The address, with all the time that an answer may need."""
        return self.name + PATIENT

    def start(self) -> None:
        """Come up, again on the port of the last time; on a free one at first."""
        for _ in range(100):
            port, bus = (self.port, self.bus) if self.port else (free_port(), free_port())
            if self._started(port, bus):
                self.port, self.bus = port, bus
                return
            time.sleep(0.05)  # somebody may have taken the port meanwhile, for a moment
        raise AssertionError("redis-server does not start")

    def _started(self, port: int, bus: int) -> bool:
        own = self.arguments or ("--save", "", "--appendonly", "no", "--dir", str(self.folder))
        if "--cluster-enabled" in own:
            own = (*own, "--cluster-port", str(bus))
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

    def resume(self) -> None:
        """Answer again, also what was asked meanwhile."""
        self.process.send_signal(signal.SIGCONT)


class RedisCluster:
    """Three servers that share the slots, and keep nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.servers: list[RedisServer] = []
        for number in range(3):
            own = folder / str(number)
            own.mkdir()
            self.servers.append(
                RedisServer(
                    own,
                    *("--save", "", "--appendonly", "no", "--dir", str(own)),
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", "30000"),
                )
            )

    @property
    def url(self) -> str:
        """The address of two of the nodes; the third is to be found."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.servers[:2])
        return f"redis+cluster://{hosts}{PATIENT}"

    def start(self) -> None:
        """Come up, and know one another."""
        import redis

        for number, server in enumerate(self.servers):
            server.start()
            with redis.Redis(port=server.port) as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                first, last = 16_384 * number // 3, 16_384 * (number + 1) // 3 - 1
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                if number:
                    place = self.servers[0]
                    client.execute_command("CLUSTER MEET", "127.0.0.1", place.port, place.bus)
        self.wait()

    def wait(self) -> None:
        """Wait until every node knows where all slots are."""
        import redis

        for server in self.servers:
            with redis.Redis(port=server.port) as client:
                while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok" or len(
                    client.execute_command("CLUSTER NODES")
                ) < len(self.servers):
                    time.sleep(0.02)

    def empty(self) -> None:
        """Forget all keys."""
        import redis

        for server in self.servers:
            with redis.Redis(port=server.port) as client:
                client.flushall()

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


def free_port() -> int:
    """A port on which nobody listens, below those that the system gives to whoever asks for any.

    So a server that is away finds it free when it is back, however many others connect meanwhile.
    """
    chance = random.SystemRandom()  # another process has the same seeds
    while True:
        port = chance.randrange(16_384, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def required() -> None:
    """Skip where there is no Redis; continuous integration has one."""
    if BINARY is None:
        reason = "redis-server is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
