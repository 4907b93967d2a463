"""Which events a row may forget when it answers recent moments only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tidemark.engines.state import Partition
from tidemark.kernel import Timeline
from tidemark.model.graph import FeatureView
from tidemark.online.codec import NEVER


def retained(partition: Partition, view: FeatureView, floor: int) -> Partition:
    """The partition without the events that matter at no moment from `floor` (microseconds) on.

    One event that stays visible is kept for each entity, so that it remains a known one.
    """
    windows = [feature.aggregate.window for feature in view.features]
    reach = [window.reach for window in windows if window.reach is not None]
    if len(reach) < len(windows):
        return partition
    timeline = partition.timeline
    known = timeline.time if timeline.known is None else np.maximum(timeline.known, timeline.time)
    until = np.full(len(known), NEVER) if timeline.until is None else timeline.until
    needed = (timeline.time >= floor - max(reach) - 1) & (until > floor)
    lasting = np.flatnonzero((known <= floor) & (until == NEVER))
    segments = np.repeat(np.arange(len(timeline.starts) - 1), np.diff(timeline.starts))
    newest = np.full(len(timeline.starts) - 1, -1)
    newest[segments[lasting]] = lasting
    keep = needed | (newest < 0)[segments]
    keep[newest[newest >= 0]] = True
    before = np.concatenate(([0], np.cumsum(keep)))
    return Partition(
        partition.keys,
        Timeline(
            before[timeline.starts],
            timeline.time[keep],
            None if timeline.known is None else timeline.known[keep],
            None if timeline.until is None else timeline.until[keep],
        ),
        tuple(
            replace(
                column,
                words=column.words[keep],
                high=None if column.high is None else column.high[keep],
                valid=column.valid[keep],
            )
            for column in partition.columns
        ),
        tuple(flags[keep] for flags in partition.filters),
    )
