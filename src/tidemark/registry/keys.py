"""Keys of callers: who may ask the service for what; shown once, kept as digests."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model.graph import Definitions
from tidemark.model.window import clock, format_moment, parse_duration, parse_moment
from tidemark.registry.history import whoami
from tidemark.registry.protocol import Key, KeyScope, Writer

Action = Literal["read", "push", "metrics", "admin"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""What a key may allow: vectors and the registry, events, counts; `admin` is all of it."""

_PREFIX = "tmk_"  # by which scanners of source code find one that leaked
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DURATION = re.compile(r"\d+(w|d|h|m|s)")


class NewKey(msgspec.Struct, frozen=True):
    """A key that was just made, with the secret that nobody can be told again.

    `hint` names tags that nothing has, and the nearest ones: they may be given later, or be a slip.
    """

    key: Key
    secret: str
    hint: str = ""


class Keys:
    """The keys of a registry; `definitions` gives those in force."""

    def __init__(self, kept: Writer, definitions: Callable[[], Definitions]) -> None:
        self._kept = kept
        self._definitions = definitions

    def create(
        self,
        name: str,
        actions: Sequence[str] = ("read",),
        *,
        services: Sequence[str] = (),
        tags: Sequence[str] = (),
        expires: str | datetime | None = None,
        rate: float = 0.0,
        owner: str = "",
        reason: str = "",
        author: str | None = None,
    ) -> NewKey:
        """Make a key.

        `services` and `tags` (of services, views and features) limit what it reads, `tags` of
        sources what it pushes; without any there is no limit.  `expires` is a duration from now or
        a moment, `rate` requests a second (0: what the server says).  Raises `PlanConflict` if
        there was ever a key of this name.
        """
        scope = KeyScope(tuple(actions), tuple(services), tuple(tags), float(rate))
        _check(name, scope)
        definitions = self._definitions() if scope.limited else Definitions()
        for service in services:
            definitions.service(service)
        by, now = author or whoami(), clock()
        secret = _PREFIX + secrets.token_urlsafe(32)
        key = Key(
            name=name,
            digest=digest(secret.encode()).hex(),
            scope=scope,
            owner=owner or by,
            author=by,
            at=now,
            reason=reason,
            expires=None if expires is None else _end(expires, now),
        )
        if not self._kept.add_key(key):
            raise PlanConflict(
                f"There is, or was, a key {name!r}.",
                remedy="Names are never used again: choose another, such as the name with a date.",
            )
        return NewKey(key, secret, _hint(scope, definitions))

    def list(self) -> tuple[Key, ...]:
        """All keys there ever were, in the order of their names."""
        return tuple(self._kept.keys())

    def revoke(self, name: str, *, reason: str = "", author: str | None = None) -> Key:
        """End a key for good; one that is revoked stays as it is.  Raises `NotFound`."""
        self._kept.revoke_key(name, at=clock(), by=author or whoami(), reason=reason)
        keys = {each.name: each for each in self.list()}
        if name not in keys:
            raise NotFound.named("key", name, keys, make="Make one: tidemark key create NAME.")
        return keys[name]


def _hint(scope: KeyScope, definitions: Definitions) -> str:
    """What is said of tags by which the key allows nothing yet."""
    known = set[str]()
    if "read" in scope.actions:
        features = (feature for view in definitions.views for feature in view.features)
        read = (*definitions.services, *definitions.views, *definitions.on_demand, *features)
        known |= {tag for each in read for tag in each.tags}
    if "push" in scope.actions:
        known |= {tag for source in definitions.sources for tag in source.tags}
    kind = f"tag to {' or '.join(scope.actions)} by"
    where = "By it the key allows nothing until something has it."
    make = "Say it where it is defined, tags=(...), and apply."
    return "\n".join(
        str(NotFound.named(kind, tag, known, where=where, make=make))
        for tag in scope.tags
        if tag not in known
    )


def digest(secret: bytes) -> bytes:
    """What is kept of a secret.

    A single SHA-256 is right for 256 random bits: there is no dictionary to try, as there is for
    passwords, so a slow hash would only slow down the server.
    """
    return hashlib.sha256(secret).digest()


def told(key: Key) -> dict[str, Any]:
    """A key as JSON values: everything but its digest."""
    facts: dict[str, Any] = {
        "name": key.name,
        "status": key.status(clock()),
        "owner": key.owner,
        "actions": list(key.scope.actions),
        "services": list(key.scope.services),
        "tags": list(key.scope.tags),
        "rate": key.scope.rate,
        "expires": None if key.expires is None else format_moment(key.expires),
        "created": {"at": format_moment(key.at), "author": key.author, "reason": key.reason},
        "revoked": None,
    }
    if key.revoked is not None:
        facts["revoked"] = {
            "at": format_moment(key.revoked),
            "author": key.revoked_by,
            "reason": key.revoked_reason,
        }
    return facts


def _check(name: str, scope: KeyScope) -> None:
    if not _NAME.fullmatch(name):
        raise RequestInvalid(
            f"{name!r} cannot be the name of a key.",
            remedy="Use letters, digits, dots, hyphens and underscores, such as fraud-2026-11.",
        )
    for action in scope.actions:
        if action not in ACTIONS:
            raise NotFound.named("action", action, ACTIONS)
    if not scope.actions:
        raise RequestInvalid(
            "The key would allow nothing.", remedy=f"Name actions: {', '.join(ACTIONS)}."
        )
    if scope.limited and not {*scope.actions} <= {"read", "push"}:
        raise RequestInvalid(
            "Services and tags limit what is read and pushed; the key would allow more than that.",
            remedy="Make one key that reads or pushes, and another for the rest.",
        )
    if "push" in scope.actions and scope.services and not scope.tags:
        raise RequestInvalid(
            "Services limit what is read; the key would push nothing.",
            remedy="Limit what is pushed by a tag of the sources, or make a key that only pushes.",
        )
    if not (scope.rate >= 0 and math.isfinite(scope.rate)):
        raise RequestInvalid(
            f"{scope.rate} is not a rate.", remedy="A rate is requests a second, such as 50."
        )


def _end(expires: str | datetime, now: int) -> int:
    if isinstance(expires, str) and _DURATION.fullmatch(expires):
        return now + parse_duration(expires)
    try:
        end = parse_moment(expires)
    except RequestInvalid as error:
        remedy = 'Say how long it holds, "90d", or a moment: "2026-11-20T12:00:00Z".'
        raise RequestInvalid(error.what, remedy=remedy) from None
    if end <= now:
        raise RequestInvalid(
            f"The key would have expired at {format_moment(end)}.",
            remedy='Say how long it holds, such as "90d", or a moment to come.',
        )
    return end
