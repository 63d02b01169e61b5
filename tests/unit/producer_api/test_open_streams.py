"""Event streams without a server: comments while nothing comes, a store that is away, and a process that drains."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from inferlane.contracts.results import Accepted, Result, Status
from inferlane.runtime.config import load_settings
from producer_api.predict.endpoint import ResponseBuilder
from producer_api.predict.event_streams import EventStreams
from producer_api.predict.pending import PendingRequests
from producer_api.predict.result_waits import ResultWaits
from tests.support.fakes.one_request import LoopClock, OneRequestStore

LIMIT_S = 20.0
CANCELLED = Result(
    request_id="id", status=Status.FAILED, model="iris", version="v1", error_code="cancelled", error_detail="gone"
)


class Client:
    """Reads what the app sends, and stays connected."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        return await asyncio.Future()

    async def send(self, message: dict[str, Any]) -> None:
        self._sent.put_nowait(message)
        await asyncio.sleep(0)

    async def next(self) -> bytes:
        """The next part of the body; empty at its end."""
        async with asyncio.timeout(LIMIT_S):
            while (message := await self._sent.get())["type"] == "http.response.start":
                assert message["status"] == 200
        part: bytes = message["body"]
        assert bool(part) == message.get("more_body", False)
        return part


class Scene:
    def __init__(self, *, left_s: float, keep_alive_s: float = LIMIT_S) -> None:
        self.clock = LoopClock()
        now_s = self.clock.now_s()
        self.accepted = Accepted(model="iris", version=None, accepted_s=now_s, deadline_s=now_s + left_s)
        self.store = OneRequestStore(self.accepted)
        self.pending = PendingRequests(self.store, None, instance="api", max_waiters=5)  # type: ignore[arg-type]  # as far as it is used
        self.streams = EventStreams(
            load_settings().api,
            waits=ResultWaits(self.pending, clock=self.clock, slots=5),
            responses=ResponseBuilder(SimpleNamespace(class_names=lambda *_: {})),  # type: ignore[arg-type]  # as far as it is used
            clock=self.clock,
            keep_alive_s=keep_alive_s,
        )
        self.client = Client()

    def open(self) -> "asyncio.Task[None]":
        response = self.streams.response("id", self.accepted, key="id")
        return asyncio.create_task(response({"type": "http"}, self.client.receive, self.client.send))


async def test_a_stream_that_waits_sends_comments_and_then_the_result() -> None:
    """Guards the keep-alive: a proxy closes a connection that is silent for a minute."""
    scene = Scene(left_s=3_600, keep_alive_s=0.01)
    serving = scene.open()
    assert (await scene.client.next()).startswith(b"event: queued\ndata: {")
    assert [await scene.client.next() for _ in range(3)] == [b": keep-alive\n\n"] * 3
    scene.pending._settle([CANCELLED])
    while (part := await scene.client.next()) == b": keep-alive\n\n":
        pass
    assert part.startswith(b"id: 1-0.000000\nevent: result\ndata: {")
    assert await scene.client.next() == b""
    await serving


async def test_a_store_that_is_away_at_the_deadline_is_asked_again() -> None:
    """Guards `EventStreams._read`: a store that restarts would cut the stream off with a broken response."""
    scene = Scene(left_s=0)
    scene.store.is_away = True
    serving = scene.open()
    assert (await scene.client.next()).startswith(b"event: queued\n")
    assert await scene.client.next() == b": keep-alive\n\n"
    scene.store.is_away = False
    while (part := await scene.client.next()) == b": keep-alive\n\n":
        pass
    assert b'"status":"EXPIRED"' in part
    await serving


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_process_that_drains_ends_its_streams(*, is_open: bool) -> None:
    """Guards `EventStreams.drain` for streams that are open and for those that come later."""
    scene = Scene(left_s=3_600)
    if is_open:
        serving = scene.open()
        assert (await scene.client.next()).startswith(b"event: queued\n")
        scene.streams.drain()
    else:
        scene.streams.drain()
        serving = scene.open()
        assert (await scene.client.next()).startswith(b"event: queued\n")
    assert await scene.client.next() == b""
    await serving
    assert not scene.pending._waiters
