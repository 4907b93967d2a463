"""An audit without a serving log: some entities are read online now, as if somebody had asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidemark.compile import identifier
from tidemark.engines.sources import open_source
from tidemark.errors import StaleSource
from tidemark.model.diff import feature_name
from tidemark.model.graph import Definitions, FeatureView
from tidemark.model.window import clock
from tidemark.serve.log.form import Description, Entry, Form, Pace

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
        keys = dict(
            zip(
                (key.name for key in entity.keys),
                _sampled(engine, definitions, view, count),
                strict=True,
            )
        )
        try:
            answer = asked.answer_many(keys)
        except StaleSource as error:
            left_out |= dict.fromkeys(names, error.what)
            continue
        form = Form(TARGET, answer.program, mask)
        entry = Entry(TARGET, asked.revision, TARGET, clock(), 0.0, answer.parts)
        blocks.append(
            (form.description, pa.Table.from_batches([form.batch([entry], Pace(hurry=True))]))
        )
    return blocks, left_out


def _sampled(
    engine: DuckDB, definitions: Definitions, view: FeatureView, count: int
) -> list[list[Any]]:
    """The keys of some entities of a view, a column for each key."""
    relation = open_source(engine, definitions.source(view.source))
    try:
        names = [identifier(name) for name in view.keys]
        parts = " UNION ALL ".join(f"({part})" for part in relation.parts)
        known = " AND ".join(f"{name} IS NOT NULL" for name in names)
        digest = f"md5(concat_ws(chr(31), {', '.join(names)}))"
        query = (
            f"SELECT DISTINCT {', '.join(names)}, {digest} AS digest FROM ({parts}) WHERE {known}"
            f" ORDER BY digest LIMIT {int(count)}"
        )
        table = relation.table(query)
    finally:
        relation.close()
    return [table.column(place).to_pylist() for place in range(len(names))]
