"""A state of an LMDB file that is on the disk, whatever has been written since.

A commit of LMDB that does not wait for the disk (`MDB_NOSYNC`) survives its process, but a machine
that stops may leave a mixture: the page that says which tree is current, without the tree.  This is
what makes such commits safe.  Now and then all that was written is brought to the disk, and the
*meta page* of that moment, which says where its tree is, is kept in a file of its own.  From then
on a read transaction, the *pin*, keeps LMDB from using any page of that tree again: it stays on the
disk as it was.  Who opens the file while nobody else has it puts the kept meta page back.

One rule holds this together: a process writes only while it has a pin that is not newer than the
newest checkpoint.  Checkpoints only become newer, so no writer can use a page of the newest one.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lmdb

from tidemark.errors import StoreUnavailable

DATA, CHECKPOINT = "data.mdb", "checkpoint"

KNOWN = lmdb.version()[:2] == (0, 9) and struct.calcsize("P") == 8 and sys.byteorder == "little"
"""Whether this build of LMDB has the meta page that is described here."""

_META = struct.Struct("<Q8x IIQQ I36xQ 40xQ QQ")
"""The head of a page and the meta page's fields, as `lmdb.c` of LMDB 0.9 lays them out: `_Fields`.

Of the two trees (free pages, data) only the roots are named; what else there is of them is kept."""

_FIRST, _TRANSACTION = struct.Struct("<Q"), struct.Struct("<Q")
_AT_TRANSACTION = _META.size - _TRANSACTION.size

_MAGIC, _VERSION, _NO_PAGE = 0xBEEFC0DE, 1, 2**64 - 1

_SLOT = struct.Struct("<8sII")
"""A name, the checksum of all that follows it, and that of the pages at the roots of the trees."""

_NAME, _APART, _SUMMED = b"TMCHECK1", 4_096, 12


class _Fields(NamedTuple):
    page: int
    magic: int
    version: int
    address: int
    map_size: int
    page_size: int
    free_root: int
    root: int
    last: int
    transaction: int


@dataclass(frozen=True)
class Meta:
    """A meta page: what it says, and how it is written."""

    content: bytes
    fields: _Fields

    @classmethod
    def of(cls, content: bytes) -> Meta | None:
        """None where it is no meta page."""
        if len(content) < _META.size:
            return None
        fields = _Fields(*_META.unpack_from(content))
        whole = fields.magic == _MAGIC and fields.version == _VERSION
        return cls(content[: _META.size], fields) if whole else None

    @classmethod
    def newest(cls, data: int) -> Meta | None:
        """The meta page that is in force in an open file; None where it has none."""
        found: list[Meta] = []
        first = cls.of(os.pread(data, _META.size, 0))
        if first is not None:
            found.append(first)
        # Without the first one, the size of pages is not known; systems have one of these.
        sizes = [first.fields.page_size] if first is not None else [4_096, 16_384, 65_536]
        for size in sizes:
            second = cls.of(os.pread(data, _META.size, size))
            found += [] if second is None else [second]
        return max(found, key=lambda each: each.transaction, default=None)

    @property
    def transaction(self) -> int:
        """The transaction that made it."""
        return self.fields.transaction

    def roots(self, data: int) -> int:
        """A checksum of the pages at the roots of both trees."""
        size, total = self.fields.page_size, 0
        for root in (self.fields.free_root, self.fields.root):
            page = b"" if root == _NO_PAGE else os.pread(data, size, root * size)
            total = zlib.crc32(page, total)
        return total

    def written(self, page: int, transaction: int) -> bytes:
        """Its content as one of the two pages, 0 or 1, and made by a transaction."""
        middle = self.content[_FIRST.size : _AT_TRANSACTION]
        return _FIRST.pack(page) + middle + _TRANSACTION.pack(transaction)


class Checkpoints:
    """The checkpoints of one LMDB directory, held by each process that has it open.

    Two are kept, in turn, so that one is whole at any moment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        flags = os.O_RDWR | os.O_CREAT | os.O_DSYNC
        self._file = os.open(folder / CHECKPOINT, flags, 0o644)
        try:
            if os.fstat(self._file).st_size < 2 * _APART:
                # On the disk before anything is entrusted to it; a full disk is met here.
                os.pwrite(self._file, bytes(2 * _APART), 0)
                _sync_folder(folder)
            self._share()
        except BaseException:
            os.close(self._file)
            raise

    @classmethod
    def of(cls, folder: Path) -> Checkpoints | None:
        """None where they cannot be had: commits have to wait for the disk there."""
        if not KNOWN or not hasattr(os, "O_DSYNC"):
            return None
        return cls(folder)

    def has(self, meta: Meta) -> bool:
        """Whether there is a checkpoint of a state."""
        return any(each is not None and each[0] == meta for each in self._slots())

    def keep(self, meta: Meta, data: int) -> None:
        """Make a state, all of which is on the disk, the newest checkpoint."""
        import fcntl

        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            self._keep(meta, data)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _keep(self, meta: Meta, data: int) -> None:
        numbers = [-1 if each is None else each[0].transaction for each in self._slots()]
        if max(numbers) >= meta.transaction:
            return  # another process was faster
        roots, place = meta.roots(data), numbers.index(min(numbers)) * _APART
        summed = _SLOT.pack(_NAME, 0, roots)[_SUMMED:] + meta.content
        os.pwrite(self._file, _SLOT.pack(_NAME, zlib.crc32(summed), roots) + meta.content, place)

    def close(self) -> None:
        """Let others have the directory to themselves."""
        os.close(self._file)

    def _share(self) -> None:
        """Share the directory with others; put the newest checkpoint back if there are none."""
        import fcntl

        with suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._restore()
        # Between the two locks another process may do the same, and finds nothing to do.
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def _restore(self) -> None:
        """Undo what was written after the newest checkpoint by processes that did not close it."""
        try:
            data = os.open(self._folder / DATA, os.O_RDWR)
        except FileNotFoundError:
            os.pwrite(self._file, bytes(2 * _APART), 0)
            return
        try:
            newest, held = Meta.newest(data), self._newest()
            if held is None or (newest is None and os.fstat(data).st_size == 0):
                return
            kept, roots = held
            now = -1 if newest is None else newest.transaction
            at = kept.transaction
            if 0 <= now < at:  # never of one file: this one is new, or came from elsewhere
                os.pwrite(self._file, bytes(2 * _APART), 0)
            elif now != at:
                self._put_back(kept, roots, data)
        finally:
            os.close(data)

    def _put_back(self, kept: Meta, roots: int, data: int) -> None:
        size, at = kept.fields.page_size, kept.transaction
        whole = os.fstat(data).st_size >= (kept.fields.last + 1) * size
        if not whole or kept.roots(data) != roots:
            raise StoreUnavailable(
                "The online store was not closed, and the state of its last checkpoint is not "
                "in its file.",
                where=str(self._folder / DATA),
                remedy=f"If the file was put there on purpose, delete {CHECKPOINT} beside it. "
                "Otherwise move the directory away and run `tidemark materialize`.",
            )
        even = at % 2
        os.pwrite(data, kept.written(even, at), even * size)
        os.pwrite(data, kept.written(1 - even, max(at - 1, 0)), (1 - even) * size)
        os.fsync(data)

    def _newest(self) -> tuple[Meta, int] | None:
        found = [each for each in self._slots() if each is not None]
        return max(found, key=lambda each: each[0].transaction, default=None)

    def _slots(self) -> list[tuple[Meta, int] | None]:
        """Both checkpoints, with the checksums of their roots; None for what is not whole."""
        return [self._slot(place) for place in (0, _APART)]

    def _slot(self, place: int) -> tuple[Meta, int] | None:
        found = os.pread(self._file, _SLOT.size + _META.size, place)
        name, checksum, roots = _SLOT.unpack_from(found)
        meta = Meta.of(found[_SLOT.size :])
        if name != _NAME or zlib.crc32(found[_SUMMED:]) != checksum or meta is None:
            return None
        return meta, roots


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
