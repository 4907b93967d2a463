"""A line on the terminal for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar, TaskID

_PATIENCE = 1.0  # seconds before anything is shown


class Progress:
    """Shows on stderr, where that is a terminal, which view is read and how many rows have come.

    One that is `quiet` shows nothing: it is part of something that has a line of its own.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._began = time.monotonic()
        self._what, self._count = "", 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def begin(self, what: str, count: int = 0) -> None:
        """Say what is read from now on, and how much of it has come already."""
        self._what, self._count = what, count
        self.rows(0)

    def rows(self, count: int) -> None:
        """Count rows that have come."""
        self._count += count
        if not self._shown or time.monotonic() - self._began < _PATIENCE:
            return
        if self._bar is None or self._task is None:
            self._bar, self._task = _bar()
        self._bar.update(self._task, description=self._what, rows=f"{self._count:,} rows")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn

    text, rows = TextColumn("{task.description}"), TextColumn("{task.fields[rows]}")
    console = Console(stderr=True)
    bar = Bar(text, BarColumn(), rows, TimeElapsedColumn(), console=console, transient=True)
    bar.start()
    return bar, bar.add_task("", total=None, rows="")
