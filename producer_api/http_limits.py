"""What one connection may send and how slowly: uvicorn's HTTP protocol, with the limits that it does not have.

httptools takes heads of any size and uvicorn waits for ever for the rest of a call, so a few clients could fill our
memory or our sockets before any of our code runs. Proxies have such limits too; nobody must need one.
"""

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from producer_api.one_write import OneWrite
from producer_api.problems import CONTENT_TYPE, problem

if TYPE_CHECKING:
    from inferlane.config import Settings

# What a header costs on the wire beside its name and value: `: ` and the end of the line.
_HEADER_FRAME_BYTES = 4


class HeadTooLargeError(Exception):
    """Raised inside the parser, which turns it into an error of its own; `send_400_response` then answers."""


def limited_protocol(settings: "Settings") -> type[asyncio.Protocol]:
    """The protocol class with the limits of these settings; uvicorn makes one instance a connection."""
    return type("LimitedProtocol", (LimitedProtocol,), {"settings": settings})


class LimitedProtocol(HttpToolsProtocol):
    """Costs a timer only for a call that does not come whole in its first packet."""

    settings: ClassVar["Settings"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._packet_is_shared = False
        self._timer: asyncio.TimerHandle | None = None
        self._refusal = (HTTPStatus.BAD_REQUEST, "undecodable", "this is not HTTP/1.1 (RFC 9112)")

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(cast("asyncio.Transport", OneWrite(transport, self.loop)))
        self._start_timer(self.settings.head_timeout_s, self._on_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        cast("OneWrite", self.transport).forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and see what of the call is still to come."""
        was_in_head, was_in_body = self._in_head, self._in_body
        self._packet_is_shared = was_in_body
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._note_head(len(data), has_begun=was_in_head)
        elif self._in_body and not was_in_body:
            self._start_timer(self.settings.body_timeout_s, self._on_body_timeout)

    def on_message_begin(self) -> None:
        """The first byte of a head is there."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Check the head before anything is made of it."""
        self._in_head, self._in_body = False, True
        self._stop_timer()
        self._check_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole call is there."""
        self._in_body = False
        self._packet_is_shared = True
        self._stop_timer()
        super().on_message_complete()

    def send_400_response(self, _msg: str) -> None:
        """Answer a call that could not be read, or is over a limit, with a problem document, and close."""
        self._stop_timer()
        cycle: Any = self.cycle
        # In the middle of another answer ours would be taken for a part of it.
        if cycle is None or not cycle.response_started or cycle.response_complete:
            self.transport.write(_answer(*self._refusal))
        self.transport.close()

    def _note_head(self, received_bytes: int, *, has_begun: bool) -> None:
        if not has_begun:
            self._start_timer(self.settings.head_timeout_s, self._on_head_timeout)
        # A packet that also brought the end of another call is not counted: how much of it is ours is not known.
        if has_begun or not self._packet_is_shared:
            self._head_bytes += received_bytes
        if self._head_bytes > self.settings.max_head_bytes:
            self._refuse_size(self._head_bytes)
            self.send_400_response("")

    def _check_head(self) -> None:
        limit = self.settings.max_headers
        if len(self.headers) > limit:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                f"the call has {len(self.headers)} headers, the limit is {limit}; send fewer, or raise "
                "INFERLANE_MAX_HEADERS",
            )
            raise HeadTooLargeError
        size_bytes = len(self.url) + sum(len(name) + len(value) + _HEADER_FRAME_BYTES for name, value in self.headers)
        if size_bytes > self.settings.max_head_bytes:
            self._refuse_size(size_bytes)
            raise HeadTooLargeError

    def _refuse_size(self, size_bytes: int) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            f"the request line and headers have {size_bytes} bytes or more, the limit is "
            f"{self.settings.max_head_bytes}; send less, or raise INFERLANE_MAX_HEAD_BYTES",
        )

    def _on_head_timeout(self) -> None:
        if not self._in_head:
            # Not a byte of a call came: browsers open such connections in advance, and expect no answer.
            self.transport.close()
            return
        self._too_slow("request line and headers", self.settings.head_timeout_s, "INFERLANE_HEAD_TIMEOUT_S")

    def _on_body_timeout(self) -> None:
        self._too_slow("body", self.settings.body_timeout_s, "INFERLANE_BODY_TIMEOUT_S")

    def _too_slow(self, part: str, limit_s: float, setting: str) -> None:
        detail = f"the {part} did not come whole within {limit_s:g} s; send faster or less, or raise {setting}"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "too_slow", detail)
        self.send_400_response("")

    def _refuse(self, status: HTTPStatus, code: str, detail: str) -> None:
        self._refusal = (status, code, detail)

    def _start_timer(self, delay_s: float, on_timeout: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(delay_s, on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _answer(status: HTTPStatus, code: str, detail: str) -> bytes:
    body = problem(status, code, detail)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
