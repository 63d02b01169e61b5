"""What earlier trees wrote to topics and store is read as it was meant: an upgrade finds it there.

The bytes were kept from running stacks of 25 and 26 November 2026, before and after rollouts, the catalogue's topic,
callbacks and proofs of identity came.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inferlane.contracts.callbacks import read_callback
from inferlane.contracts.catalog_entry import VersionState, decode_entry
from inferlane.contracts.dead_letters import headers_of, read_dead_letter
from inferlane.contracts.outcomes import decode_summary, quantiles
from inferlane.contracts.record import read_headers
from inferlane.contracts.results import Status, decode_result
from inferlane.contracts.rollout import Action, Check, Command, Phase, RolloutState, decode_rollout
from inferlane.contracts.traffic_split import Shadow, decode_split
from inferlane.contracts.windows import decode_slot
from inferlane.contracts.wire.v2 import decode_request
from producer_api.predict.idempotency import Claim
from tests.support.fakes.records import IRIS, FakeRecord

KEPT: list[dict[str, Any]] = json.loads(Path(__file__).with_name("older_records.json").read_text())
BEFORE, AFTER = "2026-11-25", "2026-11-26"


def raw(text: str | None) -> bytes | None:
    if text is None:
        return None
    return bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()


def records(written: str, topic: str) -> list[FakeRecord]:
    found = [
        FakeRecord(
            topic=kept["topic"],
            partition=kept["partition"],
            offset=kept["offset"],
            timestamp=kept["timestamp"],
            key=raw(kept["key"]),
            value=raw(kept["value"]),
            headers=tuple((name, raw(value) or b"") for name, value in kept["headers"]),
        )
        for kept in KEPT
        if kept["written"] == written and kept.get("topic") == topic
    ]
    assert found
    return found


def values(written: str, kind: str) -> list[bytes]:
    found = [raw(kept["value"]) or b"" for kept in KEPT if kept["written"] == written and kept.get("stored") == kind]
    assert found
    return found


def values_of(written: str, topic: str) -> list[bytes]:
    return [record.value or b"" for record in records(written, topic)]


def test_a_split_keeps_its_weights_and_the_rollout_that_set_it() -> None:
    (split,) = map(decode_split, values_of(BEFORE, "inferlane.splits"))
    assert (split.model, split.weights, split.rollout, split.fallback) == ("iris", {"v1": 0.9, "v2": 0.1}, "", "")
    of_rollout, of_shadow = map(decode_split, values_of(AFTER, "inferlane.splits"))
    assert (of_rollout.rollout, of_rollout.generation) == ("digits-v2-quantized-d56595af", 1)
    assert (of_rollout.weights, of_rollout.fallback) == ({"v1": 0.95, "v2-quantized": 0.05}, "v1")
    assert of_shadow.shadow == Shadow(version="v2-quantized", share=0.5)


def test_a_summary_of_either_schema_counts() -> None:
    (first,) = map(decode_summary, values_of(BEFORE, "inferlane.outcomes"))
    assert (first.schema, first.outcomes, first.lanes) == (1, {"SUCCEEDED": 3, "FAILED": 2}, ())
    assert first.failures == {"undecodable": 1, "invalid_input": 1}
    (second,) = map(decode_summary, values_of(AFTER, "inferlane.outcomes"))
    assert (second.schema, second.outcomes) == (2, {"SUCCEEDED": 1})
    (tally,) = second.lanes
    assert (tally.rollout, tally.lane, tally.requests, tally.rows) == ("digits-v2-quantized-d56595af", "requests", 1, 3)
    for summary in (first, second):
        median = quantiles(summary.latency.total, [0.5])
        assert median is not None
        assert 0 < median[0] < 1


@pytest.mark.parametrize(("written", "succeeded"), [(BEFORE, 4), (AFTER, 5)])
def test_a_slot_of_a_window_counts(written: str, succeeded: int) -> None:
    (slot,) = map(decode_slot, values(written, "window"))
    assert slot.outcomes == {"SUCCEEDED": succeeded, "FAILED": 2}
    assert slot.classes == {"setosa": succeeded}
    assert quantiles(slot.latency.inference, [0.5]) is not None
    assert len(slot.workers) == 1


def test_a_dead_letter_can_be_replayed() -> None:
    letters = [read_dead_letter(record) for record in records(BEFORE, "inferlane.dead-letters")]
    assert [(letter.cause.reason, letter.original.topic, letter.original.key) for letter in letters] == [
        ("undecodable", "inferlane.iris.v1.requests", b"inferlane.requests-0-9"),
        ("invalid_input", "inferlane.iris.v1.requests", b"f-1"),
        ("unknown_model", "inferlane.requests", None),
    ]
    assert [letter.original.value for letter in letters] == [
        b"garbage",
        b'{"instances":[[1,2]]}',
        b'{"instances":[[5.1,3.5,1.4,0.2]]}',
    ]
    assert [headers_of(letter).request_id for letter in letters] == ["inferlane.requests-0-9", "f-1", "f-3"]
    assert [letter.cut for letter in letters] == [None, None, None]


@pytest.mark.parametrize("written", [BEFORE, AFTER])
def test_a_request_that_waits_is_served(written: str) -> None:
    (record,) = records(written, "inferlane.iris.v1.requests")
    headers = read_headers(record)
    assert (headers.model, headers.version) == ("iris", "v1")
    assert headers.deadline_s is not None
    assert headers.deadline_s - headers.accepted_s == pytest.approx(300)
    request = decode_request(record.value or b"", headers.json_length, IRIS)
    assert request.tensors["input"].tolist() == [pytest.approx([5.1, 3.5, 1.4, 0.2])]
    if written == BEFORE:
        assert headers.routing_key == "k1"
    else:
        assert headers.callback_url == "http://127.0.0.1:18699/x"
        # Its proof is that of the API: the client finds the result under the id alone.
        assert headers.key == headers.request_id


def test_a_record_of_the_bulk_lane_keeps_its_batch() -> None:
    (record,) = records(BEFORE, "inferlane.iris.v1.bulk")
    headers = read_headers(record)
    assert (headers.request_id, headers.batch_id, headers.json_length) == ("f-2", "b1", None)


def test_a_result_is_given_to_whoever_asks() -> None:
    succeeded, failed = map(decode_result, values(BEFORE, "result"))
    assert (succeeded.status, succeeded.version, succeeded.rows, succeeded.caller) == (Status.SUCCEEDED, "v1", 1, "")
    assert (failed.status, failed.error_code) == (Status.FAILED, "invalid_input")
    (tokened,) = map(decode_result, values(AFTER, "result"))
    assert (tokened.key, tokened.outcome_token[:8]) == (tokened.request_id, "rTg7Gey6")


@pytest.mark.parametrize(("written", "proof_bytes"), [(BEFORE, 0), (AFTER, 32)])
def test_a_claimed_key_stays_the_same_request(written: str, proof_bytes: int) -> None:
    (claim,) = (msgspec.msgpack.decode(value, type=Claim) for value in values(written, "idempotency"))
    assert claim.is_enqueued
    assert (len(claim.request_id), len(claim.fingerprint), len(claim.proof)) == (32, 32, proof_bytes)


def test_a_rollout_goes_on() -> None:
    start, state = (
        decode_rollout(record.key or b"", record.value or b"") for record in records(AFTER, "inferlane.rollouts")
    )
    assert isinstance(start, Command)
    assert start.action is Action.START
    assert start.spec is not None
    assert [step.weight for step in start.spec.steps] == [0.05, 0.5]
    assert isinstance(state, RolloutState)
    assert (state.phase, state.paused_from, state.reason) == (Phase.PAUSED, Phase.STEPPING, "paused by hand")
    assert state.spec == start.spec
    assert [verdict.check for verdict in state.verdicts] == [
        Check.ERRORS,
        Check.LATENCY,
        Check.EXPIRED,
        Check.ANSWERS,
        Check.SHARE,
    ]


def test_a_version_of_the_catalogue_is_served() -> None:
    (entry,) = map(decode_entry, values_of(AFTER, "inferlane.catalog"))
    assert (entry.key, entry.state) == ("same/v1", VersionState.SERVING)
    assert entry.default_since == entry.generation > 0


def test_a_callback_that_waits_for_another_try_is_sent() -> None:
    (callback,) = (read_callback(record) for record in records(AFTER, "inferlane.callbacks.retry-1"))
    assert (callback.url, callback.tries) == ("http://127.0.0.1:18699/x", 1)
    assert callback.callback_id == f"{callback.request_id}-1"
    assert json.loads(callback.body)["data"]["status"] == "SUCCEEDED"
