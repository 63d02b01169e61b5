"""What calls over gRPC may hold before they have sent a message, and without a key; on a port that serves no model."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from inferlane.runtime.api_keys import Scope, create_key
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.service import Startup
from producer_api.grpc_server import call_limits
from producer_api.grpc_server.grpc_port import GrpcPort
from producer_api.grpc_server.protocol_messages import SERVICE
from producer_api.http.auth import KeyRing
from tests.support.grpc_calls import Calls, calling, ended, infer_request
from tests.support.parts import eventually

LIVE, CHECK, WATCH = f"/{SERVICE}/ServerLive", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LONG_S = 60.0


@asynccontextmanager
async def listening(tmp_path: Path, **overrides: Any) -> AsyncIterator[tuple[GrpcPort, int, str]]:
    """A port that asks for a key but serves nothing yet; its number, and the key."""
    key = create_key(tmp_path / "keys.toml", name="shop", scopes=[Scope.PREDICT])
    keys = KeyRing(tmp_path / "keys.toml", clock=SystemClock())
    settings = load_settings(**{"max_waiting_requests": 1, "grpc_port": 0, "drain_deadline_s": LONG_S, **overrides})
    port = GrpcPort(settings.api, settings.ports, settings.kafka, startup=Startup(asyncio.Event()), keys=keys)
    async with asyncio.timeout(LONG_S):
        bound = await port.start()
        try:
            yield port, bound, key
        finally:
            await port.close()


async def unread(calls: Calls, paths: Sequence[str], **metadata: str) -> list[Any]:
    """Begin calls that send no message."""
    begun = [calls.channel.stream_unary(path)(metadata=tuple(metadata.items())) for path in paths]
    # Some may have ended already.
    await asyncio.gather(*(call.wait_for_connection() for call in begun), return_exceptions=True)
    return begun


async def code_of(call: Any) -> Any:
    return (await ended(call)).code


async def is_let_in(port: int, key: str) -> bool:
    """Whether a call with a key and a probe without one are served as on an idle port."""
    async with calling(port, key=key, has_own_connection=True) as calls:
        refused = await calls.refused(infer_request())
        health = health_pb2.HealthCheckResponse.FromString(await calls.start(CHECK, b""))
    return "does not serve yet" in refused.message and health.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_calls_without_a_key_that_hold_back_their_message_keep_nobody_out(tmp_path: Path) -> None:
    async with listening(tmp_path) as (_, port, key), calling(port, has_own_connection=True) as stranger:
        begun = await unread(stranger, [LIVE, CHECK] * 550)

        def open_calls() -> int:
            return sum(not call.done() for call in begun)

        async def are_bounded() -> bool:
            return open_calls() <= call_limits.MAX_UNREAD_CALLS

        await eventually(are_bounded)
        assert await is_let_in(port, key)
        # The probe was one more, and no other had to end.
        assert open_calls() >= call_limits.MAX_UNREAD_CALLS - 1
        assert {await code_of(call) for call in begun if call.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_watches_of_one_connection_and_of_all_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_limits, "MAX_STREAMS_OF_CONNECTION", 2)
    monkeypatch.setattr(call_limits, "MAX_OPEN_STREAMS", 3)
    async with listening(tmp_path) as (_, port, key), AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(calling(port, has_own_connection=True)) for _ in range(2)]

        async def watches(calls: Calls) -> list[Any]:
            begun = [calls.channel.unary_stream(WATCH)(b"") for _ in range(3)]
            answers = await asyncio.gather(*(call.read() for call in begun), return_exceptions=True)
            return [call for call, answer in zip(begun, answers, strict=True) if isinstance(answer, bytes)]

        assert [len(await watches(calls)) for calls in (first, second)] == [2, 1]
        assert await is_let_in(port, key)
        await first.channel.close()

        async def is_free() -> bool:
            return len(await watches(second)) == 1

        await eventually(is_free)


@pytest.mark.parametrize("path", [LIVE, CHECK, WATCH, REFLECTION])
async def test_a_message_has_a_time_limit(tmp_path: Path, path: str) -> None:
    async with listening(tmp_path, body_timeout_s=0.2) as (_, port, _), calling(port) as calls:
        (call,) = await unread(calls, [path])
        late = await ended(call)
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "within 0.2 s (INFERLANE_BODY_TIMEOUT_S)" in late.message


async def test_a_call_that_ends_without_a_message_is_told(tmp_path: Path) -> None:
    async with listening(tmp_path) as (_, port, _), calling(port) as calls:
        call = calls.channel.stream_unary(LIVE)()
        await call.done_writing()
        assert await code_of(call) is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_without_a_message_do_not_hold_up_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards `self._limits.drain()` in `GrpcPort.drain`; fails when the drain waits for its deadline."""
    monkeypatch.setattr(call_limits, "_LAST_MESSAGE_S", 0.1)
    async with listening(tmp_path, drain_deadline_s=10 * LONG_S) as (gate, port, _), calling(port) as calls:
        begun = await unread(calls, [LIVE, CHECK, WATCH, REFLECTION])

        async def have_come() -> bool:
            return len(gate._limits._unread) == len(begun)

        await eventually(have_come)
        await gate.close()
        codes = {(await ended(call)).code for call in begun}
        assert codes == {grpc.StatusCode.UNAVAILABLE}
