"""What must hold after a run, whatever was killed when."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from tests.property.pushing import rows_of
from tests.torture.world import SCHEMA, VIEWS, Name, content, history, patiently

import tidemark as tm
from tidemark.engines.log import SEEN, EventLog
from tidemark.errors import StaleSource

MOMENTS = 3
"""At how many moments vectors are compared."""


class Problem(AssertionError):
    """What does not hold."""


def check(
    folder: Path, base: datetime, pushed: set[Name], streamed: set[Name], *, may_be_buried: bool
) -> int:
    """All that must hold after everything has caught up; gives the number of events."""
    with tm.connect(folder) as store:
        store.events.catch_up()
        with EventLog(store.config.root / store.config.log) as log:
            source = store.readers.snapshot().definitions.source("order")
            logged = log.read(source, 0, 10**9)
        _log_holds(logged, base, pushed, streamed, _buried(store, base, may_be_buried))
        rows = logged.to_pylist()
        moments = _moments(rows, base)
        _counted(store, rows, base, moments[0])
        _online_is_offline(store, moments)
        _rows_are_those_of_a_materialization(store)
        return len(rows)


def refuses(folder: Path) -> bool:
    """Whether reading says that there is no state, and where it comes from."""
    with tm.connect(folder) as store:
        try:
            store.online("of_user:orders", {"user_id": "ada"})
        except StaleSource:
            return True
        return False


def _buried(store: tm.Store, base: datetime, may_be: bool) -> set[Name]:
    """The events among the dead letters: a clock that is wrong takes them for future ones."""
    found: set[Name] = set()
    after = 0
    while letters := store.events.dead_letters("order", after=after):
        after = letters[-1].number
        for letter in letters:
            try:
                row = json.loads(letter.row)
            except ValueError:
                continue
            said = " ".join(letter.reasons)
            if not may_be or "ahead of the clock" not in said:
                raise Problem(f"{letter.row} was buried: {said}")
            found.add((row["order"], row["version"]))
    return found


def _log_holds(
    logged: pa.Table, base: datetime, pushed: set[Name], streamed: set[Name], buried: set[Name]
) -> None:
    """Every acknowledged event, none twice, each as it was sent."""
    names = list(
        zip(logged.column("order").to_pylist(), logged.column("version").to_pylist(), strict=True)
    )
    counts = Counter(names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise Problem(f"{len(twice)} events are in the log twice: {twice[:5]}")
    given = set(counts)
    if lost := pushed - given:
        raise Problem(f"{len(lost)} events that were acknowledged are lost: {sorted(lost)[:5]}")
    if lost := streamed - given - buried:
        raise Problem(f"{len(lost)} events of the stream are lost: {sorted(lost)[:5]}")
    seen = logged.column(SEEN).to_pylist()
    if seen != sorted(seen):
        raise Problem("Events are not seen in the order in which they were taken.")
    for row in logged.select(SCHEMA.names).to_pylist():
        if row != (sent := content((row["order"], row["version"]), base)):
            raise Problem(f"{row} was sent as {sent}")


def _moments(rows: list[dict[str, Any]], base: datetime) -> list[datetime]:
    """The end, when all is seen and has happened, and some moments of the run."""
    end = max([base, *(row["at"] for row in rows), *(_seen(row) for row in rows)])
    chance = Random(len(rows))
    moments = [end + timedelta(minutes=5)]
    for _ in range(MOMENTS - 1):
        moment = _seen(chance.choice(rows)) if rows else base
        moments.append(moment + timedelta(microseconds=chance.choice([-1, 0, 1])))
    return moments


def _seen(row: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(0, tz=row["at"].tzinfo) + timedelta(microseconds=row[SEEN])


def _counted(store: tm.Store, rows: list[dict[str, Any]], base: datetime, end: datetime) -> None:
    """The newest version of every event is counted, and added up, once."""
    newest = {order: content((order, version), base) for order, version in history()}
    newest |= {row["order"]: row for row in rows}
    for view, key, values in VIEWS:
        amounts: dict[object, list[float]] = defaultdict(list)
        for row in newest.values():
            amounts[row[key]].append(row["amount"])
        names = [f"{view}:orders", f"{view}:total"]
        vectors = store.online_many(names, {key: values}, at=end).to_dicts()
        for value, vector in zip(values, vectors, strict=True):
            wanted = {"orders": len(amounts[value]), "total": math.fsum(amounts[value]) or None}
            if not amounts[value]:
                wanted = {"orders": 0, "total": vector["total"]}
            given = {name: vector[name] for name in wanted}
            if given != wanted:
                raise Problem(f"{view} of {value} is {given}, and must be {wanted}")


def _online_is_offline(store: tm.Store, moments: list[datetime]) -> None:
    for view, key, values in VIEWS:
        features = store.readers.snapshot().definitions.view(view).features
        names = [f"{view}:{each.name}" for each in features]
        asked = [(value, moment) for moment in moments for value in values]
        times = pa.array([moment for _, moment in asked], pa.timestamp("us", "UTC"))
        labels = pa.table({key: [value for value, _ in asked], "t": times})
        offline = store.training_set(names, labels).to_arrow().drop_columns([key, "t"])
        online = pa.concat_tables(
            store.online_many(names, {key: values}, at=moment).to_arrow() for moment in moments
        )
        # As text, since NaN is to equal NaN; floats are told in full.
        wanted = offline.to_pylist()
        given = online.select(offline.column_names).to_pylist()
        for (value, moment), one, other in zip(asked, wanted, given, strict=True):
            if str(one) != str(other):
                raise Problem(f"{view} of {value} at {moment} is online {other}, and offline {one}")


def _rows_are_those_of_a_materialization(store: tm.Store) -> None:
    """Byte for byte, and no row more."""
    grown = rows_of(store)
    patiently(store.materialize)
    made = rows_of(store)
    if grown != made:
        more, less = grown.keys() - made.keys(), made.keys() - grown.keys()
        other = [key for key in grown.keys() & made.keys() if grown[key] != made[key]]
        raise Problem(
            f"Of {len(made)} rows of a fresh materialization, {len(less)} are not there, "
            f"{len(other)} differ, and {len(more)} are too many: "
            f"{[*sorted(less), *sorted(other), *sorted(more)][:3]}"
        )
