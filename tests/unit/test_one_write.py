"""A head and its body go out in one write, and nothing is held for longer than a turn of the loop."""

import asyncio

from producer_api.one_write import OneWrite

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class FakeTransport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


async def test_a_head_waits_for_its_body() -> None:
    inner = FakeTransport()
    transport = OneWrite(inner, asyncio.get_running_loop())
    transport.write(HEAD)
    assert inner.written == []
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)
    assert inner.written == [HEAD + b"body", b"more"]


async def test_a_head_whose_body_does_not_come_goes_out_after_a_turn() -> None:
    inner = FakeTransport()
    OneWrite(inner, asyncio.get_running_loop()).write(HEAD)
    await asyncio.sleep(0)
    assert inner.written == [HEAD]


async def test_closing_writes_what_is_held_first() -> None:
    inner = FakeTransport()
    transport = OneWrite(inner, asyncio.get_running_loop())
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)
    assert inner.written == [HEAD]
    assert transport.is_closing()


async def test_what_is_held_is_not_written_to_a_connection_that_is_gone() -> None:
    """Guards `forget`: uvloop raises on a write to a closed transport, which would be an error in the log."""
    inner = FakeTransport()
    transport = OneWrite(inner, asyncio.get_running_loop())
    transport.write(HEAD)
    inner.is_closed = True
    transport.forget()
    await asyncio.sleep(0)
    assert inner.written == []
