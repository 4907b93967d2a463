"""Why a value that was served is not what training computes: hypotheses, tried one by one.

What is read from definitions or from the values themselves is told first: another definition, a
rounded value, a default.  For the rest the events of the entities concerned are taken into a small
frame, altered as a hypothesis says (without what the state had not taken in; without one event;
with every time moved by an hour; with the other bound), and the value is computed again by the same
code.  A hypothesis that gives exactly what was served is the cause.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemark.engines.arrow import arrow_type, scalar_of
from tidemark.errors import TidemarkError
from tidemark.model.graph import Definitions, Feature, FeatureView, Reference, parse_reference
from tidemark.monitor.audit_events import Entities, Fault, Trial, Trials, history_changed
from tidemark.serve.log.form import Column, Description, means

if TYPE_CHECKING:
    from tidemark.engines.duckdb import DuckDB

SCREENED = 3
"""Rows with which a fault is tried first."""

MISSES = 5
"""Rows in a row that no single event explains, after which a rewritten history is the cause."""

EQUAL_ROWS = 40
"""Rows without a difference that a fault of a whole view must explain as well."""


class Case(NamedTuple):
    """Why a value differs: the cause, and what is known of it."""

    cause: str
    detail: str


@dataclass(frozen=True)
class Block:
    """Rows of the log and what is computed for them; `differing` has the rows of each feature."""

    description: Description
    rows: pa.Table
    columns: Sequence[Column]
    offline: Mapping[str, pa.ChunkedArray]
    differing: Mapping[str, NDArray[np.int64]]

    def served(self, reference: str) -> pa.ChunkedArray:
        """What was served of a feature."""
        name = next(each.name for each in self.columns if each.reference == reference)
        values: pa.ChunkedArray = self.rows[f"value.{name}"]
        return values


UNEXPLAINED = Case("unexplained", "no single alteration of its events or its definition gives it")
_ALIKE = Case("precision", "the two are equal in single precision: a value was rounded on its way")

Found = dict[tuple[str, int], Case]


def causes(
    engine: DuckDB,
    definitions: Definitions,
    block: Block,
    chosen: Mapping[str, NDArray[np.int64]],
) -> Found:
    """The cause of each chosen difference, by feature and row."""
    found: Found = {}
    views: dict[FeatureView, list[tuple[Column, Feature]]] = defaultdict(list)
    functions: list[Column] = []
    for column in block.columns:
        if column.reference not in chosen:
            continue
        reference = parse_reference(column.reference)
        if _evident(definitions, block, column, reference, chosen[column.reference], found):
            continue
        if reference.kind == "on_demand":
            functions.append(column)
        else:
            view, feature = definitions.locate(reference)
            views[view].append((column, feature))
    for view, several in views.items():
        left = {
            column.reference: [
                row
                for row in chosen[column.reference].tolist()
                if (column.reference, row) not in found
            ]
            for column, _ in several
        }
        _OfView(engine, definitions, block, view, several, left, found).find()
    for column in functions:
        _inherited(definitions, block, column, chosen, found)
    return found


def _evident(
    definitions: Definitions,
    block: Block,
    column: Column,
    reference: Reference,
    rows: NDArray[np.int64],
    found: Found,
) -> bool:
    """Enter the causes that show without computing; says whether that is all of them."""
    now = means(definitions, reference)
    if now != column.means:
        detail = f"its meaning was {column.means[:12]} and is {now[:12]} in the registry"
        for row in rows.tolist():
            found[column.reference, row] = Case("changed definition", detail)
        return True
    served, offline = block.served(column.reference), block.offline[column.reference]
    if pa.types.is_floating(served.type):
        for row in rows.tolist():
            one, other = served[row].as_py(), offline[row].as_py()
            if one is not None and other is not None and _rounded(one, other):
                found[column.reference, row] = _ALIKE
    return all((column.reference, row) in found for row in rows.tolist())


def _rounded(one: float, other: float) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.float32(one) == np.float32(other))


def _inherited(
    definitions: Definitions,
    block: Block,
    column: Column,
    chosen: Mapping[str, NDArray[np.int64]],
    found: Found,
) -> None:
    """An on-demand value differs because of what its function was given."""
    reference = parse_reference(column.reference)
    needed = [str(each) for each in definitions.needed([reference]) if each != reference]
    differing = {name: set(block.differing.get(name, np.empty(0)).tolist()) for name in needed}
    for row in chosen[column.reference].tolist():
        if (column.reference, row) in found:
            continue
        through = [name for name in needed if row in differing[name]]
        if not through:
            detail = "what the function was given is equal: it gives different values for it"
            found[column.reference, row] = Case("unexplained", detail)
            continue
        cause = found.get((through[0], row), UNEXPLAINED)
        found[column.reference, row] = Case(cause.cause, f"through {through[0]}: {cause.detail}")


class _OfView:
    """The differences of the features of one view; a row is a set of keys at a moment."""

    def __init__(
        self,
        engine: DuckDB,
        definitions: Definitions,
        block: Block,
        view: FeatureView,
        several: Sequence[tuple[Column, Feature]],
        left: Mapping[str, list[int]],
        found: Found,
    ) -> None:
        self._engine, self._definitions, self._block, self._view = engine, definitions, block, view
        self._source = definitions.source(view.source)
        self._features = [feature for _, feature in several]
        self._names = {feature.name: column.reference for column, feature in several}
        self._found = found
        self._changed = ""
        self._wrong: dict[int, set[str]] = defaultdict(set)
        for column, feature in several:
            for row in left[column.reference]:
                self._wrong[row].add(feature.name)
        everywhere = {row for rows in block.differing.values() for row in rows.tolist()}
        right = (row for row in range(block.rows.num_rows) if row not in everywhere)
        self._right = [row for row, _ in zip(right, range(EQUAL_ROWS), strict=False)]

    def find(self) -> None:
        """Enter a cause for each difference."""
        if not self._wrong:
            return
        states = [self._known(row) for row in self._wrong]
        self._changed = history_changed(self._engine, self._source, min(states))
        try:
            self._try_all()
        except TidemarkError as error:
            self._rest(Case("unexplained", f"its events cannot be looked at: {error.what}"))
            return
        if self._changed:
            self._rest(Case("restated history", self._changed))
        self._defaults()
        self._rest(UNEXPLAINED)

    def _try_all(self) -> None:
        if self._source.time is None:
            return  # facts without a time say nothing of their past
        self._entities = Entities.of(
            self._engine, self._definitions, self._view, self._moments([*self._wrong, *self._right])
        )
        self._trials = Trials(self._definitions, self._view, self._features, self._entities)
        with closing(self._trials):
            self._lag()
            self._late()
            self._faults_of_all()
            self._single_events()

    def _moments(self, rows: Sequence[int]) -> pa.Table:
        """Who and when each row is, and what the online state had taken in then."""
        entity = self._definitions.entity(self._view.entity)
        table = self._block.rows.take(pa.array(rows, pa.int64()))
        columns = {f"key_{i}": table[f"key.{key.name}"] for i, key in enumerate(entity.keys)}
        return pa.table(
            {
                **columns,
                "row": pa.array(rows, pa.int64()),
                "at": table["at"].cast(pa.int64()),
                "known": table[f"known.{self._view.name}"].cast(pa.int64()),
                "position": table[f"position.{self._view.name}"],
            }
        )

    def _known(self, row: int) -> int:
        value = self._block.rows[f"known.{self._view.name}"].cast(pa.int64())[row].as_py()
        return 0 if value is None else int(value)

    def _served(self, name: str, row: int) -> Any:
        return self._block.served(self._names[name])[row].as_py()

    def _explains(self, row: int, values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
        """The features whose served value these are."""
        return [name for name in names if same(values[name], self._served(name, row))]

    def _enter(self, row: int, names: Sequence[str], case: Case) -> None:
        for name in names:
            self._found[self._names[name], row] = case
            self._wrong[row].discard(name)
        if not self._wrong[row]:
            del self._wrong[row]

    def _per_row(self, altered: Mapping[int, list[int]], case: Mapping[int, Case]) -> None:
        """Try one alteration for each row: the events (by place) that are left."""
        rows = [row for row in self._wrong if row in altered]
        values = self._trials.of_events([(row, altered[row], ()) for row in rows])
        for row, told in zip(rows, values, strict=True):
            names = self._explains(row, told, sorted(self._wrong[row]))
            if names:
                self._enter(row, names, case[row])

    def _lag(self) -> None:
        kept: dict[int, list[int]] = {}
        case: dict[int, Case] = {}
        for row in self._wrong:
            unknown = self._entities.unknown(row)
            if unknown:
                kept[row] = [e for e in self._entities.events(row) if e not in set(unknown)]
                newest = self._entities.describe(unknown[-1])
                case[row] = Case(
                    "lag",
                    f"{len(unknown)} events that were known by then had not reached the online "
                    f"state; the newest is {newest}",
                )
        self._per_row(kept, case)

    def _late(self) -> None:
        rows = [row for row in self._wrong if self._entities.late(row)]
        values = self._trials.in_hindsight(rows)
        for row, told in zip(rows, values, strict=True):
            names = self._explains(row, told, sorted(self._wrong[row]))
            late = self._entities.late(row)
            detail = (
                f"{len(late)} events happened before the moment and were seen after it; "
                f"the first is {self._entities.describe(late[0])}"
            )
            if names:
                self._enter(row, names, Case("late data", detail))

    def _faults_of_all(self) -> None:
        """Faults of the whole view: they explain every row, those without a difference too."""
        for fault in self._trials.faults() if self._wrong else ():
            rows = sorted(self._wrong)
            # Most faults are refuted by the first few rows.
            if self._made(fault, rows[:SCREENED]) and self._made(fault, [*rows, *self._right]):
                for row in rows:
                    self._enter(row, sorted(self._wrong[row]), Case(fault.cause, fault.detail))
                return

    def _made(self, fault: Fault, rows: Sequence[int]) -> bool:
        """Whether a fault gives everything that was served in rows, where nothing else did."""
        for row, values in zip(rows, fault.values(rows), strict=True):
            names = sorted(self._wrong[row]) if row in self._wrong else list(self._names)
            if len(self._explains(row, values, names)) < len(names):
                return False
        return True

    def _single_events(self) -> None:
        """One event that the online state counted twice, or not at all."""
        misses = 0
        for row in sorted(self._wrong):
            if self._changed and misses == MISSES:
                return
            misses += 1
            best: tuple[list[str], Case] = [], UNEXPLAINED
            candidates = self._entities.candidates(row)
            everything = self._entities.events(row)
            trials: list[Trial] = [(row, everything, (event,)) for event in candidates]
            trials += [(row, [e for e in everything if e != event], ()) for event in candidates]
            kinds = [("duplicated event", "counted twice")] * len(candidates)
            kinds += [("lost event", "not counted")] * len(candidates)
            values = self._trials.of_events([*trials, (row, [], ())])
            if len(candidates) > 1 and self._explains(row, values[-1], [*self._wrong[row]]):
                detail = f"none of its {len(candidates)} events were counted"
                best = sorted(self._wrong[row]), Case("lost event", detail)
            for (cause, what), event, told in zip(kinds, candidates * 2, values[:-1], strict=True):
                names = self._explains(row, told, sorted(self._wrong[row]))
                if len(names) > len(best[0]):
                    best = names, Case(cause, f"{what}: {self._entities.describe(event)}")
            # Where history was rewritten, a count that fits by chance says little.
            if best[0] and (not self._changed or len(best[0]) == len(self._wrong[row]) > 1):
                self._enter(row, *best)
                misses = 0

    def _defaults(self) -> None:
        """What was served is what the feature is of nothing, or the other way round."""
        for row in sorted(self._wrong):
            for name in sorted(self._wrong[row]):
                feature = next(each for each in self._features if each.name == name)
                nothing = _nothing(feature)
                if nothing is None:
                    continue
                served = self._served(name, row)
                offline = self._block.offline[self._names[name]][row].as_py()
                if same(served, nothing) or same(offline, nothing):
                    which = "served" if same(served, nothing) else "computed offline"
                    detail = f"{nothing!r}, the value of nothing, was {which}"
                    self._enter(row, [name], Case("default", detail))

    def _rest(self, case: Case) -> None:
        for row in sorted(self._wrong):
            self._enter(row, sorted(self._wrong[row]), case)


def _nothing(feature: Feature) -> Any:
    """The value of a feature that found nothing."""
    default = feature.aggregate.default
    if feature.aggregate.rule.zero or default is None:
        return 0 if feature.aggregate.rule.zero else None
    return scalar_of(default).cast(arrow_type(feature.type)).as_py()


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; NaN is NaN."""
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.float64(one).tobytes() == np.float64(other).tobytes()) or (
            one != one and other != other  # noqa: PLR0124 - NaN
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))  # pyright: ignore[reportUnknownArgumentType]
    return bool(one == other)
