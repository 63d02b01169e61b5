"""`POST /v1/embeddings` as OpenAI's clients call it: texts in, vectors out, over the same queue as every other call.

Source: OpenAI API reference, "Embeddings".
"""

import base64
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np

from inferlane.contracts.prediction_body import stored_outputs
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.json_numbers import refuse_repeats
from inferlane.contracts.wire.json_rows import check_rows
from inferlane.contracts.wire.row_texts import TOKEN_COUNT, text_of
from inferlane.contracts.wire.tensors import embedding_of, json_values, numpy_dtype
from inferlane.contracts.wire.v2_fields import ALL_AS_BYTES, ALL_AS_JSON
from inferlane.errors import UNDECODABLE, DecodeError, InferlaneError, InvalidInputError, clipped
from producer_api.http.asgi import EMBEDDINGS_PATH, PlainResponse
from producer_api.http.error_responses import InvalidParameterError, status_of_code
from producer_api.http.responses import JSON, openai_error
from producer_api.predict.call import AskedFor
from producer_api.predict.call_options import CallOptions
from producer_api.predict.endpoint import prediction_path

if TYPE_CHECKING:
    from inferlane.contracts.wire.tensors import Tensors
    from inferlane.runtime.service_settings import ApiSettings
    from producer_api.predict.call import Call, CallReader
    from producer_api.predict.call_options import CallOrigin

# As no vocabulary has.
_MAX_TOKEN = 999_999_999
# OpenAI's clients send a call again after any 5xx unless told otherwise; this one goes on.
_NO_RETRY = (b"x-should-retry", b"false")
_Token = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TOKEN)]
_encode = msgspec.json.Encoder().encode


class EmbeddingsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a call; `user` says nothing to us."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: str | list[str | _Token | list[_Token]]
    encoding_format: Literal["float", "base64"] | msgspec.UnsetType | None = msgspec.UNSET
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType | None = msgspec.UNSET
    user: str | msgspec.UnsetType | None = msgspec.UNSET


_decode = msgspec.json.Decoder(EmbeddingsBody).decode


class EmbeddingsFormat:
    """Calls and responses in OpenAI's shape. A model is named as elsewhere, or `model/version` to pin a version."""

    route = EMBEDDINGS_PATH
    # The shape has no answer that says "accepted", so `Prefer: respond-async` is not heeded.
    responds_async = False
    is_coded = False

    def __init__(self, api: "ApiSettings", reader: "CallReader") -> None:
        self._api = api
        self._reader = reader

    def read(self, _scope: Any, body: bytes, origin: "CallOrigin") -> "Call":
        """Check a body against the model that it names.

        Raises:
            DecodeError: it is not JSON.
            InvalidRequestError: it is no such call, or its model embeds no text; nothing was enqueued.
        """
        try:
            fields = _decode(body)
        except msgspec.ValidationError as error:
            raise InvalidParameterError(f"the body is not an embeddings call: {clipped(str(error))}") from error
        except UNDECODABLE as error:
            raise DecodeError(f"the body is not valid JSON: {clipped(str(error))}") from error
        refuse_repeats(body, fields)
        name, _, version = fields.model.partition("/")
        target = self._reader.find(name, version or None)
        with AskedFor(target.model, version or None):
            embedding = embedding_of(target.signature)
            if embedding is None:
                raise InvalidInputError(
                    f"model {target.model!r} embeds no text: that takes one input of text and gives one vector a row. "
                    "GET /v1/models has the inputs and outputs of each"
                )
            if isinstance(fields.dimensions, int) and fields.dimensions != embedding.width:
                raise InvalidParameterError(
                    f"dimensions is {fields.dimensions}, and the embeddings of {target.model!r} have {embedding.width} "
                    "numbers; send that or nothing"
                )
            texts = texts_of(fields.input)
            check_rows(len(texts), self._api.max_rows)
            array = np.array(texts, numpy_dtype("BYTES"))
            spec = target.signature.inputs[0]
            tensors = {embedding.input: array.reshape(-1, *spec.row_shape)}
            target.check_others(tensors)
            # Clients wait as long as it takes: they know no answer that says "accepted".
            wait_s = origin.wait_s if origin.wait_s is not None else self._api.max_wait_s
            options = CallOptions(version=version or None, timeout_s=min(wait_s, self._api.max_wait_s))
            form = ALL_AS_BYTES if fields.encoding_format == "base64" else ALL_AS_JSON
            return self._reader.build(target.model, tensors, options, origin, form)

    def fingerprinted(self, _scope: Any, body: bytes) -> bytes:
        """Return path and body, which must be the same in each call with one `Idempotency-Key`."""
        return b"\0".join((EMBEDDINGS_PATH.encode(), body))

    def result_response(self, call: "Call", result: Result) -> PlainResponse:
        """Return a vector for each text, as floats or Base64 as the call asked, or the error of a failed request."""
        if result.status is not Status.SUCCEEDED:
            status = status_of_code(result.error_code)
            detail = result.error_detail or "the request failed"
            # The request has ended: the same call again would be another one.
            headers = (_NO_RETRY,)
            return PlainResponse(status, openai_error(status, result.error_code, detail), JSON, headers)
        outputs = stored_outputs(result)
        vectors = _vectors(outputs, result)
        count = outputs.get(TOKEN_COUNT)
        tokens = int(count.sum()) if count is not None and count.dtype.kind in "iu" else 0
        embeddings: list[Any] = (
            [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
            if call.form is not None and call.form.binary
            else json_values(vectors)
        )
        body = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": embedding}
                for index, embedding in enumerate(embeddings)
            ],
            "model": result.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return PlainResponse(200, _encode(body), JSON, ((b"x-request-id", result.request_id.encode()),))

    def queued_response(self, call: "Call") -> PlainResponse:
        """Return the error of a wait that ran out, and where the result will be: these clients expect no 202."""
        location = prediction_path(call.request_id)
        detail = (
            f"no result within the {call.wait_s:g} s of this call; the request goes on as {call.request_id}, and "
            f"GET {location}?wait_s=30 has its outputs. Send fewer texts in a call"
        )
        headers = (_NO_RETRY, (b"location", location.encode()))
        status = HTTPStatus.GATEWAY_TIMEOUT.value
        return PlainResponse(status, openai_error(status, "wait_is_over", detail), JSON, headers)

    async def prepare(self, _scope: Any, response: PlainResponse) -> PlainResponse:
        """Return the response as it is."""
        return response


def texts_of(given: str | list[str | int | list[int]]) -> list[str]:
    """The texts of an `input`: one text, several, the tokens of one, or the tokens of several.

    Raises:
        InvalidInputError: there is none, or texts and tokens are mixed.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidInputError("input is an empty list; send at least one text")
    kinds = {type(one) for one in given}
    if len(kinds) > 1:
        raise InvalidInputError("input mixes texts and tokens; send only texts, or only tokens")
    if kinds == {int}:
        return [text_of(_tokens(given))]
    texts = []
    for index, one in enumerate(given):
        if isinstance(one, list) and not one:
            raise InvalidInputError(f"input[{index}] is an empty list; send at least one token")
        texts.append(text_of(one) if isinstance(one, list) else str(one))
    return texts


def _tokens(given: list[Any]) -> list[int]:
    return [int(one) for one in given]


def _vectors(outputs: "Tensors", result: Result) -> np.ndarray:
    """The embeddings, `(rows, width)`. Another version than the call was read for may have served it."""
    found = [array for array in outputs.values() if array.dtype.kind == "f" and array.ndim == 2]  # noqa: PLR2004
    if len(found) != 1:
        raise InferlaneError(
            f"version {result.version!r} of {result.model!r}, which served the request, gave no embeddings; pin "
            "another with `model/version`"
        )
    return found[0]
