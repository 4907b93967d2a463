"""The online store of tests and notebooks: a dictionary that lives as long as its process."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

from tidemark.errors import StoreUnavailable
from tidemark.online.stores.protocol import conflict


class MemoryStore:
    """An `OnlineStore` in a dictionary."""

    name = "memory:"
    spread = False

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._guard = threading.Lock()
        self._held: set[str] = set()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, all of one moment."""
        with self._guard:
            return [self._rows.get(key) for key in keys]

    def put_many(
        self,
        items: Iterable[tuple[bytes, bytes | memoryview]],
        *,
        deletes: Iterable[bytes] = (),
        expect: Mapping[bytes, bytes | None] | None = None,
        durable: bool = True,  # noqa: ARG002 - says nothing here
    ) -> None:
        """Write all items and remove all `deletes`, or neither."""
        rows = {key: bytes(value) for key, value in items}
        doomed = list(deletes)
        with self._guard:
            if expect and any(self._rows.get(key) != value for key, value in expect.items()):
                raise conflict(self.name)
            for key in doomed:
                self._rows.pop(key, None)
            self._rows.update(rows)

    def delete(self, *prefixes: bytes) -> int:
        """Delete every key that starts with one of `prefixes`; gives their number."""
        with self._guard:
            doomed = [key for key in self._rows if key.startswith(prefixes)]
            for key in doomed:
                del self._rows[key]
        return len(doomed)

    @contextmanager
    def lock(self, purpose: str) -> Generator[None]:
        """Hold the lock of this store and purpose; raises `StoreUnavailable` if it is held."""
        with self._guard:
            if purpose in self._held:
                raise StoreUnavailable(
                    f"Another thread of this process ({os.getpid()}) is busy with: {purpose}.",
                    where=self.name,
                    remedy="Try again when it is done.",
                )
            self._held.add(purpose)
        try:
            yield
        finally:
            with self._guard:
                self._held.discard(purpose)

    def close(self) -> None:
        """Do nothing: the rows go with the object."""
