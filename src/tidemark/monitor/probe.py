"""An audit without a serving log: some entities are read online now, as if somebody had asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import pyarrow as pa

from tidemark.engines.sources import open_source
from tidemark.errors import StaleSource
from tidemark.model.diff import feature_name
from tidemark.model.graph import Definitions
from tidemark.model.window import clock
from tidemark.monitor.sample import sampled
from tidemark.serve.log.form import Courtesy, Description, Entry, Form

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB
    from tidemark.serve import Reader
    from tidemark.serve.log.masking import Mask

TARGET = "probe"


def probe(
    engine: DuckDB,
    definitions: Definitions,
    reader: Callable[[Sequence[str]], Reader],
    mask: Mask,
    count: int,
    among: frozenset[str] | None,
) -> tuple[list[tuple[Description, pa.Table]], dict[str, str]]:
    """What `count` entities of each view are served now, as rows of a serving log.

    `among` names the features that are read (None: all).  Entities are those with the smallest
    digests of their keys, the same at every call.  What has no online state is told with the
    reason, by feature.
    """
    blocks: list[tuple[Description, pa.Table]] = []
    left_out: dict[str, str] = {}
    for view in definitions.views:
        names = [feature_name(view, each) for each in view.features]
        names = [name for name in names if among is None or name in among]
        if not names:
            continue
        asked = reader(names)
        entity = definitions.entity(view.entity)
        with closing(open_source(engine, definitions.source(view.source))) as relation:
            chosen = list(sampled(relation, view.keys, count))
        keys = {key.name: [each[i] for each in chosen] for i, key in enumerate(entity.keys)}
        try:
            answer = asked.answer_many(keys)
        except StaleSource as error:
            left_out |= dict.fromkeys(names, error.what)
            continue
        form = Form(TARGET, answer.program, mask)
        entry = Entry(TARGET, asked.revision, TARGET, clock(), 0.0, answer.logged)
        blocks.append(
            (form.description, pa.Table.from_batches([form.batch([entry], Courtesy(hurry=True))]))
        )
    return blocks, left_out
