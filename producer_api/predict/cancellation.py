"""Cancellation of requests: by their client's call, or because their client has disconnected."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from inferlane.contracts.record import RequestHeaders
from inferlane.contracts.results import CANCELLED, Accepted, Result
from inferlane.errors import UnavailableError

if TYPE_CHECKING:
    from inferlane.runtime.redis.cancellations import Cancellations
    from inferlane.runtime.redis.result_store import ResultStore
    from producer_api.predict.pending import Waiter


async def cancel_request(
    store: "ResultStore", cancellations: "Cancellations", headers: RequestHeaders, *, now_s: float
) -> Result:
    """End the request as `FAILED` with the code `cancelled` unless it has ended; return its final result.

    Raises:
        UnavailableError: the store does not answer.
    """
    (held,) = await store.put([Result.cancelled(headers, now_s=now_s)])
    if held.error_code == CANCELLED and headers.deadline_s is not None:
        # The stored result is final. A worker that does not learn of it computes in vain and changes nothing.
        with suppress(UnavailableError):
            await cancellations.add(headers.key or headers.request_id, until_s=headers.deadline_s)
    return held


def accepted_headers(request_id: str, key: str, accepted: Accepted) -> RequestHeaders:
    """Return the headers of a request as far as its acceptance mark has them; `key` is its key in the store."""
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
    """Whether the client of a call has disconnected; if it does, the waiter of the call is resolved. One event loop."""

    def __init__(self) -> None:
        self.has_happened = False
        self._waiter: Waiter | None = None

    def resolves(self, waiter: "Waiter") -> None:
        """Resolve this waiter once the client has disconnected."""
        self._waiter = waiter
        if self.has_happened:
            self.note()

    @contextmanager
    def watching(self, receive: Any) -> Iterator[None]:
        """Note while the block runs when the client disconnects. The body of the call must have been read."""

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.note()

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()

    def note(self) -> None:
        """Note that the client has disconnected."""
        self.has_happened = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
