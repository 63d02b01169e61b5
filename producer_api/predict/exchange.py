"""One predict call while it is served, of any protocol: submitted, logged, traced and counted in one way."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from inferlane.contracts.kafka_record import trace_id_of
from inferlane.errors import InferlaneError
from producer_api.http.error_responses import crash_error, status_of
from producer_api.predict.idempotency import IdempotencyKey
from producer_api.predict.submission import end_with
from producer_api.predict.telemetry import end_call_span

if TYPE_CHECKING:
    from inferlane.contracts.results import Result
    from inferlane.runtime.tracing.spans import Span
    from producer_api.predict.call import Call
    from producer_api.predict.cancellation import ClientDisconnect
    from producer_api.predict.idempotency import IdempotentSubmitter
    from producer_api.predict.response_cache import CachePlace, ResponseCache
    from producer_api.predict.store_capacity import DeliveredResults
    from producer_api.predict.submission import WaitingCall
    from producer_api.predict.submitter import Submitter
    from producer_api.predict.telemetry import ResponseMetrics

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Exchange:
    """What is known of one call while it is served. Noted step by step, so that it is there when an error ends it."""

    trace_parent: bytes | None
    span: "Span | None" = None
    started_s: float = field(default_factory=time.perf_counter)
    idempotency_key: bytes | None = None
    call: "Call | None" = None
    result: "Result | None" = None
    error_code: str | None = None
    # What the call named, if it was refused before it was read to its end.
    asked_for: tuple[str | None, str | None] = (None, None)
    # Whether the result is an answer that was given before.
    is_cached: bool = False

    def __post_init__(self) -> None:
        if self.span is not None:
            self.trace_parent = self.span.traceparent

    def served_call(self) -> "Call":
        """The call, which has been read."""
        if self.call is None:
            raise InferlaneError("a call was submitted before it was read")
        return self.call

    def served_by(self) -> tuple[str | None, str | None]:
        """The model and version that served the call, or that it asked for; None where it is not known."""
        known = self.result or self.call
        return (known.model or None, known.version or None) if known else self.asked_for

    def named(self) -> dict[str, str | None]:
        """What a log line says of the call, to find it again in other processes."""
        return {
            "model": self.call.model if self.call else None,
            "request_id": self.call.request_id if self.call else None,
            "trace_id": trace_id_of(self.trace_parent),
        }


class Exchanges:
    """Serves the calls of every protocol once they are read. One event loop."""

    def __init__(
        self,
        *,
        submitter: "Submitter",
        idempotent: "IdempotentSubmitter",
        metrics: "ResponseMetrics",
        delivered: "DeliveredResults",
        cache: "ResponseCache",
    ) -> None:
        self._submitter = submitter
        self._idempotent = idempotent
        self._metrics = metrics
        self._delivered = delivered
        self._cache = cache

    async def submit(
        self,
        exchange: Exchange,
        *,
        fingerprinted: Callable[[], bytes],
        waits_for_result: bool = True,
        disconnect: "ClientDisconnect | None" = None,
    ) -> "Result | None":
        """Submit the request of the call; return its terminal result, or None if it is accepted and has none yet.

        With an idempotency key, `fingerprinted` is what must be the same in each call with the key, and a client that
        disconnects cancels nothing: whoever has the key may ask again.

        Raises:
            InferlaneError: the request was not accepted.
        """
        call, key = exchange.served_call(), exchange.idempotency_key
        result = None
        if key is not None:
            claimed = IdempotencyKey(caller=call.caller, key=key)
            exchange.call, result = await self._idempotent.submit(
                claimed, fingerprinted(), call, waits_for_result=waits_for_result
            )
        elif waits_for_result:
            place = self._cache.place(call)
            result = await (
                self._submitter.submit_and_wait(call, disconnect=disconnect)
                if place is None
                else self._cached_or_computed(place, call, exchange, disconnect)
            )
        else:
            await self._submitter.submit(call)
        self.note(exchange, result)
        return result

    def begin(self, exchange: Exchange, waiting: "WaitingCall") -> None:
        """Submit the request of a call that waits for its result; end `waiting` with the outcome.

        Raises:
            InferlaneError: the request was not accepted; `waiting` is not ended.
        """
        call = exchange.served_call()
        place = self._cache.place(call)
        if place is None:
            self._submitter.begin(call, waiting)
        else:
            waiting.spawn(end_with(self._cached_or_computed(place, call, exchange, None), waiting.end))

    @staticmethod
    def note(exchange: Exchange, result: "Result | None") -> None:
        """Note the terminal result of the call, if there is one."""
        if result is not None:
            exchange.result, exchange.error_code = result, result.error_code

    async def _cached_or_computed(
        self, place: "CachePlace", call: "Call", exchange: Exchange, disconnect: "ClientDisconnect | None"
    ) -> "Result | None":
        cached = await self._cache.find(place, call)
        if cached is not None:
            exchange.is_cached = True
            return cached
        result = await self._submitter.submit_and_wait(call, disconnect=disconnect)
        if result is not None:
            self._cache.keep(place, result)
        return result

    def failure(self, exchange: Exchange, error: Exception) -> InferlaneError:
        """Note and log the error that ended the call; return what the client is told of it."""
        if not isinstance(error, InferlaneError):  # a bug of ours gets a response too
            log.error("predict_crashed", **exchange.named(), exc_info=error)
            error = crash_error(error)
        elif status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("predict_failed", **exchange.named(), code=error.code, error=str(error))
        exchange.error_code, exchange.asked_for = error.code, error.asked_for
        return error

    def end(self, exchange: Exchange, *, status: int, **attributes: str | int) -> None:
        """Count the call and end its span. `status` is HTTP's, whatever protocol the response was sent in."""
        # Whoever sent an idempotency key may send the same call again, and gets the result then.
        # A cached answer was never stored as a result.
        may_expire = status == HTTPStatus.OK and exchange.idempotency_key is None and not exchange.is_cached
        if exchange.result is not None and may_expire:
            self._delivered.note(exchange.result.key)
        model, version = exchange.served_by()
        if exchange.span is not None:
            end_call_span(
                exchange.span,
                exchange.call,
                status=status,
                version=version,
                error=exchange.error_code,
                attributes=attributes,
            )
        took_s = time.perf_counter() - exchange.started_s
        self._metrics.observe_response(model, version, status=status, reason=exchange.error_code, took_s=took_s)
