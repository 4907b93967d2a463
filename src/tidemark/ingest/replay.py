"""Dead letters are looked at again, after what was wrong with them was put right."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from tidemark.engines.log import Batch, Letter, Settled
from tidemark.errors import NotFound
from tidemark.ingest.push import letters
from tidemark.ingest.validate import Bounds, table_of
from tidemark.model.graph import Source
from tidemark.model.window import clock

if TYPE_CHECKING:
    from tidemark.engines.log import EventLog

AT_ONCE = 10_000
"""Dead letters that are replayed together."""


@dataclass(frozen=True)
class Replayed:
    """What became of dead letters.

    Of those that are good now, `accepted` are events that count from now on and `duplicates` were
    there already, with the same content; both are dead letters no more.  The `refused` stay, each
    with the reasons that it has now.
    """

    accepted: int
    duplicates: int
    refused: int


def replay(
    log: EventLog, source: Source, bounds: Bounds, numbers: Collection[int] | None
) -> Replayed:
    """Append the dead letters (None: all) that are good now; each in one step with leaving them.

    What was replayed before is left out.  Raises `NotFound` for a number that never was one, and
    `StoreConflict` if another process replays the same ones.
    """
    accepted = duplicates = refused = 0
    for found in _asked(log, source.name, numbers):
        # A stream may have columns that its source does not declare; a push may not.
        for strict in (True, False):
            several = [each for each in found if strict != bool(each.origin)]
            if several:
                done = _replayed(log, source, bounds, several, strict=strict)
                accepted += done.accepted
                duplicates += done.duplicates
                refused += done.refused
    return Replayed(accepted, duplicates, refused)


def _asked(log: EventLog, name: str, numbers: Collection[int] | None) -> Iterator[Sequence[Letter]]:
    if numbers is None:
        after = 0
        while found := log.buried(name, after, AT_ONCE):
            yield found
            after = found[-1].number
        return
    last = log.count_buried(name)
    unknown = [number for number in numbers if not 1 <= number <= last]
    if unknown:
        raise NotFound(
            f"There is no dead letter {unknown[0]} of {name}.",
            where=f"they are numbered from 1 to {last}" if last else "there are none",
        )
    found = [each for number in sorted({*numbers}) for each in log.buried(name, number - 1, 1)]
    yield [each for each in found if each.number in numbers]


def _replayed(
    log: EventLog, source: Source, bounds: Bounds, found: Sequence[Letter], *, strict: bool
) -> Replayed:
    """Check letters again; the good ones are appended, in one transaction with the note of it."""
    lines, texts, reasons = list[Letter](), list[bytes](), list[tuple[int, tuple[str, ...]]]()
    for each in found:
        text = _line(each.row)
        if text is None:
            reasons.append((each.number, ("(row) is not a JSON object",)))
        else:
            lines.append(each)
            texts.append(text)
    if not lines:
        return Replayed(0, 0, len(found))
    checked = table_of(
        source, b"\n".join(texts), bounds=bounds, unknown="refuse" if strict else "ignore"
    )
    bad = sorted({each.row for each in checked.bad})
    again = letters(checked)
    reasons += [(lines[row].number, each.reasons) for row, each in zip(bad, again, strict=True)]
    good: list[int] = checked.good.tolist()
    taken = tuple(lines[row].number for row in good)
    settled = Settled(taken, tuple(reasons))
    (done,) = log.append_all(source, [Batch(checked.rows, settled=settled)], seen=clock())
    return Replayed(done.accepted, done.duplicates, len(reasons))


def _line(row: str) -> bytes | None:
    """A row as one line of JSON; None if it is no object."""
    try:
        msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return row.replace("\n", " ").replace("\r", " ").encode()  # between values; never within one
