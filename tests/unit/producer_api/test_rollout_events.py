"""The event stream of a rollout: HEAD gets its head alone, and a client that leaves ends it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from inferlane.contracts.rollout import Phase, RolloutSpec, RolloutState, Step
from inferlane.errors import OverloadedError
from inferlane.runtime.config import load_settings
from producer_api.http.asgi import HeadAndOptions
from producer_api.predict import event_streams
from producer_api.predict.event_streams import EventStreams
from producer_api.routes import rollouts

UNDER_WAY = RolloutState(
    id="r",
    spec=RolloutSpec(model="iris", candidate="v2", stable="v1", steps=(Step(weight=0.1),)),
    phase=Phase.STEPPING,
)


class Rollouts:
    """One rollout, which does not change."""

    def find(self, _rollout: str) -> RolloutState:
        return UNDER_WAY

    get = find

    async def changed(self, *, timeout_s: float) -> None:
        await asyncio.sleep(min(timeout_s, 0.01))


def make_streams() -> EventStreams:
    return EventStreams(load_settings().api, waits=None, responses=None, clock=None)  # type: ignore[arg-type]  # of requests


async def ask(
    method: str, leaves: asyncio.Event, sent: "asyncio.Queue[dict[str, Any]]", *, streams: EventStreams | None = None
) -> None:
    streams = streams or make_streams()
    app = FastAPI()
    app.include_router(rollouts.router)
    app.state.services = SimpleNamespace(rollouts=Rollouts(), streams=streams)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "path": "/v1/rollouts/r/events",
        "raw_path": b"",
        "query_string": b"",
        "headers": [],
        "method": method,
    }
    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await leaves.wait()
        return {"type": "http.disconnect"}

    await HeadAndOptions(app, app.router.routes)(scope, receive, sent.put)


async def test_head_ends_while_the_rollout_goes_on() -> None:
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with asyncio.timeout(20):
        await ask("HEAD", asyncio.Event(), sent)
    start, end = sent.get_nowait(), sent.get_nowait()
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (200, b"text/event-stream; charset=utf-8")
    assert (end["body"], end.get("more_body", False)) == (b"", False)


async def test_a_client_that_leaves_ends_the_stream() -> None:
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    leaves = asyncio.Event()
    async with asyncio.timeout(20):
        serving = asyncio.create_task(ask("GET", leaves, sent))
        assert (await sent.get())["type"] == "http.response.start"
        assert (await sent.get())["body"].startswith(b"id: 0\nevent: rollout\ndata: {")
        leaves.set()
        await serving


async def test_streams_have_a_limit_and_one_that_ends_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "_MOST_FOLLOWERS", 1)
    streams, leaves = make_streams(), asyncio.Event()
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with asyncio.timeout(20):
        first = asyncio.create_task(ask("GET", leaves, sent, streams=streams))
        await sent.get()
        with pytest.raises(OverloadedError, match="1 streams of rollouts"):
            await ask("GET", leaves, asyncio.Queue(), streams=streams)
        leaves.set()
        await first
        await ask("GET", leaves, sent, streams=streams)
