"""Who reads a result, through a real API, broker and store; the records' results are put here in place of a worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import ConsumerRecord, TopicPartition

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import CALLER, read_headers
from inferlane.contracts.results import Result, Status, foreign_key_of
from inferlane.contracts.wire.v2 import ALL_AS_BYTES, encode_response
from inferlane.runtime.api_keys import Scope
from inferlane.runtime.kafka.clients import make_consumer
from tests.support.fakes.records import FakeRecord
from tests.support.running_api import RunningApi, running_api

pytestmark = pytest.mark.timeout(180)

BODY = {"instances": [[1.0, 2.0, 3.0]]}


SCOPES = {"a": Scope.PREDICT, "b": Scope.PREDICT, "ops": Scope.ALL_REQUESTS, "root": Scope.ADMIN}


class OwnedApi(RunningApi):
    """An API whose requests' records are read here, and answered as a worker would."""

    async def submit(self, key: str | None) -> str:
        status, body = await self.call("POST", "/v1/models/predict", key=key, body=BODY, Prefer="respond-async")
        assert status == 202, body
        return str(body["request_id"])

    async def record_of(self, request_id: str) -> ConsumerRecord:
        """The request's record on its topic."""
        consumer = make_consumer(self.settings.kafka, group=None)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self.settings.stack.names.ingress[Lane.REQUESTS], 0)])
            async with asyncio.timeout(60):
                async for record in consumer:
                    if dict(record.headers)["ce_id"].decode() == request_id:
                        return record
        finally:
            await consumer.stop()
        raise AssertionError(request_id)

    async def answer(self, record: Any, label: int) -> None:
        """Store what a worker would: the record's result."""
        headers = read_headers(record)
        outputs = {"label": np.array([label], np.int64)}
        content, length = encode_response(
            outputs, model="tiny", version="v1", request_id=headers.request_id, form=ALL_AS_BYTES
        )
        result = Result(
            request_id=headers.request_id,
            status=Status.SUCCEEDED,
            model="tiny",
            version="v1",
            rows=1,
            content=content,
            json_length=length,
            foreign_key=foreign_key_of(headers),
            caller=headers.caller,
        )
        await self.store.put([result])


@asynccontextmanager
async def owned_api(tmp_path: Path, *, with_keys: bool) -> AsyncIterator[OwnedApi]:
    async with running_api(tmp_path, scopes=SCOPES if with_keys else None) as api:
        yield OwnedApi(**{each.name: getattr(api, each.name) for each in fields(api)})


@pytest.mark.parametrize("way", ["another source", "no source", "all but the payload", "another caller"])
async def test_a_record_with_the_id_of_a_request_does_not_answer_it(tmp_path: Path, way: str) -> None:
    """Guards the key of a result: kept under the bare id, whoever is first answers for all (seen to fail so)."""
    async with owned_api(tmp_path, with_keys=False) as api:
        request_id = await api.submit(None)
        own = await api.record_of(request_id)
        headers, value = dict(own.headers), own.value
        match way:
            case "another source":
                headers = {"ce_id": request_id.encode(), "ce_source": b"elsewhere"}
            case "no source":
                headers = {"ce_id": request_id.encode()}
            case "all but the payload":
                value += b" "
            case _:
                headers[CALLER] = b"somebody"
        await api.answer(FakeRecord(value=value, headers=tuple(headers.items())), 2)
        assert (await api.call("GET", f"/v1/predictions/{request_id}", key=None))[1]["status"] == "QUEUED"
        await api.answer(own, 1)
        status, body = await api.call("GET", f"/v1/predictions/{request_id}", key=None)
        assert (status, body["predictions"]) == (200, [1])


async def test_a_key_reads_and_takes_back_its_own_requests_alone(tmp_path: Path) -> None:
    """Guards the look at the caller in `_find`: taken out, `b` reads what `a` asked."""
    async with owned_api(tmp_path, with_keys=True) as api:
        request_id = await api.submit("a")
        path = f"/v1/predictions/{request_id}"
        unknown = await api.call("GET", f"/v1/predictions/{'0' * 32}", key="b")
        for method in ("GET", "DELETE"):
            status, body = await api.call(method, path, key="b")
            # Nothing tells another's id from one never seen.
            assert (status, body["detail"].replace(request_id, "0" * 32)) == (404, unknown[1]["detail"])
        for key in ("a", "ops", "root"):
            assert (await api.call("GET", path, key=key))[1]["status"] == "QUEUED"
        own = await api.record_of(request_id)
        await api.answer(own, 1)
        seen = {key: (await api.call("GET", path, key=key))[0] for key in api.keys}
        assert seen == {"a": 200, "b": 404, "ops": 200, "root": 200}

        taken_back = await api.submit("a")
        status, body = await api.call("DELETE", f"/v1/predictions/{taken_back}", key="a")
        assert (status, body["error"]["code"]) == (200, "cancelled")
        assert (await api.call("GET", f"/v1/predictions/{taken_back}", key="b"))[0] == 404


async def test_what_was_produced_to_kafka_is_read_by_its_source_and_with_the_scope_for_it(tmp_path: Path) -> None:
    async with owned_api(tmp_path, with_keys=True) as api:
        mine = FakeRecord(value=b"mine", headers=(("ce_id", b"order-17"), ("ce_source", b"shop")))
        await api.answer(FakeRecord(value=b"other", headers=(("ce_id", b"order-17"), ("ce_source", b"other"))), 2)
        await api.answer(mine, 1)
        path = "/v1/predictions/order-17"
        status, body = await api.call("GET", f"{path}?source=shop", key="ops")
        assert (status, body["predictions"]) == (200, [1])
        assert (await api.call("GET", path, key="ops"))[0] == 404
        assert (await api.call("GET", f"{path}?source=shop", key="a"))[0] == 404
        # Two payloads of one name: nobody can tell which is asked for, so neither is told.
        await api.answer(FakeRecord(value=b"forged", headers=mine.headers), 2)
        assert (await api.call("GET", f"{path}?source=shop", key="ops"))[0] == 404


async def test_a_position_is_no_id(tmp_path: Path) -> None:
    async with owned_api(tmp_path, with_keys=False) as api:
        record = FakeRecord(value=b"x", offset=31)
        await api.answer(record, 1)
        assert (await api.call("GET", "/v1/predictions/inferlane.requests-0-31", key=None))[0] == 404
        # Claimed before, it is still not what the record at that position reads.
        claim = FakeRecord(value=b"claim", headers=(("ce_id", read_headers(record).request_id.encode()),))
        assert read_headers(claim).key != read_headers(record).key
