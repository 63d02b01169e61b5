"""The AsyncAPI document: it names every topic, and what the contracts write is what it describes."""

import json
from typing import Any

import pytest

from control_plane.topic_admin import topic_specs
from inferlane.contracts.asyncapi import asyncapi_document
from inferlane.contracts.callbacks import CallbackOrder, callback_record, retry_record
from inferlane.contracts.dead_letters import Cause, dead_letter
from inferlane.contracts.kafka_record import OutRecord
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.results import Result, Status
from inferlane.runtime.service_settings import WebhookSettings
from inferlane.runtime.settings import KafkaSettings
from tests.support.asyncapi import faults_of
from tests.support.fakes.records import FakeRecord

NAMES = Names()
DOCUMENT = asyncapi_document(NAMES, version="1", servers=["127.0.0.1:9092"])
WORK_TOPIC = "inferlane.{model}.{version}.{lane}"


def test_every_topic_is_a_channel() -> None:
    topics = {
        spec.name for spec in topic_specs(KafkaSettings(), NAMES, WebhookSettings(enabled=True), [("iris", "v1")])
    }
    topics -= {NAMES.work_topic("iris", "v1", lane) for lane in Lane}
    assert topics | {WORK_TOPIC} <= {channel["address"] for channel in DOCUMENT["channels"].values()}


def test_every_reference_leads_somewhere() -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    for reference in references(DOCUMENT):
        part: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]


def test_it_says_what_a_program_of_yours_does() -> None:
    assert {name: each["action"] for name, each in DOCUMENT["operations"].items()} == {
        "send_requests": "send",
        "send_bulk": "send",
        "send_feedback": "send",
        "receive_results": "receive",
        "receive_deadLetters": "receive",
        "receive_splits": "receive",
    }
    json.dumps(DOCUMENT)


RESULT = Result(
    request_id="r",
    status=Status.FAILED,
    model="iris",
    version="v1",
    error_code="model_error",
    error_detail="x",
    caller="k",
)


def written() -> list[OutRecord]:
    callback = callback_record(NAMES.callbacks, RESULT, CallbackOrder(url="https://example.com/h"), classes={})
    record = FakeRecord(value=callback.value, headers=tuple(callback.headers))
    retry = retry_record(NAMES.callback_retries(2), record, tries=3, first_tried_s=1.0, due_s=2.0)
    cause = Cause(reason="model_error", detail="it broke", attempts=1)
    letter = dead_letter(record, cause, topic=NAMES.dead_letters, limit_bytes=1_000)
    return [callback, retry, letter]


@pytest.mark.parametrize("record", written(), ids=lambda record: record.topic)
def test_what_the_contracts_write_is_what_it_describes(record: OutRecord) -> None:
    assert faults_of(DOCUMENT, record.topic, dict(record.headers), record.value) == []
    # Guards the schemas: a header that nobody described is a fault.
    if record.topic != NAMES.dead_letters:
        assert faults_of(DOCUMENT, record.topic, {**dict(record.headers), "ce_unknown": b"x"}, record.value)
    assert faults_of(DOCUMENT, record.topic, {}, record.value)
