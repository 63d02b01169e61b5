"""The documented shapes of what the Open Inference Protocol takes and gives, none of them on the hot path."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from inferlane.contracts.wire.tensors import DATATYPES
from inferlane.runtime.service_settings import ApiSettings
from models.catalog import Model
from models.live_catalog import AnyCatalog
from producer_api.http.request_schemas import Schema, example_array
from producer_api.http.schemas import TensorInfo


class ProtocolError(BaseModel):
    """The error of the Open Inference Protocol."""

    error: str = Field(description="What happened, the value, the limit and the remedy.")


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ModelNames(BaseModel):
    models: list[str]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class ModelReadiness(BaseModel):
    name: str
    ready: bool


class IndexFilter(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    ready: bool = False


class IndexEntry(BaseModel):
    name: str
    version: str = Field(description="Empty when nothing of the model can be served.")
    state: str = Field(description="READY or UNAVAILABLE.")
    reason: str


class ConfiguredTensor(BaseModel):
    name: str
    data_type: str
    dims: list[int] = Field(description="The shape of one row.")


class ModelConfig(BaseModel):
    name: str
    platform: str
    backend: str
    max_batch_size: int = Field(description="The rows that a call may have.")
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str = Field(description="That of the request; without one, the id under which `GET /v1/predictions` has it.")
    outputs: list[dict[str, Any]] = Field(
        description="Name, shape and datatype of each tensor; its values in `data`, or after the JSON part where "
        "`parameters.binary_data_size` has their length."
    )


def infer_bodies(api: ApiSettings) -> Schema:
    """Return the schema of an infer call's body. That shape, data and model fit, no schema can say."""
    return {
        "title": "InferRequest",
        **_object(
            {
                "inputs": {"type": "array", "minItems": 1, "items": _input()},
                "outputs": _optional({"type": "array", "items": _output()}),
                "id": _optional({"type": "string", "maxLength": 512, "description": "Given back in the response."}),
                "parameters": _optional(_parameters(api)),
            },
            required=["inputs"],
        ),
    }


def infer_examples(catalog: AnyCatalog) -> Schema:
    """Return a body of one row for each model; its `id` is the model's name."""
    return {model.name: {"value": _example(model)} for model in catalog.models.values() if model.versions}


def _example(model: Model) -> Schema:
    inputs = next(iter(model.versions.values())).signature.inputs
    return {
        "id": model.name,
        "inputs": [
            {
                "name": spec.name,
                "shape": [1, *spec.row_shape],
                "datatype": spec.datatype,
                "data": [example_array(spec)],
            }
            for spec in inputs
        ],
    }


def _input() -> Schema:
    return _object(
        {
            "name": {"type": "string"},
            "shape": {"type": "array", "minItems": 1, "maxItems": 32, "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string", "enum": list(DATATYPES)},
            "data": {"type": "array", "description": "One list of all values, or lists nested like the shape."},
            "parameters": _optional(_object({"content_type": {"type": "string", "const": "np"}})),
        },
        required=["name", "shape", "datatype", "data"],
    )


def _output() -> Schema:
    options = {
        "binary_data": {"type": "boolean"},
        "classification": _optional(
            {"type": "integer", "minimum": 0, "maximum": 100_000, "description": "The best so many classes of a row."}
        ),
    }
    return _object({"name": {"type": "string"}, "parameters": _optional(_object(options))}, required=["name"])


def _parameters(api: ApiSettings) -> Schema:
    return _object(
        {
            "timeout_s": _optional(
                {
                    "type": "number",
                    "minimum": 0,
                    "maximum": api.max_wait_s,
                    "description": "How long to wait for the result, in seconds.",
                }
            ),
            "deadline_s": _optional(
                {
                    "type": "number",
                    "minimum": 0,
                    "maximum": api.max_deadline_s,
                    "description": "After this many seconds the request is not computed any more.",
                }
            ),
            "timeout": _optional(
                {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": int(api.max_deadline_s * 1e6),
                    "description": "Triton's: the deadline in microseconds; 0 is none.",
                }
            ),
            "routing_key": _optional({"type": "string", "maxLength": 512}),
            "lane": _optional({"type": "string", "const": "requests"}),
            "priority": _optional({"type": "integer", "const": 0}),
            "binary_data_output": {"type": "boolean"},
            "content_type": {"type": "string", "const": "np"},
        }
    )


def _object(properties: dict[str, Any], *, required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


def _optional(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}
