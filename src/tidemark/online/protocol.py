"""What an online store is: an ordered map of bytes to bytes with atomic batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tidemark.errors import NotFound
from tidemark.online.address import redacted

_REDIS = {"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster"}


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

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys in their order, all of one moment; None where there is none."""
        ...

    def put_many(self, items: Iterable[tuple[bytes, bytes | memoryview]]) -> None:
        """Write all items or none; durable and visible to everyone when it returns.

        A store that many hosts share may write more than 4 MiB in several steps, in the order of
        the items: what decides about others comes last.
        """
        ...

    def delete(self, prefix: bytes) -> int:
        """Delete every key that starts with `prefix` (at most 400 bytes); gives their number.

        This is not atomic: readers may see some of the keys gone and others not yet.
        """
        ...

    def lock(self, purpose: str) -> AbstractContextManager[None]:
        """Hold the one lock named `purpose`; raises at once, naming the holder, if it is held."""
        ...

    def close(self) -> None:
        """Let go of the store; closing twice is fine."""
        ...


def open_store(url: str, root: Path | None = None) -> OnlineStore:
    """The store that a URL names: `memory:`, `redis://...`, or `lmdb://` and a path below `root`.

    Nothing is read, written or created until the store is used.  Raises `MissingExtra` for a kind
    of store whose client is not installed.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "lmdb":
        from tidemark.online.lmdb import LmdbStore

        return LmdbStore((root or Path()) / rest.removeprefix("//"))
    if url in {":memory:", "memory:", "memory://"}:
        from tidemark.online.memory import MemoryStore

        return MemoryStore()
    if scheme in _REDIS:
        from tidemark.online.redis import RedisStore

        return RedisStore(url)
    kinds = ("lmdb", "memory", "redis", "rediss", "redis+sentinel")
    raise NotFound.named("kind of online store", scheme, kinds, where=f"online = {redacted(url)!r}")
