"""Events that the online state counted twice, or not at all: which ones, found by trying each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tidemark.monitor.audit_events import Case, Entities
from tidemark.monitor.audit_faults import Reading
from tidemark.monitor.audit_part import said

if TYPE_CHECKING:
    from tidemark.monitor.audit_view import Work

CANDIDATES = 100
"""Events of an entity that are left out or doubled one by one, the newest."""

PROBED = 8
"""Rows of an entity with which each is tried; the one that explains most is tried with all."""

TOGETHER = 16
"""Entities whose events are tried at once."""

PATIENCE = 3
"""Rows of one entity that nothing explains, after which its other rows are left."""

MISSES, MISSES_REWRITTEN = 50, 5
"""Rows in succession that nothing explains, after which no more are tried: of a history as it was,
and of one that was rewritten."""

_NOTHING = (-(2**63), -(2**63))


class _Hypothesis(NamedTuple):
    case: Case
    rows: list[int]
    event: int


class Singles:
    """Looks for single events behind the differences of a view.

    An event that explains some rows of an entity is taken as a fact for its other rows, so that
    several faults of one entity come apart.
    """

    def __init__(self) -> None:
        self._misses = 0

    def find(self, work: Work, reading: Reading, *, lagging: bool, with_cause: str) -> None:
        """Enter the causes of the rows that are open, under a reading of the view.

        With `lagging`, rows are computed from what the online state had taken in.  `with_cause`
        is the cause that the reading stands for, and `lagging` another; empty if neither is one.
        """
        left = self._by_entity(work, lagging)
        facts: dict[int, Case] = {}
        missed = dict.fromkeys(left, 0)
        while left:
            round_ = dict(list(left.items())[:TOGETHER])
            best = self._best(work, reading, round_, facts, lagging)
            for entity, rows in round_.items():
                if entity not in best:
                    self._misses += 1
                    missed[entity] += 1
                    del rows[0]
                    if missed[entity] == PATIENCE:
                        rows.clear()
                else:
                    self._misses = 0
                    facts[entity] = best[entity].case
            self._apply(work, reading, [*best.values()], round_, with_cause, lagging)
            still = set(work.open_rows().tolist())
            for entity, rows in round_.items():
                before = len(rows)
                rows[:] = [row for row in rows if row in still]
                if entity in best and len(rows) == before:
                    del rows[0]  # what explains others of its values explains nothing here
                if not rows:
                    del left[entity]
            if self._misses >= (MISSES_REWRITTEN if work.rewritten.any() else MISSES):
                return

    def _by_entity(self, work: Work, lagging: bool) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for row in work.open_rows().tolist():
            if not lagging or len(work.entities.unknown(row)):
                found.setdefault(int(work.entities.of_row[row]), []).append(row)
        return found

    def _best(
        self,
        work: Work,
        reading: Reading,
        round_: dict[int, list[int]],
        facts: dict[int, Case],
        lagging: bool,
    ) -> dict[int, _Hypothesis]:
        """The hypothesis about each entity that explains most of its first rows, if any does."""
        tried = [
            each
            for entity, rows in round_.items()
            for each in _hypotheses(work.entities, entity, rows[:PROBED], facts.get(entity))
        ]
        if not tried:
            return {}
        rows = np.array([row for each in tried for row in each.rows], np.int64)
        explained = work.explained(rows, _cases(work.entities, tried, lagging), reading)
        scores = explained.sum(axis=0)
        possible = np.array([work.open_at(row) for row in rows.tolist()])
        starts = np.concatenate([[0], np.cumsum([len(each.rows) for each in tried])])
        best: dict[int, tuple[int, _Hypothesis]] = {}
        for number, each in enumerate(tried):
            mine = slice(starts[number], starts[number + 1])
            score = int(scores[mine].sum())
            # Where history was rewritten, a count that fits by chance says little.
            if work.rewritten[each.rows[0]] and (score < 2 or score < possible[mine].sum()):
                continue
            if score > best.get(each.case.entity, (0,))[0]:
                best[each.case.entity] = score, each
        return {entity: each for entity, (_, each) in best.items()}

    def _apply(
        self,
        work: Work,
        reading: Reading,
        found: Sequence[_Hypothesis],
        round_: dict[int, list[int]],
        with_cause: str,
        lagging: bool,
    ) -> None:
        """Enter all rows of the entities that the hypotheses explain."""
        for each in found:
            whole = each._replace(rows=round_[each.case.entity])
            rows = np.array(whole.rows, np.int64)
            explained = work.explained(rows, _cases(work.entities, [whole], lagging), reading)
            kinds = ["duplicated event"] * bool(each.case.twice)
            kinds += ["lost event"] * bool(each.case.without or each.case.known)
            cause = " and ".join([*filter(None, [with_cause]), *kinds])
            work.enter(rows, explained, cause, said(_words(work.entities, each)))


def _hypotheses(
    entities: Entities, entity: int, rows: list[int], fact: Case | None
) -> Iterator[_Hypothesis]:
    candidates = entities.visible(rows[0])[-CANDIDATES:].tolist()
    if len(candidates) > 1:
        yield _Hypothesis(Case(entity, _NOTHING), rows, -1)
    bases = [Case(entity)] if fact is None or fact.known else [Case(entity), fact]
    for base in bases:
        for event in candidates:
            yield _Hypothesis(base._replace(twice=base.twice | {event}), rows, event)
        for event in candidates:
            yield _Hypothesis(base._replace(without=base.without | {event}), rows, event)


def _cases(entities: Entities, tried: Sequence[_Hypothesis], lagging: bool) -> list[Case]:
    return [
        entities.lagging(row, each.case) if lagging and each.case.known is None else each.case
        for each in tried
        for row in each.rows
    ]


def _words(entities: Entities, found: _Hypothesis) -> str:
    case = found.case
    if case.known:
        return f"none of its {len(entities.visible(found.rows[0]))} events were counted"
    parts = [f"counted twice: {entities.describe(each)}" for each in sorted(case.twice)]
    parts += [f"not counted: {entities.describe(each)}" for each in sorted(case.without)]
    return "; ".join(parts)
