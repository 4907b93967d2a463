"""Feast's side, run by the Python of its own environment: `feast_side.py CONFIG.json`.

Its repository has the same features as ours, as stored values: one table for each view, with the
values that Tidemark computed, one row for each entity.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    ValueType,
)
from feast.types import Float64, Int64

sys.path.insert(0, str(Path(__file__).parent))

from worker import channel, work

USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
NO_FEATURES = {"user_id", "event_timestamp"}


def view(path: Path) -> FeatureView:
    """The columns of a file as features."""
    types = {"int64": Int64, "double": Float64}
    columns = [field for field in pq.read_schema(path) if field.name not in NO_FEATURES]
    table = FileSource(name=f"{path.stem}_table", path=str(path), timestamp_field="event_timestamp")
    return FeatureView(
        name=path.stem,
        entities=[USER],
        ttl=timedelta(0),
        schema=[Field(name=each.name, dtype=types[str(each.type)]) for each in columns],
        source=PushSource(name=f"{path.stem}_push", batch_source=table),
    )


def repository(folder: Path, online: dict[str, str]) -> FeatureStore:
    """A repository whose registry stays in memory once it was read."""
    settings = {
        "project": "bench",
        "provider": "local",
        "registry": {"path": str(folder / "registry.db"), "cache_ttl_seconds": 3_600},
        "online_store": online,
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return FeatureStore(repo_path=str(folder))


def main(config: dict[str, Any]) -> None:
    """Prepare, then work."""
    answers = channel()
    folder = Path(config["folder"])
    folder.mkdir()
    store = repository(folder, config["online"])
    tables = [Path(path) for path in config["tables"]]
    views = [view(path) for path in tables]
    many = view(Path(config["many"]))
    services = [
        FeatureService(name="ten", features=views[:1]),
        FeatureService(name="everything", features=list(views)),
    ]
    store.apply([USER, *views, many, *services])
    at = datetime.fromisoformat(config["at"])
    start, end = at - timedelta(days=1), at + timedelta(days=1)
    store.materialize(start, end, feature_views=[each.name for each in views])
    asked = {each.name: store.get_feature_service(each.name) for each in services}
    entities, pushed = (
        config["entities"],
        pd.read_parquet(tables[0]).drop(columns="event_timestamp"),
    )

    def read(name: str, keys: int) -> Callable[[int], object]:
        def one(i: int) -> object:
            rows = [{"user_id": (i * keys + n) * 7919 % entities} for n in range(keys)]
            return store.get_online_features(asked[name], rows).to_dict()

        return one

    def push(rows: int) -> Callable[[int], object]:
        def one(i: int) -> object:
            first = i * rows % (entities - rows)
            new = pushed.iloc[first : first + rows].assign(
                event_timestamp=at + timedelta(seconds=i + 1)
            )
            return store.push(f"{tables[0].stem}_push", new)

        return one

    work(
        answers,
        {
            "1 x 10": read("ten", 1),
            "1 x 50": read("everything", 1),
            "100 x 50": read("everything", 100),
            "push 1": push(1),
            "push 100": push(100),
            "materialize": lambda _: store.materialize(start, end, feature_views=[many.name]),
        },
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))
