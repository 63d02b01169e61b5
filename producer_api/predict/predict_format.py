"""The form of a predict call in one protocol, and the response to a call that is over."""

from typing import TYPE_CHECKING, Any, Protocol

from producer_api.http.responses import error_response

if TYPE_CHECKING:
    from inferlane.contracts.results import Result
    from producer_api.http.asgi import PlainResponse
    from producer_api.predict.call import Call
    from producer_api.predict.call_options import CallOrigin
    from producer_api.predict.exchange import Exchange, Exchanges

# RFC 9211.
_CACHE_HIT = (b"cache-status", b"inferlane; hit")


class PredictFormat(Protocol):
    """How the predict call of one protocol is read, and how its responses are written."""

    route: str
    """The path, with `{name}` for what varies, by which traces group calls."""

    responds_async: bool
    """Whether a response may say that the request is accepted and no more."""

    is_coded: bool
    """Whether `prepare` changes a response for a client that accepts a content coding."""

    def read(self, scope: Any, body: bytes, origin: "CallOrigin") -> "Call":
        """Return the call that a body asks for; may run in a thread."""
        ...

    def fingerprinted(self, scope: Any, body: bytes) -> bytes:
        """Return what must be the same in each call with one `Idempotency-Key`."""
        ...

    def result_response(self, call: "Call", result: "Result") -> "PlainResponse":
        """Return the response to a call that has its terminal result."""
        ...

    def queued_response(self, call: "Call") -> "PlainResponse":
        """Return the response to a call whose request is accepted and has no result yet."""
        ...

    async def prepare(self, scope: Any, response: "PlainResponse") -> "PlainResponse":
        """Return the response as this client wants it sent."""
        ...


def response_of(call_format: PredictFormat, exchange: "Exchange", result: "Result | None") -> "PlainResponse":
    """Return the response to a call whose request ended with this result, or has none yet.

    Raises:
        InferlaneError: the result cannot be read.
    """
    call = exchange.served_call()
    if result is None:
        return call_format.queued_response(call)
    response = call_format.result_response(call, result)
    return response._replace(headers=(*response.headers, _CACHE_HIT)) if exchange.is_cached else response


def failure_response(exchanges: "Exchanges", exchange: "Exchange", error: Exception, path: str) -> "PlainResponse":
    """Return the response to a call that an error ended; the error is noted and logged."""
    return error_response(exchanges.failure(exchange, error), path)
