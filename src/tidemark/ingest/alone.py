"""One process at a time, for what a store does not keep apart by itself."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tidemark.errors import StoreUnavailable

SECONDS = 10.0
"""How long somebody waits for another one."""


@contextmanager
def alone(folder: Path, source: str) -> Generator[None]:
    """Be the only one of those who share a log that counts events of a source.

    The lock ends with the process that holds it.  Raises `StoreUnavailable` after a while.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{quote(source, safe='')}.applying").open("w") as file:
        until = time.monotonic() + SECONDS
        while not _taken(file.fileno()):
            if time.monotonic() > until:
                raise StoreUnavailable(
                    f"Another process has been counting events of {source} for {SECONDS:.0f} s.",
                    where=file.name,
                    remedy="Try again; the events are in the log.",
                )
            time.sleep(0.002)
        yield


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
