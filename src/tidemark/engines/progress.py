"""A line on the terminal for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar, TaskID

_PATIENCE = 1.0  # seconds before anything is shown


class Progress:
    """Shows on stderr, where that is a terminal, what is read or written and how many rows.

    Of rows whose number is known it also says how fast, and how long those that are left will take.
    One that is `quiet` shows nothing: it is part of something that has a line of its own.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._began = time.monotonic()
        self._what, self._count, self._total = "", 0, 0
        self._since, self._before = self._began, 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def begin(self, what: str, count: int = 0, *, total: int = 0) -> None:
        """Say what is read or written from now on, how much of it has come, and how much it is.

        A `total` of 0 is unknown.
        """
        self._what, self._count, self._total = what, count, total
        self._since, self._before = time.monotonic(), count
        self.rows(0)

    def rows(self, count: int) -> None:
        """Count rows that have come."""
        self._count += count
        if not self._shown or time.monotonic() - self._began < _PATIENCE:
            return
        if self._bar is None or self._task is None:
            self._bar, self._task = _bar()
        seconds = time.monotonic() - self._since
        said = progress_text(self._count, self._total, self._count - self._before, seconds)
        total = self._total or None
        self._bar.update(
            self._task, description=self._what, completed=self._count, total=total, rows=said
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def progress_text(count: int, total: int, new: int, seconds: float) -> str:
    """How many rows have come, the `new` ones in so many seconds, and how long the others take."""
    if not total:
        return f"{count:,} rows"
    said = f"{min(count, total):,} of {total:,} rows"
    if not new or seconds <= 0:
        return said
    speed = new / seconds
    left = max(0, round((total - count) / speed))
    minutes, rest = divmod(left, 60)
    lasting = f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else ""
    return f"{said}, {speed:,.0f} rows/s, {lasting or f'{minutes}:{rest:02}'} left"


def _bar() -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn

    text, rows = TextColumn("{task.description}"), TextColumn("{task.fields[rows]}")
    console = Console(stderr=True)
    bar = Bar(text, BarColumn(), rows, TimeElapsedColumn(), console=console, transient=True)
    bar.start()
    return bar, bar.add_task("", total=None, rows="")
