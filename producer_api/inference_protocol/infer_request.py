"""The body of an infer call: the fields that a V2 record has, and those of our own that only a call has.

Source: Open Inference Protocol V2, "Inference Request JSON Object"; Triton's "Parameters", "Classification" and "Binary
Tensor Data" extensions.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from inferlane.contracts.wire.json_numbers import refuse_repeats
from inferlane.contracts.wire.json_rows import check_rows
from inferlane.contracts.wire.tensor_data import check_tensors
from inferlane.contracts.wire.v2 import read_inputs, split_payload
from inferlane.contracts.wire.v2_fields import (
    Absent,
    AskedOutput,
    InputEntry,
    OutputParameters,
    RequestFields,
    RequestHead,
    RequestParameters,
    request_head_of,
)
from inferlane.errors import UNDECODABLE, DecodeError, InvalidInputError, UnknownModelError, clipped, quoted
from producer_api.http.asgi import INFER_PATH
from producer_api.http.error_responses import InvalidParameterError
from producer_api.http.request_body import single_header
from producer_api.predict.call import AskedFor, Call, CallReader, CallTarget
from producer_api.predict.call_options import CallOptions, CallOrigin, seconds_within

if TYPE_CHECKING:
    import numpy as np

    from inferlane.contracts.wire.tensors import Signature
    from inferlane.runtime.service_settings import ApiSettings

HEADER_LENGTH = b"inference-header-content-length"
"""The length of the JSON part of a body with binary tensors, in both directions."""

_UNSET = msgspec.UNSET
# As `inferlane.contracts.wire.v2` keeps them: binary calls of one shape have one JSON part.
_CACHED_HEADS = 1024
_CACHED_HEAD_BYTES = 1024
_MICROSECONDS = 1e6


class InferParameters(RequestParameters, frozen=True, forbid_unknown_fields=True):
    """What a call may ask for; `timeout` and `priority` are Triton's."""

    timeout_s: float | Absent | None = _UNSET
    deadline_s: float | Absent | None = _UNSET
    timeout: Annotated[int, msgspec.Meta(ge=0)] | Absent | None = _UNSET
    routing_key: str | Absent | None = _UNSET
    callback_url: str | Absent | None = _UNSET
    lane: Literal["requests"] | Absent | None = _UNSET
    priority: Literal[0] | Absent | None = _UNSET


class InferOutputParameters(OutputParameters, frozen=True, forbid_unknown_fields=True):
    classification: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | Absent | None = _UNSET


class InferOutput(AskedOutput, frozen=True, forbid_unknown_fields=True):
    parameters: InferOutputParameters | Absent | None = _UNSET


class InferFields(RequestFields, frozen=True, forbid_unknown_fields=True):
    parameters: InferParameters | Absent | None = _UNSET
    outputs: list[InferOutput] | Absent | None = _UNSET  # type: ignore[assignment]  # a list of what it adds to


class InferHead(msgspec.Struct, frozen=True):
    """The JSON part of a call, once checked. `timeout_s` and `deadline_s` are None where it does not say."""

    request: RequestHead
    timeout_s: float | None
    deadline_s: float | None
    routing_key: str | None
    callback_url: str | None


_decode = msgspec.json.Decoder(InferFields).decode


def read_infer_head(header: bytes) -> InferHead:
    """Read the JSON part of a call.

    Raises:
        DecodeError: it is not JSON, has other fields than those above, or two that contradict each other.
    """
    try:
        fields = _decode(header)
    except UNDECODABLE as error:
        raise DecodeError(
            f"the body is not an Open Inference Protocol V2 request: {clipped(str(error))}; docs/payloads.md has its "
            f"fields. With binary tensors, send {HEADER_LENGTH.decode()} too"
        ) from error
    # Limits how many tensors there are, before each field of each is counted.
    head = infer_head_of(fields)
    refuse_repeats(header, fields)
    return head


def infer_head_of(fields: InferFields) -> InferHead:
    """What the fields of a call say together, in whatever encoding they came.

    Raises:
        DecodeError: there is no input, a name is there twice, or two fields contradict each other.
    """
    if not fields.inputs:
        raise DecodeError("the request has no inputs; name at least one tensor")
    head = request_head_of(fields)
    asked = fields.parameters if isinstance(fields.parameters, InferParameters) else InferParameters()
    counts = {
        output.name: output.parameters.classification
        for output in fields.outputs or ()
        if isinstance(output.parameters, InferOutputParameters) and output.parameters.classification
    }
    if counts:
        head = msgspec.structs.replace(head, form=msgspec.structs.replace(head.form, classes=counts))
    return InferHead(
        head,
        _given(asked.timeout_s),
        _deadline_s(asked.deadline_s, asked.timeout),
        _given(asked.routing_key) or None,
        _given(asked.callback_url) or None,
    )


_cached_head = lru_cache(maxsize=_CACHED_HEADS)(read_infer_head)


def _given(value: Any) -> Any:
    return None if isinstance(value, Absent) else value


def _deadline_s(deadline_s: Any, timeout: Any) -> float | None:
    own_s: float | None = _given(deadline_s)
    if not _given(timeout):
        return own_s
    if own_s is not None:
        raise InvalidParameterError("the parameters have both `deadline_s` and `timeout`; send one of them")
    return float(timeout) / _MICROSECONDS


class InferReader:
    """Reads infer calls and checks them against the catalog."""

    def __init__(self, api: "ApiSettings", calls: CallReader) -> None:
        self._api = api
        self._calls = calls

    def find(self, model_name: str, version_name: str | None) -> CallTarget:
        """Return where a request goes that names these.

        Raises:
            UnknownModelError: there is no such model or version.
        """
        return self._calls.find(model_name, version_name)

    def read(self, scope: Any, body: bytes, origin: CallOrigin) -> Call:
        """Check a body against the model that its path names.

        Raises:
            DecodeError: the body is not a V2 request.
            InvalidRequestError: it does not fit the model; nothing was enqueued.
        """
        model_name, version_name = _names_in(scope["path"])
        target = self.find(model_name, version_name)
        with AskedFor(target.model, version_name):
            json_length = _json_length(scope)
            header, raw = split_payload(body, json_length)
            is_cached = json_length is not None and len(header) <= _CACHED_HEAD_BYTES
            head = _cached_head(header) if is_cached else read_infer_head(header)
            _check_named(head.request, target.model, version_name)

            def tensors_of(inputs: Sequence[InputEntry]) -> dict[str, "np.ndarray"]:
                return read_inputs(inputs, raw, target.signature)

            return self.call_of(target, version_name, head, tensors_of, origin)

    def deadline_s(self, head: InferHead) -> float | None:
        """Return the deadline that the head names, or None.

        Raises:
            InvalidParameterError: no request may have that deadline.
        """
        if head.deadline_s is None:
            return None
        return seconds_within("deadline_s", head.deadline_s, 0.0, self._api.max_deadline_s)

    def call_of(
        self,
        target: CallTarget,
        version_name: str | None,
        head: InferHead,
        tensors_of: "Callable[[Sequence[InputEntry]], dict[str, np.ndarray]]",
        origin: CallOrigin,
    ) -> Call:
        """Return the call that this head and its tensors make, which `tensors_of` reads once their shapes are checked.

        Raises:
            DecodeError: the values of a tensor are not as the head says.
            InvalidRequestError: the call does not fit the model; nothing was enqueued.
        """
        request = head.request
        # Before the values are looked at: a body may say that it has more of them than anybody wants to read.
        _check_shapes(request.inputs, target.signature, self._api.max_rows)
        tensors = tensors_of(request.inputs)
        check_tensors(tensors, target.signature)
        target.check_others(tensors)
        _check_outputs(request, target.signature)
        options = CallOptions(
            version=version_name,
            routing_key=head.routing_key,
            timeout_s=self._wait_s(head, origin),
            deadline_s=head.deadline_s,
            callback_url=head.callback_url,
        )
        return self._calls.build(target.model, tensors, options, origin, request.form)

    def _wait_s(self, head: InferHead, origin: CallOrigin) -> float | None:
        """Who gives a deadline and says nothing of a wait, waits until then: no answer here says "accepted"."""
        if head.timeout_s is not None or head.deadline_s is None or origin.wait_s is not None:
            return head.timeout_s
        # Checked first: an error would name a wait that nobody asked for.
        return min(self.deadline_s(head) or 0.0, self._api.max_wait_s)


def _names_in(path: str) -> tuple[str, str | None]:
    found = INFER_PATH.fullmatch(path)
    if found is None:
        raise UnknownModelError(f"{quoted(path)} names no model; call /v2/models/<name>/infer")
    return found[1], found[2]


def _json_length(scope: Any) -> int | None:
    raw = single_header(scope, HEADER_LENGTH)
    if raw is None:
        return None
    if not raw.isdigit() or len(raw) > 18:  # noqa: PLR2004 - the digits of any length that a body has
        raise InvalidParameterError(
            f"the header {HEADER_LENGTH.decode()} is {quoted(raw)}; it must be the length of the JSON part in bytes"
        )
    return int(raw)


def _check_named(request: RequestHead, model: str, version: str | None) -> None:
    for what, named, ours in (("model", request.model, model), ("version", request.version, version)):
        if named is not None and named != ours:
            path = f"the path names {quoted(ours)}" if ours else f"the path names no {what}"
            raise InvalidParameterError(f"the body names the {what} {quoted(named)}, and {path}; name it in the path")


def _check_shapes(inputs: Sequence[InputEntry], signature: "Signature", max_rows: int) -> None:
    """Return if each tensor is one of the signature's and no larger than `max_rows` rows of it."""
    specs = {spec.name: spec for spec in signature.inputs}
    for entry in inputs:
        spec = specs.get(entry.name)
        if spec is None:
            raise InvalidInputError(f"no input is called {quoted(entry.name)}; the inputs are: {', '.join(specs)}")
        if not spec.fits(tuple(entry.shape[1:])):
            raise InvalidInputError(
                f"input {spec.name!r} has shape {clipped(str(entry.shape))}; "
                f"it must be [rows, {str(list(spec.row_shape))[1:]}"
            )
        check_rows(entry.shape[0], max_rows)


def _check_outputs(request: RequestHead, signature: "Signature") -> None:
    specs = {spec.name: spec for spec in signature.outputs}
    for name in request.form.names:
        if name not in specs:
            raise InvalidInputError(f"no output is called {quoted(name)}; the outputs are: {', '.join(specs)}")
    for name in request.form.classes:
        if len(specs[name].shape) != 2:  # noqa: PLR2004 - rows, and a score for each class
            raise InvalidParameterError(
                f"output {name!r} has the shape {list(specs[name].shape)}; `classification` needs a score for each "
                "class, as in [-1, 3]"
            )
