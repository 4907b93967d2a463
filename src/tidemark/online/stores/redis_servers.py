"""How a Redis is read and written: one server, or the nodes of a cluster.

These block, know where everything is, and find it again when it has moved.  What reads in an event
loop (`redis_loop.py`) asks them what to say to whom, and has them read what it cannot.

One server answers a read with one MGET, from one moment, and takes a batch in one step, so readers
see all of it or nothing.  What depends on others is a transaction that watches their keys.

A cluster spreads keys over slots, which are what one step can span.  Keys with the same text
between braces share a slot: all rows of an entity, and what decides about the rows of a project.
Each slot of a batch is written in one step, and the slot of the last item when all others are
done; a read asks all slots at once, and the slot of its first key when all others have answered.
So whoever finds what decides unchanged has read rows that were valid.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, cast

import redis
from redis import exceptions as refusal
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from tidemark.online.stores.address import Address
from tidemark.online.stores.asking import Values, answered

Command = tuple[Any, ...]
Reading = Generator[Mapping[int, Command], list[Any], Values]
"""Yields commands by slot, is sent the answers to them, and returns the values of its keys."""

_CONNECTIONS = 1_024
"""Threads of one process that can ask at the same moment."""

_ATTEMPTS = 20
"""How often a write follows renewals of its own lock."""

_CHANGE = """
local held, written = tonumber(ARGV[1]), tonumber(ARGV[2])
for i = 1, held do
  local there = redis.call('get', KEYS[i])
  if string.sub(ARGV[3], i, i) == '1' then
    if there ~= ARGV[3 + i] then return {i, 0} end
  elseif there then return {i, 0} end
end
for i = held + 1, held + written do redis.call('set', KEYS[i], ARGV[3 + i]) end
local removed = 0
for i = held + written + 1, #KEYS do removed = removed + redis.call('unlink', KEYS[i]) end
return {0, removed}
"""
"""Write and remove keys of one slot if others hold what is expected; else, which one does not."""


class Batch(NamedTuple):
    """What is written, what is removed, and what must be there for it."""

    items: Sequence[tuple[bytes, bytes | memoryview]] = ()
    deletes: Sequence[bytes] = ()
    expect: Mapping[bytes, bytes | None] = {}


class Changed(Exception):  # not of tidemark.errors: the store says what it means
    """A key holds something else than was expected."""

    def __init__(self, key: bytes) -> None:
        self.key = key


class Server(Protocol):
    """Reads and writes; `held` are locks that must still have their tokens for a write."""

    @property
    def client(self) -> Any:
        """The client of redis-py, which types it in part only."""
        ...

    def read(self, keys: Sequence[bytes]) -> Values:
        """The values of at least one key."""
        ...

    def reading(self, keys: Sequence[bytes]) -> Reading:
        """How they are read; what is yielded at once may be sent at once."""
        ...

    def place(self, slot: int) -> tuple[str, int] | None:
        """The host and port that answer for a slot, as far as that is known without asking."""
        ...

    def write(self, batch: Batch, held: Mapping[bytes, bytes]) -> int:
        """Make the change, and say how many keys it removed; `Changed` if it is not to be made."""
        ...

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """The keys that match a pattern, as `count` keys at a time are looked at."""
        ...

    def memory(self) -> list[Mapping[str, Any]]:
        """What each server says of its memory."""
        ...

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        ...


def server_at(address: Address) -> Server:
    """What is at an address; nothing is asked yet."""
    return Cluster(address) if address.cluster else Single(address)


class Single:
    """One server, or the one that Sentinels call the master."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.client: Any = _connected(address)

    def read(self, keys: Sequence[bytes]) -> Values:
        """One command, answered from one moment."""
        return cast("Values", self.client.mget(keys))

    def reading(self, keys: Sequence[bytes]) -> Reading:
        """The same command, of the one slot that there is."""
        (found,) = yield {0: ("MGET", *keys)}
        return cast("Values", found)

    def place(self, slot: int) -> tuple[str, int] | None:  # noqa: ARG002 - there is one
        """The server; behind Sentinels, the one to which a connection was made last."""
        if self._address.service:
            return cast("tuple[str, int] | None", self.client.connection_pool.master_address)
        return self._address.hosts[0]

    def write(self, batch: Batch, held: Mapping[bytes, bytes]) -> int:
        """One command, or a transaction; with conditions, one that watches what it depends on."""
        commands = _commands(batch)
        expected: dict[bytes, bytes | None] = {**batch.expect, **held}
        if not expected and len(commands) == 1:
            return _removed([(commands[0], self.client.execute_command(*commands[0]))])
        for _ in range(_ATTEMPTS):
            with self.client.pipeline(transaction=True) as step, suppress(refusal.WatchError):
                if expected:
                    step.watch(*expected)
                    _compare(expected, step.mget(*expected))
                    step.multi()
                for command in commands:
                    step.execute_command(*command)
                return _removed(zip(commands, step.execute(), strict=True))
        raise Changed(next(iter(expected)))

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Steps through all keys of the database."""
        cursor = -1
        while cursor:
            cursor, found = self.client.scan(max(cursor, 0), match=pattern, count=count)
            yield found

    def memory(self) -> list[Mapping[str, Any]]:
        """One answer."""
        return [self.client.info("memory")]

    def close(self) -> None:
        """Close the connections of the pool."""
        self.client.connection_pool.disconnect()


class Cluster:
    """The nodes of a cluster, found when they are first used."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._opening = threading.Lock()
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The client, which asks for the nodes when it is made."""
        with self._opening:
            if self._client is None:
                self._client = _cluster(self._address)
            return self._client

    def read(self, keys: Sequence[bytes]) -> Values:
        """All slots in one round trip, then that of the first key."""
        return answered(self.reading(keys), self._ask)

    def reading(self, keys: Sequence[bytes]) -> Reading:
        """A command for each slot, in two rounds unless there is one slot."""
        places: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key_slot(key), []).append(place)
        values: Values = [None] * len(keys)
        first, *others = places
        for slots in (others, (first,)) if others else ((first,),):
            answers = yield {
                slot: ("MGET", *(keys[place] for place in places[slot])) for slot in slots
            }
            for slot, found in zip(slots, answers, strict=True):
                for place, value in zip(places[slot], found, strict=True):
                    values[place] = value
        return values

    def place(self, slot: int) -> tuple[str, int] | None:
        """The node that has the slot, once the nodes were asked."""
        client = self._client
        if client is None:
            return None
        node = client.nodes_manager.get_node_from_slot(slot)
        return node.host, node.port

    def write(self, batch: Batch, held: Mapping[bytes, bytes]) -> int:
        """Each slot in one step, that of the last item after all others.

        All that is expected is looked at before, so that hardly a change is made in part; what is
        expected in a slot is looked at again in the step that changes it.
        """
        expected: dict[bytes, bytes | None] = {**batch.expect, **held}
        if expected:
            _compare(expected, self.read(list(expected)))
        parts = _by_slot(batch, held)
        last = key_slot(batch.items[-1][0]) if batch.items else -1
        deciding = {last: parts.pop(last)} if last in parts else {}
        return self._change(parts) + self._change(deciding)

    def _change(self, parts: Mapping[int, Batch]) -> int:
        commands: dict[int, Command] = {}
        for slot, part in parts.items():
            plain = [] if part.expect else _commands(part)
            commands[slot] = plain[0] if len(plain) == 1 else _script(part)
        answers = self._ask(commands)
        for part, answer in zip(parts.values(), answers, strict=True):
            differing = int(answer[0]) if part.expect else 0
            if differing:
                raise Changed([*part.expect][differing - 1])
        return _removed(zip(commands.values(), answers, strict=True))

    def _ask(self, commands: Mapping[int, Command]) -> list[Any]:
        """The answers to one command for each slot, all sent before any is read."""
        if not commands:
            return []
        node_of = self.client.nodes_manager.get_node_from_slot
        with self.client.pipeline(transaction=False) as step:
            for slot, command in commands.items():
                step.execute_command(*command, target_nodes=node_of(slot))
            return cast("list[Any]", step.execute())

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Steps through all keys of one node after the other."""
        for node in self.client.get_primaries():
            cursor = -1
            while cursor:
                cursors, found = self.client.scan(
                    max(cursor, 0), match=pattern, count=count, target_nodes=node
                )
                cursor = cursors[node.name]
                yield found

    def memory(self) -> list[Mapping[str, Any]]:
        """One answer of each node that is written to."""
        return [
            self.client.info("memory", target_nodes=node) for node in self.client.get_primaries()
        ]

    def close(self) -> None:
        """Close the connections to all nodes."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _compare(expected: Mapping[bytes, bytes | None], found: Sequence[bytes | None]) -> None:
    for (key, value), there in zip(expected.items(), found, strict=True):
        if value != there:
            raise Changed(key)


def _commands(batch: Batch) -> list[Command]:
    """The commands that make a change, if nothing stands against it."""
    commands: list[Command] = []
    if batch.items:
        commands.append(("MSET", *(part for pair in batch.items for part in pair)))
    if batch.deletes:
        commands.append(("UNLINK", *batch.deletes))
    return commands


def _removed(answered: Any) -> int:
    """How many keys these commands have removed."""
    removed = 0
    for command, answer in answered:
        if command[0] == "UNLINK":
            removed += answer
        elif command[0] == "EVAL":
            removed += answer[1]
    return removed


def _script(part: Batch) -> Command:
    """The command for a change in one slot that depends on what is there."""
    keys = [*part.expect, *(key for key, _ in part.items), *part.deletes]
    present = "".join("0" if value is None else "1" for value in part.expect.values())
    expected = [value or b"" for value in part.expect.values()]
    values = [value for _, value in part.items]
    counts = (len(part.expect), len(part.items), present)
    return ("EVAL", _CHANGE, len(keys), *keys, *counts, *expected, *values)


def _by_slot(batch: Batch, held: Mapping[bytes, bytes]) -> dict[int, Batch]:
    """The part of a batch in each slot, with the locks that happen to be there."""
    items: dict[int, list[tuple[bytes, bytes | memoryview]]] = {}
    deletes: dict[int, list[bytes]] = {}
    expect: dict[int, dict[bytes, bytes | None]] = {}
    for pair in batch.items:
        items.setdefault(key_slot(pair[0]), []).append(pair)
    for key in batch.deletes:
        deletes.setdefault(key_slot(key), []).append(key)
    for key, value in batch.expect.items():
        expect.setdefault(key_slot(key), {})[key] = value
    slots = dict.fromkeys((*expect, *items, *deletes))
    for key, token in held.items():
        if key_slot(key) in slots:
            expect.setdefault(key_slot(key), {})[key] = token
    return {
        slot: Batch(items.get(slot, ()), deletes.get(slot, ()), expect.get(slot, {}))
        for slot in slots
    }


def _connected(address: Address) -> Any:
    """A client that connects when it is first used.

    A command is sent a second time if its connection turns out to be closed, as it is after a
    restart of the server; never after a timeout.
    """
    settings: dict[str, Any] = {
        **_settings(address),
        "db": address.database,
        "retry": Retry(NoBackoff(), 1, (refusal.ConnectionError,)),
    }
    if not address.service:
        ((host, port),) = address.hosts
        return redis.Redis(host=host, port=port, **settings)
    asking = {
        "socket_connect_timeout": address.connect_timeout,
        "socket_timeout": address.read_timeout,
        "retry": Retry(NoBackoff(), 0, (refusal.ConnectionError,)),
        **address.tls,
    }
    watching: Any = cast("Any", Sentinel)(address.hosts, sentinel_kwargs=asking)
    return watching.master_for(address.service, **settings)


def _cluster(address: Address) -> Any:
    """A client that knows the nodes; after one that fails it asks where the slots are now."""
    nodes = [cast("Any", ClusterNode)(host, port) for host, port in address.hosts]
    retry = Retry(NoBackoff(), 1)
    return cast("Any", RedisCluster)(startup_nodes=nodes, retry=retry, **_settings(address))


def _settings(address: Address) -> dict[str, Any]:
    return {
        "username": address.username,
        "password": address.password,
        "socket_connect_timeout": address.connect_timeout,
        "socket_timeout": address.read_timeout,
        "max_connections": _CONNECTIONS,
        "protocol": 2,
        **address.tls,
    }
