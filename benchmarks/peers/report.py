"""Medians and ratios as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

Clocks = dict[str, dict[str, list[list[float]]]]
"""Microseconds of each call, by job and contender, for each round."""


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share of all does not exceed."""
    return sorted(values)[min(int(len(values) * q), len(values) - 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with a blank line after it."""
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """How many times ours theirs is, as the median over rounds."""
    return f"{median(a / b for a, b in zip(theirs, ours, strict=True)):,.1f}"


def versus(
    found: Mapping[str, Sequence[float]], shown: Callable[[float], str], *, more_is_better: bool
) -> list[str]:
    """The medians of four contenders, and how many times better the first two are than theirs."""
    names = list(found)
    cells = [shown(median(found[name])) for name in names]
    for ours, theirs in ((names[0], names[2]), (names[1], names[3])):
        better, worse = (
            (found[ours], found[theirs])
            if more_is_better
            else (
                found[theirs],
                found[ours],
            )
        )
        cells.append(ratio(better, worse))
    return cells


def head(first: str, contenders: Sequence[str]) -> list[str]:
    """The columns of every table."""
    return [first, *contenders, "embedded: times", "Redis: times"]


def in_process(clocks: Clocks, materialized: int) -> str:
    """The jobs of one process: p50 and p99 of calls, rows a second of materialization."""
    jobs = dict(clocks)
    written = jobs.pop("materialize")
    rows: list[list[str]] = []
    for job, by_name in jobs.items():
        for label, q in (("p50", 0.5), ("p99", 0.99)):
            found = {name: [quantile(one, q) for one in rounds] for name, rounds in by_name.items()}
            cells = versus(found, lambda value: f"{value:,.0f}", more_is_better=False)
            rows.append([f"{job}, {label} us", *cells])
    rates = {
        name: [materialized / (one[0] / 1e6) for one in rounds] for name, rounds in written.items()
    }
    cells = versus(rates, lambda value: f"{value:,.0f}", more_is_better=True)
    rows.append(["materialize, rows/s", *cells])
    return table(head("in process", list(written)), rows)
