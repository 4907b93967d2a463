"""From history to online rows, in one step that readers see whole or not at all.

Rows of a new generation are written beside those that serve.  Then one transaction makes the
generation current, and the old rows go.  Whatever fails before that leaves the old state serving,
and is gone on with by the next materialization if that would read the same (`journal`).
Events that are pushed meanwhile count in the rows that serve, and are put into the new ones before
these become current: on condition that the record has not moved by then, so that none is lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from tidemark.engines.progress import Progress
from tidemark.engines.state import Partition, entities
from tidemark.ingest.following import Following
from tidemark.ingest.generations import Generations
from tidemark.ingest.journal import Asked, Journal, became_known, fingerprint
from tidemark.ingest.pace import Pace
from tidemark.ingest.tidying import Published, measured, note, tidy
from tidemark.kernel.layout import Layout
from tidemark.model.diff import feature_name
from tidemark.model.fingerprint import state_id
from tidemark.model.graph import Definitions, FeatureView
from tidemark.model.plural import counted
from tidemark.model.window import clock, instant, moment_text, parse_duration, parse_moment
from tidemark.online.rows.retention import Retention
from tidemark.online.states.keys import ANY_MOMENT, Held, State, held_key, journal_key, key_encoder
from tidemark.online.stores.protocol import OnlineStore
from tidemark.online.trees import tree

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.engines.log import EventLog

ROWS_AT_ONCE = 50_000
"""Rows in one transaction: large enough to share its cost, small enough to let others write."""

BYTES_AT_ONCE = 1 << 28
"""Bytes in one transaction; rows of chunks of events are larger than others."""

_NAMED = 3
"""Features that are named at most to tell one list of them from another."""


@dataclass(frozen=True)
class MaterializedView:
    """What was written for one view; `unattributed` events were left out, as a key is null.

    A view of which several versions serve has rows for each list of `features` (`view:feature@2`)
    that can be computed together.  `resumed` says that a materialization which was interrupted had
    begun it.
    """

    view: str
    features: tuple[str, ...]
    entities: int
    events: int
    unattributed: int
    seconds: float
    resumed: bool = False

    @property
    def rows_per_second(self) -> float:
        """Entity rows written in a second, those of an interrupted run among them."""
        return self.entities / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Materialized:
    """What `materialize` wrote, view by view; `until` is the moment up to which it knows.

    `gone` are the views whose rows it deleted, as the registry defines nothing of them any more.
    """

    until: datetime
    views: tuple[MaterializedView, ...]
    gone: tuple[str, ...] = ()

    @property
    def entities(self) -> int:
        """Rows written, over all views."""
        return sum(view.entities for view in self.views)

    @property
    def events(self) -> int:
        """Events held by these rows."""
        return sum(view.events for view in self.views)

    def __repr__(self) -> str:
        width = max((len(view.view) for view in self.views), default=0)
        lines = [f"Materialized until {moment_text(self.until)}"]
        for view in self.views:
            which = _which(view.features, (v.features for v in self.views if v.view == view.view))
            lines.append(
                f"  {view.view:<{width}}  {view.entities:>11,} entities  {view.events:>13,} events"
                f"  {view.seconds:>7.1f} s  {view.rows_per_second:>9,.0f} rows/s"
            )
            lines[-1] += f"  {which}" if which else ""
            if view.unattributed:
                lines[-1] += f"  {counted(view.unattributed, 'event')} without a key left out"
            if view.resumed:
                lines[-1] += "  gone on with"
        lines += [f"  {view}: rows deleted, as nothing defines it any more" for view in self.gone]
        return "\n".join(lines)


def materialize(
    engine: DuckDB,
    online: OnlineStore,
    definitions: Definitions,
    *,
    project: str,
    views: Sequence[str] | None = None,
    until: datetime | str | None = None,
    retain: str | timedelta | None = None,
    published: Published | None = None,
    log: EventLog | None = None,
    rate: float | None = None,
    restart: bool = False,
) -> Materialized:
    """Write the online rows of views (None: all) from history and log as known at `until`.

    `until` None is now, with every event that is pushed before this returns.  `retain` drops events
    that no window needs at moments of at least `until - retain`, and makes earlier moments an
    error; without it, every moment can be asked for.
    What an interrupted run has written is gone on with, if it would be written the same way again;
    with `restart` everything is written anew.  `rate` is how many rows are written in a second at
    most (None or 0: as many as can be).
    Rows of views that `published` no longer holds are deleted; None deletes nothing.  What takes
    longer than a second shows its progress on a terminal.  Raises `StoreUnavailable` if another
    process materializes the same project into the same store.
    """
    moment = clock() if until is None else parse_moment(until)
    kept = 0 if retain is None else parse_duration(retain)
    asked = Asked(None if until is None else moment, kept)
    pace = Pace(rate)
    chosen = definitions.views
    if views is not None:
        chosen = tuple(view for name in views for view in definitions.variants(name))
    gone: tuple[str, ...] = ()
    with online.lock(f"materialize {project}"), Progress() as progress:
        run = _Run(engine, online, definitions, project, log, moment, asked, pace, progress)
        if published is not None:
            gone = tidy(online, project, published)
            note(online, project, {view.name for view in chosen}, published)
        works = [_Work(run, view) for view in chosen]
        journals = [journal_key(project, work.view.name, work.state) for work in works]
        if restart:
            online.put_many([], deletes=journals)
        done = [work.done() for work in works]
        if any(work.journal.inputs for work in works):  # all are through: the next run is a new one
            online.put_many([], deletes=journals)
        if published is not None and not rate:
            measured(online, project, _seconds(done), published)
    return Materialized(instant(moment), tuple(done), gone)


def _seconds(done: Sequence[MaterializedView]) -> dict[str, float]:
    """How long each view took, all its variants together; one that was begun before, not."""
    taken: dict[str, float] = {}
    for each in done:
        taken[each.view] = taken.get(each.view, 0.0) + each.seconds
    return {
        view: taken[view] for view in taken.keys() - {each.view for each in done if each.resumed}
    }


@dataclass(frozen=True)
class _Run:
    """What the materializations of all views of one call share; `moment` is as of when."""

    engine: DuckDB
    online: OnlineStore
    definitions: Definitions
    project: str
    log: EventLog | None
    moment: int
    asked: Asked
    pace: Pace
    progress: Progress


class _Work:
    """The materialization of one view; `journal` is how far it is, `title` what people call it."""

    journal: Journal

    def __init__(self, run: _Run, view: FeatureView) -> None:
        self.run, self.view = run, view
        self.source = run.definitions.source(view.source)
        self.state = state_id(view, self.source)
        variants = run.definitions.variants(view.name)
        which = _which(_features(view), map(_features, variants))
        self.title = f"{view.name} {which}".rstrip()
        self.generations = Generations(run.online, run.definitions, run.project, view.name)

    def done(self) -> MaterializedView:
        """Write a generation, make it current, and delete what it replaces."""
        started = time.perf_counter()
        self.generations.forget_other_format()
        following = self._following()
        begun = self._begun()
        serving = self.generations.tidied().state(self.state)
        self.journal = begun or self._fresh(serving, following)
        if begun is None:
            self.generations.begin(self.journal.made)
        if following is not None:
            following.position = self.journal.position
        if not self.journal.complete:
            self._write(following)
        if serving is None or serving.generation != self.journal.made.generation:
            self._publish(following)
        elif self.run.asked.until is None:
            self.generations.known_by(self.state, self.run.moment)
        if following is not None:
            following.finish(self.run.engine)
        self.generations.tidied()
        seconds = time.perf_counter() - started
        rows, events = self.journal.made.rows, self.journal.made.events
        nobodys, resumed = self.journal.unattributed, begun is not None
        name, features = self.view.name, _features(self.view)
        return MaterializedView(name, features, rows, events, nobodys, seconds, resumed)

    def _following(self) -> Following | None:
        run = self.run
        if run.log is None:
            return None
        until = run.asked.until
        return Following.of(run.log, run.online, run.definitions, self.view, run.project, until)

    def _fresh(self, serving: State | None, following: Following | None) -> Journal:
        """The journal of rows that are begun now."""
        run = self.run
        position = following.position if following else 0
        until = max(run.moment, following.seen) if following else run.moment
        floor = run.moment - run.asked.retain if run.asked.retain else ANY_MOMENT
        generation = serving.generation + 1 if serving else 1
        made = State(self.state, generation, until, floor, 0, 0, position)
        return Journal(self._inputs(position) or "", position, made)

    def _inputs(self, position: int) -> str | None:
        return fingerprint(self.run.engine, self.source, self.state, position, self.run.asked)

    def _begun(self) -> Journal | None:
        """How far an interrupted run came, if what it wrote is what would be written now."""
        journal = self.generations.journals.read(self.state)
        if journal is None:
            return None
        made, run = journal.made, self.run
        same = self.generations.has(made) and journal.inputs == self._inputs(journal.position)
        if same and run.asked.until is None:
            same = not became_known(run.engine, self.source, made.until, run.moment)
        if same:
            return journal
        self.generations.journals.discard(self.state)
        return None

    def _write(self, following: Following | None) -> None:
        """Write all rows that are not written yet."""
        run, made = self.run, self.journal.made
        layout = Layout.of(self.view, self.source.types)
        retention = None if made.floor == ANY_MOMENT else Retention.of(self.view, made.floor)
        run.progress.begin(f"read for {self.title}")
        for partition in entities(
            run.engine,
            run.definitions,
            self.view,
            layout,
            until=made.until,
            position=self.journal.position if following else None,
            start=self.journal.group,
            progress=run.progress.rows,
        ):
            if following is not None and partition.identities is not None:
                following.met(partition.identities)
            self._write_group(layout, partition, retention)
            run.progress.begin(f"read for {self.title}")
        self._put([], msgspec.structs.replace(self.journal, complete=True))

    def _write_group(
        self, layout: Layout, partition: Partition, retention: Retention | None
    ) -> None:
        """Write the rows of some entities, from where an interrupted run came to."""
        journal, group = self.journal, partition.group
        begun = journal.items if journal.group == group else 0
        items: list[tuple[bytes, bytes]] = []
        made = journal.made
        if len(partition.keys):
            kept = partition if retention is None else retention.retained(partition)
            columns = [column.to_pylist() for column in partition.keys.columns]
            prefix = self.generations.prefix(made)
            names = [prefix + name for name in self._encode(columns)]
            items = tree.write(layout, names, kept)
            counts = np.diff(kept.timeline.starts)
            made = msgspec.structs.replace(
                made,
                rows=made.rows + len(names),
                events=made.events + int(counts.sum()),
                largest=max(made.largest, int(counts.max())),
            )
        nobodys = journal.unattributed + partition.unattributed
        after = msgspec.structs.replace(
            journal, made=made, group=group + 1, items=0, unattributed=nobodys
        )
        total = len(items) * partition.groups  # they are about alike
        self.run.progress.begin(f"write {self.title}", len(items) * group + begun, total=total)
        for start, stop in _batches(items, begun, self.run.pace.at_once(ROWS_AT_ONCE)):
            self.run.pace.wait(stop - start)
            within = msgspec.structs.replace(journal, group=group, items=stop)
            self._put(items[start:stop], after if stop == len(items) else within)
            self.run.progress.rows(stop - start)
        self.journal = after

    def _put(
        self,
        items: Sequence[tuple[bytes, bytes]],
        journal: Journal,
        *,
        deletes: Sequence[bytes] = (),
        after: Journal | None = None,
    ) -> None:
        """Write rows and, in the same transaction, how far they are; `after` says from where."""
        self.journal = journal
        if not journal.inputs:  # nobody could tell whether it is to be gone on with
            self.run.online.put_many(items, deletes=deletes)
            return
        journals = self.generations.journals
        expect = None if after is None else dict([journals.item(after)])
        self.run.online.put_many([*items, journals.item(journal)], deletes=deletes, expect=expect)

    def _publish(self, following: Following | None) -> None:
        """Make the rows current, with what has been pushed since they were begun."""
        run = self.run
        held = held_key(run.project, self.view.name, self.state)
        run.online.put_many([(held, msgspec.msgpack.encode(Held(self.view, self.source)))])

        def made() -> State:
            if following is not None:
                self._catch_up(following)
            made = self.journal.made
            known_by = made.until if run.asked.until is not None else run.moment
            return msgspec.structs.replace(made, until=max(made.until, known_by))

        self.generations.publish(made)

    def _catch_up(self, following: Following) -> None:
        """Put into the rows what the log has by now; none of it twice, whatever dies meanwhile."""
        made = self.journal.made
        for state, changes in following.ahead(self.run.engine, self.generations.prefix(made), made):
            if self.run.online.spread and self.journal.inputs:
                # There, rows and journal are not one step: what is half done is begun anew.
                self.generations.journals.discard(self.state)
                self.journal = msgspec.structs.replace(self.journal, inputs="")
            now = msgspec.structs.replace(self.journal, made=state)
            self._put(changes.puts, now, deletes=changes.deletes, after=self.journal)

    def _encode(self, columns: Sequence[Sequence[object]]) -> list[bytes]:
        return key_encoder(self.run.definitions.entity(self.view.entity))(columns)


def _features(view: FeatureView) -> tuple[str, ...]:
    return tuple(feature_name(view, feature) for feature in view.features)


def _which(features: Sequence[str], every: Iterable[Sequence[str]]) -> str:
    """What tells rows of these features from others of their view: `with spend_7d@2 and 4 more`.

    The features of which the others have another version are named first.  Nothing, if there are
    no others.
    """
    others = {name.partition("@")[0] for each in every if each != features for name in each}
    if not others:
        return ""
    ordered = sorted(features, key=lambda name: name.partition("@")[0] not in others)
    shown = ", ".join(name.rpartition(":")[2] for name in ordered[:_NAMED])
    more = f" and {len(ordered) - _NAMED:,} more" if len(ordered) > _NAMED else ""
    return f"with {shown}{more}"


def _batches(
    items: Sequence[tuple[bytes, bytes]], begun: int, most: int
) -> Iterator[tuple[int, int]]:
    """Where transactions begin and end: large enough to share their cost, and no larger."""
    start = begun
    while start < len(items):
        stop = min(start + most, len(items))
        while stop - start > 1 and sum(len(row) for _, row in items[start:stop]) > BYTES_AT_ONCE:
            stop = (start + stop) // 2
        yield start, stop
        start = stop
