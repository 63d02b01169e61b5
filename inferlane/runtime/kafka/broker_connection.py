"""Read the broker's responses as they arrive, and time requests out together.

aiokafka reads a response in a task of its own, which wakes twice, and gives each request a timer and a coroutine that
waits for it. Here a response ends its request's future at the moment that its last byte is read, and a connection has
one timer. What a request and a response hold is as before; `test_broker_connection.py` fails when aiokafka changes.
"""

import asyncio
import struct
import time
import weakref
from collections.abc import Callable
from typing import Any

from aiokafka import conn as conn_module
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol, CloseReason
from aiokafka.errors import KafkaConnectionError

from inferlane.runtime.kafka.wire_codec import hot_structs, speed_up_codec

_SIZE = struct.Struct(">i")
# Requests whose time is over end at most this much later.
_OVERDUE_SLACK_S = 0.1
# Shorter takes a pause of the broker for its end, longer sends clients to a process that can only refuse them.
_SILENT_S = 10.0


class BrokerPulse:
    """Whether the broker answers this process, as its connections know it: nothing is sent to find out.

    A frozen broker keeps its connections open, and new ones succeed; so what counts is that bytes come back.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._asked_s: float | None = None

    def note_asked(self) -> None:
        """Note a request, or a try to connect."""
        if self._asked_s is None:
            self._asked_s = self._now_s()

    def note_bytes(self) -> None:
        """Note that a broker sent something."""
        self._asked_s = None

    @property
    def answers(self) -> bool:
        """False if a broker was asked something 10 s ago or earlier, and since then none has sent a byte."""
        asked_s = self._asked_s
        return asked_s is None or self._now_s() - asked_s < _SILENT_S


PULSE = BrokerPulse()


def speed_up_connections() -> None:
    """Make every connection of this process to a broker work this way; calling it again changes nothing.

    aiokafka has no hook for this, so methods of its connection are replaced.
    """
    if conn_module.AIOKafkaProtocol is _FrameProtocol:
        return
    speed_up_codec(hot_structs())
    conn_module.AIOKafkaProtocol = _FrameProtocol
    AIOKafkaConnection.send = _send
    create_reader_task = AIOKafkaConnection._create_reader_task  # noqa: SLF001 - there is no public way

    def create_frame_reader(connection: Any) -> Any:
        connection._protocol.frames_to(connection)  # noqa: SLF001 - as above
        # Without data it only waits for the end of the connection.
        return create_reader_task(connection)

    AIOKafkaConnection._create_reader_task = create_frame_reader  # noqa: SLF001 - as above
    connect = AIOKafkaConnection.connect

    async def noted_connect(connection: Any) -> Any:
        PULSE.note_asked()
        return await connect(connection)

    AIOKafkaConnection.connect = noted_connect


class _FrameProtocol(AIOKafkaProtocol):  # type: ignore[misc]  # aiokafka has no types
    """Hands each response to its connection, which it does not keep alive; the stream gets none of the bytes."""

    _connection: Callable[[], Any] = staticmethod(lambda: None)
    _stream_reader: asyncio.StreamReader

    def frames_to(self, connection: Any) -> None:
        """Hand responses to this connection from now on."""
        self._connection = weakref.ref(connection)
        # The bytes that are there of the size of the next response, or the pieces of one and how many bytes it lacks.
        self._size_part = b""
        self._pieces: list[bytes] = []
        self._lacking = 0

    def data_received(self, data: bytes) -> None:
        """Handle every response that is complete now; the pieces of a large one are copied once, when all are there."""
        PULSE.note_bytes()
        if self._lacking:
            if len(data) < self._lacking:
                self._pieces.append(data)
                self._lacking -= len(data)
                return
            frame = b"".join((*self._pieces, memoryview(data)[: self._lacking]))
            data = data[self._lacking :]
            self._pieces, self._lacking = [], 0
            self._handle(frame)
        if self._size_part:
            data = self._size_part + data
        start = 0
        while len(data) - start >= _SIZE.size:
            end = start + _SIZE.size + max(0, _SIZE.unpack_from(data, start)[0])
            if end > len(data):
                self._size_part, self._pieces, self._lacking = b"", [data[start + _SIZE.size :]], end - len(data)
                return
            self._handle(data[start + _SIZE.size : end])
            start = end
        self._size_part = data[start:]

    def _handle(self, frame: bytes) -> None:
        connection = self._connection()
        # A connection that was closed is no longer interested in what it asked for.
        if connection is None or connection._reader is None:  # noqa: SLF001 - aiokafka's
            return
        try:
            connection._handle_frame(frame)  # noqa: SLF001 - as above
        except Exception as error:  # noqa: BLE001 - whatever the bytes make a decoder raise: the task closes the connection
            self._stream_reader.set_exception(error)


class _Response(asyncio.Future[Any]):
    """The response to a request, and the time until which it should be there."""

    due_s: float


def _send(connection: Any, request: Any, expect_response: bool = True) -> Any:
    """As aiokafka's: return an awaitable of the response, which raises `TimeoutError` if there is none in time."""
    writer = connection._writer  # noqa: SLF001 - aiokafka's, also below
    if writer is None:
        raise KafkaConnectionError(f"No connection to broker at {connection.host}:{connection.port}")
    prepared = request.prepare(connection._versions)  # noqa: SLF001
    number = connection._next_correlation_id()  # noqa: SLF001
    header = prepared.build_request_header(correlation_id=number, client_id=connection._client_id).encode()  # noqa: SLF001
    body = prepared.encode()
    try:
        writer.write(b"".join((_SIZE.pack(len(header) + len(body)), header, body)))
    except OSError as error:
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} broken: {error}") from error
    if not expect_response:
        return writer.drain()
    PULSE.note_asked()
    response = _Response(loop=connection._loop)  # noqa: SLF001
    response.due_s = time.monotonic() + connection._request_timeout  # noqa: SLF001
    connection._requests.append((number, prepared, response))  # noqa: SLF001
    if not getattr(connection, "_is_watched", False):
        _watch(weakref.ref(connection))
    return response


def _watch(of: "Callable[[], Any]") -> None:
    """End the requests of a connection whose time is over, and look again when that of the next one is."""
    connection = of()
    if connection is None:
        return
    now_s = time.monotonic()
    waiting = [one for _, _, one in connection._requests if isinstance(one, _Response) and not one.done()]  # noqa: SLF001
    for response in waiting:
        if response.due_s <= now_s:
            response.set_exception(TimeoutError())
    left = [response.due_s for response in waiting if response.due_s > now_s]
    # Each request gets the same time, so the next one that may be late is not earlier than this.
    connection._is_watched = bool(left)  # noqa: SLF001
    if left:
        connection._loop.call_later(min(left) - now_s + _OVERDUE_SLACK_S, _watch, of)  # noqa: SLF001
