"""What a large registry costs: opening it, planning one change, searching it, drawing lineage.

5,000 features in 500 views over 50 sources, 200 services and 100 models.

python -m benchmarks.registry
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import harness
from msgspec.structs import replace

from tidemark import define
from tidemark.define.modules import load_module
from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Column, Literal
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Field,
    Output,
    Parquet,
    Reference,
    Source,
)
from tidemark.model.lineage import LineageIndex
from tidemark.model.search import Index
from tidemark.model.twins import twins
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP
from tidemark.model.window import DAY, Window, format_duration
from tidemark.registry import Registry
from tidemark.registry.consumers import registered

ENTITIES = ("user", "merchant", "device", "driver", "account")
EVENTS = (
    "purchase", "refund", "login", "visit", "click", "transfer", "ride", "delivery", "review",
    "ticket",
)  # fmt: skip
PLACES = ("web", "app", "store", "partner", "kiosk")
TEAMS = ("growth", "risk", "search", "pricing", "support", "logistics", "ads", "fraud")
AMOUNTS = ("amount", "fee", "tax", "duration", "distance")
MODELS = 100
DAYS = (1, 7, 14, 30, 90)
QUESTION = "purchases 30 days user"


def registry(views: int = 500, services: int = 200) -> Definitions:
    """Ten features a view; the same definitions at every call."""
    sources = [_source(event, place) for event in EVENTS for place in PLACES]
    entities = [
        Entity(name=name, keys=(Field(f"{name}_id", STRING),), description=f"A {name}.")
        for name in ENTITIES
    ]
    made = [
        _view(number, sources[number % len(sources)], ENTITIES[number // len(sources) % 5])
        for number in range(views)
    ]
    read = [
        FeatureService(
            name=f"model_inputs_{number}",
            owner=f"{TEAMS[number % len(TEAMS)]}@acme.com",
            description=f"What model {number} reads.",
            outputs=tuple(
                Output(f"{view.name}_{feature.name}", Reference("feature", feature.name, view.name))
                for view in (made[(number * 7 + step * 31) % views] for step in range(5))
                for feature in view.features[:4]
            ),
        )
        for number in range(services)
    ]
    return Definitions.of([*entities, *sources, *made, *read])


def _source(event: str, place: str) -> Source:
    return Source(
        name=f"{place}_{event}",
        description=f"Each {event} in the {place}.",
        owner=f"{place}-data@acme.com",
        columns=(
            Field(f"{event}_id", STRING),
            *(Field(f"{name}_id", STRING) for name in ENTITIES),
            *(Field(name, FLOAT64) for name in AMOUNTS),
            Field("status", STRING),
            Field("happened_at", TIMESTAMP),
        ),
        time="happened_at",
        unique=(f"{event}_id",),
        history=Parquet(f"data/{place}/{event}/*.parquet"),
    )


def _view(number: int, source: Source, entity: str) -> FeatureView:
    place, _, event = source.name.partition("_")
    where = Call("eq", (Column("status"), Literal(("settled", "open")[number % 2], STRING)))
    features: list[Feature] = []
    for place_of in range(10):
        days = DAYS[place_of // 2]
        # Another offset for every 250 views, or there would be twins.
        window = Window("sliding", days * DAY, offset=number // 250 * DAY)
        if place_of % 2:
            column = AMOUNTS[(number + number // 50) % len(AMOUNTS)]
            aggregate = Aggregate("sum", Column(column), where, window)
            name, type_ = f"{entity}_{event}_{column}_sum", FLOAT64
        else:
            aggregate, type_ = Aggregate("count", None, where, window), INT64
            name = f"{entity}_{event}_count"
        features.append(
            Feature(
                name=f"{name}_{format_duration(days * DAY)}",
                attribute=name,
                aggregate=aggregate,
                type=type_,
                tags=(event,),
            )
        )
    return FeatureView(
        name=f"{entity}_{source.name}_{number}",
        description=f"What a {entity} does: {event} in the {place}.",
        owner=f"{TEAMS[number % len(TEAMS)]}@acme.com",
        entity=entity,
        source=source.name,
        keys=(f"{entity}_id",),
        features=tuple(features),
    )


def with_one_change(definitions: Definitions) -> Definitions:
    """The definitions with another window on one feature."""
    view = definitions.views[len(definitions.views) // 2]
    feature = view.features[3]
    window = replace(feature.aggregate.window, length=45 * DAY)
    changed = replace(feature, aggregate=replace(feature.aggregate, window=window), version=2)
    features = tuple(changed if each == feature else each for each in view.features)
    views = tuple(
        replace(each, features=features) if each == view else each for each in definitions.views
    )
    return replace(definitions, views=views)


def with_a_late_source(definitions: Definitions) -> Definitions:
    """The definitions with another delay on one source: whoever reads it has to confirm."""
    source = definitions.sources[0]
    late = replace(source, delay=DAY)
    sources = tuple(late if each == source else each for each in definitions.sources)
    return replace(definitions, sources=sources)


def as_python(definitions: Definitions) -> str:
    """The same views and sources as classes, as a user would write them."""
    lines = ["from datetime import datetime", "import tidemark as tm", ""]
    for entity in definitions.entities:
        lines += [f"class {_class(entity.name)}(tm.Entity):", f"    {entity.name}_id: tm.Key[str]"]
    python = {"string": "str", "float64": "float", "timestamp": "datetime"}
    for source in definitions.sources:
        unique, history = source.unique[0], source.history
        path = history.path if isinstance(history, Parquet) else ""
        lines += [
            f"class {_class(source.name)}(tm.Source, history=tm.parquet({path!r}),",
            f"    time={source.time!r}, unique=({unique!r},)):",
            *(f"    {each.name}: tm.Col[{python[each.type.name]}]" for each in source.columns),
        ]
    for view in definitions.views:
        source = _class(view.source)
        lines += [
            f"class {_class(view.name)}(tm.FeatureView, entity={_class(view.entity)},",
            f"    source={source}, owner={view.owner!r}):",
            f'    good = {source}.status == "settled"',
        ]
        for feature in view.features:
            aggregate, days = feature.aggregate, feature.aggregate.window.length // DAY
            value = (
                f"{source}.{aggregate.value.name}, " if isinstance(aggregate.value, Column) else ""
            )
            offset = aggregate.window.offset // DAY
            over = f'over="{days}d"' + (f', offset="{offset}d"' if offset else "")
            lines.append(f"    {feature.name} = tm.{aggregate.function}({value}where=good, {over})")
    return "\n".join(lines) + "\n"


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def measured(job: Callable[[], Any], rounds: int) -> tuple[Any, float, float]:
    """The last result, and the medians of wall and CPU milliseconds."""
    walls: list[float] = []
    cpus: list[float] = []
    result: Any = None
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        result = job()
        cpus.append((time.process_time() - cpu) * 1e3)
        walls.append((time.perf_counter() - wall) * 1e3)
    return result, median(walls), median(cpus)


def main() -> None:
    options = harness.arguments(__doc__ or "").parse_args()
    rounds = max(3, options.rounds)
    definitions = registry()
    changed = with_one_change(definitions)
    late = with_a_late_source(definitions)
    read = str(
        Reference("feature", definitions.views[0].features[0].name, definitions.views[0].name)
    )
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/registry.db"
        made = Registry(url)
        made.apply(made.plan(definitions))
        for number in range(MODELS):
            made.register_model(f"model_{number}", 1, service=f"model_inputs_{number * 2}")
        models = registered(made.snapshot().records)
        (Path(folder) / "features.py").write_text(as_python(definitions))

        def opened() -> Registry:
            fresh = Registry(url)
            fresh.snapshot()
            return fresh

        def loaded() -> Any:
            sys.modules.pop("features", None)
            return define.lower(load_module("features.py", Path(folder)))

        jobs: dict[str, Callable[[], Any]] = {
            "open the registry": opened,
            "load 5,000 features from a file": loaded,
            "plan, one feature changed": lambda: opened().plan(changed),
            "plan, one source changed": lambda: opened().plan(late),
            "plan, everything new": lambda: Registry("sqlite://").plan(definitions),
            "search, first of a revision": lambda: Index(definitions, models).search(QUESTION),
            "search": lambda: made.search(QUESTION),
            "search with slips": lambda: made.search("purhcases usres 30d"),
            "lineage, first of a revision": lambda: LineageIndex(definitions, models).of(read),
            "lineage": lambda: made.lineage(read),
            "lineage of an entity, drawn": lambda: made.lineage("user").render("mermaid"),
            "duplicates": lambda: twins(definitions),
        }
        print(f"{'':34}{'wall ms':>9}{'CPU ms':>9}")
        for name, job in jobs.items():
            _, wall, cpu = measured(job, rounds)
            print(f"{name:34}{wall:9.1f}{cpu:9.1f}", flush=True)
        asked = len(opened().plan(late).models)
        print(f"{asked} of {len(models)} models read the source that changed")
        print(f"{len(made.lineage('user').nodes)} nodes drawn; {QUESTION!r} finds")
        for hit in made.search(QUESTION, limit=3):
            print(f"  {hit.reference}")


if __name__ == "__main__":
    main()
