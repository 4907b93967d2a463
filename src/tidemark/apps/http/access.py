"""Who may ask for what: keys, what they are limited to, and how often they may ask.

As long as there is no key, whoever reaches the service may read; it is then bound to loopback only,
and asks of a request that it means this machine (`Host`, `Origin`), so that no page in a browser
here can be made to ask in its user's place.  From the first key on, nobody is answered without one.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Mapping
from contextlib import contextmanager
from functools import lru_cache
from hmac import compare_digest
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from tidemark.apps.http.problems import Refused
from tidemark.errors import NotFound, NotPermitted, RequestInvalid, StoreUnavailable
from tidemark.registry.keys import digest
from tidemark.registry.protocol import KeyScope

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from tidemark.apps.http import Limits
    from tidemark.model.graph import Definitions, FeatureService, Reference
    from tidemark.registry import Key, Keys

BELIEVED_SECONDS = 4.0
"""How long the keys that are known hold when the registry does not answer."""

OPEN = {"/healthz", "/readyz"}
"""What is told to everybody: an orchestrator asks without a key."""

_BEARER = b"bearer "
_KNOWN = 256
"""Lists of features for which it is kept whether a key may read them."""

Headers = Mapping[bytes, bytes]
Keyless = Literal["here", "anybody", "nobody"]


class Caller:
    """Somebody who asks: the holder of a key, or without one anybody on this machine."""

    def __init__(self, key: Key | None, rate: float) -> None:
        self.key = key
        self.name = "" if key is None else key.name
        self._digest = b"" if key is None else bytes.fromhex(key.digest)
        self._end = math.inf
        self._rate = 0.0
        self.limited = False
        if key is not None:
            self.limited = key.scope.limited
            self._rate = key.scope.rate or rate
            self._end = math.inf if key.expires is None else key.expires / 1e6
        self._tokens = self._most = max(self._rate, 1.0)
        self._filled = time.monotonic()
        self._verdicts: dict[object, tuple[Definitions, bool]] = {}

    def holds(self, shown: bytes) -> bool:
        """Whether this is the digest of the key, and it has not expired."""
        return compare_digest(shown, self._digest) and time.time() < self._end

    def count(self) -> None:
        """Take one of the requests that are left; raises `Refused` (429) if there is none."""
        if not self._rate:
            return
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1.0:
            wait = math.ceil((1.0 - self._tokens) / self._rate)
            what = StoreUnavailable(
                f"This key may ask {self._rate:g} times a second.", remedy="Ask again later."
            )
            raise Refused(429, what, ((b"retry-after", b"%d" % wait),))
        self._tokens -= 1.0

    def require(self, action: str) -> None:
        """Raise `Refused` (403) unless the key allows the action."""
        if self.key is not None and not {action, "admin"} & {*self.key.scope.actions}:
            raise forbidden()

    @contextmanager
    def told_nothing_else(self) -> Generator[None]:
        """To a limited key, what there is not is what it may not read."""
        try:
            yield
        except NotFound:
            if self.limited:
                raise forbidden() from None
            raise

    def may_read_service(self, service: FeatureService, definitions: Definitions) -> bool:
        """Whether it may read all that a service gives."""
        references = [output.reference for output in service.outputs]
        return self.may_read(service.name, references, definitions)

    def may_read(
        self, asked: object, references: Collection[Reference], definitions: Definitions
    ) -> bool:
        """Whether it may read these features; `asked` is the name of a service, or their names.

        A limited key reads what the services that it names give, and whatever has one of its tags:
        services, and features by their own tags or those of their view.
        """
        if not self.limited:
            return True
        known = self._verdicts.get(asked)
        if known is not None and known[0] is definitions:
            return known[1]
        if len(self._verdicts) >= _KNOWN:
            self._verdicts.clear()
        tags = set[str]() if self.key is None else {*self.key.scope.tags}
        listed = self._listed(definitions)
        verdict = bool(references) and all(
            each.kind == "request"
            or each in listed
            or not tags.isdisjoint(_tags(each, definitions))
            for each in references
        )
        self._verdicts[asked] = definitions, verdict
        return verdict

    def _listed(self, definitions: Definitions) -> set[Reference]:
        """What the services give that the key names, or that have one of its tags."""
        scope = KeyScope(()) if self.key is None else self.key.scope
        return {
            output.reference
            for service in definitions.services
            if service.name in scope.services or not {*scope.tags}.isdisjoint(service.tags)
            for output in service.outputs
        }


class Access:
    """The callers of one worker, as of the last time that the registry was asked.

    `keyless` is who is answered as long as there is no key: who is "here" and says so in `Host`,
    "anybody", where a proxy in front has asked who they are, or "nobody".
    """

    def __init__(self, keys: Keys, limits: Limits, *, keyless: Keyless = "here") -> None:
        self._keys = keys
        self._rate = limits.rate
        self._keyless: Keyless = keyless
        self._anybody = Caller(None, 0.0)
        self._callers: dict[bytes, Caller] = {}
        self._listed: tuple[Key, ...] | None = None
        self._read_at = -math.inf

    def refresh(self) -> None:
        """Read the keys; those that did not change keep what they have used of their rates."""
        began = time.monotonic()
        listed = self._keys.list()
        if listed != self._listed:
            before = {each.key: each for each in self._callers.values()}
            self._callers = {
                bytes.fromhex(key.digest): before.get(key) or Caller(key, self._rate)
                for key in listed
                if key.revoked is None
            }
            self._listed = listed
        self._read_at = began  # what was changed later may have been missed

    def admit(self, headers: Headers) -> Caller:
        """Who asks; raises `Refused` for whoever may not, without saying why not."""
        listed = self._listed
        if listed is None:
            raise _unchecked()
        if not listed and self._keyless != "nobody":
            if self._keyless == "here":
                _check_that_it_means_this_machine(headers)
            return self._anybody
        if time.monotonic() - self._read_at > BELIEVED_SECONDS:
            raise _unchecked()
        given = headers.get(b"authorization", b"")
        if given[:7].lower() == _BEARER:
            # The digest is what is looked up: how long that takes tells something of a digest that
            # nobody can choose, and nothing of a key.
            shown = digest(given[7:])
            caller = self._callers.get(shown)
            if caller is not None and caller.holds(shown):
                caller.count()
                return caller
        raise _unknown()


def action_of(method: str, path: str) -> str:
    """What a key must allow for a route that is not a read of vectors."""
    if path == "/metrics":
        return "metrics"
    return "read" if method == "GET" else "admin"


def forbidden() -> Refused:
    """The answer to a key that is known and not for this; whether there is such a thing, or not."""
    what = NotPermitted(
        "This key is not for that.", remedy="`tidemark key create` makes one with another scope."
    )
    return Refused(403, what)


def _unknown() -> Refused:
    what = NotPermitted(
        "A key is needed that holds here and now.",
        remedy="Send it as a header, Authorization: Bearer tmk_...; "
        "`tidemark key create` makes one.",
    )
    return Refused(
        401, what, ((b"www-authenticate", b'Bearer realm="tidemark"'), (b"connection", b"close"))
    )


def _unchecked() -> StoreUnavailable:
    return StoreUnavailable(
        "Who asks cannot be checked: the registry does not answer.", remedy="Try again."
    )


def _check_that_it_means_this_machine(headers: Headers) -> None:
    """Raise `Refused` (421) for a name that leads here and is not of this machine.

    A page of a stranger can let its own name point to 127.0.0.1 and then read what this service
    answers to the browser here.
    """
    origin = headers.get(b"origin")
    if _names_this(b"//" + headers.get(b"host", b"")) and (origin is None or _names_this(origin)):
        return
    what = RequestInvalid(
        "The request names another host than this machine.",
        remedy="Ask http://127.0.0.1 or localhost. Behind a proxy, make keys, "
        "or serve with --behind-proxy if the proxy says who may ask.",
    )
    raise Refused(421, what, ((b"connection", b"close"),))


def is_loopback(host: str) -> bool:
    """Whether only this machine is reached under the name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=_KNOWN)
def _names_this(url: bytes) -> bool:
    try:
        return is_loopback(urlsplit(url.decode("latin-1")).hostname or "")
    except ValueError:
        return False


def _tags(reference: Reference, definitions: Definitions) -> set[str]:
    if reference.kind == "feature":
        view, feature = definitions.locate(reference)
        return {*view.tags, *feature.tags}
    return {*definitions.on_demand_feature(reference.name, reference.version).tags}
