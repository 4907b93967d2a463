"""Who the HTTP service answers, and with what."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.spec.http_server import (  # skips where the extra is not installed
    Direct,
    limits,
    living,
    serving,
)
from tests.spec.served import make_project

import tidemark as tm
from tidemark.apps.http import access, following
from tidemark.apps.http.service import Service
from tidemark.client import Client
from tidemark.errors import NotPermitted

EVENTS = pa.table(
    {
        "user": ["ada"],
        "amount": [2.5],
        "at": pa.array([datetime(2026, 3, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
    }
)


class User(tm.Entity):
    """Somebody."""

    user: tm.Key[str]


class Event(tm.Source, history=tm.frame(EVENTS), time="at"):
    """Something."""

    user: tm.Col[str]
    amount: tm.Col[float]
    at: tm.Col[datetime]


class Spend(tm.FeatureView, entity=User, source=Event):
    """Open to many."""

    total = tm.sum(Event.amount)
    events = tm.count()


class Private(tm.FeatureView, entity=User, source=Event, tags=["pii"]):
    """For few."""

    largest = tm.max(Event.amount)


@tm.on_demand(total=Spend.total, tags=["score"])
def doubled(total: float | None) -> float:
    """Twice as much."""
    return 2 * (total or 0.0)


class Fraud(tm.FeatureService, tags=["risk"]):
    """What the fraud model reads."""

    total = Spend.total


class Secret(tm.FeatureService):
    """What few models read."""

    largest = Private.largest


KEYS = {"keys": {"user": "ada"}}
FRAUD, SECRET = "/v1/services/fraud/online", "/v1/services/secret/online"
Ask = Callable[..., tuple[int, dict[str, str], Any]]


@pytest.fixture(scope="module")
def materialized() -> Iterator[tm.Store]:
    with tm.connect(":memory:") as store:
        store.apply(store.plan([Fraud, Secret, doubled, Spend]))
        store.materialize()
        yield store


@pytest.fixture
def store(materialized: tm.Store, monkeypatch: pytest.MonkeyPatch) -> tm.Store:
    """The store with a registry of keys of its own."""
    with tm.connect(":memory:") as other:
        keys = other.registry.keys
    monkeypatch.setattr(keys, "_definitions", lambda: materialized.registry.snapshot().definitions)
    monkeypatch.setattr(materialized.registry, "keys", keys)
    return materialized


@pytest.fixture
def served(store: tm.Store, monkeypatch: pytest.MonkeyPatch) -> Direct:
    """The service, which a test may ask as slowly as it likes."""
    monkeypatch.setattr(access, "BELIEVED_SECONDS", 3_600.0)
    monkeypatch.setattr(following, "READY_SECONDS", 300.0)
    service = Service(store, limits())
    service.access.refresh()
    return Direct(service)


def key(served: Direct, name: str = "app", *actions: str, **options: Any) -> dict[str, str]:
    """The header of a new key, which the service knows by now."""
    made = served.service.store.registry.keys.create(name, actions or ("read",), **options)
    served.service.access.refresh()
    return {"Authorization": f"Bearer {made.secret}"}


def read(served: Direct, features: list[str], headers: dict[str, str]) -> int:
    body = {"features": features, **KEYS}
    return served.ask("POST", "/v1/features/online", body, **headers)[0]


class TestWhoAsks:
    def test_without_keys_everybody_on_this_machine_is_answered(self, served: Direct) -> None:
        """A laptop needs no ceremony."""
        assert served.ask("POST", FRAUD, KEYS)[0] == 200
        assert served.ask("GET", "/v1/services")[0] == 200
        assert served.ask("GET", "/metrics")[0] == 200

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", FRAUD), ("POST", "/v1/services/nothing/online"),
            ("POST", "/v1/features/online"), ("GET", FRAUD), ("GET", "/v1/services"),
            ("GET", "/v1/services/fraud"), ("GET", "/v1/features/spend:total"),
            ("GET", "/v1/search"), ("GET", "/metrics"), ("GET", "/openapi.json"),
            ("GET", "/nowhere"), ("DELETE", "/v1/services"), ("GET", "//healthz"),
            ("GET", "/healthz/"), ("GET", "/healthz/../metrics"),
        ],
    )  # fmt: skip
    def test_from_the_first_key_on_nobody_without(
        self, served: Direct, method: str, path: str
    ) -> None:
        """Whatever they ask, whether it exists or not."""
        key(served)
        status, headers, body = served.ask(method, path, KEYS)
        assert (status, body["slug"]) == (401, "not-permitted")
        assert headers["www-authenticate"] == 'Bearer realm="tidemark"'

    def test_health_is_told_to_everybody(self, served: Direct) -> None:
        """An orchestrator has no key."""
        key(served)
        assert served.ask("GET", "/healthz")[0] == 200
        assert served.ask("GET", "/readyz")[0] == 200

    def test_the_holder_of_a_key_is_answered(self, served: Direct) -> None:
        """However the word `Bearer` is written."""
        header = key(served)
        assert served.ask("POST", FRAUD, KEYS, **header)[2]["values"] == {"total": 2.5}
        header = {"Authorization": header["Authorization"].replace("Bearer", "bearer")}
        assert served.ask("POST", FRAUD, KEYS, **header)[0] == 200

    def test_why_a_key_is_refused_is_not_told(self, served: Direct) -> None:
        """None, another form, a wrong one, a revoked, an expired one: the same answer."""
        good = key(served)["Authorization"]
        revoked = key(served, "revoked")["Authorization"]
        expired = key(served, "expired", expires="1s")["Authorization"]
        caller = next(
            each for each in served.service.access._callers.values() if each.name == "expired"
        )
        caller._end = 0.0
        served.service.store.registry.keys.revoke("revoked")
        served.service.access.refresh()
        answers = [
            served.ask("POST", FRAUD, KEYS, Authorization=given, X_Request_Id="r")
            for given in (
                "", "Bearer", "Bearer ", "Bearer tmk_", good[:-1], good + "A", good[7:],
                f"Basic {good[7:]}", f"Bearer  {good[7:]}", revoked, expired, "Bearer \xff",
            )
        ]  # fmt: skip
        assert answers == [answers[0]] * len(answers)
        assert answers[0][0] == 401

    def test_a_service_that_has_lost_all_its_keys_stays_closed(self, served: Direct) -> None:
        """Revoking the last one opens nothing."""
        header = key(served)
        served.service.store.registry.keys.revoke("app")
        served.service.access.refresh()
        assert served.ask("POST", FRAUD, KEYS, **header)[0] == 401
        assert served.ask("POST", FRAUD, KEYS)[0] == 401

    def test_before_the_keys_are_known_nobody_is_answered(self, store: tm.Store) -> None:
        """A registry that cannot be read says nothing about who may ask."""
        served = Direct(Service(store, limits()))
        status, _, body = served.ask("POST", FRAUD, KEYS)
        assert (status, body["retryable"]) == (503, True)

    def test_keys_are_not_believed_for_ever(self, served: Direct) -> None:
        """A registry that hangs may have revoked the key."""
        header = key(served)
        served.service.access._read_at -= access.BELIEVED_SECONDS
        assert served.ask("POST", FRAUD, KEYS, **header)[0] == 503
        served.service.access.refresh()
        assert served.ask("POST", FRAUD, KEYS, **header)[0] == 200


class TestWhatFor:
    def test_actions(self, served: Direct) -> None:
        """Reading, counts, and everything."""
        reads = key(served, "a", "read")
        pushes = key(served, "b", "push")
        counts = key(served, "c", "metrics")
        everything = key(served, "d", "admin")
        asked = [("POST", FRAUD), ("GET", "/v1/services"), ("GET", "/metrics")]
        for header, expected in (
            (reads, [200, 200, 403]),
            (pushes, [403, 403, 403]),
            (counts, [403, 403, 200]),
            (everything, [200, 200, 200]),
        ):
            assert [served.ask(*each, KEYS, **header)[0] for each in asked] == expected

    def test_one_service(self, served: Direct) -> None:
        """A key of a service reads it and what it gives, and learns of nothing else."""
        header = key(served, services=["fraud"])
        assert served.ask("POST", FRAUD, KEYS, **header)[0] == 200
        refusals = [
            served.ask("POST", path, KEYS, X_Request_Id="r", **header)
            for path in (SECRET, "/v1/services/nothing/online")
        ]
        assert refusals[0] == refusals[1]
        assert refusals[0][0] == 403
        assert read(served, ["spend:total"], header) == 200
        assert read(served, ["spend:events"], header) == 403
        assert read(served, ["spend:total", "private:largest"], header) == 403
        assert read(served, ["spend:nothing"], header) == 403

    def test_a_tag(self, served: Direct) -> None:
        """Of a service, of a view, of a feature."""
        risk, pii = key(served, "a", tags=["risk"]), key(served, "b", tags=["pii"])
        score = key(served, "c", tags=["score"])
        assert [served.ask("POST", each, KEYS, **risk)[0] for each in (FRAUD, SECRET)] == [200, 403]
        assert [served.ask("POST", each, KEYS, **pii)[0] for each in (FRAUD, SECRET)] == [403, 200]
        assert read(served, ["private:largest"], pii) == 200
        assert read(served, ["doubled"], score) == 200
        assert read(served, ["doubled"], pii) == 403

    def test_what_is_told_of_the_registry(self, served: Direct) -> None:
        """A limited key sees what it may read; a search would show more."""
        header = key(served, services=["fraud"])

        def get(path: str) -> tuple[int, Any]:
            status, _, body = served.ask("GET", path, **header)
            return status, body

        assert [each["name"] for each in get("/v1/services")[1]["services"]] == ["fraud"]
        assert get("/v1/services/fraud")[0] == 200
        assert get("/v1/services/secret")[0] == get("/v1/services/nothing")[0] == 403
        assert get("/v1/features/spend:total")[0] == 200
        assert get("/v1/features/private:largest")[0] == get("/v1/features/a:b")[0] == 403
        assert get("/v1/search?q=spend")[0] == 403


class TestWhence:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:6566", "", "127.0.0.1.evil", "["]
    )
    def test_a_name_that_leads_here(self, served: Direct, host: str) -> None:
        """A page that lets its own name point to this machine reads nothing."""
        status, _, body = served.ask("POST", FRAUD, KEYS, Host=host, host=host)
        assert (status, body["slug"]) == (421, "request-invalid")

    @pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:6566", "[::1]:6566", "127.1.2.3"])
    def test_names_of_this_machine(self, served: Direct, host: str) -> None:
        """With any port."""
        assert served.ask("POST", FRAUD, KEYS, host=host)[0] == 200

    def test_a_page_of_another_site(self, served: Direct) -> None:
        """A browser says which page asks."""
        assert served.ask("POST", FRAUD, KEYS, Origin="https://evil.example")[0] == 421
        assert served.ask("POST", FRAUD, KEYS, Origin="null")[0] == 421
        assert served.ask("POST", FRAUD, KEYS, Origin="http://localhost:6566")[0] == 200

    def test_with_a_key_any_name_will_do(self, served: Direct) -> None:
        """A page has no key; a proxy in front has a name of its own."""
        header = key(served)
        assert served.ask("POST", FRAUD, KEYS, host="features.acme.com", **header)[0] == 200


class TestHowOften:
    def test_a_key_that_asks_too_often(self, store: tm.Store, monkeypatch: Any) -> None:
        """A second's worth at once; then 429, and when to come again."""
        now = [100.0]
        monkeypatch.setattr("tidemark.apps.http.access.time.monotonic", lambda: now[0])
        service = Service(store, limits(rate=2))
        service.access.refresh()
        served = Direct(service)
        often, slow = key(served), key(served, "slow", rate=0.1)

        def statuses(header: dict[str, str], times: int) -> list[int]:
            return [served.ask("POST", FRAUD, KEYS, **header)[0] for _ in range(times)]

        assert statuses(often, 3) == [200, 200, 429]
        status, headers, body = served.ask("GET", "/v1/services", **often)
        assert (status, headers["retry-after"], body["retryable"]) == (429, "1", True)
        assert statuses(slow, 2) == [200, 429]
        assert served.ask("GET", "/v1/services", **slow)[1]["retry-after"] == "10"
        now[0] += 0.5
        service.access.refresh()  # what was used stays used
        assert statuses(often, 2) == [200, 429]

    def test_nobody_is_counted_without_keys(self, store: tm.Store) -> None:
        """There is nobody to tell apart."""
        service = Service(store, limits(rate=1))
        service.access.refresh()
        assert [Direct(service).ask("POST", FRAUD, KEYS)[0] for _ in range(5)] == [200] * 5


class TestFollowing:
    def test_a_revision_that_is_long_prepared_holds_up_no_key(
        self, store: tm.Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Keys are followed meanwhile: one that is revoked ends, and the others are believed."""
        prepare, begun, go_on = store.readers.refresh, threading.Event(), threading.Event()
        again = threading.Event()

        def slowly() -> None:
            prepare()
            if again.is_set():
                begun.set()
                assert go_on.wait(300)
            again.set()

        made = store.registry.keys.create("app", ["read"])
        header = {"Authorization": f"Bearer {made.secret}"}

        async def ask() -> None:
            async with living(Service(store, limits())) as served:
                assert await asyncio.to_thread(begun.wait, 300)
                assert (await served.asked("POST", FRAUD, KEYS, **header))[0] == 200
                store.registry.keys.revoke("app")
                while (await served.asked("POST", FRAUD, KEYS, **header))[0] != 401:
                    await asyncio.to_thread(time.sleep, 0.01)
                assert not go_on.is_set()
                go_on.set()

        monkeypatch.setattr(store.readers, "refresh", slowly)
        monkeypatch.setattr(access, "BELIEVED_SECONDS", 300.0)
        asyncio.run(asyncio.wait_for(ask(), 300))


class TestWorkers:
    def test_a_key_is_made_and_revoked_in_all_of_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Within five seconds if nothing holds it up, while the service goes on for others."""
        assert following.REFRESH_SECONDS + access.BELIEVED_SECONDS <= 5
        project = make_project(tmp_path)
        with tm.connect(project) as store, serving(project, "--workers", "2") as server:
            stays, leaves = (store.registry.keys.create(name).secret for name in ("a", "b"))
            asked = {"features": ["activity:events"], "keys": {"user_id": "ada"}}

            def ask(secret: str) -> int:
                header = {"Authorization": f"Bearer {secret}"}
                return server.post("/v1/features/online", asked, **header)[0]

            def until(secret: str, expected: int) -> None:
                """Wait until both workers say so, 30 times in a row."""
                right, deadline = 0, time.monotonic() + 300
                while right < 30:
                    right = right + 1 if ask(secret) == expected else 0
                    assert time.monotonic() < deadline

            assert ask(stays) == 200  # also before any worker has heard of keys
            until("tmk_wrong", 401)
            until(leaves, 200)
            store.registry.keys.revoke("b")
            until(leaves, 401)
            assert ask(stays) == 200

            monkeypatch.setenv("TIDEMARK_KEY", stays)
            with Client(server.address, timeout=300) as client:
                assert client.services()
            with Client(server.address, timeout=300, key=stays) as client:
                assert client.online("activity:events", {"user_id": "ada"}) is not None
            with (
                Client(server.address, timeout=300, key="tmk_wrong") as client,
                pytest.raises(NotPermitted, match="A key is needed"),
            ):
                client.services()
