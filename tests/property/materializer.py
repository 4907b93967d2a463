"""A process that materializes until it is killed, or is through."""

from __future__ import annotations

import sys
import time
from typing import Any

import tidemark as tm
from tidemark.errors import StoreUnavailable
from tidemark.online.stores.redis import RedisStore

LEASE = 0.2
"""Seconds for which the lock of a process that was killed keeps out the others, on Redis."""

PATIENCE = 300.0


def materialize(store: tm.Store, **asked: Any) -> None:
    """Materialize as soon as whoever was killed is seen to be gone."""
    given_up = time.monotonic() + PATIENCE
    while True:
        try:
            store.materialize(**asked)
        except StoreUnavailable:
            if time.monotonic() > given_up:
                raise
            time.sleep(LEASE / 10)
        else:
            return


def main(folder: str, rate: float) -> None:
    """Wait to be told, then write a few rows at a time."""
    RedisStore.__init__.__kwdefaults__["lease"] = LEASE
    with tm.connect(folder) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        materialize(store, rate=rate)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
