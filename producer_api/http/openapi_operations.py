"""The operations of the OpenAPI document that are described by hand, because FastAPI does not serve them."""

from typing import TYPE_CHECKING, Any

from inferlane.runtime.http.problem import CONTENT_TYPE
from producer_api.http.asgi import (
    EMBEDDINGS_PATH,
    V2_MODEL_PATH,
    is_v2,
)
from producer_api.http.protocol_schemas import infer_examples

if TYPE_CHECKING:
    from models.live_catalog import AnyCatalog

SCHEMAS = "#/components/schemas/"


CALL_PROBLEMS = {
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


_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same body is the same request: it is enqueued once, and every "
    "call gets its result, also while it is under way. With another body: 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
}


def predict_operation() -> dict[str, Any]:
    """Return the operation of `POST /v1/models/predict`."""
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
        "requestBody": {"required": True, "content": json_of("PredictRequest")},
        "responses": {
            "200": {"description": "The predictions.", "content": json_of("Prediction")},
            "202": {
                "description": "Accepted; the result will be at `Location`.",
                "headers": {
                    "Location": {"schema": {"type": "string"}},
                    "Preference-Applied": {"schema": {"type": "string"}, "description": "`respond-async`, if asked."},
                },
                "content": json_of("Queued"),
            },
            **{status: problem_of(description) for status, description in CALL_PROBLEMS.items()},
        },
    }


def infer_operation(catalog: "AnyCatalog", names: tuple[str, ...]) -> dict[str, Any]:
    """Return the operation of the infer call of the Open Inference Protocol, with an example for each of `names`."""
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
            "content": {
                "application/json": {"schema": schema_ref("InferRequest"), "examples": infer_examples(catalog)}
            },
        },
        "responses": {
            "200": {"description": "The outputs.", "content": {**json_of("InferResponse"), **binary}},
            **{status: error_of(V2_MODEL_PATH, text) for status, text in CALL_PROBLEMS.items()},
        },
    }


def embed_operation() -> dict[str, Any]:
    """Return the operation of `POST /v1/embeddings`."""
    return {
        "tags": ["predictions"],
        "summary": "Embed",
        "operationId": "embed",
        "description": "OpenAI's call for embeddings, over the queue: waits for the result as long as calls may wait "
        "(`Prefer: wait=<seconds>` for less), and answers 504 when the wait runs out.",
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": json_of("EmbeddingsRequest")},
        "responses": {
            "200": {"description": "One embedding for each text.", "content": json_of("EmbeddingsResponse")},
            **{status: error_of(EMBEDDINGS_PATH, text) for status, text in CALL_PROBLEMS.items()},
        },
    }


def schema_ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema of the document by its name."""
    return {"$ref": SCHEMAS + name}


def json_of(name: str) -> dict[str, Any]:
    """Return the content of a JSON response whose schema has this name."""
    return {"application/json": {"schema": schema_ref(name)}}


def error_of(path: str, description: str) -> dict[str, Any]:
    """Describe an error as the clients of the path read it."""
    if path == EMBEDDINGS_PATH:
        return {"description": description, "content": json_of("OpenAiError")}
    if is_v2(path):
        return {"description": description, "content": json_of("ProtocolError")}
    return problem_of(description)


def problem_of(description: str) -> dict[str, Any]:
    """Describe a response that is a problem document (RFC 9457)."""
    return {"description": description, "content": {CONTENT_TYPE: {"schema": {"$ref": f"{SCHEMAS}Problem"}}}}
