"""Which events a row may forget when it answers recent moments only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidemark.model.graph import FeatureView
from tidemark.online.rows.codec import HAS_UNTIL, HEADER, NEVER, Events, Unpacked
from tidemark.online.rows.merging import kept


@dataclass(frozen=True)
class Retention:
    """Moments of at least `floor` are answered, and no window of theirs reaches back to `low`."""

    floor: int
    low: int

    @classmethod
    def of(cls, view: FeatureView, floor: int) -> Retention | None:
        """What a view may forget that answers from `floor` (microseconds) on; None: nothing."""
        reach = view.reach
        return cls(floor, floor - reach - 1) if view.features and reach is not None else None

    def touches(self, row: bytes) -> bool:
        """Whether a row may have events to forget: old ones, or such as were replaced."""
        oldest = int.from_bytes(row[8 * HEADER : 8 * HEADER + 8], "little", signed=True)
        return oldest < self.low or row[6] & HAS_UNTIL != 0

    def retained(self, events: Events) -> Unpacked:
        """The events without those that matter at no moment from `floor` on.

        One event that stays visible is kept for each entity, so that it remains a known one.
        """
        timeline = events.timeline
        time, starts = timeline.time, timeline.starts
        known = time if timeline.known is None else np.maximum(timeline.known, time)
        until = np.full(len(known), NEVER) if timeline.until is None else timeline.until
        needed = (time >= self.low) & (until > self.floor)
        lasting = np.flatnonzero((known <= self.floor) & (until == NEVER))
        segments = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        newest = np.full(len(starts) - 1, -1)
        newest[segments[lasting]] = lasting
        keep = needed | (newest < 0)[segments]
        keep[newest[newest >= 0]] = True
        return kept(events, keep)
