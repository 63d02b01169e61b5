"""`POST /v2/models/{model}/infer`: how the call is read and answered, over the same queue as the V1 call.

Source: Open Inference Protocol V2, "Inference"; Triton's "Classification" and "Binary Tensor Data" extensions.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from inferlane.contracts.prediction_body import stored_outputs
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2 import encode_response
from inferlane.contracts.wire.v2_fields import ALL_AS_JSON
from inferlane.errors import InvalidInputError
from producer_api.http.asgi import INFER_PATH, V2_ROOT, PlainResponse, header
from producer_api.http.error_responses import status_of_code
from producer_api.http.responses import JSON, compressed, v2_error
from producer_api.inference_protocol.infer_request import HEADER_LENGTH, InferReader
from producer_api.predict.endpoint import prediction_path

if TYPE_CHECKING:
    from inferlane.contracts.wire.tensors import Tensors
    from inferlane.contracts.wire.v2_fields import ResponseForm
    from models.live_catalog import AnyCatalog
    from producer_api.predict.call import Call
    from producer_api.predict.call_options import CallOrigin

_BINARY = b"application/octet-stream"
_OUTCOME_TOKEN = b"inferlane-outcome-token"


class V2Format:
    """V2 requests and responses, as JSON or with binary tensors; errors as `{"error": …}`."""

    route = f"{V2_ROOT}/models/{{model}}/infer"
    # The protocol has no answer that says "accepted", so `Prefer: respond-async` is not heeded.
    responds_async = False
    is_coded = True

    def __init__(self, reader: InferReader, catalog: "AnyCatalog") -> None:
        self._reader = reader
        self._outputs = AskedOutputs(catalog)

    def read(self, scope: Any, body: bytes, origin: "CallOrigin") -> "Call":
        """Read the body of an infer call, whose tensors may be JSON or binary."""
        return self._reader.read(scope, body, origin)

    def fingerprinted(self, scope: Any, body: bytes) -> bytes:
        """Return path, length of the JSON part and body: the same in each call with one `Idempotency-Key`."""
        # The path names the model; where the JSON part ends changes what the rest means.
        return b"\0".join((scope["path"].encode(), header(scope, HEADER_LENGTH) or b"", body))

    def result_response(self, call: "Call", result: Result) -> PlainResponse:
        """Return the outputs of a result, or the error of a failed one."""
        if result.status is not Status.SUCCEEDED:
            return PlainResponse(
                status_of_code(result.error_code), v2_error(result.error_detail or "the request failed"), JSON
            )
        form = form_of(call, result)
        outputs = self._outputs.of(result, form)
        body, json_length = encode_response(outputs, model=result.model, version=result.version, form=form)
        token = ((_OUTCOME_TOKEN, result.outcome_token.encode()),) if result.outcome_token else ()
        if json_length is None:
            return PlainResponse(200, body, JSON, token)
        return PlainResponse(200, body, _BINARY, ((HEADER_LENGTH, b"%d" % json_length), *token))

    def queued_response(self, call: "Call") -> PlainResponse:
        """Return the error of a wait that ran out, and where the result will be: the protocol has no 202."""
        headers = ((b"location", prediction_path(call.request_id).encode()),)
        return PlainResponse(HTTPStatus.GATEWAY_TIMEOUT.value, v2_error(still_queued(call)), JSON, headers)

    async def prepare(self, scope: Any, response: PlainResponse) -> PlainResponse:
        """Compress the response if the client accepts that."""
        return await compressed(response, header(scope, b"accept-encoding"))


def still_queued(call: "Call") -> str:
    """What a client is told whose wait ran out before its request had a result."""
    return (
        f"no result within the {call.wait_s:g} s of this call; the request goes on as {call.request_id}, and "
        f"GET {prediction_path(call.request_id)}?wait_s=30 has its result. To wait longer send the parameter timeout_s"
    )


class AskedOutputs:
    """The output tensors of a result as its call asked for them, in either form of the protocol."""

    def __init__(self, catalog: "AnyCatalog") -> None:
        self._catalog = catalog

    def of(self, result: Result, form: "ResponseForm") -> "Tensors":
        """Return every output; those that `form` wants classified have their best classes in place of their scores.

        Raises:
            InvalidInputError: the version that served the request has no output of a name that the call asked for.
        """
        outputs = stored_outputs(result)
        for name in form.names:
            if name not in outputs:
                raise InvalidInputError(
                    f"version {result.version!r}, which served the request, has no output {name!r}; its outputs are: "
                    f"{', '.join(outputs)}. Name a version in the path"
                )
        if not form.classes:
            return outputs
        names = self._catalog.class_names(result.model, result.version)
        best = {name: classify(outputs[name], count, names.get(name, ())) for name, count in form.classes.items()}
        return {**outputs, **best}


def form_of(call: "Call", result: Result) -> "ResponseForm":
    """Return how the call wants its response, which always says under which id the result can be read again."""
    form = call.form or ALL_AS_JSON
    # So that every response says under which id `GET /v1/predictions` has the result.
    return form if form.id is not None else msgspec.structs.replace(form, id=result.request_id)


def classify(scores: np.ndarray, count: int, names: tuple[str, ...]) -> np.ndarray:
    """The `count` highest scores of each row, best first, as `score:index` or `score:index:name`."""
    best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]
    is_named = len(names) == scores.shape[1]
    labels = [
        [f"{row[index]:f}:{index}:{names[index]}" if is_named else f"{row[index]:f}:{index}" for index in chosen]
        for row, chosen in zip(scores, best.tolist(), strict=True)
    ]
    return np.array(labels, np.dtypes.StringDType()).reshape(best.shape)


def is_infer(path: str) -> bool:
    """Whether the path is that of an infer call."""
    return path.endswith("/infer") and INFER_PATH.fullmatch(path) is not None
