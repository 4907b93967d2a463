"""One revision as objects, and the check that revisions are what was applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemark.errors import EngineError
from tidemark.model.fingerprint import ENGINE_EPOCH
from tidemark.model.graph import Definitions
from tidemark.model.records import DatasetRecord, Model, Records
from tidemark.model.window import format_moment
from tidemark.registry.protocol import NO_REVISION, Revision


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is defined as of one revision; revision 0 is the empty registry.

    `records` are the lives of features, the models and the datasets.  `at` is in microseconds since
    1970 UTC; `epoch` is the engine epoch it was applied under.
    """

    revision: int = 0
    digest: str = NO_REVISION
    author: str = ""
    at: int = 0
    reason: str = ""
    epoch: int = ENGINE_EPOCH
    definitions: Definitions = Definitions()
    records: Records = Records()

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that are registered."""
        return self.records.models

    @property
    def datasets(self) -> tuple[DatasetRecord, ...]:
        """The datasets that are kept."""
        return self.records.datasets

    def to_dict(self) -> dict[str, Any]:
        """Who made the revision, when and why, as JSON values."""
        return {
            "revision": self.revision,
            "at": format_moment(self.at),
            "author": self.author,
            "reason": self.reason,
            "digest": self.digest,
        }


def opened(revision: Revision) -> Snapshot:
    """A revision as objects; raises `EngineError` if it is not what was applied."""
    if revision.digest != revision.expected_digest():
        raise _tampered(revision)
    return Snapshot(
        revision=revision.number,
        digest=revision.digest,
        author=revision.author,
        at=revision.at,
        reason=revision.reason,
        epoch=revision.epoch,
        definitions=msgspec.json.decode(revision.definitions, type=Definitions),
        records=msgspec.json.decode(revision.records, type=Records),
    )


def sealed(now: Snapshot, then: Snapshot) -> Revision:
    """The revision that makes `then`, which says who, when and why, follow upon `now`."""
    return Revision(
        number=now.revision + 1,
        previous=now.digest,
        author=then.author,
        at=max(then.at, now.at),
        reason=then.reason,
        epoch=ENGINE_EPOCH,
        definitions=msgspec.json.encode(then.definitions).decode(),
        records=msgspec.json.encode(then.records).decode(),
    ).sealed()


def check_chain(revisions: Sequence[Revision]) -> None:
    """Raise `EngineError` for the first revision that does not follow from the one before."""
    previous = NO_REVISION
    for number, revision in enumerate(revisions, 1):
        follows = revision.number == number and revision.previous == previous
        if not follows or revision.digest != revision.expected_digest():
            raise _tampered(revision)
        previous = revision.digest


def _tampered(revision: Revision) -> EngineError:
    return EngineError(
        f"Revision {revision.number} of the registry is not what was applied.",
        where=f"by {revision.author} at {format_moment(revision.at)}",
        remedy="Somebody edited the database; restore it from a copy.",
    )
