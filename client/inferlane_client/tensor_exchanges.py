"""What calls with tensors send, and how they go on from each answer: the Open Inference Protocol V2 over REST."""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from inferlane_client.answers import read_input_names
from inferlane_client.binary_tensors import TensorPrediction, arrays_of, decode_prediction, encode_tensors
from inferlane_client.call_errors import InvalidInput, InvalidRequest, ProblemDetails, TimedOut
from inferlane_client.protocol_errors import protocol_refusal
from inferlane_client.request import Request
from inferlane_client.retries import (
    WAY_BACK_S,
    Deadline,
    HttpReply,
    Pause,
    ReplyForm,
    RetryingSender,
    Send,
    Steps,
    timed_out,
)

_JSON_LENGTH = "inference-header-content-length"
# Between two looks where less than the second is left that `Prefer: wait` can ask for.
_LOOK_AGAIN_S = 0.1


def _is_answer(reply: HttpReply) -> bool:
    # The protocol has no 202: a wait that ran out is a 504 that says where the result will be.
    is_queued = reply.status == HTTPStatus.GATEWAY_TIMEOUT and "location" in reply.headers
    return reply.status == HTTPStatus.OK or is_queued


_FORM = ReplyForm(is_answer=_is_answer, refusal=protocol_refusal)


class TensorExchanges:
    """The calls with tensors of one client."""

    def __init__(self, sender: RetryingSender) -> None:
        self._sender = sender
        self._names: dict[str, str] = {}

    def predict(self, request: Request, *, timeout_s: float) -> Steps[TensorPrediction]:
        """Send the arrays that are the rows of the request, and return its result.

        After each wait that ran out the same request is sent again with its `Idempotency-Key`: it is computed once.
        """
        arrays, deadline, path = arrays_of(request.rows), self._sender.deadline(timeout_s), _path_of(request)
        if not isinstance(arrays, Mapping):
            arrays = {(yield from self._input_name(path, deadline)): arrays}
        key = request.key()
        send = _creation(request, arrays, path, key)
        try:
            return (yield from self._predicted(send, deadline, key))
        except InvalidRequest:
            # The model may have another input by now; the next call asks.
            self._names.pop(path, None)
            raise

    def _predicted(self, send: Send, deadline: Deadline, key: str) -> Steps[TensorPrediction]:
        request_id: str | None = None

        def waiting() -> Send:
            return replace(send, headers={**send.headers, "prefer": f"wait={int(deadline.wait_s())}"})

        while True:
            is_last_look = request_id is not None and deadline.left_s() < WAY_BACK_S
            try:
                reply = yield from self._sender.answered(waiting, deadline, key=key, form=_FORM)
            except TimedOut as error:
                raise TimedOut(replace(error.problem, request_id=request_id)) from error
            if reply.status == HTTPStatus.OK:
                return decode_prediction(reply.body, reply.headers.get(_JSON_LENGTH))
            request_id = unquote(reply.headers["location"].rpartition("/")[2])
            if is_last_look or deadline.left_s() <= 0:
                raise timed_out(f"request {request_id} has no result", deadline, key=key, request_id=request_id)
            if deadline.wait_s() < 1:
                yield Pause(min(_LOOK_AGAIN_S, deadline.left_s()))

    def _input_name(self, path: str, deadline: Deadline) -> Steps[str]:
        """The name of the only input of a model, which is asked for once."""
        name = self._names.get(path)
        if name is None:
            reply = yield from self._sender.answered(lambda: Send(method="GET", path=path), deadline, form=_FORM)
            names = read_input_names(reply.body)
            if len(names) != 1:
                raise InvalidInput(
                    ProblemDetails(
                        code="invalid_input",
                        title="The tensors cannot be sent",
                        detail=f"the model has the inputs {', '.join(names)}; send a mapping of names to arrays",
                    )
                )
            name = self._names[path] = names[0]
        return name


def _creation(request: Request, arrays: Mapping[str, Any], path: str, key: str) -> Send:
    body, json_length = encode_tensors({str(name): array for name, array in arrays.items()}, request.options())
    headers = {
        "content-type": "application/octet-stream",
        "accept": "application/octet-stream, application/json",
        "idempotency-key": key,
        _JSON_LENGTH: str(json_length),
    }
    return Send(method="POST", path=f"{path}/infer", body=body, headers=headers)


def _path_of(request: Request) -> str:
    if not request.model:
        detail = "a call with tensors has the model's name in its path; name one"
        raise InvalidInput(ProblemDetails(code="invalid_input", title="The tensors cannot be sent", detail=detail))
    path = f"/v2/models/{quote(request.model, safe='')}"
    return path if request.version is None else f"{path}/versions/{quote(request.version, safe='')}"
