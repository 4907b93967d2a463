"""Values for the kernel: expressions read from history into the order of a timeline.

Each column is written word by word into its place while it streams by, so that nothing but the
columns being computed is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.compile import sql
from tidemark.engines import ordering
from tidemark.engines.arrow import arrow_type, decimal_words, valid, words
from tidemark.engines.events import Events
from tidemark.model.expr import Expr
from tidemark.model.types import FLOAT64, Type

Words = NDArray[np.int64]
Flags = NDArray[np.bool_]
Form = Literal["word", "decimal", "code", "hash", "flag"]

_BYTES = {"word": 9, "decimal": 17, "code": 9, "hash": 9, "flag": 1}


@dataclass(frozen=True)
class Need:
    """A value that is needed in some form.

    The forms are those of `tidemark.kernel.layout`, and `flag`: only whether there is a value or,
    for a condition (`type` None), whether it is true.
    """

    value: Expr
    type: Type | None
    form: Form


@dataclass
class Loaded:
    """A value in timeline order: int64 or float64[n] and bool[n], absent where there is no use.

    `valid` is None where no value is null.  `dictionary` gives the values of codes, in their order.
    """

    words: NDArray[Any] | None = None
    high: Words | None = None
    valid: Flags | None = None
    dictionary: pa.Array | None = None


@dataclass
class _Filling:
    """A value that is being read."""

    need: Need
    loaded: Loaded = field(default_factory=Loaded)
    slots: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    codes: list[Words] = field(default_factory=list[Words])
    dictionaries: list[pa.Array] = field(default_factory=list[pa.Array])


def load(events: Events, needs: Sequence[Need]) -> list[Loaded]:
    """Read values for the events of a timeline in one pass over their relation."""
    types = events.scan.relation.source.types
    columns = {f"value_{i}": text_of(need, types) for i, need in enumerate(needs)}
    fillings = [_Filling(need) for need in needs]
    n, slots = len(events.rows), events.slots()
    read = 0
    for first, batch in events.scan.read(columns):
        here = slots[first : first + batch.num_rows]
        read += batch.num_rows
        for i, filling in enumerate(fillings):
            _fill(filling, batch.column(i), here, n)
    events.check_unchanged(read)
    return [_finished(filling, n) for filling in fillings]


def arrange(
    needs: Sequence[Need], columns: Sequence[pa.Array], slots: NDArray[Any], n: int
) -> list[Loaded]:
    """Values that are there already, in the order of a timeline: row i has the place `slots[i]`."""
    fillings = [_Filling(need) for need in needs]
    for filling, column in zip(fillings, columns, strict=True):
        _fill(filling, column, slots, n)
    return [_finished(filling, n) for filling in fillings]


def bytes_of(need: Need) -> int:
    """What a value of one event takes."""
    return _BYTES[need.form]


def in_batches(needs: Sequence[Need], events: int, memory: int) -> Iterator[list[Need]]:
    """The needs in groups that can be held together within `memory` bytes, at least one each."""
    group: list[Need] = []
    held = 0
    for need in needs:
        size = bytes_of(need) * events
        if group and held + size > memory:
            yield group
            group, held = [], 0
        group.append(need)
        held += size
    if group:
        yield group


def text_of(need: Need, types: dict[str, Type]) -> str:
    """The SQL of a value in the form in which it is needed."""
    text = sql(need.value, types)
    if need.form != "flag":
        return text
    return f"({text}) IS NOT NULL" if need.type is not None else f"coalesce({text}, FALSE)"


def _fill(filling: _Filling, column: pa.Array, slots: NDArray[Any], n: int) -> None:
    need, loaded = filling.need, filling.loaded
    if need.form == "flag":
        if loaded.valid is None:
            loaded.valid = np.zeros(n, np.bool_)
        ordering.scatter(slots, words(column) != 0, loaded.valid)
        return
    if column.null_count and loaded.valid is None:
        loaded.valid = np.ones(n, np.bool_)
    if loaded.valid is not None:
        ordering.scatter(slots, valid(column), loaded.valid)
    if need.form == "word":
        if loaded.words is None:
            loaded.words = np.empty(n, np.float64 if need.type == FLOAT64 else np.int64)
        ordering.scatter(slots, words(column), loaded.words)
    elif need.form == "decimal":
        if loaded.words is None or loaded.high is None:
            loaded.words, loaded.high = np.empty(n, np.int64), np.empty(n, np.int64)
        low, high = decimal_words(column)
        ordering.scatter(slots, low, loaded.words)
        ordering.scatter(slots, high, loaded.high)
    else:
        kept = np.flatnonzero(slots >= 0)
        codes, dictionary = _distinct(column.take(pa.array(kept)))
        filling.slots.append(slots[kept])
        filling.codes.append(codes)
        filling.dictionaries.append(dictionary)


def _finished(filling: _Filling, n: int) -> Loaded:
    need, loaded = filling.need, filling.loaded
    if need.form in {"word", "decimal", "flag"}:
        if need.form == "flag" and loaded.valid is None:
            loaded.valid = np.zeros(n, np.bool_)
        elif loaded.words is None and need.form != "flag":
            loaded.words = np.empty(0, np.float64 if need.type == FLOAT64 else np.int64)
            loaded.high = np.empty(0, np.int64) if need.form == "decimal" else None
        return loaded
    assert need.type is not None  # noqa: S101 - conditions are flags
    type_ = arrow_type(need.type)
    together = pa.chunked_array(filling.dictionaries, type_).combine_chunks()
    places, dictionary = _ranked(together)
    if need.form == "hash":
        places = _hashes(dictionary)[places]
    loaded.words = np.zeros(n, np.int64)
    begin = 0
    for slots, codes, part in zip(filling.slots, filling.codes, filling.dictionaries, strict=True):
        mine = places[begin : begin + len(part)]
        begin += len(part)
        found = codes >= 0
        loaded.words[slots[found]] = mine[codes[found]]
    loaded.dictionary = dictionary if need.form == "code" else None
    return loaded


def _distinct(column: pa.Array) -> tuple[Words, pa.Array]:
    """Codes of values (-1 for null) and the values; lists are taken as they are."""
    if pa.types.is_nested(column.type):
        defined = valid(column)
        codes = np.where(defined, np.cumsum(defined) - 1, -1)
        return codes, column.filter(pa.array(defined))
    encoded = column.dictionary_encode()
    return pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64), encoded.dictionary


def _ranked(values: pa.Array) -> tuple[Words, pa.Array]:
    """The rank of each value among the distinct ones, and these in order."""
    if pa.types.is_nested(values.type):
        ranks = ordering.rank_lists(values)
    else:
        ranks = pc.rank(values, sort_keys="ascending", tiebreaker="dense").to_numpy()
        ranks = ranks.astype(np.int64) - 1
    firsts = np.full(int(ranks.max()) + 1 if len(ranks) else 0, -1, np.int64)
    firsts[ranks[::-1]] = np.arange(len(ranks) - 1, -1, -1)
    return ranks, values.take(pa.array(firsts))


def _hashes(values: pa.Array) -> Words:
    """The hash of each value: of text as UTF-8, of a decimal as 16 little-endian bytes."""
    from tidemark.kernel.hashing import hash_bytes

    if pa.types.is_decimal(values.type):
        low, high = decimal_words(values)
        texts = [pair.tobytes() for pair in np.stack([low, high], axis=1)]
    else:
        texts = values.cast(pa.binary()).to_pylist()
    return np.fromiter(map(hash_bytes, texts), np.int64, len(texts))
