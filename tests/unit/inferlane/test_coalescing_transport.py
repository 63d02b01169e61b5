"""A head and its body go out in one write, nothing is held for long, and no end of a connection waits for ever."""

import asyncio
from collections.abc import Callable

import pytest

from inferlane.runtime.http.connection_limits import CoalescingTransport

LIMIT_S = 60.0
SHORT_S = 0.01
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class FakeTransport:
    def __init__(self, *, unwritten_bytes: int = 0) -> None:
        self.written: list[bytes] = []
        self.unwritten_bytes = unwritten_bytes
        self.is_closed = False
        self.is_half_closed = False
        self.aborted = asyncio.Event()
        self.asked = asyncio.Event()

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.aborted.set()

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_half_closed = True

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        self.asked.set()
        return self.unwritten_bytes


def outgoing(inner: FakeTransport, *, write_timeout_s: float = 60.0) -> CoalescingTransport:
    return CoalescingTransport(inner, asyncio.get_running_loop(), write_timeout_s=write_timeout_s)


async def test_a_head_waits_for_its_body() -> None:
    inner = FakeTransport()
    transport = outgoing(inner)
    transport.write(HEAD)
    assert inner.written == []
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)
    assert inner.written == [HEAD + b"body", b"more"]


async def test_a_head_whose_body_does_not_come_goes_out_after_a_turn() -> None:
    inner = FakeTransport()
    outgoing(inner).write(HEAD)
    await asyncio.sleep(0)
    assert inner.written == [HEAD]


async def test_closing_writes_what_is_held_first() -> None:
    inner = FakeTransport()
    transport = outgoing(inner)
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)
    assert inner.written == [HEAD]
    assert transport.is_closing()


async def test_what_is_held_is_not_written_to_a_connection_that_is_gone() -> None:
    """Guards `forget`: uvloop raises on a write to a closed transport, which would be an error in the log."""
    inner = FakeTransport()
    transport = outgoing(inner)
    transport.write(HEAD)
    inner.is_closed = True
    transport.forget()
    await asyncio.sleep(0)
    assert inner.written == []


async def test_a_client_can_read_the_last_answer_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferlane.runtime.http.connection_limits._LINGER_S", SHORT_S)
    inner = FakeTransport()
    transport = outgoing(inner)
    transport.close()
    assert inner.is_half_closed
    assert not inner.is_closed
    async with asyncio.timeout(LIMIT_S):
        await inner.aborted.wait()


async def test_an_answer_that_is_being_read_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferlane.runtime.http.connection_limits._LINGER_S", SHORT_S)
    inner = FakeTransport(unwritten_bytes=1)
    outgoing(inner).close()
    for _ in range(3):
        inner.asked.clear()
        async with asyncio.timeout(LIMIT_S):
            await inner.asked.wait()
        assert not inner.aborted.is_set()


@pytest.mark.parametrize("end", [CoalescingTransport.close, CoalescingTransport.close_idle])
async def test_a_connection_whose_client_does_not_read_is_cut(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[CoalescingTransport], None]
) -> None:
    monkeypatch.setattr("inferlane.runtime.http.connection_limits._LINGER_S", SHORT_S)
    inner = FakeTransport(unwritten_bytes=1)
    end(outgoing(inner, write_timeout_s=SHORT_S))
    async with asyncio.timeout(LIMIT_S):
        await inner.aborted.wait()
