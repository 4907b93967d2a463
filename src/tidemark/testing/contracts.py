"""For authors of adapters: the contracts that every implementation of a protocol passes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tidemark.errors import StoreConflict, StoreUnavailable
from tidemark.online.stores.protocol import OnlineStore


class OnlineStoreContract:
    """What every online store does; subclass it and give a fixture `store` with an empty one."""

    def test_what_was_put_is_found(self, store: OnlineStore) -> None:
        """Values come back as they were written."""
        store.put_many([(b"a", b"1"), (b"b", b"\x00\xff")])
        assert store.get_many([b"a", b"b"]) == [b"1", b"\x00\xff"]

    def test_a_key_that_was_never_put_is_none(self, store: OnlineStore) -> None:
        """Absence is not an error, before the first write and after it."""
        assert store.get_many([b"a"]) == [None]
        store.put_many([(b"b", b"1")])
        assert store.get_many([b"a", b"b"]) == [None, b"1"]

    def test_values_come_in_the_order_of_the_keys(self, store: OnlineStore) -> None:
        """A key asked for twice is answered twice."""
        store.put_many([(b"a", b"1"), (b"b", b"2")])
        assert store.get_many([b"b", b"a", b"b"]) == [b"2", b"1", b"2"]

    def test_no_keys_give_no_values(self, store: OnlineStore) -> None:
        """An empty request is a request."""
        assert store.get_many([]) == []

    def test_an_empty_value_is_a_value(self, store: OnlineStore) -> None:
        """Nothing stored differs from nothing."""
        store.put_many([(b"a", b"")])
        assert store.get_many([b"a"]) == [b""]

    def test_putting_again_replaces(self, store: OnlineStore) -> None:
        """A key has one value."""
        store.put_many([(b"a", b"1")])
        store.put_many([(b"a", b"longer than before")])
        assert store.get_many([b"a"]) == [b"longer than before"]

    def test_items_come_in_any_order_and_as_views_of_memory(self, store: OnlineStore) -> None:
        """What is packed in one buffer is written without a copy for each row."""
        whole = memoryview(b"onetwo")
        store.put_many(iter([(b"z", whole[3:]), (b"a", whole[:3])]))
        assert store.get_many([b"a", b"z"]) == [b"one", b"two"]

    def test_a_batch_that_fails_writes_nothing(self, store: OnlineStore) -> None:
        """The items of one call are written together or not at all."""

        def items() -> Iterator[tuple[bytes, bytes]]:
            yield b"a", b"1"
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            store.put_many(items())
        assert store.get_many([b"a"]) == [None]

    def test_a_batch_removes_what_it_replaces(self, store: OnlineStore) -> None:
        """Keys go in the step that writes the items; one that was never there is no matter."""
        store.put_many([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
        store.put_many([(b"d", b"4")], deletes=[b"a", b"b", b"never"])
        assert store.get_many([b"a", b"b", b"c", b"d"]) == [None, None, b"3", b"4"]
        store.put_many([], deletes=iter([b"c"]))
        assert store.get_many([b"c", b"d"]) == [None, b"4"]

    def test_a_key_that_is_removed_and_written_is_written(self, store: OnlineStore) -> None:
        """The items say what is there after the batch."""
        store.put_many([(b"a", b"1")])
        store.put_many([(b"a", b"2")], deletes=[b"a"])
        assert store.get_many([b"a"]) == [b"2"]

    def test_a_batch_that_expects_what_is_there_is_written(self, store: OnlineStore) -> None:
        """Nothing, something and the empty value can be expected, of keys written or not."""
        store.put_many([(b"a", b"1"), (b"empty", b"")])
        expected = {b"a": b"1", b"empty": b"", b"b": None, b"other": None}
        store.put_many([(b"a", b"2"), (b"b", b"3")], deletes=[b"empty"], expect=expected)
        assert store.get_many([b"a", b"b", b"empty"]) == [b"2", b"3", None]

    @pytest.mark.parametrize(
        "expected",
        [
            {b"a": b"0"},
            {b"a": None},
            {b"a": b""},
            {b"b": b"1"},
            {b"b": b""},
            {b"a": b"1", b"c": b""},
        ],
        ids=str,
    )
    def test_a_batch_that_expects_something_else_writes_nothing(
        self, store: OnlineStore, expected: dict[bytes, bytes | None]
    ) -> None:
        """Whoever wrote in between is not overwritten; reading again and trying again may help."""
        store.put_many([(b"a", b"1")])
        with pytest.raises(StoreConflict) as caught:
            store.put_many([(b"a", b"2"), (b"b", b"2")], deletes=[b"c"], expect=expected)
        assert caught.value.retryable
        assert store.get_many([b"a", b"b"]) == [b"1", None]

    def test_expecting_works_for_long_keys_and_large_values(self, store: OnlineStore) -> None:
        """Nothing is compared by a part of it."""
        key, value = b"k" * 5_000, bytes(6_000_000)
        store.put_many([(key, value + b"1")], expect={key: None})
        with pytest.raises(StoreConflict):
            store.put_many([(key, b"2")], expect={key: value + b"2"})
        store.put_many([(key, b"2")], expect={key: value + b"1"})
        store.put_many([], deletes=[key], expect={key: b"2"})
        assert store.get_many([key]) == [None]

    def test_of_writers_that_expect_the_same_one_succeeds(self, store: OnlineStore) -> None:
        """Four threads count to a hundred together: no step is lost and none is made twice."""
        store.put_many([(b"count", b"0")])

        def add() -> None:
            for _ in range(25):
                while True:
                    (held,) = store.get_many([b"count"])
                    assert held is not None
                    more = str(int(held) + 1).encode()
                    with suppress(StoreConflict):
                        store.put_many([(b"count", more)], expect={b"count": held})
                        break

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get_many([b"count"]) == [b"100"]

    def test_delete_takes_the_prefix_and_nothing_else(self, store: OnlineStore) -> None:
        """Neighbours in the order of the keys stay."""
        store.put_many([(key, b"") for key in (b"a", b"b", b"b\x00", b"b\xff\xff", b"c")])
        assert store.delete(b"b") == 3
        assert store.get_many([b"a", b"b", b"b\x00", b"b\xff\xff", b"c"]) == [
            b"",
            None,
            None,
            None,
            b"",
        ]

    def test_delete_takes_several_prefixes(self, store: OnlineStore) -> None:
        """A key that starts with two of them is one key."""
        store.put_many([(key, b"") for key in (b"a1", b"a2", b"b1", b"c1", b"c2")])
        assert store.delete(b"a", b"c", b"c1", b"never") == 4
        assert store.get_many([b"a1", b"a2", b"b1", b"c1", b"c2"]) == [None, None, b"", None, None]

    def test_deleting_nothing_is_fine(self, store: OnlineStore) -> None:
        """A prefix without keys deletes none, nor does no prefix."""
        store.put_many([(b"a", b"1")])
        assert store.delete(b"nothing") == 0
        assert store.delete() == 0
        assert store.get_many([b"a"]) == [b"1"]

    def test_long_keys_are_keys(self, store: OnlineStore) -> None:
        """Keys of any length are told apart, and deleted by their prefix."""
        lengths = (510, 511, 512, 5_000)
        keys = [b"k" * length for length in lengths] + [b"k" * 4_999 + b"x"]
        store.put_many([(key, str(index).encode()) for index, key in enumerate(keys)])
        assert store.get_many(keys) == [b"0", b"1", b"2", b"3", b"4"]
        assert store.delete(b"kkk") == 5
        assert store.get_many(keys) == [None] * 5

    def test_large_values_are_values(self, store: OnlineStore) -> None:
        """A busy entity is megabytes."""
        value = bytes(range(256)) * 40_000
        store.put_many([(b"big", value), (b"small", b"1")])
        assert store.get_many([b"big", b"small"]) == [value, b"1"]

    def test_readers_see_whole_batches_only(self, store: OnlineStore) -> None:
        """All keys of the last write, and none of the one before, while others keep writing."""
        names = [b"{e}1", b"{e}2"]  # of one slot, where there are slots
        seen: list[list[bytes | None]] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(store.get_many([*names, b"{e}even", b"{e}odd"]))

        reader = threading.Thread(target=read)
        reader.start()
        before: bytes | None = None
        for number in range(100):
            value = str(number).encode()
            extra = [b"{e}even", b"{e}odd"]
            added, removed = extra if number % 2 == 0 else extra[::-1]
            items = [(names[0], value), (added, value), (names[1], value)]
            if number % 3:
                store.put_many(items, deletes=[removed])
            else:
                store.put_many(items, deletes=[removed], expect={names[0]: before})
            before = value
        done.set()
        reader.join()
        assert [each for each in seen if len({value for value in each if value}) > 1] == []
        assert [each for each in seen if each[0] and each.count(None) != 1] == []

    def test_a_lock_is_held_once(self, store: OnlineStore) -> None:
        """Whoever comes second is told at once, and can take the lock when it is free."""
        with (
            store.lock("materialize"),
            pytest.raises(StoreUnavailable, match="busy with: materialize"),
            store.lock("materialize"),
        ):
            pass
        with store.lock("materialize"):
            pass

    def test_locks_of_different_purposes_do_not_meet(self, store: OnlineStore) -> None:
        """The name is what is locked."""
        with store.lock("materialize"), store.lock("compact"), store.lock("materialize/../é: x"):
            pass

    def test_a_lock_is_freed_when_its_holder_fails(self, store: OnlineStore) -> None:
        """An error inside does not leave the lock behind, and is not disguised."""
        with pytest.raises(OSError, match="the holder's own"), store.lock("materialize"):
            raise OSError("the holder's own")
        with store.lock("materialize"):
            pass

    def test_closing_twice_is_fine(self, store: OnlineStore) -> None:
        """Whoever cleans up need not know who else did."""
        store.put_many([(b"a", b"1")])
        store.close()
        store.close()
