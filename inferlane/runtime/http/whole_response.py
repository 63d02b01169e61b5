"""A response that is there as a whole is written at once, without the two messages of ASGI."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_NO_BODY = frozenset({204, 304})


Headers = Iterable[tuple[bytes, bytes]]


class _SharedHeaders:
    """The lines of the headers that responses share until uvicorn replaces them, once a second."""

    def __init__(self) -> None:
        self._headers: Headers = ()
        self._lines = b""

    def lines(self, headers: Headers) -> bytes:
        """Return the lines of these headers, which are not changed once they were given."""
        if headers is not self._headers:
            self._headers, self._lines = headers, b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._lines


_shared = _SharedHeaders()


def whole_response(
    status: int, content_type: bytes, body: bytes, *, default: Headers, more: Headers = (), keep_alive: bool
) -> bytes:
    """Return the bytes of a response with a body. `default` headers come first, and `more` last; none is checked."""
    parts = [
        STATUS_LINE[status],
        _shared.lines(default),
        b"content-type: ",
        content_type,
        b"\r\ncontent-length: %d\r\n" % len(body),
    ]
    for name, value in more:
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n" if keep_alive else b"connection: close\r\n\r\n", body)
    return b"".join(parts)


class WholeResponseCycle(RequestResponseCycle):
    """uvicorn's exchange of one request and response, with a short way for most responses.

    uvicorn checks each header by two expressions, and writes head and body one after the other.
    """

    def send_whole(self, status: int, content_type: bytes, body: bytes) -> bool:
        """Write the response and end the exchange, as `send` does; return False, with nothing done, if only that can.

        `content_type` is a header's value that needs no check.
        """
        if (
            self.response_started
            or self.disconnected
            or self.waiting_for_100_continue
            or self.flow.write_paused
            or self.access_log
            or status in _NO_BODY
            or self.scope["method"] == "HEAD"
        ):
            return False
        self.response_started = True
        self.chunked_encoding = False
        self.transport.write(
            whole_response(status, content_type, body, default=self.default_headers, keep_alive=self.keep_alive)
        )
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True
