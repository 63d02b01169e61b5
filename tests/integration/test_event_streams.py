"""Event streams of a real API: what a client reads, who may read it, when a stream ends, and how many hold at once."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2 import ALL_AS_BYTES, encode_response
from inferlane.runtime.api_keys import Scope
from producer_api.main import serve
from tests.support.parts import eventually, free_port, frozen
from tests.support.running_api import CALL, RunningApi, running_api, serving

pytestmark = pytest.mark.timeout(300)

LIMIT_S = 60.0
STREAMS = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: Any
    id: str | None = None


class EventReader:
    """A client that knows HTTP/1.1 and the event stream format, and nothing of ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}

    @classmethod
    async def open(cls, api: RunningApi, path: str, *, method: str = "GET", **headers: str) -> "EventReader":
        opened = cls(*await asyncio.open_connection("127.0.0.1", api.settings.api.port))
        await opened.ask(path, method=method, **headers)
        return opened

    async def ask(self, path: str, *, method: str = "GET", **headers: str) -> None:
        """Send a call on the connection and read the head of its answer."""
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(LIMIT_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)

    async def chunk(self) -> bytes:
        """The next chunk of the body; empty at its end."""
        async with asyncio.timeout(LIMIT_S):
            size = int(await self._reader.readline(), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def event(self) -> Event | None:
        """The next event, past all comments; None when the stream has ended."""
        while (chunk := await self.chunk()).startswith(b":"):
            pass
        if not chunk:
            return None
        assert chunk.endswith(b"\n\n")
        fields = dict(line.split(": ", 1) for line in chunk.decode().strip().split("\n"))
        return Event(fields["event"], json.loads(fields["data"]), fields.get("id"))

    async def whole(self) -> bytes:
        """The body of an answer that says its length."""
        async with asyncio.timeout(LIMIT_S):
            return await self._reader.readexactly(int(self.headers["content-length"]))

    async def body(self) -> Any:
        return json.loads(await self.whole())

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def submit(api: RunningApi, *, key: str | None = None, deadline_s: float = 300) -> str:
    status, body = await api.call(
        "POST", "/v1/models/predict", {**CALL, "deadline_s": deadline_s}, key=key, Prefer="respond-async"
    )
    assert status == 202, body
    return str(body["request_id"])


def result_of(request_id: str, *, label: int = 1, caller: str = "") -> Result:
    outputs = {"label": np.array([label], np.int64)}
    content, length = encode_response(outputs, model="tiny", version="v1", request_id=request_id, form=ALL_AS_BYTES)
    return Result(
        request_id=request_id,
        status=Status.SUCCEEDED,
        model="tiny",
        version="v1",
        rows=1,
        content=content,
        json_length=length,
        finished_s=time.time(),
        caller=caller,
    )


def events_of(request_id: str) -> str:
    return f"/v1/predictions/{request_id}/events"


async def shows_waiting(api: RunningApi, count: int) -> None:
    """Return once the metrics show so many waiting calls: they are those of a moment ago where they were just read."""

    async def does() -> bool:
        async with api.session.get(f"{api.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        shown = next(line for line in lines if line.startswith("inferlane_api_waiting_requests "))
        return int(float(shown.split()[1])) == count

    await eventually(does)


async def test_a_stream_tells_queued_then_the_result_then_ends(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        request_id = await submit(api)
        queued_body = (await api.call("GET", f"/v1/predictions/{request_id}"))[1]
        stream = await EventReader.open(api, events_of(request_id))
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert await stream.event() == Event("queued", queued_body)
        await api.store.put([result_of(request_id)])
        ended = await stream.event()
        result_body = (await api.call("GET", f"/v1/predictions/{request_id}"))[1]
        assert ended is not None
        assert (ended.name, ended.data) == ("result", result_body)
        assert ended.data["predictions"][0] == 1
        assert ended.id
        assert await stream.event() is None

        # A client that lost the connection before the result gets it at once; one that has it is told to stay away.
        again = await EventReader.open(api, events_of(request_id), Last_Event_ID="of another event")
        assert [await again.event(), await again.event()] == [ended, None]
        told = await EventReader.open(api, events_of(request_id), Last_Event_ID=ended.id)
        assert told.status == 204
        for opened in (stream, again, told):
            await opened.close()


async def test_another_replica_streams_a_request_that_it_did_not_accept(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        request_id = await submit(api)
        settings = api.settings.changed(api_port=free_port(), ops_port=free_port())
        other, stop = replace(api, settings=settings), asyncio.Event()
        async with serving(settings.api.port, stop, serve(settings, stop)):
            stream = await EventReader.open(other, events_of(request_id))
            queued = await stream.event()
            await api.store.put([result_of(request_id)])
            ended = await stream.event()
            assert queued is not None
            assert ended is not None
            assert (queued.name, ended.name, ended.data["predictions"]) == ("queued", "result", [1])
            await stream.close()


async def test_a_stream_ends_expired_at_the_deadline(tmp_path: Path) -> None:
    """Guards the deadline in `EventStreams._wait`: without it a request that no worker reaches streams for ever."""
    async with running_api(tmp_path) as api:
        stream = await EventReader.open(api, events_of(await submit(api, deadline_s=1)))
        queued, ended = await stream.event(), await stream.event()
        assert queued is not None
        assert ended is not None
        assert (queued.name, ended.name, ended.data["status"]) == ("queued", "result", "EXPIRED")
        assert await stream.event() is None
        await stream.close()


async def test_unknown_ids_and_requests_of_other_keys_are_404_before_the_stream(tmp_path: Path) -> None:
    scopes = {"a": Scope.PREDICT, "b": Scope.PREDICT, "ops": Scope.ALL_REQUESTS}
    async with running_api(tmp_path, scopes=scopes) as api, AsyncExitStack() as stack:

        async def opened(request_id: str, key: str | None) -> EventReader:
            headers = {} if key is None else {"authorization": f"Bearer {api.keys[key]}"}
            stream = await EventReader.open(api, events_of(request_id), **headers)
            stack.push_async_callback(stream.close)
            return stream

        request_id = await submit(api, key="a")
        for asked, key, status in ((request_id, "b", 404), ("never-seen", "a", 404), (request_id, None, 401)):
            refused = await opened(asked, key)
            assert refused.status == status
            assert refused.headers["content-type"] == "application/problem+json"
            assert (await refused.body())["status"] == status
        streams = [await opened(request_id, "a"), await opened(request_id, "ops")]
        assert [stream.status for stream in streams] == [200, 200]
        await api.store.put([result_of(request_id, caller="a")])
        for stream in streams:
            names = [event.name for event in (await stream.event(), await stream.event()) if event is not None]
            assert names == ["queued", "result"]


async def test_a_stream_that_the_store_is_late_for_ends_without_events_and_can_be_opened_again(tmp_path: Path) -> None:
    """It was a 503, after which a browser's EventSource does not come back (HTML Standard, 9.2.2)."""
    async with running_api(tmp_path) as api:
        request_id = await submit(api)
        with frozen([api.pids["store"]]):
            stream = await EventReader.open(api, events_of(request_id))
            assert stream.status == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            reason, retry, *rest = (await stream.whole()).decode().split("\n")
        assert reason.startswith(
            ": the result store did not answer within the 1.0 s of this call; open the stream again"
        )
        assert (retry, rest) == ("retry: 3000", ["", ""])
        await stream.ask(events_of(request_id))
        queued = await stream.event()
        assert queued is not None
        assert queued.name == "queued"
        await stream.close()


async def test_a_drain_ends_every_stream_in_good_order(tmp_path: Path) -> None:
    """Guards `EventStreams.drain`: without it a stream holds the process up and is cut off in the middle."""
    async with running_api(tmp_path, drain_deadline_s=LIMIT_S) as api:
        stream = await EventReader.open(api, events_of(await submit(api)))
        queued = await stream.event()
        assert queued is not None
        api.stop.set()
        assert await stream.event() is None
        await stream.close()


async def test_a_client_that_leaves_gives_its_place_back_and_streams_count_as_waiting_calls(tmp_path: Path) -> None:
    """Guards `_early_end`: without it a stream whose client has gone holds a waiter until the deadline."""
    async with running_api(tmp_path, max_waiting_requests=5) as api:
        request_id = await submit(api)
        streams = [await EventReader.open(api, events_of(request_id)) for _ in range(4)]
        assert [stream.status for stream in streams] == [200] * 4
        refused = await EventReader.open(api, events_of(request_id))
        assert refused.status == 503
        assert (await refused.body())["code"] == "overloaded"
        for stream in (*streams, refused):
            await stream.close()

        await shows_waiting(api, 0)
        stream = await EventReader.open(api, events_of(request_id))
        assert stream.status == 200
        await stream.close()


async def test_head_and_options_of_a_stream_are_answered_at_once(tmp_path: Path) -> None:
    """Guards `IS_HEAD`: a HEAD that is served as a GET is answered only when the request ends."""
    async with running_api(tmp_path) as api:
        request_id = await submit(api)
        client = await EventReader.open(api, events_of(request_id), method="HEAD")
        assert client.status == 200
        assert client.headers["content-type"].startswith("text/event-stream")
        # On the same connection: it is answered once the answer before it is complete.
        await client.ask(events_of(request_id), method="OPTIONS")
        assert client.headers["allow"] == "get, head, options"
        await shows_waiting(api, 0)
        await client.close()


async def test_a_thousand_streams_hold_on_one_process(tmp_path: Path) -> None:
    # All of them open at once beside their clients, in one process: on a busy machine that takes seconds.
    async with running_api(tmp_path, default_wait_s=LIMIT_S) as api:
        requests = [await submit(api) for _ in range(STREAMS)]
        streams = await asyncio.gather(*(EventReader.open(api, events_of(request_id)) for request_id in requests))
        refused = [await stream.body() for stream in streams if stream.status != 200]
        assert not refused
        queued = await asyncio.gather(*(stream.event() for stream in streams))
        assert [event.data["request_id"] for event in queued if event is not None] == requests
        await shows_waiting(api, STREAMS)
        await api.store.put([result_of(request_id, label=n % 3) for n, request_id in enumerate(requests)])
        results = await asyncio.gather(*(stream.event() for stream in streams))
        for n, (event, request_id) in enumerate(zip(results, requests, strict=True)):
            assert event is not None
            assert (event.data["request_id"], event.data["predictions"][0]) == (request_id, n % 3)
        assert await asyncio.gather(*(stream.event() for stream in streams)) == [None] * STREAMS
        await shows_waiting(api, 0)
        for stream in streams:
            await stream.close()
