"""The OpenAPI document: FastAPI's own, and the predict call described by hand, because FastAPI does not serve it."""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from inferlane.contracts.callback_addresses import MAX_URL_CHARS
from inferlane.contracts.rollout_request import request_components
from inferlane.runtime.api_keys import Scope
from inferlane.runtime.http.request_head import CONTENT_TYPE
from producer_api.http.asgi import PREDICT_PATH
from producer_api.http.auth import required_scope
from producer_api.http.openai_schemas import EmbeddingsResponse, OpenAiError, embeddings_bodies
from producer_api.http.paths import EMBEDDINGS_PATH, V2_LIVE_PATH, V2_MODEL_PATH, V2_READY_PATH, V2_VERSION_PATH, is_v2
from producer_api.http.protocol_schemas import InferResponse, ProtocolError, infer_bodies, infer_examples
from producer_api.http.schemas import (
    Prediction,
    Problem,
    Queued,
    feedback_bodies,
    predict_bodies,
    split_bodies,
    split_examples,
)

if TYPE_CHECKING:
    from inferlane.runtime.config import Settings
    from models.live_catalog import AnyCatalog

_REF = "#/components/schemas/"
_SHAPES: tuple[Any, ...] = (Prediction, Queued, Problem, ProtocolError, InferResponse, EmbeddingsResponse, OpenAiError)
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "Made by `inferlane keys create`.",
}
_PROBLEMS = {
    "400": "The body is not JSON.",
    "404": "Unknown model or version.",
    "410": "The request was cancelled meanwhile.",
    "413": "Body, rows or tensors over the limit.",
    "415": "The body has a `Content-Encoding` other than gzip or deflate.",
    "422": "The instances do not fit the model.",
    "500": "The model failed; the request is in the dead letters.",
    "503": "The broker or the store does not respond, or the backlog is too long for the deadline; see `Retry-After`.",
    "504": "The deadline passed before a worker could start.",
}


_ANY_PROBLEMS = {
    "404": "The name is not known, or it belongs to another key.",
    "413": "The body is over the limit.",
    "422": "A parameter or the body is not valid.",
    "503": "The broker or the store did not respond in time; see `Retry-After`.",
}
# Responses of the HTTP server itself, before it passes a call on: docs/security.md.
_EDGE_PROBLEMS = {
    "400": "The request has no clear meaning as HTTP/1.1, or its body is not JSON.",
    "429": "Too many requests wait on this connection.",
    "431": "The head of the request is too large.",
}
_ANY_JSON: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_PROBES: dict[str, dict[str, Any]] = {
    "/livez": _ANY_JSON,
    "/readyz": _ANY_JSON,
    V2_LIVE_PATH: _ANY_JSON,
    V2_READY_PATH: _ANY_JSON,
    "/metrics": {"text/plain": {"schema": {"type": "string"}}},
}


_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same body is the same request: it is enqueued once, and every "
    "call gets its result, also while it is under way. With another body: 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
}


def openapi(app: FastAPI, catalog: "AnyCatalog", settings: "Settings", *, has_keys: bool) -> dict[str, Any]:
    """Build the document once and keep it; it asks for a key only if the API has keys."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        _, shapes = models_json_schema(
            [(shape, "validation") for shape in _SHAPES],
            ref_template=_REF + "{model}",
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(shapes["$defs"])
        schemas["PredictRequest"] = predict_bodies(catalog, settings)
        for body in schemas["PredictRequest"]["anyOf"]:
            if "properties" in body:
                body["properties"]["callback_url"] = _callback_url(settings)
        schemas["TrafficSplit"] = split_bodies(catalog)
        paths = document["paths"]
        schemas["InferRequest"] = infer_bodies(settings)
        (parameters, _) = schemas["InferRequest"]["properties"]["parameters"]["anyOf"]
        parameters["properties"]["callback_url"] = _callback_url(settings)
        paths[PREDICT_PATH] = {"post": _predict()}
        _add_embeddings(document, embeddings_bodies(catalog, settings.max_rows))
        for path, names in ((V2_MODEL_PATH, ("model",)), (V2_VERSION_PATH, ("model", "version"))):
            paths[f"{path}/infer"] = {"post": _infer(catalog, names)}
        paths["/v1/traffic-split"]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref("TrafficSplit"), "examples": split_examples(catalog)}},
        }
        paths["/v1/feedback"]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": feedback_bodies()}},
        }
        schemas.update(request_components(_REF + "{name}"))
        paths["/v1/rollouts"]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref("RolloutRequest")}},
        }
        if has_keys:
            document["components"]["securitySchemes"] = {"apiKey": _SECURITY_SCHEME}
        for path, operations in paths.items():
            for method, operation in operations.items():
                _complete(path, operation)
                if has_keys:
                    _secure(path, operation, required_scope(method.upper(), path))
                elif method != "get":
                    operation["responses"].setdefault("403", _problem("A page of another site made the call."))
        _limit_window(paths, settings.outcome_window_s)
        app.openapi_schema = document
    return app.openapi_schema


def _callback_url(settings: "Settings") -> dict[str, Any]:
    if not settings.webhooks:
        return {
            "type": ["string", "null"],
            "maxLength": 0,
            "description": "This deployment sends no callbacks (INFERLANE_WEBHOOKS).",
        }
    return {
        "type": ["string", "null"],
        "format": "uri",
        "maxLength": MAX_URL_CHARS,
        "description": "Where the result is POSTed too, signed as Standard Webhooks asks; at a public address.",
    }


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Add the responses that FastAPI does not know."""
    responses = operation["responses"]
    if path in _PROBES:
        responses.pop("422", None)
        responses["200"] = {"description": "The check passed.", "content": _PROBES[path]}
        if path != "/metrics":
            responses["503"] = {"description": "The check failed; the body says which part.", **responses["200"]}
    elif path not in {PREDICT_PATH, EMBEDDINGS_PATH} and not path.endswith("/infer"):
        responses |= {status: _error(path, text) for status, text in _ANY_PROBLEMS.items()}
    if path.endswith("/ready") and path not in _PROBES:
        content = {"application/json": {"schema": {"anyOf": [_ref("ModelReadiness"), _ref("ProtocolError")]}}}
        responses["503"] = {"description": "It is not served.", "content": content}
    if "requestBody" in operation:
        responses.setdefault("415", _error(path, _PROBLEMS["415"]))
    for status, text in _EDGE_PROBLEMS.items():
        held = responses.setdefault(status, _problem(text))
        held["content"] = {**held["content"], **_problem(text)["content"]}
        if is_v2(path) or path == EMBEDDINGS_PATH:
            held["content"] = {**held["content"], **_error(path, text)["content"]}
    for parameter in operation.get("parameters", ()):
        # A name may be any text without control characters, which no path may hold.
        if parameter["in"] == "path":
            parameter["schema"] |= {"minLength": 1, "pattern": "^[^\\x00-\\x1f\\x7f]+$"}


def _limit_window(paths: dict[str, Any], limit_s: int) -> None:
    (window,) = (
        parameter
        for parameter in paths["/v1/metrics/{version}"]["get"]["parameters"]
        if parameter["name"] == "window_s"
    )
    window["schema"]["maximum"] = limit_s


def _secure(path: str, operation: dict[str, Any], scope: Scope | None) -> None:
    if scope is None:
        return
    operation["security"] = [{"apiKey": [scope.value]}]
    operation["responses"] |= {
        "401": _error(path, "The call has no key, or one that is not valid."),
        "403": _error(path, f"The key lacks the scope `{scope}`."),
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
            _IDEMPOTENCY_KEY,
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


def _infer(catalog: "AnyCatalog", names: tuple[str, ...]) -> dict[str, Any]:
    known = {
        "model": list(catalog.models),
        "version": sorted({version.version for version in catalog.all_versions()}),
    }
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "tags": ["Open Inference Protocol"],
        "summary": "Infer",
        "operationId": "infer_version" if "version" in names else "infer",
        "description": "Open Inference Protocol V2: enqueues the request and waits for its result. The body may have "
        "binary tensors after its JSON part, whose length is then in `Inference-Header-Content-Length`; so may the "
        "response where `binary_data` asks for it. When the wait runs out the answer is 504, the request goes on, and "
        "`Location` is where its result will be.",
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": known[name]}}
                for name in names
            ),
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "required": False,
                "description": "The length of the JSON part of a body with binary tensors.",
                "schema": {"type": "integer", "minimum": 0},
            },
            _IDEMPOTENCY_KEY,
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("InferRequest"), "examples": infer_examples(catalog)}},
        },
        "responses": {
            "200": {"description": "The outputs.", "content": {**_json("InferResponse"), **binary}},
            **{status: _error(V2_MODEL_PATH, text) for status, text in _PROBLEMS.items()},
        },
    }


def _add_embeddings(document: dict[str, Any], body: dict[str, Any] | None) -> None:
    if body is None:
        return
    document["components"]["schemas"]["EmbeddingsRequest"] = body
    document["paths"][EMBEDDINGS_PATH] = {"post": _embed()}


def _embed() -> dict[str, Any]:
    return {
        "tags": ["predictions"],
        "summary": "Embed",
        "operationId": "embed",
        "description": "OpenAI's call for embeddings, over the queue: waits for the result as long as calls may wait "
        "(`Prefer: wait=<seconds>` for less), and answers 504 when the wait runs out.",
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": _json("EmbeddingsRequest")},
        "responses": {
            "200": {"description": "One embedding for each text.", "content": _json("EmbeddingsResponse")},
            **{status: _error(EMBEDDINGS_PATH, text) for status, text in _PROBLEMS.items()},
        },
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF + name}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _error(path: str, description: str) -> dict[str, Any]:
    """Describe an error as the clients of the path read it."""
    if path == EMBEDDINGS_PATH:
        return {"description": description, "content": _json("OpenAiError")}
    if is_v2(path):
        return {"description": description, "content": _json("ProtocolError")}
    return _problem(description)


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {CONTENT_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}}}
