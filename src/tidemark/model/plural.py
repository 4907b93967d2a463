"""Numbers of things in sentences for people."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """`1 event` or `1,204 events`; `several` where that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
