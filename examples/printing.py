"""How the examples say what they found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

console = Console(highlight=False)


def heading(number: str, title: str, about: str) -> None:
    """Begin a section."""
    console.print(f"\n[bold]{number}  {title}[/]  [dim]{about}[/]")


def facts(*rows: tuple[str, ...]) -> None:
    """Print names and what is to say of them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=12)
    for row in rows:
        table.add_row(*row)
    console.print(Padding(table, (0, 0, 0, 3), expand=False))


def note(text: str) -> None:
    """Print a remark."""
    console.print(Padding(Text(text, style="italic"), (0, 0, 0, 3), expand=False))


def verdict(differing: int) -> str:
    """How many differ, in the colour of it."""
    return f"[bold {'red' if differing else 'green'}]{differing:,}[/]"


def percentiles(seconds: Sequence[float]) -> str:
    """The median and the 99th percentile in milliseconds."""
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work gives, and the seconds that it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began
