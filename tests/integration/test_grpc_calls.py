"""The gRPC port of a real API over a real broker and store: answers, statuses, deadlines, cancellation, drain."""

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from inferlane.contracts.results import CANCELLED, EXPIRED
from inferlane.runtime.api_keys import Scope
from inferlane.runtime.redis.cancellations import CancelledRequests
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.retry import SystemClock
from producer_api.grpc_server.protocol_messages import SERVICE, ServerReadyResponse
from tests.support.certificates import certificate_settings, write_certificates
from tests.support.echo_answers import echoing
from tests.support.grpc_calls import Calls, calling, ended, infer_request
from tests.support.parts import eventually, free_port
from tests.support.running_api import RunningApi, running_api

pytestmark = pytest.mark.timeout(300)

HEALTH = "grpc.health.v1.Health"


@asynccontextmanager
async def grpc_api(tmp_path: Path, **overrides: Any) -> AsyncIterator[tuple[RunningApi, Calls]]:
    port = free_port()
    async with running_api(tmp_path, grpc_port=port, **overrides) as api:
        key = next(iter(api.keys.values()), None)
        async with calling(port, key=key) as calls:
            yield api, calls


@asynccontextmanager
async def cancelled_in_queue(api: RunningApi) -> AsyncIterator[CancelledRequests]:
    """What a worker knows of cancellations."""
    async with connect(api.settings.store.redis_url) as redis:
        cancelled = CancelledRequests(redis, clock=SystemClock(), names=api.settings.stack.names)
        cancelled.start()
        try:
            yield cancelled
        finally:
            await cancelled.close()


async def one_cancelled(api: RunningApi, cancelled: CancelledRequests) -> None:
    """Return when one request is cancelled in the queue and has its terminal result."""

    async def is_cancelled() -> bool:
        return len(cancelled._until_s) == 1

    await eventually(is_cancelled)
    (request_id,) = cancelled._until_s
    (result,) = await api.store.get([request_id])
    assert result is not None
    assert result.error_code == "cancelled"


async def waiting_calls(api: RunningApi) -> int:
    async with api.session.get(f"{api.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    values = [line.split()[-1] for line in lines if line.startswith("inferlane_api_waiting_requests ")]
    return int(float(values[0]))


async def test_values_come_back_as_they_were_sent(tmp_path: Path) -> None:
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    async with grpc_api(tmp_path) as (api, calls), echoing(api):
        raw = await calls.infer(infer_request(rows, timeout_s=60))
        assert (raw.model_name, raw.model_version) == ("tiny", "v1")
        assert raw.raw_output_contents == [rows.tobytes()]
        assert not raw.outputs[0].HasField("contents")
        listed = await calls.infer(infer_request(rows, raw=False, timeout_s=60))
        assert list(listed.outputs[0].contents.fp32_contents) == rows.ravel().tolist()
        assert not listed.raw_output_contents
        asked = await calls.infer(infer_request(rows, raw=False, timeout_s=60, binary_data_output=True))
        assert asked.raw_output_contents == [rows.tobytes()]
        # The id of the response is that of the result.
        status, body = await api.call("GET", f"/v1/predictions/{raw.id}")
        assert (status, body["status"]) == (200, "SUCCEEDED")


async def test_refusals_have_their_code_reason_and_when_to_come_back(tmp_path: Path) -> None:
    async with grpc_api(tmp_path, max_rows=2) as (_, calls):
        unknown = await calls.refused(infer_request(model="rose"))
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
        assert unknown.retry_s is None
        wide = await calls.refused(infer_request(np.zeros((3, 3), np.float32)))
        assert (wide.code, wide.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")
        for message in (infer_request(priority=3), infer_request(unknown="x"), b"\xff"):
            refused = await calls.refused(message)
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE")
        not_there = await calls.refused(b"", method="ModelTrain")
        assert not_there.code is grpc.StatusCode.UNIMPLEMENTED
    async with grpc_api(tmp_path / "full", max_waiting_requests=1) as (api, calls):
        waiting = calls.start("ModelInfer", infer_request(timeout_s=30).SerializeToString())

        async def waits() -> bool:
            return await waiting_calls(api) == 1

        await eventually(waits)
        full = await calls.refused(infer_request())
        assert (full.code, full.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        assert full.retry_s == int(full.trailers["retry-after"]) >= 1
        assert full.about["retryable"] == "true"
        waiting.cancel()


async def test_a_wait_that_runs_out_names_its_result_and_the_request_goes_on(tmp_path: Path) -> None:
    async with grpc_api(tmp_path) as (api, calls):
        queued = await calls.refused(infer_request(timeout_s=0.1), timeout_s=None)
        assert (queued.code, queued.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STILL_QUEUED")
        async with echoing(api):

            async def is_done() -> bool:
                return (await api.call("GET", queued.trailers["location"]))[1]["status"] == "SUCCEEDED"

            await eventually(is_done)


async def test_a_call_past_its_deadline_ends_in_the_queue_too(tmp_path: Path) -> None:
    async with grpc_api(tmp_path) as (api, calls), connect(api.settings.store.redis_url) as redis:
        late = await calls.refused(infer_request(), timeout_s=0.5)
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED

        async def kept() -> list[str]:
            prefix = api.settings.stack.names.store_key("result", "")
            return [key.decode().removeprefix(prefix) async for key in redis.scan_iter(f"{prefix}*")]

        async def has_ended() -> bool:
            return bool(await kept())

        await eventually(has_ended)
        (request_id,) = await kept()
        (result,) = await api.store.get([request_id.strip("{}")])
        assert result is not None
        # Whether the deadline or the client's going is noticed first, no worker computes it.
        assert result.error_code in {CANCELLED, EXPIRED}


async def test_a_call_that_its_client_cancels_is_cancelled_in_the_queue(tmp_path: Path) -> None:
    async with grpc_api(tmp_path) as (api, calls), cancelled_in_queue(api) as cancelled:
        call = calls.start("ModelInfer", infer_request(timeout_s=30).SerializeToString())

        async def waits() -> bool:
            return await waiting_calls(api) == 1

        await eventually(waits)
        call.cancel()
        await one_cancelled(api, cancelled)

        async def nobody_waits() -> bool:
            return await waiting_calls(api) == 0

        await eventually(nobody_waits)


async def test_a_cancelled_call_with_an_idempotency_key_may_be_asked_for_again(tmp_path: Path) -> None:
    async with grpc_api(tmp_path) as (api, calls):
        message = infer_request(timeout_s=30)
        call = calls.start("ModelInfer", message.SerializeToString(), idempotency_key="k-1")

        async def waits() -> bool:
            return await waiting_calls(api) == 1

        await eventually(waits)
        call.cancel()
        async with echoing(api):
            answer = await calls.infer(message, idempotency_key="k-1")
            assert (await calls.infer(message, idempotency_key="k-1")).id == answer.id
            other = await calls.refused(infer_request(np.zeros((1, 3), np.float32)), idempotency_key="k-1")
            assert (other.code, other.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED")


async def test_the_request_expires_with_the_deadline_of_its_call(tmp_path: Path) -> None:
    """What a worker starts after it would be computed for nobody."""
    async with grpc_api(tmp_path) as (api, calls):
        call = calls.start("ModelInfer", infer_request(timeout_s=0.1).SerializeToString(), timeout_s=20)
        queued = await ended(call)
        accepted = await api.store.accepted(queued.about["request_id"])
        assert accepted is not None
        assert 0 < accepted.deadline_s - accepted.accepted_s <= 20


async def test_keys_are_asked_for_before_the_message_is_read(tmp_path: Path) -> None:
    port = free_port()
    async with running_api(tmp_path, grpc_port=port, scopes={"caller": Scope.PREDICT}) as api:
        async with calling(port) as stranger, calling(port, key="inferlane_wrong") as wrong:
            for calls in (stranger, wrong):
                for method in ("ModelInfer", "ModelMetadata", "ModelReady", "ServerMetadata"):
                    # Bytes that are no message: whoever read them would say so.
                    denied = await calls.refused(b"\xff", method=method)
                    assert (denied.code, denied.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED")
            assert await stranger.start("ServerLive", b"")
            assert ServerReadyResponse.FromString(await stranger.start("ServerReady", b"")).ready
        async with calling(port, key=api.keys["caller"]) as calls, calling(port) as other, echoing(api):
            assert await calls.infer(infer_request(timeout_s=60))
            assert await other.infer(infer_request(timeout_s=60), x_api_key=api.keys["caller"])
            # A proxy that adds a key of its own would take the call for another caller's than we do.
            twice = await calls.refused(b"\xff", method="ModelInfer", authorization="Bearer inferlane_wrong")
            assert (twice.code, twice.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED")
            assert "several authorization" in twice.message


async def test_messages_over_the_limit_are_refused_also_when_they_inflate_to_it(tmp_path: Path) -> None:
    async with grpc_api(tmp_path, max_body_bytes=64 * 1024) as (_, calls):
        large = infer_request(np.zeros((100_000, 3), np.float32)).SerializeToString()
        refused = await calls.refused(large)
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        call = calls.channel.unary_unary(f"/{SERVICE}/ModelInfer")(large, compression=grpc.Compression.Gzip)
        assert (await ended(call)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metadata_over_the_limit_is_refused_and_the_server_serves_on(tmp_path: Path) -> None:
    async with grpc_api(tmp_path, max_head_bytes=8 * 1024) as (api, calls):
        for large in ("x" * 64 * 1024, "x" * 1024 * 1024):
            refused = await calls.refused(infer_request(timeout_s=0.0), x_more=large)
            assert refused.code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
        async with calling(api.settings.api.grpc_port) as others:
            assert ServerReadyResponse.FromString(await others.start("ServerReady", b"")).ready


async def test_whatever_bytes_come_each_call_has_a_status_and_the_server_serves_on(tmp_path: Path) -> None:
    drawn = random.Random(7)
    good = infer_request(timeout_s=0.0, routing_key="k").SerializeToString()

    def changed() -> bytes:
        raw = bytearray(good)
        for _ in range(drawn.randint(1, 8)):
            raw[drawn.randrange(len(raw))] = drawn.randrange(256)
        return bytes(raw[: drawn.randint(0, len(raw))] if drawn.random() < 0.2 else raw)

    methods = ("ModelMetadata", "ModelReady", "ServerMetadata", f"/{HEALTH}/Check", f"/{HEALTH}/Watch")
    async with grpc_api(tmp_path, max_wait_s=0.05, default_wait_s=0.05) as (api, calls):
        sent = [("ModelInfer", changed()) for _ in range(300)] + [(method, changed()) for method in methods * 5]
        outcomes = await asyncio.gather(*(calls.start(*each, timeout_s=60) for each in sent), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {bytes, grpc.aio.AioRpcError}
        codes = {outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)}
        assert codes <= {
            *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED),
            # What waited for a result in vain, and what gRPC's own service made of bytes that are no message.
            *(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN),
        }
        reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.api.grpc_port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + drawn.randbytes(1_000))
        await reader.read()
        writer.close()
        async with calling(api.settings.api.grpc_port) as others:
            assert ServerReadyResponse.FromString(await others.start("ServerReady", b"")).ready


async def test_health_and_reflection_answer_their_own_clients(tmp_path: Path) -> None:
    async with grpc_api(tmp_path, scopes={"caller": Scope.PREDICT}) as (api, calls):
        health = health_pb2_grpc.HealthStub(calls.channel)
        for service in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for name in ("none", "x" * 10_000):
            # A name that came back whole would make the trailers longer than clients take.
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING

        def reflected() -> tuple[list[str], list[str]]:
            with grpc.insecure_channel(f"localhost:{api.settings.api.grpc_port}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                file = database.FindFileContainingSymbol(SERVICE)
                return list(database.get_services()), [each.name for each in file.service[0].method]

        services, methods = await asyncio.to_thread(reflected)
        assert {SERVICE, HEALTH} <= set(services)
        assert methods == ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
        api.stop.set()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_calls_under_way_are_finished_when_the_process_drains(tmp_path: Path) -> None:
    async with grpc_api(tmp_path, drain_deadline_s=60.0) as (api, calls):
        call = calls.start("ModelInfer", infer_request(timeout_s=50).SerializeToString())

        async def waits() -> bool:
            return await waiting_calls(api) == 1

        await eventually(waits)
        api.stop.set()

        async def is_closed() -> bool:
            # A channel of its own, because the other one is told to go away.
            async with calling(api.settings.api.grpc_port) as late:
                try:
                    await late.start("ServerReady", b"", timeout_s=5)
                except grpc.aio.AioRpcError as error:
                    return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
            return False

        await eventually(is_closed)
        async with echoing(api):
            assert (await call) != b""


async def test_a_new_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    async with grpc_api(tmp_path, **certificate_settings(tmp_path, "GRPC", first)) as (api, plain):

        async def is_served_by(authority: trustme.CA) -> bool:
            trust = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
            async with calling(api.settings.api.grpc_port, credentials=trust) as calls:
                try:
                    await calls.start("ServerLive", b"", timeout_s=5)
                except grpc.aio.AioRpcError:
                    return False
            return True

        assert await is_served_by(first)
        assert not await is_served_by(second)
        # Half of the new pair is not served, and does not end what is.
        (tmp_path / "tls.pem").write_text("no certificate")
        assert await is_served_by(first)
        write_certificates(tmp_path, second)
        assert await is_served_by(second)
        assert not await is_served_by(first)
        with pytest.raises(grpc.aio.AioRpcError):
            await plain.start("ServerLive", b"", timeout_s=2)
        # TLS 1.1 and older are not spoken.
        context = ssl.create_default_context(cadata=second.cert_pem.bytes().decode())
        _, writer = await asyncio.open_connection("localhost", api.settings.api.grpc_port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
        writer.close()


async def test_a_thousand_calls_wait_at_once_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async with grpc_api(tmp_path, max_wait_s=120.0) as (api, calls):
        rows = [np.full((1, 3), number, np.float32) for number in range(1_000)]
        before = psutil.Process(os.getpid()).memory_info().rss
        waiting = [asyncio.create_task(calls.infer(infer_request(row, timeout_s=120))) for row in rows]

        async def all_wait() -> bool:
            return await waiting_calls(api) == len(rows)

        await eventually(all_wait)
        grown = psutil.Process(os.getpid()).memory_info().rss - before
        async with echoing(api):
            answers = await asyncio.gather(*waiting)
        assert [answer.raw_output_contents[0] for answer in answers] == [row.tobytes() for row in rows]
        # Both ends of each call are in this process.
        assert grown / len(rows) < 256 * 1024
