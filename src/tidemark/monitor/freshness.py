"""How old what is served is, against what was promised.

The age of a view is the time since the last moment up to which its rows are known to be complete:
that of its materialization, that of the newest event it was given, and, for a source with a stream,
that at which the stream was last read to its end.  So a stream that nobody reads any more, and a
batch that died, show as age, although nothing failed where anybody looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from tidemark.model.graph import Definitions, FeatureView
from tidemark.model.plural import counted
from tidemark.model.window import format_duration, instant, moment_text, rough_duration
from tidemark.online.states.keys import State, read_record, record_key
from tidemark.online.states.pulse import (
    Reading,
    delays_key,
    quantile,
    read_delays,
    read_reading,
    reading_key,
)

if TYPE_CHECKING:
    from tidemark.engines.log import EventLog
    from tidemark.online.stores.protocol import OnlineStore

Verdict = Literal["kept", "at risk", "broken", "unknown"]


@dataclass(frozen=True)
class ViewFreshness:
    """One view: what it promises, and how it stands.

    `age` is None where nothing is materialized.  `waiting` events are in the log and not counted
    yet.  The promise breaks at `breaks_at` if nothing new comes; `next_run` is when a job will
    bring something, None where no job is known.  The verdict is "kept"; "at risk", if it breaks
    before the next run; "broken"; or "unknown" where there is no promise.
    """

    view: str
    source: str
    promise: timedelta | None
    age: timedelta | None
    waiting: int
    complete_until: datetime | None
    breaks_at: datetime | None
    next_run: datetime | None
    verdict: Verdict


@dataclass(frozen=True)
class SourceFreshness:
    """How long live events of a source took until reads counted them.

    From when they happened, and from when they were accepted: quantiles in seconds, each the upper
    end of a bucket of factor two.
    """

    source: str
    events: int
    event_to_online: Mapping[str, float]
    accepted_to_online: Mapping[str, float]

    def __str__(self) -> str:
        happened, accepted = self.event_to_online, self.accepted_to_online
        return (
            f"  {self.source}: {counted(self.events, 'live event')}; counted about "
            f"{_about(happened['p50'])} after they happened (p99 {_about(happened['p99'])}), "
            f"{_about(accepted['p50'])} after they were accepted (p99 {_about(accepted['p99'])})"
        )


def _about(seconds: float) -> str:
    """The end of a bucket, which is no more exact than a factor of two."""
    if seconds < 2:
        return f"{seconds:.2g} s"
    return rough_duration(round(seconds * 1_000_000))


@dataclass(frozen=True)
class StreamFreshness:
    """How the reading of a source's stream stands.

    `waiting` has the messages of each partition that were not taken yet when its reader told so,
    which was at `told` (None: nobody has read it).  While it is `paused`, nothing is taken.
    `lost` messages were gone before they were read, and passed over.
    """

    source: str
    paused: bool
    waiting: Mapping[str, int]
    told: datetime | None
    lost: int = 0

    def __str__(self) -> str:
        if self.told is None:
            told = "nobody has read it"
        else:
            told = f"{counted(sum(self.waiting.values()), 'message')} waiting"
        lost = f", {self.lost:,} lost" if self.lost else ""
        return f"  stream of {self.source}: {told}{lost}{', paused' if self.paused else ''}"


@dataclass(frozen=True)
class Freshness:
    """All views of a project, the worst first, the sources that take live events, the streams."""

    at: datetime
    views: tuple[ViewFreshness, ...]
    sources: tuple[SourceFreshness, ...]
    streams: tuple[StreamFreshness, ...] = ()

    @property
    def broken(self) -> tuple[ViewFreshness, ...]:
        """The views whose promise is broken."""
        return tuple(each for each in self.views if each.verdict == "broken")

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values, but for moments; durations are seconds."""
        facts: dict[str, Any] = asdict(self)
        for view in facts["views"]:
            for name in ("promise", "age"):
                duration: timedelta | None = view.pop(name)
                view[f"{name}_seconds"] = None if duration is None else duration.total_seconds()
        return facts

    def __repr__(self) -> str:
        width = max((len(each.view) for each in self.views), default=0)
        lines = [f"Freshness at {moment_text(self.at)}"]
        for each in self.views:
            age = (
                "never materialized"
                if each.age is None
                else f"{rough_duration(_micros(each.age))} old"
            )
            promise = (
                f"promised {format_duration(_micros(each.promise))}"
                if each.promise
                else "nothing promised"
            )
            verdict = "-" if each.verdict == "unknown" else each.verdict
            line = f"  {each.view:<{width}}  {verdict:<8} {age}, {promise}"
            if each.waiting:
                line += f", {counted(each.waiting, 'event')} waiting"
            lines.append(line)
        lines += map(str, (*self.sources, *self.streams))
        return "\n".join(lines)


def _micros(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def freshness(
    online: OnlineStore,
    definitions: Definitions,
    log: EventLog,
    *,
    project: str,
    now: int,
    next_runs: Mapping[str, int],
) -> Freshness:
    """How fresh each view is `now` (microseconds).

    `next_runs` are the moments at which jobs will materialize views, by name.
    """
    names = sorted({view.name for view in definitions.views})
    records = online.get_many([record_key(project, name) for name in names])
    readings = _readings(online, definitions, project)
    views: list[ViewFreshness] = []
    for name, stored in zip(names, records, strict=True):
        states = read_record(stored).states
        for view in definitions.variants(name)[:1]:
            state = states[0] if states else None
            read = readings[view.source].read if view.source in readings else None
            views.append(_view(view, state, read, log, now, next_runs.get(name)))
    worst = {"broken": 0, "at risk": 1, "kept": 2, "unknown": 3}
    views.sort(key=lambda each: (worst[each.verdict], each.view))
    streams = tuple(_stream(name, each, log) for name, each in readings.items())
    return Freshness(instant(now), tuple(views), _sources(online, definitions, project), streams)


def _readings(online: OnlineStore, definitions: Definitions, project: str) -> dict[str, Reading]:
    names = [each.name for each in definitions.sources if each.stream is not None]
    stored = online.get_many([reading_key(project, name) for name in names])
    return {name: read_reading(text) for name, text in zip(names, stored, strict=True)}


def _stream(source: str, reading: Reading, log: EventLog) -> StreamFreshness:
    told = [each.told for each in reading.partitions.values()]
    return StreamFreshness(
        source,
        log.paused(source),
        {name: each.waiting for name, each in reading.partitions.items()},
        instant(min(told)) if told else None,
        reading.lost,
    )


def _view(
    view: FeatureView,
    state: State | None,
    read: int | None,
    log: EventLog,
    now: int,
    next_run: int | None,
) -> ViewFreshness:
    promise = timedelta(microseconds=view.freshness) if view.freshness else None
    waiting = 0
    until: int | None = None
    if state is not None:
        waiting = max(0, log.last(view.source) - state.position)
        until = state.until
        if read is not None and not waiting:
            until = max(until, read)
    age = None if until is None else timedelta(microseconds=max(0, now - until))
    breaks = None if until is None or promise is None else until + view.freshness
    verdict: Verdict = "unknown"
    if promise is not None:
        verdict = "kept"
        if breaks is None or now > breaks:
            verdict = "broken"
        elif next_run is not None and next_run > breaks:
            verdict = "at risk"
    return ViewFreshness(
        view.name,
        view.source,
        promise,
        age,
        waiting,
        None if until is None else instant(until),
        None if breaks is None else instant(breaks),
        None if next_run is None else instant(next_run),
        verdict,
    )


def _sources(
    online: OnlineStore, definitions: Definitions, project: str
) -> tuple[SourceFreshness, ...]:
    names = [each.name for each in definitions.sources if each.time is not None]
    stored = online.get_many([delays_key(project, name) for name in names])
    found: list[SourceFreshness] = []
    for name, text in zip(names, stored, strict=True):
        delays = read_delays(text)
        if delays.count:
            found.append(
                SourceFreshness(
                    name, delays.count, _quantiles(delays.event), _quantiles(delays.seen)
                )
            )
    return tuple(found)


def _quantiles(counts: Sequence[int]) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {name: quantile(counts, share) or 0.0 for name, share in shares.items()}
