"""From a stream to the event log and the online state, each message exactly once.

A batch of messages is appended to the log in one transaction with the offsets that it ends at, on
condition that the log still ends where the batch begins.  So whatever dies, and whoever takes a
partition over, a message that is in the log is never appended again, and none is passed over:
reading always goes on where the log ends.  The online state follows from the log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from tidemark.engines.log import Letter
from tidemark.errors import LockLost, StaleSource, StoreConflict, TidemarkError
from tidemark.ingest.streams.decoding import Decode, Undecodable, json_of
from tidemark.ingest.streams.protocol import Message, Start, StreamSource
from tidemark.ingest.validate import Bounds, Checked, table_of
from tidemark.model.window import clock
from tidemark.online.states.underway import UnderWay

if TYPE_CHECKING:
    import pyarrow as pa

    from tidemark.engines.log import EventLog
    from tidemark.model.graph import Source

BATCH = 10_000
POLL_SECONDS = 0.2
"""How long a poll waits for messages, and so how long a stop may take."""

BUSY_SECONDS, IDLE_SECONDS = 1.0, 5.0
"""How often it is told how many messages are left: of a stream that brings some, or none."""

UNASSIGNED_SECONDS = 30.0
"""How long `once` has no partition before it takes all of them for others'."""

FAILING_SECONDS = 30.0
"""How long `once` tries again what fails."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@dataclass
class Consumed:
    """What was taken from a stream so far; `lag` counts the messages still waiting there.

    `lost` messages were gone before they were read, and have been passed over.
    """

    source: str
    messages: int = 0
    accepted: int = 0
    duplicates: int = 0
    buried: int = 0
    batches: int = 0
    lost: int = 0
    paused: bool = False
    lag: dict[str, int] = field(default_factory=dict[str, int])


class Consumer:
    """Takes what one stream brings, until it is told to stop.

    `source` gives the source as it is applied now, `bounds` the times that its events may have;
    `decode` is None where messages are JSON.  Reads are told by `under_way` of events that they do
    not count yet.  `apply` brings the online state to the end of the log; `waiting` hears now and
    then how many messages each partition has left, and how many more were lost, and says whether it
    noted that.  `told` is called after each batch and each error that passes: what is `retryable`
    is tried again, for ever, more and more slowly.  What is not, and the loss of a lock under which
    this is read, ends `run`, which may be called again.
    """

    def __init__(
        self,
        source: Callable[[], Source],
        stream: StreamSource,
        decode: Decode | None,
        log: EventLog,
        *,
        bounds: Callable[[Source], Bounds],
        under_way: UnderWay,
        apply: Callable[[], object],
        waiting: Callable[[Mapping[str, int], int], bool],
        told: Callable[[Consumed, TidemarkError | None], object],
    ) -> None:
        self.consumed = Consumed(source().name)
        self._source = source
        self._stream = stream
        self._decode = decode
        self._log = log
        self._bounds = bounds
        self._under_way = under_way
        self._apply = apply
        self._waiting = waiting
        self._waiting_at = float("-inf")
        self._lost_noted = 0
        self._told = told
        self._stop = threading.Event()
        self._patience = _Patience(inf, self._stop)
        self._taken: dict[str, str] = {}
        self._unassigned = inf  # since when nothing has been assigned to this reader

    @property
    def shared(self) -> bool:
        """Whether the broker deals the stream out to several readers."""
        return self._stream.shared

    def tell(self, error: TidemarkError) -> None:
        """Say what holds the reading up."""
        self._told(self.consumed, error)

    def stop(self) -> None:
        """End after the batch that is under way."""
        self._stop.set()

    def run(
        self, start: Start | None = None, *, once: bool = False, batch: int = BATCH
    ) -> Consumed:
        """Take messages until stopped, or with `once` until none is left or this is paused.

        What passes by itself is waited for; with `once` for `FAILING_SECONDS`, then it is raised.
        """
        self._unassigned = inf
        self._patience = patience = _Patience(FAILING_SECONDS if once else inf, self._stop)
        failed = False
        self._stream.open(self._where, start or Start())
        try:
            self._applied()  # what a reader before this one may have left
            while not self._stop.is_set() and not self._stream.ended:
                try:
                    if failed:
                        self._stream.rewind()
                    taken = self._step(batch)
                    if once and (self.consumed.paused or (not taken and self._finished())):
                        break
                    failed = False
                    patience.renew()
                except TidemarkError as error:
                    if not patience.covers(error):
                        raise
                    self.tell(error)
                    patience.wait()
                    failed = True
        finally:
            self._stream.close()
        return self.consumed

    def _where(self) -> Mapping[str, str]:
        self._taken = self._log.offsets(self.consumed.source)
        return self._taken

    def _step(self, batch: int) -> int:
        """One batch; gives the number of its messages."""
        if self._pausing():
            # A member that does not poll loses its partitions, so it polls, and forgets.
            if self._stream.poll(1, POLL_SECONDS):
                self._stream.rewind()
            self._tell_waiting(IDLE_SECONDS)
            return 0
        messages = self._stream.poll(batch, POLL_SECONDS)
        self._tell_lost()
        if messages:
            self._unassigned = inf
            self._take(messages)
        else:
            self._tell_waiting(IDLE_SECONDS)
        return len(messages)

    def _pausing(self) -> bool:
        pausing = self._log.paused(self.consumed.source)
        if pausing != self.consumed.paused:
            self.consumed.paused = pausing
            self._told(self.consumed, None)
        return pausing

    def _tell_waiting(self, seconds: float, lag: Mapping[str, int] | None = None) -> None:
        """Tell how many messages are left, unless that was told in the last `seconds`."""
        if time.monotonic() - self._waiting_at >= seconds:
            self._waiting_at = time.monotonic()
            lag = self._stream.lag() if lag is None else lag
            self.consumed.lag = dict(lag)
            self._note(lag)

    def _note(self, lag: Mapping[str, int]) -> None:
        lost = self.consumed.lost
        if lag and self._waiting(lag, lost - self._lost_noted):
            self._lost_noted = lost

    def _tell_lost(self) -> None:
        """Say that messages are gone and passed over, once each."""
        lost = sum(self._stream.lost.values())
        if lost == self.consumed.lost:
            return
        self.consumed.lost = lost
        self._waiting_at = float("-inf")
        of = ", ".join(f"{name}: {count:,}" for name, count in self._stream.lost.items())
        self.tell(
            StaleSource(
                f"Messages of the {self._stream.name} were gone before they were read, and are "
                f"passed over ({of}).",
                remedy="Load them into the history and materialize.",
            )
        )

    def _take(self, messages: Sequence[Message]) -> None:
        source = self._source()
        table, letters = self._read(source, messages)
        offsets = {each.partition: each.offset for each in messages if each.offset}
        with self._under_way.accepting(source.name):
            try:
                appended = self._log.append(
                    source,
                    table,
                    seen=clock(),
                    offsets=offsets,
                    expected={partition: self._taken.get(partition) for partition in offsets},
                    buried=letters,
                )
            except StoreConflict:
                self._stream.rewind()  # another reader had these messages; go on where it is
                return
            self._taken = {**self._taken, **offsets}
            consumed = self.consumed
            consumed.messages += len(messages)
            consumed.accepted += appended.accepted
            consumed.duplicates += appended.duplicates
            consumed.buried += len(letters)
            consumed.batches += 1
            self._applied()
        self._stream.taken(offsets)
        consumed.lag = dict(self._stream.lag())
        self._tell_waiting(BUSY_SECONDS, consumed.lag)
        self._told(consumed, None)

    def _applied(self) -> None:
        """Bring the state up to the log; what was appended is never taken again for its sake."""
        while True:
            try:
                self._apply()
            except TidemarkError as error:
                if not self._patience.covers(error):
                    raise
                self.tell(error)
                if self._patience.wait():
                    return  # whoever comes next finds it in the log
            else:
                return

    def _read(self, source: Source, messages: Sequence[Message]) -> tuple[pa.Table, list[Letter]]:
        """The events of messages as a table, and the messages that hold none."""
        held: list[Message] = []
        letters: list[Letter] = []
        rows: list[Any] = []
        for message in messages:
            try:
                rows.append(self._row(message.value))
            except Undecodable as why:
                letters.append(_letter(message, (str(why),)))
            else:
                held.append(message)
        alone = _not_json(rows[0]) if len(rows) == 1 and self._decode is None else ""
        if alone:
            letters.append(_letter(held.pop(), (alone,)))
            rows.clear()
        checked = self._checked(source, rows)
        reasons: dict[int, list[str]] = {}
        for each in checked.bad:
            what = f"{each.column} {each.value} {each.reason}"
            reasons.setdefault(each.row, []).append(what)
        for row, bad in reasons.items():
            text = None if self._decode is None else json_of(rows[row])  # as it can be replayed
            letters.append(_letter(held[row], tuple(bad), text))
        return checked.table, letters

    def _row(self, value: bytes | None) -> Any:
        """A message as a dict, or as a line of JSON; raises `Undecodable`."""
        if value is None or not value.strip():
            raise Undecodable("The message carries nothing.")
        if self._decode is not None:
            return self._decode(value)
        if not value.lstrip().startswith(b"{"):
            raise Undecodable("The message is not a JSON object.")
        return value.replace(b"\n", b" ").replace(b"\r", b" ")

    def _checked(self, source: Source, rows: list[Any]) -> Checked:
        bounds = self._bounds(source)
        if self._decode is not None or not rows:
            return table_of(source, rows, bounds=bounds, unknown="ignore")
        return table_of(source, b"\n".join(rows), bounds=bounds, unknown="ignore")

    def _finished(self) -> bool:
        lag = self._stream.lag()
        self.consumed.lag = dict(lag)
        if not any(lag.values()):
            self._note(lag)
        if not lag:  # nothing is assigned to this reader, or not yet, or not for the moment
            now = time.monotonic()
            self._unassigned = min(self._unassigned, now)
            return now - self._unassigned > UNASSIGNED_SECONDS
        self._unassigned = inf
        return not any(lag.values())


class _Patience:
    """Waits longer and longer for what may pass by itself, for so many seconds at most."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._seconds, self._stop = seconds, stop
        self.renew()

    def renew(self) -> None:
        """Begin anew: something was done."""
        self._pause, self._since = _FIRST_PAUSE, inf

    def covers(self, error: TidemarkError) -> bool:
        """Whether to try again; a lock that is lost stays lost until it is taken anew."""
        now = time.monotonic()
        self._since = min(self._since, now)
        passes = error.retryable and not isinstance(error, LockLost)
        return passes and now - self._since <= self._seconds

    def wait(self) -> bool:
        """Wait until it may be tried again; whether this is to stop instead."""
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return self._stop.wait(pause)


def _not_json(line: bytes) -> str:
    """Why a line alone is no JSON: of several, each is told apart where all are read."""
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"The message is not JSON: {error}."
    return ""


def _letter(message: Message, reasons: tuple[str, ...], text: str | None = None) -> Letter:
    """A message among the dead letters: its text, or its bytes as JSON spells them (Base64)."""
    value = message.value or b""
    try:
        text = value.decode() if text is None else text
    except UnicodeDecodeError:
        text = msgspec.json.encode(value).decode()
    origin = message.partition if message.offset else ""
    return Letter(text, reasons, origin=origin, offset=message.offset)
