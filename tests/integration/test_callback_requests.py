"""A request with a callback URL through API, router and worker: its result is sent, whichever way it came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import ConsumerRecord
from pydantic import SecretStr
from standardwebhooks import Webhook

import producer_api.main
import router.main
import webhook_sender.main
import workers.main
from control_plane.topic_admin import create_topics, topic_specs
from inferlane.contracts.kafka_record import Headers, OutRecord
from inferlane.contracts.naming import Lane
from inferlane.contracts.record import CALLBACK_URL
from inferlane.runtime.config import Settings
from inferlane.runtime.kafka.clients import partitions_of
from inferlane.runtime.kafka.producer import BatchProducer
from inferlane.runtime.kafka.topic_reader import read_since
from tests.support.asyncapi import faults_of
from tests.support.brokers.embedded import EmbeddedBroker
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import embedded_store, eventually, free_port
from tests.support.receiver import Receiver, listening, make_receiver
from tests.support.running_api import serving
from webhook_sender.signing import written

pytestmark = pytest.mark.timeout(300)

SECRET = written(b"s" * 32)


class Running:
    """A whole stack in this process, and a receiver."""

    def __init__(self, settings: Settings, url: str, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.url = url
        self.receiver = receiver
        self._session = session

    async def post(self, path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.post(self.url + path, json=body, headers=named) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str) -> dict[str, Any]:
        async with self._session.get(self.url + path) as answer:
            return dict(await answer.json(content_type=None))

    async def callback(self, path: str) -> dict[str, Any]:
        """Return the one callback that came to the path, its signature verified."""

        async def is_there() -> bool:
            return bool(self.receiver.ids(path))

        await eventually(is_there)
        assert len(set(self.receiver.ids(path))) == 1
        call = next(call for call in self.receiver.received if call.path == path)
        body = Webhook(SECRET).verify(call.body, call.headers)
        return {**body, "webhook-id": call.callback_id}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    write_tiny_store(tmp_path / "models")
    broker = EmbeddedBroker()
    await asyncio.to_thread(broker.open)
    async with AsyncExitStack() as stack:
        stack.callback(broker.close)
        settings = broker.settings(
            ingress_partitions=1,
            work_partitions=1,
            redis_url=await stack.enter_async_context(embedded_store()),
            models_dir=tmp_path / "models",
            default_model="tiny",
            api_port=free_port(),
            webhooks=True,
            webhook_secret=SecretStr(SECRET),
            webhook_allowed_networks="127.0.0.0/8",
            webhook_first_retry_s=0.2,
            drain_deadline_s=1.0,
        )
        await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("tiny", "v1")])
        stop = asyncio.Event()
        services = [
            producer_api.main.serve(settings, stop),
            router.main.serve(settings, stop),
            workers.main.serve(settings, stop, model="tiny", version="v1"),
            webhook_sender.main.serve(settings, stop),
        ]
        url = await stack.enter_async_context(serving(settings.api.port, stop, *services))
        receiver = await stack.enter_async_context(listening(make_receiver()))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Running(settings, url, receiver, session)


async def test_a_callback_comes_for_each_way_to_ask_for_one(running: Running) -> None:
    receiver = running.receiver
    rows = {"instances": [[1.0, 2.0, 3.0]]}
    # V1 that does not wait: the callback has what the client would have read.
    body = {**rows, "callback_url": receiver.url("/v1")}
    status, queued = await running.post("/v1/models/predict", body, Prefer="respond-async")
    assert status == 202, queued
    told = await running.callback("/v1")
    assert told["type"] == "prediction.succeeded"
    assert told["webhook-id"] == f"{queued['request_id']}-1"
    assert told["data"] == await running.get(f"/v1/predictions/{queued['request_id']}")
    # V1 that waits gets both.
    status, answer = await running.post(
        "/v1/models/predict", {**rows, "callback_url": receiver.url("/wait"), "timeout_s": 60}
    )
    assert status == 200
    assert (await running.callback("/wait"))["data"] == answer
    # V2, by a parameter.
    tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    parameters = {"callback_url": receiver.url("/v2"), "timeout_s": 60}
    status, answer = await running.post("/v2/models/tiny/infer", {"inputs": [tensor], "parameters": parameters})
    assert status == 200, answer
    assert (await running.callback("/v2"))["data"]["predictions"] == [pytest.approx(answer["outputs"][0]["data"])]


async def records_of(settings: Settings, topic: str) -> list[ConsumerRecord]:
    partitions = await partitions_of(settings.kafka, topic)
    async with aclosing(read_since(settings.kafka, partitions, since_s=0.0)) as batches:
        return [record async for records in batches for record in records]


async def test_every_record_of_every_topic_is_as_the_asyncapi_document_says(running: Running) -> None:
    settings, receiver = running.settings, running.receiver
    names = settings.stack.names
    rows = {"instances": [[1.0, 2.0, 3.0]], "timeout_s": 60}
    receiver.answers = lambda _path: 500 if len(receiver.received) == 1 else 204
    await running.post("/v1/models/predict", {**rows, "callback_url": receiver.url("/twice")})
    await running.post("/v1/traffic-split", {"weights": {"v1": 1}})
    producer = BatchProducer(settings.kafka)
    await producer.start()
    for value, headers in (
        (b'{"instances": [[1, 2, 3]]}', []),
        (b"no request", [("ce_id", b"bad"), ("ce_batchid", b"batch"), (CALLBACK_URL, receiver.url("/bad").encode())]),
    ):
        await producer.send([OutRecord(names.ingress[Lane.BULK], b"key", value, headers)])
    await producer.close()
    await running.callback("/bad")

    async def is_delivered() -> bool:
        return len(receiver.ids("/twice")) == 2

    await eventually(is_delivered)
    document = await running.get("/asyncapi.json")
    found = {
        spec.name: await records_of(settings, spec.name)
        for spec in topic_specs(settings.kafka, settings.stack.names, settings.webhooks, [("tiny", "v1")])
    }
    faults = [
        fault
        for topic, records in found.items()
        for record in records
        for fault in faults_of(document, topic, dict(record.headers), record.value)
    ]
    assert faults == []
    # Nothing was held against nothing.
    work = {names.work_topic("tiny", "v1", lane) for lane in Lane}
    tables = {names.splits, names.outcomes, names.results, names.dead_letters}
    used = work | tables | {*names.ingress.values(), names.callbacks, names.callback_retries(1)}
    assert {topic for topic, records in found.items() if records} >= used


async def test_records_of_the_topics_get_callbacks_of_another_type(running: Running) -> None:
    """Whoever produces may name any id; so no receiver takes such a callback for one of a call of the API."""
    receiver, names = running.receiver, running.settings.stack.names
    producer = BatchProducer(running.settings.kafka)
    await producer.start()
    good, bad = b'{"instances": [[1, 2, 3], [3, 2, 1]]}', b'{"instances": [["x"]]}'
    over = [("ce_deadline", b"2026-01-01T00:00:00Z")]
    sent: dict[str, tuple[Lane, bytes, Headers]] = {
        "requests": (Lane.REQUESTS, good, []),
        "bulk": (Lane.BULK, good, []),
        "bad": (Lane.BULK, bad, []),
        "late": (Lane.REQUESTS, good, over),
    }
    await producer.send(
        [
            OutRecord(
                names.ingress[lane],
                b"key",
                value,
                [
                    ("ce_id", path.encode()),
                    ("ce_source", b"test"),
                    (CALLBACK_URL, receiver.url(f"/{path}").encode()),
                    *more,
                ],
            )
            for path, (lane, value, more) in sent.items()
        ]
    )
    await producer.close()
    told = {path: await running.callback(f"/{path}") for path in sent}
    assert {path: body["type"] for path, body in told.items()} == {
        "requests": "record.succeeded",
        "bulk": "record.succeeded",
        "bad": "record.failed",
        "late": "record.expired",
    }
    assert told["bulk"]["data"]["request_id"] == "bulk"
    assert told["bulk"]["data"]["source"] == "test"
    assert told["bulk"]["data"]["position"].startswith("inferlane.bulk-0-")
    assert len(told["bulk"]["data"]["predictions"]) == 2
    assert told["bad"]["data"]["error"]["code"] == "invalid_input"
