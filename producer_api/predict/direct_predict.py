"""Predict calls that are served directly: read, enqueued and answered by callbacks, without ASGI and without a task."""

from typing import TYPE_CHECKING, Any

import structlog

from inferlane.contracts.results import Result
from producer_api.predict.call_options import CallOrigin
from producer_api.predict.exchange import Exchange
from producer_api.predict.predict_format import failure_response, response_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from inferlane.runtime.http.direct_calls import DirectCycle
    from producer_api.http.asgi import PlainResponse
    from producer_api.http.request_body import BodyMemory
    from producer_api.predict.exchange import Exchanges
    from producer_api.predict.predict_format import PredictFormat

log = structlog.get_logger(__name__)


class DirectPredict:
    """Serves the calls of one head. One event loop."""

    def __init__(
        self,
        call_format: "PredictFormat",
        exchanges: "Exchanges",
        held: "BodyMemory",
        *,
        scope: Any,
        wait_s: float | None,
        trace_parent: bytes | None,
    ) -> None:
        self.call_format = call_format
        self.exchanges = exchanges
        self.held = held
        self.scope = scope
        self._wait_s = wait_s
        self._trace_parent = trace_parent
        self._origin = CallOrigin(wait_s, trace_parent)

    def __call__(self, body: bytes, cycle: "DirectCycle", caller: str = "") -> bool:
        """Begin a call; return False if the bodies of the calls under way leave no room, which ASGI reports."""
        if not self.held.has_room(len(body)):
            return False
        self.held.add(len(body))
        exchange = Exchange(self._trace_parent)
        direct = _DirectCall(self, exchange, cycle, len(body))
        origin = CallOrigin(self._wait_s, self._trace_parent, caller) if caller else self._origin
        try:
            exchange.call = self.call_format.read(self.scope, body, origin)
            self.exchanges.begin(exchange, direct)
        except Exception as error:  # noqa: BLE001 - a bug of ours gets a response too
            direct.end(error)
        return True


class _DirectCall:
    """One call, from its body to its response."""

    __slots__ = ("_body_bytes", "_cycle", "_exchange", "_served_by")

    def __init__(self, served_by: DirectPredict, exchange: Exchange, cycle: "DirectCycle", body_bytes: int) -> None:
        self._served_by = served_by
        self._exchange = exchange
        self._cycle = cycle
        self._body_bytes = body_bytes

    def spawn(self, steps: "Coroutine[Any, Any, None]") -> None:
        """Run what follows in a task, which the server waits for when it stops."""
        self._cycle.spawn(steps)

    def end(self, outcome: Result | Exception | None) -> None:
        """Respond: with the result, with the error, or with where the result will be."""
        served_by, exchange = self._served_by, self._exchange
        try:
            response = self._response(outcome)
            self._cycle.respond(response.status, response.content_type, response.body, response.headers)
            served_by.exchanges.end(exchange, status=response.status)
        except Exception:  # whoever ends the call has others to end
            log.exception("response_failed", **exchange.named())
        finally:
            served_by.held.release(self._body_bytes)

    def _response(self, outcome: Result | Exception | None) -> "PlainResponse":
        served_by, exchange = self._served_by, self._exchange
        if isinstance(outcome, Exception):
            return failure_response(served_by.exchanges, exchange, outcome, served_by.scope["path"])
        try:
            served_by.exchanges.note(exchange, outcome)
            return response_of(served_by.call_format, exchange, outcome)
        except Exception as error:  # noqa: BLE001 - a bug of ours gets a response too
            return failure_response(served_by.exchanges, exchange, error, served_by.scope["path"])
