"""The contract of what a registry is kept in."""

from __future__ import annotations

import threading
from collections.abc import Callable

from msgspec.structs import replace

from tidemark.model.records import Confirmation
from tidemark.registry import Revision, Writer
from tidemark.registry.protocol import NO_REVISION, Job, Key, KeyScope

FIRST = Revision(1, NO_REVISION, "ada", 1_000, "first", 1, "{}", "{}").sealed()
SECOND = Revision(2, FIRST.digest, "bob", 2_000, "", 1, '{"ä": 1}', '{"models": []}').sealed()
KEY = Key(
    name="fraud",
    digest="f" * 64,
    scope=KeyScope(("read",), services=("fraud",), rate=2.5),
    owner="risk",
    author="ada",
    at=1_000,
    reason="it goes live",
    expires=2**53,
)


class RevisionsContract:
    """What every writer of revisions does; subclass it and give a fixture `connect`.

    The fixture is a function that opens one and the same empty database each time it is called.
    """

    def test_there_is_nothing_in_the_beginning(self, connect: Callable[[], Writer]) -> None:
        """Reading an empty registry is no error."""
        revisions = connect()
        assert (revisions.head(), revisions.latest(), revisions.revision(1)) == ("", None, None)
        assert list(revisions.revisions()) == []
        assert revisions.revision_at(1_000) is None

    def test_what_was_appended_is_found(self, connect: Callable[[], Writer]) -> None:
        """By number and by moment, as it was, by another connection."""
        assert connect().append(FIRST)
        assert connect().append(SECOND)
        revisions = connect()
        assert (revisions.head(), revisions.latest()) == (SECOND.digest, SECOND)
        assert [revisions.revision(number) for number in (1, 2, 3)] == [FIRST, SECOND, None]
        assert [revisions.revision_at(at) for at in (999, 1_000, 1_999, 2_000)] == [
            None, FIRST, FIRST, SECOND,
        ]  # fmt: skip
        assert list(revisions.revisions()) == [FIRST, SECOND]

    def test_only_the_next_one_is_taken(self, connect: Callable[[], Writer]) -> None:
        """Whoever did not know of the newest revision is told so, and nothing happens."""
        revisions = connect()
        assert not revisions.append(SECOND)
        assert revisions.append(FIRST)
        assert not revisions.append(FIRST)
        assert not revisions.append(replace(SECOND, previous="other"))
        assert not revisions.append(replace(SECOND, number=3))
        assert list(revisions.revisions()) == [FIRST]

    def test_of_many_at_once_one_wins(self, connect: Callable[[], Writer]) -> None:
        """Also in the very first moment of a database."""
        outcomes: list[bool] = []

        def append(name: str) -> None:
            own = connect()
            outcomes.append(own.append(replace(FIRST, author=name).sealed()))
            own.close()

        threads = [threading.Thread(target=append, args=(f"author {n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [*[False] * 7, True]
        assert len(connect().revisions()) == 1

    def test_confirmations_are_kept(self, connect: Callable[[], Writer]) -> None:
        """The first of a plan and a model stays; those of other plans are others."""
        one = Confirmation("plan", "fraud@3", "ada", 1)
        other = Confirmation("plan", "churn@1", "bob", 2)
        revisions = connect()
        for each in (one, other, replace(one, by="eve"), replace(one, plan="another")):
            revisions.confirm(each)
        assert list(connect().confirmations("plan")) == [other, one]
        assert list(connect().confirmations("none")) == []

    def test_keys_are_kept(self, connect: Callable[[], Writer]) -> None:
        """As they were made, in the order of their names; name and digest are never used again."""
        kept = connect()
        other = replace(KEY, name="Churn", digest="e" * 64, expires=None)
        assert list(kept.keys()) == []
        assert [kept.add_key(KEY), kept.add_key(other)] == [True, True]
        assert not kept.add_key(replace(KEY, digest="d" * 64))
        assert not kept.add_key(replace(KEY, name="another"))
        assert list(connect().keys()) == [other, KEY]

    def test_a_key_is_revoked_once(self, connect: Callable[[], Writer]) -> None:
        """Others see it at once; who did it first, when and why stays."""
        kept = connect()
        kept.add_key(KEY)
        assert kept.revoke_key("fraud", at=2_000, by="bob", reason="leaked")
        assert not kept.revoke_key("fraud", at=3_000, by="eve", reason="")
        assert not kept.revoke_key("nobody", at=3_000, by="eve", reason="")
        revoked = replace(KEY, revoked=2_000, revoked_by="bob", revoked_reason="leaked")
        assert list(connect().keys()) == [revoked]

    def test_a_closed_one_opens_again(self, connect: Callable[[], Writer]) -> None:
        """Closing gives connections back, no more."""
        revisions = connect()
        revisions.append(FIRST)
        revisions.close()
        assert revisions.head() == FIRST.digest

    def test_a_job_has_one_holder_at_a_time(self, connect: Callable[[], Writer]) -> None:
        """Until its lease ends, or until it is given back."""
        kept = connect()
        assert list(kept.jobs()) == []
        mine = kept.take_job("compact", "me", now=1_000, lease=2_000)
        assert mine is not None
        assert mine == Job(name="compact", holder="me", lease=2_000, started=1_000, reached=1_000)
        assert connect().take_job("compact", "you", now=1_999, lease=9_000) is None
        assert kept.put_off("compact", "me", lease=3_000)
        assert connect().take_job("compact", "you", now=2_500, lease=9_000) is None
        done = replace(mine, finished=2_600, outcome="3 files")
        assert kept.give_back(done)
        assert list(kept.jobs()) == [replace(done, holder="", lease=0)]
        again = connect().take_job("compact", "you", now=2_700, lease=9_000)
        assert again is not None
        assert (again.started, again.reached) == (2_700, 1_000)

    def test_a_lease_that_ended_is_lost(self, connect: Callable[[], Writer]) -> None:
        """Whoever comes back late is told, and changes nothing."""
        kept = connect()
        mine = kept.take_job("compact", "me", now=1_000, lease=2_000)
        assert mine is not None
        yours = connect().take_job("compact", "you", now=2_000, lease=3_000)
        assert yours is not None
        assert not kept.put_off("compact", "me", lease=9_000)
        assert not kept.give_back(mine)
        assert [each.holder for each in kept.jobs()] == ["you"]

    def test_of_many_who_ask_at_once_one_gets_the_job(self, connect: Callable[[], Writer]) -> None:
        """Whoever they are."""
        writers = [connect() for _ in range(8)]
        got: list[str] = []

        def ask(writer: Writer, name: str) -> None:
            if writer.take_job("compact", name, now=1_000, lease=2_000) is not None:
                got.append(name)

        threads = [
            threading.Thread(target=ask, args=(writer, f"w{place}"))
            for place, writer in enumerate(writers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
