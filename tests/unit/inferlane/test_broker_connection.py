"""Responses reach their requests however the network cuts them, and no request waits for ever."""

import asyncio
import hashlib
import inspect
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiokafka import conn
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.group import HeartbeatRequest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.runtime.kafka import broker_connection
from inferlane.runtime.kafka.broker_connection import BrokerPulse, speed_up_connections

LIMIT_S = 60.0
HEARTBEAT = 12
# Version 0 of ApiVersions: no error, and that heartbeats are known in version 0.
VERSIONS = struct.pack(">hi3h", 0, 1, HEARTBEAT, 0, 0)

Frames = asyncio.Queue[int]
"""The numbers of the requests as they come."""


def frame(number: int, error: int = 0) -> bytes:
    body = struct.pack(">ih", number, error)
    return struct.pack(">i", len(body)) + body


@asynccontextmanager
async def broker() -> AsyncIterator[tuple[int, Frames, list[asyncio.StreamWriter]]]:
    """A broker that answers which requests it knows and leaves every other response to the test."""
    numbers: Frames = asyncio.Queue()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            try:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                key, _, number = struct.unpack_from(">hhi", await reader.readexactly(size))
            except asyncio.IncompleteReadError:
                return
            if key == HEARTBEAT:
                numbers.put_nowait(number)
            else:
                body = struct.pack(">i", number) + VERSIONS
                writer.write(struct.pack(">i", len(body)) + body)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], numbers, writers
    finally:
        server.close()
        for writer in writers:
            writer.close()


@pytest.fixture(autouse=True)
def sped_up() -> None:
    speed_up_connections()


def heartbeat(connection: Any) -> "asyncio.Task[Any]":
    async def response() -> Any:
        return await connection.send(HeartbeatRequest("group", 1, "member"))

    return asyncio.create_task(response())


@asynccontextmanager
async def connected(*, timeout_ms: int = 40_000) -> AsyncIterator[tuple[Any, Frames, asyncio.StreamWriter]]:
    """A connection, the numbers of its requests as they reach the broker, and what the broker writes with."""
    async with asyncio.timeout(LIMIT_S), broker() as (port, numbers, writers):
        connection = await create_conn("127.0.0.1", port, request_timeout_ms=timeout_ms)
        try:
            yield connection, numbers, writers[0]
        finally:
            connection.close()


@pytest.mark.parametrize("sizes", [[1] * 30, [3, 17, 10], [15, 15], [30], [12, 18]])
async def test_responses_are_put_together_from_any_pieces(sizes: list[int]) -> None:
    async with connected() as (connection, numbers, _):
        beats = [heartbeat(connection) for _ in range(3)]
        sent = b"".join([frame(await numbers.get(), error) for error in (0, 25, 27)])
        start = 0
        for size in sizes:
            connection._protocol.data_received(sent[start : start + size])
            start += size
        assert start == len(sent)
        assert [(await beat).error_code for beat in beats] == [0, 25, 27]


class Collecting:
    """A connection that keeps what it is handed."""

    _reader = object()

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def _handle_frame(self, frame: bytes) -> None:
        self.frames.append(frame)


@given(st.data())
def test_any_responses_in_any_pieces_are_handed_on_whole(data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.binary(max_size=20), min_size=1, max_size=6))
    sent = b"".join(struct.pack(">i", len(body)) + body for body in bodies)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)))) | {0, len(sent)})
    connection = Collecting()
    loop = asyncio.new_event_loop()
    try:
        protocol = conn.AIOKafkaProtocol(loop.create_future(), asyncio.StreamReader(loop=loop), loop=loop)
        protocol.frames_to(connection)
        for start, end in pairwise(cuts):
            protocol.data_received(sent[start:end])
    finally:
        loop.close()
    assert connection.frames == bodies


async def test_a_response_of_negative_size_ends_the_connection() -> None:
    async with connected() as (connection, numbers, writer):
        beat = heartbeat(connection)
        await numbers.get()
        writer.write(struct.pack(">i", -4))
        with pytest.raises(KafkaConnectionError):
            await beat


async def test_a_request_without_a_response_ends_and_the_one_after_it_too() -> None:
    async with connected(timeout_ms=500) as (connection, _, _):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await heartbeat(connection)


async def test_the_end_of_the_connection_ends_its_requests() -> None:
    async with connected() as (connection, numbers, writer):
        beat = heartbeat(connection)
        await numbers.get()
        writer.close()
        with pytest.raises(KafkaConnectionError):
            await beat
        assert not connection.connected()


async def test_a_response_that_cannot_be_read_ends_the_connection() -> None:
    async with connected() as (connection, numbers, writer):
        beat = heartbeat(connection)
        number = await numbers.get()
        writer.write(struct.pack(">ii", 4, number))
        with pytest.raises(KafkaConnectionError):
            await beat


async def test_a_cancelled_request_leaves_the_connection_as_it_is() -> None:
    async with connected() as (connection, numbers, writer):
        cancelled = heartbeat(connection)
        number = await numbers.get()
        cancelled.cancel()
        beat = heartbeat(connection)
        writer.write(frame(number) + frame(await numbers.get(), 27))
        assert (await beat).error_code == 27


class Pulse(BrokerPulse):
    """The pulse of a process whose clock is moved by hand."""

    def __init__(self) -> None:
        self.at_s = 100.0
        super().__init__(lambda: self.at_s)


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Pulse:
    replaced = Pulse()
    monkeypatch.setattr(broker_connection, "PULSE", replaced)
    return replaced


async def test_a_broker_that_sends_nothing_for_ten_seconds_after_a_request_does_not_answer(pulse: Pulse) -> None:
    """Frozen, it keeps connections and takes new ones: `/readyz` of every process said that all was well."""
    async with connected() as (connection, numbers, writer):
        pulse.at_s += 3_600
        assert pulse.answers, "nobody asked"
        first, second = heartbeat(connection), heartbeat(connection)
        number = await numbers.get()
        pulse.at_s += 9.9
        assert pulse.answers
        pulse.at_s += 0.2
        assert not pulse.answers
        writer.write(frame(number))
        await first
        assert pulse.answers
        second.cancel()


async def test_a_broker_that_takes_no_connection_does_not_answer_until_one_does(pulse: Pulse) -> None:
    async with broker() as (port, _, _):
        pass
    with pytest.raises(OSError, match="Connect call failed"):
        await create_conn("127.0.0.1", port)
    pulse.at_s += 5
    with pytest.raises(OSError, match="Connect call failed"):
        await create_conn("127.0.0.1", port)
    pulse.at_s += 5
    assert not pulse.answers
    async with connected():
        assert pulse.answers


# The source of aiokafka 0.14.0 whose methods are replaced: look at what changed, then correct the digest.
DIGEST = "ac26ab36fe7cd5b4"


def test_aiokafkas_connection_is_the_one_whose_methods_are_replaced() -> None:
    source = inspect.getsource(AIOKafkaConnection)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == DIGEST
