"""A head and its body in one write: each write of a socket is a system call, and wakes the client."""

import asyncio
from typing import Any

_HEAD = b"HTTP/1.1 "


class OneWrite:
    """A transport that holds a response's head back until its body comes, one turn of the event loop at most.

    uvicorn writes them one after another, and uvloop hands each to the system at once. Everything but `write` and what
    must not overtake it is the transport's own.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

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

    def close(self) -> None:
        """Close when all is written."""
        self._flush()
        self._transport.close()

    def forget(self) -> None:
        """Drop what is held: the connection is gone."""
        self._head = None

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head)
