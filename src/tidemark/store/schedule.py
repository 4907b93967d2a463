"""Recurring work of a project: each job in its cadence, done by one process at a time.

A process becomes the holder of a job in the registry for a minute, and puts the end off while it
works; when it dies, another one takes the job over after that minute.  So `tidemark run` may run on
several machines, and each job is also one call of the command line for whoever has a scheduler.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace as changed
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tidemark.errors import NotFound, RequestInvalid, TidemarkError
from tidemark.model.plural import counted
from tidemark.model.window import clock, instant, parse_duration
from tidemark.registry.protocol import Job

if TYPE_CHECKING:
    from tidemark.store import Store

    Told = Callable[["Ran"], object]

KINDS = ("materialize", "catch_up", "compact", "retain", "freshness", "audit")

LEASE = 60_000_000
"""How long a process holds a job without putting the end off (microseconds)."""

KEEPING_SECONDS = 15.0
"""How often it puts the end off."""

WATCHING_SECONDS = 1.0
"""How often a process looks whether a job is due."""

_FIRST_RETRY = 5_000_000

AUDIT_OVERLAP = 60_000_000
"""How much of what was audited before is audited again (microseconds): the rows of a request are in
the serving log some seconds after its answer."""


class ValuesDiffer(RequestInvalid):
    """An audit was made and found differences; making it again at once would find the same."""


@dataclass(frozen=True)
class Ran:
    """How a job went; `error` is None if it went well."""

    job: str
    started: datetime
    seconds: float
    outcome: str
    error: Exception | None = None


@dataclass(frozen=True)
class Standing:
    """A job of the schedule: when it is due, and how it went the last time."""

    job: str
    cadence: int
    due: datetime
    holder: str
    last: datetime | None
    failures: int
    outcome: str


class Schedule:
    """The jobs that `schedule` in tidemark.toml names, with their cadences.

    `materialize` (all views; `materialize user_spend`: one), `catch_up` (what the event log has and
    the online state not yet), `compact` (the event log), `retain` (deletes events that
    `log_retention` lets go), `freshness` (fails where a promise is broken), `audit` (fails where
    what was served since the last audit is not what would be trained on).
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._materializing = threading.Lock()
        self.cadences: Mapping[str, int] = {
            name: parse_duration(text) for name, text in store.config.schedule.items()
        }
        for name in self.cadences:
            kind, _, view = name.partition(" ")
            if kind not in KINDS or (view and kind != "materialize"):
                raise NotFound.named("job", name, KINDS, where="`schedule` in tidemark.toml")

    def run(
        self,
        *,
        once: bool = False,
        told: Told | None = None,
        stop: threading.Event | None = None,
    ) -> list[Ran]:
        """Do what is due, until `stop` is set; with `once` only what is due now, which is given.

        `told` hears of each job when it was done, of one at a time.  An error of a job ends
        nothing: it is told, kept beside the job, and the job is tried again, more and more slowly
        up to its cadence.
        """
        if not self.cadences:
            raise RequestInvalid(
                "There is no schedule.",
                remedy='Name jobs in tidemark.toml: schedule = { materialize = "1h" }.',
            )
        stopping = stop or threading.Event()
        ran: list[Ran] = []
        telling = threading.Lock()

        def note(each: Ran) -> None:
            if once:
                ran.append(each)
            if told is not None:
                with telling:
                    told(each)

        if once:
            for name in self.cadences:
                self._if_due(name, note, stopping)
            return ran
        threads = [
            threading.Thread(target=self._keep_doing, args=(name, note, stopping), daemon=True)
            for name in self.cadences
        ]
        for thread in threads:
            thread.start()
        stopping.wait()
        for thread in threads:
            thread.join()
        return ran

    def standing(self) -> list[Standing]:
        """Every job of the schedule as it stands, in the order of the schedule."""
        known = {job.name: job for job in self._store.registry.jobs.jobs()}
        now = clock()
        found: list[Standing] = []
        for name, cadence in self.cadences.items():
            job = known.get(name, Job(name=name))
            found.append(
                Standing(
                    name,
                    cadence,
                    instant(_due(job, cadence) or now),
                    job.holder if job.lease > now else "",
                    instant(job.started) if job.started else None,
                    job.failures,
                    job.outcome,
                )
            )
        return found

    def next_runs(self) -> dict[str, int]:
        """When each view will be materialized next (microseconds), for those that will be."""
        jobs = [name for name in self.cadences if name.startswith("materialize")]
        if not jobs:
            return {}
        known = {job.name: job for job in self._store.registry.jobs.jobs()}
        now = clock()
        due: dict[str, int] = {}
        for name in jobs:
            at = max(now, _due(known.get(name, Job(name=name)), self.cadences[name]))
            _, _, view = name.partition(" ")
            views = [view] if view else self._views()
            due |= {each: min(at, due.get(each, at)) for each in views}
        return due

    def _views(self) -> list[str]:
        return sorted({view.name for view in self._store.registry.snapshot().definitions.views})

    def _keep_doing(
        self, name: str, note: Callable[[Ran], None], stopping: threading.Event
    ) -> None:
        while not stopping.is_set():
            self._if_due(name, note, stopping)
            stopping.wait(WATCHING_SECONDS)

    def _if_due(self, name: str, note: Callable[[Ran], None], stopping: threading.Event) -> None:
        """Do a job if it is due and nobody else does it."""
        jobs, cadence = self._store.registry.jobs, self.cadences[name]
        try:
            known = {job.name: job for job in jobs.jobs()}
            if _due(known.get(name, Job(name=name)), cadence) > clock():
                return
            now = clock()
            job = jobs.take_job(name, self._holder, now=now, lease=now + LEASE)
            if job is None:
                return
            ran = self._do(name, job)
            failed = ran.error is not None and not isinstance(ran.error, ValuesDiffer)
            failures, reached = (job.failures + 1, job.reached) if failed else (0, job.started)
            done = replace(job, finished=max(clock(), job.started), outcome=ran.outcome)
            jobs.give_back(replace(done, failures=failures, reached=reached))
        except TidemarkError as error:  # the registry is away: it is asked again
            ran = Ran(name, instant(clock()), 0.0, _line(error), error)
            stopping.wait(WATCHING_SECONDS)
        note(ran)

    def _do(self, name: str, job: Job) -> Ran:
        began = time.perf_counter()
        done = threading.Event()
        keeper = threading.Thread(target=self._put_off, args=(name, done), daemon=True)
        keeper.start()
        ran = Ran(name, instant(job.started), 0.0, "")
        try:
            ran = changed(ran, outcome=self._work(job))
        except Exception as error:  # noqa: BLE001 - it is told, and kept beside the job
            ran = changed(ran, outcome=_line(error), error=error)
        finally:
            done.set()
            keeper.join()
        return changed(ran, seconds=time.perf_counter() - began)

    def _put_off(self, name: str, done: threading.Event) -> None:
        while not done.wait(KEEPING_SECONDS):
            try:
                self._store.registry.jobs.put_off(name, self._holder, lease=clock() + LEASE)
            except TidemarkError:
                continue  # three more chances before the lease ends

    def _work(self, job: Job) -> str:
        """Do a job; gives what came of it."""
        kind, _, view = job.name.partition(" ")
        if kind == "materialize":
            with self._materializing:
                written = self._store.materialize([view] if view else None)
            entities = counted(written.entities, "entity", "entities")
            return f"{entities}, {counted(written.events, 'event')}"
        if kind == "catch_up":
            applied = sum(each.events for each in self._store.events.catch_up().values())
            return f"{counted(applied, 'event')} applied"
        if kind == "compact":
            return f"{counted(self._store.events.compact(), 'event')} moved into Parquet"
        if kind == "retain":
            return f"{counted(self._store.events.retain(), 'event')} deleted"
        if kind == "audit":
            return self._audit(job)
        found = self._store.freshness()
        if found.broken:
            names = ", ".join(each.view for each in found.broken)
            raise RequestInvalid(f"Promises of freshness are broken: {names}.")
        return f"{counted(len(found.views), 'view')} looked at"

    def _audit(self, job: Job) -> str:
        """Audit what was served in a cadence, or since the last audit that was made to its end.

        Whatever became of those in between, as a process that was killed, or a registry that was
        away: what no audit looked at is looked at by the next one.
        """
        since = clock() - self.cadences[job.name]
        if job.reached:
            since = min(since, job.reached)
        found = self._store.audit(since=instant(since - AUDIT_OVERLAP))
        if found.differing:
            causes = ", ".join(f"{cause} {count:,}" for cause, count in found.causes.items())
            raise ValuesDiffer(
                f"{found.differing:,} of {counted(found.compared, 'value')} that were served "
                f"differ from what would be trained on ({causes}).",
                remedy="tidemark audit tells which, and why.",
            )
        past = sum(each.values for each in found.forgotten)
        told = f", {past:,} not auditable any more" if past else ""
        return f"{counted(found.compared, 'value')} compared{told}"


def _due(job: Job, cadence: int) -> int:
    """When a job is to be done next (microseconds); 0 if it never was done."""
    if not job.started:
        return 0
    if job.finished < job.started:  # it is under way, or its holder died
        return job.lease
    if job.failures:
        return job.finished + min(cadence, _FIRST_RETRY << min(job.failures - 1, 20))
    return job.started + cadence


def _line(error: Exception) -> str:
    text = error.what if isinstance(error, TidemarkError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text else type(error).__name__
