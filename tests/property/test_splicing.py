"""Events spliced into rows: the bytes are those that packing all events at once gives."""

from dataclasses import replace
from random import Random

import pytest
from tests.property.stored import LAYOUT, TEXTUAL, Event, as_events, event, total_order

from tidemark.errors import StoreUnavailable
from tidemark.online.rows import codec, splicing
from tidemark.online.rows.codec import NEVER
from tidemark.online.rows.splicing import can_splice, count_of, splice


def some_events(random: Random, entities: int, first: int, count: int, times: int) -> list[Event]:
    """So many events of any entities."""
    return [event(random, random.randrange(entities), first + n, times) for n in range(count)]


@pytest.mark.parametrize("seed", range(150))
def test_old_and_new_events_are_the_row_of_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nulls, NaN, late ones, replaced ones, decimals, new values and values that are there.

    A row is undecided where a new event has the time and the moment of being known of an old one.
    """
    random = Random(seed)
    monkeypatch.setattr(splicing, "AT_ONCE", random.choice((1, 100, 1_000, splicing.AT_ONCE)))
    entities, times = random.choice((1, 3, 8)), random.choice((3, 30, 1_000, 100_000))
    identified, corrected = random.random() < 0.7, random.random() < 0.5
    old = some_events(random, entities, 1, random.choice((0, 1, 7, 40, 300)), times)
    new = [event(random, entity, 1_000 + entity, times) for entity in range(entities)]
    new += some_events(random, entities, 2_000, random.choice((0, 3, 60)), times)
    if not corrected:
        old, new = ([replace(each, until=NEVER) for each in some] for some in (old, new))

    def packed(events: list[Event]) -> list[bytes]:
        mine = as_events(events, entities, identified=identified, layout=TEXTUAL)
        return codec.pack(TEXTUAL, mine)

    stored = [row if count_of(row) else None for row in packed(old)]
    arrived = as_events(new, entities, identified=identified, layout=TEXTUAL)
    done = splice(TEXTUAL, stored, arrived)
    for entity, (row, whole) in enumerate(zip(done.rows, packed(old + new), strict=True)):
        mine = [total_order(each)[:2] for each in old if each.entity == entity]
        theirs = [total_order(each)[:2] for each in new if each.entity == entity]
        undecided = any(each in mine for each in theirs)
        assert bool(done.undecided[entity]) == undecided
        assert row == (b"" if undecided else whole)
        if not undecided:
            assert done.first[entity] == sum(each <= min(theirs) for each in mine)


@pytest.mark.parametrize("seed", range(8))
def test_a_dictionary_may_be_long_and_its_values_too(seed: int) -> None:
    """Of more than 15 values, and of values of more than 31, 255 and 65,535 bytes."""
    random = Random(seed)
    texts = [
        random.choice("aé日😀") * random.choice((0, 1, 9, 40, 300)) + str(n) for n in range(60)
    ]
    texts += ["x" * 70_000 + str(n) for n in range(3)]
    events = [
        replace(each, values=(each.values[0], random.choice(texts), *each.values[2:]), until=NEVER)
        for each in some_events(random, 2, 1, 120, 10**9)
    ]
    rows: list[bytes | None] = [None, None]
    for first in range(0, len(events), 30):
        some = as_events(events[first : first + 30], 2, layout=TEXTUAL)
        rows = list(splice(TEXTUAL, rows, some).rows)
    assert rows == codec.pack(TEXTUAL, as_events(events, 2, layout=TEXTUAL))


def test_values_with_an_order_of_their_own_are_not_spliced() -> None:
    """Decimals and lists do not sort as their bytes do."""
    assert can_splice(TEXTUAL)
    assert not can_splice(LAYOUT)


def test_other_bytes_are_refused() -> None:
    """Nothing is made of what is not a row."""
    new = as_events(some_events(Random(1), 1, 1, 1, 10), 1, layout=TEXTUAL)
    with pytest.raises(StoreUnavailable, match="not a row"):
        splice(TEXTUAL, [bytes(64)], new)
