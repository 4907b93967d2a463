"""For authors of adapters: the contracts that every implementation of a protocol passes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tidemark.errors import StoreUnavailable
from tidemark.online.protocol import OnlineStore


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

    def test_deleting_nothing_is_fine(self, store: OnlineStore) -> None:
        """A prefix without keys deletes none."""
        assert store.delete(b"nothing") == 0

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
        """Every read sees both keys of the same write, while another thread keeps writing."""
        store.put_many([(b"a", b"0"), (b"b", b"0")])
        seen: list[list[bytes | None]] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(store.get_many([b"a", b"b"]))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(1, 101):
            value = str(number).encode()
            store.put_many([(b"a", value), (b"b", value)])
        done.set()
        reader.join()
        assert [pair for pair in seen if pair[0] != pair[1]] == []

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
        with store.lock("materialize"), store.lock("compact"):
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
