"""What a large registry costs: opening it, planning one change, searching it, drawing lineage.

5,000 features in 500 views over 50 sources, 200 services and 100 models.

python -m benchmarks.registry
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from msgspec.structs import replace

from benchmarks import harness
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
from tidemark.model.types import FLOAT64, INT64, STRING, TIMESTAMP
from tidemark.model.window import DAY, Window, format_duration

ENTITIES = ("user", "merchant", "device", "driver", "account")
EVENTS = (
    "purchase", "refund", "login", "visit", "click", "transfer", "ride", "delivery", "review",
    "ticket",
)  # fmt: skip
PLACES = ("web", "app", "store", "partner", "kiosk")
TEAMS = ("growth", "risk", "search", "pricing", "support", "logistics", "ads", "fraud")
AMOUNTS = ("amount", "fee", "tax", "duration", "distance")
DAYS = (1, 7, 14, 30, 90)


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
