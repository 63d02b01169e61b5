"""What the calls with JSON send, and how they go on from each answer: one logic for the sync and the async client."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from inferlane_client.answers import (
    Prediction,
    ServedModel,
    Status,
    TrafficSplit,
    is_cancelled,
    read_models,
    read_object,
    read_prediction,
    read_request_id,
    read_split,
    read_status,
)
from inferlane_client.call_errors import CallError, TimedOut
from inferlane_client.events import EventStream
from inferlane_client.request import Request, encode_json
from inferlane_client.retries import (
    WAY_BACK_S,
    Deadline,
    Retries,
    RetryingSender,
    Send,
    Steps,
    prediction_path,
    timed_out,
)
from inferlane_client.rollout_exchanges import RolloutExchanges
from inferlane_client.tensor_exchanges import TensorExchanges

_PREDICT = "/v1/models/predict"
_SPLIT = "/v1/traffic-split"
_JSON = "application/json"


class JsonExchanges:
    """The calls of one client. `clock` is monotonic, in seconds."""

    def __init__(self, retries: Retries, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sender = RetryingSender(retries, clock)
        self.tensors = TensorExchanges(self._sender)
        self.rollouts = RolloutExchanges(self._sender)

    def predict(self, request: Request, *, timeout_s: float) -> Steps[Prediction]:
        """Send the request, and return its result."""
        deadline = self._sender.deadline(timeout_s)
        key, send = _creation(request)

        def waiting() -> Send:
            # In a header and not in the body, which must be the same bytes each time. Whole seconds: RFC 7240.
            return replace(send, headers={**send.headers, "prefer": f"wait={int(deadline.wait_s())}"})

        reply = yield from self._sender.answered(waiting, deadline, key=key)
        if reply.status == HTTPStatus.OK:
            return read_prediction(read_object(reply.body), http_status=reply.status)
        return (yield from self._result(read_request_id(reply.body), deadline, key=key))

    def submit(self, request: Request, *, timeout_s: float) -> Steps[str]:
        """Send the request, and return its id once it is accepted."""
        key, send = _creation(request)
        send = replace(send, headers={**send.headers, "prefer": "respond-async"})
        try:
            reply = yield from self._sender.answered(lambda: send, self._sender.deadline(timeout_s), key=key)
        except CallError as error:
            # The key stands for a request that has ended without a result: it was accepted, and its id says the rest.
            if error.problem.ended and error.request_id is not None:
                return error.request_id
            raise
        return read_request_id(reply.body)

    def result(self, request_id: str, *, timeout_s: float) -> Steps[Prediction]:
        """Wait for the result of a request."""
        return self._result(request_id, self._sender.deadline(timeout_s), key=None)

    def status(self, request_id: str, *, timeout_s: float) -> Steps[Status]:
        """Where a request is."""
        document = yield from self._document(Send(method="GET", path=prediction_path(request_id)), timeout_s)
        return read_status(document)

    def cancel(self, request_id: str, *, timeout_s: float) -> Steps[bool]:
        """Take a request back; return whether that is how it ended."""
        document = yield from self._document(Send(method="DELETE", path=prediction_path(request_id)), timeout_s)
        return is_cancelled(document)

    def events(self, request_id: str, *, last_event_id: str | None, timeout_s: float) -> EventStream:
        """What becomes of a request, from now on or from the event on that is known."""
        return EventStream(self._sender, request_id, last_event_id=last_event_id, timeout_s=timeout_s)

    def models(self, *, timeout_s: float) -> Steps[tuple[ServedModel, ...]]:
        """What is served."""
        document = yield from self._document(Send(method="GET", path="/v1/models"), timeout_s)
        return read_models(document)

    def traffic_split(self, model: str | None, *, timeout_s: float) -> Steps[TrafficSplit]:
        """The weights in force."""
        document = yield from self._document(Send(method="GET", path=_SPLIT, params=_named(model)), timeout_s)
        return read_split(document)

    def set_traffic_split(
        self, weights: Mapping[str, float], model: str | None, *, timeout_s: float
    ) -> Steps[TrafficSplit]:
        """Set the weights. Setting them twice is setting them once, so it is safe to send again."""
        body = encode_json({**_named(model), "weights": dict(weights)})
        send = Send(method="POST", path=_SPLIT, body=body, headers={"content-type": _JSON})
        document = yield from self._document(send, timeout_s)
        return read_split(document)

    def metrics(self, version: str, model: str | None, window_s: float, *, timeout_s: float) -> Steps[dict[str, Any]]:
        """What a version did lately."""
        params = {**_named(model), "window_s": f"{window_s:g}"}
        path = f"/v1/metrics/{quote(version, safe='')}"
        return self._document(Send(method="GET", path=path, params=params), timeout_s)

    def _result(self, request_id: str, deadline: Deadline, *, key: str | None) -> Steps[Prediction]:
        def waiting() -> Send:
            return Send(method="GET", path=prediction_path(request_id), params={"wait_s": f"{deadline.wait_s():.3f}"})

        while True:
            is_last_look = deadline.left_s() < WAY_BACK_S
            try:
                reply = yield from self._sender.answered(waiting, deadline, key=key)
            except TimedOut as error:
                raise TimedOut(replace(error.problem, request_id=request_id)) from error
            document = read_object(reply.body)
            if read_status(document) is not Status.QUEUED:
                return read_prediction(document, http_status=reply.status)
            if is_last_look:
                raise timed_out(f"request {request_id} has no result", deadline, key=key, request_id=request_id)

    def _document(self, send: Send, timeout_s: float) -> Steps[dict[str, Any]]:
        reply = yield from self._sender.answered(lambda: send, self._sender.deadline(timeout_s))
        return read_object(reply.body)


def _creation(request: Request) -> tuple[str, Send]:
    key = request.key()
    headers = {"content-type": _JSON, "idempotency-key": key}
    return key, Send(method="POST", path=_PREDICT, body=request.encoded(), headers=headers)


def _named(model: str | None) -> dict[str, str]:
    return {} if model is None else {"model": model}
