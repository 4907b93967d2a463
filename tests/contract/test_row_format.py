"""The bytes of a row: fixed, the same for the same events, and never misread."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from tests.rows import Row, unpack

from tidemark.errors import StoreUnavailable
from tidemark.kernel import Timeline
from tidemark.kernel.layout import InputColumn, Layout
from tidemark.model.expr import Column
from tidemark.model.graph import Entity, Field
from tidemark.model.types import (
    BOOL,
    BYTES,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    decimal,
    list_of,
)
from tidemark.online.rows import codec
from tidemark.online.states.keys import generation_prefix, key_encoder, record_key


@dataclass
class Values:
    words: Any
    valid: Any
    high: Any = None
    dictionary: Any = None


@dataclass
class Events:
    timeline: Timeline
    columns: list[Values]
    filters: list[Any] = field(default_factory=list)
    identities: Any = None


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def flags(*values: bool) -> np.ndarray:
    return np.array(values, np.bool_)


def layout(*columns: tuple[Any, str], filters: int = 0) -> Layout:
    inputs = tuple(
        InputColumn(Column(f"c{i}"), type_, form) for i, (type_, form) in enumerate(columns)
    )
    return Layout(inputs, tuple(Column(f"f{i}") for i in range(filters)), ())


AMOUNTS = layout((INT64, "word"), (STRING, "code"), filters=1)


def amounts() -> list[bytes]:
    """Two entities; the first has two events, the second one that was seen late."""
    events = Events(
        Timeline(ints(0, 2, 3), ints(10, 20, 30), known=ints(10, 20, 35)),
        [
            Values(ints(7, 0, 9), flags(True, False, True)),
            Values(ints(1, 0, 1), flags(True, True, True), dictionary=pa.array(["ab", "c"])),
        ],
        [flags(True, False, True)],
        ints(101, 0, 103),
    )
    return codec.pack(AMOUNTS, events)


def test_a_row_is_these_bytes():
    """The layout is a contract with what is already stored: it changes with its version only."""
    first, second = amounts()
    assert np.frombuffer(first, np.int64).tolist() == [
        int.from_bytes(b"TMRW\x01\x00\x04\x00", "little"),
        2,  # events
        3,  # columns of words
        3,  # columns of bytes
        (8 + 2 * 4 + 3) * 8,  # where the heap is
        8,  # its length
        *(0, 0),
        *(10, 20),  # time
        *(7, 0),  # the first column, a null as 0
        *(1, 0),  # the second: "c", "ab"
        *(101, 0),  # what identifies the events
        0x0001,  # the first is there, the second is null
        0x0101,  # both are there
        0x0001,  # the filter keeps the first
        int.from_bytes(b"\x92\xc0\x92\xa2ab\xa1c", "little"),  # [null, ["ab", "c"]]
    ]
    assert second[6] == codec.HAS_KNOWN | codec.HAS_IDENTITIES


def test_a_row_reads_back():
    """What was packed is unpacked, with nulls and with values in place of codes."""
    first, second = (unpack(AMOUNTS, bytes(row)) for row in amounts())
    assert first == Row(
        time=[10, 20],
        known=[10, 20],
        ended=[codec.NEVER, codec.NEVER],
        columns=[[7, None], ["c", "ab"]],
        filters=[[True, False]],
        identities=[101, 0],
    )
    assert second.known == [35]
    assert second.columns == [[9], ["c"]]


TYPED = [
    (decimal(38, 2), [Decimal("-1.50"), Decimal("0.00"), Decimal("9" * 36 + ".99")]),
    (STRING, ["", "a", "é"]),
    (BYTES, [b"", b"\x00", b"\xff"]),
    (list_of(DATE), [[], [date(1969, 12, 31), None], [date(2026, 1, 1)]]),
    (list_of(TIMESTAMP), [[datetime(1969, 12, 31, 23, tzinfo=UTC)], [None], []]),
    (list_of(decimal(5, 1)), [[Decimal("1.5")], [], [None]]),
]


@pytest.mark.parametrize(("type_", "values"), TYPED, ids=lambda value: str(value)[:20])
def test_values_in_dictionaries_keep_their_type(type_, values):
    """A dictionary holds values of every type that does not fit a word."""
    arrow = pa.array(values, pa.decimal128(38, 2)) if type_.name == "decimal" else pa.array(values)
    shape = layout((type_, "code"))
    column = Values(ints(0, 1, 2), flags(True, True, True), dictionary=arrow)
    (row,) = codec.pack(shape, Events(Timeline(ints(0, 3), ints(1, 2, 3)), [column]))
    assert unpack(shape, row).columns == [values]


def test_decimals_take_two_words():
    """The unscaled integer of a decimal may need 127 bits."""
    shape = layout((decimal(38, 0), "decimal"))
    big = 10**37
    column = Values(ints(big % 2**63, -1), flags(True, True), high=ints(big >> 64, -1))
    low = np.array([big & (2**64 - 1), 2**64 - 1], np.uint64).view(np.int64)
    column.words = low
    (row,) = codec.pack(shape, Events(Timeline(ints(0, 2), ints(1, 2)), [column]))
    assert unpack(shape, row).columns == [[big, -1]]


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=40), max_size=6))
def test_a_row_does_not_depend_on_its_neighbours(entities):
    """Each entity packed alone gives the bytes that it has among the others."""
    letters = sorted({letter for events in entities for letter in events})
    shape = layout((STRING, "code"), (FLOAT64, "word"), filters=1)

    def packed(group):
        flat = [letter for events in group for letter in events]
        starts = np.concatenate(([0], np.cumsum([len(events) for events in group]))).astype(int)
        code = ints(*(letters.index(letter) for letter in flat))
        odd = np.array([ord(letter) % 2 == 1 for letter in flat], np.bool_)
        events = Events(
            Timeline(starts, code, until=np.where(code > 20, 5, codec.NEVER)),
            [
                Values(code, odd | (code > 5), dictionary=pa.array(letters, pa.string())),
                Values(code * 3, odd),
            ],
            [~odd],
        )
        return codec.pack(shape, events)

    together = packed(entities)
    assert together == [row for events in entities for row in packed([events])]
    for events, row in zip(entities, together, strict=True):
        expected = [
            letter if ord(letter) % 2 or letters.index(letter) > 5 else None for letter in events
        ]
        assert unpack(shape, row).columns[0] == expected
        assert unpack(shape, row).filters[0] == [ord(letter) % 2 == 0 for letter in events]


def test_a_column_of_nulls_is_the_same_with_and_without_a_dictionary():
    """Whether others have values does not show in a row."""
    shape = layout((STRING, "code"))
    rows = [
        codec.pack(
            shape,
            Events(
                Timeline(ints(0, 1), ints(1)),
                [Values(ints(0), flags(False), dictionary=dictionary)],
            ),
        )
        for dictionary in (None, pa.array(["somebody else's"]))
    ]
    assert rows[0] == rows[1]
    assert unpack(shape, rows[0][0]).columns == [[None]]


def test_a_row_of_a_later_format_is_refused():
    """A later layout is not guessed at."""
    row = bytearray(amounts()[0])
    row[4] = 2
    with pytest.raises(StoreUnavailable, match="rows of format 2; this release reads format 1"):
        codec.unpack_rows(AMOUNTS, [bytes(row)])


def test_bytes_that_are_no_row_are_refused():
    """Somebody else's bytes under our key are not read as events."""
    with pytest.raises(StoreUnavailable, match="not a row"):
        codec.unpack_rows(AMOUNTS, [bytes(64)])


USER = Entity(name="user", keys=(Field("user_id", STRING), Field("n", INT64)))


def test_keys_are_unambiguous():
    """No two different tuples of key values have the same bytes, and order is that of the keys."""
    columns = (["a", "a1", "", "1"], [11, 1, 0, 0])
    assert len(set(key_encoder(USER)(columns))) == 4


def test_projects_views_and_states_do_not_meet():
    """Names are written out with their lengths, so none can run into the next."""
    prefixes = {
        generation_prefix("a", "b", "c", 1),
        generation_prefix("ab", "", "c", 1),
        generation_prefix("a", "bc", "", 1),
        generation_prefix("a", "b", "c", 2),
        record_key("a", "b"),
    }
    assert len(prefixes) == 5
    assert not any(a != b and b.startswith(a) for a in prefixes for b in prefixes)


def test_keys_of_every_type_have_bytes():
    """Equal keys have equal bytes, however they were written."""
    typed = Entity(
        name="e",
        keys=tuple(
            Field(f"k{i}", type_)
            for i, type_ in enumerate((FLOAT64, BOOL, BYTES, TIMESTAMP, DATE, decimal(4, 2)))
        ),
    )
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        (0.0, True, b"a", moment, date(2026, 1, 1), Decimal("1.5")),
        (-0.0, True, b"a", moment.astimezone(), date(2026, 1, 1), Decimal("1.50")),
    ]
    one, two = key_encoder(typed)(list(zip(*rows, strict=True)))
    assert one == two
