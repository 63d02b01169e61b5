"""One request is one trace through every process, sent as OTLP to whoever listens.

API, router and worker run here on a real broker and a real store. Which broker makes no difference, so it is the
embedded one.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

import producer_api.main
import router.main
import workers.main
from control_plane.topic_admin import create_topics
from inferlane.runtime.config import Settings
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.collector import collecting
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import embedded_store, free_port
from tests.support.running_api import serving

pytestmark = pytest.mark.timeout(600)

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN_ID = "00f067aa0ba902b7"
HOPS = [
    "POST /v1/models/predict",
    "send inferlane.requests",
    "route inferlane.requests",
    "process inferlane.tiny.v1.requests",
]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Yields the URL of an API with a router and a worker behind it; ends them all, which sends the last spans."""
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("tiny", "v1")])
    stop = asyncio.Event()
    services = [
        producer_api.main.serve(settings, stop),
        router.main.serve(settings, stop),
        workers.main.serve(settings, stop, model="tiny", version="v1"),
    ]
    async with serving(settings.api.port, stop, *services) as url:
        yield url


async def predict(url: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/models/predict", json={"timeout_s": 60, **body}, headers=headers) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def infer(url: str, **headers: str) -> tuple[int, Any]:
    tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{url}/v2/models/tiny/infer", json={"inputs": [tensor], "parameters": {"timeout_s": 60}}, headers=headers
        ) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_a_request_is_one_trace_through_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_store(tmp_path / "models")
    began_s = time.time()
    async with AsyncExitStack() as stack:
        collector, endpoint = stack.enter_context(collecting())
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        broker = EmbeddedBroker()
        await asyncio.to_thread(broker.open)
        stack.callback(broker.close)
        settings = broker.settings(
            ingress_partitions=1,
            work_partitions=1,
            redis_url=await stack.enter_async_context(embedded_store()),
            models_dir=tmp_path / "models",
            default_model="tiny",
            api_port=free_port(),
        )
        async with running(settings) as url:
            ask = partial(predict, url, {"instances": [[1.0, 2.0, 3.0]]})
            status, answer = await ask(traceparent=f"00-{TRACE_ID}-{CLIENT_SPAN_ID}-01")
            assert status == 200, answer
            protocol_trace = TRACE_ID[1:] + "0"
            assert (await infer(url, traceparent=f"00-{protocol_trace}-{CLIENT_SPAN_ID}-01"))[0] == 200
            # The client's sampler said no: nobody makes a span of it.
            unsampled = TRACE_ID[::-1]
            assert (await ask(traceparent=f"00-{unsampled}-{CLIENT_SPAN_ID}-00"))[0] == 200
    trace = collector.of_trace(TRACE_ID)
    assert set(trace) == {*HOPS, "infer", "store result"}
    assert collector.of_trace(unsampled) == {}
    assert set(collector.of_trace(protocol_trace)) == {
        "POST /v2/models/{model}/infer",
        *HOPS[1:],
        "infer",
        "store result",
    }
    parents = [CLIENT_SPAN_ID, *(trace[name][1].span_id.hex() for name in HOPS)]
    assert [trace[name][1].parent_span_id.hex() for name in HOPS] == parents[:-1]
    assert {trace[name][1].parent_span_id.hex() for name in ("infer", "store result")} == {parents[-1]}
    assert [trace[name][0] for name in HOPS] == [f"inferlane-{part}" for part in ("api", "api", "router", "worker")]
    request_ids = {
        attribute.value.string_value
        for name in HOPS
        for attribute in trace[name][1].attributes
        if attribute.key == "messaging.message.id"
    }
    assert request_ids == {answer["request_id"]}
    for _, span in trace.values():
        assert began_s * 1e9 <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.status.code != Status.STATUS_CODE_ERROR
    process = trace[HOPS[-1]][1]
    batches = [span for _, span in collector.spans if span.name == "batch tiny v1"]
    (batch,) = [span for span in batches if [link.span_id for link in span.links] == [process.span_id]]
    assert [link.span_id for link in process.links] == [batch.span_id]
