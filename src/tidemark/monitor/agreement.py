"""Twins by value: features that give the same values, whatever their definitions say.

Features of one entity are computed for a sample of its entities at a few moments and compared pair
by pair.  The sample is the same at every call: the entities whose keys have the smallest digests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.compile import identifier
from tidemark.engines.arrow import arrow_type
from tidemark.engines.histories import Relation
from tidemark.engines.sources import open_source
from tidemark.engines.training import training_set
from tidemark.model.diff import feature_name
from tidemark.model.graph import (
    Definitions,
    Entity,
    Feature,
    FeatureView,
    Frame,
    Output,
    Reference,
    Source,
)
from tidemark.monitor.sample import sampled

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB

LEAST_ROWS = 10
"""A pair that says something on fewer rows of the sample is not told."""

_NULL, _NOTHING = -1, 0


class ValueTwin(msgspec.Struct, frozen=True):
    """Two features and the share of the sample's rows on which their values are equal.

    `rows` counts those on which at least one of them says something: is neither null nor zero.
    """

    first: str
    second: str
    agreement: float
    rows: int
    owners: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        names = (
            f"{name} ({owner})" if owner else name
            for name, owner in zip((self.first, self.second), self.owners, strict=True)
        )
        share = math.floor(self.agreement * 1_000) / 10
        return f"{' equals '.join(names)} on {share}% of {self.rows} rows"


def value_twins(
    engine: DuckDB,
    definitions: Definitions,
    *,
    entities: int = 200,
    least: float = 0.95,
) -> tuple[ValueTwin, ...]:
    """Pairs of features of different views that agree on at least `least` of the rows compared.

    Each entity is sampled with up to `entities` keys at three moments of its history.  Features
    whose history cannot be read from here (none, or a frame of another process) are left out, and
    so are those with the same value on every row.
    """
    found: list[ValueTwin] = []
    for entity in definitions.entities:
        views = [view for view in definitions.views if view.entity == entity.name]
        readable = [view for view in views if _readable(engine, definitions.source(view.source))]
        if len(readable) > 1:
            found += _of_entity(engine, definitions, entity, readable, entities, least)
    return tuple(sorted(found, key=lambda twin: (-twin.agreement, twin.first, twin.second)))


def _readable(engine: DuckDB, source: Source) -> bool:
    if isinstance(source.history, Frame):
        return source.history.name in engine.frames
    return source.history is not None


def _of_entity(
    engine: DuckDB,
    definitions: Definitions,
    entity: Entity,
    views: Sequence[FeatureView],
    entities: int,
    least: float,
) -> Iterator[ValueTwin]:
    labels, time = _labels(engine, definitions, entity, views, entities)
    if labels.num_rows == 0:
        return
    features = [(view, feature) for view in views for feature in view.features]
    outputs = [
        Output(f"value {number}", Reference("feature", feature.name, view.name, feature.version))
        for number, (view, feature) in enumerate(features)
    ]
    table = training_set(engine, definitions, {}, outputs, labels, time=time).to_arrow()
    numbers: dict[Any, int] = {}
    codes = np.array(
        [_codes(table[output.name].to_pylist(), numbers) for output in outputs], np.int32
    )
    varied = [place for place in range(len(features)) if len(np.unique(codes[place])) > 1]
    yield from _agreeing([features[place] for place in varied], codes[varied], least)


def _labels(
    engine: DuckDB,
    definitions: Definitions,
    entity: Entity,
    views: Sequence[FeatureView],
    entities: int,
) -> tuple[pa.Table, str]:
    """The sample: keys of the entity, each at every moment, and the name of the time column."""
    keys: dict[tuple[Any, ...], str] = {}
    moments: set[int] = set()
    for source, names in {(view.source, view.keys) for view in views}:
        with closing(open_source(engine, definitions.source(source))) as relation:
            keys |= sampled(relation, names, entities)
            moments |= _moments(relation)
    chosen = sorted(keys, key=lambda key: (keys[key], str(key)))[:entities]
    whens = _spread(sorted(moments))
    time = "at" if all(field.name != "at" for field in entity.keys) else "moment"
    arrays = [
        pa.array([key[place] for key in chosen for _ in whens], arrow_type(field.type))
        for place, field in enumerate(entity.keys)
    ]
    times = pa.array([when for _ in chosen for when in whens], pa.timestamp("us", "UTC"))
    columns = dict(zip((field.name for field in entity.keys), arrays, strict=True))
    return pa.table({**columns, time: times}), time


def _moments(relation: Relation) -> set[int]:
    """Moments of the later half of a history (microseconds); facts without a time have none."""
    time = relation.source.time
    if time is None:
        return set()
    when = f"epoch_us({identifier(time)})"
    spread = f"SELECT quantile_disc({when}, [0.5, 0.75, 1.0]) FROM {relation.rows}"
    return set(relation.engine.rows(spread, relation.tables)[0][0] or ())


def _spread(moments: Sequence[int]) -> list[int]:
    """The first, the middle and the last; timeless facts hold at any moment."""
    if not moments:
        return [0]
    return sorted({moments[0], moments[len(moments) // 2], moments[-1]})


def _codes(values: Sequence[Any], numbers: dict[Any, int]) -> list[int]:
    """Values as numbers that are equal where the values are, whatever their types."""
    found: list[int] = []
    for value in values:
        if value is None:
            found.append(_NULL)
        elif not value:
            found.append(_NOTHING)
        else:
            said: Any = tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            said = "nan" if said != said else said  # noqa: PLR0124 - only NaN differs from itself
            found.append(numbers.setdefault(said, len(numbers) + 1))
    return found


def _agreeing(
    features: Sequence[tuple[FeatureView, Feature]], codes: NDArray[np.int32], least: float
) -> Iterator[ValueTwin]:
    for place, (view, feature) in enumerate(features):
        own, others = codes[place], codes[place + 1 :]
        telling = (own > _NOTHING) | (others > _NOTHING)
        rows = telling.sum(axis=1)
        share = ((own == others) & telling).sum(axis=1) / np.maximum(rows, 1)
        agreeing: list[int] = np.flatnonzero((share >= least) & (rows >= LEAST_ROWS)).tolist()
        for other in agreeing:
            other_view, other_feature = features[place + 1 + other]
            if other_view.name != view.name:
                yield ValueTwin(
                    feature_name(view, feature),
                    feature_name(other_view, other_feature),
                    float(share[other]),
                    int(rows[other]),
                    (feature.owner or view.owner, other_feature.owner or other_view.owner),
                )
