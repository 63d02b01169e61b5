"""Ending a request that nobody wants any more, whether its client says so or has gone away."""

from contextlib import suppress
from typing import TYPE_CHECKING

from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.results import CANCELLED, Accepted, Result
from inferlane.errors import UnavailableError

if TYPE_CHECKING:
    from inferlane.runtime.redis.cancellations import Cancellations
    from inferlane.runtime.redis.results import ResultStore
    from producer_api.predict.pending import Waiter


async def cancel_request(
    store: "ResultStore", cancellations: "Cancellations", headers: RequestHeaders, *, now_s: float
) -> Result:
    """End the request `FAILED` with the code `cancelled` unless it has ended; return the result that holds.

    Raises:
        UnavailableError: the store does not answer.
    """
    (held,) = await store.put([Result.cancelled(headers, now_s=now_s)])
    if held.error_code == CANCELLED and headers.deadline_s is not None:
        # The result is what counts; a worker that does not hear of it computes in vain and changes nothing.
        with suppress(UnavailableError):
            await cancellations.add(headers.key or headers.request_id, until_s=headers.deadline_s)
    return held


def accepted_headers(request_id: str, key: str, accepted: Accepted) -> RequestHeaders:
    """The headers of a request as far as its mark of acceptance tells; `key` is what the store keeps it under."""
    return RequestHeaders(
        request_id=request_id,
        model=accepted.model,
        version=accepted.version,
        accepted_s=accepted.accepted_s,
        deadline_s=accepted.deadline_s,
        reply_to=None,
        routing_key=None,
        attempt=1,
        batch_id=None,
        json_length=None,
        key=key,
        caller=accepted.caller,
    )


class ClientDisconnect:
    """Whether the client of a call has gone away; the place at which the call waits is emptied then. One event loop."""

    def __init__(self) -> None:
        self.has_happened = False
        self._waiter: Waiter | None = None

    def resolves(self, waiter: "Waiter") -> None:
        """Let this be the place where the call waits."""
        self._waiter = waiter
        if self.has_happened:
            self.note()

    def note(self) -> None:
        """Note that the client has gone away."""
        self.has_happened = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
