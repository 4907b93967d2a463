"""New events among those that rows hold already, in the one order that events have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tidemark.kernel import Timeline
from tidemark.kernel.layout import InputColumn, Layout
from tidemark.online.rows.codec import NEVER, Column, EventColumn, Events, Unpacked
from tidemark.online.rows.dictionaries import encoded, joined, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_ONE_BY_ONE = 8
"""New events of one entity that are compared with its old ones one by one."""


class Combined(NamedTuple):
    """The old and the new events of some entities together.

    `undecided` (bool for each entity) tells where bytes do not say what the events are together: a
    new one has the time and the moment of being known of an old one, or its identity.
    """

    events: Unpacked
    undecided: Flags


def combine(layout: Layout, old: Unpacked, new: Events, *, told_apart: bool = False) -> Combined:
    """Put the new events of each entity where they belong among its old ones.

    Both have a segment for each entity, in the same order.  `told_apart` says that no new event
    has the identity of an old one, which is not looked at then.
    """
    starts = new.timeline.starts
    segments = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    before, tied = _positions(old.timeline, new.timeline, segments)
    undecided = np.zeros(len(starts) - 1, np.bool_)
    undecided[segments[tied]] = True
    if not told_apart and old.identities is not None and new.identities is not None:
        undecided |= _recurring(old.identities, old.timeline.starts, new.identities, starts)
    weave = _Weave(before + np.arange(len(before)), len(before) + len(old.timeline.time))
    timeline = Timeline(
        old.timeline.starts + starts,
        weave(old.timeline.time, new.timeline.time),
        *_bounds(weave, old.timeline, new.timeline),
    )
    columns = tuple(
        _column(weave, each, mine, theirs)
        for each, mine, theirs in zip(layout.columns, old.columns, new.columns, strict=True)
    )
    filters = tuple(weave(*pair) for pair in zip(old.filters, new.filters, strict=True))
    identities = new.identities
    if identities is not None:
        none = np.zeros(len(old.timeline.time), np.int64)
        identities = weave(none if old.identities is None else old.identities, identities)
    return Combined(Unpacked(timeline, columns, filters, identities), undecided)


def kept(events: Events, keep: Flags) -> Unpacked:
    """The events that are to stay; every segment stays, if only as an empty one."""
    before = np.concatenate(([0], np.cumsum(keep)))
    return _taken(events, keep, before[events.timeline.starts])


def part(events: Events, starts: Words) -> Unpacked:
    """The events from `starts[0]` to `starts[-1]`, cut into segments that begin at `starts`."""
    return _taken(events, slice(int(starts[0]), int(starts[-1])), starts - starts[0])


def pick(events: Events, segments: Words) -> Unpacked:
    """Some segments of events, in this order."""
    starts = events.timeline.starts
    counts = np.diff(starts)[segments]
    return _taken(events, spread(starts[segments], counts), np.cumsum(np.append(0, counts)))


def recut(events: Unpacked, starts: Words) -> Unpacked:
    """The same events in other segments."""
    return replace(events, timeline=replace(events.timeline, starts=starts))


def _taken(events: Events, which: Any, starts: Words) -> Unpacked:
    """The events at these places, or with these flags."""
    timeline = events.timeline
    return Unpacked(
        Timeline(
            starts,
            timeline.time[which],
            None if timeline.known is None else timeline.known[which],
            None if timeline.until is None else timeline.until[which],
        ),
        tuple(
            Column(
                column.words[which],
                None if column.high is None else column.high[which],
                column.valid[which],
                column.dictionary,
            )
            for column in events.columns
        ),
        tuple(flags[which] for flags in events.filters),
        None if events.identities is None else events.identities[which],
    )


class _Weave:
    """Puts new values at `places` of the result, and the old ones into the rest in their order."""

    def __init__(self, places: Words, size: int) -> None:
        self._places = places
        self._rest = np.ones(size, np.bool_)
        self._rest[places] = False

    def __call__(self, old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(len(self._rest), old.dtype)
        out[self._places] = new
        out[self._rest] = old
        return out


def _known(timeline: Timeline) -> Words:
    known = timeline.known
    return timeline.time if known is None else np.maximum(known, timeline.time)


def _positions(old: Timeline, new: Timeline, segments: Words) -> tuple[Words, Flags]:
    """How many old events, of all entities, come before each new one; and where two are tied."""
    time, known = new.time, _known(new)
    times, knowns = old.time, _known(old)
    low, high = old.starts[segments], old.starts[segments + 1]
    begins = low.copy()
    while (searched := low < high).any():
        middle = np.where(searched, (low + high) // 2, 0)
        at = times[middle]
        after = searched & ((at < time) | ((at == time) & (knowns[middle] <= known)))
        low = np.where(after, middle + 1, low)
        high = np.where(searched & ~after, middle, high)
    tied = low > begins
    last = low[tied] - 1
    tied[tied] = (times[last] == time[tied]) & (knowns[last] == known[tied])
    return low, tied


def _recurring(old: Words, old_starts: Words, new: Words, starts: Words) -> Flags:
    """For each entity, whether an identity of its new events is among those of its old ones."""
    found = np.zeros(len(starts) - 1, np.bool_)
    counts, sizes = np.diff(starts), np.diff(old_starts)
    rounds = min(int(counts.max(initial=0)), _ONE_BY_ONE)
    for nth in range(rounds):
        there = counts > nth
        wanted = np.zeros(len(counts), np.int64)
        wanted[there] = new[starts[:-1][there] + nth]
        same = (old == np.repeat(wanted, sizes)) & (old != 0)
        found[np.searchsorted(old_starts, np.flatnonzero(same), "right") - 1] = True
    for segment in np.flatnonzero(counts > rounds).tolist():
        mine = new[starts[segment] : starts[segment + 1]]
        theirs = old[old_starts[segment] : old_starts[segment + 1]]
        found[segment] = bool(np.isin(mine[mine != 0], theirs).any())
    return found


def _bounds(weave: _Weave, old: Timeline, new: Timeline) -> tuple[Words | None, Words | None]:
    known = until = None
    if old.known is not None or new.known is not None:
        known = weave(_known(old), _known(new))
    if old.until is not None or new.until is not None:
        until = weave(_until(old), _until(new))
    return known, until


def _until(timeline: Timeline) -> Words:
    return np.full(len(timeline.time), NEVER) if timeline.until is None else timeline.until


def _column(weave: _Weave, each: InputColumn, old: Column, new: EventColumn) -> Column:
    high = None
    if old.high is not None and new.high is not None:
        high = weave(old.high, new.high)
    valid = weave(old.valid, new.valid)
    if each.form != "code":
        return Column(weave(old.words, new.words), high, valid, None)
    mine, theirs = encoded(old.dictionary, each.type), encoded(new.dictionary, each.type)
    if mine == theirs:
        return Column(weave(old.words, new.words), high, valid, mine)
    dictionary, places = joined([mine, theirs], each.type)
    # A null has any word, which need not be a place in a dictionary.
    words = weave(
        _at(places[: len(mine)], old.words, old.valid),
        _at(places[len(mine) :], new.words, new.valid),
    )
    return Column(words, high, valid, dictionary)


def _at(places: Words, words: Words, valid: Flags) -> Words:
    out = np.zeros(len(words), np.int64)
    out[valid] = places[words[valid]]
    return out
