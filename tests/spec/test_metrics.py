"""What the service counts and traces: every name that is documented or drawn exists."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
from tests.spec.served import make_project

import tidemark as tm

if importlib.util.find_spec("fastapi") is None:
    if os.environ.get("CI") == "true":
        pytest.fail("The server's libraries are not installed.", pytrace=False)
    pytest.skip("the extra `server` is not installed", allow_module_level=True)

from tests.spec.http_server import limits

from tidemark.apps.http.service import Service

ROOT = Path(__file__).resolve().parents[2]
AT = "2026-03-03T12:00:00Z"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("metered"))


@pytest.fixture
def service(project):
    with tm.connect(project) as store:
        service = Service(store, limits(), keyless="anybody")
        service.access.refresh()
        yield service


def ask(service: Service, path: str, body: object, **headers: str) -> tuple[int, bytes]:
    """Post JSON to the service in this process."""
    text = json.dumps(body).encode()
    sent: list[dict] = []
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"",
        "headers": [(b"content-length", str(len(text)).encode()), *named],
        "client": ("127.0.0.1", 1), "scheme": "http",
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": text}

    async def send(message):
        sent.append(message)

    asyncio.run(service(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def sample(service: Service, line: str) -> float:
    """The value of a sample by its name and labels as they are written."""
    for each in service.metrics.text().decode().splitlines():
        name, _, value = each.rpartition(" ")
        if name == line:
            return float(value)
    return 0.0


def test_stages_statuses_and_ages_are_counted(service):
    """A read counts once in each stage, with the statuses of its values and the age of views."""
    status, _ = ask(
        service, "/v1/services/everything/online", {"keys": {"user_id": "ada"}, "at": AT}
    )
    assert status == 200
    for stage in ("decode", "store", "kernel", "on_demand", "encode"):
        assert sample(service, f'tidemark_http_stage_seconds_count{{stage="{stage}"}}') == 1
    assert (
        sample(service, 'tidemark_values_total{feature="activity:spend@1",status="PRESENT"}') == 1
    )
    assert sample(service, 'tidemark_age_at_serving_seconds_count{view="activity"}') == 1
    assert (
        sample(service, 'tidemark_age_at_serving_seconds_bucket{le="86400.0",view="activity"}') == 1
    )
    assert (
        sample(service, 'tidemark_age_at_serving_seconds_bucket{le="21600.0",view="activity"}') == 0
    )


def test_the_serving_log_is_counted(service):
    """Rows that wait, and rows that are written."""
    ask(service, "/v1/services/everything/online", {"keys": {"user_id": ["ada", "nan"]}, "at": AT})
    service.store.log.flush()
    assert sample(service, 'tidemark_serving_log_rows_total{outcome="written"}') == 2
    assert sample(service, 'tidemark_serving_log_rows_total{outcome="dropped"}') == 0
    assert sample(service, "tidemark_serving_log_queue_rows") == 0


def test_a_request_is_explained_by_the_id_of_its_answer(service):
    """What the caller sent as X-Request-Id, or was given."""
    body = {"keys": {"user_id": "ada"}, "at": AT}
    ask(service, "/v1/services/everything/online", body, **{"x-request-id": "decline-8812"})
    explained = service.store.log.explain("decline-8812")
    assert explained.rows[0].keys == {"user_id": "ada"}
    _, answer = ask(service, "/v1/features/online", body | {"features": ["activity:spend"]})
    told = service.store.log.explain(json.loads(answer)["request_id"])
    assert [each.reference for each in told.rows[0].values] == ["activity:spend@1"]
    assert told.service == "features"


def test_errors_of_stores_are_counted_by_kind(service, monkeypatch):
    """What a store made fail; what the caller did wrong is not among it."""
    from tidemark.errors import StoreUnavailable

    ask(service, "/v1/services/everything/online", {"keys": {"user": "ada"}})
    kind = 'tidemark_store_errors_total{kind="store-unavailable"}'
    assert f"{kind} 0.0\n" in service.metrics.text().decode()

    def away(keys):
        raise StoreUnavailable("It is away.")

    monkeypatch.setattr(service.store._online, "get_many", away)
    status, _ = ask(service, "/v1/services/everything/online", {"keys": {"user_id": "ada"}})
    assert status == 503
    assert sample(service, kind) == 1


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\btidemark_[a-z_]+[a-z]\b", text))


def exposed(service: Service) -> dict[str, str]:
    """The metrics and their kinds."""
    lines = service.metrics.text().decode().splitlines()
    typed = (line.split()[2:] for line in lines if line.startswith("# TYPE"))
    return {name: kind for name, kind in typed if not name.endswith("_created")}


def test_every_metric_of_the_dashboard_exists(service):
    """A panel that queries nothing is worse than none."""
    board = json.loads((ROOT / "deploy/grafana/tidemark.json").read_text("utf-8"))
    asked = names_in(" ".join(t["expr"] for panel in board["panels"] for t in panel["targets"]))
    known = exposed(service)
    parts = {f"{name}_{end}" for name in known for end in ("bucket", "sum", "count")}
    assert asked
    assert asked <= known.keys() | parts


def test_every_metric_is_documented(service):
    """The reference page has the names that are exposed, and no other."""
    page = (ROOT / "docs/reference/metrics.md").read_text("utf-8")
    assert names_in(page) == exposed(service).keys()


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.sdk") is None
    if importlib.util.find_spec("opentelemetry")
    else True,
    reason="the extra `otel` is not installed",
)
def test_a_read_is_a_span_with_its_stages_inside(project):
    """In the trace that the caller names; nothing where no tracer is set up."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with tm.connect(project) as store:
        service = Service(store, limits(), keyless="anybody")
        service.access.refresh()
        service._tracing._tracer = trace.get_tracer("tidemark", tracer_provider=provider)
        caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        ask(service, "/v1/services/everything/online", {"keys": {"user_id": "ada"}},
            traceparent=caller, **{"x-request-id": "r1"})  # fmt: skip
    spans = {each.name: each for each in exporter.get_finished_spans()}
    assert list(spans) == [
        "tidemark.decode", "tidemark.store", "tidemark.kernel", "tidemark.on_demand",
        "tidemark.encode", "tidemark.read",
    ]  # fmt: skip
    read = spans["tidemark.read"]
    assert read.attributes == {
        "tidemark.request_id": "r1", "tidemark.service": "everything", "tidemark.keys": 1,
    }  # fmt: skip
    assert f"{read.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert all(s.parent.span_id == read.context.span_id for n, s in spans.items() if n != read.name)
