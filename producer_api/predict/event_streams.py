"""Server-sent events of one request: `queued` while it has no result, then `result`, then the stream ends.

A browser reconnects after every end of a stream until it is answered 204, which a client gets that names the terminal
event in `Last-Event-ID`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from starlette.responses import Response

from inferlane.contracts.results import Accepted, Result, Status
from inferlane.errors import OverloadedError, UnavailableError
from producer_api.http.event_stream import (
    EVENT_HEADERS,
    KEEP_ALIVE,
    KEEP_ALIVE_S,
    MEDIA_TYPE,
    EventStreamResponse,
    encode_event,
)
from producer_api.predict.cancellation import ClientDisconnect
from producer_api.predict.endpoint import encode_json
from producer_api.predict.pending import answer_within, store_is_late

if TYPE_CHECKING:
    from inferlane.runtime.retry import Clock
    from inferlane.runtime.service_settings import ApiSettings
    from producer_api.http.event_stream import EventWriter
    from producer_api.predict.endpoint import ResponseBuilder
    from producer_api.predict.result_waits import ResultWaits

log = structlog.get_logger(__name__)

# When a client is to open a stream again that the store was late for. EventSource waits without end while the store is
# away, so that many clients ask this often: too short adds to the load of a store that comes back.
_REOPEN_AFTER_MS = 3_000
# Streams of rollouts in one process. Each looks at its rollout every second, for days: more cost the calls of clients
# time, fewer are too few for the people and scripts that watch.
_MOST_FOLLOWERS = 256
# How often a request past its deadline is read while the store does not answer.
_RETRY_S = 1.0


class EventStreams:
    """The open event streams of one API process. One event loop.

    Each holds a waiter as a waiting call does, so the same limits and the same reads of the store serve both.
    """

    def __init__(
        self,
        api: "ApiSettings",
        *,
        waits: "ResultWaits",
        responses: "ResponseBuilder",
        clock: "Clock",
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._read_limit_s = api.default_wait_s
        self._waits = waits
        self._responses = responses
        self._clock = clock
        self._keep_alive_s = keep_alive_s
        # What ends a stream early: its client disconnects, or the process drains.
        self._ends: set[ClientDisconnect] = set()
        self._is_draining = False
        self._followers = 0

    @property
    def is_draining(self) -> bool:
        """Whether streams end now because the process stops."""
        return self._is_draining

    def drain(self) -> None:
        """End every stream without a result, and new ones after `queued`, so that clients reconnect elsewhere."""
        self._is_draining = True
        for end in self._ends:
            end.note()

    @contextmanager
    def follower(self) -> Iterator[None]:
        """Count a stream that follows something other than a request, while the block runs.

        Raises:
            OverloadedError: there are too many in this process.
        """
        if self._followers >= _MOST_FOLLOWERS:
            raise OverloadedError(
                f"{self._followers} streams of rollouts are open in this process, which is its limit; close some, or "
                "ask GET /v1/rollouts/{id} from time to time"
            )
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def response(self, request_id: str, known: Result | Accepted, *, key: str, last_event_id: str = "") -> Response:
        """Return the event stream of a request, or 204 to a client that has its terminal event already."""
        if isinstance(known, Result) and last_event_id == _event_id(known):
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return EventStreamResponse(partial(self.write, request_id, known, key))

    async def write(
        self, request_id: str, known: Result | Accepted, key: str, receive: Any, out: "EventWriter"
    ) -> None:
        """Write the events until the result is written, the client disconnects or the process drains.

        Raises:
            OverloadedError: too many calls wait in this process; nothing was written.
            InferlaneError: the stored result cannot be read.
        """
        result = known if isinstance(known, Result) else None
        if isinstance(known, Accepted):
            result = await self._wait(request_id, known, key, receive, out)
        if result is not None:
            body = encode_json(self._responses.body(result))
            await out.write(encode_event("result", body, event_id=_event_id(result)))

    async def _wait(
        self, request_id: str, accepted: Accepted, key: str, receive: Any, out: "EventWriter"
    ) -> Result | None:
        """Write `queued`, then comments until there is a result; None if the stream ends without one."""
        chunk, deadline_s = encode_event("queued", encode_json(queued_body(request_id, accepted))), accepted.deadline_s
        with self._waits.waiter(accepted.model, key) as waiter, self._early_end(receive) as end:
            end.resolves(waiter)
            while True:
                await out.write(chunk)
                until_s = self._clock.monotonic_s() + self._keep_alive_s
                result = await self._waits.look(waiter, until_s=until_s, deadline_s=deadline_s)
                if result is not None or end.has_happened:
                    return result
                if self._clock.now_s() > deadline_s:
                    known = await self._read(request_id, accepted, key)
                    if not isinstance(known, Accepted):
                        return known
                    deadline_s = max(known.deadline_s, self._clock.now_s() + _RETRY_S)
                chunk = KEEP_ALIVE

    async def _read(self, request_id: str, accepted: Accepted, key: str) -> Result | Accepted | None:
        time_s = self._read_limit_s
        try:
            async with answer_within(time_s, store_is_late(time_s, done="the event stream waits on")):
                return await self._waits.read(request_id, key=key)
        except UnavailableError as error:
            log.info("event_stream_waits_for_store", request_id=request_id, error=str(error))
            return accepted

    @contextmanager
    def _early_end(self, receive: Any) -> Iterator[ClientDisconnect]:
        end = ClientDisconnect()
        if self._is_draining:
            end.note()
        self._ends.add(end)
        try:
            with end.watching(receive):
                yield end
        finally:
            self._ends.discard(end)


def empty_stream(request_id: str, error: UnavailableError) -> Response:
    """Return a stream without events, with a comment that says why: EventSource opens it again, but not after a 503."""
    log.info("event_stream_without_store", request_id=request_id, error=str(error))
    comment = " ".join(str(error).split())
    return Response(f": {comment}\nretry: {_REOPEN_AFTER_MS}\n\n", headers=EVENT_HEADERS, media_type=MEDIA_TYPE)


def queued_body(request_id: str, accepted: Accepted) -> dict[str, Any]:
    """Return the body of a request that has no result yet."""
    body = {"request_id": request_id, "status": Status.QUEUED.value, "model": accepted.model}
    return body if accepted.version is None else {**body, "version": accepted.version}


def _event_id(result: Result) -> str:
    """Return what tells this result from one that a replay of the request gives later."""
    return f"{result.attempt}-{result.finished_s:.6f}"
