"""What is not read a thousand times a second: services, the registry, health, metrics, OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import tidemark
from tidemark.apps.http import contract
from tidemark.apps.http.access import OPEN, Caller, forbidden
from tidemark.apps.http.events import PUSHED, push_path
from tidemark.apps.http.following import Readiness
from tidemark.apps.http.pools import Pool
from tidemark.apps.http.problems import MEDIA_TYPE, Refused, problem
from tidemark.errors import NotFound, RequestInvalid, TidemarkError

if TYPE_CHECKING:
    from tidemark.apps.http.metrics import Metrics
    from tidemark.store import Store

_KINDS = {"feature", "on-demand feature"}
_MOST_HITS = 100
_SEARCHED = ("q", "entity", "owner", "tag", "type", "source", "kind", "limit")


def management(store: Store, metrics: Metrics, pool: Pool) -> FastAPI:
    """The application behind the read path.

    Its answers are JSON of msgspec, and every error a problem.  What may ask a database is answered
    by a thread of the pool, in bounded time.
    """
    app = FastAPI(
        title="Tidemark",
        version=tidemark.__version__,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # it would lead where a header of the request says
        default_response_class=_Json,
        responses=contract.problem_responses(*contract.EVERYWHERE),
    )
    _add_registry(app, store, pool)
    _add_looking(app, store, pool)
    _add_health(app, store, metrics)
    _document(app)
    for kind in (Refused, TidemarkError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _told)
    return app


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content, enc_hook=str)


def _bounded(pool: Pool) -> Callable[[Callable[..., _Json]], Callable[..., Awaitable[_Json]]]:
    def bound(answer: Callable[..., _Json]) -> Callable[..., Awaitable[_Json]]:
        @wraps(answer)
        async def answered(*arguments: Any, **named: Any) -> _Json:
            with pool.place():
                return await pool.run(partial(answer, *arguments, **named))

        return answered

    return bound


def _add_registry(app: FastAPI, store: Store, pool: Pool) -> None:
    bounded = _bounded(pool)
    not_found = contract.problem_responses(404)

    @app.get("/v1/services", tags=["registry"], responses=contract.told("Services"))
    @bounded
    def list_services(request: Request) -> _Json:  # pyright: ignore[reportUnusedFunction]
        """List the services that are in force."""
        caller = _caller(request)
        snapshot = store.readers.snapshot()
        services = [
            {
                "name": service.name,
                "description": service.description,
                "owner": service.owner,
                "features": len(service.outputs),
            }
            for service in snapshot.definitions.services
            if caller.may_read_service(service, snapshot.definitions)
        ]
        return _Json({"revision": snapshot.revision, "services": services})

    @app.get(
        "/v1/services/{name}", tags=["registry"], responses=contract.told("Contract") | not_found
    )
    @bounded
    def get_service(request: Request, name: str) -> _Json:  # pyright: ignore[reportUnusedFunction]
        """Tell what a service is asked with and what it answers."""
        snapshot = store.readers.snapshot()
        caller = _caller(request)
        with caller.told_nothing_else():
            service = snapshot.definitions.service(name)
        if not caller.may_read_service(service, snapshot.definitions):
            raise forbidden()
        return _Json(contract.contract(snapshot, name, store.reader(name).program))

    @app.get(
        "/v1/features/{ref}", tags=["registry"], responses=contract.told("Description") | not_found
    )
    @bounded
    def get_feature(request: Request, ref: str) -> _Json:  # pyright: ignore[reportUnusedFunction]
        """Describe a feature: `user_spend:spend_7d`, or one version of it, `...@2`."""
        caller = _caller(request)
        with caller.told_nothing_else():
            facts = store.describe(ref)
            program = store.reader([ref]).program if caller.limited else None
        if program is not None:
            references = program.reference.values()
            if not caller.may_read((ref,), references, program.definitions):
                raise forbidden()
        if facts.get("kind") not in _KINDS:
            raise NotFound(f"{ref} is not a feature.", remedy="GET /v1/search?q=... finds some.")
        return _Json(facts)


def _add_looking(app: FastAPI, store: Store, pool: Pool) -> None:
    bounded = _bounded(pool)

    @app.get("/v1/freshness", tags=["registry"], responses=contract.told("Freshness"))
    @bounded
    def get_freshness(request: Request) -> _Json:  # pyright: ignore[reportUnusedFunction]
        """Tell how old what is served is, view by view, against what was promised."""
        if _caller(request).limited:  # it would be told of views that it may not read
            raise forbidden()
        return _Json(store.freshness().to_dict())

    @app.get(
        "/v1/search",
        tags=["registry"],
        responses=contract.told("Found") | contract.problem_responses(404),
    )
    @bounded
    def search(  # pyright: ignore[reportUnusedFunction]
        request: Request,
        q: Annotated[str, Query(max_length=1_000)] = "",
        entity: str | None = None,
        owner: str | None = None,
        tag: str | None = None,
        type: str | None = None,  # noqa: A002
        source: str | None = None,
        kind: str | None = None,
        limit: Annotated[int, Query(ge=1, le=_MOST_HITS)] = 10,
    ) -> _Json:
        """Find features, and what they are made of, by what people call them."""
        if _caller(request).limited:  # what it may not read would be among what is found
            raise forbidden()
        for name in request.query_params.keys() - {*_SEARCHED}:  # a filter that holds nothing back
            raise RequestInvalid(
                f"A search has no parameter {name!r}.", remedy=f"It has: {', '.join(_SEARCHED)}."
            )
        found = store.registry.search(
            q,
            entity=entity,
            owner=owner,
            tag=tag,
            type=type,
            source=source,
            kind=kind,
            limit=limit,
        )
        return _Json(found.to_dict())


def _add_health(app: FastAPI, store: Store, metrics: Metrics) -> None:
    readiness = Readiness(store.readers.check)

    @app.get("/healthz", tags=["operation"], responses=contract.told("Health"))
    async def healthz() -> _Json:  # pyright: ignore[reportUnusedFunction]
        """Say that the process answers."""
        return _Json({"status": "ok"})

    @app.get("/readyz", tags=["operation"], responses=contract.told("Health"))
    async def readyz() -> _Json:  # pyright: ignore[reportUnusedFunction]
        """Say that the registry and the online store answer; 503 or 500 if not."""
        return _Json({"status": "ready", "revision": await readiness.revision()})

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def read_metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Tell all counts in the text form of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _document(app: FastAPI) -> None:
    """Put the routes that FastAPI does not know into its OpenAPI document."""
    known = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = known()
            pushing = push_path(contract.problem_responses(*contract.MEANING))
            found["paths"] = contract.read_paths() | pushing | found["paths"]
            schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
            schemas |= contract.SCHEMAS | {"Pushed": PUSHED}
            found["components"]["securitySchemes"] = contract.SECURITY
            found["security"] = [{"key": []}]
            for path in OPEN:
                found["paths"][path]["get"]["security"] = []
        return app.openapi_schema or {}

    app.openapi = document  # type: ignore[method-assign]


def _caller(request: Request) -> Caller:
    """Who asks; the service has put it there."""
    caller: Caller = request.state.caller
    return caller


def _told(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        error = RequestInvalid(f"The parameter {name} does not fit: {first['msg']}.")
    elif isinstance(error, HTTPException):
        error = _of_status(error)
    status, body, headers = problem(error, request.state.request_id)
    more = {key.decode(): value.decode() for key, value in headers}
    return Response(body, status, media_type=MEDIA_TYPE, headers=more)


def _of_status(error: HTTPException) -> Refused:
    """What the routing refuses: no such path, or not with that method."""
    remedy = "GET /openapi.json lists the routes."
    what: TidemarkError
    if error.status_code == HTTPStatus.NOT_FOUND:
        what = NotFound("There is no such route.", remedy=remedy)
    else:
        phrase = HTTPStatus(error.status_code).phrase
        what = RequestInvalid(f"{phrase}.", remedy=remedy)
    allowed = (error.headers or {}).get("Allow", "")
    headers = ((b"allow", allowed.encode()),) if allowed else ()
    return Refused(error.status_code, what, headers)
