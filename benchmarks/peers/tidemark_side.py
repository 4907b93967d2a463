"""Tidemark's side: `python -m benchmarks.peers.tidemark_side CONFIG.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.online import view
from benchmarks.peers.worker import channel, work

import tidemark as tm
from tidemark.define import lower
from tidemark.model.graph import FeatureService, Output, Reference


def service(name: str, views: list[type[tm.FeatureView]]) -> FeatureService:
    """Every feature of these views."""
    outputs = tuple(
        Output(f"{each.name}_{feature.name}", Reference("feature", feature.name, each.name))
        for each in lower(views).definitions.views
        for feature in each.features
    )
    return FeatureService(name=name, outputs=outputs)


def tables(folder: Path, events: dict[str, str], entities: dict[str, int], at: str) -> None:
    """Write the values of every entity, view by view, as `NAME.parquet`: what others store."""
    moment = datetime.fromisoformat(at)
    with tm.connect(":memory:") as store:
        views = {number: view(int(number), Path(path)) for number, path in events.items()}
        store.apply(store.plan(list(views.values())))
        for number, each in views.items():
            (lowered,) = lower([each]).definitions.views
            count = entities[number]
            labels = pa.table(
                {
                    "user_id": range(count),
                    "event_timestamp": pa.array([moment] * count, pa.timestamp("us", "UTC")),
                }
            )
            names = [f"{lowered.name}:{feature.name}" for feature in lowered.features]
            values = store.training_set(names, labels, time="event_timestamp").to_arrow()
            own = [f"{lowered.name}_{feature.name}" for feature in lowered.features]
            values = values.rename_columns([*labels.column_names, *own])
            pq.write_table(values, folder / f"view_{number}.parquet")


def main(config: dict[str, Any]) -> None:
    """Prepare, then work."""
    answers = channel()
    folder = Path(config["folder"])
    folder.mkdir()
    (folder / "tidemark.toml").write_text(f'name = "bench"\nonline = "{config["online"]}"\n')
    views = [view(number, Path(path)) for number, path in enumerate(config["events"])]
    many = view(len(views), Path(config["many"]))
    at, entities = datetime.fromisoformat(config["at"]), config["entities"]
    store = tm.connect(folder)
    services = [service("ten", views[:1]), service("everything", views)]
    store.apply(store.plan([*views, many, *services]))
    store.materialize([f"view_{number}" for number in range(len(views))], until=at)

    def one(name: str) -> Callable[[int], object]:
        return lambda i: dict(store.online(name, {"user_id": i * 7919 % entities}, at=at))

    def hundred(i: int) -> object:
        keys = [{"user_id": (i * 100 + n) * 7919 % entities} for n in range(100)]
        vectors = store.online_many("everything", keys, at=at)
        return {name: vectors.values(name) for name in vectors.names}

    def push(rows: int) -> Callable[[int], object]:
        def push(i: int) -> object:
            return store.push(
                "event_0",
                [
                    {
                        "user_id": (i * rows + n) % entities,
                        "amount": 1.5,
                        "size": 3,
                        "settled": True,
                        "at": at + timedelta(seconds=i + 1),
                    }
                    for n in range(rows)
                ],
            )

        return push

    work(
        answers,
        {
            "1 x 10": one("ten"),
            "1 x 50": one("everything"),
            "100 x 50": hundred,
            "push 1": push(1),
            "push 100": push(100),
            "materialize": lambda _: store.materialize([f"view_{len(views)}"], until=at),
        },
    )
    store.close()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))
