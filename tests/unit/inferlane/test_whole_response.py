"""A response that is written at once is the one that uvicorn writes, and ends the exchange as uvicorn's does."""

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from inferlane.runtime.http.whole_response import WholeResponseCycle
from producer_api.http.asgi import PlainResponse

JSON = b"application/json"


class RecordingTransport:
    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Ended:
    """A cycle with what it wrote to, and how often it said that it is over."""

    def __init__(self, *, method: str = "POST", keep_alive: bool = True, access_log: bool = False) -> None:
        self.transport: Any = RecordingTransport()
        self.times = 0
        self.cycle = WholeResponseCycle(
            scope={
                "type": "http",
                "method": method,
                "path": "/",
                "query_string": b"",
                "http_version": "1.1",
                "client": None,
            },  # type: ignore[typeddict-item]  # what is read
            transport=self.transport,
            flow=FlowControl(self.transport),
            logger=logging.getLogger("test"),
            access_logger=logging.getLogger("test"),
            access_log=access_log,
            default_headers=[(b"date", b"now"), (b"server", b"uvicorn")],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self.note,
        )

    def note(self) -> None:
        self.times += 1

    def state(self) -> tuple[Any, ...]:
        cycle = self.cycle
        is_over = cycle.response_started, cycle.response_complete, cycle.message_event.is_set()
        return self.transport.written, self.transport.is_closed, self.times, is_over


async def by_messages(ended: Ended, response: PlainResponse) -> None:
    """As `PlainResponse.send` without a short way: a function hides whose method it is."""

    async def send(message: Any) -> None:
        await ended.cycle.send(message)

    await response.send(send)


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("status", [200, 202, 400, 503])
@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 100_000, b"\r\n\r\n"])
async def test_the_bytes_and_the_end_are_those_of_uvicorn(status: int, body: bytes, keep_alive: bool) -> None:
    response = PlainResponse(status, body, JSON)
    ours, theirs = Ended(keep_alive=keep_alive), Ended(keep_alive=keep_alive)
    await response.send(ours.cycle.send)
    await by_messages(theirs, response)
    assert ours.state() == theirs.state()
    assert ours.transport.writes == 1


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (lambda: Ended(method="HEAD"), 200),
        (lambda: Ended(access_log=True), 200),
        (Ended, 204),
    ],
    ids=["head", "access log", "no content"],
)
async def test_what_is_not_an_ordinary_response_is_left_to_uvicorn(ended: Any, status: int) -> None:
    body = b"" if status == 204 else b"{}"
    found = ended()
    assert not found.cycle.send_whole(status, JSON, body)
    assert found.transport.writes == 0
    await PlainResponse(status, body, JSON).send(found.cycle.send)
    assert found.times == 1


async def test_nothing_is_written_to_a_client_that_has_gone() -> None:
    ended = Ended()
    ended.cycle.disconnected = True
    await PlainResponse(200, b"{}", JSON).send(ended.cycle.send)
    assert ended.transport.writes == 0


async def test_a_client_that_does_not_read_is_waited_for() -> None:
    ended = Ended()
    ended.cycle.flow.pause_writing()
    sending = asyncio.create_task(PlainResponse(200, b"{}", JSON).send(ended.cycle.send))
    await asyncio.sleep(0)
    assert not sending.done()
    ended.cycle.flow.resume_writing()
    await sending
    assert ended.times == 1


async def test_more_headers_go_with_the_response() -> None:
    ended = Ended()
    await PlainResponse(202, b"{}", JSON, ((b"retry-after", b"1"),)).send(ended.cycle.send)
    assert b"\r\nretry-after: 1\r\n" in ended.transport.written
