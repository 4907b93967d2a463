"""Whatever fits the OpenAPI document, and whatever does not, is answered as the document says."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.spec.http_server import Server, serving  # skips where the extra is not installed
from tests.spec.served import make_project

import tidemark as tm

if importlib.util.find_spec("schemathesis") is None:
    if os.environ.get("CI") == "true":
        pytest.fail("schemathesis is not installed.", pytrace=False)
    pytest.skip("schemathesis is not installed", allow_module_level=True)

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = 10
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
FITS, FITS_NOT = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
ROUTES = [
    (mode, *route)
    for mode in (FITS, FITS_NOT)
    for route in (
        ("POST", "/v1/services/{name}/online"), ("POST", "/v1/features/online"),
        ("POST", "/v1/services/everything/online"), ("POST", "/v1/services/asked/online"),
        ("POST", "/v1/sources/{name}/events"), ("GET", "/v1/services/{name}"),
        ("GET", "/v1/features/{ref}"), ("GET", "/v1/search"),
    )
] + [
    (FITS, "GET", path)
    for path in ("/v1/services", "/v1/freshness", "/healthz", "/readyz", "/metrics")
]  # fmt: skip


class Asked(NamedTuple):
    """A server, its OpenAPI document, and the headers that go with every request."""

    server: Server
    document: dict[str, Any]
    headers: dict[str, str]


@pytest.fixture(scope="module", params=["without keys", "with a key", "with a wrong key"])
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asked]:
    project = make_project(tmp_path_factory.mktemp(request.param.replace(" ", "_")))
    good: dict[str, str] = {}
    if request.param != "without keys":
        with tm.connect(project) as store:
            good = {"Authorization": "Bearer " + store.registry.keys.create("a", ["admin"]).secret}
    wrong = {"Authorization": "Bearer tmk_wrong"}
    with serving(project) as server:
        document = server.ask("GET", "/openapi.json", **good)[2]
        for name in ("everything", "asked"):
            contract = server.ask("GET", f"/v1/services/{name}", **good)[2]
            document["paths"][f"/v1/services/{name}/online"] = _of_service(document, contract)
        yield Asked(server, document, wrong if request.param == "with a wrong key" else good)


def _of_service(document: dict[str, Any], contract: dict[str, Any]) -> dict[str, Any]:
    """The route of one service, with the form of a body that its contract tells."""
    general = document["paths"]["/v1/services/{name}/online"]["post"]
    content = {"application/json": {"schema": contract["body"]}}
    own = {"parameters": [], "operationId": contract["name"]}
    return {"post": {**general, **own, "requestBody": {"required": True, "content": content}}}


@pytest.mark.parametrize(("mode", "method", "path"), ROUTES)
def test_answers_are_those_of_the_document(
    asked: Asked, mode: schemathesis.GenerationMode, method: str, path: str
) -> None:
    """No 500, no status that is not documented, no answer of another form."""
    operation = schemathesis.openapi.from_dict(asked.document)[path][method]

    @seed(0)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        case.call_and_validate(
            base_url=asked.server.address, headers=asked.headers, checks=CHECKS, timeout=300
        )

    answers()
