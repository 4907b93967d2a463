"""What holds where a definition does not say: a named, versioned set that a project chooses."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from tidemark.model.graph import FeatureView, Source
from tidemark.model.window import Bound


class Defaults(msgspec.Struct, frozen=True, gc=False):
    """The bound, the zone of times without one (empty: such a time is an error), and the delay.

    They are written into definitions when these are read, so that nothing published leaves them
    unsaid and no later set changes it.  `delay` (microseconds) passes until an event is seen.
    The null rule is the kernel's: aggregates skip null, and of nothing the count family is 0.
    """

    name: str = "tidemark-1"
    bound: Bound = "at"
    zone: str = ""
    delay: int = 0

    def of_view(self, view: FeatureView, unsaid: Collection[str]) -> FeatureView:
        """The view, with what is unsaid of it."""
        return msgspec.structs.replace(view, bound=self.bound) if "bound" in unsaid else view

    def of_source(self, source: Source, unsaid: Collection[str]) -> Source:
        """The source, with what is unsaid of it; facts without a time have neither."""
        if source.time is None:
            return source
        if "timezone" in unsaid:
            source = msgspec.structs.replace(source, timezone=self.zone)
        if "delay" in unsaid and source.seen is None:
            source = msgspec.structs.replace(source, delay=self.delay)
        return source


BUILT_IN = Defaults()
