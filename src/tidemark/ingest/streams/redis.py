"""A Redis stream: one partition, whose offsets are the ids of its entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from tidemark.errors import MissingExtra, RequestInvalid, StaleSource, StoreUnavailable
from tidemark.ingest.streams.protocol import Message, Positions, Start
from tidemark.model.graph import RedisStream
from tidemark.online.stores.address import Address

try:
    import redis
    from redis import exceptions as refusal
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError:
    raise MissingExtra("redis", "Reading a Redis stream") from None


_COUNTED = 100_000
"""How many waiting entries are counted at most."""

_ANSWER_SECONDS = 10.0
"""How long an answer may take at least; many entries take longer than a row of the online store."""


class RedisEntries:
    """One reader at a time: entries are in one order, and are applied in it."""

    shared = False
    ended = False

    def __init__(self, stream: RedisStream, group: str, url: str) -> None:
        self.name = f"Redis stream {stream.key}"
        self._key = stream.key
        self._field = stream.field.encode()
        self._group = group
        address = stream.url or url
        if not address.startswith(("redis://", "rediss://")):
            raise RequestInvalid(
                f"Where the {self.name} is is not said.",
                remedy='tm.redis_stream(..., url="redis://host:6379/0"), unless the online store '
                "is a Redis.",
            )
        self._client = _connected(Address.of(address))
        self._taken: Callable[[], Positions] = dict
        self._start = "0-0"
        self._at = "0-0"
        self._count: int | None = None  # of entries ever added, up to the last one polled
        self._leaps = False
        self._gone: dict[str, int] = {}  # by the id after which reading was to go on

    def open(self, taken: Callable[[], Positions], start: Start) -> None:
        """Begin after the entry that was taken last."""
        self._taken, self._leaps = taken, start.leaps
        if start.at == "time":
            self._start = _before(f"{start.moment // 1_000}-0")
        elif start.at == "position":
            ms, _, sequence = start.only(self._key).partition("-")
            self._start = _before(f"{ms}-{sequence or 0}")
        elif start.at == "latest":
            newest = self._ask(lambda: self._client.xrevrange(self._key, count=1))
            self._start = newest[0][0].decode() if newest else "0-0"
        self.rewind()

    def rewind(self) -> None:
        """Go back to the entry that was taken last."""
        self._at = self._taken().get(self._key, self._start)
        self._count = self._counted()

    def poll(self, most: int, seconds: float) -> Sequence[Message]:
        """The next entries; one without the field carries nothing."""
        entries = self._next(most)
        if not entries:
            block = max(1, int(seconds * 1_000))
            if self._ask(lambda: self._client.xread({self._key: self._at}, 1, block)):
                entries = self._next(most)
        found = [
            Message(self._key, id_.decode(), None if fields is None else fields.get(self._field))
            for id_, fields in entries
        ]
        if found:
            self._at = found[-1].offset
        return found

    def _next(self, most: int) -> Sequence[Any]:
        """The next entries, if none was trimmed away before; raises `StaleSource` otherwise."""
        with self._client.pipeline(transaction=True) as asked:
            asked.xinfo_stream(self._key)
            asked.xread({self._key: self._at}, most)
            if self._count is None:
                asked.xrange(self._key, f"({self._at}", "+", _COUNTED)
            info, answer, *waiting = self._ask(lambda: asked.execute(raise_on_error=False))
        if isinstance(info, Exception):  # there is no such stream yet
            return []
        if isinstance(answer, Exception):
            raise RequestInvalid(f"The {self.name} cannot be read: {answer}.")
        added = info.get("entries-added")  # of Redis 7
        if added is not None and waiting:
            left = len(waiting[0])
            self._count = added - left if left < _COUNTED else None
        gone = added - info["length"] if added is not None else 0
        if self._count is not None and gone > self._count:
            if not self._leaps:
                raise StaleSource(
                    f"Entries of the {self.name} after {self._at} were not read and are gone: "
                    f"{gone - self._count:,}.",
                    remedy="It was trimmed too soon.  Load them into the history and materialize; "
                    "then go on with --from earliest.",
                )
            self._gone[self._at] = gone - self._count
        entries: Sequence[Any] = answer[0][1] if answer else []
        if self._count is not None:
            self._count = max(self._count, gone) + len(entries)
        self._leaps = False
        return entries

    @property
    def lost(self) -> Mapping[str, int]:
        """Entries that were trimmed before they were read, where Redis can tell."""
        return {self._key: sum(self._gone.values())} if self._gone else {}

    def _counted(self) -> int | None:
        """How many entries there were up to the one taken last, if the group says so."""
        try:
            groups = self._ask(lambda: self._client.xinfo_groups(self._key))
        except RequestInvalid:  # no such stream
            return None
        for each in groups:
            if (
                each["name"].decode() == self._group
                and each["last-delivered-id"].decode() == self._at
            ):
                count: int | None = each.get("entries-read")
                return count
        return None

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except refusal.ResponseError as error:
            raise RequestInvalid(f"The {self.name} cannot be read: {error}.") from None
        except refusal.RedisError as error:
            raise StoreUnavailable(
                f"The {self.name} does not answer: {str(error).rstrip('.')}.",
                remedy="Start the server: redis-server, or correct the URL.",
            ) from None

    def taken(self, positions: Positions) -> None:
        """Note it in a consumer group, where `XINFO GROUPS` shows it."""
        for id_ in positions.values():
            count = {} if self._count is None or id_ != self._at else {"entries_read": self._count}
            with suppress(refusal.RedisError):
                try:
                    self._client.xgroup_create(self._key, self._group, id_, mkstream=True, **count)
                except refusal.ResponseError:
                    self._client.xgroup_setid(self._key, self._group, id_, **count)

    def lag(self) -> Mapping[str, int]:
        """The entries after the last one that was polled; at most 100,000 are counted."""
        after = self._ask(lambda: self._client.xrange(self._key, f"({self._at}", "+", _COUNTED))
        return {self._key: len(after)}

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


def _connected(address: Address) -> Any:
    """A client that connects when it is first used, and again if that connection was closed."""
    ((host, port),) = address.hosts
    return cast("Any", redis.Redis)(
        host=host,
        port=port,
        db=address.database,
        username=address.username,
        password=address.password,
        socket_connect_timeout=address.connect_timeout,
        socket_timeout=max(address.read_timeout, _ANSWER_SECONDS),
        retry=Retry(NoBackoff(), 1, (refusal.ConnectionError,)),
        protocol=2,
        **address.tls,
    )


def _before(id_: str) -> str:
    """The largest id that is smaller; reading begins after an id."""
    ms, _, sequence = id_.partition("-")
    if int(sequence):
        return f"{ms}-{int(sequence) - 1}"
    return f"{int(ms) - 1}-{2**64 - 1}" if int(ms) else "0-0"
