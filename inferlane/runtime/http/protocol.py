"""Limits of one connection in size and time, which uvicorn's HTTP protocol does not have.

httptools accepts heads of any size, and uvicorn waits for ever. A refusal follows earlier answers and ends reading.
"""

from typing import TYPE_CHECKING, Any, ClassVar, cast

import httptools

from inferlane.runtime.http.connection_limits import (
    CoalescingTransport,
    ProbesOnly,
    close_unless_continued,
    end_with_connection,
    pipeline_full,
    refusal_of,
    too_large,
    too_many,
    too_slow,
)
from inferlane.runtime.http.draining_protocol import DrainingProtocol
from inferlane.runtime.http.problem import Refusal, closing_answer
from inferlane.runtime.http.request_head import HTTP_1_0, RefusedError, check_head, without_upgrade
from inferlane.runtime.http.whole_response import WholeResponseCycle

if TYPE_CHECKING:
    import asyncio

    from inferlane.runtime.settings import PortSettings

# The bytes of a header beside its name and value: `: ` and the end of the line.
_HEADER_FRAME_BYTES = 4
# Requests that may wait on one connection: fewer would break clients that pipeline.
_MAX_PIPELINED = 16
# The most connections over the limit that still get an answer; any more are closed without one.
_MAX_REFUSING = 64


class LimitedProtocol(DrainingProtocol):
    """Refuses messages that are ambiguous, too large or too slow, and answers in the order of the requests.

    Only a call that does not arrive whole in its first packet costs a timer.
    """

    ports: ClassVar["PortSettings"]
    max_connections: ClassVar[int]
    max_dropped_bytes: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whether `cycle` is that of the message that is being received.
        self._has_cycle = False
        self._is_surplus = False
        self._head_bytes = 0
        self._packet_is_shared = False
        self._packet_bytes = 0
        # The size of all earlier packets of the head: the head is no larger than that.
        self._earlier_bytes = 0
        # Bytes of the body state that were no body: chunk sizes, extensions and trailers since its last byte.
        self._frame_bytes = 0
        self._trailers = 0
        self._dropped_bytes = 0
        self._body_came = False
        self._ignored_upgrade: bytes | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        # Set once, and then nothing more is read: it is the last answer of the connection.
        self._refusal: Refusal | None = None

    def connection_made(self, transport: Any) -> None:
        """Start waiting for a head."""
        outgoing = CoalescingTransport(transport, self.loop, write_timeout_s=self.ports.write_timeout_s)
        super().connection_made(cast("asyncio.Transport", outgoing))
        surplus = len(self.connections) - self.max_connections
        if surplus > _MAX_REFUSING:
            self.transport.abort()
            return
        if surplus > 0:
            self._is_surplus, self.app = True, ProbesOnly(self.app, limit=self.max_connections)
        self._start_timer(self.ports.head_timeout_s, self._on_head_timeout)
        if self.is_draining:
            # Accepted in the last moment.
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        self._stop_write_timer()
        cast("CoalescingTransport", self.transport).forget()
        # uvicorn leaves the timer of a connection that was reset, which holds all of it for as long as one may be idle.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and set the time limit for the rest of the call."""
        if self._refusal is not None or self.transport.is_closing():
            return
        was_in_head, was_in_body = self._in_head, self._in_body
        self._packet_is_shared, self._packet_bytes = was_in_body, len(data)
        self._body_came = False
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(refusal_of(error))
            return
        if self.transport.is_closing():
            return
        if self._in_head:
            self._note_head(len(data), has_begun=was_in_head)
        elif self._in_body:
            if not was_in_body:
                self._start_timer(self.ports.body_timeout_s, self._on_body_timeout)
            elif not self._body_came:
                self._note_frame(len(data))

    def on_message_begin(self) -> None:
        """Note the first byte of a head; empty lines before it do not count and keep no connection open."""
        super().on_message_begin()
        self._in_head, self._in_body, self._has_cycle = True, False, False
        self._head_bytes = self._earlier_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header; a trailer (after the body) is counted and dropped, since nothing here uses it."""
        if self._in_body:
            self._trailers += 1
            if self._trailers > self.ports.max_headers:
                raise RefusedError(too_many("trailers", self._trailers, self.ports))
            return
        name = name.lower()
        # A client of HTTP/1.0 would take the 100 for its answer. Source: RFC 9110, section 10.1.1.
        if name == b"expect" and value.lower() == b"100-continue" and self.parser.get_http_version() != HTTP_1_0:
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head before anything is made of it."""
        self._in_head, self._in_body = False, True
        self._frame_bytes = self._trailers = self._dropped_bytes = 0
        self._stop_timer()
        self._check_size()
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        check_head(method, self.url, version, self.headers)
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise RefusedError(pipeline_full(_MAX_PIPELINED))
        if self.parser.should_upgrade():
            self._ignored_upgrade = without_upgrade(method, self.url, version, self.headers)
            return
        super().on_headers_complete()
        # Made by a name of uvicorn's module; it has begun nothing yet.
        self.cycle.__class__ = WholeResponseCycle
        self._has_cycle = True
        self._close_if_draining()
        if self._is_surplus:
            self.cycle.keep_alive = False
        if self.expect_100_continue:
            close_unless_continued(self.cycle)
        if version == HTTP_1_0:
            end_with_connection(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body; after the answer, count the bytes that are dropped."""
        self._body_came, self._frame_bytes = True, 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._dropped_bytes += len(body)
            if self._dropped_bytes > self.max_dropped_bytes:
                self.transport.abort()

    def on_message_complete(self) -> None:
        """Note that the call has arrived whole."""
        if self._ignored_upgrade is not None:
            return
        self._in_body = self._has_cycle = False
        self._packet_is_shared = True
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, or with the refusal of the one after the last."""
        if self._refusal is not None and not self.pipeline and not self.transport.is_closing():
            self._send_refusal(self._refusal)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.ports.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads again."""
        self._stop_write_timer()
        super().resume_writing()

    def _parse(self, data: bytes) -> None:
        """Feed the parser; a head with an Upgrade goes through a fresh one without it, and the rest after it."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as pause:
                head, self._ignored_upgrade = self._ignored_upgrade, None
                data = (head or b"") + data[pause.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            else:
                return

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with the refusal when it is its turn, and read no more."""
        self._stop_timer()
        self._refusal = refusal
        cycle: Any = self.cycle
        if not self._has_cycle:
            if cycle is None or cycle.response_complete:
                self._send_refusal(refusal)
        elif self.pipeline and self.pipeline[0][0] is cycle:
            # Its app has not started; the answers to earlier requests come first.
            self.pipeline.popleft()
        else:
            self._refuse_running(cycle, refusal)

    def _refuse_running(self, cycle: Any, refusal: Refusal) -> None:
        """End a request whose app waits for the rest of its body, or has answered without it."""
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            # The client would take our answer for a part of the one under way, or for the next one.
            self.transport.close()
        else:
            self._send_refusal(refusal)

    def _answers_head(self) -> bool:
        return self.parser.get_method() == b"HEAD"

    def _send_refusal(self, refusal: Refusal) -> None:
        self.transport.write(closing_answer(refusal, with_body=not self._answers_head()))
        self.transport.close()

    def _note_head(self, received_bytes: int, *, has_begun: bool) -> None:
        if not has_begun:
            self._start_timer(self.ports.head_timeout_s, self._on_head_timeout)
        self._earlier_bytes += received_bytes
        # A packet that also ended another call is not counted: its share of this head is not known.
        if has_begun or not self._packet_is_shared:
            self._head_bytes += received_bytes
        if self._head_bytes > self.ports.max_head_bytes:
            self._refuse(too_large("request line and headers", self._head_bytes, self.ports))

    def _note_frame(self, received_bytes: int) -> None:
        self._frame_bytes += received_bytes
        if self._frame_bytes > self.ports.max_head_bytes:
            self._refuse(too_large("chunk extensions and trailers", self._frame_bytes, self.ports))

    def _check_size(self) -> None:
        if len(self.headers) > self.ports.max_headers:
            raise RefusedError(too_many("headers", len(self.headers), self.ports))
        if self._packet_bytes + self._earlier_bytes <= self.ports.max_head_bytes:
            return
        size_bytes = len(self.url) + sum(len(name) + len(value) + _HEADER_FRAME_BYTES for name, value in self.headers)
        if size_bytes > self.ports.max_head_bytes:
            raise RefusedError(too_large("request line and headers", size_bytes, self.ports))

    def _on_head_timeout(self) -> None:
        if self.flow.read_paused:
            self._start_timer(self.ports.head_timeout_s, self._on_head_timeout)
        elif self._in_head:
            self._too_slow("request line and headers", self.ports.head_timeout_s, "INFERLANE_HEAD_TIMEOUT_S")
        else:
            # No byte of a call arrived: browsers open such connections in advance, and expect no answer.
            cast("CoalescingTransport", self.transport).close_idle()

    def _on_body_timeout(self) -> None:
        if self.flow.read_paused:
            # We do not read now, so it is not the client that is slow.
            self._start_timer(self.ports.body_timeout_s, self._on_body_timeout)
        else:
            self._too_slow("body", self.ports.body_timeout_s, "INFERLANE_BODY_TIMEOUT_S")

    def _too_slow(self, part: str, limit_s: float, setting: str) -> None:
        self._refuse(too_slow(part, limit_s, setting))

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
