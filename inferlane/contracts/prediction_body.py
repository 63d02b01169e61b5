"""A terminal result as clients read it: the body of `GET /v1/predictions/{id}`, of its events and of callbacks."""

from typing import Any

from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.class_names import ClassNames
from inferlane.contracts.wire.small_results import row_predictions
from inferlane.contracts.wire.tensors import Tensors
from inferlane.contracts.wire.v1 import encode_predictions
from inferlane.contracts.wire.v2 import decode_response
from inferlane.errors import DecodeError, InferlaneError


def stored_outputs(result: Result) -> Tensors:
    """Return the output tensors of a request that succeeded.

    Raises:
        InferlaneError: the stored content is not an inference response; the client is not at fault.
    """
    try:
        return decode_response(result.content, result.json_length)
    except DecodeError as error:
        raise InferlaneError(f"the stored result cannot be read: {error}") from error


def prediction_body(result: Result, classes: ClassNames) -> dict[str, Any]:
    """Return the body: the predictions if the request succeeded, else its error.

    `classes` are the names of the class indices, by output. Numbers that JSON cannot represent are the strings
    "NaN", "Infinity" and "-Infinity".

    Raises:
        InferlaneError: the stored content is not an inference response; the client is not at fault.
    """
    body: dict[str, Any] = {
        "request_id": result.request_id,
        "status": result.status.value,
        "model": result.model,
        "version": result.version,
    }
    if result.status is Status.SUCCEEDED:
        small = row_predictions(result.content, result.json_length, classes)
        body["predictions"] = encode_predictions(stored_outputs(result), classes) if small is None else small
        if result.outcome_token:
            body["outcome_token"] = result.outcome_token
    else:
        body["error"] = {"code": result.error_code, "detail": result.error_detail}
    body["timings_ms"] = {
        "queue_wait": round(result.queue_wait_s * 1000, 3),
        "inference": round(result.inference_s * 1000, 3),
        "total": round((result.finished_s - result.accepted_s) * 1000, 3),
    }
    return body
