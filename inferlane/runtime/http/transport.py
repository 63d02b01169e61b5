"""The sending side of a connection: few writes, and an end that the client can read."""

import asyncio
from typing import Any

_HEAD = b"HTTP/1.1 "
# How long a connection that we end stays open for its client to end it too: too short cuts off answers on slow lines,
# too long lets clients that never close hold a socket each.
_LINGER_S = 2.0


class Outgoing:
    """A transport that writes a response's head together with its body, and never waits for ever to close.

    uvicorn writes head and body one after another, and uvloop hands each to the system at once: a system call each, and
    a client woken twice. So a head is held back until its body comes, one turn of the event loop at most. Everything
    but writing and closing is the transport's own.
    """

    def __init__(
        self,
        transport: Any,
        loop: asyncio.AbstractEventLoop,
        *,
        write_timeout_s: float,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._write_timeout_s = write_timeout_s
        self._head: bytes | None = None
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, behind what is held; a head alone is held."""
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head + data)
        elif data.startswith(_HEAD) and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether `close` was called; the client may still be sending then."""
        return self._is_closing or bool(self._transport.is_closing())

    def close(self) -> None:
        """Say that nothing more comes, and close when the client has closed too or has had its time.

        Closed at once, the kernel would answer what the client still sends with a reset, which would overtake our last
        answer. Source: RFC 9112, section 9.6.
        """
        if self.is_closing():
            return
        self._is_closing = True
        self._flush()
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:
            # The client has reset the connection, and the loop has not told us yet.
            self._transport.abort()
            return
        self._transport.resume_reading()
        self._await_client(self._loop.time() + self._write_timeout_s)

    def close_idle(self) -> None:
        """Close a connection on which nothing is under way."""
        self._is_closing = True
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._write_timeout_s, self._transport.abort)

    def forget(self) -> None:
        """Drop what is held: the connection is gone."""
        self._head = None
        if self._timer is not None:
            self._timer.cancel()

    def _await_client(self, until_s: float) -> None:
        self._timer = self._loop.call_later(_LINGER_S, self._end, until_s)

    def _end(self, until_s: float) -> None:
        if self._transport.get_write_buffer_size() and self._loop.time() < until_s:
            self._await_client(until_s)
        else:
            self._transport.abort()

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head)


def close_unless_continued(cycle: Any) -> None:
    """Let an answer that comes before `100 Continue` end the connection.

    Nobody can know then whether the client goes on with its body or with another request. RFC 9110, section 10.1.1.
    """
    send = cycle.send

    async def send_noting(message: Any) -> None:
        if cycle.waiting_for_100_continue:
            cycle.keep_alive = False
        await send(message)

    cycle.send = send_noting
