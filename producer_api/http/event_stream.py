"""Server-sent events as a response: its head, its events and its comments.

Source: the EventSource interface, HTML Standard, section 9.2.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from producer_api.http.asgi import IS_HEAD

MEDIA_TYPE = "text/event-stream"
EVENT_HEADERS = {
    "cache-control": "no-store",
    # nginx would hold the events back until its buffer is full.
    "x-accel-buffering": "no",
}
# Proxies close connections that are silent for long; the HTML Standard (9.2.7) advises a comment every 15 s or so.
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"


class EventWriter:
    """Writes one stream. Its head is sent with the first event, so an error before that is a problem."""

    def __init__(self, response: Response, send: Any) -> None:
        self._response = response
        self._send = send
        self._has_started = False

    async def write(self, event: bytes) -> None:
        """Send an event or a comment."""
        await self._start()
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def end(self) -> None:
        """End the response."""
        await self._start()
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            start = {"type": "http.response.start", "status": HTTPStatus.OK, "headers": self._response.raw_headers}
            await self._send(start)


class EventStreamResponse(Response):
    """A stream as a response of FastAPI's. HEAD gets its head alone."""

    media_type = MEDIA_TYPE

    def __init__(self, write: Callable[[Any, EventWriter], Awaitable[None]]) -> None:
        """`write` is called with ASGI's `receive` and with what it writes every event to."""
        super().__init__(headers=EVENT_HEADERS)
        del self.headers["content-length"]
        self._write = write

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        out = EventWriter(self, send)
        if not scope.get(IS_HEAD, False):
            await self._write(receive, out)
        await out.end()


def encode_event(name: str, data: bytes, *, event_id: str | None = None) -> bytes:
    """Encode an event. `data` is one line, as JSON is whose encoder escapes every line break."""
    first = b"" if event_id is None else b"id: %s\n" % event_id.encode()
    return first + b"event: %s\ndata: %s\n\n" % (name.encode(), data)
