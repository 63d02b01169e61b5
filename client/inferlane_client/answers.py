"""What the server answers, as frozen types; members that are not known here are passed over."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from inferlane_client.call_errors import CallError, ProblemDetails, UnexpectedAnswer, ending

_QUOTED_CHARS = 200

T = TypeVar("T")


class Status(StrEnum):
    """Where a request is. All but `QUEUED` never change again."""

    QUEUED = "QUEUED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The result of a request.

    `predictions` has one element a row, in the order of the rows: a value, or an object with a field an output. Numbers
    that JSON has not are the strings "NaN", "Infinity" and "-Infinity".
    """

    request_id: str
    model: str
    version: str
    predictions: list[Any]
    queue_wait_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSignature:
    """An input or an output of a version. `shape` begins with -1, the axis of the rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """A version that can be asked for. `weight` is its share of the requests that name no version."""

    version: str
    weight: float
    quantization: str
    size_bytes: int
    digest: str
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that can be asked for. `is_default` marks the one that answers requests that name none."""

    name: str
    description: str
    is_default: bool
    default_version: str
    classes: tuple[str, ...]
    versions: tuple[ServedVersion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSplit:
    """Shares by version, which sum to 1. `changed_s` is the time since the epoch; None before the first change."""

    model: str
    weights: Mapping[str, float]
    changed_s: float | None


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        UnexpectedAnswer: it is none.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise unexpected(f"it is no JSON ({error}); it begins with {body[:_QUOTED_CHARS]!r}") from error
    if not isinstance(document, dict):
        raise unexpected(f"it is no JSON object; it begins with {body[:_QUOTED_CHARS]!r}")
    return document


def read_request_id(body: bytes) -> str:
    """The id of an accepted request.

    Raises:
        UnexpectedAnswer: the body has none.
    """
    return read_fields(read_object(body), lambda document: str(document["request_id"]))


def read_status(document: Mapping[str, Any]) -> Status:
    """Where the request is.

    Raises:
        UnexpectedAnswer: the document does not say it.
    """
    return read_fields(document, lambda read: Status(read["status"]))


def read_prediction(document: Mapping[str, Any], *, http_status: int) -> Prediction:
    """The result of a request that has ended.

    Raises:
        Unsuccessful: it ended without one, or another CallError that says why.
        UnexpectedAnswer: the document holds neither.
    """
    if read_status(document) is not Status.SUCCEEDED:
        raise _ending_of(document, http_status)
    return read_fields(document, _prediction)


def is_cancelled(document: Mapping[str, Any]) -> bool:
    """Whether the request was taken back."""
    error = document.get("error")
    return isinstance(error, dict) and error.get("code") == "cancelled"


def read_models(document: Mapping[str, Any]) -> tuple[ServedModel, ...]:
    """What can be asked for.

    Raises:
        UnexpectedAnswer: the document is no list of models.
    """
    return read_fields(document, lambda read: tuple(_model(model) for model in read["models"]))


def read_input_names(body: bytes) -> tuple[str, ...]:
    """The names of the inputs of a model, from its metadata in the Open Inference Protocol.

    Raises:
        UnexpectedAnswer: the body has none.
    """
    return read_fields(read_object(body), lambda read: tuple(str(tensor["name"]) for tensor in read["inputs"]))


def read_split(document: Mapping[str, Any]) -> TrafficSplit:
    """The weights of a model.

    Raises:
        UnexpectedAnswer: the document holds none.
    """
    return read_fields(
        document,
        lambda read: TrafficSplit(model=read["model"], weights=read["weights"], changed_s=read.get("changed_s")),
    )


def _ending_of(document: Mapping[str, Any], http_status: int) -> CallError:
    error = document.get("error") or {}
    return ending(
        ProblemDetails(
            code=str(error.get("code") or "internal_error"),
            title=f"The request ended {document['status']}",
            detail=str(error.get("detail") or ""),
            status=http_status,
            request_id=str(document.get("request_id")),
            ended=True,
        )
    )


def _prediction(document: Mapping[str, Any]) -> Prediction:
    timings = document["timings_ms"]
    return Prediction(
        request_id=document["request_id"],
        model=document["model"],
        version=document["version"],
        predictions=document["predictions"],
        queue_wait_ms=timings["queue_wait"],
        inference_ms=timings["inference"],
        total_ms=timings["total"],
    )


def _model(document: Mapping[str, Any]) -> ServedModel:
    return ServedModel(
        name=document["name"],
        description=document["description"],
        is_default=document["default"],
        default_version=document["default_version"],
        classes=tuple(document["classes"]),
        versions=tuple(_version(version) for version in document["versions"]),
    )


def _version(document: Mapping[str, Any]) -> ServedVersion:
    return ServedVersion(
        version=document["version"],
        weight=document["weight"],
        quantization=document["quantization"],
        size_bytes=document["size_bytes"],
        digest=document["digest"],
        inputs=tuple(_signature(tensor) for tensor in document["inputs"]),
        outputs=tuple(_signature(tensor) for tensor in document["outputs"]),
    )


def _signature(document: Mapping[str, Any]) -> TensorSignature:
    return TensorSignature(name=document["name"], datatype=document["datatype"], shape=tuple(document["shape"]))


def read_fields(document: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
    """What `read` makes of a document.

    Raises:
        UnexpectedAnswer: a member that it needs is missing, or of another kind.
    """
    try:
        return read(document)
    except (KeyError, TypeError, ValueError) as error:
        raise unexpected(
            f"{error!r} where the API documents another member: {str(document)[:_QUOTED_CHARS]}"
        ) from error


def unexpected(detail: str) -> UnexpectedAnswer:
    """The error of an answer that the API does not document; `detail` says what is wrong with it."""
    return UnexpectedAnswer(
        ProblemDetails(
            code="unexpected_answer",
            title="The answer is not one of the API",
            detail=f"{detail}. Look at what answers at this address",
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of request number `index`, which counts from 0 in the order of the requests."""

    index: int
    outcome: Prediction | CallError

    def prediction(self) -> Prediction:
        """The result.

        Raises:
            CallError: there is none; the error says why.
        """
        if isinstance(self.outcome, CallError):
            raise self.outcome
        return self.outcome
