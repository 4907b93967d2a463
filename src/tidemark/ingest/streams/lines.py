"""Lines of JSON from a file that others append to, or from standard input."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

from tidemark.errors import NotFound, RequestInvalid, StaleSource
from tidemark.ingest.streams.protocol import Message, Positions, Start
from tidemark.model.graph import Ndjson

STANDARD_INPUT = "-"
_CHUNK = 1 << 20
_PAUSE = 0.05


class Lines:
    """A file is one partition; an offset is the number of bytes up to the end of a line.

    A line counts when its end is there.  Standard input is another one each time, so its lines have
    no offsets, and nothing is known of what was taken from it.
    """

    shared = False
    lost: Mapping[str, int] = MappingProxyType({})

    def __init__(self, stream: Ndjson, root: Path) -> None:
        self._is_input = stream.path == STANDARD_INPUT
        self._path = root / stream.path
        self._partition = stream.path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._at = 0
        self._first = 0
        self._taken: Callable[[], Positions] = dict
        self._over = False
        self._held: list[Message] = []  # of standard input, until they are taken
        self._again: list[Message] = []

    @property
    def name(self) -> str:
        """The file."""
        return "standard input" if self._is_input else str(self._path)

    @property
    def ended(self) -> bool:
        """Whether standard input has been closed, and all of it taken."""
        return self._over and not self._held

    def open(self, taken: Callable[[], Positions], start: Start) -> None:
        """Begin after the last line that was taken, else at the beginning or the end."""
        if start.at == "time":
            raise RequestInvalid(
                "Lines of a file have no time of their own.",
                remedy="Start from earliest, latest or a position.",
            )
        if start.at == "position" and not self._is_input:
            first = start.only(self._partition)
            if not first.isdigit():
                raise RequestInvalid(f"{first} is no number of bytes of {self._path}.")
            self._first = int(first)
        self._taken = taken
        if self._is_input:
            self._file = sys.stdin.buffer
            return
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            raise NotFound(f"There is no file {self._path}.") from None
        if start.at == "latest":
            self._first = self._path.stat().st_size
        self.rewind()

    def rewind(self) -> None:
        """Go back to the end of the last line that was taken."""
        if self._is_input or self._file is None:
            self._again = self._held
            return
        self._at = int(self._taken().get(self._partition, self._first))
        self._rest = b""
        size = self._path.stat().st_size
        if size < self._at:
            raise StaleSource(
                f"{self._path} has {size:,} bytes; {self._at:,} had been read.",
                remedy="It was cut or replaced.  Name the new file otherwise, or read it from its "
                "beginning: --again.",
            )
        self._file.seek(max(self._at - 1, 0))
        if self._at and self._file.read(1) != b"\n":
            raise StaleSource(
                f"{self._path} is another file than the one that was read: there is no end of a "
                f"line at {self._at:,} bytes.",
                remedy="Name the new file otherwise, or read it from its beginning: --again.",
            )

    def poll(self, most: int, seconds: float) -> Sequence[Message]:
        """The next complete lines."""
        assert self._file is not None  # noqa: S101 - open() comes first
        if self._again:
            self._again = []
            return self._held
        until = time.monotonic() + seconds
        found: list[Message] = []
        while len(found) < most:
            line, found_end, rest = self._rest.partition(b"\n")
            if found_end:
                self._rest = rest
                self._at += len(line) + 1
                if line.strip():
                    found.append(Message(self._partition, self._offset(), line))
                continue
            more = self._read(max(0.0, until - time.monotonic()) if not found else 0.0)
            if more:
                self._rest += more
            elif found or self._over or time.monotonic() >= until:
                break
        if self._over and self._rest.strip():
            self._at += len(self._rest)
            found.append(Message(self._partition, self._offset(), self._rest))
            self._rest = b""
        if self._is_input:
            self._held = found
        return found

    def _offset(self) -> str:
        return "" if self._is_input else str(self._at)

    def _read(self, seconds: float) -> bytes:
        assert self._file is not None  # noqa: S101 - open() comes first
        if not self._is_input:
            more = self._file.read(_CHUNK)
            if not more and seconds > 0:
                time.sleep(min(seconds, _PAUSE))
            return more
        ready, _, _ = select.select([self._file], [], [], seconds)
        if not ready:
            return b""
        given: bytes = cast("Any", self._file).read1(_CHUNK)
        self._over = not given
        return given

    def taken(self, positions: Positions) -> None:  # noqa: ARG002 - it has none
        """Let go of what was read from standard input."""
        self._held = []

    def lag(self) -> Mapping[str, int]:
        """1 while there are lines that were not polled; a file does not say how many."""
        if self._is_input:
            return {self._partition: int(not self._over)}
        return {self._partition: int(self._path.stat().st_size > self._at + len(self._rest))}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None and not self._is_input:
            self._file.close()
        self._file = None
