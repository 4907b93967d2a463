"""What the HTTP service tells of how things stand, and that it waits for nothing meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.spec.http_server import Direct, limits  # skips where the extra is not installed
from tests.spec.test_push_outside import PATH, bought, make_project

import tidemark as tm
from tidemark.apps.http import standing
from tidemark.apps.http.service import Service
from tidemark.apps.http.standing import Standing
from tidemark.errors import StoreUnavailable
from tidemark.online.states.pulse import BUCKETS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("standing"))
    with tm.connect(folder) as store:
        store.push("purchase", [bought("a1", "ada"), bought("a2", "bob")])
        bad = bought("a3", "cyd", amount="much")
        store.push("purchase", bad, on_error="quarantine")
    return folder


@pytest.fixture
def service(project: Path) -> Iterator[Service]:
    with tm.connect(project) as store:
        found = Service(store, limits())
        found.access.refresh()
        yield found


def samples(service: Service) -> dict[str, float]:
    lines = service.metrics.text().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


class TestMetrics:
    def test_views_and_sources(self, service: Service) -> None:
        """As the stores say when they are asked."""
        service._standing.refresh()
        told = samples(service)
        assert told['tidemark_view_verdict{verdict="unknown",view="spend"}'] == 1
        assert told['tidemark_view_verdict{verdict="broken",view="spend"}'] == 0
        assert told['tidemark_view_waiting_events{view="spend"}'] == 0
        assert told['tidemark_view_age_seconds{view="spend"}'] >= 0
        assert 'tidemark_view_promise_seconds{view="spend"}' not in told
        assert told['tidemark_log_position{source="purchase"}'] == 2
        assert told['tidemark_dead_letters_total{source="purchase"}'] == 1

    def test_delays_are_a_histogram(self, service: Service) -> None:
        """Each bucket holds what the ones below it hold; the last one all."""
        service._standing.refresh()
        told = samples(service)
        name = "tidemark_accepted_to_online_seconds_bucket"
        counts = [count for line, count in told.items() if line.startswith(name)]
        assert len(counts) == BUCKETS
        assert counts == sorted(counts)
        assert told[f'{name}{{le="+Inf",source="purchase"}}'] == 2
        event = 'tidemark_event_to_online_seconds_bucket{le="0.001",source="purchase"}'
        assert told[event] == 0

    def test_telling_them_asks_no_store(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are told from memory; what is older than a minute is not told."""

        def away(*_: object) -> None:
            raise StoreUnavailable("It is away.")

        service._standing.refresh()
        monkeypatch.setattr(service.store._online, "get_many", away)
        with pytest.raises(StoreUnavailable):
            service._standing.refresh()
        assert 'tidemark_log_position{source="purchase"}' in samples(service)
        monkeypatch.setattr(standing, "BELIEVED_SECONDS", -1.0)
        assert 'tidemark_log_position{source="purchase"}' not in samples(service)

    def test_workers_tell_the_same_and_not_the_sum(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Where they count together, these are still told once."""
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        other = Standing(service.store)
        other.refresh()
        service._standing.refresh()
        assert samples(service)['tidemark_log_position{source="purchase"}'] == 2


class TestRoutes:
    def test_freshness(self, service: Service) -> None:
        """As the command tells it."""
        status, _, told = Direct(service).ask("GET", "/v1/freshness")
        assert status == 200
        assert [(each["view"], each["verdict"]) for each in told["views"]] == [("spend", "unknown")]
        assert told["views"][0]["promise_seconds"] is None
        assert [(each["source"], each["events"]) for each in told["sources"]] == [("purchase", 2)]

    @pytest.mark.parametrize("path", ["/v1/search?q=spend", "/v1/freshness"])
    def test_a_database_that_hangs(
        self, service: Service, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """503 in bounded time, and reads and pushes go on."""
        going_on, direct = threading.Event(), Direct(service)
        monkeypatch.setattr(service._managing, "_seconds", 0.2)

        def hang(*_: object, **__: object) -> None:
            going_on.wait(300)
            raise StoreUnavailable("It was away.")

        monkeypatch.setattr(service.store.registry, "search", hang)
        monkeypatch.setattr(type(service.store), "freshness", hang)
        try:
            for _ in range(6):  # more than there are threads
                status, headers, answer = direct.ask("GET", path)
                assert (status, headers["retry-after"], answer["retryable"]) == (503, "1", True)
            read = {"keys": {"user_id": "ada"}}
            assert direct.ask("POST", "/v1/services/buyer/online", read)[0] == 200
            assert direct.ask("POST", PATH, bought("a1", "ada"))[0] == 200
        finally:
            going_on.set()
