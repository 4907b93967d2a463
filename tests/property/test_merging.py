"""Rows that grow event by event have the bytes of rows that were written at once."""

from random import Random

import numpy as np
import pytest
from tests.property.stored import LAYOUT, as_events, event, total_order
from tests.rows import unpack

from tidemark.online.rows import codec
from tidemark.online.rows.joining import Join
from tidemark.online.rows.merging import combine


@pytest.mark.parametrize("seed", range(60))
def test_what_is_unpacked_packs_to_the_same_bytes(seed: int) -> None:
    """Nulls, codes, decimals, moments of being known and replaced, rows without events."""
    random = Random(seed)
    entities = random.randrange(1, 8)
    events = [
        event(random, random.randrange(entities), n + 1, 30) for n in range(random.randrange(60))
    ]
    identified = random.random() < 0.5
    rows = codec.pack(LAYOUT, as_events(events, entities, identified=identified))
    unpacked = codec.unpack_rows(LAYOUT, rows)
    assert codec.pack(LAYOUT, unpacked) == rows
    gaps = [row if random.random() < 0.7 else None for row in rows]
    again = codec.pack(LAYOUT, codec.unpack_rows(LAYOUT, gaps))
    empty = codec.pack(LAYOUT, as_events([], 1, identified=identified))[0]
    there = any(gaps)
    assert [row for row in again if there] == [row or empty for row in gaps if there]


@pytest.mark.parametrize("seed", range(120))
def test_old_and_new_events_are_the_row_of_all(seed: int) -> None:
    """Or the entity is undecided: where two events tie, or an identity comes again."""
    random = Random(seed)
    entities = random.randrange(1, 6)
    identified = random.random() < 0.7
    events = [
        event(random, random.randrange(entities), n + 1, random.choice((5, 40, 1000)))
        for n in range(random.randrange(80))
    ]
    share = random.random()
    old = [each for each in events if random.random() < share]
    new = [each for each in events if each not in old]
    if identified and old and random.random() < 0.3:
        again = random.choice(old)
        new.append(event(random, again.entity, again.identity, 1000))
    rows = codec.pack(LAYOUT, as_events(old, entities, identified=identified))
    stored = [row if any(each.entity == n for each in old) else None for n, row in enumerate(rows)]
    combined = combine(
        LAYOUT,
        codec.unpack_rows(LAYOUT, stored),
        as_events(new, entities, identified=identified),
    )
    wanted = codec.pack(LAYOUT, as_events(old + new, entities, identified=identified))
    for n, (got, whole) in enumerate(zip(codec.pack(LAYOUT, combined.events), wanted, strict=True)):
        mine = [each for each in old if each.entity == n]
        moments = {total_order(each)[:2] for each in mine}
        identities = {each.identity for each in mine}
        undecided = any(
            total_order(each)[:2] in moments or (identified and each.identity in identities)
            for each in new
            if each.entity == n
        )
        assert bool(combined.undecided[n]) == undecided
        assert undecided or got == whole


@pytest.mark.parametrize("seed", range(40))
def test_rows_that_are_joined_hold_the_values_that_are_read(seed: int) -> None:
    """Some columns of several rows in one, with all that decides which events count."""
    random = Random(seed)
    chunks = random.randrange(1, 6)
    events = [event(random, random.randrange(chunks), n + 1, 30) for n in range(60)]
    events += [event(random, n, 100 + n, 30) for n in range(chunks)]
    rows = codec.pack(LAYOUT, as_events(events, chunks, identified=random.random() < 0.5))
    columns = {column: random.random() < 0.5 for column in range(6) if random.random() < 0.5}
    sizes = [len(row) // 8 for row in rows]
    starts = [sum(sizes[:place]) for place in range(chunks)]
    words = np.frombuffer(b"".join(rows), np.int64)
    joined = unpack(LAYOUT, Join(LAYOUT, columns).row(words, starts).tobytes())
    parts = [unpack(LAYOUT, row) for row in rows]
    for name in ("time", "known", "ended"):
        assert getattr(joined, name) == [each for part in parts for each in getattr(part, name)]
    for place in range(2):
        assert joined.filters[place] == [each for part in parts for each in part.filters[place]]
    for column in columns:
        wanted = [each for part in parts for each in part.columns[column]]
        assert joined.columns[column] == wanted
