"""The documented shapes of request and response bodies; the predict call itself does not use them."""

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from inferlane.contracts.traffic_split import Shadow
from producer_api.http.openai_schemas import ListedModel


class Timings(BaseModel):
    queue_wait: float = Field(description="Acceptance to the start of inference, ms.")
    inference: float = Field(description="The batch run that this request was part of, ms.")
    total: float = Field(description="Acceptance to the end of inference, ms.")


class FailureReason(BaseModel):
    code: str
    detail: str


class Prediction(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "4f0f6b1c2d3e4a5b6c7d8e9f00112233",
                    "status": "SUCCEEDED",
                    "model": "iris",
                    "version": "v1",
                    "predictions": [{"label": "setosa", "probabilities": [0.97, 0.03, 0.0]}],
                    "timings_ms": {"queue_wait": 3.1, "inference": 0.05, "total": 3.2},
                }
            ]
        }
    )

    request_id: str
    status: str = Field(description="QUEUED, then SUCCEEDED, FAILED or EXPIRED.")
    model: str | None = None
    version: str | None = None
    predictions: list[Any] | None = Field(None, description="One a row, in the order of the rows.")
    error: FailureReason | None = None
    outcome_token: str | None = Field(None, description="For `POST /v1/feedback`; only where the stack has a secret.")
    timings_ms: Timings | None = None


class FeedbackAccepted(BaseModel):
    accepted: int = Field(description="How many pieces of feedback the broker has.")


class Queued(BaseModel):
    request_id: str
    status: str = "QUEUED"
    location: str = Field(description="Where the result will be; also in the `Location` header.")


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What happened, the value, the limit and the remedy.")
    code: str
    retryable: bool


class TensorInfo(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1 is the row axis.")


class RuntimeInfo(BaseModel):
    providers: list[str] = Field(
        description="Execution providers of onnxruntime that its workers run on: a worker without one does not start."
    )
    threads: int | None = Field(None, description="Threads of one run, where the version says it.")


class VersionInfo(BaseModel):
    version: str
    weight: float = Field(description="Share of the traffic that names no version.")
    quantization: str
    runtime: RuntimeInfo
    size_bytes: int
    digest: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    metrics: dict[str, float | str]
    quantized: dict[str, float | str]


class ModelInfo(BaseModel):
    name: str
    description: str
    default: bool = Field(description="Whether it answers requests that name no model.")
    default_version: str
    classes: list[str]
    versions: list[VersionInfo]


class UnusableInfo(BaseModel):
    model: str
    version: str | None = Field(description="None if no version of the model can be served.")
    reason: str


class ModelList(BaseModel):
    object: str = "list"
    data: list[ListedModel]
    models: list[ModelInfo]
    unusable: list[UnusableInfo] = Field(description="What is in the store and cannot be served, and why.")


# Larger ones could sum to infinity.
MAX_WEIGHT = 1e9
# More than the versions of any model; reading a larger body would be wasted work.
MAX_WEIGHTS = 1_000
Weight = Annotated[float, msgspec.Meta(ge=0, le=MAX_WEIGHT)]
Weights = Annotated[dict[str, Weight], msgspec.Meta(min_length=1, max_length=MAX_WEIGHTS)]


class ModelWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The weights of a model; the decoder stops at the first fault, so a large bad body costs little."""

    model: str | msgspec.UnsetType | None = msgspec.UNSET
    weights: Weights
    fallback: Annotated[str, msgspec.Meta(max_length=512)] | msgspec.UnsetType = msgspec.UNSET
    shadow: Shadow | msgspec.UnsetType | None = msgspec.UNSET
    # Whether the split is set although a rollout of the model is under way, which that pauses.
    force: bool | msgspec.UnsetType = msgspec.UNSET


class ShadowInfo(BaseModel):
    version: str
    share: float = Field(description="Share of the requests of both lanes that pin no version.")


class SplitInfo(BaseModel):
    model: str
    weights: dict[str, float] = Field(description="Shares that sum to 1.")
    changed_s: float | None = Field(None, description="When it was set, seconds since the epoch; absent for a default.")
    fallback: str | None = Field(None, description="The version that answers what any other version fails.")
    shadow: ShadowInfo | None = Field(None, description="A version that gets copies; clients never see its results.")
