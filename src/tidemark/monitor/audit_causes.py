"""Why values that were served are not what training computes: hypotheses, tried one after another.

What is read from definitions or from the values themselves is told first: another definition, a
rounded value.  For the rest the events of the entities concerned are taken into a small frame,
altered as a hypothesis says (without what the state had not taken in; without one event; with every
time moved by an hour; with the other bound), and the values of all rows are computed again by the
same code.  A hypothesis that gives exactly what was served is the cause.  What one alone does not
explain, two may.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemark.model.fingerprint import meaning_of
from tidemark.model.graph import Definitions, Feature, FeatureView, parse_reference
from tidemark.monitor.audit_differences import STATES, Differences, valid
from tidemark.monitor.audit_part import Detail, Part, Tally, said
from tidemark.monitor.audit_view import SAMPLED, OfView
from tidemark.serve.log.form import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tidemark.engines.duckdb import DuckDB
    from tidemark.serve.log.masking import Mask

ULPS = 4
"""Doubles that differ by no more steps than that were computed in another order."""


def explain(
    engine: DuckDB,
    definitions: Definitions,
    differences: Differences,
    tally: Tally,
    mask: Mask | None,
    edited: Collection[str],
    told: Callable[[int], object],
) -> None:
    """Count every difference under a cause; `told` hears of rows that are done.

    On-demand features that are `edited` are computed with other code than they were applied with.
    """
    views: dict[FeatureView, list[tuple[Column, Feature]]] = defaultdict(list)
    functions: list[Column] = []
    for column in differences.columns:
        reference = parse_reference(column.reference)
        if reference.kind == "on_demand":
            functions.append(column)
        else:
            view, feature = definitions.locate(reference)
            views[view].append((column, feature))
    with ExitStack() as stack:
        several = [
            stack.enter_context(closing(OfView(engine, definitions, view, columns)))
            for view, columns in views.items()
        ]
        for of in several:
            sample = _sample(differences, of)
            if sample is not None:
                looked_at = Part(differences.description, sample, None, mask)
                _evident(definitions, looked_at, of.columns)
                of.learn(looked_at)
        for table in differences.parts():
            part = Part(differences.description, table, tally, mask)
            _evident(definitions, part, differences.columns)
            for of in several:
                of.find(part)
            for column in functions:
                _inherited(definitions, part, differences.columns, column)
                _own(part, column, column.reference in edited)
            told(len(table))


def _sample(differences: Differences, view: OfView) -> pa.Table | None:
    """The first rows of each online state of a view that differ, and some that do not."""
    counted: dict[int, int] = {}
    taken: list[pa.Table] = []
    for table in differences.parts():
        known = view.known(table)
        flags = [table[f"differs.{each.name}"].to_numpy() for each in view.columns]
        differ = np.logical_or.reduce(flags)
        places: list[int] = []
        for state in np.unique(known[differ]).tolist():
            room = SAMPLED - counted.get(state, 0)
            if room > 0 and (state in counted or len(counted) < STATES):
                found = np.flatnonzero(differ & (known == state))[:room].tolist()
                counted[state] = counted.get(state, 0) + len(found)
                places += found
        if places:
            taken.append(table.take(pa.array(sorted(places))))
    right = differences.right()
    if taken and right is not None:
        taken.append(right)
    return pa.concat_tables(taken) if taken else None


def _evident(definitions: Definitions, part: Part, columns: Sequence[Column]) -> None:
    """Enter the causes that show without computing."""
    for column in columns:
        open_ = part.open[column.name]
        now = meaning_of(definitions, parse_reference(column.reference))
        if now != column.means:
            text = f"its meaning was {column.means[:12]} and is {now[:12]} in the registry"
            part.enter(column, np.flatnonzero(open_), "changed definition", said(text))
            continue
        served = part.table[f"value.{column.name}"]
        if pa.types.is_floating(served.type):
            rounded = _rounded(served, part.table[f"offline.{column.name}"])
            text = "one is the other rounded to single precision, or they are but some bits apart"
            part.enter(column, np.flatnonzero(open_ & rounded), "precision", said(text))


def _rounded(served: pa.ChunkedArray, offline: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which doubles are those of the other side, rounded on their way."""
    one, other = (pc.fill_null(each, np.nan).to_numpy() for each in (served, offline))
    with np.errstate(over="ignore", invalid="ignore"):
        single = (one.astype(np.float32) == other) | (one == other.astype(np.float32))
        near = np.abs(one - other) <= ULPS * np.spacing(np.maximum(np.abs(one), np.abs(other)))
    found: NDArray[np.bool_] = (single | near) & valid(served) & valid(offline)
    return found


def _inherited(
    definitions: Definitions, part: Part, columns: Sequence[Column], column: Column
) -> None:
    """An on-demand value differs because of what its function was given."""
    reference = parse_reference(column.reference)
    known = {each.reference: each.name for each in columns}
    for needed in definitions.needed([reference]):
        name = known.get(str(needed))
        if name is None or needed == reference:
            continue
        for rows, cause, detail in part.entered[name]:
            part.enter(column, rows, cause, _through(str(needed), detail))


def _own(part: Part, column: Column, edited: bool) -> None:
    """An on-demand value differs although what its function was given does not."""
    rows = np.flatnonzero(part.open[column.name])
    if edited:
        text = "what the function was given is equal, and its code has been edited since"
        part.enter(column, rows, "changed definition", said(text))
    text = "what the function was given is equal: it gives different values for it"
    part.enter(column, rows, "unexplained", said(text))


def _through(feature: str, detail: Detail) -> Detail:
    return lambda row: f"through {feature}: {detail(row)}"
