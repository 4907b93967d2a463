"""Push: events are checked, made durable, and counted by the next read.

Pushes of several threads that wait for the disk at the same time share one append and one change of
the online state: the first thread works for all that have gathered, the next one takes over after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from tidemark.engines.few import FEW, Few
from tidemark.engines.log import Appended, Batch, Letter
from tidemark.errors import BadValue, EventsRefused, RequestInvalid, StoreUnavailable, TidemarkError
from tidemark.ingest.apply import AT_ONCE, Applier
from tidemark.ingest.arrived import Arrived
from tidemark.ingest.validate import Bounds, Checked, as_rows, table_of
from tidemark.model.graph import Definitions, Source
from tidemark.model.window import clock, instant
from tidemark.online.states.keys import ANY_MOMENT
from tidemark.online.states.underway import UnderWay

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import EventLog

OnError = Literal["refuse", "quarantine"]

SHOWN = 20
"""Bad values that a message names."""

WAITING = 1_024
"""Pushes of one source that may wait; more are told to come again."""

WAITING_ROWS = 200_000
"""Events in them."""

GATHERED_ROWS = 20_000
"""Events that are appended and applied together."""


@dataclass(frozen=True)
class Pushed:
    """What became of a push: it is durable, and every read from now on counts it.

    Should the whole machine fail right after, the event is in the log, and the first process that
    reads counts it again.  `duplicates` were there already, with the same content.  `quarantined`
    rows are in the dead-letter table.  `position` is that of the newest event of the source, `seen`
    when the accepted ones became known.
    """

    accepted: int
    duplicates: int
    quarantined: int
    position: int
    seen: datetime


@dataclass
class _Push:
    """A push that waits; `leads` tells its thread to work for all that wait."""

    rows: pa.Table | Few
    key: str
    letters: tuple[Letter, ...]
    ready: threading.Event | None = None
    leads: bool = False
    appended: Appended | None = None
    error: Exception | None = None

    def wake(self) -> None:
        """Let its thread go on, if it waits."""
        if self.ready is not None:
            self.ready.set()


@dataclass
class _Queue:
    """The pushes of one source that wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: list[_Push] = field(default_factory=list[_Push])
    busy: bool = False

    def gather(self) -> list[_Push]:
        """Take the pushes that are to be worked on together."""
        with self.lock:
            taken = rows = 0
            for push in self.waiting:
                rows += len(push.rows)
                if taken and rows > GATHERED_ROWS:
                    break
                taken += 1
            group, self.waiting = self.waiting[:taken], self.waiting[taken:]
            return group

    def hand_over(self) -> None:
        """Let the thread of the first push that waits work for all."""
        with self.lock:
            if self.waiting:
                self.waiting[0].leads = True
                self.waiting[0].wake()
            else:
                self.busy = False


class Pusher:
    """Takes events of a project's sources, from any number of threads.

    `engine` gives the engine that expressions are computed with, one at a time.  Reads are told by
    `under_way` of events that they do not count yet.  `future` is how far ahead of the clock
    (microseconds) an event may be; `forgets` says whether states answer recent moments only.
    """

    def __init__(
        self,
        log: EventLog,
        applier: Applier,
        engine: Callable[[], AbstractContextManager[DuckDB]],
        under_way: UnderWay,
        *,
        future: int,
        forgets: bool,
    ) -> None:
        self._log = log
        self._applier = applier
        self._engine = engine
        self._under_way = under_way
        self._future = future
        self._forgets = forgets
        self._queues: dict[str, _Queue] = {}
        self._known: tuple[Definitions, dict[str, Source]] = (Definitions(), {})
        self._making = threading.Lock()

    def push(
        self,
        definitions: Definitions,
        name: str,
        rows: object,
        *,
        on_error: OnError = "refuse",
        key: str = "",
    ) -> Pushed:
        """Take events; see `Store.push`."""
        if on_error not in ("refuse", "quarantine"):
            raise RequestInvalid(
                f"{on_error!r} is not what to do with bad rows.",
                remedy='on_error="refuse" takes all rows or none, "quarantine" the good ones.',
            )
        source = self._source(definitions, name)
        if source.time is None:
            raise RequestInvalid(
                f"{name} has no time, so its rows are facts and not events.",
                remedy="Push events of a source with a time; facts are read from its history.",
            )
        if name not in self._queues:
            self._applier.left(definitions, name)  # or the log is another one
        now = clock()
        oldest = self._applier.oldest(definitions, name) if self._forgets else ANY_MOMENT
        checked = table_of(source, rows, bounds=Bounds(now, now + self._future, oldest))
        if checked.bad and on_error == "refuse":
            raise refused(source, checked)
        push = _Push(checked.rows, key, letters(checked))
        self._submit(definitions, source, push)
        done = push.appended
        if done is None:
            raise StoreUnavailable("The push was given up.", remedy="Try again.")
        self._under_way.settle(name, done.seen)
        return Pushed(
            done.accepted, done.duplicates, len(push.letters), done.last, instant(done.seen)
        )

    def _source(self, definitions: Definitions, name: str) -> Source:
        """The source of that name, looked for once among however many there are."""
        known, sources = self._known
        if known is not definitions:
            self._known = definitions, (sources := {})
        if name not in sources:
            sources[name] = definitions.source(name)
        return sources[name]

    def _submit(self, definitions: Definitions, source: Source, push: _Push) -> None:
        """Have a push worked on, by this thread or by one that works already."""
        queue = self._queues.get(source.name)
        if queue is None:
            with self._making:
                queue = self._queues.setdefault(source.name, _Queue())
        with queue.lock:
            rows = sum(len(each.rows) for each in queue.waiting)
            if queue.waiting and (
                len(queue.waiting) >= WAITING or rows + len(push.rows) > WAITING_ROWS
            ):
                raise StoreUnavailable(
                    f"Too many pushes to {source.name} are waiting.",
                    where=f"{len(queue.waiting):,} with {rows:,} events",
                    remedy="Try again in a moment; nothing of this one was taken.",
                )
            queue.waiting.append(push)
            push.leads = not queue.busy
            push.ready = threading.Event() if queue.busy else None
            queue.busy = True
        if push.ready is not None:
            push.ready.wait()
        if push.leads:
            try:
                self._work(definitions, source, queue.gather())
            finally:
                queue.hand_over()
        if push.error is not None:
            raise push.error

    def _work(self, definitions: Definitions, source: Source, group: Sequence[_Push]) -> None:
        """Append a group of pushes, all or none, and bring the state to the end of the log."""
        try:
            with self._under_way.accepting(source.name):
                fresh = self._append(source, group)
                self._apply(definitions, source, fresh)
        except Exception as error:  # noqa: BLE001 - every thread of the group is told
            for push in group:
                push.error = error
        finally:
            for push in group:
                push.wake()

    def _append(self, source: Source, group: Sequence[_Push]) -> Arrived | None:
        """Append a group of pushes; those of which nothing but rows is to be kept, as one batch.

        Gives what was appended, if it is little enough to be applied at once.
        """
        alone = [push for push in group if push.key or push.letters]
        plain = [push for push in group if not push.key and not push.letters]
        batches = [Batch(push.rows, push.key, push.letters) for push in alone]
        if plain:
            batches.append(Batch(_together([push.rows for push in plain])))
        done = self._log.append_all(source, batches, seen=clock())
        for push, appended in zip(alone, done, strict=False):
            push.appended = appended
            if appended.other:
                push.error = _other_rows(source, push.key)
        _share(plain, done[-1])
        fresh = Arrived.appended(source, done)
        return fresh if fresh is not None and len(fresh) <= AT_ONCE else None

    def _apply(self, definitions: Definitions, source: Source, fresh: Arrived | None) -> None:
        try:
            with self._engine() as engine:
                self._applier.catch_up(engine, definitions, source.name, fresh)
        except TidemarkError as error:
            raise StoreUnavailable(
                f"The events of {source.name} are in the log, but no read counts them yet: "
                f"{error.what}",
                where=error.where,
                remedy="They will count with the next push, or when the next process reads. "
                "Pushing them again is safe where the source has `unique`, or with the same key.",
            ) from error


def _share(pushes: Sequence[_Push], done: Appended) -> None:
    """Tell pushes whose rows were appended as one batch what became of their own."""
    if len(pushes) == 1:
        pushes[0].appended = done
        return
    begin = 0
    for push in pushes:
        rows, count = len(push.rows), done.accepted
        if done.accepts is not None:
            count = int(np.count_nonzero(done.accepts[begin : begin + rows]))
        push.appended = replace(done, accepted=count, duplicates=rows - count)
        begin += rows


def _other_rows(source: Source, key: str) -> RequestInvalid:
    """The error of a key that was used before, for something else."""
    return RequestInvalid(
        f"Other events of {source.name} were pushed under the key {key!r}; nothing was taken.",
        remedy="Give every push a key of its own, and the same one only to the same events when "
        "they are pushed again.",
    )


def _together(parts: Sequence[pa.Table | Few]) -> pa.Table | Few:
    """The rows of several pushes as one batch; a few stay as they are."""
    first = parts[0]
    if len(parts) == 1:
        return first
    few = [each for each in parts if isinstance(each, Few)]
    alike = len(few) == len(parts) and all(each.plain is few[0].plain for each in few)
    if alike and sum(map(len, few)) <= FEW:
        columns = zip(*(each.columns for each in few), strict=True)
        return Few(few[0].plain, [list(chain.from_iterable(column)) for column in columns])
    table: pa.Table = pa.concat_tables([as_rows(each) for each in parts])
    return table


def letters(checked: Checked) -> tuple[Letter, ...]:
    """The bad rows as the dead-letter table keeps them: as they came, with all reasons."""
    reasons: dict[int, list[str]] = {}
    for each in checked.bad:
        reasons.setdefault(each.row, []).append(f"{each.column} {each.value} {each.reason}")
    return tuple(Letter(checked.content(row), tuple(said)) for row, said in reasons.items())


def refused(source: Source, checked: Checked) -> EventsRefused:
    """The error of rows of which some are bad."""
    bad: Sequence[BadValue] = checked.bad
    rows = len({each.row for each in bad})
    several = "1 row" if rows == 1 else f"{rows:,} rows"
    return EventsRefused(
        f"{several} of {rows + len(checked.good):,} cannot be events of {source.name}; "
        "nothing was taken.",
        where=listed(bad, "row"),
        remedy='Correct them, or let the good ones in: on_error="quarantine".',
        bad=bad,
        bad_rows=rows,
    )


def listed(bad: Sequence[BadValue], unit: str) -> str:
    """The first things that are wrong, one on each line, in rows or in lines of a file."""
    shown = [str(each).replace("row", unit, 1) for each in bad[:SHOWN]]
    if len(bad) > SHOWN:
        shown.append(f"and {len(bad) - SHOWN:,} more")
    return "\n".join(shown)
