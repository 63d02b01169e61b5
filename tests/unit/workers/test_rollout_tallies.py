"""What a worker counts for rollouts: marked requests only, by lane, key bucket and run."""

import numpy as np
from msgspec.structs import replace

from inferlane.contracts.lane_tallies import decode_buckets, key_bucket, run_bin
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import FALLBACK, ROLLOUT, read_headers
from inferlane.contracts.results import Result, Status
from inferlane.contracts.wire.v2_fields import ALL_AS_JSON
from inferlane.errors import InferlaneError, InvalidInputError, ModelError
from inferlane.runtime.config import load_settings
from inferlane.runtime.delivery import Reply
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.records import FakeRecord, make_version
from workers.batch_telemetry import BatchTelemetry
from workers.batching import Batch, BatchRun, InferredRequest, RunTimes
from workers.failure_limit import FailureLimit
from workers.outcome_summaries import OutcomeRecorder
from workers.replies import ReplyBuilder
from workers.requests import Request
from workers.rollout_tallies import RolloutTallies

VERSION = make_version("v2")
BUILDER = ReplyBuilder(VERSION, names=Names(), max_result_bytes=1_000_000, results_sample=0.0)
TIMES = RunTimes(started_s=12.0, ended_s=12.008)


def make_request(*headers: tuple[str, bytes], rows: int = 1) -> Request:
    record = FakeRecord(headers=headers)
    return Request(
        record=record, headers=read_headers(record), lane=Lane.REQUESTS, tensors={}, rows=rows, form=ALL_AS_JSON
    )


def failed(request: Request, error: InferlaneError) -> Reply:
    return BUILDER.of_error(request.record, request.headers, Lane.REQUESTS, error, now_s=13.0)


def succeeded(request: Request) -> Reply:
    reply = BUILDER.of_expired(request.headers, Lane.REQUESTS, now_s=13.0)
    done = Result(request_id="r", status=Status.SUCCEEDED, model="iris", version="v2", rows=request.rows)
    return replace(reply, result=done)


def batch_of(*requests: Request) -> Batch:
    run = BatchRun([InferredRequest(one, {"label": np.zeros(one.rows, np.int64)}) for one in requests], TIMES)
    return Batch(lane=Lane.REQUESTS, fetched_s=10.0, run=run)


MARK = (ROLLOUT, b"iris-1")


def test_only_marked_requests_count_and_a_run_counts_once() -> None:
    tallies = RolloutTallies(VERSION)
    marked, pinned = make_request(MARK, rows=3), make_request(rows=5)
    tallies.add(batch_of(marked, pinned), [succeeded(marked), succeeded(pinned)])
    (tally,) = tallies.take()
    assert (tally.rollout, tally.requests, tally.rows, tally.failed) == ("iris-1", 1, 3, 0)
    assert tally.runs == {run_bin(8, TIMES.inference_s): 1}
    assert tally.answers == {VERSION.classes[0]: 1}
    assert tallies.take() == ()


def test_faults_of_the_sender_do_not_count_and_those_of_the_version_do() -> None:
    tallies = RolloutTallies(VERSION)
    request = make_request(MARK)
    batch = Batch(lane=Lane.REQUESTS, fetched_s=10.0)
    expired = BUILDER.of_expired(request.headers, Lane.REQUESTS, now_s=13.0)
    cancelled = BUILDER.of_cancelled(request.headers, Lane.REQUESTS, now_s=13.0)
    replies = [failed(request, ModelError("boom")), failed(request, InvalidInputError("shape")), expired, cancelled]
    tallies.add(batch, replies)
    (tally,) = tallies.take()
    assert (tally.requests, tally.failed, tally.expired, tally.rerouted) == (2, 1, 1, 0)


def test_what_another_version_answers_is_a_failure_of_this_one_and_counted_as_such() -> None:
    tallies = RolloutTallies(VERSION)
    request = make_request(MARK, (FALLBACK, b"v1"))
    tallies.add(Batch(lane=Lane.REQUESTS, fetched_s=10.0), [failed(request, ModelError("boom"))])
    (tally,) = tallies.take()
    assert (tally.requests, tally.failed, tally.rerouted) == (1, 1, 1)


def test_the_requests_of_one_routing_key_are_in_one_bucket() -> None:
    tallies = RolloutTallies(VERSION)
    request = make_request(MARK, ("ce_routingkey", b"user-7"))
    tallies.add(batch_of(request), [succeeded(request), succeeded(request), failed(request, ModelError("boom"))])
    (tally,) = tallies.take()
    counts = decode_buckets(tally.buckets)
    assert np.flatnonzero(counts.requests).tolist() == [key_bucket("user-7")]
    assert (counts.requests.sum(), counts.failed.sum()) == (3, 1)


def test_a_summary_says_how_many_model_errors_came_in_a_row() -> None:
    clock, names = FakeClock(), {"model": "iris", "version": "v2"}
    recorder = OutcomeRecorder(**names, worker_id="w", clock=clock, tallies=RolloutTallies(VERSION))
    telemetry = BatchTelemetry(VERSION, recorder, FailureLimit(load_settings().worker, **names, clock=clock))
    request = make_request()
    boom, done = failed(request, ModelError("boom")), succeeded(request)
    batch = Batch(lane=Lane.REQUESTS, fetched_s=10.0)
    for replies, in_a_row in (([boom, done, boom], 1), ([boom, boom], 3), ([done], 0), ([boom], 1), ([done], 0)):
        telemetry.observe(batch, replies, now_s=13.0)
        summary = recorder.take_summary()
        assert summary is not None
        assert summary.failed_in_a_row == in_a_row


def test_answers_that_are_no_numbers_count_as_failures_of_either_version() -> None:
    tallies = RolloutTallies(VERSION)
    good, bad = make_request(MARK, ("ce_id", b"good")), make_request(MARK, ("ce_id", b"bad"))
    inferred = [
        InferredRequest(one, {"label": np.zeros(1, np.int64), "probabilities": np.full((1, 3), value, np.float32)})
        for one, value in ((good, 0.5), (bad, np.nan))
    ]
    replies = [BUILDER.of_inferred(one, TIMES) for one in inferred]
    assert [reply.result.status for reply in replies] == [Status.SUCCEEDED, Status.SUCCEEDED]
    tallies.add(Batch(lane=Lane.REQUESTS, fetched_s=10.0, run=BatchRun(inferred, TIMES)), replies)
    (tally,) = tallies.take()
    assert (tally.requests, tally.failed) == (2, 1)


def test_another_version_answers_what_a_version_under_trial_has_no_numbers_for() -> None:
    request = make_request(MARK, (FALLBACK, b"v1"), ("ce_model", b"iris"), ("ce_modelversion", b"v2"))
    outputs = {"label": np.zeros(1, np.int64), "probabilities": np.array([[np.inf, 0, 0]], np.float32)}
    reply = BUILDER.of_inferred(InferredRequest(request, outputs), TIMES)
    assert reply.fallback is not None
    assert (reply.result.error_code, reply.fallback.topic) == (
        ModelError.code,
        Names().work_topic("iris", "v1", Lane.REQUESTS),
    )
