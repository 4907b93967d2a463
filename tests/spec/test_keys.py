"""Keys of callers: made once, listed without their secret, revoked for good."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.spec.shop import Fraud

import tidemark as tm
from tidemark.apps.cli import main
from tidemark.errors import NotFound, PlanConflict, RequestInvalid, TidemarkError


@pytest.fixture
def store() -> Iterator[tm.Store]:
    with tm.connect(":memory:") as found:
        found.apply(found.plan([Fraud]))
        yield found


def test_a_key_is_random_and_kept_as_a_digest(store: tm.Store) -> None:
    """256 bits, told once; the registry holds what recognizes it and cannot tell it."""
    one, other = store.registry.keys.create("a"), store.registry.keys.create("b")
    assert one.secret != other.secret
    assert one.secret.startswith("tmk_")
    assert len(one.secret) == len("tmk_") + 43
    assert one.key.digest == hashlib.sha256(one.secret.encode()).hexdigest()
    assert one.secret not in repr(store.registry.keys.list())


def test_who_made_it_and_what_it_allows_is_kept(store: tm.Store) -> None:
    """Reading everything, for good, unless it is said otherwise."""
    made = store.registry.keys.create(
        "fraud", services=["fraud"], tags=["pii"], rate=50, expires="90d",
        owner="risk@acme.com", reason="it goes live", author="ada",
    ).key  # fmt: skip
    assert (made.name, made.owner, made.author, made.reason) == (
        "fraud", "risk@acme.com", "ada", "it goes live",
    )  # fmt: skip
    scope = made.scope
    assert (scope.actions, scope.services, scope.tags, scope.rate) == (
        ("read",), ("fraud",), ("pii",), 50.0,
    )  # fmt: skip
    assert made.expires == made.at + 90 * 86_400_000_000
    assert store.registry.keys.create("other").key.expires is None
    assert [each.name for each in store.registry.keys.list()] == ["fraud", "other"]


def test_a_tag_of_nothing_is_told_with_the_nearest(store: tm.Store) -> None:
    """Something may have it later; a key that reads is not of the tags of sources."""

    class Tagged(tm.Source, history=tm.parquet("t.parquet"), time="at", tags=["shop"]):
        at: tm.Col[datetime]

    class Scored(tm.FeatureService, tags=["fraud"]):
        items = "spending:items"

    store.apply(store.plan([Fraud, Scored, Tagged]))
    create = store.registry.keys.create
    assert create("a", tags=["fraud"]).hint == create("b", ["push"], tags=["shop"]).hint == ""
    assert create("c", ["read", "push"], tags=["shop", "fraud"]).hint == ""
    assert create("d", tags=["frud"]).hint == (
        "There is no tag to read by 'frud'.\n"
        "  By it the key allows nothing until something has it.\n"
        "  Did you mean 'fraud'?"
    )
    assert create("e", tags=["shop"]).hint.endswith("There are: fraud.")
    assert create("f", ["push"], tags=["shpo"]).hint.startswith(
        "There is no tag to push by 'shpo'."
    )


def test_a_key_ends_at_its_moment(store: tm.Store) -> None:
    """From that microsecond on it is expired."""
    end = datetime.now(UTC) + timedelta(hours=1)
    key = store.registry.keys.create("a", expires=end).key
    assert [key.status(key.expires + step) for step in (-1, 0)] == ["active", "expired"]


def test_revoking_is_for_good_and_recorded(store: tm.Store) -> None:
    """The first to revoke it is the one who did; again is no error."""
    store.registry.keys.create("a")
    key = store.registry.keys.revoke("a", reason="leaked", author="bob")
    assert (key.revoked_by, key.revoked_reason) == ("bob", "leaked")
    assert key.status(key.at) == "revoked"
    assert store.registry.keys.revoke("a", author="eve") == key
    with pytest.raises(NotFound, match="no key 'b'"):
        store.registry.keys.revoke("b")


def test_a_name_is_never_used_again(store: tm.Store) -> None:
    """What the records say of it must stay true."""
    store.registry.keys.create("a")
    store.registry.keys.revoke("a")
    with pytest.raises(PlanConflict, match="There is, or was, a key 'a'"):
        store.registry.keys.create("a")


@pytest.mark.parametrize(
    ("words", "kind", "what"),
    [
        ({"name": "a b"}, RequestInvalid, "cannot be the name of a key"),
        ({"name": ""}, RequestInvalid, "cannot be the name of a key"),
        ({"actions": ["reed"]}, NotFound, "no action 'reed'"),
        ({"actions": []}, RequestInvalid, "would allow nothing"),
        ({"services": ["frod"]}, NotFound, "no feature service 'frod'"),
        ({"actions": ["admin"], "services": ["fraud"]}, RequestInvalid, "more than that"),
        ({"actions": ["push"], "services": ["fraud"]}, RequestInvalid, "would push nothing"),
        ({"expires": "2020-01-01T00:00:00Z"}, RequestInvalid, "would have expired"),
        ({"expires": "soon"}, RequestInvalid, "'soon' is not a moment"),
        ({"expires": "0d"}, TidemarkError, "longer than nothing"),
        ({"rate": -1}, RequestInvalid, "is not a rate"),
        ({"rate": float("nan")}, RequestInvalid, "is not a rate"),
    ],
)
def test_keys_that_cannot_be(
    store: tm.Store, words: dict[str, object], kind: type[Exception], what: str
) -> None:
    """Refused in one sentence, and nothing is kept."""
    with pytest.raises(kind, match=what):
        store.registry.keys.create(**{"name": "a", **words})
    assert store.registry.keys.list() == ()


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEMARK_AUTHOR", "ada")
    invoke("init", "example")
    monkeypatch.chdir("example")
    assert invoke("apply", "--yes").exit_code == 0


class TestCommands:
    def test_create_list_revoke(self, project: None) -> None:
        """The key is on the first line; a list never has it."""
        made = invoke(
            "key", "create", "fraud-app", "--service", "fraud", "--expires", "90d", "--reason", "r"
        )
        secret = made.stdout.splitlines()[0]
        assert secret.startswith("tmk_")
        listed = invoke("key", "list").stdout
        assert listed.startswith("fraud-app  active   read of fraud  until ")
        assert secret not in listed
        told = invoke("key", "create", "other", "--tag", "pii").stdout
        assert told.splitlines()[-3] == "There is no tag to read by 'pii'."
        assert invoke("key", "revoke", "fraud-app").stdout == "fraud-app is revoked.\n"
        assert invoke("key", "list").stdout.startswith("fraud-app  revoked")

    def test_as_json(self, project: None) -> None:
        """Everything that is known of a key."""
        words = ("key", "create", "app", "--scope", "read", "--scope", "push", "--json")
        made = json.loads(invoke(*words).stdout)
        assert made.pop("key").startswith("tmk_")
        assert made.pop("hint") == ""
        (listed,) = json.loads(invoke("key", "list", "--json").stdout)["keys"]
        assert listed == made
        assert listed["actions"] == ["read", "push"]
        assert listed["created"]["author"] == "ada"
        told = json.loads(invoke("key", "revoke", "app", "--reason", "left", "--json").stdout)
        assert (told["status"], told["revoked"]["reason"]) == ("revoked", "left")

    def test_nobody_yet(self, project: None) -> None:
        """An empty list says what that means."""
        assert invoke("key", "list").stdout.startswith("There is no key: ")
