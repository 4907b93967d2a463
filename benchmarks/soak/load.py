"""Threads that ask, and what became of each request.

`right` and `refused as it should be` are what is wanted.  `unavailable` (503) and `broken` (the
connection ended) are errors that the caller sees and can answer with another try; outside the
seconds after something was killed they count as `unexcused`, and hardly any may be.  Nothing may be
answered `wrong`, `unforeseen`, or not at all (`silent`).
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.soak.target import Expected, moment_of

PATIENCE = 60.0
"""Seconds after which a request that was not answered is lost."""

DEEP = "[" * 50_000 + "]" * 50_000
BAD: list[tuple[str, str, bytes]] = [
    ("POST", "/v1/services/everything/online", b"{"),
    ("POST", "/v1/services/everything/online", b'{"keys": {"user_id": "one"}}'),
    ("POST", "/v1/services/everything/online", b'{"keys": {"user_id": 1e400}}'),
    ("POST", "/v1/services/everything/online", b'{"keys": {"user": 1}}'),
    ("POST", "/v1/services/everything/online", b'{"keys": {"user_id": 1}, "at": "never"}'),
    ("POST", "/v1/services/everything/online", b'{"keys": {"user_id": NaN}}'),
    ("POST", "/v1/services/everything/online", DEEP.encode()),
    ("POST", "/v1/services/everything/online", b"\xff\xfe" * 100),
    (
        "POST",
        "/v1/services/everything/online",
        json.dumps({"keys": {"user_id": [1] * 100_000}}).encode(),
    ),
    ("POST", "/v1/services/nothing/online", b'{"keys": {"user_id": 1}}'),
    ("POST", "/v1/services/..%2f..%2fetc/online", b'{"keys": {"user_id": 1}}'),
    ("POST", "/v1/features/online", b'{"features": ["view_9:x"], "keys": {"user_id": 1}}'),
    ("GET", "/v1/services/everything/online", b""),
    ("GET", "/nowhere", b""),
]


class Load:
    """What all threads share: whether to go on, and what has happened."""

    def __init__(self, address: str, expected: Expected) -> None:
        self.address = address
        self.expected = expected
        self.done = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.compared = 0
        self.examples: list[str] = []
        self.newest_right = 0.0
        self.excused_until = 0.0
        self._guard = threading.Lock()

    def start(self, readers: int) -> list[threading.Thread]:
        """Begin: so many that read one vector, one that reads batches, one that errs."""
        jobs: list[Callable[[Asker], None]] = [*[Asker.one] * readers, Asker.many, Asker.bad]
        threads = [
            threading.Thread(target=self._repeat, args=(job, seed)) for seed, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        return threads

    def excuse(self, seconds: float) -> None:
        """Take errors from now on for what was done to the service."""
        self.excused_until = time.monotonic() + seconds

    def failed(self, outcome: str) -> None:
        """Count an error that may be another's fault; then wait, as a client should."""
        self.tell(outcome if time.monotonic() < self.excused_until else f"unexcused {outcome}")
        time.sleep(0.05)

    def tell(self, outcome: str, example: str = "", compared: int = 0) -> None:
        """Count what became of a request."""
        with self._guard:
            self.outcomes[outcome] += 1
            self.compared += compared
            if outcome == "right":
                self.newest_right = time.monotonic()
            if example and len(self.examples) < 20:
                self.examples.append(f"{outcome}: {example}")

    def _repeat(self, job: Callable[[Asker], None], seed: int) -> None:
        asker = Asker(self, random.Random(seed))
        while not self.done.is_set():
            job(asker)
        asker.close()


class Asker:
    """One connection, made again whenever it is lost."""

    def __init__(self, load: Load, chance: random.Random) -> None:
        self.load = load
        self.chance = chance
        self._connection = self._connect()

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def one(self) -> None:
        """One vector, compared value by value."""
        user = self.chance.randrange(self.load.expected.users)
        self._read([user], user)

    def many(self) -> None:
        """Vectors of up to a hundred users in one answer."""
        everybody = range(self.load.expected.users)
        users = self.chance.choices(everybody, k=self.chance.randint(1, 100))
        self._read(users, users)
        time.sleep(0.01)

    def bad(self) -> None:
        """A request that must be refused as the caller's mistake."""
        method, path, body = self.chance.choice(BAD)
        answer = self._ask(method, path, body)
        if answer is not None:
            status, _ = answer
            if 400 <= status < 500:
                self.load.tell("refused as it should be")
            else:
                self._unforeseen(status, f"{method} {path} {body[:60]!r}")
        time.sleep(0.01)

    def _read(self, users: list[int], asked: object) -> None:
        expected = self.load.expected
        moment = self.chance.choice(expected.moments)
        body = json.dumps({"keys": {"user_id": asked}, "at": moment}).encode()
        answer = self._ask("POST", "/v1/services/everything/online", body)
        if answer is None:
            return
        status, content = answer
        if status != 200:
            self._unforeseen(status, content[:300].decode("utf-8", "replace"))
            return
        told = json.loads(content)
        rows = [expected.rows[moment][user] for user in users]
        wanted: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        got = {
            name: value if isinstance(asked, list) else [value]
            for name, value in told["values"].items()
        }
        if got == wanted and moment_of(told["at"]) == moment_of(moment):
            self.load.tell("right", compared=len(users) * len(wanted))
        else:
            self.load.tell("wrong", f"user {asked} at {moment}: {got} is not {wanted}"[:2_000])

    def _unforeseen(self, status: int, what: str) -> None:
        if status == 503:
            self.load.failed("unavailable")
        else:
            self.load.tell("unforeseen", f"{status} {what}")

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes] | None:
        """Status and content; None if there is no answer, which is counted."""
        try:
            self._connection.request(method, path, body, {"content-type": "application/json"})
            response = self._connection.getresponse()
            return response.status, response.read()
        except TimeoutError:
            self.load.tell("silent", f"{method} {path} {body[:60]!r}")
        except (http.client.HTTPException, OSError):
            self.load.failed("broken")
        self._connection.close()
        self._connection = self._connect()
        return None

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.load.address, timeout=PATIENCE)
