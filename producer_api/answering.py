"""Results as the JSON that clients read."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from inferlane.results import Result, Status
from inferlane.wire.v2 import decode_response

if TYPE_CHECKING:
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

        Raises:
            DecodeError: the stored content is not an inference response.
        """
        answer: dict[str, Any] = {
            "request_id": result.request_id,
            "status": result.status.value,
            "model": result.model,
            "version": result.version,
        }
        if result.status is Status.SUCCEEDED:
            outputs = decode_response(result.content, result.json_length)
            answer["predictions"] = predictions(outputs, self._classes.get((result.model, result.version), ()))
        else:
            answer["error"] = {"code": result.error_code, "detail": result.error_detail}
        answer["timings_ms"] = {
            "queue_wait": round(result.queue_wait_s * 1000, 3),
            "inference": round(result.inference_s * 1000, 3),
            "total": round((result.finished_s - result.accepted_s) * 1000, 3),
        }
        return answer


def predictions(outputs: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> list[Any]:
    """One prediction a row, in TensorFlow Serving's row format: a value, or an object with a field an output."""
    columns = {name: _column(array, classes) for name, array in outputs.items()}
    if len(columns) == 1:
        return next(iter(columns.values()))
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _column(array: np.ndarray, classes: tuple[str, ...]) -> list[Any]:
    values: list[Any] = array.tolist()
    # A whole number a row, of a model that names its classes, is a class index.
    if classes and array.ndim == 1 and array.dtype.kind == "i":
        return [classes[value] if 0 <= value < len(classes) else value for value in values]
    return values
