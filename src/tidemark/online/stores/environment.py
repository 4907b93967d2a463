"""The LMDB environment of a directory in this process: its map, its commits, and the disk."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb

from tidemark.errors import StoreUnavailable
from tidemark.online.stores.checkpoint import DATA, Checkpoints, Meta

T = TypeVar("T")

CHECKPOINT_SECONDS = 0.2
"""How long a commit that did not wait for the disk may be on its way there."""

_LOOKS = 1_000
"""How often a moment is looked for between the commits of other processes."""

_MAX_READERS = 1_024
"""Threads, over all processes, that can read at the same moment."""

_log = logging.getLogger("tidemark")


class Environment:
    """The one LMDB environment of a path in this process, shared by every store that names it.

    LMDB forbids a second one, and a child process must not use its parent's.
    """

    def __init__(self, path: Path, map_size: int) -> None:
        self.pid = os.getpid()
        self.path = path
        self.users = 0
        # Taken in this order: who writes may make a checkpoint, and then move the map.
        self._writing = threading.Lock()
        self._checkpointing = threading.Lock()
        self._reading = threading.Lock()
        self._pin: lmdb.Transaction | None = None
        self._pending: threading.Event | None = None
        self._lost: Exception | None = None
        with refusing(path):
            # Where nothing can be written, there is no lock file to say who reads: what reads then
            # is safe from writers in other places only while its transactions are short, as here.
            locks = os.access(path, os.W_OK)
            only_read = not locks or not writable(path / DATA)
            self._checkpoints = None if only_read else Checkpoints.of(path)
            with ExitStack() as undo:
                if self._checkpoints is not None:
                    undo.callback(self._checkpoints.close)
                self.env = lmdb.open(
                    str(path),
                    map_size=map_size,
                    max_readers=_MAX_READERS,
                    create=not only_read,
                    readonly=only_read,
                    lock=locks,
                    sync=self._checkpoints is None,
                    metasync=False,
                )
                undo.callback(self.env.close)
                if locks:
                    self.env.reader_check()
                self._data = os.open(path / DATA, os.O_RDONLY)
                undo.pop_all()

    @classmethod
    def of(cls, path: Path, map_size: int) -> Environment:
        """The environment of a path, opened if this process has not."""
        with _guard:
            environment = _open.get((os.getpid(), path))
            if environment is None:
                with refusing(path):
                    path.mkdir(parents=True, exist_ok=True)
                # What a parent process had open; this frees this process's copy of it only.
                for key in [key for key in _open if key[1] == path]:
                    _open.pop(key).close()
                environment = _open[os.getpid(), path] = cls(path, map_size)
            environment.users += 1
            return environment

    def release(self) -> None:
        """Count one user less; without users the environment closes."""
        with _guard:
            self.users -= 1
            if self.users == 0 and self.pid == os.getpid():
                del _open[self.pid, self.path]
                self.finish()
                self.close()

    def finish(self) -> None:
        """Bring to the disk what is not there yet, and wait for who is at it."""
        with self._writing:
            if self._pending is not None:
                try:
                    self._checkpoint()
                except (OSError, lmdb.Error, StoreUnavailable) as error:
                    # Who did not ask for durability can do it again.
                    _log.warning("%s was left without a checkpoint: %s", self.path, error)
            with self._checkpointing:
                pass  # a thread that writes still would find its files closed, or those of others

    def close(self) -> None:
        """Close everything, whoever may still use it."""
        self._unpin()
        self.env.close()
        os.close(self._data)
        if self._checkpoints is not None:
            self._checkpoints.close()

    def hold(self) -> None:
        """Until `let_go`, have nobody write, and no pin."""
        self._writing.acquire()
        self._checkpointing.acquire()
        self._unpin()

    def let_go(self) -> None:
        """Let others write again, who pin first."""
        self._checkpointing.release()
        self._writing.release()

    def read(self, work: Callable[[lmdb.Environment], T]) -> T:
        """The result of `work`, after taking over the map that another process has grown.

        Threads read one after the other: a map cannot move under a transaction, and threads that
        pass the interpreter's lock around at every get are slower together than in turn.
        """
        try:
            while True:
                try:
                    with self._reading:
                        return work(self.env)
                except lmdb.MapResizedError:
                    with self._writing, self._checkpointing:
                        self._resize(0)
        except lmdb.Error as error:
            raise unavailable(self.path, error) from error

    def write(self, work: Callable[[lmdb.Environment], T], *, durable: bool) -> T:
        """The result of `work`, repeated with a larger map whenever the map is full.

        What need not be durable is on its way to the disk when this returns: a machine that stops
        can undo all that was written since some moment.
        """
        with self._writing, refusing(self.path):
            try:
                done = self._written(work)
                if durable:
                    self._checkpoint()
                elif self._checkpoints is not None and self._pending is None:
                    self._checkpoint_soon()
                return done
            finally:
                if self._pin is not None and self._pending is None:  # nothing was written
                    with self._checkpointing:
                        self._unpin()

    def _written(self, work: Callable[[lmdb.Environment], T]) -> T:
        while True:
            try:
                if self._checkpoints is not None and self._pin is None:
                    self._checkpoint(hold=True)
                self._refuse_lost()
                return work(self.env)
            except lmdb.MapFullError:
                size = self.env.info()["map_size"] * 2
            except lmdb.MapResizedError:
                size = 0
            with self._checkpointing:
                self._resize(size)

    def _checkpoint(self, *, hold: bool = False) -> None:
        """Bring what was written to the disk; for who holds `_writing`.

        The pin is held for who writes next.  Who does not, lets it go: others, who write on, could
        not use the pages again that it keeps.
        """
        with self._checkpointing:
            self._bring(self._moment())
            if not hold:
                self._unpin()

    def _checkpoint_soon(self) -> None:
        """Have another thread bring to the disk what is written until then."""
        pending = self._pending = threading.Event()

        def bring() -> None:
            try:
                if not pending.wait(CHECKPOINT_SECONDS):
                    self._checkpoint_beside(pending)
            except (OSError, lmdb.Error, StoreUnavailable) as error:
                _log.warning("no checkpoint could be made of %s: %s", self.path, error)

        threading.Thread(target=bring, name="tidemark-checkpoint", daemon=True).start()

    def _checkpoint_beside(self, pending: threading.Event) -> None:
        """Bring to the disk what is written, while others write on."""
        with ExitStack() as writing:
            writing.enter_context(self._writing)
            with self._checkpointing:
                if self._pending is pending:
                    moment = self._moment()
                    writing.close()
                    self._bring(moment)
        with self._writing, self._checkpointing:
            if self._pending is None:
                self._unpin()

    def _moment(self) -> tuple[Meta, lmdb.Transaction] | None:
        """The state there is, and a transaction that sees it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.set()
        self._refuse_lost()
        if self._checkpoints is None:
            return None
        for _ in range(_LOOKS):
            try:
                pin = self.env.begin()
            except lmdb.MapResizedError:
                self._resize(0)
                continue
            meta = Meta.newest(self._data)
            # Twice the same, or another process may be writing what is read.
            same = meta == Meta.newest(self._data)
            if meta is not None and same and meta.transaction == pin.id():
                return meta, pin
            pin.abort()
        raise StoreUnavailable(
            "What the file of the online store says is not what LMDB says.",
            where=str(self.path / DATA),
            remedy="Try again; if it stays so, materialize into another directory.",
        )

    def _bring(self, moment: tuple[Meta, lmdb.Transaction] | None) -> None:
        """Bring everything until a moment to the disk, and pin it."""
        if moment is None or self._checkpoints is None:
            self._sync()
            return
        meta, pin = moment
        if not self._checkpoints.has(meta):
            self._sync()
            self._checkpoints.keep(meta, self._data)
        self._unpin()
        self._pin = pin

    def _sync(self) -> None:
        try:
            self.env.sync(True)
        except lmdb.Error as error:
            # The system forgets what it could not write, and the next sync says that all is well.
            self._lost = error
            raise

    def _refuse_lost(self) -> None:
        if self._lost is not None:
            raise StoreUnavailable(
                f"The disk of the online store has failed: {self._lost}.",
                where=str(self.path),
                remedy="Start this process again when the disk is well: what may be lost since the "
                "last checkpoint is counted again from the event log.",
            )

    def _unpin(self) -> None:
        pin, self._pin = self._pin, None
        if pin is not None:
            pin.abort()

    def _resize(self, size: int) -> None:
        """Move the map, which ends the transactions of this process, the pin among them."""
        with self._reading:
            self._unpin()
            self.env.set_mapsize(size)


_open: dict[tuple[int, Path], Environment] = {}
_guard = threading.Lock()


def _before_fork() -> None:
    # The child would undo the pin of the parent by freeing its copy.
    _guard.acquire()
    for environment in _open.values():
        environment.hold()


def _after_fork() -> None:
    for environment in _open.values():
        environment.let_go()
    _guard.release()


def _at_exit() -> None:
    for (process, _), environment in _open.items():
        if process == os.getpid():
            environment.finish()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
atexit.register(_at_exit)


def writable(file: Path) -> bool:
    """Whether a file can be written, or made."""
    return not file.exists() or os.access(file, os.W_OK)


@contextmanager
def refusing(path: Path) -> Generator[None]:
    """Turn what the system or LMDB refuses into `StoreUnavailable`."""
    try:
        yield
    except (OSError, lmdb.Error) as error:
        raise unavailable(path, error) from error


_REMEDIES = {
    errno.ENOSPC: "Free space on that disk, then try again; nothing was written.",
    errno.EDQUOT: "Free space in that quota, then try again; nothing was written.",
    errno.EFBIG: "Raise the limit on file sizes, then try again; nothing was written.",
    errno.EIO: "That disk is full or failing: free space, then try again; nothing was written.",
    errno.EACCES: "Make the directory writable for this user, or set `online` to another one.",
    errno.EPERM: "Make the directory writable for this user, or set `online` to another one.",
    errno.EROFS: "That file system is read-only: set `online` to a directory elsewhere.",
    errno.ENOTDIR: "A file is in the way: set `online` to a directory.",
    errno.EEXIST: "A file is in the way: set `online` to a directory.",
}


def unavailable(path: Path, error: Exception) -> StoreUnavailable:
    """The error of what the system or LMDB refuses, with what to do about it."""
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    text = str(error)
    if code is None:
        code = next((number for number in _REMEDIES if os.strerror(number) in text), None)
    return StoreUnavailable(
        f"The online store refused: {text}.",
        where=str(path),
        remedy=_REMEDIES.get(code or 0, "Try again; `tidemark doctor` tells more."),
    )
