"""`ModelInfer`: its message to a checked call, and a result to the message of its response.

What a call may ask for, and how it is checked, is what the REST form has (`producer_api.inference_protocol`).
"""

from typing import TYPE_CHECKING, Any

import msgspec

from inferlane.contracts.wire.tensor_data import from_bytes
from inferlane.contracts.wire.tensors import datatype_of, raw_bytes
from inferlane.errors import DecodeError, clipped, quoted
from producer_api.grpc_server.protocol_messages import InferResponse
from producer_api.grpc_server.tensor_contents import fill_contents, from_contents, has_field
from producer_api.http.error_responses import InvalidParameterError
from producer_api.inference_protocol.infer_format import form_of
from producer_api.inference_protocol.infer_request import InferFields, InferHead, infer_head_of
from producer_api.predict.call import AskedFor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from inferlane.contracts.results import Result
    from inferlane.contracts.wire.tensors import Tensors
    from inferlane.contracts.wire.v2_fields import InputEntry
    from inferlane.runtime.service_settings import ApiSettings
    from producer_api.inference_protocol.infer_format import AskedOutputs
    from producer_api.inference_protocol.infer_request import InferReader
    from producer_api.predict.call import Call
    from producer_api.predict.call_options import CallOrigin


class InferMessages:
    """Reads the messages of infer calls and writes those of their responses."""

    def __init__(self, api: "ApiSettings", reader: "InferReader", outputs: "AskedOutputs") -> None:
        self._max_deadline_s = api.max_deadline_s
        self._reader = reader
        self._outputs = outputs

    def read(self, request: Any, origin: "CallOrigin", *, left_s: float | None) -> "Call":
        """Return the call that the message asks for. `left_s` is the time that is left of gRPC's deadline.

        Raises:
            DecodeError: the message holds a tensor that is not as it says.
            InvalidRequestError: it does not fit the model; nothing was enqueued.
        """
        version = request.model_version or None
        target = self._reader.find(request.model_name, version)
        with AskedFor(target.model, version):
            head = _head_of(request)
            if left_s is not None:
                # More than a request may live is not a fault of the call: many clients set deadlines of days.
                own_s = self._reader.deadline_s(head)
                deadline_s = min(left_s, self._max_deadline_s, left_s if own_s is None else own_s)
                head = msgspec.structs.replace(head, deadline_s=deadline_s)
            raw_names = target.signature.raw_inputs
            return self._reader.call_of(
                target, version, head, lambda inputs: _tensors_of(request, inputs, raw_names), origin
            )

    def write(self, call: "Call", result: "Result") -> bytes:
        """Return the message of the response to a call whose request succeeded.

        Raises:
            InferlaneError: the result cannot be read, or has no output of a name that the call asked for.
        """
        form = form_of(call, result)
        outputs = self._outputs.of(result, form)
        asked: Tensors = {name: outputs[name] for name in form.names} if form.names else outputs
        response = InferResponse(model_name=result.model, model_version=result.version, id=form.id)
        datatypes = {name: datatype_of(array) for name, array in asked.items()}
        # A response has all of its outputs in one way.
        is_raw = form.binary or not all(map(has_field, datatypes.values()))
        for name, array in asked.items():
            output = response.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
            if is_raw:
                response.raw_output_contents.append(raw_bytes(array))
            else:
                fill_contents(output.contents, datatypes[name], array)
        message: bytes = response.SerializeToString()
        return message


def _head_of(request: Any) -> InferHead:
    """Read all of the message except the values of its tensors, by the rules of the JSON form.

    Raises:
        DecodeError: a field does not hold what it may.
    """
    parameters = _parameters(request.parameters)
    # Values come back in the way that they were sent, unless the call says otherwise.
    parameters.setdefault("binary_data_output", bool(request.raw_input_contents))
    fields = {
        "id": request.id or None,
        "parameters": parameters,
        "inputs": [
            {
                "name": entry.name,
                "shape": list(entry.shape),
                "datatype": entry.datatype,
                "parameters": _parameters(entry.parameters) if entry.parameters else None,
            }
            for entry in request.inputs
        ],
        "outputs": [{"name": entry.name, "parameters": _parameters(entry.parameters)} for entry in request.outputs],
    }
    try:
        head = infer_head_of(msgspec.convert(fields, InferFields))
    except msgspec.ValidationError as error:
        raise DecodeError(
            f"the message is no Open Inference Protocol request: {clipped(str(error))}; docs/payloads.md has its fields"
        ) from error
    form = head.request.form
    if form.as_bytes or form.as_json:
        raise InvalidParameterError(
            "an output has the parameter `binary_data`, and over gRPC all outputs go in one way; send the parameter "
            "`binary_data_output` of the request"
        )
    return head


def _parameters(held: Any) -> dict[str, Any]:
    values = {}
    for name, parameter in held.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise DecodeError(f"the parameter {quoted(name)} has no value")
        values[name] = getattr(parameter, kind)
    return values


def _tensors_of(request: Any, inputs: "Sequence[InputEntry]", raw_names: frozenset[str]) -> "dict[str, np.ndarray]":
    """The arrays of the inputs; those of `raw_names` take bytes that need not be text."""
    raw = request.raw_input_contents
    if not raw:
        return {
            entry.name: from_contents(
                entry.name, entry.datatype, entry.shape, sent.contents, is_text=entry.name not in raw_names
            )
            for entry, sent in zip(inputs, request.inputs, strict=True)
        }
    if len(raw) != len(inputs):
        raise DecodeError(f"raw_input_contents has {len(raw)} tensors, inputs has {len(inputs)}; send one of each")
    for sent in request.inputs:
        if sent.HasField("contents"):
            raise DecodeError(f"tensor {quoted(sent.name)} has both contents and raw_input_contents; send one of them")
    return {
        entry.name: from_bytes(
            entry.name, entry.datatype, entry.shape, memoryview(values), is_text=entry.name not in raw_names
        )
        for entry, values in zip(inputs, raw, strict=True)
    }
