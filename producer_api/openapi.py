"""The OpenAPI document: FastAPI's own, with the hot calls described by hand since FastAPI does not serve them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from inferlane.api_keys import Scope
from inferlane.http.problem import CONTENT_TYPE
from producer_api.gate import required_scope
from producer_api.predict_endpoint import PATH
from producer_api.schemas import Prediction, PredictRequest, Problem, Queued

_REF = "#/components/schemas/"
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "Made by `inferlane keys create`. Not needed where the API is open: on loopback with no keys file.",
}
_PROBLEMS = {
    "400": "The body is not JSON.",
    "404": "Unknown model or version.",
    "410": "The request was cancelled meanwhile.",
    "413": "Body, rows or tensors over the limit.",
    "415": "The body has a `Content-Encoding` other than gzip or deflate.",
    "422": "The instances do not fit the model, or the `Idempotency-Key` stands for another body.",
    "500": "The model failed; the request is in the dead letters.",
    "503": "The queue or the store does not answer, or so much waits that the deadline cannot be met; "
    "see `Retry-After`.",
    "504": "The deadline passed before a worker could start.",
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """Build the document once and keep it."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        _, shapes = models_json_schema(
            [(shape, "validation") for shape in (PredictRequest, Prediction, Queued, Problem)],
            ref_template=_REF + "{model}",
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(shapes["$defs"])
        document["paths"][PATH] = {"post": _predict()}
        document["components"]["securitySchemes"] = {"apiKey": _SECURITY_SCHEME}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _secure(operation, required_scope(method.upper(), path))
                operation["responses"].setdefault("422", {})["description"] = "The request is not as it must be."
                operation["responses"]["422"] = _problem(operation["responses"]["422"]["description"])
                if "requestBody" in operation:
                    for status in ("413", "415"):
                        operation["responses"].setdefault(status, _problem(_PROBLEMS[status]))
        app.openapi_schema = document
    return app.openapi_schema


def _secure(operation: dict[str, Any], scope: Scope | None) -> None:
    if scope is None:
        return
    operation["security"] = [{"apiKey": [scope.value]}]
    operation["responses"] |= {
        "401": _problem("No key, or one that is not in force."),
        "403": _problem(f"The key lacks the scope `{scope}`."),
    }


def _predict() -> dict[str, Any]:
    return {
        "tags": ["predictions"],
        "summary": "Predict",
        "operationId": "predict",
        "description": "Enqueues the request and waits for its result. When the wait runs out, or with "
        "`Prefer: respond-async`, answers 202 with the `Location` of the result. The body may be compressed: "
        "`Content-Encoding: gzip` or `deflate`. NaN and infinity in predictions are strings (docs/payloads.md).",
        "parameters": [
            {
                "name": "Prefer",
                "in": "header",
                "required": False,
                "description": "`respond-async`, or `wait=<seconds>` (RFC 7240).",
                "schema": {"type": "string"},
                "examples": {"async": {"value": "respond-async"}, "wait": {"value": "wait=2"}},
            },
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key with the same body is the same request: it is enqueued once, and every "
                "call gets its result, also while it is under way. With another body: 422.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
            },
        ],
        "requestBody": {"required": True, "content": _json("PredictRequest")},
        "responses": {
            "200": {"description": "The predictions.", "content": _json("Prediction")},
            "202": {
                "description": "Accepted; the result will be at `Location`.",
                "headers": {"Location": {"schema": {"type": "string"}}},
                "content": _json("Queued"),
            },
            **{status: _problem(description) for status, description in _PROBLEMS.items()},
        },
    }


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF + name}}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {CONTENT_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}}}
