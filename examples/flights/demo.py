"""Predict the delays of the 2013 New York flights, end to end on one machine.

`make demo` runs it from the root of the repository.  Everything that it prints is measured as it
goes; it exits with 1 if a single served value differs from the training set.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
from examples.flights.data import NEW_YORK, build
from examples.printing import console, facts, heading, note, percentiles, timed, verdict
from pyarrow import parquet

import tidemark as tm
from tidemark.kernel import warm
from tidemark.model.graph import Definitions

if TYPE_CHECKING:
    from tidemark.engines.result import TrainingSet

PROJECT = Path(__file__).parent
PAIRS, BATCHES, BATCH = 5_000, 25, 100
"""How many vectors are read and compared, and how many batches of how many are timed."""


def main() -> int:
    """Run the demo on all flights; 1 if training and serving disagree."""
    began = time.perf_counter()
    console.print("[bold]Tidemark[/]  Which flights will arrive late, two hours before they leave?")
    paths = prepare(PROJECT)
    with tm.connect(PROJECT) as store:
        define(store)
        training = train(store, parquet.read_table(paths["labels"]))
        weigh(training, parquet.read_table(paths["arrivals"]))
        materialize(store)
        agree = serve(store, training)
    agree &= live(PROJECT, PROJECT / ".tidemark" / "live")
    close(time.perf_counter() - began)
    return 0 if agree else 1


def prepare(project: Path) -> dict[str, Path]:
    """Write the sources from scratch, and compile the kernel if this machine has not yet."""
    heading("1", "Data", "what was known about the flights of 2013, and when")
    for leftover in (project / ".tidemark", project / "history"):
        shutil.rmtree(leftover, ignore_errors=True)
    paths, seconds = timed(lambda: build(project / "history"))
    rows = {name: parquet.read_metadata(path).num_rows for name, path in paths.items()}
    facts(
        (
            f"{sum(rows.values()):,} rows",
            f"in {len(rows)} Parquet files, written in {seconds:.1f} s",
        ),
        ("labels", f"{rows['labels']:,} completed flights, each asked about 2 hours ahead"),
        ("kernel", f"ready in {timed(warm)[1]:.1f} s; compiled once on each machine"),
    )
    return paths


def define(store: tm.Store) -> None:
    """Plan and apply the definitions in features.py."""
    heading("2", "Definitions", "features.py, as the registry takes it")
    plan = store.plan()
    applied = store.apply(plan, reason="The demo")
    found = plan.definitions
    features = sum(len(view.features) for view in found.views)
    facts(
        ("sources", names(found.sources)),
        ("entities", names(found.entities)),
        ("features", f"{features} in {len(found.views)} views, {len(found.on_demand)} on demand"),
        ("service", f"{found.services[0].name}: {len(found.services[0].outputs)} of them"),
        ("plan", f"{len(plan.changes)} to add; revision {applied.revision} is in force"),
    )


def train(store: tm.Store, labels: pa.Table) -> TrainingSet:
    """Join the labels with the features as they stood."""
    heading("3", "Training set", "every value as it stood at the moment of its own row")
    training, seconds = timed(lambda: store.training_set("flight_delay", labels, time="predict_at"))
    report = training.report
    view, coincident = max(report.coincident.items(), key=itemgetter(1))
    nulls = sum(report.nulls.values()) / (len(training) * len(training.features))
    facts(
        (f"{len(training):,} rows", f"x {len(training.features)} features in {seconds:.1f} s"),
        ("nulls", f"{nulls:.1%} of all values; a new route or aircraft has no past"),
        ("coincident", f"{coincident:,} labels in the very minute of an event of {view}"),
    )
    definitions = store.registry.snapshot().definitions
    show(example(training), definitions)
    return training


def weigh(training: TrainingSet, arrivals: pa.Table) -> None:
    """Compare a model trained on these features with one trained on the naive join."""
    from examples.flights.judgement import judge

    heading("4", "Model", "trained on January to August, scored on September to December")
    scores, seconds = timed(lambda: judge(training.to_arrow(), training.features, arrivals))
    facts(
        ("naive join", f"AUC [bold]{scores.promised:.3f}[/]  as its author measures it"),
        (
            "",
            f"AUC [bold]{scores.delivered:.3f}[/]  the same model on what existed when it is asked",
        ),
        (
            "Tidemark",
            f"AUC [bold]{scores.honest:.3f}[/]  on features as they stood, as they will be served",
        ),
        ("took", f"{seconds:.1f} s"),
    )
    note(
        "Joining daily figures by the date of the flight looks better because they saw the future: "
        "they hold flights that had not landed yet, and the flight itself. In production those are "
        "missing, and that model falls below the honest one."
    )


def materialize(store: tm.Store) -> None:
    """Write the online state from history."""
    heading("5", "Online state", "from history to rows; windows are evaluated when they are read")
    written, seconds = timed(store.materialize)
    facts(
        (f"{written.entities:,} rows", f"one for each entity of {len(written.views)} views"),
        ("events", f"{written.events:,} in these rows"),
        ("took", f"{seconds:.1f} s: {written.entities / seconds:,.0f} rows a second"),
    )


def serve(
    store: tm.Store, training: TrainingSet, pairs: int = PAIRS, batches: int = BATCHES
) -> bool:
    """Read vectors as they stood at training moments; whether every value is the training row's."""
    from examples.flights.serving import ask_many, compare, sample

    heading("6", "Serving", f"{len(training.features)} features of one flight in one call")
    found = compare(store, training.to_arrow(), training.features, pairs)
    batch = sample(training.to_arrow(), BATCH).to_pylist()
    many = ask_many(store, batch, max(row["predict_at"] for row in batch), batches)
    facts(
        ("one vector", f"{percentiles(found.seconds)}, over {found.rows:,} reads"),
        (f"{len(batch)} vectors", f"{percentiles(many)}, over {len(many)} reads"),
    )
    heading("7", "Parity", "served online against trained on, by ==")
    bad = len(found.differences)
    facts(
        ("compared", f"{found.values:,} values at {found.rows:,} real (flight, moment) pairs"),
        ("differ", verdict(bad)),
    )
    for each in found.differences[:5]:
        flight = " ".join(str(each.row[key]) for key in ("carrier", "flight", "origin", "dest"))
        note(
            f"{flight} at {each.row['predict_at']}: {each.feature} "
            f"trained {each.trained!r}, served {each.served!r}"
        )
    return not bad


def live(like: Path, project: Path, span: timedelta = timedelta(days=7)) -> bool:
    """Push a week while somebody asks; whether the audit finds everything that was served equal."""
    from examples.flights.live import landed, make, stream

    heading("8", "Live", "a week of July moved to now, pushed as it happened, asked meanwhile")
    began = datetime.now(UTC)
    week = make(project, like, began, span)
    with tm.connect(project) as store:
        store.apply(store.plan(), reason="The demo, live")
        store.materialize()
        done = stream(project, week)
        counted, there = landed(store, project, week)
        facts(
            (f"{done.events:,} events", f"of 3 sources in {done.seconds:.1f} s, through HTTP"),
            ("one batch", f"{percentiles(done.pushing)}, over {len(done.pushing):,} pushes"),
            (
                "one vector",
                f"{percentiles(done.reading)}, over {len(done.reading):,} reads meanwhile",
            ),
            ("repeated", f"{done.again:,} events were delivered twice and count once"),
            ("landings", f"{there:,} in 30 days, {counted:,} counted online"),
        )
        heading("9", "Audit", "what was served, computed again as training does, by ==")
        audit = store.audit(since=began)
    facts(
        ("compared", f"{audit.compared:,} values of {audit.requests:,} requests"),
        ("differ", verdict(audit.differing)),
        ("took", f"{audit.seconds:.1f} s: {audit.compared / audit.seconds:,.0f} values a second"),
    )
    for each in audit.first[:5]:
        note(str(each))
    return audit.compared > 0 and not audit.differing and counted == there


def close(seconds: float) -> None:
    """Say how long it took and where to look next."""
    console.print(f"\nAll of it took {seconds:.0f} s. Next: examples/flights/features.py, then")
    console.print("  cd examples/flights && ../../.venv/bin/tidemark describe flight_delay")
    console.print("  docs/index.md, ten minutes to your own first feature")


# --- printing -------------------------------------------------------------------------------------


def example(training: TrainingSet) -> dict[str, Any]:
    """A row from the middle of the year in which nothing is null, if there is one."""
    rows = training.to_arrow().slice(len(training) // 2, 1_000).to_pylist()
    full = (row for row in rows if all(row[name] is not None for name in training.features))
    return next(full, rows[0])


def show(row: dict[str, Any], definitions: Definitions) -> None:
    """Print one row, its features grouped by the entity that they describe."""
    moment = row["predict_at"].astimezone(ZoneInfo(NEW_YORK))
    note(
        f"One row: {row['carrier']} {row['flight']} from {row['origin']} to {row['dest']}, asked "
        f"about on {moment:%-d %B at %-H:%M} in New York; {'late' if row['late'] else 'on time'}"
    )
    groups: dict[str, list[str]] = {}
    for output in definitions.services[0].outputs:
        name, reference = output.name, output.reference
        owned = reference.kind == "feature"
        group = definitions.view(reference.owner).entity if owned else "flight"
        shown = f"{name.removeprefix(group + '_')} {brief(row[name])}"
        groups.setdefault(group, []).append(shown)
    facts(*((group, ", ".join(values)) for group, values in groups.items()))


def brief(value: Any) -> str:
    """A value in few digits."""
    return "null" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def names(items: Iterable[Any]) -> str:
    """How many, and which."""
    listed = [item.name for item in items]
    return f"{len(listed)}: {', '.join(listed)}"


if __name__ == "__main__":
    sys.exit(main())
