"""Results as the JSON that clients read."""

from typing import TYPE_CHECKING, Any

import msgspec

from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v1 import encode_predictions
from inferlane.contracts.wire.v2 import decode_response
from inferlane.errors import DecodeError, InferlaneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferlane.contracts.wire.tensors import Tensors
    from models.catalog import Catalog

encode_json = msgspec.json.Encoder().encode


class Answerer:
    """Turns results into V1 answers, with class names in place of class indices."""

    def __init__(self, catalog: "Catalog") -> None:
        self._classes: Mapping[tuple[str, str], tuple[str, ...]] = {
            (version.model, version.version): version.classes for version in catalog.all_versions()
        }

    def body(self, result: Result) -> dict[str, Any]:
        """The answer: its predictions when it succeeded, else its error.

        Numbers that JSON has not are the strings "NaN", "Infinity" and "-Infinity".

        Raises:
            InferlaneError: the stored content is not an inference response, which is no fault of who asks.
        """
        answer: dict[str, Any] = {
            "request_id": result.request_id,
            "status": result.status.value,
            "model": result.model,
            "version": result.version,
        }
        if result.status is Status.SUCCEEDED:
            outputs = _outputs(result)
            answer["predictions"] = encode_predictions(outputs, self._classes.get((result.model, result.version), ()))
        else:
            answer["error"] = {"code": result.error_code, "detail": result.error_detail}
        answer["timings_ms"] = {
            "queue_wait": round(result.queue_wait_s * 1000, 3),
            "inference": round(result.inference_s * 1000, 3),
            "total": round((result.finished_s - result.accepted_s) * 1000, 3),
        }
        return answer


def _outputs(result: Result) -> "Tensors":
    try:
        return decode_response(result.content, result.json_length)
    except DecodeError as error:
        raise InferlaneError(f"the stored result cannot be read: {error}") from error
