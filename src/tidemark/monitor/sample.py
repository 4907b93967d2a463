"""The same entities at every call: those whose keys have the smallest digests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemark.compile import identifier
from tidemark.engines.histories import Relation


def sampled(relation: Relation, keys: Sequence[str], count: int) -> dict[tuple[Any, ...], str]:
    """Up to `count` keys of the rows, none of them null, each with its digest; the smallest first.

    `keys` are the columns that hold them.
    """
    names = [identifier(name) for name in keys]
    digest = f"md5(concat_ws(chr(31), {', '.join(names)}))"
    known = " AND ".join(f"{name} IS NOT NULL" for name in names)
    table = relation.table(
        f"SELECT DISTINCT {', '.join(names)}, {digest} FROM {relation.rows} WHERE {known} "
        f"ORDER BY {digest} LIMIT {count}"
    )
    *columns, digests = (column.to_pylist() for column in table.columns)
    return dict(zip(zip(*columns, strict=True), digests, strict=True))
