"""Trees of events: the windows of an entity that has very many, at a cost that does not grow.

The leaves of a tree are *chunks*: rows (see `tidemark.kernel.rows`) of consecutive events.  Above
them are nodes that keep of each child its times and its summaries (`tidemark.kernel.partials`), in
columns of one word for every child, see `docs/reference/row-format.md`.

`Fold` answers what follows from summaries, as `evaluate_rows` would from one row of all events; it
says which children it has to look into, and which chunks hold the events that all else needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tidemark.kernel.cells import CELL_NEEDS, QUANTILES, Cells, adds_up, needs_of
from tidemark.kernel.compiled import FOR_TREES, ready
from tidemark.kernel.encoding import (
    BEFORE,
    FIRST,
    FIRST_N,
    FUNCTION,
    I64_MAX,
    LAST,
    LAST_N,
    LATEST,
    LENGTH,
    LOW,
    NONE,
    OFFSET,
    ROWS,
    SKIP_NULL,
    START,
    STEP,
    STOP,
    N,
)
from tidemark.kernel.forest import (
    ADDS,
    CELL,
    NEEDS,
    NEWEST_ROWS,
    OLDEST_ROWS,
    STACK,
    WANTED,
    WINDOW_COLUMNS,
)
from tidemark.kernel.program import HIGH, KIND, VALID, VIEW, WHERE, WORD, Program
from tidemark.kernel.rows import Answers, period_lows, thread_memory
from tidemark.kernel.sketches import SCRATCH, bucket_memory
from tidemark.kernel.sums import MAX_LIMBS
from tidemark.kernel.walk import SUMS_MEMORY, fold_trees, put_trees

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemark.kernel.layout import Layout
    from tidemark.model.graph import FeatureView

    Words = NDArray[np.int64]
    Bytes = NDArray[np.uint8]

_UNITS = ("day", "week", "month", "quarter", "year")


@dataclass(frozen=True)
class TreeProgram:
    """A program, and what its windows need of trees: see `walk.CELL` and what follows it.

    The windows of view v are `windows[starts[v]:starts[v + 1]]`.  The first of them is that of all
    rows, which says what is known of an entity.
    """

    program: Program
    windows: NDArray[np.int64]
    starts: Words
    seconds: int
    quantiles: bool

    @classmethod
    def of(cls, program: Program, layouts: Sequence[Layout]) -> TreeProgram:
        """What a program needs of trees; `layouts` are those of its views."""
        ready(FOR_TREES)
        tables: list[NDArray[np.int64]] = []
        for v, (view, layout) in enumerate(zip(program.views, layouts, strict=True)):
            cells = Cells.of(layout)
            groups = program.groups[program.groups[:, VIEW] == v]
            table = np.zeros((len(groups) + 1, WINDOW_COLUMNS), np.int64)
            table[0] = _all_rows(v, view)
            table[1:, : groups.shape[1]] = groups
            for row in table[1:]:
                _describe(row, program, cells, len(layout.columns))
            for cell in np.unique(table[:, CELL]):
                same = table[:, CELL] == cell
                table[same, WANTED] = np.bitwise_or.reduce(table[same, WANTED])
            nested = sorted(table[1:].tolist(), key=lambda row: _nesting(row, program))
            tables.append(np.array([table[0].tolist(), *nested], np.int64))
        sizes = [len(table) for table in tables]
        starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        seconds = max(program.second, default=-1) + 1
        windows = np.concatenate(tables)
        quantiles = bool((windows[:, WANTED] & QUANTILES).any())
        return cls(program, windows, starts, seconds, quantiles)

    def fold(self, trees: Sequence[tuple[int, int, int]], t: int) -> Fold:
        """What follows from trees at a moment, before any of their nodes was looked at."""
        return Fold(trees, t, self)


def _all_rows(number: int, view: FeatureView) -> Words:
    """The window of all rows of a view."""
    row = np.zeros(WINDOW_COLUMNS, np.int64)
    row[[WORD, HIGH, VALID, WHERE, LOW]] = -1
    row[VIEW], row[KIND] = number, NONE
    row[BEFORE], row[STEP] = view.bound == "before", view.step
    return row


def _describe(row: Words, program: Program, cells: Cells, columns: int) -> None:
    """Complete the columns of a window that is a group of the program."""
    nulls = row[ROWS] > 0 or row[SKIP_NULL] == 0
    if nulls:
        row[VALID] = -1
    filter_ = row[WHERE] - columns if row[WHERE] >= 0 else -1
    row[CELL] = cells.find(int(row[VALID]), int(filter_))
    row[NEEDS] = cells.table[row[CELL], CELL_NEEDS]
    for aggregate in program.aggregates[row[START] : row[STOP]]:
        function, n = int(aggregate[FUNCTION]), int(aggregate[N])
        newest = oldest = 0
        if row[ROWS] > 0:
            newest = int(row[ROWS])
        elif adds_up(function, int(row[KIND])):
            row[ADDS] = 1
            row[WANTED] |= needs_of(function)
        elif function in (FIRST, FIRST_N):
            oldest = n if function == FIRST_N else 1
        elif function in (LAST, LATEST, LAST_N):
            newest = n if function == LAST_N else 1
        else:
            newest = I64_MAX
        row[NEWEST_ROWS] = max(row[NEWEST_ROWS], newest)
        row[OLDEST_ROWS] = max(row[OLDEST_ROWS], oldest)


def _nesting(row: list[int], program: Program) -> tuple[int, ...]:
    """A key that puts windows of one cell and one end next to each other, shorter ones first."""
    if row[LOW] >= 0:
        size = 0, _UNITS.index(program.periods[row[LOW]][0])
    else:
        size = (1, row[LENGTH]) if row[LENGTH] > 0 else (2, 0)
    return row[CELL], row[OFFSET], *size


class Fold:
    """What follows at moment `t` from the nodes of trees.

    `trees` are, of each tree, the number of its root, the view and the entity whose events it has.
    Once `misses` gave none, `needed` is 1 for the nodes that are chunks whose events, as one row
    for each tree, give `evaluate_rows` what does not follow from summaries.
    """

    def __init__(
        self, trees: Sequence[tuple[int, int, int]], t: int, tree_program: TreeProgram
    ) -> None:
        program = tree_program.program
        outputs, count = program.outputs, len(trees)
        self.needed: Bytes = _NO_BYTES
        self._trees = np.array(trees, np.int64)
        self._t, self._lows = t, period_lows(t, program)
        self._program = tree_program
        self._results = (
            np.empty((outputs, count), np.int64),
            np.empty((tree_program.seconds, count), np.int64),
            np.empty((outputs, count), np.uint8),
            np.empty((count, outputs), np.int64),
            np.empty(count, np.int64),
        )

    def misses(
        self, words: Words, nodes: NDArray[np.int64], opened: Words
    ) -> list[tuple[int, int]]:
        """The children that must be at hand for exact results, as (node, child); each once.

        `nodes`   [n, 2] where in `words` a node begins; where in `opened` its children are, -1: a
                  chunk
        `opened`  the number of the node that each child is, -1 if it is not at hand; for each node
                  that is no chunk three times as many as it has children, see `forest.open_sketch`
        """
        each = self._program
        self.needed = np.zeros(len(nodes), np.uint8)
        misses = np.empty((len(opened), 2), np.int64)
        missed = cast("Any", fold_trees)(
            words,
            words.view(np.uint8),
            nodes,
            opened,
            self._trees,
            self._t,
            self._lows,
            each.windows,
            each.starts,
            each.program.aggregates,
            *self._results,
            self.needed,
            misses,
            # No chunk has more events than all nodes have words.
            thread_memory(SUMS_MEMORY + 8 * MAX_LIMBS + STACK + SCRATCH + len(words) + 2),
            bucket_memory(needed=each.quantiles),
        )
        return misses[:missed].tolist() if missed else []

    def put(self, answers: Answers) -> None:
        """Complete the answers that `evaluate_rows` gave for the rows of needed events."""
        each = self._program
        cast("Any", put_trees)(
            self._trees,
            each.windows,
            each.starts,
            each.program.aggregates,
            *self._results,
            answers.words,
            answers.second,
            answers.state,
            answers.time,
            answers.known,
        )


_NO_BYTES = np.empty(0, np.uint8)
