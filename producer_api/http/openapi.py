"""The OpenAPI document: FastAPI's own, and the predict call described by hand, because FastAPI does not serve it."""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from inferlane.contracts.callback_addresses import MAX_URL_CHARS
from inferlane.contracts.rollout_request import request_components
from inferlane.runtime.api_keys import Scope
from producer_api.http.asgi import (
    EMBEDDINGS_PATH,
    PREDICT_PATH,
    V2_LIVE_PATH,
    V2_MODEL_PATH,
    V2_READY_PATH,
    V2_VERSION_PATH,
    is_v2,
)
from producer_api.http.auth import required_scope
from producer_api.http.openai_schemas import EmbeddingsResponse, OpenAiError, embeddings_bodies
from producer_api.http.openapi_operations import (
    CALL_PROBLEMS,
    SCHEMAS,
    embed_operation,
    error_of,
    infer_operation,
    predict_operation,
    problem_of,
    schema_ref,
)
from producer_api.http.protocol_schemas import InferResponse, ProtocolError, infer_bodies
from producer_api.http.request_schemas import feedback_bodies, predict_bodies, split_bodies, split_examples
from producer_api.http.schemas import Prediction, Problem, Queued

if TYPE_CHECKING:
    from inferlane.runtime.service_settings import ApiSettings, OutcomeSettings, WebhookSettings
    from models.live_catalog import AnyCatalog

_SHAPES: tuple[Any, ...] = (Prediction, Queued, Problem, ProtocolError, InferResponse, EmbeddingsResponse, OpenAiError)
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "Made by `inferlane keys create`.",
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


def openapi(
    app: FastAPI,
    catalog: "AnyCatalog",
    api: "ApiSettings",
    outcomes: "OutcomeSettings",
    webhooks: "WebhookSettings",
    *,
    has_keys: bool,
) -> dict[str, Any]:
    """Build the document once and keep it; it asks for a key only if the API has keys."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        _, shapes = models_json_schema(
            [(shape, "validation") for shape in _SHAPES],
            ref_template=SCHEMAS + "{model}",
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(shapes["$defs"])
        schemas["PredictRequest"] = predict_bodies(catalog, api)
        for body in schemas["PredictRequest"]["anyOf"]:
            if "properties" in body:
                body["properties"]["callback_url"] = _callback_url(webhooks)
        schemas["TrafficSplit"] = split_bodies(catalog)
        paths = document["paths"]
        schemas["InferRequest"] = infer_bodies(api)
        (parameters, _) = schemas["InferRequest"]["properties"]["parameters"]["anyOf"]
        parameters["properties"]["callback_url"] = _callback_url(webhooks)
        paths[PREDICT_PATH] = {"post": predict_operation()}
        _add_embeddings(document, embeddings_bodies(catalog, api.max_rows))
        for path, names in ((V2_MODEL_PATH, ("model",)), (V2_VERSION_PATH, ("model", "version"))):
            paths[f"{path}/infer"] = {"post": infer_operation(catalog, names)}
        paths["/v1/traffic-split"]["post"]["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": schema_ref("TrafficSplit"), "examples": split_examples(catalog)}
            },
        }
        paths["/v1/feedback"]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": feedback_bodies()}},
        }
        schemas.update(request_components(SCHEMAS + "{name}"))
        paths["/v1/rollouts"]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_ref("RolloutRequest")}},
        }
        if has_keys:
            document["components"]["securitySchemes"] = {"apiKey": _SECURITY_SCHEME}
        for path, operations in paths.items():
            for method, operation in operations.items():
                _complete(path, operation)
                operation["responses"] |= _conflicts(method, path)
                if has_keys:
                    _secure(path, operation, required_scope(method.upper(), path))
                elif method != "get":
                    operation["responses"].setdefault("403", problem_of("A page of another site made the call."))
        _limit(paths["/v1/metrics/{version}"], "window_s", outcomes.window_s)
        _limit(paths["/v1/predictions/{request_id}"], "wait_s", api.longest_read_wait_s)
        app.openapi_schema = document
    return app.openapi_schema


def _callback_url(webhooks: "WebhookSettings") -> dict[str, Any]:
    if not webhooks.enabled:
        return {
            "type": ["string", "null"],
            "maxLength": 0,
            "description": "This deployment sends no callbacks (INFERLANE_WEBHOOKS).",
        }
    return {
        "type": ["string", "null"],
        "format": "uri",
        "maxLength": MAX_URL_CHARS,
        "description": "A public URL to which the result is also POSTed, signed as Standard Webhooks asks.",
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
        responses |= {status: error_of(path, text) for status, text in _ANY_PROBLEMS.items()}
    if path.endswith("/ready") and path not in _PROBES:
        content = {
            "application/json": {"schema": {"anyOf": [schema_ref("ModelReadiness"), schema_ref("ProtocolError")]}}
        }
        responses["503"] = {"description": "It is not served.", "content": content}
    if "requestBody" in operation:
        responses.setdefault("415", error_of(path, CALL_PROBLEMS["415"]))
    for status, text in _EDGE_PROBLEMS.items():
        held = responses.setdefault(status, problem_of(text))
        held["content"] = {**held["content"], **problem_of(text)["content"]}
        if is_v2(path) or path == EMBEDDINGS_PATH:
            held["content"] = {**held["content"], **error_of(path, text)["content"]}
    for parameter in operation.get("parameters", ()):
        # A name may be any text without control characters, which no path may hold.
        if parameter["in"] == "path":
            parameter["schema"] |= {"minLength": 1, "pattern": "^[^\\x00-\\x1f\\x7f]+$"}


def _conflicts(method: str, path: str) -> dict[str, Any]:
    if method != "post" or not path.startswith(("/v1/rollouts", "/v1/traffic-split")):
        return {}
    return {"409": problem_of("A rollout forbids it, or is in a state in which the command does not apply.")}


def _limit(path: dict[str, Any], name: str, limit: float) -> None:
    """Give a parameter of a GET the maximum that a setting has."""
    (found,) = (parameter for parameter in path["get"]["parameters"] if parameter["name"] == name)
    found["schema"]["maximum"] = limit


def _secure(path: str, operation: dict[str, Any], scope: Scope | None) -> None:
    if scope is None:
        return
    operation["security"] = [{"apiKey": [scope.value]}]
    operation["responses"] |= {
        "401": error_of(path, "The call has no key, or one that is not valid."),
        "403": error_of(path, f"The key lacks the scope `{scope}`."),
    }


def _add_embeddings(document: dict[str, Any], body: dict[str, Any] | None) -> None:
    if body is None:
        return
    document["components"]["schemas"]["EmbeddingsRequest"] = body
    document["paths"][EMBEDDINGS_PATH] = {"post": embed_operation()}
