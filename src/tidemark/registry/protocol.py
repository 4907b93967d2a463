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

    `definitions` and `records` are the two documents, as JSON; no records are an empty text.  `at`
    is in microseconds since 1970 UTC.  `digest` covers every other field and the digest of
    the revision before, so that no revision can be altered without altering all that follow.
    """

    number: int
    previous: str
    author: str
    at: int
    reason: str
    epoch: int
    definitions: str
    records: str = ""
    digest: str = ""

    def sealed(self) -> Revision:
        """The same revision with its digest."""
        return msgspec.structs.replace(self, digest=self.expected_digest())

    def expected_digest(self) -> str:
        """The digest that the fields give."""
        fields: tuple[object, ...] = (
            self.number,
            self.previous,
            self.author,
            self.at,
            self.reason,
            self.epoch,
            self.definitions,
        )
        if self.records:  # revisions of before there were any keep their digests
            fields += (self.records,)
        return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()


class Reader(Protocol):
    """Reads revisions."""

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

    def close(self) -> None:
        """Give up connections."""
        ...


class Writer(Reader, Protocol):
    """Reads revisions and appends to them."""

    def append(self, revision: Revision) -> bool:
        """Append if the newest revision is the one that this follows; says whether it was.

        Atomic and durable: after it returns True the revision is there, whatever happens next.
        """
        ...

    def confirm(self, confirmation: Confirmation) -> None:
        """Keep a confirmation; the first one for a plan and a model stays."""
        ...
