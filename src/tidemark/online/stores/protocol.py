"""What an online store is: an ordered map of bytes to bytes with atomic batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from tidemark.errors import NotFound, StoreConflict
from tidemark.online.stores.address import redacted

_REDIS = (
    "redis",
    "rediss",
    *(f"{s}+{k}" for s in ("redis", "rediss") for k in ("sentinel", "cluster")),
)


class OnlineStore(Protocol):
    """Holds bytes under bytes; knows nothing of entities, features or time.

    Every method raises `StoreUnavailable` when the store cannot do it now.  Methods may be called
    from many threads, and one store may be open in many processes.
    `tidemark.testing.OnlineStoreContract` says all of this as tests.
    """

    @property
    def name(self) -> str:
        """Where the state lives, as messages should say it."""
        ...

    @property
    def spread(self) -> bool:
        """Whether it lies on several nodes, and a batch is one step within each of them only."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys in their order, all of one moment; None where there is none.

        Where the store is spread over nodes, only the keys of one slot are of one moment, and the
        slot of the first key is read after all others: what decides about others comes first.
        """
        ...

    def put_many(
        self,
        items: Iterable[tuple[bytes, bytes | memoryview]],
        *,
        deletes: Iterable[bytes] = (),
        expect: Mapping[bytes, bytes | None] | None = None,
        durable: bool = True,
    ) -> None:
        """Write all items and remove all `deletes`, or neither; durable and visible on return.

        Of a key in both, the item stays.  `expect` has what some keys hold (None: nothing) as far
        as the caller knows: if one holds anything else by now, nothing is written and
        `StoreConflict` is raised.  It may also follow a write of our own whose answer was lost.

        What is not asked to be `durable` may be undone, as a whole, if the machine stops before the
        next write: for callers who can do it again.

        A shared store may write more than 4 MiB in several steps, in the order of the items,
        unless there are `deletes` or an `expect`: what decides about others comes last.  Where the
        store is spread over nodes, all of this holds for the keys of each slot, and the slot of the
        last item is written after all others.
        """
        ...

    def delete(self, *prefixes: bytes) -> int:
        """Delete every key that starts with one of `prefixes` (400 bytes each); gives their number.

        This is not atomic: readers may see some of the keys gone and others not yet.  It can cost
        a look at every key of the store, however many prefixes there are.
        """
        ...

    def lock(self, purpose: str) -> AbstractContextManager[None]:
        """Hold the one lock named `purpose`; raises at once, naming the holder, if it is held.

        A store is shared by projects: what each may do at the same time has its project's name in
        it.  A shared store refuses all writes of the holding thread once it lost the lock.
        """
        ...

    def close(self) -> None:
        """Let go of the store; closing twice is fine."""
        ...


class Waiting(Protocol):
    """Reads an online store in the event loop in which it was made, and in no other.

    As many reads as there are connections are under way at once; others wait for their turn.
    """

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, as `OnlineStore.get_many` gives them and fails."""
        ...

    async def close(self) -> None:
        """Close the connections; it is not used again."""
        ...


@runtime_checkable
class Remote(Protocol):
    """An online store that is waited for, which needs no thread; others answer at once."""

    def waiting(self) -> Waiting:
        """What reads it in the running event loop, until that is closed."""
        ...


def open_store(url: str, root: Path | None = None) -> OnlineStore:
    """The store that a URL names: `memory:`, `redis://...`, or `lmdb://` and a path below `root`.

    Nothing is read, written or created until the store is used.  Raises `MissingExtra` for a kind
    of store whose client is not installed.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "lmdb":
        from tidemark.online.stores.lmdb import LmdbStore

        return LmdbStore((root or Path()) / rest.removeprefix("//"))
    if url in {":memory:", "memory:", "memory://"}:
        from tidemark.online.stores.memory import MemoryStore

        return MemoryStore()
    if scheme in _REDIS:
        from tidemark.online.stores.redis import RedisStore

        return RedisStore(url)
    raise NotFound.named(
        "kind of online store",
        scheme,
        ("lmdb", "memory", *_REDIS),
        where=f"online = {redacted(url)!r}",
    )


def conflict(where: str) -> StoreConflict:
    """The error of a batch that was made from what the store no longer holds."""
    return StoreConflict(
        "Somebody else has written the same rows meanwhile; this batch gives way.",
        where=where,
        remedy="Read them again, then write.",
    )
