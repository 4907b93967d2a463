"""Two sources that are read together, and other processes that push events of them."""

from __future__ import annotations

import multiprocessing
import threading
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import tidemark as tm

YESTERDAY = datetime.now(UTC) - timedelta(days=1)
USERS = ["ada", "bob"]


class User(tm.Entity):
    """A person with an account."""

    user_id: tm.Key[str]


class Purchase(tm.Source, time="at", unique=("order_id",)):
    """Card purchases."""

    order_id: tm.Col[str]
    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Visit(tm.Source, time="at"):
    """Visits of the shop."""

    user_id: tm.Col[str]
    at: tm.Col[datetime]


class Buying(tm.FeatureView, entity=User, source=Purchase):
    """How much a user buys."""

    purchases = tm.count(over="30d")
    last = tm.latest(Purchase.order_id)


class Visiting(tm.FeatureView, entity=User, source=Visit):
    """How often a user comes."""

    visits = tm.count(over="30d")


FEATURES = [Buying.purchases, Visiting.visits]


def purchase(number: int, user: str = "ada") -> dict[str, object]:
    return {"order_id": f"o{number}", "user_id": user, "at": YESTERDAY}


def visit(user: str = "ada") -> dict[str, object]:
    return {"user_id": user, "at": YESTERDAY}


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def push_and_wait(folder: Path, other: Connection) -> None:
    """Push a purchase, and wait between the log and the online state until told to go on."""
    with tm.connect(folder) as store:
        put_many = store._online.put_many

        def waiting(*args, **options):
            other.send("in the log")
            other.recv()
            return put_many(*args, **options)

        store._online.put_many = waiting
        store.push(Purchase, purchase(2))
        other.send("counted")


def push_all_the_time(folder: Path, other: Connection) -> None:
    """Push events of both sources, from two threads, until told to stop."""
    stop = threading.Event()
    with tm.connect(folder) as store:

        def purchases() -> None:
            number = 100
            while not stop.is_set():
                store.push(Purchase, [purchase(number, USERS[number % 2])])
                number += 1

        def visits() -> None:
            while not stop.is_set():
                store.push(Visit, [visit(user) for user in USERS * 20])

        threads = [threading.Thread(target=each) for each in (purchases, visits)]
        for thread in threads:
            thread.start()
        other.send("pushing")
        other.recv()
        stop.set()
        for thread in threads:
            thread.join()
