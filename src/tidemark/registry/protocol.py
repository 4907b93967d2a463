"""What a registry is kept in: a list of revisions that only grows.

Two protocols, so that a server which only reads can be given a reader only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from tidemark.model.records import Confirmation

NO_REVISION = ""
"""The digest that the first revision follows."""


class Revision(msgspec.Struct, frozen=True):
    """One state of everything that is defined, and who made it so.

    `definitions` and `records` are the two documents, as JSON.  `at` is in microseconds since 1970
    UTC.  `digest` covers every other field and the digest of the revision before, so that no
    revision can be altered without altering all that follow.
    """

    number: int
    previous: str
    author: str
    at: int
    reason: str
    epoch: int
    definitions: str
    records: str
    digest: str = ""

    def sealed(self) -> Revision:
        """The same revision with its digest."""
        return msgspec.structs.replace(self, digest=self.expected_digest())

    def expected_digest(self) -> str:
        """The digest that the fields give."""
        fields = (
            self.number,
            self.previous,
            self.author,
            self.at,
            self.reason,
            self.epoch,
            self.definitions,
            self.records,
        )
        return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()


class KeyScope(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a key allows: `actions`, of these services and of what has these tags; else of all.

    `rate` is requests a second; 0 leaves it to the server.
    """

    actions: tuple[str, ...]
    services: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    rate: float = 0.0

    @property
    def limited(self) -> bool:
        """Whether it holds for some services or tags only."""
        return bool(self.services or self.tags)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's key, who made it and who revoked it; of its secret there is only the digest.

    Keys are beside the revisions, since they change who may ask and never what is answered.
    Moments are microseconds since 1970 UTC.
    """

    name: str
    digest: str
    scope: KeyScope
    owner: str
    author: str
    at: int
    reason: str = ""
    expires: int | None = None
    revoked: int | None = None
    revoked_by: str = ""
    revoked_reason: str = ""

    def status(self, now: int) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "active" if self.expires is None or now < self.expires else "expired"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Recurring work of a project: who does it now, and how it went the last time.

    `holder` may work until the moment `lease`, which it puts off while it does.  `failures` are
    those in a row.  Up to `reached` it is done: that is when the newest run began that was made to
    its end, or the very first one, as long as none was.  Moments are microseconds since 1970 UTC;
    0: never.
    """

    name: str
    holder: str = ""
    lease: int = 0
    started: int = 0
    finished: int = 0
    failures: int = 0
    outcome: str = ""
    reached: int = 0


class Reader(Protocol):
    """Reads revisions, and the keys beside them."""

    def head(self) -> str:
        """The digest of the newest revision, `NO_REVISION` if there is none; cheap."""
        ...

    def latest(self) -> Revision | None:
        """The newest revision; None if there is none."""
        ...

    def revision(self, number: int) -> Revision | None:
        """The revision of that number."""
        ...

    def revision_at(self, moment: int) -> Revision | None:
        """The newest revision made at or before the moment, in microseconds since 1970."""
        ...

    def revisions(self) -> Sequence[Revision]:
        """All revisions, oldest first."""
        ...

    def confirmations(self, plan: str) -> Sequence[Confirmation]:
        """What has been confirmed of the plan of that digest, in the order of the models."""
        ...

    def keys(self) -> Sequence[Key]:
        """All keys there ever were, in the order of their names."""
        ...

    def close(self) -> None:
        """Give up connections."""
        ...


class Jobs(Protocol):
    """Hands out recurring work, so that it has one holder at a time."""

    def jobs(self) -> Sequence[Job]:
        """All jobs that were ever taken, in the order of their names."""
        ...

    def take_job(self, name: str, holder: str, *, now: int, lease: int) -> Job | None:
        """Become the holder of a job until `lease`; None while somebody else's lease lasts.

        Of many who ask at once one gets it.
        """
        ...

    def put_off(self, name: str, holder: str, *, lease: int) -> bool:
        """Make a lease last longer; False if the job is somebody else's by now."""
        ...

    def give_back(self, job: Job) -> bool:
        """Keep how a job went and end its lease; False if it is somebody else's by now."""
        ...


class Writer(Reader, Jobs, Protocol):
    """Reads revisions and appends to them; makes and revokes keys; hands out jobs."""

    def append(self, revision: Revision) -> bool:
        """Append if the newest revision is the one that this follows; says whether it was.

        Atomic and durable: after it returns True the revision is there, whatever happens next.
        """
        ...

    def confirm(self, confirmation: Confirmation) -> None:
        """Keep a confirmation; the first one for a plan and a model stays."""
        ...

    def add_key(self, key: Key) -> bool:
        """Keep a key; False if there ever was one of its name or digest."""
        ...

    def revoke_key(self, name: str, *, at: int, by: str, reason: str) -> bool:
        """Revoke a key; False if there is none, or if it is revoked already."""
        ...
