"""From rows to results: one call of the kernel for each part of a program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemark.kernel.layout import Layout, LayoutFeature
from tidemark.kernel.rows import Answers, Program, evaluate_rows
from tidemark.model.graph import FeatureView

if TYPE_CHECKING:
    from tidemark.kernel.tree import Fold, TreeProgram
    from tidemark.online.rows.joining import Join

Words = NDArray[np.int64]

_AS_THEY_ARE = {"count", "first", "last", "latest", "first_n", "last_n"}
"""Functions that do not compare values."""


class Part:
    """Features that are computed together, for the same entities.

    `places` are those of the features in the program, `views` those of their views.
    """

    def __init__(
        self,
        features: Sequence[tuple[FeatureView, Layout, str]],
        places: Sequence[int],
        views: Sequence[int],
    ) -> None:
        self.kernel = Program.of([features[place] for place in places])
        self.places = np.array(places, np.int64)
        self.output_of = {place: output for output, place in enumerate(places)}
        self.views = tuple(views)
        self.layouts = tuple(
            next(layout for view, layout, _ in features if view == wanted)
            for wanted in self.kernel.views
        )
        self._features = [features[place] for place in places]

    @cached_property
    def trees(self) -> TreeProgram:
        """How the features are computed from the summaries of large entities."""
        from tidemark.kernel.tree import TreeProgram

        return TreeProgram.of(self.kernel, self.layouts)

    @cached_property
    def joins(self) -> list[Join]:
        """For each view, how chunks of a large entity become one row."""
        from tidemark.online.rows.joining import Join

        found: list[Join] = []
        for wanted, layout in zip(self.kernel.views, self.layouts, strict=True):
            mine = [layout.feature(name) for view, _, name in self._features if view == wanted]
            found.append(Join(layout, _columns(mine)))
        return found


def _columns(features: Sequence[LayoutFeature]) -> dict[int, bool]:
    """The columns that features read, and whether some need more than the values of events."""
    found: dict[int, bool] = {}
    for each in features:
        if each.column >= 0:
            ranked = each.aggregate.function not in _AS_THEY_ARE
            found[each.column] = found.get(each.column, False) or ranked
    return found


class Rows(NamedTuple):
    """The rows that a part reads.

    `at[v, d]` is where in the words the row of its view v and distinct entity d begins, -1 where
    there is none, see also `kernel.rows.beside`; `entity_of[k]` is the distinct entity of the k-th
    set of keys (None: the k-th).  `fold` is what was computed from summaries.
    """

    part: Part
    at: Words
    entity_of: Words | None
    fold: Fold | None


class Found:
    """The results of a program for K sets of keys.

    `words`, `state` and `time` are [F, K], `known` is [V, K], as in `Answers`.
    """

    def __init__(self, words: Words, parts: Sequence[Rows], at: int, entities: int) -> None:
        self._parts = parts
        self._answers = answers = list[Answers]()
        for each in parts:
            answer = evaluate_rows(words, each.at, at, each.part.kernel)
            if each.fold is not None:
                each.fold.put(answer)
            answers.append(answer)
        if len(parts) == 1 and parts[0].entity_of is None:
            (only,) = answers
            self.words, self.state = only.words, only.state
            self.time, self.known = only.time, only.known
            return
        shape = sum(len(each.part.places) for each in parts), entities
        self.words, self.time = np.empty(shape, np.int64), np.empty(shape, np.int64)
        self.state = np.empty(shape, np.uint8)
        views = sum(len(each.part.views) for each in parts)
        self.known = np.empty((views, entities), np.int64)
        for each, answer in zip(parts, answers, strict=True):
            which = slice(None) if each.entity_of is None else each.entity_of
            self.words[each.part.places] = answer.words[:, which]
            self.time[each.part.places] = answer.time[:, which]
            self.state[each.part.places] = answer.state[:, which]
            self.known[list(each.part.views)] = answer.known[:, which]

    def high(self, place: int) -> Words:
        """The high words of a feature, int64[K]."""
        answer, output, entity_of = self._result(place)
        high: Words = answer.high[output]
        return high if entity_of is None else high[entity_of]

    def list(self, place: int, row: int) -> Words:
        """The words or codes of a list."""
        answer, output, entity_of = self._result(place)
        return answer.list(output, row if entity_of is None else int(entity_of[row]))

    def _result(self, place: int) -> tuple[Answers, int, Words | None]:
        """Where the result of a feature is: of a part, its output, and the entities of the part."""
        for each, answer in zip(self._parts, self._answers, strict=True):
            output = each.part.output_of.get(place)
            if output is not None:
                return answer, output, each.entity_of
        raise KeyError(place)
