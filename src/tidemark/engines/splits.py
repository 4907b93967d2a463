"""Parts of a training set: which rows to learn from, which to choose by, which to judge by.

By entity or at random, where a row goes follows from its keys, its moment and the seed alone: it is
the same on every machine, and rows that are added later move none that are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.errors import NotFound, RequestInvalid
from tidemark.model.window import format_duration, format_moment, parse_duration, parse_moment

By = Literal["time", "entity", "random"]
Words = NDArray[np.int64]
Moments = str | datetime | tuple[str | datetime, str | datetime]
Keys = Mapping[str, Sequence[pa.ChunkedArray]]

PARTS = ("train", "validation", "test")
"""The parts in the order of their moments; their places are the codes that `assign` gives."""

LEFT_OUT = -1


class SplitPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How rows are put into parts; moments are ISO text, `gap` is a duration.

    `fraction` holds the shares of validation and test, `time` the moments at which they begin; one
    number or moment is that of test, with no validation.
    """

    by: By = "time"
    fraction: float | tuple[float, float] = 0.2
    time: str | tuple[str, str] | None = None
    gap: str = ""
    seed: int = 0
    entity: str = ""

    @classmethod
    def of(
        cls,
        fraction: float | tuple[float, float] | None = None,
        *,
        time: Moments | None = None,
        by: By = "time",
        gap: str | timedelta = "",
        seed: int = 0,
        entity: str | None = None,
    ) -> SplitPlan:
        """The plan that arguments of `split` say; raises `RequestInvalid`."""
        began: str | tuple[str, str] | None = None
        if isinstance(time, tuple):
            began = _moment(time[0]), _moment(time[1])
        elif time is not None:
            began = _moment(time)
        plan = cls(
            by=by,
            fraction=0.2 if fraction is None else fraction,
            time=began,
            gap=format_duration(parse_duration(gap)) if gap else "",
            seed=seed,
            entity=entity or "",
        )
        if by not in {"time", "entity", "random"}:
            raise RequestInvalid(
                f"Rows are not split by {by!r}.", remedy="They are by time, entity or random."
            )
        if by != "time" and (time is not None or gap):
            raise RequestInvalid(
                f"A moment or a gap means nothing in a split by {by}.", remedy='Use by="time".'
            )
        if time is not None and fraction is not None:
            raise RequestInvalid("A split has a fraction or a time, not both.")
        validation, test = plan.shares
        if min(validation, test) < 0 or test <= 0 or validation + test >= 1:
            raise RequestInvalid(
                f"Fractions of {validation:g} and {test:g} leave a part empty.",
                remedy="A fraction is between 0 and 1; those of validation and test are below 1.",
            )
        return plan

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of validation and of test."""
        return self.fraction if isinstance(self.fraction, tuple) else (0.0, self.fraction)

    def __str__(self) -> str:
        if self.by == "time":
            return "by time" + (f", with a gap of {self.gap}" if self.gap else "")
        return f"by {self.entity or self.by}, seed {self.seed}"


@dataclass(frozen=True)
class Overlap:
    """What two parts have in common; `late` rows of the earlier are after the other begins.

    `entities` counts by entity those that occur in both, `rows` those rows of the earlier part
    whose keys and moment occur in the other.
    """

    first: str
    second: str
    entities: Mapping[str, int]
    rows: int
    late: int
    begins: int

    def leaks(self) -> list[str]:
        """What lets the second part be guessed from the first, in sentences."""
        found: list[str] = []
        if self.rows:
            found.append(f"{_many(self.rows, 'row')} of {self.first} also in {self.second}.")
        if self.late:
            found.append(
                f"{_many(self.late, 'label')} of {self.first} later than the earliest of "
                f"{self.second} ({format_moment(self.begins)}): the model is judged on a past "
                "whose future it has seen."
            )
        return found


@dataclass(frozen=True)
class SplitReport:
    """Rows by part, the moments of their first and last, and what the parts have in common.

    `left_out` rows lie in the gap.  That windows of test reach back into train is as in serving and
    not a leak; that a label of train is later than one of test is.
    """

    plan: SplitPlan
    rows: Mapping[str, int]
    spans: Mapping[str, tuple[str, str]]
    left_out: int = 0
    overlaps: tuple[Overlap, ...] = field(default=())

    @property
    def leaks(self) -> tuple[str, ...]:
        """Every way in which one part gives another away; empty if there is none."""
        return tuple(line for overlap in self.overlaps for line in overlap.leaks())

    def __str__(self) -> str:
        total = max(sum(self.rows.values()), 1)
        lines = [f"split {self.plan}"]
        for name, rows in self.rows.items():
            if rows:
                first, last = self.spans[name]
                share = f"{_many(rows, 'row')} ({rows / total:.0%})"
                lines.append(f"  {name}: {share}, {first} to {last}")
        if self.left_out:
            lines.append(f"  left out, in the gap: {_many(self.left_out, 'row')}")
        for each in self.overlaps:
            for entity, count in each.entities.items():
                if count:
                    lines.append(
                        f"  {entity}: {count:,} are in both {each.first} and {each.second}"
                    )
        lines += [f"  leak: {line}" for line in self.leaks]
        if not self.leaks:
            lines.append("  no leak")
        return "\n".join(lines)


def assign(t: Words, keys: Keys, plan: SplitPlan) -> tuple[NDArray[np.int8], SplitReport]:
    """The place of each row's part in `PARTS` (`LEFT_OUT`: none), int8[n], and a report.

    `t` are the moments of the rows, `keys` the key columns by entity.  Raises `RequestInvalid`
    where train or test would be empty, `NotFound` for an unknown entity.
    """
    groups = {name: _hashes(columns) for name, columns in keys.items()}
    identity = _mixed([_mix(t.view(np.uint64)), *groups.values()], 0)
    if plan.by == "time":
        codes = _by_time(t, plan)
    else:
        hashes = identity if plan.by == "random" else groups[_entity(plan, groups)]
        validation, test = plan.shares
        place = (_mixed([hashes], plan.seed) >> np.uint64(11)).astype(np.float64) / 2.0**53
        codes = np.zeros(len(t), np.int8)
        codes[place < test + validation] = 1
        codes[place < test] = 2
    for part in ("train", "test"):
        if not (codes == PARTS.index(part)).any():
            raise RequestInvalid(
                f"The split leaves {part} empty.",
                where=f"{len(t):,} rows, {plan}",
                remedy="Choose another fraction, moment or seed.",
            )
    return codes, _reported(t, groups, identity, codes, plan)


def _by_time(t: Words, plan: SplitPlan) -> NDArray[np.int8]:
    """Rows of one moment are never parted: a cut lies before the first of them."""
    if plan.time is not None:
        moments = [parse_moment(each) for each in _both(plan.time)]
        cuts = [moments[0], moments[-1]]
        if cuts[0] > cuts[1]:
            raise RequestInvalid("Test begins before validation does.")
    else:
        validation, test = plan.shares
        ordered, n = np.sort(t), len(t)
        places = [n - round(n * (test + validation)), n - round(n * test)]
        cuts = [int(ordered[min(place, n - 1)]) if n else 0 for place in places]
    codes = np.zeros(len(t), np.int8)
    codes[t >= cuts[0]] = 1
    codes[t >= cuts[1]] = 2
    gap = parse_duration(plan.gap) if plan.gap else 0
    for cut in cuts:
        codes[(t < cut) & (t >= cut - gap)] = LEFT_OUT
    return codes


def _entity(plan: SplitPlan, groups: Mapping[str, object]) -> str:
    if plan.entity:
        if plan.entity not in groups:
            raise NotFound.named("entity of this training set", plan.entity, groups)
        return plan.entity
    if len(groups) != 1:
        raise RequestInvalid(
            f"Rows have {len(groups)} entities: {', '.join(groups) or 'none'}.",
            remedy=f"Say by which one: entity={min(groups)!r}." if groups else 'Use by="random".',
        )
    return next(iter(groups))


def _reported(
    t: Words,
    groups: Mapping[str, NDArray[np.uint64]],
    identity: NDArray[np.uint64],
    codes: NDArray[np.int8],
    plan: SplitPlan,
) -> SplitReport:
    masks = {name: codes == place for place, name in enumerate(PARTS)}
    there = [name for name in PARTS if masks[name].any()]
    spans = {
        name: (format_moment(int(t[masks[name]].min())), format_moment(int(t[masks[name]].max())))
        for name in there
    }
    overlaps: list[Overlap] = []
    for place, first in enumerate(there):
        for second in there[place + 1 :]:
            mine, theirs = masks[first], masks[second]
            begins = int(t[theirs].min())
            shared = {
                name: len(np.intersect1d(hashes[mine], hashes[theirs]))
                for name, hashes in groups.items()
            }
            twice = int(np.isin(identity[mine], identity[theirs]).sum())
            late = int((t[mine] > begins).sum())
            overlaps.append(Overlap(first, second, shared, twice, late, begins))
    rows = {name: int(mask.sum()) for name, mask in masks.items()}
    left_out = int((codes == LEFT_OUT).sum())
    return SplitReport(plan, rows, spans, left_out, tuple(overlaps))


def _hashes(columns: Sequence[pa.ChunkedArray]) -> NDArray[np.uint64]:
    """A hash of the keys of each row, from the text of their values, uint64[n]."""
    parts: list[NDArray[np.uint64]] = []
    for column in columns:
        encoded = column.combine_chunks().dictionary_encode()
        hashed = [_text_hash(str(value)) for value in encoded.dictionary.to_pylist()]
        places: NDArray[np.int64] = encoded.indices.to_numpy()
        parts.append(np.array(hashed, np.uint64)[places])
    return _mixed(parts, len(parts))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(parts: Sequence[NDArray[np.uint64]], seed: int) -> NDArray[np.uint64]:
    """Hashes of several columns and a seed as one."""
    mixed = np.full(len(parts[0]) if parts else 0, _text_hash(f"seed {seed}"), np.uint64)
    for part in parts:
        mixed = _mix(mixed ^ part)
    return mixed


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all of them (the finalizer of SplitMix64, a bijection)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _moment(value: str | datetime) -> str:
    return format_moment(parse_moment(value))


def _both(value: Moments) -> tuple[str | datetime, ...]:
    return value if isinstance(value, tuple) else (value,)
