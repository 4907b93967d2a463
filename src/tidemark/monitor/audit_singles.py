"""Events that the online state counted twice, or not at all: which ones, found by trying each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemark.monitor.audit_events import Case, Entities
from tidemark.monitor.audit_faults import UNMOVED, Fault, Reading, Shift
from tidemark.monitor.audit_part import said
from tidemark.monitor.audit_sums import Suggestion, suggested

if TYPE_CHECKING:
    from tidemark.monitor.audit_work import Work

CANDIDATES = 100
"""Events of an entity that are left out or doubled one by one, the newest."""

TRIED_EVENTS = 20_000_000
"""Events that the trials of one entity have together: the more it has, the fewer are tried."""

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
    """Altered events of an entity, and the rows that they are tried with.

    `alike` others explain as much.
    """

    case: Case
    rows: list[int]
    alike: int = 0


class Singles:
    """Looks for single events behind the differences of a view.

    An event that explains some rows of an entity is taken as a fact for its other rows, so that
    several faults of one entity come apart.
    """

    def __init__(self) -> None:
        self._misses = 0

    def find(
        self, work: Work, rows: NDArray[np.int64], reading: Reading, fault: Fault | None = None
    ) -> None:
        """Enter the causes of rows that are open, under a reading: of a fault, or the right one.

        Rows of which the online state lacked events are computed from what it had.
        """
        left = _by_entity(work, rows)
        facts: dict[int, Case] = {}
        missed = dict.fromkeys(left, 0)
        while left and self._misses < (MISSES_REWRITTEN if work.rewritten.any() else MISSES):
            some = dict(list(left.items())[:TOGETHER])
            best = _best(work, reading, some, facts, UNMOVED if fault is None else fault.shift)
            for entity, mine in some.items():
                if entity in best:
                    self._misses = 0
                    if not best[entity].case.known:
                        facts[entity] = best[entity].case
                    _apply(work, reading, best[entity]._replace(rows=mine), fault)
                else:
                    self._misses += 1
                    missed[entity] += 1
            still = set(work.open_rows().tolist())
            for entity, mine in some.items():
                open_ = [row for row in mine if row in still]
                # Nothing explains the first, or what explains others of its values.
                mine[:] = open_[1:] if open_[:1] == mine[:1] else open_
                if not mine or missed[entity] == PATIENCE:
                    del left[entity]


def _by_entity(work: Work, rows: NDArray[np.int64]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in rows.tolist():
        found.setdefault(int(work.entities.of_row[row]), []).append(row)
    return found


def _best(
    work: Work,
    reading: Reading,
    some: dict[int, list[int]],
    facts: dict[int, Case],
    shift: Shift,
) -> dict[int, _Hypothesis]:
    """The hypothesis about each entity that explains most of its first rows, if any does."""
    first = [rows[0] for rows in some.values()]
    bases = [facts.get(entity, Case(entity, shift)) for entity in some]
    had = [_had(work.entities, row, case) for row, case in zip(first, bases, strict=True)]
    told = suggested(work, reading, first, had)
    tried = [
        each
        for entity, case, found in zip(some, bases, told, strict=True)
        for each in _hypotheses(
            work.entities, Case(entity, shift), some[entity][:PROBED], case, found
        )
    ]
    if not tried:
        return {}
    rows = np.array([row for each in tried for row in each.rows], np.int64)
    cases = [_had(work.entities, row, each.case) for each in tried for row in each.rows]
    explained = work.explained(rows, cases, reading).sum(axis=0)
    possible = np.array([work.open_at(row) for row in rows.tolist()])
    starts = np.cumsum([0, *(len(each.rows) for each in tried)])[:-1]
    scores: list[int] = np.add.reduceat(explained, starts).tolist()
    limits: list[int] = np.add.reduceat(possible, starts).tolist()
    best: dict[int, tuple[int, _Hypothesis]] = {}
    for each, score, limit in zip(tried, scores, limits, strict=True):
        # Where history was rewritten, a count that fits by chance says little.
        if work.rewritten[each.rows[0]] and (score < 2 or score < limit):
            continue
        most, known = best.get(each.case.entity, (0, each))
        if score > most:
            best[each.case.entity] = score, each
        elif score and score == most:
            best[each.case.entity] = score, known._replace(alike=known.alike + 1)
    return {entity: each for entity, (_, each) in best.items()}


def _apply(work: Work, reading: Reading, found: _Hypothesis, fault: Fault | None) -> None:
    """Enter all rows of an entity that a hypothesis explains, or a part of it does.

    Lag only where it needs to be one.
    """
    case = found.case
    parts = [case]
    if case.twice and case.without:
        parts = [case._replace(twice=frozenset()), case._replace(without=frozenset()), case]
    rows = np.array(found.rows, np.int64)
    for lagging in (False, True):
        for part in parts:
            cases = [_had(work.entities, row, part) for row in found.rows]
            if not lagging:
                cases = [part] * len(rows)
            elif cases == [part] * len(rows):
                continue
            kinds = [] if fault is None else [fault.cause]
            kinds += ["duplicated event"] * bool(part.twice)
            kinds += ["lost event"] * bool(part.without or part.known)
            cause = " and ".join([*kinds, "lag"] if lagging else kinds)
            detail = said(_words(work.entities, found._replace(case=part)))
            work.enter(rows, work.explained(rows, cases, reading), cause, detail)


def _hypotheses(
    entities: Entities,
    plain: Case,
    rows: list[int],
    fact: Case,
    told: list[Suggestion] | None,
) -> Iterator[_Hypothesis]:
    """What may have become of the events of an entity, beside what is a fact of them already.

    As its sums tell; where they do not, each of the newest is tried.
    """
    visible = entities.visible(rows[0])
    if len(visible) > 1:
        yield _Hypothesis(plain._replace(known=_NOTHING), rows)
    if told is not None:
        if fact != plain:
            yield _Hypothesis(fact, rows)
        for each in told:
            without, twice = fact.without | each.without, fact.twice | each.twice
            yield _Hypothesis(fact._replace(without=without, twice=twice), rows)
        return
    own = entities.events(rows[0])
    most = min(CANDIDATES, TRIED_EVENTS // (2 * max(1, own.stop - own.start)))
    candidates: list[int] = visible[max(0, len(visible) - most) :].tolist()
    for base in dict.fromkeys([plain, fact]):
        for event in candidates:
            yield _Hypothesis(base._replace(twice=base.twice | {event}), rows)
        for event in candidates:
            yield _Hypothesis(base._replace(without=base.without | {event}), rows)


def _had(entities: Entities, row: int, case: Case) -> Case:
    """A case as the online state had it that served a row."""
    if case.known is not None or not len(entities.unknown(row)):
        return case
    return entities.lagging(row, case)


def _words(entities: Entities, found: _Hypothesis) -> str:
    case = found.case
    if case.known:
        return f"none of its {len(entities.visible(found.rows[0]))} events were counted"
    parts = [f"counted twice: {entities.describe(each)}" for each in sorted(case.twice)]
    parts += [f"not counted: {entities.describe(each)}" for each in sorted(case.without)]
    told = "; ".join(parts)
    return f"{told}; or another of {found.alike + 1} that explain as much" if found.alike else told
