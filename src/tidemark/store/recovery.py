"""What was left by a process, or a machine, that died: events of the log that no read counts yet.

Whoever pushes counts them.  Where nobody does, they are counted before a process reads a source for
the first time, and by a server as long as it runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from tidemark.errors import EngineError, TidemarkError
from tidemark.model.graph import Definitions, Output
from tidemark.store.project import Project
from tidemark.store.pushing import Pushing
from tidemark.store.reading import Readers

MOVING_SECONDS = 0.05
"""Within which the state of a source moves on, if a process is counting its events."""

_log = logging.getLogger("tidemark")


class Recovery:
    """Counts events that somebody has left in the log, where nobody else is at it.

    Nothing depends on whether that is told rightly: if two processes count the same events, only
    one of them changes the state.
    """

    def __init__(self, project: Project, readers: Readers, pushing: Pushing) -> None:
        self._project, self._readers, self._pushing = project, readers, pushing
        self._looking = threading.Lock()
        self._looked: set[str] = set()
        self._left: dict[str, int] = {}
        readers.before_reading = self.before_reading

    def before_reading(self, definitions: Definitions, outputs: Sequence[Output]) -> None:
        """Count what is left of the sources of some outputs, each looked at once in this process.

        Where that cannot be done, as in a store that cannot be written, a warning is logged, and
        reads are of the state as it is.  Where it can never be done, as the log is damaged and what
        it acknowledged is not in the state, nothing is answered: `EngineError`.
        """
        needed = definitions.needed(each.reference for each in outputs)
        views = {each.owner for each in needed if each.kind == "feature"}
        for name in sorted({definitions.view(view).source for view in views} - self._looked):
            with self._looking:
                if name not in self._looked and self._made_up_for(definitions, name):
                    self._looked.add(name)

    def counted_here(self, names: Iterable[str]) -> None:
        """Note that this process writes the state of sources itself, and counts what it finds."""
        self._looked.update(names)

    def watch(self) -> None:
        """Count what was left at the last call, too, and has not become less since."""
        before, self._left = self._left, {}
        if not self._project.has_log:
            return
        definitions = self._readers.snapshot().definitions
        for source in definitions.sources:
            left = None if source.time is None else self._of(definitions, source.name)
            if left is not None and left == before.get(source.name):
                self._pushing.catch_up(source.name)
            elif left is not None:
                self._left[source.name] = left

    def _made_up_for(self, definitions: Definitions, name: str) -> bool:
        """Have what is left of a source counted, by this process or another; False if it is not."""
        if not self._project.has_log:
            return True
        try:
            left = self._of(definitions, name)
            if left is None:
                return True
            time.sleep(MOVING_SECONDS)
            if self._of(definitions, name) == left:
                self._pushing.catch_up(name)
        except TidemarkError as error:
            if isinstance(error, EngineError) and self._pushing.applier.lacks(definitions, name):
                raise
            _log.warning("events of %s in the log may not be counted: %s", name, error)
            return False
        return True

    def _of(self, definitions: Definitions, name: str) -> int | None:
        return self._pushing.applier.left(definitions, name)
