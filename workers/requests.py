"""Decode a record into a request that can be batched."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import RequestHeaders, default_headers, read_headers
from inferlane.contracts.wire.tensor_data import check_tensors
from inferlane.contracts.wire.tensors import Signature
from inferlane.contracts.wire.v1 import decode_instances, read_instances_body
from inferlane.contracts.wire.v2 import decode_request
from inferlane.contracts.wire.v2_fields import ALL_AS_JSON, ResponseForm
from inferlane.errors import DecodeError, InvalidInputError, PayloadTooLargeError, quoted

if TYPE_CHECKING:
    from inferlane.contracts.kafka_record import KafkaRecord
    from models.catalog import ModelVersion

# Parsing more rows takes longer than the session timeout; a record that bypassed the API may have any number.
_MAX_ROWS = 100_000


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request; each tensor is `(rows, …)`."""

    record: "KafkaRecord"
    headers: RequestHeaders
    lane: Lane
    tensors: dict[str, np.ndarray]
    rows: int
    form: ResponseForm
    # Where rows may be of different lengths: what each input is filled up with, and the free axes of each output.
    pads: Mapping[str, Any] | None = None
    free_outputs: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def decode_body(record: "KafkaRecord", headers: RequestHeaders, lane: Lane, version: "ModelVersion") -> Request:
    """Read the body of a record of the work topic of a version, whose headers are read.

    Raises:
        DecodeError: the payload is not what the contract says.
        InvalidInputError: the tensors do not fit the signature, or the body names another model, version or output.
        PayloadTooLargeError: there are more rows than one record may have.
    """
    payload = record.value or b""
    body = read_instances_body(payload) if headers.json_length is None else None
    if body is not None:
        check_names(version, body.model, body.version, ())
        tensors = decode_instances(body.instances, version.signature, max_rows=_MAX_ROWS)
        form = ALL_AS_JSON
    else:
        request = decode_request(payload, headers.json_length, version.signature)
        tensors, form = request.tensors, request.form
        check_names(version, request.model, request.version, form.names)
    return Request(
        record=record,
        headers=headers,
        lane=lane,
        tensors=tensors,
        rows=check_tensors(tensors, version.signature),
        form=form,
        **(_free_axes_of(version.signature) if version.signature.has_free_axes else {}),
    )


def _free_axes_of(signature: Signature) -> Mapping[str, Any]:
    return {
        "pads": {spec.name: 0 if spec.pad is None else spec.pad for spec in signature.inputs},
        "free_outputs": {
            spec.name: tuple(axis for axis, size in enumerate(spec.shape) if axis and size == -1)
            for spec in signature.outputs
        },
    }


def check_names(version: "ModelVersion", model_named: object, version_named: object, outputs: Sequence[str]) -> None:
    """Check what a body names. The router chose the version by the headers and did not read the body.

    Raises:
        InvalidInputError: it is another model or version, or an output that the version does not have.
    """
    for what, named, ours in (("model", model_named, version.model), ("version", version_named, version.version)):
        if isinstance(named, str) and named not in ("", ours):
            raise InvalidInputError(
                f"the body names the {what} {quoted(named)}, and the record came to {version.model} {version.version}: "
                "records are routed by the headers ce_model and ce_modelversion, so name it there"
            )
    known = [spec.name for spec in version.signature.outputs] if outputs else ()
    for name in outputs:
        if name not in known:
            raise InvalidInputError(
                f"{version.model} {version.version} has no output {quoted(name)}; its outputs are: {', '.join(known)}"
            )


def headers_of(record: "KafkaRecord") -> RequestHeaders:
    """Return the record's headers, or defaults if they cannot be read."""
    try:
        return read_headers(record)
    except DecodeError:
        return default_headers(record)


UNREADABLE = (DecodeError, InvalidInputError, PayloadTooLargeError)
"""The errors of `decode_body` that no retry can repair."""
