"""Calls that are served without ASGI: their head is known from an earlier call, and no task is made for them.

Parsing and checking a head, an ASGI scope, a task and its wake-ups take a small call more time than its app does. Most
clients send the same head again and again, so what follows from a head is worked out once. Everything else, and every
first call of a head, is served by `LimitedProtocol` and the ASGI app; what they decide is decided here in the same way.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import httptools

from inferlane.runtime.http.connection_limits import connection_limit
from inferlane.runtime.http.problem import STOPPING, closing_answer
from inferlane.runtime.http.protocol import LimitedProtocol
from inferlane.runtime.http.whole_response import whole_response

if TYPE_CHECKING:
    from inferlane.runtime.settings import PortSettings

_END_OF_HEAD = b"\r\n\r\n"
# Longer heads hold cookies or tokens, and would make the memory of known heads large.
_MAX_HEAD_BYTES = 1024
# Heads differ by client and by length of the body. More take memory, 3 kB each; fewer forget heads that come again.
_MAX_HEADS = 512
# Body bytes that are read and dropped after the answer was sent, as a multiple of the largest body.
_DISCARD_FACTOR = 32


class DirectHandler(Protocol):
    """Serves the calls of one head."""

    def __call__(self, body: bytes, cycle: "DirectCycle", caller: str = "") -> bool:
        """Begin a call, which ends with `cycle.respond`; return False, with nothing done, if only ASGI can serve it.

        `caller` is the name of the API key that the call was made with.
        """
        ...


def direct_of(app: Any, scope: Any) -> DirectHandler | None:
    """Return what serves calls with the head of this ASGI scope directly; None if it is not known that the app can.

    An app, or a layer around one, offers it as `direct(scope)`. What may change from call to call, such as a key that
    is revoked, is for the handler to check.
    """
    offer = getattr(app, "direct", None)
    handler: DirectHandler | None = None if offer is None else offer(scope)
    return handler


class _NoEvent:
    """Stands for the event that wakes an ASGI app: a direct call waits for nothing of its connection."""

    def set(self) -> None:
        """Do nothing."""


class DirectCycle:
    """The exchange of a direct call and its response. Its attributes are those of uvicorn's that the protocol uses."""

    __slots__ = ("_protocol", "disconnected", "keep_alive", "response_complete", "response_started")

    message_event = _NoEvent()

    def __init__(self, protocol: "DirectProtocol") -> None:
        self._protocol = protocol
        self.disconnected = False
        self.keep_alive = True
        self.response_started = self.response_complete = False

    def respond(
        self, status: int, content_type: bytes, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Write the whole response and end the exchange; nothing if the client is gone. Values need no check."""
        if self.disconnected or self.response_started:
            return
        self.response_started = True
        protocol = self._protocol
        default = protocol.server_state.default_headers
        protocol.transport.write(
            whole_response(status, content_type, body, default=default, more=headers, keep_alive=self.keep_alive)
        )
        self.response_complete = True
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run the rest of the call in a task, which the server waits for when it stops."""
        protocol = self._protocol
        task = protocol.loop.create_task(steps)
        protocol.tasks.add(task)
        task.add_done_callback(protocol.tasks.discard)


class _KnownHead(NamedTuple):
    handler: DirectHandler
    body_bytes: int


class DirectProtocol(LimitedProtocol):
    """Serves calls with a known head directly, if they come whole and nothing else is under way on the connection."""

    known_heads: ClassVar[dict[bytes, _KnownHead]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The hash of the last head that is not known. Only a head that comes twice in a row is learned: those of a
        # client that traces its calls never come again.
        self._unknown_head = 0
        # A known head whose body is to come: many clients send the two in packets of their own.
        self._held_head: bytes | None = None

    def data_received(self, data: bytes) -> None:
        """Serve a whole call with a known head; leave everything else to `LimitedProtocol`."""
        if self._held_head is not None:
            self._receive_body(self._held_head, data)
            return
        cycle: Any = self.cycle
        is_idle = (
            not (self._in_head or self._in_body or self.pipeline or self.transport.is_closing())
            and self._refusal is None
            and (cycle is None or cycle.response_complete)
        )
        if not is_idle:
            super().data_received(data)
            return
        end = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        known = self.known_heads.get(data[:end]) if end <= _MAX_HEAD_BYTES else None
        if known is None:
            super().data_received(data)
            if self.cycle is not cycle:
                self._note_unknown(data, end)
        elif end == len(data):
            self._held_head, self._in_body = data, True
            self._start_timer(self.ports.body_timeout_s, self._on_body_timeout)
        elif not self._begin(known, data[end:]):
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a head whose body does not come."""
        self._held_head = None
        super().connection_lost(exc)

    def _receive_body(self, head: bytes, data: bytes) -> None:
        if self._refusal is not None or self.transport.is_closing():
            return
        self._held_head, self._in_body = None, False
        known = self.known_heads.get(head)
        if known is None or not self._begin(known, data):
            ends_s = self.loop.time() if self._timer is None else self._timer.when()
            # The parser has seen neither.
            super().data_received(head)
            if self._timer is not None and self._in_body:
                # The time for the body began with the head.
                self._start_timer(ends_s - self.loop.time(), self._on_body_timeout)
            super().data_received(data)

    def _answers_head(self) -> bool:
        # A held head is of a POST, and the parser has not seen it.
        return self._held_head is None and super()._answers_head()

    def end_direct_call(self) -> None:
        """Refuse the direct call that is under way: the server ends, and waits for it no longer."""
        cycle: Any = self.cycle
        if isinstance(cycle, DirectCycle) and not cycle.response_started:
            cycle.response_started = True
            self.transport.write(closing_answer(STOPPING))
            self.transport.close()

    def _begin(self, known: _KnownHead, body: bytes) -> bool:
        """Begin the call; return False, with nothing done, if only `LimitedProtocol` can serve it."""
        if len(body) != known.body_bytes or self._is_surplus or self.is_draining or self.flow.write_paused:
            return False
        before = self.cycle
        cycle: Any = DirectCycle(self)
        self.cycle = cycle
        if not known.handler(body, cycle):
            self.cycle = before
            return False
        self._stop_timer()
        return True

    def _note_unknown(self, data: bytes, end: int) -> None:
        """Learn the head of a call that has just been parsed, if it came as a whole and comes for the second time.

        A head is known only if the parser and `check_head` have accepted exactly these bytes as one.
        """
        cycle: Any = self.cycle
        if self._in_head or not cycle.keep_alive or cycle.scope["method"] != "POST" or end > _MAX_HEAD_BYTES:
            return
        head = data[:end]
        seen, self._unknown_head = self._unknown_head, hash(head)
        if seen != self._unknown_head:
            return
        handler = direct_of(self.app, dict(cycle.scope))
        body_bytes = None if handler is None else body_length(head)
        if handler is None or not body_bytes or len(data) - end not in {0, body_bytes}:
            return
        if len(self.known_heads) >= _MAX_HEADS:
            del self.known_heads[next(iter(self.known_heads))]
        self.known_heads[head] = _KnownHead(handler, body_bytes)


class _HeadReader:
    """What a parser reports of a head."""

    def __init__(self) -> None:
        self.ends = 0
        self.lengths: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what says how long the body is."""
        if name.lower() in {b"content-length", b"transfer-encoding", b"expect"}:
            self.lengths.append(value)

    def on_headers_complete(self) -> None:
        """Note that the head is complete."""
        self.ends += 1


def body_length(head: bytes) -> int | None:
    """Return the length of the body that follows; None if these bytes are not exactly one head of HTTP/1.1 with one."""
    reader = _HeadReader()
    parser = httptools.HttpRequestParser(reader)
    try:
        # The last byte alone: a head that is complete before it is followed by something else.
        parser.feed_data(head[:-1])
        ended_early = reader.ends
        parser.feed_data(head[-1:])
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    is_plain = (
        (ended_early, reader.ends, len(reader.lengths)) == (0, 1, 1)
        and parser.get_http_version() == "1.1"
        and parser.should_keep_alive()
        and reader.lengths[0].isdigit()
    )
    return int(reader.lengths[0]) if is_plain else None


def limited_protocol(ports: "PortSettings", *, max_body_bytes: int) -> type[asyncio.Protocol]:
    """Return the protocol class with the limits of these settings; uvicorn makes one instance a connection."""
    limits = {
        "ports": ports,
        "max_connections": connection_limit(ports.max_connections),
        "max_dropped_bytes": max_body_bytes * _DISCARD_FACTOR,
        "known_heads": {},
    }
    return type("ServedProtocol", (DirectProtocol,), limits)
