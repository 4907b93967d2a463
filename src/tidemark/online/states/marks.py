"""A small file by which the processes of a machine tell each other what they are accepting.

It is mapped into memory: a mark is one word, written before events are seen and cleared once they
count, and a look at all of them copies some dozens of bytes.  A slot belongs to one source in one
process, which holds a lock on its byte; the system frees that when the process dies, however it
does, and what the slot says is void from then on.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import ClassVar, NamedTuple

FILE = "under-way"
SLOTS = 512
FORMAT = 1

YOUNG = 200_000
"""A mark of so many microseconds is believed without looking whether its process lives."""

LONGEST = 60_000_000
"""An older mark is believed no more: its process hangs, and reads go on without its events."""

_FORMAT, _USED, _SINCE = 0, 1, 2
_SOURCE = _SINCE + SLOTS
_BYTES, _FIRST = (_SOURCE + SLOTS) * 8, _USED * 8


Accept = tuple[int, int]
"""Somebody accepts events of a source, by its number, since a moment (microseconds)."""


class _Seen(NamedTuple):
    """How far the file is in use: where that ends, and what it holds while nothing is accepted."""

    end: int
    quiet: bytes
    unpack: Callable[[bytes], tuple[int, ...]]

    @classmethod
    def of(cls, used: int) -> _Seen:
        used = min(max(used, 0), SLOTS)
        quiet = used.to_bytes(8, sys.byteorder) + bytes(8 * used)
        return cls(_FIRST + len(quiet), quiet, Struct(f"={used + 1}q").unpack)


class Marks:
    """The file of one folder in this process: all that use it share it.

    Locks of a process end when it closes the file anywhere, so it is opened once.
    """

    _open: ClassVar[dict[tuple[int, Path], Marks]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path, self._pid, self._users = path, os.getpid(), 0
        self._slots: dict[int, int] = {}
        self._locking = threading.Lock()
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.writable = os.access(path if path.exists() else path.parent, os.W_OK)
        flags = os.O_RDWR if self.writable else os.O_RDONLY
        self._file = os.open(path, flags | (os.O_CREAT if create else 0), 0o644)
        try:
            if self.writable and os.fstat(self._file).st_size < _BYTES:
                os.ftruncate(self._file, _BYTES)
            access = mmap.ACCESS_WRITE if self.writable else mmap.ACCESS_READ
            self._map = mmap.mmap(self._file, _BYTES, access=access)
        except BaseException:
            os.close(self._file)
            raise
        self._words = memoryview(self._map).cast("q")
        if self.writable and self._words[_FORMAT] == 0:
            self._words[_FORMAT] = FORMAT
        self._seen = _Seen.of(self._words[_USED])

    @classmethod
    def of(cls, folder: Path, *, create: bool) -> Marks | None:
        """The file of a folder; None where there is none and it is not or cannot be made."""
        path = folder.resolve() / FILE
        with cls._guard:
            marks = cls._open.get((os.getpid(), path))
            if marks is None:
                if not create and not path.exists():
                    return None
                try:
                    marks = cls(path, create=create)
                except (OSError, ValueError):  # the log will say what is wrong with the folder
                    return None
                if marks._words[_FORMAT] != FORMAT:  # of another release: it tells nothing here
                    marks._close()
                    return None
                cls._open[os.getpid(), path] = marks
            marks._users += 1
            return marks

    @property
    def inherited(self) -> bool:
        """Whether this is the parent's: a child has locks of its own."""
        return self._pid != os.getpid()

    def release(self) -> None:
        """Count one user less; without users the file is closed, and its slots are free."""
        with self._guard:
            self._users -= 1
            if self._users == 0 and not self.inherited:
                del self._open[self._pid, self._path]
                self._close()

    def note(self, source: int, since: int) -> None:
        """Say since when this process accepts events of a source, 0 once it does not."""
        if self.inherited or not self.writable:
            return
        with self._locking:
            slot = self._slots.get(source)
            if slot is None:
                slot = self._claimed(source) if since else None
        if slot is not None:
            self._words[_SINCE + slot] = since

    def look(self, moment: int) -> tuple[Accept, ...]:
        """What processes that live are accepting at a moment, this one among them."""
        seen = self._seen
        head = self._map[_FIRST : seen.end]
        if head == seen.quiet:
            return ()
        if head[:8] != seen.quiet[:8]:
            seen = self._seen = _Seen.of(self._words[_USED])
            head = self._map[_FIRST : seen.end]
        return tuple(
            [
                (self._words[_SOURCE + slot], since)
                for slot, since in enumerate(seen.unpack(head), -1)
                if since
                and slot >= 0
                and (moment - since < YOUNG or self._holds(slot, moment - since))
            ]
        )

    def _holds(self, slot: int, age: int) -> bool:
        """Whether a mark that is not young is to be believed: its process lives and goes on."""
        if age > LONGEST:
            return False
        with self._locking:
            if slot in self._slots.values():
                return True
            if self._taken(slot, fcntl.LOCK_SH):
                if self.writable:
                    self._words[_SINCE + slot] = 0
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
                return False
            return True

    def _claimed(self, source: int) -> int | None:
        """A slot of this process for a source; None if all are others'."""
        mine = set(self._slots.values())
        for slot in range(SLOTS):
            if slot not in mine and self._taken(slot, fcntl.LOCK_EX):
                self._words[_SINCE + slot] = 0  # what a dead process may have left
                self._words[_SOURCE + slot] = source
                with suppress(OSError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX, 1, SLOTS)
                    self._words[_USED] = max(self._words[_USED], slot + 1)
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, SLOTS)
                self._slots[source] = slot
                return slot
        return None

    def _taken(self, slot: int, how: int) -> bool:
        try:
            fcntl.lockf(self._file, how | fcntl.LOCK_NB, 1, slot)
        except OSError:
            return False
        return True

    def _close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self._file)
