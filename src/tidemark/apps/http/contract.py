"""What a service promises, for programs: types, JSON Schema, and the OpenAPI of the read routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemark.serve.json import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidemark.model.graph import Field
    from tidemark.registry import Snapshot
    from tidemark.serve.program import Program

SERVICES, FEATURES = "/v1/services/{name}/online", "/v1/features/online"
"""The routes that read vectors."""

_JSON = "application/json"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def contract(snapshot: Snapshot, name: str, program: Program) -> dict[str, Any]:
    """A service: what it is asked with and what it answers; raises `NotFound`."""
    definitions = snapshot.definitions
    service = definitions.service(name)
    return {
        "name": name,
        "description": service.description,
        "owner": service.owner,
        "tags": list(service.tags),
        "revision": snapshot.revision,
        "keys": _fields(program.keys.fields),
        "request": [
            {**each, "optional": field.optional}
            for each, field in zip(
                _fields(program.request.fields), program.request.fields, strict=True
            )
        ],
        "features": [
            {
                "name": output.name,
                "feature": str(output.reference),
                "type": str(definitions.type_of(output.reference)),
            }
            for output in service.outputs
        ],
        "body": body_schema(program),
    }


def body_schema(program: Program) -> dict[str, Any]:
    """The JSON Schema of what is sent to read the outputs of a program."""
    keys, request = _either(program.keys.fields), _either(program.request.fields)
    required = ["keys", "request"] if program.request.fields else ["keys"]
    return _object({"keys": keys, "request": request, "at": _MOMENT}, required)


def read_paths() -> dict[str, Any]:
    """The OpenAPI of the two routes that read vectors."""
    named = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    body = {"keys": _COLUMNS, "request": _COLUMNS, "at": _MOMENT}
    parameter = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    of_service = _operation("Read the features of a service", _object(body, ["keys"]))
    of_features = _operation(
        "Read features that are named one by one",
        _object({"features": named, **body}, ["features", "keys"]),
    )
    return {
        SERVICES: {
            "post": {**of_service, "operationId": "read_service", "parameters": [parameter]}
        },
        FEATURES: {"post": {**of_features, "operationId": "read_features"}},
    }


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of the problems that a route answers with."""
    return {
        status: {
            "description": MEANING[status],
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
        for status in statuses
    }


MEANING = {
    400: "The body is not JSON, or the request is no HTTP.",
    401: "There are keys, and none that holds came with the request.",
    403: "The key is not for this.",
    404: "There is no such name.",
    405: "The route has another method.",
    408: "The body did not arrive in time.",
    409: "The state cannot answer, or not for that moment.",
    413: "The body is too large, or asks for too much.",
    421: "There are no keys, and the request names another host than this machine.",
    422: "Keys, request values or parameters are not what is declared.",
    429: "The key has asked too often; `Retry-After` says when to come again.",
    431: "The head of the request is too large.",
    500: "A value cannot be computed, or something unforeseen happened.",
    503: "Too many requests are waiting, or a store does not answer; try again.",
}


def told(schema: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of an answer in JSON, by the name of its schema."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    content = {_JSON: {"schema": reference}}
    return {200: {"description": "As asked for.", "content": content}}


EVERYWHERE = (400, 401, 403, 405, 408, 421, 422, 429, 431, 500, 503)
"""What any route may answer."""

SECURITY: dict[str, Any] = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key, as `tidemark key create` told it; none is asked for until the "
        "first is made.",
    }
}

_MOMENT = {
    "type": ["string", "null"],
    "format": "date-time",
    "description": "The moment asked for; now if left out.",
}
_COLUMNS: dict[str, Any] = {
    "anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}],
    "description": "Values by name, an array of values by name, or an array of such objects.",
}
_BY_NAME = {"type": "object", "description": "By name; an array for each if many were asked for."}
_FIELDS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "type"],
        "properties": {"name": {"type": "string"}, "type": {"type": "string"}},
    },
}

SCHEMAS: dict[str, Any] = {
    "Answer": {
        "type": "object",
        "required": ["request_id", "at", "features", "types", "values", "statuses", "ages"],
        "properties": {
            "request_id": {"type": "string"},
            "service": {"type": "string"},
            "at": {"type": "string", "format": "date-time"},
            "features": {"type": "object", "additionalProperties": {"type": "string"}},
            "types": {"type": "object", "additionalProperties": {"type": "string"}},
            "values": _BY_NAME,
            "statuses": _BY_NAME,
            "ages": {**_BY_NAME, "description": "Seconds by name, null where no event counted."},
        },
    },
    "Services": {
        "type": "object",
        "required": ["revision", "services"],
        "properties": {
            "revision": {"type": "integer"},
            "services": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "description", "owner", "features"],
                    "properties": {
                        "name": {"type": "string"},
                        "description": {"type": "string"},
                        "owner": {"type": "string"},
                        "features": {"type": "integer"},
                    },
                },
            },
        },
    },
    "Contract": {
        "type": "object",
        "required": ["name", "revision", "keys", "request", "features", "body"],
        "properties": {
            "name": {"type": "string"},
            "revision": {"type": "integer"},
            "keys": _FIELDS,
            "request": _FIELDS,
            "features": _FIELDS,
            "body": {"type": "object", "description": "The JSON Schema of what is sent."},
        },
    },
    "Description": {
        "type": "object",
        "description": "What a definition means, as `tidemark describe --json` tells it.",
        "required": ["kind"],
        "properties": {"kind": {"type": "string"}},
    },
    "Found": {
        "type": "object",
        "description": "As `tidemark search --json` tells it.",
        "required": ["hits"],
        "properties": {"hits": {"type": "array", "items": {"type": "object"}}},
    },
    "Freshness": {
        "type": "object",
        "description": "As `tidemark freshness --json` tells it.",
        "required": ["at", "views", "sources"],
        "properties": {
            "at": {"type": "string", "format": "date-time"},
            "views": {"type": "array", "items": {"type": "object"}},
            "sources": {"type": "array", "items": {"type": "object"}},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}, "revision": {"type": "integer"}},
    },
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "slug", "retryable", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "where": {"type": "string"},
            "remedy": {"type": "string"},
            "bad_rows": {"type": "integer"},
            "bad": {"type": "array", "items": {"type": "object"}},
            "slug": {"type": "string"},
            "retryable": {"type": "boolean"},
            "request_id": {"type": "string"},
        },
    },
}


def _operation(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    arrow = {"schema": {"type": "string", "format": "binary"}}
    answers = {
        _JSON: {"schema": {"$ref": "#/components/schemas/Answer"}},
        "application/vnd.apache.arrow.stream": arrow,
    }
    return {
        "tags": ["read"],
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
        "responses": {
            "200": {"description": "The values, by column.", "content": answers},
            **{str(status): response for status, response in problem_responses(*MEANING).items()},
        },
    }


def _fields(fields: Sequence[Field]) -> list[dict[str, str]]:
    return [
        {"name": each.name, "type": str(each.type), "description": each.description}
        for each in fields
    ]


def _either(fields: Sequence[Field]) -> dict[str, Any]:
    """One object of values, one of columns, or an array of objects of values."""
    names = [field.name for field in fields]
    one = _object({field.name: _schema(field) for field in fields}, names)
    columns = {field.name: {"type": "array", "items": _schema(field)} for field in fields}
    return {"anyOf": [one, _object(columns, names), {"type": "array", "items": one}]}


def _schema(field: Field) -> dict[str, Any]:
    found = schema(field.type)
    return {"anyOf": [found, {"type": "null"}]} if field.optional else found


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}
