"""The payloads of the topics as JSON Schemas, generated from our structs where there is one."""

from typing import Any

import msgspec

from inferlane.contracts.catalog_entry import CatalogEntry
from inferlane.contracts.feedback import Feedback
from inferlane.contracts.outcomes import OutcomeSummary
from inferlane.contracts.results import Status
from inferlane.contracts.rollout import Command, RolloutState
from inferlane.contracts.traffic_split import Split

_SCHEMAS = "#/components/schemas/"
Document = dict[str, Any]


class ServedVersion(CatalogEntry, frozen=True, kw_only=True):
    """A catalogue entry with its manifest as any JSON: no schema is made of bytes that are not read yet."""

    manifest: dict[str, Any] = msgspec.field(default_factory=dict)  # type: ignore[assignment]  # what the bytes hold


_STRUCTS = (Split, Feedback, OutcomeSummary, ServedVersion, RolloutState, Command)


def ref(name: str) -> Document:
    """Return a reference to a schema."""
    return {"$ref": _SCHEMAS + name}


def payload_schemas() -> Document:
    """Return every schema by its name."""
    _, made = msgspec.json.schema_components(_STRUCTS, ref_template=_SCHEMAS + "{name}")
    return {**made, **_WIRE}


_TENSOR: Document = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
    "required": ["name", "shape", "datatype"],
}
# Payloads without a struct: they are read by hand, or belong to the Open Inference Protocol.
_WIRE: Document = {
    "RowsRequest": {
        "type": "object",
        "properties": {"instances": {"type": "array", "minItems": 1}},
        "required": ["instances"],
    },
    "TensorRequest": {
        "type": "object",
        "properties": {"inputs": {"type": "array", "minItems": 1, "items": _TENSOR}},
        "required": ["inputs"],
    },
    "TensorResponse": {
        "type": "object",
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _TENSOR},
        },
        "required": ["model_name", "model_version", "outputs"],
    },
    "Callback": {
        "type": "object",
        "properties": {
            "type": {
                "enum": [
                    f"{kind}.{status.value.lower()}"
                    for kind in ("prediction", "record")
                    for status in Status
                    if status.is_terminal
                ]
            },
            "timestamp": {"type": "string", "format": "date-time"},
            "data": {
                "type": "object",
                "properties": {"request_id": {"type": "string"}, "status": {"type": "string"}},
                "required": ["request_id", "status", "model", "version"],
            },
        },
        "required": ["type", "timestamp", "data"],
        "additionalProperties": False,
    },
}
