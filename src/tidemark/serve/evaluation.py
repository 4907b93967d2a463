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
    from tidemark.kernel.tree import Folded, TreeProgram

Words = NDArray[np.int64]

_AS_THEY_ARE = {"count", "first", "last", "latest", "first_n", "last_n"}
"""Functions that do not compare values."""


class Part:
    """Features that are computed together, for the same entities.

    `places` are those of the features in the program, `views` those of their views.  For each of
    these, `columns` are the columns of its layout that are read, and whether the order of values
    counts.
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
        mine = [features[place] for place in places]
        self.columns = tuple(
            _columns([layout.feature(name) for view, layout, name in mine if view == wanted])
            for wanted in self.kernel.views
        )

    @cached_property
    def trees(self) -> TreeProgram:
        """How the features are computed from the summaries of large entities."""
        from tidemark.kernel.tree import TreeProgram

        return TreeProgram.of(self.kernel, self.layouts)


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
    there is none; `entity_of[k]` is the distinct entity of the k-th set of keys (None: the k-th).
    `folded` is what was computed from summaries.
    """

    part: Part
    at: Words
    entity_of: Words | None
    folded: Folded | None


class Found:
    """The results of a program for K sets of keys.

    `words`, `state` and `time` are [F, K], `known` is [V, K], as in `Answers`.
    """

    def __init__(self, words: Words, parts: Sequence[Rows], at: int, entities: int) -> None:
        self._parts = parts
        self._answers = answers = list[Answers]()
        for each in parts:
            rows = each.at if each.folded is None else each.folded.beside(each.at)
            answer = evaluate_rows(words, rows, at, each.part.kernel)
            if each.folded is not None:
                each.folded.put(answer)
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
