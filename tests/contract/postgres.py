"""A Postgres server of this machine, for as long as the tests need one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.redis_server import free_port


def missing() -> str:
    """Why there can be no server here; empty if there can."""
    return "" if _program("initdb") else "Postgres is not installed (Debian: postgresql)"


@contextmanager
def server() -> Generator[str]:
    """A server on a free port of the loopback; gives the URL of its first database."""
    folder = Path(tempfile.mkdtemp(prefix="tidemark-postgres-"))
    user = _user()
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=200"
    control = [_program("pg_ctl"), "-D", str(data), "-w", "-t", "300", "-l", str(folder / "log")]
    try:
        _run([_program("initdb"), "-D", str(data), "-U", "tidemark", "-A", "trust", "-E", "UTF8",
              "--no-sync"], user)  # fmt: skip
        _run([*control, "-o", options, "start"], user)
        try:
            yield f"postgresql://tidemark@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"], user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(words: list[str], user: str) -> None:
    done = subprocess.run(
        words,
        user=user or None,
        cwd="/",
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # the server inherits it, so a pipe would never end
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{words[0]} ended with {done.returncode}"


def _program(name: str) -> str:
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(beside[-1]) if beside else "")


def _user() -> str:
    """Postgres refuses to run as root; then somebody else is asked."""
    if os.geteuid() != 0:
        return ""
    names = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
