"""The schemas of request bodies, drawn from the catalogue: a shape for each model; no call is checked with them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inferlane.contracts.feedback import MAX_PIECES, MAX_REWARD
from inferlane.contracts.outcome_token import MAX_TOKEN_CHARS
from inferlane.contracts.wire.row_texts import SMALLEST_IMAGE
from inferlane.contracts.wire.tensors import NOT_FINITE, Signature, TensorSpec, numpy_dtype
from inferlane.runtime.service_settings import ApiSettings
from models.catalog import Model
from models.live_catalog import AnyCatalog
from producer_api.http.schemas import MAX_WEIGHT

IRIS_ROW: Any = [5.1, 3.5, 1.4, 0.2]


Schema = dict[str, Any]


def predict_bodies(catalog: AnyCatalog, api: ApiSettings) -> Schema:
    """Return the schema of a predict call's body: one shape for each model."""
    return {
        "title": "PredictRequest",
        "anyOf": [_predict_body(catalog, model, api) for model in catalog.models.values()] or [{"not": {}}],
        "examples": [_example(catalog, model) for model in catalog.models.values()],
    }


def split_bodies(catalog: AnyCatalog) -> Schema:
    """Return the schema of a traffic split's body: the weights of the default model, or of a named one."""
    named = [
        {
            "type": "object",
            "properties": {
                "model": _name_of(catalog, model),
                "weights": _weights(model),
                "fallback": {
                    "type": "string",
                    "enum": ["", *model.versions],
                    "description": "The version that answers what any other version fails; empty for none.",
                },
                "shadow": {
                    "type": ["object", "null"],
                    "properties": {
                        "version": {"type": "string", "enum": [*model.versions]},
                        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                    },
                    "required": ["version", "share"],
                    "description": "A version that gets copies of a share of the requests; no client sees its results.",
                },
            },
            "required": ["weights", *_required_name(catalog, model)],
            "additionalProperties": False,
        }
        for model in catalog.models.values()
    ]
    default = catalog.models.get(catalog.default_model)
    unnamed = [] if default is None else [_weights(default)]
    return {"title": "TrafficSplit", "anyOf": [*named, *unnamed] or [{"not": {}}]}


def split_examples(catalog: AnyCatalog) -> Schema:
    """Return an example for each model, with equal weights."""
    return {
        model.name: {"value": {"model": model.name, "weights": dict.fromkeys(model.versions, 1)}}
        for model in catalog.models.values()
        if model.versions
    }


def _predict_body(catalog: AnyCatalog, model: Model, api: ApiSettings) -> Schema:
    signatures = {repr(version.signature.inputs): version.signature for version in model.versions.values()}
    instances = [_instances(signature, api.max_rows) for signature in signatures.values()]
    return {
        "type": "object",
        "properties": {
            "instances": instances[0] if len(instances) == 1 else {"anyOf": instances},
            "model": _name_of(catalog, model),
            "version": {
                "type": ["string", "null"],
                "enum": [*model.versions, "", None],
                "description": "Pins a version; absent or empty, the traffic split decides.",
            },
            "routing_key": {
                "type": ["string", "null"],
                "maxLength": 512,
                "description": "The same key gets the same version for as long as the weights allow.",
            },
            "timeout_s": {
                "type": ["number", "null"],
                "minimum": 0,
                "maximum": api.max_wait_s,
                "description": "How long to wait here before 202, in seconds.",
            },
            "deadline_s": {
                "type": ["number", "null"],
                "minimum": 0,
                "maximum": api.max_deadline_s,
                "description": "After this many seconds the request expires and is not computed.",
            },
        },
        "required": ["instances", *_required_name(catalog, model)],
        "additionalProperties": False,
    }


def _name_of(catalog: AnyCatalog, model: Model) -> Schema:
    if model.name == catalog.default_model:
        return {
            "type": ["string", "null"],
            "enum": [model.name, "", None],
            "description": "The default model: used if absent or empty.",
        }
    return {"type": "string", "const": model.name}


def _required_name(catalog: AnyCatalog, model: Model) -> list[str]:
    return [] if model.name == catalog.default_model else ["model"]


def _instances(signature: Signature, max_rows: int) -> Schema:
    return {
        "type": "array",
        "minItems": 1,
        "items": _row(signature.inputs),
        "description": f"Rows, at most {max_rows}; each has the shape that `GET /v1/models` shows.",
    }


def _row(inputs: Sequence[TensorSpec]) -> Schema:
    fields = {spec.name: _array(spec.row_shape, _element(spec)) for spec in inputs}
    if len(fields) == 1:
        (spec,) = inputs
        return {"anyOf": [fields[spec.name], _named_columns(spec)]} if spec.columns else fields[spec.name]
    return {"type": "object", "properties": fields, "required": list(fields)}


def _named_columns(spec: TensorSpec) -> Schema:
    """A row as an object; a column with a default may be null or absent."""
    properties: Schema = {}
    for column in spec.columns:
        value = {"enum": list(column.categories)} if column.categories else _element(spec)
        properties[column.name] = value if column.default is None else {"anyOf": [value, {"type": "null"}]}
    required = [column.name for column in spec.columns if column.default is None and not spec.allow_nan]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(shape: tuple[int, ...], element: Schema) -> Schema:
    """Return the schema of nested lists of that shape; an axis of -1 may have any length."""
    for size in reversed(shape):
        bounds = {"minItems": size, "maxItems": size} if size >= 0 else {"minItems": 1}
        element = {"type": "array", "items": element, **bounds}
    return element


def _element(spec: TensorSpec) -> Schema:
    dtype = numpy_dtype(spec.datatype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    if dtype.kind == "f":
        number = {"type": "number", "minimum": -_largest(dtype), "maximum": _largest(dtype)}
        return {"anyOf": [number, {"enum": [None, *NOT_FINITE]}]} if spec.allow_nan else number
    if dtype.kind == "b":
        return {"type": "boolean"}
    return {"type": "string", "contentEncoding": "base64"} if spec.is_binary else {"type": "string"}


def _weights(model: Model) -> Schema:
    """Return the schema of the weights of the model's versions, at least one of them over 0."""
    weight = {"type": "number", "minimum": 0, "maximum": MAX_WEIGHT}
    return {
        "type": "object",
        "properties": dict.fromkeys(model.versions, weight),
        "minProperties": 1,
        "additionalProperties": False,
        "anyOf": [
            {"properties": {version: {"exclusiveMinimum": 0}}, "required": [version]} for version in model.versions
        ],
    }


def _example(catalog: AnyCatalog, model: Model) -> Mapping[str, Any]:
    inputs = next(iter(model.versions.values())).signature.inputs if model.versions else ()
    named = {spec.name: example_array(spec) for spec in inputs}
    if [np.shape(array) for array in named.values()] == [np.shape(IRIS_ROW)]:
        named = {"": IRIS_ROW}
    row = next(iter(named.values())) if len(named) == 1 else named
    return {"instances": [row]} if model.name == catalog.default_model else {"instances": [row], "model": model.name}


def example_array(spec: TensorSpec) -> Any:
    """Return a row of an input as JSON, one long where the length is free."""
    text = SMALLEST_IMAGE if spec.is_binary else "text"
    value: Any = {"f": 0.5, "b": True, "i": 1, "u": 1}.get(numpy_dtype(spec.datatype).kind, text)
    for size in reversed(spec.row_shape):
        value = [value] * max(size, 1)
    return value


def _largest(dtype: "np.dtype[Any]") -> float:
    """Return the largest number that rounds to the type's maximum and not to infinity."""
    largest = np.finfo(dtype).max
    if dtype.itemsize >= np.dtype(np.float64).itemsize:
        return float(largest)
    # Half of the distance to the next is rounded up, to infinity (IEEE 754, ties to even).
    return math.nextafter(float(largest) + float(largest - np.nextafter(largest, dtype.type(0))) / 2, 0.0)


def feedback_bodies() -> Schema:
    """Return the schema of feedback: one piece, or a list."""
    piece = {
        "type": "object",
        "properties": {
            "token": {"type": "string", "minLength": 1, "maxLength": MAX_TOKEN_CHARS},
            "label": {"type": ["string", "null"], "maxLength": 1_000, "description": "The right class, by name."},
            "reward": {"type": ["number", "null"], "minimum": -MAX_REWARD, "maximum": MAX_REWARD},
        },
        "required": ["token"],
        "additionalProperties": False,
        "description": "A `label`, a `reward` or both.",
    }
    return {"anyOf": [piece, {"type": "array", "items": piece, "minItems": 1, "maxItems": MAX_PIECES}]}
