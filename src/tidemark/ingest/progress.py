"""What a terminal shows of work that takes more than a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

Tell = Callable[[str, int], None]
"""Is told the view and the entities written so far."""


@contextmanager
def shown(wanted: bool | None) -> Generator[Tell]:
    """A function to tell of progress; it shows on a terminal what takes more than a second."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not (console.is_terminal if wanted is None else wanted):
        yield lambda _view, _entities: None
        return
    text = TextColumn("materialize {task.description}  {task.completed:,} entities")
    bar = Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True)
    task = bar.add_task("")
    appear = threading.Timer(1.0, bar.start)
    appear.daemon = True
    appear.start()
    try:
        yield lambda view, entities: bar.update(task, description=view, completed=entities)
    finally:
        appear.cancel()
        bar.stop()
